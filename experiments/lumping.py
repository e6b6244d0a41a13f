"""Proportional lumping on the convolutional network of 2022, where units depend on others.

The layer before the last is overwritten so that some of its units are combinations of 1 to 4
others, and frozen; the other dense layers are trained on. Then the dependent units go: as
was published, by what linjax can prove, and by refitting.
"""

import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import linen as nn

import linjax
from experiments import evaluate, files, journal, measure, methods, table, train
from experiments.data import Dataset, Split, load
from experiments.methods import Subject
from experiments.models import Network, Params, dense, lecun
from experiments.pretrained import conv
from experiments.registry import METHODS

Array = Any

SIDE, CHANNELS, HIDDEN = 28, 32, (16, 128)
FROZEN = len(HIDDEN) - 1


class Planted(NamedTuple):
    """Which units depend on which: ``(n,)`` targets, ``(n, terms)`` sources and weights."""

    target: Array
    source: Array
    weight: Array


def convolutions(params: Params, x: Array) -> Array:
    """Two 3×3 convolutions with ReLU, each with max pooling; flat features."""
    x = x.reshape(-1, SIDE, SIDE, 1)
    for part in (params["conv_0"], params["conv_1"]):
        x = jax.nn.relu(conv(part["kernel"], x, padding="VALID") + part["bias"])
        x = nn.max_pool(x, (2, 2), (2, 2))
    return x.reshape(len(x), -1)


def network(seed: int) -> Network:
    """The whole network: LeCun's normal kernels, biases of zero."""
    keys, kernel = jax.random.split(jax.random.key(seed)), jax.nn.initializers.lecun_normal()
    head = dense(lecun(seed, (5 * 5 * CHANNELS, *HIDDEN, 10)), "relu")
    params: Params = {
        f"conv_{i}": {"kernel": kernel(keys[i], (3, 3, inputs, CHANNELS)),
                      "bias": jnp.zeros(CHANNELS)}
        for i, inputs in enumerate((1, CHANNELS))
    } | {"dense": head.params}  # fmt: skip

    def apply(params: Params, x: Array) -> Array:
        return head.apply(params["dense"], convolutions(params, x))

    title = f"convolutions of {CHANNELS} channels, dense {HIDDEN}"
    return Network(apply, params, title, learn=lambda p, x, _: (apply(p, x), p))


def run(config: Any, folder: pathlib.Path, data_dir: str | None) -> None:
    """Trains the network, plants dependent units, removes them, and measures what that costs.

    Args:
      config: as in ``configs/lumping_cnn.py``.
      folder: for the weights, the journal and ``ranks.md``.
      data_dir: folder that holds the data set.
    """
    dataset, whole = load(config.dataset, data_dir), network(config.training.seed)
    params = train.alone(whole, dataset, config.training, folder / "training.npz")
    files.write(folder / "ranks.md", table.markdown(ranks(params)).encode())
    done = journal.Journal(folder)
    net = linjax.trace(whole.apply, params, dataset.test.x[:2])
    for bits in config.bits:
        small, task = linjax.quantise(net, params, bits), {"bits": bits}
        _measure(
            task, measure.subject(net, small, dataset, config), ["lump"], dataset, config, done
        )
    cases = itertools.product(config.terms, config.removed, range(config.seeds))
    tasks = [dict(zip(("terms", "removed", "seed"), case, strict=True)) for case in cases]
    planted_rows(tasks, params, dataset, config, folder, done)


def _measure(
    task: journal.Row, own: Subject, rules: list[str], dataset: Dataset, config: Any,
    done: journal.Journal,
) -> None:  # fmt: skip
    missing = done.missing(task, [(rule, 1.0) for rule in rules])
    for row in measure.rows(task, own, dataset, config, missing):
        done.append(row)
        print(f"{row['task']}: {measure.sentence(row)}", flush=True)


