"""Time of the published method's sweep: rates, then fold and count at twenty thresholds.

    python -m experiments.benchmarks.sweep

The authors' code takes 182 s for the same sweep on two busy cores.
"""

import warnings

import numpy as np

import linjax
from experiments.benchmarks import reference
from experiments.benchmarks.reference import Ratio

AUTHORS = 182.0  # seconds their code took for the sweep, on two busy cores


def ratios() -> list[Ratio]:
    """Times collecting and the sweep; their time is from one record."""
    (net, params), batches = reference.network(), reference.batches()

    def sweep() -> None:
        stats = linjax.collect(net, params, batches, second_moments=False)
        for threshold in np.linspace(0.95, 0.0, 20):
            linjax.count(linjax.fold(params, stats, linjax.threshold(threshold)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        seconds = reference.once(sweep)
    return [
        Ratio("rates and 20 thresholds", seconds, "the authors' code", AUTHORS, "once recorded")
    ]


if __name__ == "__main__":
    reference.show(ratios())
