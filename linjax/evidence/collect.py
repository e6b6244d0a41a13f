"""One streaming pass over a calibration set."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sized
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from linjax.dims.network import Network
from linjax.errors import EvidenceError, StructureError
from linjax.evidence import placement, points, sensitivity, sums
from linjax.evidence.expand import expanded
from linjax.evidence.metric import settled
from linjax.evidence.moments import Moments
from linjax.evidence.moved import sketch
from linjax.evidence.stats import Stats, UnitStats
from linjax.evidence.streaming import State, empty, step
from linjax.evidence.weights import checked, first
from linjax.graph import pytree
from linjax.graph.net import Net
from linjax.report.progress import track

Array = Any
Batch = Any
Weights = Callable[..., Array] | Iterable[Array]

FLUSH = 16  # batches whose sums stay on the device before they move to float64 on the host
SENSITIVITY_ROWS = 1536  # rows that the output sensitivity is measured on, over all batches
SENSITIVITY_BATCHES = 12  # batches that they are taken from
CHANNEL_ROWS = 24  # rows of each of them for feature maps, whose every place counts


def collect(
    net: Net,
    params: Any,
    batches: Iterable[Batch],
    *,
    second_moments: bool = True,
    metric: str | None = None,
    folds: int = 2,
    weights: Weights | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> Stats:
    """Gathers statistics of every unit in one streaming pass over a calibration set.

    Per unit: the exact number of samples with ``z > 0``, means, variances and covariance
    of pre-activation z and activation h. Per chain, on request: second moments of all
    features ``a = [v_0, h_1, …, h_n]`` and the output sensitivity ``G = E[Jᵀ F J]`` of
    every layer, which the least-squares folds need. A chain of D features takes
    ``4 folds D²`` bytes on the device and ``16 folds D²`` on the host.

    Elsewhere (convolutions, attention): by site, second moments of its coordinates where they
    are read, every place of every example being a sample, and how much the outputs mind.

    Args:
      net: the traced network.
      params: its parameters, original or folded.
      batches: an iterable of what ``apply_fn`` takes after the parameters: an array, or a
        tuple of several. The last batch may be shorter.
      second_moments: whether to gather second moments and sensitivities; the published
        rules do without.
      metric: output metric of the sensitivities: ``"softmax"`` for logits of a
        classification, ``"identity"`` for a regression. By default as the outputs suggest:
        the softmax's for a single output of rows and two or more columns (or several of that
        shape), else the identity. The evidence says which (``stats.metric``).
      folds: number of interleaved folds of the rows that second moments are kept in, for
        held-out errors; at least 2.
      weights: what samples count for, such as a mask of padded rows or tokens: a function of
        a batch's inputs, or an iterable beside ``batches`` with an array for each; ``(rows,)``,
        or with further axes where a row has several samples (``(rows, tokens)``). Booleans,
        whole numbers or floating, at least 0. What weighs nothing is as if it weren't there;
        a row that is one sample to a site counts as its heaviest token does. Outputs are
        weighed alike in the sensitivities.
      mesh: devices to spread every batch over, along its first axis. Batches that don't
        divide evenly run unsharded. Counts are the same as on one device. Parameters that
        are sharded over the mesh already stay so. If the mesh is of several processes, each
        of them gives its own rows, as many as the others, and gets the same result.
      progress: whether to show a progress bar; by default on a terminal, after two seconds.

    Returns:
      :class:`Stats`, in float64 and int64 on the host.

    Raises:
      StructureError: if params or a batch doesn't fit the network, naming path and shape.
      EvidenceError: if there are no batches, a batch is empty, or a site's values aren't
        finite, naming site and batch; if weights are negative or don't fit a site's samples.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> x = jnp.array([[1.0, -1.0, 2.0], [3.0, -2.0, -1.0]])
      >>> stats = linjax.collect(linjax.trace(apply, params, x), params, [x])
      >>> stats.rates["in"].tolist()
      [1.0, 0.0, 0.5]
    """
    _check(net, params, folds)
    metric = settled(metric, net)
    before = sketch(params)
    params = placement.place(params, mesh)
    state: State | None = None
    host: Any = None
    outputs: list[Any] = []
    key = jax.random.key(0)
    expected = SENSITIVITY_BATCHES
    if isinstance(batches, Sized):
        expected = len(batches)
        placement.agree(expected, mesh)
    quota = -(-SENSITIVITY_ROWS // max(1, min(expected, SENSITIVITY_BATCHES)))
    last = 0
    beside = None if weights is None or callable(weights) else iter(weights)
    general = None if net.chained else points.Gathering(folds)
    wide = None if net.chained else expanded(net.network, pytree.flatten(params))
    for index, batch in enumerate(track(batches, "collect", progress)):
        given = _given(weights, beside, batch, index)
        inputs, each = _inputs(batch, given, index, mesh)
        last = index
        if general is not None:
            _gather(general, net, params, wide, inputs, each, index, metric, quota, mesh)
            continue
        if state is None:
            state = empty(net, params, inputs, each, second_moments, folds)
        state = step(net, params, inputs, each, state, folds)
        if second_moments and index < SENSITIVITY_BATCHES:
            some, some_of = first(inputs, each, quota)
            draw = jax.random.fold_in(key, index)
            outputs.append(sensitivity.sensitivity_sums(net, params, some, draw, metric, some_of))
        if (index + 1) % FLUSH == 0:
            host, state = _flush(host, state, mesh)
    if general is not None and general.turn:
        found, variation = general.points()
        leaves = pytree.leaves_of(params)
        graph = net.graph._replace(chains=())
        return Stats(
            (), (), graph, leaves, found, np.asarray(variation), net.network, metric, before
        )
    if state is None:
        raise EvidenceError("no batches: the iterable of calibration data is empty")
    host, state = _flush(host, state, mesh)
    state, outputs = placement.fetch((state, outputs), mesh)
    _finite(net, np.asarray(state.bad), last)
    return dataclasses.replace(_finish(net, params, host, state, outputs, metric), sketch=before)


def _gather(
    general: points.Gathering, net: Net, params: Any, wide: Any, inputs: Any, weights: Any,
    index: int, metric: str, quota: int, mesh: Mesh | None,
) -> None:  # fmt: skip
    """Adds a batch to the moments of sites that aren't units of chains."""
    flat = pytree.flatten(params)
    leaves, folds = jax.tree.leaves(inputs), general.folds
    rows = len(leaves[0])
    for fold in range(folds if rows >= folds else 1):
        part = [x[fold::folds] for x in leaves] if rows >= folds else leaves
        some = weights if weights is None or rows < folds else weights[fold::folds]
        own = jax.tree.unflatten(jax.tree.structure(inputs), part)
        network = net.network_for(flat, own)
        sums_ = placement.fetch(points.moment_sums(network, wide, part, some), mesh)
        _check_finite(network, sums_, index)
        general.add(jax.tree.map(lambda x: np.asarray(x, np.float64), sums_))
    if index < SENSITIVITY_BATCHES:
        quota = CHANNEL_ROWS if not net.network.dense else quota
        some, some_of = first(inputs, weights, quota)
        draw = jax.random.fold_in(jax.random.key(0), index)
        network = net.network_for(flat, some)
        found = points.metric_sums(network, flat, jax.tree.leaves(some), draw, metric, some_of)
        found = placement.fetch(found, mesh)
        general.weigh(jax.tree.map(lambda x: np.asarray(x, np.float64), found))


