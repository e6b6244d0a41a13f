"""What one streaming pass sums up on the device, batch by batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from linjax.evidence import sums
from linjax.evidence.weights import of_samples
from linjax.graph.dense_run import Tap
from linjax.graph.net import Net
from linjax.graph.structure import Chain

Array = Any


class State(NamedTuple):
    """What one pass carries from batch to batch, on the device."""

    seen: Array
    units: tuple[sums.UnitSums, ...]
    chains: tuple[sums.ChainSums, ...]
    unit_centres: tuple[tuple[Array, Array], ...]
    chain_centres: tuple[tuple[Array, ...], ...]
    bad: Array


def _blocks(chain: Chain, taps: dict[str, Tap]) -> list[Array]:
    """The blocks of a chain's stacked features ``a``."""
    source = taps[chain.sites[0].name].source
    posts = [taps[site.name].post for site in chain.sites]
    return [source, *(jnp.zeros((source.shape[0], 0)) if p is None else p for p in posts)]


def _pair(tap: Tap) -> tuple[Array, Array]:
    if tap.pre is None or tap.post is None:
        nothing = jnp.zeros((tap.source.shape[0], 0))
        return nothing, nothing
    return tap.pre, tap.post


def batch_sums(net: Net, params: Any, inputs: Any, weights: Any, state: State, folds: int) -> State:
    """Adds one batch to the accumulators."""
    taps = net.run(params, *inputs)[1]
    rows = jax.tree.leaves(inputs)[0].shape[0]
    pairs = tuple(_pair(taps[site.name]) for site in net.graph.sites)
    blocks = tuple(tuple(_blocks(chain, taps)) for chain in net.graph.chains[: len(state.chains)])
    everything = (pairs, blocks)
    own = _own_weights(net, weights, everything)
    unit_centres, chain_centres = lax.cond(
        state.seen == 0,
        lambda: _centres(everything, own),
        lambda: (state.unit_centres, state.chain_centres),
    )
    units = tuple(
        sums.add(old, sums.unit_sums(pair[0], pair[1], centre[0], centre[1], w[0]))
        for old, pair, centre, w in zip(state.units, pairs, unit_centres, own[0], strict=True)
    )
    chains = tuple(
        sums.add(old, sums.chain_sums(list(bs), list(centres), rows, folds, w[0]))
        for old, bs, centres, w in zip(state.chains, blocks, chain_centres, own[1], strict=True)
    )
    finite = jnp.array([jnp.isfinite(u.sums).all() for u in units])
    return State(
        seen=state.seen + 1,
        units=units,
        chains=chains,
        unit_centres=unit_centres,
        chain_centres=chain_centres,
        bad=jnp.where((state.bad < 0) & ~finite, state.seen, state.bad),
    )


def _centres(everything: Any, own: Any) -> Any:
    tree: Any = jax.tree.structure(everything)
    pairs = zip(jax.tree.leaves(everything), tree.flatten_up_to(own), strict=True)
    return tree.unflatten([sums.centre(*pair) for pair in pairs])


def _own_weights(net: Net, weights: Any, everything: Any) -> Any:
    """The weights of the samples of every array of values, in the same places."""
    if weights is None:
        return jax.tree.map(lambda _: None, everything)
    sites = [s.name for s in net.graph.sites], [c.sites[0].name for c in net.graph.chains]

    def of(name: str, values: Any) -> Any:
        def one(x: Array) -> Array:
            return of_samples(weights, x.shape[0], name)

        return jax.tree.map(one, values)

    return tuple(
        tuple(of(name, values) for name, values in zip(names, part, strict=False))
        for names, part in zip(sites, everything, strict=True)
    )


step = jax.jit(batch_sums, static_argnames=("net", "folds"), donate_argnames="state")


def empty(
    net: Net, params: Any, inputs: Any, weights: Any, second_moments: bool, folds: int
) -> State:
    """Accumulators at zero, in the shapes that this network and these inputs lead to."""
    rows = jax.tree.leaves(inputs)[0].shape[0]

    def shapes(weights: Any) -> Any:
        taps = net.run(params, *inputs)[1]
        pairs = tuple(_pair(taps[site.name]) for site in net.graph.sites)
        blocks = tuple(
            tuple(_blocks(chain, taps)) for chain in (net.graph.chains if second_moments else ())
        )
        everything = (pairs, blocks)
        own = _own_weights(net, weights, everything)
        unit_centres, chain_centres = jax.tree.map(lambda x: sums.wide(x)[0], everything)
        return State(
            seen=jnp.int32(0),
            units=tuple(
                sums.unit_sums(pair[0], pair[1], centre[0], centre[1], w[0])
                for pair, centre, w in zip(pairs, unit_centres, own[0], strict=True)
            ),
            chains=tuple(
                sums.chain_sums(list(bs), list(centres), rows, folds, w[0])
                for bs, centres, w in zip(blocks, chain_centres, own[1], strict=True)
            ),
            unit_centres=unit_centres,
            chain_centres=chain_centres,
            bad=jnp.zeros(len(pairs), jnp.int32),
        )

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(shapes, weights))
    return zeros._replace(bad=zeros.bad - 1)
