"""Kernels in two factors by truncated singular values: SVD-LLM, and ranks by an error budget."""

import collections
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.baselines.budget import budget_of, largest
from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.reads import Frame, features, frame_of, matrix_index
from linjax.dims.run import execute
from linjax.fold.rules import Size
from linjax.graph import pytree
from linjax.graph.net import Net

Array = np.ndarray

LIFT = 1e-6
"""Of the mean variance, added to all, so that a covariance of few rows has an inverse."""


class Kernel(NamedTuple):
    """A kernel that may be factored.

    Attributes:
      leaf: its number.
      frame: how its product is laid out.
      matrix: ``(p, q)``.
      root: ``(p, p)`` R with ``Rᵀ R`` the second moments of what it reads, or the identity.
      svd: left directions, values and right directions of ``R`` times the matrix.
    """

    leaf: int
    frame: Frame
    matrix: Array
    root: Array
    svd: tuple[Array, Array, Array]


def whitened_svd(net: Net, params: Any, batches: Iterable[Any], rule: Size) -> Any:
    """Truncates the singular values of ``C^{1/2} W``, at the same ratio of all kernels.

    A kernel of p inputs and q outputs keeps ``ρ p q / (p + q)`` directions. C are second moments
    about zero; a convolution's kernel is taken with all its taps.

    Reference: Wang et al., SVD-LLM, 2024, arXiv 2403.07378.
    """

    def ranks(kernel: Kernel, share: float) -> int:
        p, q = kernel.matrix.shape
        return max(1, int(share * p * q / (p + q)))

    return _by_share(net, params, _kernels(net, params, batches), rule, ranks)


def error_bounded(net: Net, params: Any, batches: Iterable[Any], rule: Size) -> Any:
    """Truncates singular values of the weights, all kernels at the same relative error.

    The error is that of the spectral norm, the largest singular value left out by the largest
    one: the largest error of all kernels is as small as the size allows. No data are used. The
    published method also cuts a kernel's inputs into groups of their own factors; here it is one.

    Reference: Liebenwein et al., Compressing neural networks: towards determining the optimal
    layer-wise decomposition (ALDS), 2021, arXiv 2107.11442.
    """
    del batches

    def ranks(kernel: Kernel, share: float) -> int:
        values = kernel.svd[1]
        return max(1, int(np.sum(values > (1 - share) * values[0])))

    return _by_share(net, params, _kernels(net, params, ()), rule, ranks)


def energy_budgeted(net: Net, params: Any, batches: Iterable[Any], rule: Size) -> Any:
    """Truncates the singular values of ``C^{1/2} W`` with the least sum of relative errors.

    Ranks are those of the best trade of error for size, by one price for all kernels; what is
    cheaper whole stays whole.

    Reference: BALF: Budgeted activation-aware low-rank factorization for fine-tuning-free model
    compression, 2025, arXiv 2509.25136.
    """
    kernels = _kernels(net, params, batches)
    each = _each(net.network, kernels, rule)
    errors = [_tails(k.svd[1]) for k in kernels]
    scale = sum(one * k.matrix.size for one, k in zip(each, kernels, strict=True))

    def chosen(share: float) -> list[int]:
        price = (1 - share) / max(share, 1e-12) / scale
        found = []
        for error, one, kernel in zip(errors, each, kernels, strict=True):
            values = error + price * one * sum(kernel.matrix.shape) * np.arange(len(error))
            values[0] = price * one * kernel.matrix.size  # rank 0 stands for the whole kernel
            found.append(int(np.argmin(values)))
        return found

    return _factored_to(net, params, kernels, rule, chosen)


def _tails(values: Array) -> Array:
    """Share of the energy that is left out behind each rank, from none kept to all."""
    energy = np.concatenate([[0.0], np.cumsum(values**2)])
    return 1 - energy / max(energy[-1], np.finfo(np.float64).tiny)


def _each(network: Network, kernels: Sequence[Kernel], rule: Size) -> list[float]:
    """What an entry of each kernel costs: 1, its bytes, or the operations that it takes part in."""
    found = []
    for kernel in kernels:
        result = math.prod(s.size for s in network.layout.values[number(kernel.frame.op)].spans)
        aval = network.layout.program.avals[network.ref(kernel.leaf)]
        costs = {"parameters": 1.0, "bytes": aval.dtype.itemsize}
        found.append(costs.get(rule.of, 2.0 * result / kernel.matrix.shape[1]))
    return found


def _by_share(
    net: Net, params: Any, kernels: list[Kernel], rule: Size, ranks: Callable[[Kernel, float], int]
) -> Any:
    def chosen(share: float) -> list[int]:
        found = [ranks(kernel, share) for kernel in kernels]
        pairs = zip(found, kernels, strict=True)
        return [r if r * sum(k.matrix.shape) < k.matrix.size else 0 for r, k in pairs]

    return _factored_to(net, params, kernels, rule, chosen)


def _factored_to(
    net: Net, params: Any, kernels: list[Kernel], rule: Size, chosen: Callable[[float], list[int]]
) -> Any:
    budget = budget_of(net.network, rule)
    whole = budget.allowed / rule.fraction
    each = _each(net.network, kernels, rule)

    def cost(share: float) -> float:
        every = zip(chosen(share), each, kernels, strict=True)
        return whole - sum(
            one * (k.matrix.size - rank * sum(k.matrix.shape)) for rank, one, k in every if rank
        )

    share = largest(rule, budget, cost)
    flat = pytree.flatten(params)
    for kernel, rank in zip(kernels, chosen(share), strict=True):
        if rank:
            flat |= _factored(net.network, flat, kernel, rank)
    return pytree.unflatten(flat, like=params)


