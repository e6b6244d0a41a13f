"""One streaming pass over a calibration set."""

import functools
from collections.abc import Callable, Iterable, Sized
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from linjax.dims.network import Network
from linjax.dims.spelled import spelled
from linjax.errors import EvidenceError, StructureError, warn
from linjax.evidence import moments, placement, silent
from linjax.evidence.effort import effort
from linjax.evidence.metric import settled
from linjax.evidence.moved import sketch
from linjax.evidence.points import reads
from linjax.evidence.rows import by_row as by_row_of
from linjax.evidence.rows import length, taken, told
from linjax.evidence.sensitivity import metric_sums
from linjax.evidence.stats import Stats, unit_stats
from linjax.evidence.weights import checked, first, of_rows
from linjax.net import Net
from linjax.program import pytree
from linjax.program.pytree import Leaf
from linjax.report.progress import track

Array = Any
Batch = Any
Weights = Callable[..., Array] | Iterable[Array]

FLUSH = 16  # batches whose sums stay on the device before they move to float64 on the host
SENSITIVITY_ROWS = 1536  # rows that the output sensitivity is measured on, over all batches
SENSITIVITY_BATCHES = 12  # batches that they are taken from
SENSITIVITY_IMAGES = 288  # likewise for feature maps, whose every place counts


