"""What errors cost where derivatives don't tell it.

Behind a rounding or a comparison derivatives are zero, though the outputs depend on what is in
front of it; where some of the ways to the outputs have such steps they tell a part. There a place
is moved, each entry by a share of how far it is from its mean, this way or that: the outputs lose
so much for an error δ, the derivatives told so much of it, and what is missing counts as
``q ‖δ‖²``.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from linjax.dims.network import Network
from linjax.dims.run import execute
from linjax.dims.sizes import Flat
from linjax.evidence.objective import curvature, floating, tempered
from linjax.evidence.signs import signs
from linjax.evidence.weights import of_outputs, of_rows
from linjax.program.traced import unstopped

Array = Any

SHARE = 0.1
"""Of how far entries are from their means: about as far as folds go. Steps cost more than squares
tell of shorter ways, less of longer ones."""
ENOUGH = 0.5
"""Share of the costs that derivatives tell where they are taken as they are: nothing is linear."""


class Missing(NamedTuple):
    """What the outputs lose for each unit of ``‖δ‖²``, as measured, and as derivatives tell."""

    measured: Array
    told: Array

    def price(self) -> float:
        """What is missing, or zero."""
        measured, told = float(self.measured), float(self.told)
        return 0.0 if told >= ENOUGH * measured else measured - told


@functools.partial(jax.jit, static_argnames=("network", "at", "metric"))
def missing(
    network: Network, flat: Flat, inputs: list[Array], at: tuple[int, ...], which: Array,
    metric: str, weights: Array | None,
) -> Missing:  # fmt: skip
    """What the outputs lose where a value moves.

    Args:
      network: the traced network.
      flat: its parameters.
      inputs: the leaves of some rows.
      at: numbers of values.
      which: which of them moves, by its place among these: one program serves for all.
      metric: output metric.
      weights: of these rows, or of their positions.
    """

    def run(probes: dict[int, Array]) -> tuple[list[Array], dict[int, Array]]:
        with unstopped():
            found = execute(network, flat, inputs, frozenset(at), probes)
        return floating(found.outputs), found.values

    shapes = jax.eval_shape(lambda: run({})[1])
    still = {place: jnp.zeros(own.shape, jnp.float32) for place, own in shapes.items()}
    outputs, pull, values = jax.vjp(run, still, has_aux=True)
    ways = {
        place: jnp.where(which == n, SHARE, 0.0) * _spread(values[place], weights)
        for n, place in enumerate(at)
    }
    # Derivatives forwards from those backwards: functions may have none but these.
    forwards = jax.vjp(lambda seeds: pull(seeds)[0], [jnp.zeros_like(y) for y in outputs])[1]
    (told,) = forwards(ways)
    moved = [z - y for y, z in zip(outputs, run(ways)[0], strict=True)]
    square = jnp.maximum(sum(jnp.sum(way**2) for way in ways.values()), 1e-30)
    found = (_cost(outputs, change, metric, weights) / square for change in (moved, told))
    return Missing(*found)


def _spread(value: Array, weights: Array | None) -> Array:
    """How far rows are from their mean, this way or that; nothing where they don't count."""
    value = value.astype(jnp.float32)
    counts = jnp.ones(value.shape[:1], bool)
    if weights is not None and counts.shape == of_rows(weights).shape:
        counts = of_rows(weights) > 0
    counts = counts.reshape(-1, *(1,) * (value.ndim - 1))
    far = value - jnp.mean(value, axis=0, where=counts, keepdims=True)
    return jnp.where(counts, far, 0) * signs((value.ndim,), value.shape, far.dtype)


def _cost(outputs: list[Array], moved: list[Array], metric: str, weights: Array | None) -> Array:
    """What it costs that outputs are moved."""
    total = jnp.zeros(())
    for y, apart in zip(outputs, moved, strict=True):
        y, apart = jnp.atleast_1d(y), jnp.atleast_1d(apart).astype(jnp.float32)
        own = jnp.ones((), jnp.float32) if weights is None else of_outputs(weights, y)
        apart = jnp.where(own > 0, apart, 0) * jnp.sqrt(own)
        total += jnp.sum(apart * curvature([tempered(y, metric)], [apart], metric)[0])
    return total
