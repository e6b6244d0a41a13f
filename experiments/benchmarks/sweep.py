"""Time of the published method's sweep: fold and count at twenty thresholds.

    python -m experiments.benchmarks.sweep

The authors' code takes 182 s for the same sweep on two busy cores.
"""

import time
import warnings

import numpy as np

import linjax
from experiments.benchmarks import reference
from linjax.graph.table import grid


def main() -> None:
    """Prints the sweep's time and sizes."""
    warnings.simplefilter("ignore", linjax.FoldWarning)
    net, params, batches = reference.network()
    stats = linjax.collect(net, params, batches, second_moments=False)
    thresholds = np.linspace(0.95, 0.0, 20)
    start = time.perf_counter()
    sizes = [linjax.count(linjax.fold(params, stats, linjax.threshold(t))) for t in thresholds]
    seconds = time.perf_counter() - start
    print(reference.machine())
    rows = [(f"{t:.2f}", f"{size:,}") for t, size in zip(thresholds, sizes, strict=True)]
    print(grid(("threshold", "parameters"), rows))
    print(f"20 thresholds folded and counted in {seconds:.2f} s")


if __name__ == "__main__":
    main()
