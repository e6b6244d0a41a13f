"""How much the network's outputs move when what happens on the way to them does.

With J the Jacobian of the outputs by a site's coordinates, or by a kernel's result, at a place,
``Q = E[Jᵀ F J]`` measures errors there as errors of the outputs, to first order: an error δ
costs ``tr(Q Cov δ)``. F is the output metric: the identity, or for logits ``diag(p) − p pᵀ``,
the metric of the Kullback–Leibler divergence of the softmax, for rows' own logits at somewhat less
certain ones (:mod:`linjax.evidence.objective` says why).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from linjax.dims.network import Network
from linjax.dims.run import execute
from linjax.dims.sizes import Flat, read_sizes
from linjax.errors import EvidenceError
from linjax.evidence.drawn import Draw
from linjax.evidence.effort import PROBES
from linjax.evidence.moments import lower_gram
from linjax.evidence.objective import root, tempered
from linjax.evidence.places import Place, derivatives, everywhere, part, places
from linjax.evidence.points import some as some_of
from linjax.evidence.scale import outputs_of
from linjax.evidence.signs import Seed, signs
from linjax.evidence.spreading import Spread, blocked, outer
from linjax.evidence.weights import of_outputs, of_rows
from linjax.program.traced import unstopped

Array = Any
EXACT_CLASSES = 8


@functools.partial(
    jax.jit, static_argnames=("network", "metric", "spots", "probes", "chosen", "spread", "by_row")
)
def metric_sums(
    network: Network, flat: Flat, inputs: list[Array], seed: Seed, metric: str,
    weights: Array | None, spots: int | None = None, probes: int = PROBES,
    chosen: tuple[tuple[int, int], ...] | None = None, starts: Array | None = None,
    spread: Spread | None = None, draw: Draw | None = None, by_row: bool = True,
) -> Any:  # fmt: skip
    """Sums of outer products of the outputs' derivatives at all places of evidence.

    One vector–Jacobian product per class up to eight classes, else eight random signs (an
    unbiased estimate, Hutchinson 1990); where an example has several output vectors, random signs
    tell these apart.

    Args:
      network: the traced network.
      flat: its parameters.
      inputs: the leaves of the rows.
      seed: of the random signs.
      metric: output metric.
      weights: of the rows, or of their positions.
      spots: places of an example that derivatives are taken up at, by default all of them.
      probes: how many signs.
      chosen: places of evidence, by number, and how many repeats of each; by default all.
      starts: ``(places,)`` which repeats these begin with.
      spread: over which devices.
      draw: how rows have been drawn from others that sums are of; by default they are all.
      by_row: whether inputs have rows; else they are one example as a whole.

    Returns:
      By place of evidence ``(n, q, q)`` sums, their lower blocks alone, and the
      number of samples; the number of examples (with weights what there is of these); and what the
      outputs do, unless rows are drawn.
    """
    sizes = read_sizes(network, flat, inputs)
    some = everywhere(network) if chosen is None else chosen
    at = [places(network)[n] for n, _ in some]
    outputs, _, zeros, pull = differentiated(network, flat, inputs, at)
    seeds = cotangents(outputs, seed, metric, probes) if draw is None else draw.cotangents(outputs)
    gradients = pull(weighted(seeds, outputs, weights))
    each = jnp.float32(1) if draw is None else draw.each
    rows = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
    grams = []
    for n, (place, (_, size)) in enumerate(zip(at, some, strict=True)):
        value = place.result
        g, own = derivatives(network, place, gradients[value], zeros[value], sizes, weights)
        total = jnp.float32(g.shape[2]) if own is None else jnp.sum(own).astype(jnp.float32)
        g, scale = _fewer(part(g, None if starts is None else starts[n], size, 1), own, spots, rows)
        moved = jnp.moveaxis(g, 0, 1)
        gram = _gram(moved, spread)
        grams.append((scale * gram, each * total))
    examples = each * jnp.float32(rows)
    if weights is not None:
        examples = jnp.sum(of_rows(weights)).astype(jnp.float32)
    seen = outputs_of(outputs, metric, weights, examples, by_row) if draw is None else ()
    return tuple(grams), examples, seen


def differentiated(
    network: Network, flat: Flat, inputs: list[Array], at: Sequence[Place]
) -> tuple[Any, dict[int, Array], dict[int, Array], Any]:
    """Runs a network so that its outputs can be differentiated by what is at places of evidence.

    Returns:
      The outputs, the values there, zeros like these, and what takes output cotangents, the axis
      in front being of many, to the derivatives by the values.
    """
    taps = frozenset(place.result for place in at)
    shapes = jax.eval_shape(lambda: execute(network, flat, inputs, taps).values)
    zeros = {
        p: jnp.zeros(v.shape, jnp.promote_types(v.dtype, jnp.float32)) for p, v in shapes.items()
    }

    def run(probe: dict[int, Array]) -> Any:
        with unstopped():
            found = execute(network, flat, inputs, taps, probes=probe)
        return found.outputs, found.values

    outputs, pull, values = jax.vjp(run, zeros, has_aux=True)
    return outputs, values, zeros, lambda seeds: jax.vmap(pull)(seeds)[0]


def _gram(g: Array, spread: Spread | None) -> Array:
    """Sums of outer products of ``(n, probes, samples, q)``."""
    if spread is None:
        return lower_gram(g.reshape(g.shape[0], math.prod(g.shape[1:-1]), g.shape[-1]))
    by_sample = jnp.moveaxis(g, 1, 2)  # so that samples stay where they are
    rows = by_sample.reshape(g.shape[0], math.prod(g.shape[1:-1]), g.shape[-1])
    (found,) = outer(rows, None, spread, lambda x, _: (x,))
    return blocked(jnp.sum(found, axis=0), spread)


def _fewer(g: Array, own: Array | None, spots: int | None, rows: int) -> tuple[Array, Array]:
    """Derivatives at some places of every example, and how many times as many all of them are."""
    if spots is None or g.shape[2] <= spots * rows:
        return g, jnp.float32(1)
    seen, total = some_of(g.shape[2], rows, spots), jnp.float32(g.shape[2])
    taken = jnp.float32(g[:, :, seen].shape[2])
    if own is not None:
        total, taken = (jnp.sum(w).astype(jnp.float32) for w in (own, own[seen]))
    return g[:, :, seen], total / jnp.maximum(taken, 1e-30)


def weighted(seeds: Any, outputs: Any, weights: Array | None) -> Any:
    """Multiplies cotangents by the roots of their outputs' weights."""
    if weights is None:
        return seeds

    def weigh(seed: Array, leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return seed
        own = of_outputs(weights, leaf)
        return jnp.where(own > 0, seed, 0) * jnp.sqrt(own)

    return jax.tree.map(weigh, seeds, outputs)


def cotangents(outputs: Any, seed: Seed, metric: str, probes: int = PROBES) -> Any:
    """Output cotangents whose outer products sum (or average) to the metric F.

    Args:
      outputs: of the network.
      seed: of random signs.
      metric: F.
      probes: how many there may be.
    """
    leaves = [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if not leaves:
        raise EvidenceError("the network has no floating point output")
    classes = leaves[0].shape[-1] if len(leaves) == 1 and leaves[0].ndim >= 2 else 0
    few = 0 < classes <= min(EXACT_CLASSES, probes)
    repeats = probes // classes if few and leaves[0].ndim > 2 else 1
    count = repeats * classes if few else probes

    def own(leaf: Array, n: int) -> Array:
        if few:
            eye = jnp.eye(classes, dtype=leaf.dtype)
            one = eye.reshape(classes, *(1 for _ in leaf.shape[:-1]), classes)
            # Else an example's positions would add up, and examples where a batch is normalised.
            apart = signs((*seed, n), (count, *leaf.shape[:-1]), leaf.dtype)
            apart = apart.reshape(repeats, classes, *leaf.shape[:-1], 1)
            one = one * apart / jnp.sqrt(jnp.asarray(repeats, leaf.dtype))
            return jnp.broadcast_to(one, (repeats, classes, *leaf.shape)).reshape(
                count, *leaf.shape
            )
        draw = signs((*seed, n), (probes, *leaf.shape), leaf.dtype)
        return draw / jnp.sqrt(jnp.asarray(probes, leaf.dtype))

    flat, tree = jax.tree.flatten(outputs)
    seeds = [
        root(tempered(leaf, metric), own(leaf, n), metric)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else jnp.zeros((count, *leaf.shape), jax.dtypes.float0)
        for n, leaf in enumerate(flat)
    ]
    return jax.tree.unflatten(tree, seeds)
