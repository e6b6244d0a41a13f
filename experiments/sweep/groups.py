"""Which networks of a sweep are trained together, and what becomes of a group of them."""

import hashlib
import json
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import linjax
from experiments import models, pretrained, train
from experiments.data import Dataset, Split, load
from experiments.results import Row
from experiments.sweep import measure, scoring, training
from experiments.sweep.axes import Cell, configured
from experiments.sweep.journal import Journal

Params = Any

TOGETHER = ("seed", "dataset.seed", "network.seed", "training.seed", "training.learning_rate",
            "pruning.share")  # fmt: skip
"""Fields that networks trained together may differ in."""
LARGEST = 64  # networks in a group: they have to fit into memory together


class Group(NamedTuple):
    """Networks to train together, as far as the shapes of their data allow."""

    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Names the group's files: a digest of its networks."""
        text = json.dumps([cell.key for cell in self.cells])
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
      devices: devices of this process.
      journal: what has been done.
    """

    config: Any
    todo: list[tuple[str, float]]
    todo_pruned: list[tuple[str, float]]
    folder: pathlib.Path
    data_dir: str | None
    devices: list[Any]
    journal: Journal


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


def wanted(job: Job, cell: Cell) -> list[tuple[str, float]]:
    """The rules to measure a network by."""
    return job.todo_pruned if cell.get("pruning.share", 0.0) else job.todo


def unfinished(job: Job, group: Group) -> bool:
    """Whether a group has a network that hasn't been measured by every rule."""
    return any(
        not job.journal.has(cell.key, *pair)
        for cell in group.cells
        for pair in [("original", 1.0), *wanted(job, cell)]
    )


def work(job: Job, group: Group, say: Callable[[str], None]) -> Iterator[Row]:
    """Trains and measures a group; yields the rows that are missing.

    What fails gives a row with its error, and doesn't stop the others.
    """
    loaded: dict[Any, list[tuple[Cell, Dataset]]] = {}
    for cell in group.cells:
        config = configured(job.config, cell.settings)
        try:
            dataset = load(config.dataset, job.data_dir)
        except Exception as error:
            yield measure.failed(dict(cell.settings), error)
            continue
        shapes = tuple(part.x.shape for part in dataset[1:4])
        loaded.setdefault((shapes, dataset.classes), []).append((cell, dataset))
    for number, members in enumerate(loaded.values()):
        checkpoint = job.folder / "networks" / f"{group.name}-{number}.npz"
        try:
            trained = _trained(job, members, checkpoint, say)
        except Exception as error:
            for cell, _ in members:
                yield measure.failed(dict(cell.settings), error)
            continue
        for (cell, _), network in zip(members, trained, strict=True):
            yield from _measured(job, cell, network)


def _measured(job: Job, cell: Cell, network: measure.Network) -> Iterator[Row]:
    def done(rule: str, amount: float) -> bool:
        return job.journal.has(cell.key, rule, amount)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", linjax.FoldWarning)
            yield from measure.rows(network, wanted(job, cell), done)
    except Exception as error:
        yield measure.failed(network.task, error)


def _trained(
    job: Job,
    members: list[tuple[Cell, Dataset]],
    checkpoint: pathlib.Path,
    say: Callable[[str], None],
) -> list[measure.Network]:
    configs = [configured(job.config, cell.settings) for cell, _ in members]
    if not training.batchable(configs[0]):
        return [
            _alone(cell, dataset, config, checkpoint.with_suffix(f".{index}.npz"), say)
            for index, ((cell, dataset), config) in enumerate(zip(members, configs, strict=True))
        ]
    inputs, classes = members[0][1].train.x.shape[1], members[0][1].classes
    built = [models.build(config.network, inputs, classes) for config in configs]
    net = linjax.trace(built[0].apply, built[0].params, members[0][1].train.x[:2])
    together = training.Members(
        params=jax.tree.map(lambda *leaves: np.stack(leaves), *(b.params for b in built)),
        train=_stacked([dataset.train for _, dataset in members]),
        valid=_stacked([dataset.valid for _, dataset in members]),
        seed=np.array([config.training.seed for config in configs]),
        rate=np.array([config.training.learning_rate for config in configs], np.float32),
        pruned=np.array([_share(config) for config in configs], np.float32),
    )
    trained = training.fit(net, together, configs[0].training, checkpoint, job.devices, say)
    rows = together.train.x[:, : configs[0].calibration.rows]
    active = [np.asarray(a) for a in scoring.active(net, trained.params, rows)]
    networks = []
    for index, (cell, dataset) in enumerate(members):
        kept = [k[index] for k in trained.kept]
        whole = jax.tree.map(lambda leaf, i=index: leaf[i], trained.params)
        params = measure.without_pruned(net, whole, kept)
        mine = tuple(a[index][k] for a, k in zip(active, kept, strict=True))
        networks.append(
            measure.Network(dict(cell.settings), net, params, mine, dataset, configs[0])
        )
    return networks


def _alone(
    cell: Cell, dataset: Dataset, config: Any, checkpoint: pathlib.Path, say: Callable[[str], None]
) -> measure.Network:
    """Trains a network that can't be trained beside others."""
    if _share(config):
        raise ValueError("pruning.share: only plain networks are pruned while they are trained")
    kind = config.network.get("kind", "mlp")
    if kind in pretrained.NETWORKS:
        network = pretrained.build(kind, config.weights)
        params = network.params
    else:
        network = models.build(config.network, dataset.train.x.shape[1], dataset.classes)
        if config.weights:
            params = models.read_weights(config.weights, network.params)
        else:
            params = train.fit(network, dataset, config.training, checkpoint, say)
    net = linjax.trace(network.apply, params, dataset.train.x[:2])
    return measure.Network(dict(cell.settings), net, params, None, dataset, config)


def _stacked(parts: list[Split]) -> Split:
    return Split(np.stack([part.x for part in parts]), np.stack([part.y for part in parts]))


def _share(config: Any) -> float:
    return float(config.pruning.share) if "pruning" in config else 0.0
