"""Folding in the order of execution, on what the folded network computes itself.

Widths are those of a plan. Before a site is first read its choice is made anew, aiming at the
original's coordinates; every kernel is fitted by least squares, from what the folded network
feeds it to what the original's product made. So both correct the errors made before them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.layout import Mark, number
from linjax.dims.network import Network, uses
from linjax.dims.reads import (
    LARGEST,
    Frame,
    evenly,
    features,
    frame_of,
    matrix_index,
    results,
    thinned,
)
from linjax.dims.replay import Replay, behind, order, wiring
from linjax.dims.sites import Form, Site
from linjax.dims.span import Cut, companions, transform
from linjax.dims.values import Role
from linjax.evidence.expand import expanded
from linjax.evidence.points import point_spans
from linjax.fold.engine import regress
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.plan import Plan, shrinkage
from linjax.fold.engine.problem import frame as problem_frame
from linjax.fold.plans.pricing import Problems
from linjax.fold.rewrite import write
from linjax.fold.sequential import aims, necks
from linjax.fold.sequential.resite import again
from linjax.fold.shifts import add_to_bias
from linjax.fold.written import begun, made_by, narrowing
from linjax.program import pytree

Array = Any

FOLDS = 2
"""Folds of the rows, for the choice of the shrinkage."""
SAMPLES = 1 << 15
"""Samples of a fold that a kernel is fitted on, if it has few features."""
MANY = 16
"""Samples of a fold for every feature, if it has many."""


class Task(NamedTuple):
    """A network to fold.

    Attributes:
      network: the traced network.
      original: its leaves.
      problems: its sites.
      plan: what they are folded to.
      choices: by site, what it keeps by the original's moments.
    """

    network: Network
    original: pytree.Flat
    problems: Problems
    plan: Plan
    choices: Sequence[Choice]

    @property
    def folded(self) -> dict[int, int]:
        """By dimension, the numbers of the sites that become something else."""
        return {self.problems.sites[n].dim: n for n in self.problems.folded(self.choices)}


def fold_in_order(task: Task, rows: Sequence[Array]) -> pytree.Flat:
    """Returns the leaves folded to a plan, every choice and kernel fitted in its turn.

    Args:
      task: the network and what it is folded to.
      rows: calibration rows, the leaves of the inputs.
    """
    layout = task.network.layout
    state = _State(task, rows)
    due: dict[int, list[int]] = {}
    for n in task.folded.values():
        due.setdefault(min(_takers(task, n), key=order(task.network).__getitem__), []).append(n)
    for op in layout.program.all_ops():
        for n in due.get(number(op), ()):
            state.settle(n)
        if number(op) in task.network.kernels:
            state.refit(number(op))
            state.leave(number(op))
    return state.now.flat


def dealt(rows: Sequence[Array]) -> list[list[Array]]:
    """Returns rows in parts of one size, as they are run; the network is that of such a part."""
    folds = FOLDS if len(rows[0]) >= FOLDS else 1
    count = len(rows[0]) // folds * folds
    return [[x[f:count:folds] for x in rows] for f in range(folds)]


def _takers(task: Task, n: int) -> set[int]:
    """Products that read a site's coordinates, or pair them."""
    site = task.problems.sites[n]
    marks: tuple[Mark, ...] = task.network.layout.marks[site.dim]
    paired = {mark.op for mark in marks if mark.role is Role.PAIRED}
    return paired | {reader.op for reader in site.readers}


