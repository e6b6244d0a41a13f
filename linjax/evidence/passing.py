"""One pass over a calibration set: sums on the device, which move to the host now and then."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from linjax.dims.network import Network
from linjax.errors import StructureError
from linjax.evidence import moments, placement
from linjax.evidence.coherence import wanted
from linjax.evidence.drawn import Draw, can_draw, drawn, draws, in_order
from linjax.evidence.effort import Effort, effort
from linjax.evidence.host import Host, not_finite
from linjax.evidence.limits import Extent, Group
from linjax.evidence.parts import Part, counted, dealt
from linjax.evidence.places import ALL, Piece, places
from linjax.evidence.rows import fold_of, turns
from linjax.evidence.scale import merged, outputs_of
from linjax.evidence.sensitivity import metric_sums
from linjax.evidence.spreading import Spread, together
from linjax.evidence.weights import some as some_of
from linjax.net import Net
from linjax.program import pytree

Array = Any

FLUSH = 16  # batches whose sums stay on the device before they move to float64 on the host


class Job(NamedTuple):
    """What all passes over a calibration set are about.

    Attributes:
      net: the traced network.
      flat: its parameters.
      folds: of the rows.
      whole: whether second moments and sensitivities are wanted.
      mesh: devices that rows are spread over.
      spread: how evidence lies on it.
      metric: output metric.
      quota: rows of a batch that sensitivities are measured on.
      due: numbers of the batches that they are measured on.
    """

    net: Net
    flat: pytree.Flat
    folds: int
    whole: bool
    mesh: Mesh | None
    spread: Spread | None
    metric: str
    quota: int
    due: frozenset[int]


def extents_of(job: Job) -> list[Extent]:
    """How large the evidence at every place is; nothing is run."""
    net, every = job.net, places(job.net.network)
    network, leaves = net.network_for(job.flat, net.example), jax.tree.leaves(net.example)

    def evidence(flat: pytree.Flat, inputs: list[Array]) -> Any:
        sums = moments.batch_sums(network, flat, inputs, None, True).places
        return sums, metric_sums(network, flat, inputs, (0, 0), job.metric, None)[0]

    sums, grams = jax.eval_shape(evidence, pytree.shapes_of(job.flat), leaves)
    own = iter(sums)
    blocks = (lambda width: 1) if job.spread is None else job.spread.blocks
    return [
        Extent(
            place.name, gram.shape[0], next(own).mean.shape[-1] if place.sampled else 0,
            gram.shape[-1], blocks,
        )
        for place, (gram, _) in zip(every, grams, strict=True)
    ]  # fmt: skip


class Pass:
    """What a pass has gathered so far, of some places of evidence.

    Args:
      job: what it is about.
      group: the places; None for all of them.
      host: what takes their evidence.
    """

    def __init__(self, job: Job, group: Group | None, host: Host) -> None:
        self.job, self.host = job, host
        every = tuple(Piece(n, 0, ALL) for n in range(len(places(job.net.network))))
        self.pieces = Group(every, every) if group is None else group
        self.chosen = [None if group is None else chosen(own) for own in self.pieces]
        self.differentiates = job.whole and bool(self.pieces.metrics)
        self.device: list[Any] = [None] * job.folds
        self.units: list[Any] = [None] * job.folds
        self.metrics: Any = None
        self.outputs: Any = []
        self.examples = 0.0
        self.some: Part | None = None
        self.shown: list[Part] = []
        self.batches = 0
        self.rows = 0
        self.owed = 0  # rows that errors should have been weighed on besides

    def add(self, part: Part, index: int) -> list[Any]:
        """Takes the moments of a batch, whose rows are dealt to the folds by turns.

        Returns:
          What the network makes of these, if rows are drawn by it.
        """
        folds, job = self.job.folds, self.job
        outputs, alike = list[Any](), part.weights is None and all(part.rows) and job.mesh is None
        for start, own in enumerate(dealt(part, folds)):
            fold = fold_of(start, self.rows, folds)
            network = self._network(own.inputs, part.inputs)
            turn = None if any(own.rows) else jnp.asarray(((fold + index) % folds, folds))
            shown = self.differentiates and alike and can_draw(network, job.metric)
            now = moments.batch_sums(
                network,
                job.flat,
                own.leaves,
                own.weights,
                job.whole,
                turn,
                *(self.chosen[0] or (None, None)),
                job.spread,
                shown,
            )
            outputs += jax.tree.leaves(now.outputs)
            now = now._replace(outputs=None)
            old = self.device[fold]
            now = now if old is None else moments.merge_on_device(old, now)
            self.device[fold] = _done(now, job.mesh)
        self.rows += counted(part)
        self.batches += 1
        if self.batches % FLUSH == 0:
            self.flush(index)
        return outputs

    def _network(self, part: Any, batch: Any) -> Network:
        try:
            return self.job.net.network_for(self.job.flat, part)
        except StructureError:
            self.job.net.network_for(self.job.flat, batch)  # known to whoever gave it
            raise

    def flush(self, index: int) -> None:
        """Moves what is on the device to float64 on the host."""
        network = self.job.net.network
        sampled = [p for p in self.pieces.moments if places(network)[p.place].sampled]
        for fold in range(self.job.folds):
            own, self.device[fold] = self.device[fold], None
            if own is None:
                continue
            units = placement.fetch(own.units, self.job.mesh)
            units = tuple(map(moments.on_host, units))
            for site, unit in zip(network.foldable, units, strict=True):
                if not all(np.isfinite(x).all() for x in unit):
                    raise not_finite(site.name, index)
            old = self.units[fold]
            self.units[fold] = tuple(map(moments.merge_units, old, units)) if old else units
            for piece, sums in zip(sampled, own.places, strict=False):
                self.host.add(fold, piece, self._fetched(sums), index)

    def _fetched(self, sums: moments.Sums) -> moments.Sums:
        """Moments of all devices, on the host."""
        spread = self.job.spread
        if spread is not None:
            sums = moments.Sums(*_done(together(*sums, spread), spread))
        return moments.Sums(*map(placement.assembled, sums))

    def due(self, index: int) -> bool:
        """Whether errors are weighed on a batch: by its turn, or since others had few rows."""
        return self.differentiates and (index in self.job.due or self.owed > 0)

    def weigh(self, part: Part, index: int, outputs: list[Any]) -> None:
        """Measures on some rows of a batch what errors cost.

        Args:
          part: the batch.
          index: its number.
          outputs: what :meth:`add` returned for it.
        """
        job = self.job
        some, plan, draw = self._chosen(part, index, outputs)
        self._show(some)
        for start in range(0, plan.examples, plan.together):
            own, now, by = slice(start, min(start + plan.together, plan.examples)), some, draw
            if own != slice(0, plan.examples):
                now = some.taken(own, None if some.weights is None else some.weights[own])
                by = None if draw is None else draw.part(own)
            network = job.net.network_for(job.flat, now.inputs)
            sums = metric_sums(
                network, job.flat, now.leaves, (index, start), job.metric, now.weights, plan.places,
                plan.probes, *(self.chosen[1] or (None, None)), job.spread, by, any(part.rows),
            )  # fmt: skip
            *sums, seen = _done(sums, job.mesh)
            self.outputs += [seen] if seen else []
            self.metrics = sums if self.metrics is None else _added(self.metrics, sums)
            self.some = now

    def _show(self, some: Part) -> None:
        """Keeps a few rows that tell how errors of an example's places add up."""
        if not all(some.rows) or some.weights is not None:
            return
        most, there = wanted(self.job.net.network), some.size
        left = most - sum(own.size for own in self.shown)
        count = min(left, -(-most // len(self.job.due)), there)
        shapes = [[x.shape[1:] for x in own.leaves] for own in (*self.shown[:1], some)]
        if count > 0 and shapes[0] == shapes[-1]:
            spread = np.arange(count) * there // count  # those drawn come in groups
            self.shown.append(some.taken(spread))

    def _chosen(
        self, part: Part, index: int, outputs: list[Any]
    ) -> tuple[Part, Effort, Draw | None]:
        """Rows of a batch, what is spent on them, and how they were drawn, if they were."""
        job, parts = self.job, len(self.job.due)
        total, rows = part.size, min(part.size, job.quota)
        network = job.net.network_for(job.flat, part.shapes(rows))
        plan, count = effort(network, rows, parts), draws(network.dense, parts)
        if index in job.due:
            share = effort(network, job.quota, parts).examples
            drawable = can_draw(network, job.metric)
            self.owed += min(share, count // plan.probes) if drawable else share
        self.owed = max(self.owed - rows, 0)
        if outputs and plan.examples * min(plan.probes, outputs[0].shape[-1]) > count:
            plan = effort(network, count, parts, 1)
            logits = in_order(outputs, turns(total, job.folds))
            draw = drawn(logits, plan.examples, index)
            self.outputs.append(outputs_of(logits, job.metric, None, float(total)))
            return part.taken(draw.rows), plan, draw
        if plan.examples == total:
            return part, plan, None
        order = some_of(part.weights, total, plan.examples, index)
        own = None if part.weights is None else part.weights[order]
        return part.taken(order, own), plan, None

    def finish(self) -> None:
        """Moves all that is left to the host."""
        self.flush(self.batches - 1)
        if self.metrics is None:
            return
        (grams, examples), self.metrics = self.metrics, None
        for n, piece in enumerate(self.pieces.metrics):
            gram, samples = map(placement.assembled, grams[n])
            self.host.weigh(piece, gram, float(samples))
        self.examples = max(float(placement.fetch(examples, self.job.mesh)), 1e-30)
        self.outputs = functools.reduce(merged, placement.fetch(self.outputs, self.job.mesh))


def chosen(pieces: Sequence[Piece]) -> tuple[Any, Array]:
    """Pieces as programs take them: one for each number of repeats, wherever these begin."""
    sizes = tuple((piece.place, piece.size) for piece in pieces)
    return sizes, np.array([piece.start for piece in pieces], np.int32)


def _done(found: Any, mesh: Any) -> Any:
    """Waits for results that devices exchange parts of, so that all of them do so in one order."""
    return found if mesh is None else jax.block_until_ready(found)


def _sum(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


_added = jax.jit(_sum, donate_argnums=0)
