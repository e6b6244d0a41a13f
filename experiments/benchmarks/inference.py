"""Inference time of folded networks against the original: a smaller network must be a faster one.

python -m experiments.benchmarks.inference
"""

import jax
import numpy as np

import linjax
from experiments.benchmarks import reference
from linjax.graph.table import grid

SIZES = (0.25, 0.1, 0.025)
BATCHES = (1, 32, 1024)
CALLS = 20


def main() -> None:
    """Prints the times and their ratios."""
    net, params, batches = reference.network()
    known = linjax.frontier(params, linjax.collect(net, params, batches))
    folded = [linjax.fold(params, known, linjax.size(size)) for size in SIZES]
    run = jax.jit(net.apply)
    rows = np.concatenate(batches)
    table = []
    for batch in BATCHES:
        x = jax.device_put(rows[:batch])

        def calls(p: object, x: jax.Array = x) -> list[jax.Array]:
            return [run(p, x) for _ in range(CALLS)]

        original, *smaller = reference.medians(
            lambda calls=calls: calls(params),
            *(lambda p=p, calls=calls: calls(p) for p in folded),
        )
        for size, seconds in zip(SIZES, smaller, strict=True):
            each = [f"{1e3 * s / CALLS:.3f}" for s in (original, seconds)]
            table.append((batch, f"{size:g}", *each, f"{original / seconds:.2f}"))
    print(reference.machine())
    print(grid(("batch", "size", "original, ms", "folded, ms", "times as fast"), table))


if __name__ == "__main__":
    main()
