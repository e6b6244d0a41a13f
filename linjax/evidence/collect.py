"""One streaming pass over a calibration set."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from linjax.dims.spelled import spelled
from linjax.errors import EvidenceError, StructureError, warn
from linjax.evidence import coherence, moments, placement, silent
from linjax.evidence.given import all_there, as_batches, as_net, as_values
from linjax.evidence.host import Host
from linjax.evidence.limits import Limits, groups
from linjax.evidence.metric import settled
from linjax.evidence.moved import sketch
from linjax.evidence.parts import Batch, Part, Weights, given_of, part_of
from linjax.evidence.passing import Job, Pass, extents_of
from linjax.evidence.places import places
from linjax.evidence.spreading import spread_over
from linjax.evidence.stats import Stats, unit_stats
from linjax.evidence.steps import stepped
from linjax.evidence.stored import opened
from linjax.net import Net
from linjax.program import pytree
from linjax.program.placed import automatic_mesh
from linjax.report.progress import track

SENSITIVITY_ROWS = 1536  # rows that the output sensitivity is measured on, over all batches
SENSITIVITY_BATCHES = 12  # batches that they are taken from
SENSITIVITY_IMAGES = 288  # likewise for feature maps, whose every place counts
AHEAD = 2**28  # numbers in batches that are looked at ahead, to see how many there will be


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
    limits: Limits | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Stats:
    """Gathers statistics of every unit in one streaming pass over a calibration set.

    Per unit: the exact number of samples with ``z > 0``, means, variances and covariance
    of pre-activation z and activation h. On request, for the least-squares folds: by site, second
    moments of its coordinates where they are read, with and without activation, every place of
    every example being a sample; by kernel, those of what it reads; and how much the outputs mind
    errors there, ``Q = E[Jᵀ F J]``. A site of w coordinates (m units, twice as many with
    linear ones beside them) takes ``4 (folds + 2) w²`` bytes of the device and ``12 m²`` for its
    sensitivity, ``8 folds w² + 8 m²`` of the host: ``limits`` bounds the first, ``folder`` the
    second. Sensitivities are measured on 1536 rows at most, 288 of feature
    maps, with eight random signs each, or, where rows have logits of their own, at 3072 pairs of a
    row and a class (640 of feature maps) that are drawn as often as they weigh in the metric; where
    that would take more than 2e12 operations, at 64 places of an example, then with fewer random
    signs, then on fewer rows. How errors of an example's places add up is told from 64 rows, where
    nothing is weighed.

    Args:
      net: the traced network.
      params: its parameters, original or folded.
      batches: an iterable of what ``apply_fn`` takes after the parameters: an array, or a
        tuple of several. The last batch may be shorter. Of an iterator up to twelve are held at
        once: sensitivities are shared out among them; of a list, among twelve that are spread
        over it. Neither the order of rows nor the size of batches matters otherwise.
      second_moments: whether to gather second moments and sensitivities; the published
        rules do without.
      metric: output metric of the sensitivities: ``"softmax"`` for logits of a
        classification (rows' own made less certain), ``"identity"`` for a regression. By
        default as the outputs suggest: the softmax's for a single output of rows and two or
        more columns (or several of that shape), unless a last function bounds it (tanh, a
        softmax) or an input is added to it; else the identity. The evidence says which
        (``stats.metric``).
      folds: number of folds of the rows, dealt at random, that second moments are kept in, for
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
      mesh: devices to spread every batch over, along its first axis. An axis of it that is named
        "model" spreads the rows of second moments instead, so that each of its M devices holds
        an M-th of them (where widths divide); moments of different rows are summed once at the
        end. Batches that don't divide evenly run unsharded. Counts are the same as on one device.
        Parameters that are sharded over the mesh already stay so. If the mesh is of several
        processes, each of them gives its own rows, as many as the others, and gets the same
        result; an axis "model" has to lie within a process.
      progress: whether to show a progress bar; by default on a terminal, after two seconds.
      limits: what a device may hold, see :class:`Limits`. Evidence that takes more is gathered
        in several passes over the batches, a group of sites in each, and of a scan's layers;
        the result is the same. By default half of what the devices have free; batches that can
        be gone through only once are then gathered in one pass.
      folder: an empty folder, or one that isn't there yet, for second moments that needn't fit
        the host's memory: 8 bytes an entry. They are read from it part by part when they are
        needed, so it has to stay as long as the evidence.

    Returns:
      :class:`Stats`, in float64 and int64 on the host.

    Raises:
      StructureError: if params or a batch doesn't fit the network, naming path and shape.
      EvidenceError: if there are no batches, a batch is empty, or a site's values aren't
        finite, naming site and batch; if weights are negative or don't fit a site's samples;
        if limits are less than one repeat of a site takes, or ask for several passes over what
        can be gone through once; if the folder isn't empty.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> x = jnp.array([[1.0, -1.0, 2.0], [3.0, -2.0, -1.0]])
      >>> stats = linjax.collect(linjax.trace(apply, params, x), params, [x])
      >>> stats.rates["in"].tolist()
      [1.0, 0.0, 0.5]
    """
    _check(net, params, batches, folds, limits)
    mesh = automatic_mesh(mesh)
    own = placement.place(params, mesh)
    flat = net.network.flatten(own)
    flat = spelled(net.network, flat) if second_moments else flat
    batches, expected = _ahead(batches, SENSITIVITY_BATCHES)
    placement.agree(expected, mesh)
    most = SENSITIVITY_ROWS if net.network.dense else SENSITIVITY_IMAGES
    parts = max(1, min(expected, SENSITIVITY_BATCHES))
    job = Job(
        net, flat, folds, second_moments, mesh, spread_over(mesh), settled(metric, net),
        -(-most // parts), frozenset(n * expected // parts for n in range(parts)),
    )  # fmt: skip
    host = Host(net.network, folds, None, opened(folder))

    def parts_of() -> Iterator[Part]:
        beside = None if weights is None or callable(weights) else iter(weights)
        for index, batch in enumerate(track(batches, "collect", progress)):
            given = given_of(weights, beside, batch, index)
            yield part_of(net, flat, batch, given, by_row, index, mesh)
        if beside is not None and next(beside, None) is not None:
            raise EvidenceError("weights: there are more of them than batches")

    again = not any(isinstance(own, Iterator) for own in (batches, weights))
    passes = []
    for group in _groups(job, host, again, limits):
        now = Pass(job, group, host)
        for index, part in enumerate(parts_of()):
            outputs = now.add(part, index)
            if now.due(index):
                now.weigh(part, index, outputs)
        if not now.batches:
            raise EvidenceError("no batches: the iterable of calibration data is empty")
        now.finish()
        passes.append(now)
    found = _stats(job, host, passes, params)
    if not any(u.count for u in found.seen):
        raise EvidenceError("weights: all are zero, so that no sample counts for anything")
    few = {s.name: (int(u.count), s.width) for s, u in zip(found.sites, found.seen, strict=True)
           if u.count < s.width}  # fmt: skip
    if few and second_moments:
        told = ", ".join(f"{name}: {n} for {width} units" for name, (n, width) in few.items())
        warn(
            f"fewer samples than units ({told}): what is predicted holds for these samples alone; "
            "collect on more, or measure on others by linjax.compare"
        )
    if second_moments and not float(found.variation) > 0:
        warn(
            "the outputs are the same for all rows of a batch (one number for all of them, such as "
            "a loss, or a constant), so that relative errors have no scale: trace a function whose "
            "outputs have rows"
        )
    return found


def _ahead(batches: Iterable[Batch], most: int) -> tuple[Iterable[Batch], int]:
    """The batches, and how many there are, as far as that counts.

    Sensitivities are shared out among the first ones: of an iterator with fewer, a part of the
    rows that they may be measured on would be left out.
    """
    if isinstance(batches, Sized):
        return batches, len(batches)
    start, seen, numbers = iter(batches), list[Batch](), 0
    for batch in itertools.islice(start, most):
        seen.append(batch)
        numbers += sum(getattr(leaf, "size", 0) for leaf in jax.tree.leaves(batch))
        if numbers > AHEAD:
            break
    found = most if numbers > AHEAD else len(seen)
    return (itertools.chain(seen, start) if start is batches else batches), found


def _groups(job: Job, host: Host, again: bool, limits: Limits | None) -> list[Any]:
    """Deals the places of evidence to passes; None stands for all of them."""
    room = (Limits() if limits is None else limits).room() if job.whole else None
    if room is None or (limits is None and not again):
        return [None]
    extents = extents_of(job)
    found = groups(extents, job.folds, room)
    if len(found) == 1:
        return [None]
    if not again:
        raise EvidenceError(
            f"{room:,} bytes are enough for {len(found)} passes over the batches, which can be "
            "gone through once: give a list, or something that starts anew for each of them"
        )
    host.repeats = [own.repeats for own in extents]
    return list(found)


def _stats(job: Job, host: Host, passes: list[Pass], params: Any) -> Stats:
    """The evidence that passes have gathered."""
    net, first = job.net, passes[0]
    used = [fold for fold, own in enumerate(first.units) if own is not None]
    seen = tuple(
        unit_stats(functools.reduce(moments.merge_units, own))
        for own in zip(*(first.units[fold] for fold in used), strict=True)
    )
    points: Any = ()
    kernels: Any = ()
    outputs: Any = ()
    if first.some is not None:
        _measure(job, host, first.some)
        _add_up(job, host, first.shown)
        points, kernels = host.points(first.examples, used)
        outputs = first.outputs
    leaves = pytree.leaves_of(params)
    return Stats(
        seen, points, kernels, outputs, sketch(params), net.network, net.graph, leaves, job.metric
    )


def _measure(job: Job, host: Host, some: Any) -> None:
    """Measures what derivatives don't tell, and says where."""
    names, network = [], job.net.network_for(job.flat, some.inputs)
    behind, every = stepped(network), places(network)
    at = sorted(n for n in host.weighed if every[n].result in behind)
    values = tuple(dict.fromkeys(every[n].result for n in at))
    prices = {
        value: silent.missing(
            network, job.flat, some.leaves, values, jnp.int32(which), job.metric, some.weights
        ).price()
        for which, value in enumerate(values)
    }
    for n in at:
        if (price := prices[every[n].result]) > 0:
            host.raise_by(n, price)
            names.append(every[n].name)
    if names:
        warn(
            f"the outputs depend on {', '.join(dict.fromkeys(names))} in ways that have no "
            "derivative (something behind rounds, compares, or has a derivative of its own): what "
            "errors cost there is measured by moving it; measure folds by linjax.compare"
        )


def _add_up(job: Job, host: Host, shown: list[Part]) -> None:
    """Measures how errors of an example's places add up."""
    rows = sum(part.size for part in shown)
    if rows < 2:
        return
    leaves = [jnp.concatenate(own) for own in zip(*(p.leaves for p in shown), strict=True)]
    size = coherence.together(job.net.network, rows)
    count = rows // size
    parts = [[x[n : count * size : count] for x in leaves] for n in range(count)]
    network = job.net.network_for(job.flat, shown[0]._replace(leaves=parts[0]).inputs)
    found = coherence.coherences(network, job.flat, parts, job.metric, job.mesh)
    for n, times in found.items():
        host.add_up(n, times)


def _check(net: Net, params: Any, batches: Any, folds: int, limits: Limits | None) -> None:
    as_net(net)
    net.check(params)
    as_values(params)
    all_there(net, params)
    as_batches(net, batches)
    if not net.network.foldable:
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in net.network.refusals)
        reasons = reasons or "no two units side by side"
        raise StructureError(f"the network has no foldable site ({reasons})")
    if np.asarray(folds).dtype.kind not in "iu" or folds < 2:
        raise EvidenceError(f"folds = {folds!r}, expected at least 2, a whole number")
    if not isinstance(limits, Limits | None):
        raise EvidenceError(f"limits: a {type(limits).__name__}, expected linjax.Limits(...)")
