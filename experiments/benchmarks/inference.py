"""Inference time of folded networks against the original: a smaller network must be a faster one.

python -m experiments.benchmarks.inference
"""

import functools

import jax
import numpy as np

import linjax
from experiments.benchmarks import reference
from experiments.benchmarks.reference import Ratio
from experiments.evaluate import medians

SIZES = (0.25, 0.1, 0.025)
BATCHES = (1, 32, 1024)
CALLS = 20


def ratios() -> list[Ratio]:
    """Times single batches of both."""
    (net, params), batches = reference.network(), reference.batches()
    known = linjax.frontier(params, linjax.collect(net, params, batches))
    folded = [linjax.fold(params, known, linjax.size(size)) for size in SIZES]
    run, rows, found = jax.jit(net.apply), np.concatenate(batches), []
    for batch in BATCHES:
        x = jax.device_put(rows[:batch])

        def calls(p: object, x: jax.Array = x) -> list[jax.Array]:
            return [run(p, x) for _ in range(CALLS)]

        networks = (params, *folded)
        original, *smaller = medians(*(functools.partial(calls, p) for p in networks))
        for size, seconds in zip(SIZES, smaller, strict=True):
            what = f"inference at {size:.1%} of the size, batch {batch}"
            found.append(Ratio(what, seconds / CALLS, "the original", original / CALLS))
    return found


if __name__ == "__main__":
    reference.show(ratios())
