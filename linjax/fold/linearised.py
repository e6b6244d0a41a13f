"""A network's outputs linearised in its parameters: slopes, curvature, damped steps."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.evidence.objective import curvature, directions, divergence
from linjax.fold.kronecker import Curvatures, curvatures
from linjax.fold.rows import Batch, Rows, size_of
from linjax.program import pytree
from linjax.program.pytree import Path

Array = Any
Curve = Callable[[np.ndarray], np.ndarray]
Apply = Callable[..., Any]

STEPS = 4
"""Conjugate-gradient steps of a round: preconditioned, so that few do, and few don't overfit."""


class Parts(NamedTuple):
    """A pytree as one vector of what may change, its shapes, and the leaves that stay."""

    vector: Array
    shapes: dict[Path, tuple[int, ...]]
    fixed: pytree.Flat

    @property
    def ends(self) -> list[int]:
        """Where each leaf ends in the vector."""
        return list(itertools.accumulate(map(math.prod, self.shapes.values())))

    def tree(self, vector: Array) -> dict[str, Any]:
        starts = zip([0, *self.ends], self.ends, self.shapes.items(), strict=False)
        moving = {path: vector[a:b].reshape(shape) for a, b, (path, shape) in starts}
        return pytree.unflatten({**self.fixed, **moving})


class System:
    """The linearised problem: errors, gradients and curvature products summed over chunks.

    Args:
      apply: the network.
      parts: its parameters.
      metric: output metric.
    """

    def __init__(self, apply: Apply, parts: Parts, metric: str) -> None:
        def outputs(vector: Array, inputs: Any) -> Any:
            return apply(parts.tree(vector), *inputs)

        def error(vector: Array, inputs: Any, teacher: Any) -> Array:
            return divergence(outputs(vector, inputs), teacher, metric)

        @jax.jit
        def product(vector: Array, direction: Array, inputs: Any) -> Array:
            y, push = jax.linearize(lambda w: outputs(w, inputs), vector)
            (back,) = jax.linear_transpose(push, vector)(curvature(y, push(direction), metric))
            return back

        @jax.jit
        def sample(vector: Array, inputs: Any, turn: Array) -> Array:
            y, pull = jax.vjp(lambda w: outputs(w, inputs), vector)
            return pull(directions(y, (turn,), metric))[0]

        self._error, self._product, self._sample = jax.jit(error), product, sample
        self._slope = jax.jit(jax.value_and_grad(error))
        self._shapes = tuple(parts.shapes.values())

    def error(self, vector: Array, rows: Rows) -> float:
        """Mean divergence of the rows."""
        return float(sum(self._error(vector, *chunk) for chunk in rows.chunks)) / rows.total

    def slope(self, vector: Array, rows: Rows) -> tuple[float, np.ndarray]:
        """Mean divergence of the rows, and its derivative."""
        pairs = [self._slope(vector, *chunk) for chunk in rows.chunks]
        gradient = _mean((gradient for _, gradient in pairs), rows.total)
        return float(sum(error for error, _ in pairs)) / rows.total, gradient

    def step(
        self, vector: Array, gradient: np.ndarray, rows: list[Batch], known: Curvatures,
        damping: float,
    ) -> tuple[Array, float]:  # fmt: skip
        """Returns the damped Gauss–Newton step and the decrease that it predicts.

        Sums over chunks and conjugate gradients run on the host: their programs would have to
        be compiled anew for every number of parameters.
        """
        own, curve = damping * known.means(), self._curve(vector, rows)
        near = functools.partial(known.divide, damping=own)
        step, curved = conjugate_gradients(curve, -gradient, known.spread(own), near, STEPS)
        return jnp.asarray(step, jnp.float32), float(gradient @ step + step @ curved / 2)

    def _curve(self, vector: Array, rows: list[Batch]) -> Curve:
        """The mean Gauss–Newton matrix of the rows, as a product with vectors."""

        def curve(direction: np.ndarray) -> np.ndarray:
            moved = jnp.asarray(direction, jnp.float32)
            return _mean((self._product(vector, moved, x) for x in rows), sum(map(size_of, rows)))

        return curve

    def curvatures(self, vector: Array, pieces: list[Batch]) -> Curvatures:
        """What is known of the Gauss–Newton matrix from a random derivative of each set of rows."""
        own = (self._sample(vector, x, n) for n, x in enumerate(pieces))
        return curvatures(own, sum(map(size_of, pieces)), self._shapes)


def _mean(sums: Iterable[Array], total: int) -> np.ndarray:
    result: np.ndarray = functools.reduce(np.add, (np.asarray(x, np.float64) for x in sums))
    return result / total


def conjugate_gradients(
    curve: Curve, target: np.ndarray, damping: np.ndarray, near: Curve, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Solves ``(A + diag damping) x = target``, preconditioned; returns A x, too.

    Args:
      curve: multiplies by A.
      target: what to solve for.
      damping: what is added to the diagonal.
      near: what is nearly the inverse of the whole.
      steps: the largest number of products with A.
    """
    x = np.zeros_like(target)
    residual = target
    direction = weighted = near(residual)
    energy = start = residual @ weighted
    for _ in range(steps):
        image = curve(direction) + damping * direction
        length = energy / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        weighted = near(residual)
        energy, before = residual @ weighted, energy
        if not energy > 1e-6 * start:
            break
        direction = weighted + (energy / before) * direction
    return x, target - residual - damping * x
