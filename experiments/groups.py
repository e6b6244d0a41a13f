"""Which networks of a sweep are trained together, and what becomes of a group of them."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import linjax
from experiments import measure, methods, models, networks, train
from experiments.axes import configured
from experiments.data import Dataset, batches, load
from experiments.journal import Journal, Row

TOGETHER = ("seed", "dataset.seed", "network.seed", "training.seed", "training.learning_rate",
            "training.l1", "training.extra", "pruning.share")  # fmt: skip
"""Fields that networks trained together may differ in."""
LARGEST = 64  # networks in a group: they have to fit into memory together

Say = Callable[[str], None]


class Job(NamedTuple):
    """What a process needs to know to work on groups.

    ``todo`` are rules and amounts for networks that weren't pruned, ``todo_pruned`` for those that
    were; a task's settings are put into ``config``.
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
    return [part for mine in found.values() for part in batches(mine, largest)]


def digest(group: list[Row]) -> str:
    """Names a group's files."""
    return hashlib.sha256(json.dumps(group).encode()).hexdigest()[:16]


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
        (_, _, dataset, network), *_ = members
        say(f"{dataset.title}: {len(dataset.train.y):,} training rows; network {network.title}")
        checkpoint = job.folder / "networks" / f"{digest(group)}-{number}.npz"
        try:
            found = _trained(members, checkpoint, say)
        except Exception as error:
            yield from (measure.failed(member.task, error) for member in members)
            continue
        nets: dict[str, linjax.Net] = {}  # what is compiled for one serves all of its shape
        for params, member in zip(found, members, strict=True):
            shape = str(jax.tree.map(np.shape, params))
            if shape not in nets:
                nets[shape] = linjax.trace(network.apply, params, member.dataset.train.x[:2])
                if len(nets) == 1:
                    say(str(nets[shape]))
            own = methods.subject(nets[shape], params, member.dataset, member.config)
            yield from measure.rows(member.task, own, job.missing(member.task))


def _trained(members: list[Member], checkpoint: pathlib.Path, say: Say) -> list[models.Params]:
    """The networks' parameters, trained if they aren't, without the units that were pruned."""
    _, configs, data, built = zip(*members, strict=True)
    pruned = [float(c.pruning.share) if "pruning" in c else 0.0 for c in configs]
    if any(pruned) and (built[0].before is None or built[0].trained):
        raise ValueError("pruning.share: only dense networks are pruned while they are trained")
    if built[0].trained:
        return [network.params for network in built]
    training = [config.training for config in configs]
    together = train.members(built, data, training, pruned)
    return train.fit(built[0], together, training[0], checkpoint, say, jax.local_devices()).each()
