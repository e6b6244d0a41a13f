"""What others do with convolutions: structured pruning, with and without a refit.

Every site and every dense layer keeps the same share of its units, the largest that fits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from linjax.evidence.stats import Stats
from linjax.fold.channels.execute import apply_choices, chain_inputs
from linjax.fold.channels.groups import balanced
from linjax.fold.channels.network import Network, read, skeleton
from linjax.fold.channels.plan import Landscape, State, parameters, start
from linjax.fold.channels.problem import Problem, entries
from linjax.fold.channels.surface import Choice
from linjax.fold.least_squares.budget import Shape
from linjax.fold.least_squares.directions import solve
from linjax.fold.least_squares.features import Features, block_rows, frame
from linjax.fold.least_squares.prices import Problem as ChainProblem
from linjax.fold.least_squares.prices import anatomy
from linjax.fold.rules import Size
from linjax.graph import pytree
from linjax.graph.chains import write_chain
from linjax.graph.count import count
from linjax.graph.layers import Layer, Layers

Array = np.ndarray

RIDGE = 1e-3

ChannelScore = Callable[[Network, Problem], Array]
UnitScore = Callable[[ChainProblem, int], Array]


def norms(network: Network, problem: Problem) -> Array:
    """Norms of the kernels that make the channels (arXiv 1608.08710)."""
    kernel = network.kernels[problem.name]
    whole = np.concatenate([kernel.kernel, kernel.linear], axis=2)
    return np.sqrt(np.einsum("tpk,tpk->k", whole, whole))


def energies(network: Network, problem: Problem) -> Array:
    """``E h² ‖w'‖²`` of the channels, over the places where they are read."""
    total = np.zeros(problem.channels)
    for reader in problem.readers:
        data = frame(reader.moments)
        second = np.diag(data.covariance) + data.mean**2
        of = entries(problem, reader, np.arange(problem.channels))
        weights = np.einsum("tcq,tcq->ct", reader.rows, reader.rows)
        total += np.sum(second[of] * weights, axis=1)
    return total


def means(network: Network, problem: Problem) -> Array:
    """Mean activation of the channels, over the places where they are read."""
    del network
    reader = problem.readers[0]
    mean = frame(reader.moments).mean
    return mean[entries(problem, reader, np.arange(problem.channels))].mean(1)


def prune(
    params: Any, stats: Stats, rule: Size, channel: ChannelScore, unit: UnitScore, refit: bool
) -> Any:
    """Keeps the same share of all channels and units, those with the highest scores."""
    network = read(params, stats)
    land = skeleton(network)
    most = int(rule.fraction * count(params))
    ranks = [np.argsort(-channel(network, p), kind="stable") for p in network.problems]
    orders = [
        [np.argsort(-unit(p, i), kind="stable") for i in range(len(p.layers) - 1)]
        for p in network.chains
    ]
    share = _largest(lambda s: parameters(land, _state(land, s)) <= most)
    state = _state(land, share)
    ranks = [
        balanced(rank, p.groups, p.channels)
        for rank, p in zip(ranks, network.problems, strict=True)
    ]
    made = [
        Choice(np.sort(rank[:k]), np.zeros((problem.units, 0)))
        for rank, problem, (k, _) in zip(ranks, network.problems, state.widths, strict=True)
    ]
    flat = apply_choices(network, made, refit, RIDGE)
    kept = dict(zip((s.name for s in network.sites), made, strict=True))
    for chain, problem, shape, order in zip(
        network.graph.chains, network.chains, state.shapes, orders, strict=True
    ):
        inputs = chain_inputs(network, chain, kept)
        units = [np.sort(o[:k]) for o, k in zip(order, shape.units, strict=False)]
        layers = _narrowed(problem, inputs, units, refit)
        flat = write_chain(network.graph, flat, chain, layers)
    return pytree.unflatten(flat, like=params)


def _state(land: Landscape, share: float) -> State:
    """Everything narrowed to a share, one unit at least, of each group where there are groups."""

    def few(n: int, step: int = 1) -> int:
        return step * max(1, round(share * n / step))

    def narrow(shape: Shape) -> Shape:
        return shape._replace(units=(*map(few, shape.units[:-1]), shape.units[-1]))

    now = start(land)
    widths = ((few(k, c.step), 0) for (k, _), c in zip(now.widths, land.costs, strict=True))
    return State(tuple(widths), tuple(map(narrow, now.shapes)))


def _largest(fits: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    if fits(high):
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _narrowed(
    problem: ChainProblem, inputs: Features | None, units: list[Array], refit: bool
) -> Layers:
    """Restricts a dense chain to some inputs and units, with or without a refit of its kernels."""
    data, rows = frame(problem.moments, None, RIDGE), block_rows(problem.moments)
    pre = anatomy(problem).pre
    read = [rows[0] if inputs is None else inputs.rows]
    read += [rows[i + 1][k] for i, k in enumerate(units)]
    done = []
    for i, layer in enumerate(problem.layers):
        columns = units[i] if i < len(units) else np.arange(layer.units)
        own = read[i] - rows[i][0]
        kernel, bias = layer.kernel[own][:, columns], layer.bias[columns]
        if refit and len(own) < len(layer.kernel):
            v = Features(read[i])
            kernel = solve(data.within(v), data.between(v, pre[i]))[:, columns]
            bias = bias + data.mean_of(pre[i])[columns] - data.mean_of(v) @ kernel
        leaves = tuple(leaf[columns] for leaf in layer.unit_leaves)
        done.append(Layer(kernel, bias, unit_leaves=leaves, origin=columns))
    return tuple(done)
