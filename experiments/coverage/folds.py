"""Folds public architectures, and prints what was predicted beside what is measured.

    python -m experiments.coverage.folds                    # all whose packages are installed
    python -m experiments.coverage.folds cells language     # modules of the zoo, or architectures

Parameters and inputs are random: of networks in which nothing is superfluous a prediction has more
to tell than of trained ones. Evidence is of 256 rows; errors are measured on them and on others.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from experiments.coverage.__main__ import DEPTH, chosen, said
from experiments.coverage.zoo import Model

SIZES = 0.9, 0.75
ROWS, BATCH = 256, 32
COLUMNS = ("architecture", "size", "predicted", "on these rows", "on others", "seconds")
LEAST, MOST = 1e-3, 0.6
"""Errors between which ratios say something: what is below counts as this much, above little is
left."""


class Folded(NamedTuple):
    """Relative errors of the outputs of a folded network, predicted and measured."""

    size: float
    predicted: float
    measured: float
    held_out: float


def folded(model: Model) -> list[Folded]:
    """Folds an architecture to some sizes.

    Raises:
      LinjaxError: if it has nothing to fold, or too little.
    """
    apply, params, inputs = model.build()
    rows = [_batches(inputs, seed) for seed in (1, 2)]
    net = linjax.trace(apply, params, *rows[0][0])
    batches, others = ([b if len(b) > 1 else b[0] for b in own] for own in rows)
    stats = linjax.frontier(params, linjax.collect(net, params, batches, metric="identity"))
    found = []
    for size in SIZES:
        small, report = linjax.fold_and_report(params, stats, linjax.size(size))
        errors = [
            linjax.compare(net, params, small, own, metric="identity", progress=False).error
            for own in (batches, others)
        ]
        found.append(Folded(size, float(report.predicted), *errors))
    return found


def _batches(inputs: Sequence[Any], seed: int) -> list[tuple[Any, ...]]:
    """Random batches like inputs: numbers that are spread as these are, words among theirs."""
    rng = np.random.default_rng(seed)

    def like(array: Any) -> Any:
        array = np.asarray(array)
        shape = (ROWS, *array.shape[1:])
        if array.dtype.kind == "f":
            return jnp.asarray(array.mean() + array.std() * rng.normal(size=shape), array.dtype)
        if array.dtype.kind in "iu" and array.max() > array.min():
            return jnp.asarray(rng.integers(array.min(), array.max() + 1, shape), array.dtype)
        return jnp.broadcast_to(array[:1], shape)

    if len({np.shape(x)[:1] for x in inputs}) > 1 or not np.ndim(inputs[0]):
        raise linjax.LinjaxError("inputs without rows")
    rows = [like(x) for x in inputs]
    return [tuple(x[k : k + BATCH] for x in rows) for k in range(0, ROWS, BATCH)]


def told(found: Sequence[Folded]) -> str:
    """How far measured errors are from predicted ones."""
    lines = []
    for where, name in (("measured", "these rows"), ("held_out", "others")):
        pairs = [(max(getattr(f, where), LEAST), max(f.predicted, LEAST)) for f in found]
        ratios = [m / p for m, p in pairs if max(m, p) > LEAST and min(m, p) < MOST]
        if ratios:
            near = statistics.mean(1 / 1.5 <= r <= 1.5 for r in ratios)
            above = statistics.mean(r <= 1.5 for r in ratios)
            lines.append(
                f"{len(ratios)} folds on {name}: {near:.0%} within a factor of 1.5, {above:.0%} at "
                f"most 1.5 times what was predicted; from {min(ratios):.2f} to {max(ratios):.2f}"
            )
    return "\n".join(lines)


def main(names: Sequence[str]) -> None:
    """Measures and prints, line by line."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), DEPTH))
    warnings.simplefilter("ignore", linjax.FoldWarning)
    print(f"| {' | '.join(COLUMNS)} |\n|{':---|' + '---:|' * (len(COLUMNS) - 1)}", flush=True)
    everything: list[Folded] = []
    for model in chosen(names):
        if not model.installed:
            continue
        start = time.perf_counter()
        try:
            found = folded(model)
        except Exception as error:
            # One network of a hundred may fail in any way: the others' rows are still wanted.
            print(f"| {model.name} | {said(error)} | | | | |", flush=True)
            continue
        finally:
            jax.clear_caches()  # programs of a hundred networks are gigabytes
        everything += found
        for own in found:
            errors = (f"{e:.3g}" for e in own[1:])
            seconds = f"{time.perf_counter() - start:.0f}"
            print(f"| {' | '.join((model.name, str(own.size), *errors, seconds))} |", flush=True)
    print(f"\n{told(everything)}")


if __name__ == "__main__":
    main(sys.argv[1:])
