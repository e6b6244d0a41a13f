"""Second moments of what attention's output kernels read, and how the outputs depend on it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from linjax.evidence import placement, sums
from linjax.evidence.channels import finished
from linjax.evidence.moments import Moments
from linjax.evidence.sensitivity import cotangents, weighted
from linjax.evidence.weights import live, number, of_samples
from linjax.graph.net import Net

Array = Any


@functools.partial(jax.jit, static_argnames=("net", "folds"))
def batch_sums(
    net: Net, params: Any, inputs: Any, centres: tuple[Array, ...] | None, folds: int,
    weights: Array | None,
) -> tuple[tuple[sums.ChainSums, ...], tuple[Array, ...]]:  # fmt: skip
    """Sums of one batch about some centres, by path; the centres, this batch's means at first."""
    taps = net.run(params, *inputs)[1]
    rows = jax.tree.leaves(inputs)[0].shape[0]
    features = [sums.wide(taps[site.name]) for site in net.graph.heads]
    each = [
        of_samples(weights, len(f), site.name)
        for f, site in zip(features, net.graph.heads, strict=True)
    ]
    if centres is None:
        centres = tuple(map(sums.centre, features, each))
    return tuple(
        sums.chain_sums([f], [c], rows, folds, own)
        for f, c, own in zip(features, centres, each, strict=True)
    ), centres


@functools.partial(jax.jit, static_argnames=("net", "metric"))
def sensitivity_sums(
    net: Net, params: Any, inputs: tuple[Any, ...], key: Array, metric: str, weights: Array | None
) -> tuple[tuple[Array, Array], ...]:
    """Weight of each output kernel's results, and sums ``Jᵀ F J`` over them, by path."""
    names = [site.out for site in net.graph.heads]
    known = jax.eval_shape(lambda p, x: net.run(p, *x)[2], params, inputs)
    probes = {name: jnp.zeros(known[name].shape, known[name].dtype) for name in names}
    outputs, pull = jax.vjp(lambda probe: net.run(params, *inputs, probes=probe)[0], probes)
    seeds = weighted(cotangents(outputs, key, metric), outputs, weights)
    each = {name: of_samples(weights, known[name].shape[0], name) for name in names}

    def grams(seed: Any) -> dict[str, Array]:
        (gradients,) = pull(seed)
        return {name: sums.gram(live(each[name], g)) for name, g in gradients.items()}

    total = jax.tree.map(lambda g: jnp.sum(g, axis=0), lax.map(grams, seeds))
    return tuple((number(each[name], known[name].shape[0]), total[name]) for name in names)


class Gathering:
    """Adds up batches on the host; does nothing where there are no such paths."""

    def __init__(self, net: Net, metric: str, folds: int, mesh: Mesh | None) -> None:
        self.net, self.metric, self.folds, self.mesh = net, metric, folds, mesh
        self.centres: tuple[Array, ...] | None = None
        self.sums: Any = None
        self.weighed: Any = None

    def add(self, params: Any, inputs: Any, weights: Array | None) -> None:
        """Adds a batch."""
        if not self.net.graph.heads:
            return
        now, self.centres = batch_sums(self.net, params, inputs, self.centres, self.folds, weights)
        self.sums = _added(self.sums, placement.fetch(now, self.mesh))

    def weigh(self, params: Any, inputs: Any, key: Array, weights: Array | None) -> None:
        """Adds the sensitivities of a batch."""
        if not self.net.graph.heads:
            return
        now = sensitivity_sums(self.net, params, inputs, key, self.metric, weights)
        self.weighed = _added(self.weighed, placement.fetch(now, self.mesh))

    def moments(self) -> tuple[Moments, ...]:
        """Returns the moments by path, none where sensitivities weren't asked for."""
        if self.weighed is None:
            return ()
        centres = placement.fetch(self.centres, self.mesh)
        return tuple(
            finished(c, centre, gram, float(rows), (len(centre),))
            for c, centre, (rows, gram) in zip(self.sums, centres, self.weighed, strict=True)
        )


def _added(total: Any, now: Any) -> Any:
    wide = jax.tree.map(lambda x: np.asarray(x).astype(np.float64), now)
    return wide if total is None else jax.tree.map(np.add, total, wide)
