"""Benchmarks: one table of ratios, and how times grow.

python -m experiments.benchmarks                       # all
python -m experiments.benchmarks collect scaling       # some
"""

import argparse
from collections.abc import Sequence

import pandas as pd

from experiments.benchmarks import scaling
from experiments.benchmarks.ratios import ALL, Ratio
from experiments.versions import versions


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
        print(", ".join(f"{name} {version}" for name, version in versions().items()))
        print(shown(found).to_string(index=False))
    if "scaling" in names:
        print("… scaling", flush=True)
        print(scaling.measure().to_string(index=False))


def shown(ratios: Sequence[Ratio]) -> pd.DataFrame:
    """Ratios as a table; above one the first is faster."""
    rows = [
        (r.what, _seconds(r.seconds), r.against, _seconds(r.other), f"{r.other / r.seconds:.3g}")
        for r in ratios
    ]
    return pd.DataFrame(rows, columns=["what", "takes", "against", "takes ", "times as fast"])


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.1 else f"{seconds:.3g} s"


if __name__ == "__main__":
    main()
