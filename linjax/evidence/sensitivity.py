"""How much the network's outputs move when a pre-activation does.

For a layer's pre-activation z with Jacobian ``J = ∂ outputs / ∂z`` the matrix
``G = E[Jᵀ F J]`` measures errors of z as errors of the outputs, to first order. F is the
output metric: the identity, or for logits ``diag(p) − p pᵀ``, the metric of the
Kullback–Leibler divergence of the softmax.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from linjax.errors import EvidenceError
from linjax.evidence import sums
from linjax.evidence.metric import is_logits
from linjax.evidence.weights import live, number, of_outputs, of_samples
from linjax.graph.net import Net

Array = Any
EXACT_CLASSES = 8
PROBES = 8


@functools.partial(jax.jit, static_argnames=("net", "metric"))
def sensitivity_sums(
    net: Net, params: Any, inputs: tuple[Any, ...], key: Array, metric: str,
    weights: Array | None = None,
) -> tuple[Array, tuple[tuple[Array, ...], ...]]:  # fmt: skip
    """Sums ``Jᵀ F J`` over the samples of a batch for every layer of every chain.

    Uses one vector-Jacobian product per class up to eight classes, else eight random
    signs (an unbiased estimate, Hutchinson 1990); where an example has several output
    vectors, random signs tell these apart.

    Returns:
      The number of samples by chain, or their weight, and by chain and depth a ``(q, q)`` sum.
    """
    chains = net.graph.chains
    names = [name for chain in chains for group in chain.groups for name in group]
    taps, shapes = jax.eval_shape(lambda p, x: net.run(p, *x)[1:], params, inputs)
    probes = {n: jnp.zeros(shapes[n].shape, shapes[n].dtype) for n in names if n in shapes}
    outputs, pull = jax.vjp(lambda probe: net.run(params, *inputs, probes=probe)[0], probes)
    seeds = weighted(cotangents(outputs, key, metric), outputs, weights)

    (gradients,) = jax.vmap(pull)(seeds)  # every probe at once: one long product for each layer

    def gram(group: tuple[str, ...]) -> Array:
        present = [gradients[n] for n in group if n in gradients]
        if not present:
            return jnp.zeros((0, 0))
        g = jnp.concatenate(present, axis=-1)
        g = live(of_samples(weights, g.shape[-2], group[0]), g)
        return sums.gram(g.reshape(-1, g.shape[-1]))

    grams = tuple(tuple(gram(group) for group in chain.groups) for chain in chains)
    samples = [taps[c.sites[0].name].source.shape[0] for c in chains]
    each = [of_samples(weights, n, c.sites[0].name) for n, c in zip(samples, chains, strict=True)]
    counts = [number(own, n) for n, own in zip(samples, each, strict=True)]
    return jnp.stack(counts) if counts else jnp.zeros(0), grams


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


def cotangents(outputs: Any, key: Array, metric: str) -> Any:
    """Output cotangents whose outer products sum (or average) to the metric F."""
    leaves = [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if not leaves:
        raise EvidenceError("the network has no floating point output")
    classes = leaves[0].shape[-1] if len(leaves) == 1 and leaves[0].ndim >= 2 else 0
    few = 0 < classes <= EXACT_CLASSES
    repeats = PROBES // classes if few and leaves[0].ndim > 2 else 1
    count = repeats * classes if few else PROBES

    def signs(leaf: Array, key: Array) -> Array:
        if few:
            eye = jnp.eye(classes, dtype=leaf.dtype)
            seed = eye.reshape(classes, *(1 for _ in leaf.shape[:-1]), classes)
            if leaf.ndim > 2:  # else an example's positions would add up
                own = _by_place(key, count, leaf.shape[:-1]).astype(leaf.dtype)
                own = own.reshape(repeats, classes, *leaf.shape[:-1], 1)
                seed = seed * own / jnp.sqrt(jnp.asarray(repeats, leaf.dtype))
            return jnp.broadcast_to(seed, (repeats, classes, *leaf.shape)).reshape(
                count, *leaf.shape
            )
        draw = jax.random.rademacher(key, (PROBES, *leaf.shape), leaf.dtype)
        return draw / jnp.sqrt(jnp.asarray(PROBES, leaf.dtype))

    def weigh(leaf: Array, key: Array) -> Array:
        seed = signs(leaf, key)
        if not is_logits(leaf, metric):
            return seed
        p = jax.nn.softmax(leaf.astype(jnp.float32), axis=-1).astype(leaf.dtype)
        root = jnp.sqrt(p)  # F = B Bᵀ with B = diag(√p) − p √pᵀ
        return root * seed - p * jnp.sum(root * seed, axis=-1, keepdims=True)

    flat, tree = jax.tree.flatten(outputs)
    keys = jax.random.split(key, len(flat))
    seeds = [
        weigh(leaf, k)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else jnp.zeros((count, *leaf.shape), jax.dtypes.float0)
        for leaf, k in zip(flat, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, seeds)


def _by_place(key: Array, count: int, shape: tuple[int, ...]) -> Array:
    """Random signs ``(count, *shape)`` that don't depend on how many rows and positions follow."""
    rows, places = shape[0], math.prod(shape[1:])

    def draw(row: Array, place: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, row), place)
        return jax.random.rademacher(own, (count,))

    found = jax.vmap(lambda row: jax.vmap(lambda place: draw(row, place))(jnp.arange(places)))
    return jnp.moveaxis(found(jnp.arange(rows)), -1, 0).reshape(count, *shape)