def _check_finite(network: Network, found: Any, index: int) -> None:
    for site, own in zip(network.foldable, found, strict=True):
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(own)):
            raise EvidenceError(
                f"{site.name}: activations are not finite (NaN or infinite), first in batch "
                f"{index}; check the inputs and the parameters"
            )


def _check(net: Net, params: Any, folds: int) -> None:
    net.check(params)
    if not net.chained and not net.network.foldable:
        refusals = net.graph.refusals or net.network.refusals
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in refusals)
        raise StructureError(f"the network has no foldable site ({reasons or 'no affine maps'})")
    if folds < 2:
        raise EvidenceError(f"folds = {folds}, expected at least 2")


def _given(weights: Weights | None, beside: Any, batch: Batch, index: int) -> Any:
    """The weights of a batch, None without any."""
    if callable(weights):
        return weights(*(batch if isinstance(batch, tuple) else (batch,)))
    if beside is None:
        return None
    try:
        return next(beside)
    except StopIteration:
        raise EvidenceError(f"batch {index}: no weights are left for it") from None


def _inputs(batch: Batch, given: Any, index: int, mesh: Mesh | None) -> tuple[Any, Any]:
    """Makes a tuple of arrays of a batch, and weights, spread over the mesh where possible."""
    inputs = batch if isinstance(batch, tuple) else (batch,)
    leaves = jax.tree.leaves(inputs)
    rows = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in leaves}
    if not leaves or None in rows:
        raise EvidenceError(f"batch {index}: expected arrays with a leading batch axis")
    if 0 in rows:
        raise EvidenceError(f"batch {index}: empty, expected at least one row")
    if len(rows) > 1:
        raise EvidenceError(f"batch {index}: arrays of {sorted(rows)} rows, expected one number")
    (count,) = rows
    if given is not None:
        given = checked(given, count, index)
    return placement.spread((inputs, given), count, index, mesh)