def ranks(params: Params) -> pd.DataFrame:
    """Ranks of every kernel as a matrix with a column a unit, and of parts of its energy."""
    named = {name: params[name] for name in ("conv_0", "conv_1")}
    named |= {f"dense_{i}": part for i, part in params["dense"]["layers"].items()}
    found = []
    for name, part in named.items():
        kernel = np.asarray(part["kernel"], np.float64)
        values = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)
        energy = np.cumsum(values**2) / (values**2).sum()
        found.append({
            "kernel": name,
            "units": kernel.shape[-1],
            "rank": int((values > 1e-6 * values[0]).sum()),
            "99% of energy": int(np.searchsorted(energy, 0.99) + 1),
            "90% of energy": int(np.searchsorted(energy, 0.90) + 1),
        })  # fmt: skip
    return pd.DataFrame(found)


def plant(layer: Params, terms: int, removed: int, seed: int) -> tuple[Params, Planted]:
    """Overwrites ``removed`` units by positive combinations of ``terms`` others."""
    rng = np.random.default_rng((seed, terms, removed))
    kernel, bias = (np.array(layer[name]) for name in ("kernel", "bias"))
    order = rng.permutation(len(bias))
    target, rest = order[:removed], order[removed:]
    source = np.array([rng.choice(rest, terms, replace=False) for _ in target])
    weight = rng.uniform(0.5, 2.0, source.shape).astype(np.float32)
    kernel[:, target] = (kernel[:, source] * weight).sum(axis=2)
    bias[target] = (bias[source] * weight).sum(axis=1)
    return {"kernel": kernel, "bias": bias}, Planted(target, source, weight)


@METHODS.add("lump_2022")
def as_published(subject: Subject, _: float) -> Params:
    """Removes the dependent units as published, as if ``σ(Σ ρ_i z_i)`` were ``Σ ρ_i σ(z_i)``."""
    layers, planted = dict(subject.params["layers"]), subject.extra
    layer, reader = layers[FROZEN], layers[FROZEN + 1]
    rows = np.array(reader["kernel"], np.float64)
    for target, source, weight in zip(*planted, strict=True):
        rows[source] += weight[:, None] * rows[target]
    kept = np.delete(np.arange(len(rows)), planted.target)
    layers[FROZEN] = {"kernel": layer["kernel"][:, kept], "bias": layer["bias"][kept]}
    layers[FROZEN + 1] = {"kernel": rows[kept].astype(np.float32), "bias": reader["bias"]}
    return {"layers": layers}


@METHODS.add("size_of_2022")
def as_large(subject: Subject, _: float) -> Params:
    """A fold in one shot to as many parameters as that leaves."""
    small = methods.make(subject, "lump_2022", 1.0)
    rule = linjax.size(linjax.count(small) / linjax.count(subject.params))
    return linjax.fold(subject.params, subject.stats, rule)


def held(network: Network) -> Network:
    """A dense network whose layer of planted units doesn't learn."""

    def apply(params: Params, x: Array) -> Array:
        layers = dict(params["layers"])
        layers[FROZEN] = jax.lax.stop_gradient(layers[FROZEN])
        return network.apply({"layers": layers}, x)

    return network._replace(apply=apply)


def planted_rows(
    tasks: list[journal.Row], params: Params, dataset: Dataset, config: Any, folder: pathlib.Path,
    done: journal.Journal,
) -> None:  # fmt: skip
    """Plants, trains on, all at once, and removes."""
    rules = ["lump_2022", "size_of_2022", "lump"]
    if not any(done.missing(task, [(r, 1.0) for r in rules]) for task in tasks):
        return
    train_rows, valid, test = (
        Split(evaluate.predict(convolutions, params, part.x), part.y)
        for part in (dataset.train, dataset.valid, dataset.test)
    )
    seen = Dataset("Features", train_rows, valid, test, dataset.classes)
    start, layouts = [], []
    for task in tasks:
        layers = dict(params["dense"]["layers"])
        layers[FROZEN], planted = plant(layers[FROZEN], **task)
        start.append(dense(layers, "relu"))
        layouts.append(planted)
    training = config.retraining
    together = train.members(start, [seen] * len(tasks), [training] * len(tasks))
    trained = train.fit(held(start[0]), together, training, folder / "retraining.npz")
    for task, planted, mine in zip(tasks, layouts, trained.each(), strict=True):
        net = linjax.trace(start[0].apply, mine, seen.test.x[:2])
        own = measure.subject(net, mine, seen, config, planted)
        _measure(task, own, rules, seen, config, done)
