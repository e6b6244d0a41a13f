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
from experiments.axes import configured
from experiments.data import Dataset, load
from experiments.journal import Journal, Row
from experiments.methods import Subject

TOGETHER = ("seed", "dataset.seed", "network.seed", "training.seed", "training.learning_rate",
            "training.l1", "training.extra", "pruning.share")  # fmt: skip
"""Fields that networks trained together may differ in."""
LARGEST = 64  # networks in a group: they have to fit into memory together

Say = Callable[[str], None]


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

    def missing(self, task: Row) -> list[tuple[str, float]]:
        """The rules that a network still has to be measured by."""
        pruned = task.get("pruning.share", 0.0)
        return self.journal.missing(task, self.todo_pruned if pruned else self.todo)

    def left(self, group: list[Row]) -> int:
        """How many rows a group still lacks."""
        return sum(len(self.missing(task)) for task in group)


def shared(task: Row) -> Row:
    """What a network has in common with those that it may be trained with."""
    return {name: value for name, value in task.items() if name not in TOGETHER}


def groups(tasks: list[Row], largest: int = LARGEST) -> list[list[Row]]:
    """Puts networks that may be trained together into groups, in order."""
    found: dict[str, list[Row]] = {}
    for task in tasks:
        found.setdefault(repr(shared(task)), []).append(task)
    return [
        mine[start : start + largest]
        for mine in found.values()
        for start in range(0, len(mine), largest)
    ]


def digest(group: list[Row]) -> str:
    """Names a group's files."""
    text = json.dumps([json.dumps(task) for task in group])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Member(NamedTuple):
    """A network of a group before training."""

    task: Row
    config: Any
    dataset: Dataset
    network: models.Network


def work(job: Job, group: list[Row], say: Say) -> Iterator[Row]:
    """Trains and measures a group; yields the rows that are missing.

    What fails gives a row with its error, and doesn't stop the others.
    """
    alike: dict[Any, list[Member]] = {}
    for index, task in enumerate(group):
        config = configured(job.config, task)
        try:
            dataset = load(config.dataset, job.data_dir)
            network = networks.build(config, dataset.train.x.shape[1], dataset.classes)
        except Exception as error:
            yield measure.failed(task, error)
            continue
        shapes = tuple(part.x.shape for part in dataset[1:4])
        alone = index if network.before is None else -1
        member = Member(task, config, dataset, network)
        alike.setdefault((shapes, dataset.classes, alone), []).append(member)
    for number, members in enumerate(alike.values()):
        checkpoint = job.folder / "networks" / f"{digest(group)}-{number}.npz"
        title, rows = members[0].dataset.title, len(members[0].dataset.train.y)
        say(f"{title}: {rows:,} training rows; network {members[0].network.title}")
        try:
            trained = _trained(members, checkpoint, say)
        except Exception as error:
            yield from (measure.failed(member.task, error) for member in members)
            continue
        say(str(trained[0].net))
        for own, (task, config, dataset, _) in zip(trained, members, strict=True):
            yield from measure.rows(task, own, dataset, config, job.missing(task))


def _trained(members: list[Member], checkpoint: pathlib.Path, say: Say) -> list[Subject]:
    """Trains what isn't trained, and takes away the units that were pruned."""
    network, first = members[0].network, members[0].config
    pruned = [float(m.config.pruning.share) if "pruning" in m.config else 0.0 for m in members]
    if any(pruned) and (network.before is None or network.trained):
        raise ValueError("pruning.share: only dense networks are pruned while they are trained")
    if network.trained:
        params = [member.network.params for member in members]
    else:
        _, configs, data, built = zip(*members, strict=True)
        together = train.members(built, data, [c.training for c in configs], pruned)
        found = train.fit(network, together, first.training, checkpoint, say, jax.local_devices())
        params = found.each()
    nets: dict[Any, linjax.Net] = {}  # what is compiled for one serves all of its shape
    made = []
    for member, own in zip(members, params, strict=True):
        shape = str(jax.tree.map(np.shape, own))
        if shape not in nets:
            nets[shape] = linjax.trace(network.apply, own, member.dataset.train.x[:2])
        made.append(measure.subject(nets[shape], own, member.dataset, member.config))
    return made