def _flush(host: Any, state: State, mesh: Mesh | None) -> tuple[Any, State]:
    """Moves the device's sums to the host: integers to int64, the rest to float64."""
    sums_now = (state.units, state.chains)

    def up(x: Array) -> np.ndarray:
        wide = np.int64 if jnp.issubdtype(x.dtype, jnp.integer) else np.float64
        return np.asarray(x).astype(wide)

    moved = jax.tree.map(up, placement.fetch(sums_now, mesh))
    host = moved if host is None else jax.tree.map(np.add, host, moved)
    units, chains = jax.tree.map(jnp.zeros_like, sums_now)
    return host, state._replace(units=units, chains=chains)


def _finite(net: Net, bad: np.ndarray, last: int) -> None:
    for name, index in zip((s.name for s in net.graph.sites), bad, strict=True):
        if index >= 0:
            raise EvidenceError(
                f"{name}: activations are not finite (NaN or infinite), first in batch "
                f"{int(index)} of {last + 1}; check the inputs and the parameters"
            )


def _finish(
    net: Net, params: Any, host: Any, state: State, outputs: list[Any], metric: str
) -> Stats:
    """Turns sums about centres into means and centred sums."""
    units = tuple(
        _unit_stats(u, *(np.asarray(c, np.float64) for c in centres))
        for u, centres in zip(host[0], state.unit_centres, strict=True)
    )
    moments = None
    if outputs:
        totals = jax.tree.map(
            lambda *parts: np.sum(np.asarray(parts, np.float64), axis=0), *outputs
        )
        moments = tuple(
            _moments(c, [np.asarray(x, np.float64) for x in centres], count, grams)
            for c, centres, count, grams in zip(host[1], state.chain_centres, *totals, strict=True)
        )
    return Stats(units, moments, net.graph, pytree.leaves_of(params), metric=metric)


def _unit_stats(u: sums.UnitSums, centre_z: np.ndarray, centre_h: np.ndarray) -> UnitStats:
    n = float(u.count) or 1.0
    z, h, zz, hh, zh = u.sums
    scatter = np.stack([zz - z * z / n, hh - h * h / n, zh - z * h / n])
    scatter[:2] = np.maximum(scatter[:2], 0.0)
    return UnitStats(u.count, u.active, centre_z + z / n, centre_h + h / n, scatter)


def _moments(
    c: sums.ChainSums, centres: list[np.ndarray], count: float, grams: tuple[np.ndarray, ...]
) -> Moments:
    n = np.where(c.count > 0, c.count, 1).astype(np.float64)
    size = c.first.shape[1]
    scatter = np.empty((len(n), size, size))
    for end, rows in zip(itertools.accumulate(len(x) for x in centres), c.second, strict=True):
        start = end - rows.shape[1]
        scatter[:, start:end, :end] = rows
        scatter[:, :end, start:end] = rows.swapaxes(1, 2)
    scatter -= c.first[:, :, None] * (c.first / n[:, None])[:, None, :]
    return Moments(
        count=c.count.astype(np.float64),
        mean=np.concatenate(centres) + c.first / n[:, None],
        scatter=scatter,
        sensitivity=tuple(g / (float(count) or 1.0) for g in grams),
        blocks=tuple(len(x) for x in centres),
    )
