"""Benchmarks: one table of ratios, and how times grow.

python -m experiments.benchmarks                       # all
python -m experiments.benchmarks collect scaling       # some
"""

import argparse

from experiments.benchmarks import scaling
from experiments.benchmarks.ratios import ALL
from experiments.benchmarks.reference import show


def main() -> None:
    """Runs them one after the other and prints both tables."""
    known = {benchmark.__name__: benchmark for benchmark in ALL}
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", help=", ".join([*known, "scaling"]))
    names = parser.parse_args().names or [*known, "scaling"]
    if unknown := {*names} - {*known, "scaling"}:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    found = []
    for name in [name for name in known if name in names]:
        print(f"… {name}", flush=True)
        found += known[name]()
    if found:
        show(found)
    if "scaling" in names:
        print("… scaling", flush=True)
        print(scaling.measure().to_string(index=False))


if __name__ == "__main__":
    main()