def collect(
    net: Net,
    params: Any,
    batches: Iterable[Batch],
    *,
    second_moments: bool = True,
    metric: str | None = None,
    folds: int = 2,
    weights: Weights | None = None,
    by_row: Any = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> Stats:
    """Gathers statistics of every unit in one streaming pass over a calibration set.

    Per unit: the exact number of samples with ``z > 0``, means, variances and covariance
    of pre-activation z and activation h. On request, for the least-squares folds: by site, second
    moments of its coordinates where they are read, with and without activation, every place of
    every example being a sample; by kernel, those of what it reads; and how much the outputs mind
    errors there, ``Q = E[Jᵀ F J]``. A site of m units takes ``16 folds m²`` bytes on the device
    and twice that on the host. Sensitivities are measured on 1536 rows at most, 288 of feature
    maps; where that would take more than 2e12 operations, at 64 places of an example, then with
    fewer random signs, then on fewer rows.

    Args:
      net: the traced network.
      params: its parameters, original or folded.
      batches: an iterable of what ``apply_fn`` takes after the parameters: an array, or a
        tuple of several. The last batch may be shorter.
      second_moments: whether to gather second moments and sensitivities; the published
        rules do without.
      metric: output metric of the sensitivities: ``"softmax"`` for logits of a
        classification, ``"identity"`` for a regression. By default as the outputs suggest:
        the softmax's for a single output of rows and two or more columns (or
        several of that shape), unless a last function bounds it (tanh, a softmax) or an input is
        added to it; else the identity. The evidence says which (``stats.metric``).
      folds: number of interleaved folds of the rows that second moments are kept in, for
        held-out errors; at least 2.
      weights: what samples count for, such as a mask of padded rows or tokens: a function of
        a batch's inputs, or an iterable beside ``batches`` with an array for each; ``(rows,)``,
        or with further axes where a row has several samples (``(rows, tokens)``). Booleans,
        whole numbers or floating, at least 0. What weighs nothing is as if it weren't there;
        a row that is one sample to a site counts as its heaviest token does. Outputs are
        weighed alike in the sensitivities.
      by_row: which inputs have a row for each example: a boolean, or a tuple of one for each of
        them. The others belong to all rows (a table, a random key); where none has rows a batch is
        one example as a whole (a graph, with its nodes and edges), and the samples of every site
        are dealt to the folds instead of rows. By default all of them; where their lengths differ,
        or one is looked up in another, those whose first axis is the outputs' first, if nothing
        mixes its entries on the way. Examples of other sizes are traced anew: pad to a few sizes.
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
    own = placement.place(params, mesh)
    flat = net.network.flatten(own)
    pass_ = _Pass(net, flat, folds, second_moments, mesh)
    expected = SENSITIVITY_BATCHES
    if isinstance(batches, Sized):
        expected = len(batches)
        placement.agree(expected, mesh)
    most = SENSITIVITY_ROWS if net.network.dense else SENSITIVITY_IMAGES
    parts = max(1, min(expected, SENSITIVITY_BATCHES))
    quota = -(-most // parts)
    beside = None if weights is None or callable(weights) else iter(weights)
    for index, batch in enumerate(track(batches, "collect", progress)):
        given = _given(weights, beside, batch, index)
        part = _part(net, flat, batch, given, by_row, index, mesh)
        pass_.add(part, index)
        if second_moments and index < SENSITIVITY_BATCHES:
            pass_.weigh(part, quota, index, metric, parts)
    if not pass_.batches:
        raise EvidenceError("no batches: the iterable of calibration data is empty")
    found = pass_.stats(sketch(params), pytree.leaves_of(params), metric)
    few = {s.name: (int(u.count), s.width) for s, u in zip(found.sites, found.seen, strict=True)
           if u.count < s.width}  # fmt: skip
    if few and second_moments:
        told = ", ".join(f"{name}: {n} for {width} units" for name, (n, width) in few.items())
        warn(
            f"fewer samples than units ({told}): what is predicted holds for these samples alone; "
            "collect on more, or measure on others by linjax.compare"
        )
    return found


class _Part(NamedTuple):
    """A batch: its inputs' leaves and containers, which of them have rows, and what these weigh."""

    leaves: list[Array]
    tree: Any
    rows: tuple[bool, ...]
    weights: Array | None

    def taken(self, index: Any, weights: Array | None = None) -> "_Part":
        """Some of its rows."""
        return self._replace(leaves=taken(self.leaves, self.rows, index), weights=weights)

    def halved(self) -> Any:
        """The shapes of its inputs with half of its rows."""
        pairs = zip(pytree.shapes_of(self.leaves), self.rows, strict=True)
        halves = [x.update(shape=(-(-x.shape[0] // 2), *x.shape[1:])) if row else x
                  for x, row in pairs]  # fmt: skip
        return jax.tree.unflatten(self.tree, halves)

    @property
    def inputs(self) -> Any:
        return jax.tree.unflatten(self.tree, self.leaves)


class _Pass:
    """What has been gathered so far: on the device, and on the host."""

    def __init__(
        self, net: Net, flat: pytree.Flat, folds: int, whole: bool, mesh: Mesh | None
    ) -> None:
        self.net, self.whole, self.mesh = net, whole, mesh
        self.flat = spelled(net.network, flat) if whole else flat
        self.device: list[Any] = [None] * folds
        self.host: list[Any] = [None] * folds
        self.metrics: Any = None
        self.some: _Part | None = None
        self.batches = 0

    def add(self, part: _Part, index: int) -> None:
        """Takes the moments of a batch; its rows are dealt to the folds by turns."""
        folds = len(self.device)
        for fold, own in enumerate(_dealt(part, folds)):
            network = self._network(own.inputs, part.inputs)
            turn = None if any(own.rows) else jnp.asarray(((fold + index) % folds, folds))
            now = moments.batch_sums(network, self.flat, own.leaves, own.weights, self.whole, turn)
            old = self.device[fold]
            now = now if old is None else moments.merge_on_device(old, now)
            self.device[fold] = _done(now, self.mesh)
        self.batches += 1
        if self.batches % FLUSH == 0:
            self.flush(index)

    def _network(self, part: Any, batch: Any) -> Network:
        try:
            return self.net.network_for(self.flat, part)
        except StructureError:
            self.net.network_for(self.flat, batch)  # its shapes are known to whoever gave it
            raise

    def flush(self, index: int) -> None:
        """Moves what is on the device to float64 on the host."""
        for fold, own in enumerate(placement.fetch(self.device, self.mesh)):
            if own is None:
                continue
            now = moments.on_host(own)
            _check_finite(self.net.network, now, index)
            old = self.host[fold]
            self.host[fold] = now if old is None else moments.merge_batches(old, now)
            self.device[fold] = None

    def weigh(self, part: _Part, quota: int, index: int, metric: str, parts: int) -> None:
        """Measures on some rows what errors cost; these batches are taken for it, all alike."""
        key = jax.random.fold_in(jax.random.key(0), index)
        order, weights = first(part.weights, quota)
        some = part.taken(order, weights)
        rows = length(some.leaves, some.rows, index) if any(some.rows) else 1
        plan = effort(self.net.network_for(self.flat, some.inputs), rows, parts)
        for start in range(0, plan.examples, plan.together):
            own, now = slice(start, min(start + plan.together, plan.examples)), some
            if own != slice(0, rows):
                key = jax.random.fold_in(key, start)
                now = some.taken(own, None if weights is None else weights[own])
            network = self.net.network_for(self.flat, now.inputs)
            sums = metric_sums(
                network, self.flat, now.leaves, key, metric, now.weights, plan.places, plan.probes
            )
            sums = sums if self.metrics is None else _added(self.metrics, sums)
            self.metrics, self.some = _done(sums, self.mesh), now

    def stats(self, before: Array, leaves: tuple[Leaf, ...], metric: str) -> Stats:
        """The evidence."""
        self.flush(self.batches - 1)
        net, folds = self.net, [own for own in self.host if own is not None]
        seen = tuple(
            unit_stats(functools.reduce(moments.merge_units, own))
            for own in zip(*(fold.units for fold in folds), strict=True)
        )
        metrics = self.metrics and jax.tree.map(
            lambda x: np.array(x, np.float64), placement.fetch(self.metrics, self.mesh)
        )
        if metrics is not None:
            metrics = (self.measured(metrics[0], metric), *metrics[1:])
        second = _second(net.network, [fold.places for fold in folds], metrics)
        return Stats(seen, *second, before, net.network, net.graph, leaves, metric)

    def measured(self, grams: Any, metric: str) -> Any:
        """Measures what derivatives don't tell, and says where."""
        some: Any = self.some
        network = self.net.network_for(self.flat, some.inputs)
        grams, names = silent.measured(network, self.flat, some.leaves, grams, metric, some.weights)
        if names:
            warn(
                f"the outputs depend on {', '.join(names)} but have no derivative there (something "
                "behind rounds, compares or stops gradients): what errors cost there is taken from "
                "putting a mean in its place; measure folds by linjax.compare"
            )
        return grams


def _done(found: Any, mesh: Any) -> Any:
    """Waits for results that devices exchange parts of, so that all of them do so in one order."""
    return found if mesh is None else jax.block_until_ready(found)


@jax.jit
def _added(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _second(
    network: Network, folds: list[tuple[moments.Sums, ...]], metrics: Any
) -> tuple[Any, Any, Array]:
    """Second moments and metrics by site and point, and by kernel; the outputs' variation."""
    if metrics is None:
        return (), (), np.asarray(0.0)
    grams, examples, variation = metrics
    examples = max(float(examples), 1e-30)
    by_place = zip(*folds, strict=True)
    stacked = iter([moments.Sums(*map(np.stack, zip(*own, strict=True))) for own in by_place])
    weights = iter([_weight(gram, examples, float(samples)) for gram, samples in grams])
    points = [
        tuple(moments.PointMoments(*next(stacked), *next(weights)) for _ in site.points)
        for site in network.foldable
    ]
    kernels = []
    for read in reads(network):
        if read.point is None:
            own = next(stacked)
        else:
            count, mean, scatter, metric, _ = points[read.point[0]][read.point[1]]
            m = metric.shape[-1]
            own = moments.Sums(count, mean[..., :m], scatter[..., :m, :m])
        kernels.append(moments.PointMoments(*own, *next(weights)))
    return tuple(points), tuple(kernels), np.asarray(float(variation) / examples)


def _weight(gram: Array, examples: float, samples: float) -> tuple[Array, Array]:
    """The metric at a place, and the number of places of an example."""
    return moments.mirrored(gram) / max(samples, 1e-30), np.asarray(samples / examples)


def _divides(net: Net, flat: pytree.Flat, part: _Part) -> bool:
    """Whether the network takes some of a batch's rows: its function may be bound to their number.

    Where it doesn't take all of them either, that is for the error to say.
    """
    if not any(part.rows):
        return True
    try:
        net.network_for(flat, part.halved())
    except StructureError:
        net.network_for(flat, part.inputs)
        return False
    return True


def _dealt(part: _Part, folds: int) -> list[_Part]:
    """The rows of each fold, or all of them, of which those of the other folds weigh nothing."""
    if not any(part.rows):
        return [part] * folds
    rows, weights = len(part.leaves[part.rows.index(True)]), part.weights
    if weights is not None:
        counts = of_rows(weights) > 0  # a row that weighs nothing is as if it weren't there
        turn = (jnp.cumsum(counts) - 1) % folds
        shape = (rows, *(1,) * (weights.ndim - 1))
        own = [jnp.where((turn == f).reshape(shape), weights, 0) for f in range(folds)]
        return [part._replace(weights=w) for w in own]
    return [part.taken(slice(f, None, folds)) for f in range(min(folds, rows))]


def _check_finite(network: Network, found: moments.Batch, index: int) -> None:
    names = [site.name for site in network.foldable for _ in site.points]
    names += [network.names[network.kernels[r.op].leaf] for r in reads(network) if r.point is None]
    units = zip((site.name for site in network.foldable), found.units, strict=True)
    for name, own in (*units, *zip(names, found.places, strict=False)):
        if not all(np.isfinite(x).all() for x in own):
            raise EvidenceError(
                f"{name}: activations are not finite (NaN or infinite), by batch {index}; check "
                "the inputs and the parameters"
            )


def _check(net: Net, params: Any, folds: int) -> None:
    net.check(params)
    if not net.network.foldable:
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in net.network.refusals)
        reasons = reasons or "no two units side by side"
        raise StructureError(f"the network has no foldable site ({reasons})")
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


def _part(
    net: Net, flat: pytree.Flat, batch: Batch, given: Any, said: Any, index: int,
    mesh: Mesh | None,
) -> _Part:  # fmt: skip
    """Makes arrays of a batch and its weights, spread over the mesh where possible."""
    inputs = batch if isinstance(batch, tuple) else (batch,)
    leaves, tree = jax.tree.flatten(inputs)
    if not leaves:
        raise EvidenceError(f"batch {index}: expected arrays, got none")
    if said is not None:
        rows = told(said, inputs)
    else:
        alone = len(leaves) == 1 and jnp.ndim(leaves[0]) > 0
        rows = (True,) if alone else by_row_of(net.network_for(flat, inputs), leaves)
        if not _divides(net, flat, _Part(leaves, tree, rows, None)):
            rows = (False,) * len(rows)
    count = length(leaves, rows, index)
    if given is not None and not any(rows):
        raise EvidenceError(
            f"batch {index}: weights are of rows, and its inputs have none of their own; leave "
            "away what is padded"
        )
    if given is not None:
        given = checked(given, count, index)
    own = [x for x, row in zip(leaves, rows, strict=True) if row]
    own, given = placement.spread((own, given), count, index, mesh)
    beside = iter(placement.place([jnp.asarray(x) for x, row in zip(leaves, rows, strict=True)
                                   if not row], mesh))  # fmt: skip
    spread = iter(own)
    return _Part([next(spread if row else beside) for row in rows], tree, rows, given)
