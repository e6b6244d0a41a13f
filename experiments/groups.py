"""Which networks of a sweep are trained together, and what becomes of a group of them."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import linjax
from experiments import measure, models, networks, train
from experiments.axes import Cell, configured
from experiments.data import Dataset, load
from experiments.journal import Journal, Row
from experiments.methods import Subject

TOGETHER = ("seed", "dataset.seed", "network.seed", "training.seed", "training.learning_rate",
            "training.l1", "training.extra", "pruning.share")  # fmt: skip
"""Fields that networks trained together may differ in."""
LARGEST = 64  # networks in a group: they have to fit into memory together

Say = Callable[[str], None]


class Group(NamedTuple):
    """Networks to train together, as far as the shapes of their data allow."""

    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Names the group's files: a digest of its networks."""
        text = json.dumps([json.dumps(cell.task) for cell in self.cells])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def shared(self) -> str:
        """What the networks have in common, in words."""
        pairs = self.cells[0].without(*TOGETHER)
        return ", ".join(str(value) for _, value in pairs) or "networks"


class Job(NamedTuple):
    """What a process needs to know to work on groups.

    Attributes:
      config: the config that the settings are put into.
      todo: rules and amounts for networks that weren't pruned.
      todo_pruned: and for those that were.
      folder: the sweep's folder.
      data_dir: folder of the data sets.
      journal: what has been done.
    """

    config: Any
    todo: list[tuple[str, float]]
    todo_pruned: list[tuple[str, float]]
    folder: pathlib.Path
    data_dir: str | None
    journal: Journal

    def wanted(self, cell: Cell) -> list[tuple[str, float]]:
        """The rules to measure a network by."""
        return self.todo_pruned if cell.task.get("pruning.share", 0.0) else self.todo

    def missing(self, group: Group) -> int:
        """How many rows a group still lacks."""
        return sum(len(self.journal.missing(c.task, self.wanted(c))) for c in group.cells)


def groups(cells: list[Cell], largest: int = LARGEST) -> list[Group]:
    """Puts cells that may be trained together into groups, in order."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        found.setdefault(repr(cell.without(*TOGETHER)), []).append(cell)
    return [
        Group(tuple(mine[start : start + largest]))
        for mine in found.values()
        for start in range(0, len(mine), largest)
    ]


class Member(NamedTuple):
    """A network of a group before training."""

    cell: Cell
    config: Any
    dataset: Dataset
    network: models.Network


def work(job: Job, group: Group, say: Say) -> Iterator[Row]:
    """Trains and measures a group; yields the rows that are missing.

    What fails gives a row with its error, and doesn't stop the others.
    """
    alike: dict[Any, list[Member]] = {}
    for index, cell in enumerate(group.cells):
        config = configured(job.config, cell.settings)
        try:
            dataset = load(config.dataset, job.data_dir)
            network = networks.build(config, dataset.train.x.shape[1], dataset.classes)
        except Exception as error:
            yield measure.failed(cell.task, error)
            continue
        shapes = tuple(part.x.shape for part in dataset[1:4])
        alone = index if network.before is None else -1
        member = Member(cell, config, dataset, network)
        alike.setdefault((shapes, dataset.classes, alone), []).append(member)
    for number, members in enumerate(alike.values()):
        checkpoint = job.folder / "networks" / f"{group.name}-{number}.npz"
        title, rows = members[0].dataset.title, len(members[0].dataset.train.y)
        say(f"{title}: {rows:,} training rows; network {members[0].network.title}")
        try:
            trained = _trained(members, checkpoint, say)
        except Exception as error:
            for member in members:
                yield measure.failed(member.cell.task, error)
            continue
        say(str(trained[0].net))
        for own, (cell, config, dataset, _) in zip(trained, members, strict=True):
            missing = job.journal.missing(cell.task, job.wanted(cell))
            yield from measure.rows(cell.task, own, dataset, config, missing)


def _trained(members: list[Member], checkpoint: pathlib.Path, say: Say) -> list[Subject]:
    """Trains what isn't trained, and takes away the units that were pruned."""
    network, first = members[0].network, members[0].config
    pruned = [float(m.config.pruning.share) if "pruning" in m.config else 0.0 for m in members]
    if any(pruned) and (network.before is None or network.trained):
        raise ValueError("pruning.share: only dense networks are pruned while they are trained")
    if network.trained:
        params = [member.network.params for member in members]
    else:
        together = train.members(
            [m.network for m in members], [m.dataset for m in members],
            [m.config.training for m in members], pruned,
        )  # fmt: skip
        found = train.fit(network, together, first.training, checkpoint, say, jax.local_devices())
        params = []
        for index in range(len(members)):
            own = jax.tree.map(lambda leaf, i=index: leaf[i], found.params)
            kept = [k[index] for k in found.kept]
            params.append(own if all(np.all(k) for k in kept) else models.without(own, kept))
    nets: dict[Any, linjax.Net] = {}  # what is compiled for one serves all of its shape
    made = []
    for member, own in zip(members, params, strict=True):
        shape = str(jax.tree.map(np.shape, own))
        if shape not in nets:
            nets[shape] = linjax.trace(network.apply, own, member.dataset.train.x[:2])
        made.append(measure.subject(nets[shape], own, member.dataset, member.config))
    return made