def _factored(network: Network, flat: pytree.Flat, kernel: Kernel, rank: int) -> Any:
    """The leaves of a kernel in two factors."""
    left, values, right = kernel.svd
    spread = np.sqrt(values[:rank])
    down = np.linalg.solve(kernel.root, left[:, :rank] * spread)
    up = spread[:, None] * right[:rank]
    old = flat[network.paths[kernel.leaf]]
    shapes = _shapes(kernel.frame, old.shape, rank)
    return {
        path: jnp.asarray(_leaf(network, kernel.frame, shape, value), old.dtype)
        for path, shape, value in zip(
            (network.extra(kernel.leaf, "down"), network.paths[kernel.leaf]),
            shapes, (down, up), strict=True,
        )
    }  # fmt: skip


def _shapes(
    frame: Frame, shape: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the two factors: the first has a convolution's extent in space."""
    if frame.op.name == "dot_general":
        (axis,) = frame.op.params["dimension_numbers"][0][1 - frame.data]
        return (shape[axis], rank), (*shape[:axis], rank, *shape[axis + 1 :])
    made, read, *space = frame.op.params["dimension_numbers"].rhs_spec
    first, second = list(shape), list(shape)
    first[made] = second[read] = rank
    for n in space:
        second[n] = 1
    return tuple(first), tuple(second)


def _leaf(network: Network, frame: Frame, shape: tuple[int, ...], matrix: Array) -> Array:
    """A matrix laid out as a leaf of some shape."""
    if frame.op.name == "dot_general" and len(shape) == 2 and shape == matrix.shape:
        return matrix
    leaf, index = np.zeros(shape), matrix_index(network, frame, shape)
    leaf.reshape(-1)[index.reshape(-1)] = matrix.reshape(-1)
    return leaf


def _kernels(net: Net, params: Any, batches: Iterable[Any]) -> list[Kernel]:
    """The kernels that one product alone reads, with second moments if there are batches."""
    network, flat = net.network, pytree.flatten(params)
    ops = _alone(network, flat)
    moments = second_moments(network, flat, ops, batches)
    found = []
    for op, frame in ops.items():
        leaf = network.kernels[op].leaf
        value = np.asarray(flat[network.paths[leaf]], np.float64)
        index = matrix_index(network, frame, value.shape)
        matrix = value.reshape(-1)[index[0]]
        root = root_of(moments[op]) if op in moments else np.eye(len(matrix))
        svd = np.linalg.svd(root @ matrix, full_matrices=False)
        found.append(Kernel(leaf, frame, matrix, root, svd))
    return found


def root_of(moments: Array) -> Array:
    """An invertible R with ``Rᵀ R`` these second moments, but for a little."""
    size = len(moments)
    lifted = moments + LIFT * max(np.trace(moments) / size, 1e-12) * np.eye(size)
    return np.linalg.cholesky(lifted).T


def _alone(network: Network, flat: pytree.Flat) -> dict[int, Frame]:
    """Products whose kernels are matrices that nothing else uses."""
    layout = network.layout
    uses: collections.Counter[int] = collections.Counter()
    for op in layout.program.all_ops():
        shown = {layout.values[ref.id].leaf for ref in op.outputs}
        operands = {layout.operand(op, place).leaf for place in range(len(op.inputs))}
        uses.update(leaf for leaf in operands - shown if leaf is not None)
    found = {}
    for op, product in network.kernels.items():
        own = layout.makers[op]
        kernel = own.inputs[1 - product.data]
        if (
            uses[product.leaf] != 1
            or layout.loops[op]
            or getattr(kernel, "id", -1) != network.ref(product.leaf)
        ):
            continue
        frame, shape = frame_of(network, op), np.shape(flat[network.paths[product.leaf]])
        if own.name == "dot_general":
            contract, batch = own.params["dimension_numbers"]
            if len(contract[0]) != 1 or batch[0]:
                continue
        elif own.params["feature_group_count"] > 1:
            continue
        if min(matrix_index(network, frame, shape)[0].shape) > 1:
            found[op] = frame
    return found


def second_moments(
    network: Network, flat: pytree.Flat, ops: dict[int, Frame], batches: Iterable[Any]
) -> dict[int, Array]:
    """Second moments about zero of what products read, by product; none without batches."""
    operands: Any = {op: frame.op.inputs[frame.data] for op, frame in ops.items()}
    windows = {op: np.shape(flat[network.paths[network.kernels[op].leaf]]) for op in ops}

    @jax.jit
    def sums(flat: Any, inputs: Any) -> dict[int, Any]:
        taps = frozenset(o.id for o in operands.values())
        values = execute(network, flat, inputs, taps).values
        found = {}
        for op, frame in ops.items():
            rows = features(frame, values[operands[op].id], windows[op])[0]
            gram = jnp.matmul(rows.T, rows, precision="highest")
            found[op] = gram / len(rows)
        return found

    total: dict[int, Array] = {}
    weight = 0
    for batch in batches:
        inputs = jax.tree.leaves(batch)
        new = {op: np.asarray(x, np.float64) for op, x in sums(flat, inputs).items()}
        rows = len(inputs[0])
        total = {op: total.get(op, 0.0) + rows * x for op, x in new.items()}
        weight += rows
    return {op: x / weight for op, x in total.items()}