class _State:
    """A network that is being folded, and what it and the original compute."""

    def __init__(self, task: Task, rows: Sequence[Array]) -> None:
        self.task, self.network = task, task.network
        self.now = begun(task.network, task.original)
        parts = dealt(rows)
        self.old = [Replay(task.network, self.now.flat, part) for part in parts]
        self.new = [Replay(task.network, self.now.flat, part) for part in parts]
        self.settled: dict[int, Choice] = {}
        self.moved: set[int] = set()
        used = uses(task.network.layout)
        kernels = task.network.kernels.items()
        self.once = {op for op, p in kernels if p.leaf is not None and used[p.leaf] == 1}
        sites = [task.problems.sites[n] for n in task.folded.values()]
        self.read = {reader.op for site in sites for reader in site.readers}
        ranks = zip(task.problems.kernels, task.plan.state.ranks, strict=True)
        self.ranks = {kernel.read.op: (kernel, rank) for kernel, rank in ranks if rank}

    def settle(self, n: int) -> None:
        """Folds a site: as is best for the network as it is now, if that can be told."""
        task, site, problem = self.task, self.task.problems.sites[n], self.task.problems.problems[n]
        choice, points = task.choices[n], task.problems.points[n]
        if self._measurable(site):
            widths = choice.kept.shape[-1], choice.linear.shape[-1]
            if problem.sources and widths[1]:
                self._change(expanded(self.network, self.now.flat, [site]).flat)
            ridge = shrinkage(problem, task.plan.shrinkage)
            choice = again(self.network, site, problem, points, ridge, widths, self.new, self.old)
            choice = choice.by_site(points)
            passed = [m.op for m in site.makers]  # moments know what was added to their results
            shifts = {op: own for op, own in self.now.shifts.items() if op not in passed}
            lacking = dict(self.now.lacking)
            if site.dim in lacking:
                lacking[site.dim] = lacking[site.dim].known
            self.now = self.now._replace(shifts=shifts, lacking=lacking)
        self.settled[n] = choice
        self.now = write(self.network, self.now, site, choice)
        self._change(self.now.flat)
        made = [maker.op for maker in site.makers]
        self.moved |= behind(self.network, [*_takers(task, n), *made])

    def _measurable(self, site: Site) -> bool:
        """Whether a choice can be made anew: all points are there before anything reads them."""
        apart = site.form in (Form.PAIRED, Form.NORMED)
        if site.fixed or apart or not self.moved & set(site.points):
            return False
        if self._beside(site) & {self.task.problems.sites[n].dim for n in self.settled}:
            return False  # what was a sample of its coordinates may be none any more
        links = wiring(self.network)
        readers = [reader.op for reader in site.readers]
        if links.inner & set(readers):
            return len({links.at[v] for v in (*readers, *site.points)}) == 1
        return not behind(self.network, readers) & set(site.points)

    def _beside(self, site: Site) -> set[int]:
        """Dimensions that stand beside a site's own where it is read."""
        spans = [point_spans(self.network.layout, point) for point in site.points]
        return set[int]().union(*(companions(own).get(site.dim, set()) for own in spans))

    def _change(self, flat: pytree.Flat) -> None:
        for replay in self.new:
            replay.change(flat)

    def leave(self, op: int) -> None:
        """Forgets values that won't be needed again."""
        links = wiring(self.network)
        place = links.at[op]
        for replay in self.old:
            replay.leave(place)
        sites = self.task.problems.sites
        waiting = [n for n in self.task.folded.values() if n not in self.settled]
        first = [links.at[m.op] for n in waiting for m in sites[n].makers]
        for replay in self.new:
            replay.leave(min([place, *first]))

    def refit(self, op: int) -> None:
        """Fits a kernel to what the original's product makes, and factors it."""
        network, product = self.network, self.network.kernels[op]
        source: Any = network.layout.makers[op].inputs[product.data]
        leaf = self.now.flat.get(network.paths[product.leaf])
        frame, moments = frame_of(network, op), None
        if source.id in self.moved and self._free(op) and leaf is not None and leaf.size:
            index = matrix_index(network, frame, leaf.shape)
            if index is not None and index.shape[1] <= LARGEST:
                moments = self._fit(op, frame, index)
        if op not in self.ranks:
            return
        kernel, rank = self.ranks[op]
        if moments is None:
            seen = problem_frame(kernel.moments)
            moments = seen.mean[0], seen.covariance[0]
        made = None
        if kernel.made in self.settled:
            site = self.task.problems.sites[kernel.made]
            made = made_by(site, self.settled[kernel.made], kernel.leaf)
        self.now = necks.refactored(network, self.now, kernel, rank, moments, made)
        self.moved |= behind(network, [op])
        self._change(self.now.flat)

    def _free(self, op: int) -> bool:
        """Whether a kernel can be fitted: it is used once, and a plan counts its bias."""
        leaf = self.network.kernels[op].leaf
        if leaf is None or self.network.twice(leaf):
            return False  # it makes the coordinates that it reads, which are what they are
        down = self.network.extra(leaf, "down")
        free = op in self.read or op in self.network.biases or op in self.ranks
        return free and op in self.once and down not in self.now.flat

    def _fit(self, op: int, frame: Frame, index: Array) -> tuple[Array, Array]:
        """Fits a kernel; returns mean and covariance of what it reads."""
        most = max(SAMPLES, MANY * index.shape[1])
        window = self.now.flat[self.network.paths[self.network.kernels[op].leaf]].shape
        parts = []
        for new, old in zip(self.new, self.old, strict=True):
            f = features(frame, new.operand(frame.op, frame.data), window, evenly(most))
            parts.append(regress.seen(f, thinned(self._target(frame, old, new), most)))
        whole = regress.pooled(parts)
        self._put(op, frame, index, parts, whole)
        self._change(self.now.flat)
        return whole.features[0], whole.gram[0]

    def _target(self, frame: Frame, old: Replay, new: Replay) -> Array:
        """What a product is to make: of its coordinates those kept, then linear ones."""
        op = number(frame.op)
        value, linear = old.value(op), []
        meeting = aims.met(self.network, op)
        if meeting is not None:
            lacking = aims.correction(meeting, old, new)
            value = value if lacking is None else value + lacking
        spans = point_spans(self.network.layout, op)
        made = {d for span in spans for d in span.dims()}
        sizes = {dim: old.sizes.all(dim) for dim in old.sizes.kept}
        for n, choice in self.settled.items():
            site = self.task.problems.sites[n]
            if site.dim not in made:
                continue
            choice = made_by(site, choice, self.network.kernels[op].leaf)
            cut = Cut(site.dim, site.beside, dict(sizes).__getitem__, lambda x: x)
            if choice.linear.shape[-1]:
                mix = narrowing(choice._replace(basis=choice.linear))
                linear.append(transform(value, spans, cut._replace(change=mix)))
            value = transform(value, spans, cut._replace(change=narrowing(choice)))
            sizes[site.dim] = choice.kept.shape[-1]
        return jnp.concatenate([results(frame, x) for x in (value, *linear)], axis=-1)

    def _put(
        self, op: int, frame: Frame, index: Array, parts: list[regress.Seen], whole: regress.Seen
    ) -> None:
        """Puts the fitted kernel, and the bias that goes with it, in place."""
        network, now = self.network, self.now
        flat, leaf = dict(now.flat), network.kernels[op].leaf
        path, extra = network.paths[leaf], network.extra(leaf, "linear")
        before = [flat[path].reshape(-1)[index]]
        if extra in flat:
            beside = matrix_index(network, frame, flat[extra].shape)
            before.append(flat[extra].reshape(-1)[beside])
        prior = np.concatenate(before, axis=-1).astype(np.float64)
        q = before[0].shape[-1]
        kernel = regress.fitted(parts, whole, prior)
        flat[path] = _placed(flat[path], index, kernel[..., :q])
        if extra in flat:
            flat[extra] = _placed(flat[extra], beside, kernel[..., q:])
        shift = (whole.targets - np.einsum("np,npq->nq", whole.features, kernel))[:, :q]
        shift = shift.reshape([flat[path].shape[n] for n in network.bias_axes(leaf)])
        add_to_bias(network, flat, op, shift - now.shifts.get(op, 0.0))
        self.now = now._replace(flat=flat, shifts={**now.shifts, op: shift})


def _placed(leaf: Array, index: Array, value: Array) -> Array:
    flat = np.array(leaf).reshape(-1)
    flat[index.reshape(-1)] = value.reshape(-1)
    return flat.reshape(leaf.shape)
