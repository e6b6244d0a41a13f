"""Which rows and classes sensitivities are measured on, where all would take too long.

The metric of logits is a sum over classes, ``F = Σ_c p_c (e_c − p)(e_c − p)ᵀ``, and so is
``Σ_rows Jᵀ F J`` one over pairs of a row and a class, of which a classifier that is mostly certain
has few that weigh much. Drawing pairs as often as they weigh, with derivatives of one length each,
estimates the sum from a fraction of the vector–Jacobian products that random signs on every row
take: the sampling of Alain et al. (2015, arXiv 1511.06481), by what the outputs alone tell.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.network import Network
from linjax.dims.remembered import remembered
from linjax.evidence.metric import is_logits
from linjax.evidence.objective import tempered
from linjax.evidence.rows import apart
from linjax.program.flat import Ref

Array = Any

DRAWS = 3072
"""Pairs of a row and a class that are drawn in all, of dense networks."""
DRAWS_IMAGES = 640
"""Likewise of those with feature maps, whose every place counts."""


# One program in place of one for every operation.
_tempered = jax.jit(tempered, static_argnums=1)


def in_order(parts: Sequence[Array], turns: Array) -> Array:
    """Rows as they were before they were dealt by turns."""
    rows = np.empty((len(turns), *parts[0].shape[1:]), np.float32)
    for turn, part in enumerate(parts):
        rows[turns == turn] = np.asarray(part.astype(jnp.float32))
    return rows


class Draw(NamedTuple):
    """Pairs of a row and a class, in whose direction outputs are differentiated.

    Attributes:
      rows: ``(n,)`` the rows.
      classes: ``(n,)`` the classes.
      each: how many rows that could be drawn there are for each of these.
      length: of the derivatives in the output metric.
    """

    rows: Array
    classes: Array
    each: Array
    length: Array

    def part(self, own: slice) -> "Draw":
        """Some of the pairs."""
        return self._replace(rows=self.rows[own], classes=self.classes[own])

    def cotangents(self, outputs: Any) -> Any:
        """Output cotangents, ``(1, n, classes)``: one for each drawn row."""
        (leaf,), tree = jax.tree.flatten(outputs)
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        p = jax.nn.softmax(tempered(wide, "softmax"), axis=-1)
        apart = jax.nn.one_hot(self.classes, p.shape[-1], dtype=p.dtype) - p
        norm = jnp.sqrt(jnp.sum(apart**2, axis=-1, keepdims=True))
        seeds = self.length * apart / jnp.maximum(norm, 1e-30)
        return jax.tree.unflatten(tree, [seeds[None].astype(leaf.dtype)])


@remembered
def can_draw(network: Network, metric: str) -> bool:
    """Whether a network gives every row logits of its own, which no other row has a say in."""
    program = network.layout.program
    if len(program.outputs) != 1 or not isinstance(program.outputs[0], Ref):
        return False
    own = program.avals[program.outputs[0].id]
    floating = jnp.issubdtype(own.dtype, jnp.floating)
    return bool(floating) and own.ndim == 2 and is_logits(own, metric) and apart(network)


def draws(dense: bool, batches: int) -> int:
    """How many pairs are drawn of each of so many batches."""
    return -(-(DRAWS if dense else DRAWS_IMAGES) // batches)


def drawn(logits: Array, count: int, seed: int) -> Draw:
    """Draws pairs of rows and classes as often as they weigh in the output metric.

    A pair weighs ``p_c ‖e_c − p‖²``. The draw is systematic: a row of weight w is drawn
    ``⌊count w / Σ w⌋`` times or once more. Rows that hesitate between the same two classes stand
    side by side, and each row's classes begin somewhere of their own: steps that kept time with
    the classes, or with an order of the data, would never come upon some of them.

    Args:
      logits: of the rows.
      count: how many pairs.
      seed: of where it begins.
    """
    total = len(logits)
    every = np.asarray(_tempered(logits, "softmax"), np.float64)
    with np.errstate(invalid="ignore"):  # what isn't finite is told of where sites see it
        p = np.exp(every - every.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    weight = p * np.maximum(1 - 2 * p + (p**2).sum(axis=1, keepdims=True), 0)
    each = np.maximum(weight.sum(axis=1), 1e-300)
    rng = np.random.default_rng(seed)
    likely = np.argsort(-weight, axis=1, kind="stable")[:, :2]
    order = np.lexsort((rng.random(total), *likely.T[::-1]))
    sums = np.cumsum(each[order])
    at = (np.arange(count) + rng.random()) * (sums[-1] / count)
    turn = np.minimum(np.searchsorted(sums, at), total - 1)
    rows, phase = order[turn], 1 - (sums[turn] - at) / each[order[turn]]
    phase = np.modf(phase + rng.random(total)[rows])[0] * each[rows]
    classes = np.argmax(np.cumsum(weight[rows], axis=1) >= phase[:, None], axis=1)
    return Draw(rows, classes, np.float32(total / count), np.float32(np.sqrt(sums[-1] / count)))
