"""All benchmarks: one table of ratios, and how times grow.

python -m experiments.benchmarks
"""

from experiments.benchmarks import certify, collect, inference, scaling, sweep, together
from experiments.benchmarks.reference import show


def main() -> None:
    """Runs them one after the other and prints both tables."""
    found = []
    for benchmark in (collect, sweep, inference, together, certify):
        print(f"… {benchmark.__name__.rpartition('.')[2]}", flush=True)
        found += benchmark.ratios()
    print("… scaling", flush=True)
    growth = scaling.measure()
    show(found)
    print()
    print(growth.to_string(index=False))


if __name__ == "__main__":
    main()
