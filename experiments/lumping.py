"""The convolutional network of 2022, whose units are made to depend on others and then removed.

The layer before the last is overwritten so that some of its units are combinations of 1 to 4
others, and frozen; the other dense layers are trained on. Then the dependent units go: as
was published, by what linjax can prove, and by refitting.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import linjax
from experiments import evaluate, methods, train
from experiments.coverage.zoo.trained import conv
from experiments.data import Dataset, Split, batches
from experiments.methods import Subject
from experiments.models import Network, Params, dense, lecun
from experiments.registry import METHODS, NETWORKS

Array = Any

SIDE, CHANNELS, HIDDEN = 28, 32, (16, 128)
FROZEN = len(HIDDEN) - 1
TERMS = (1, 2, 3, 4)


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


@NETWORKS.add("lumping")
def network(config: Any, inputs: int, classes: int) -> Network:
    """The whole network: LeCun's normal kernels, biases of zero."""
    seed, kernel = config.network.seed, jax.nn.initializers.lecun_normal()
    keys = jax.random.split(jax.random.key(seed))
    head = dense(lecun(seed, (5 * 5 * CHANNELS, *HIDDEN, classes)), "relu")
    params: Params = {
        f"conv_{i}": {"kernel": kernel(keys[i], (3, 3, inputs, CHANNELS)),
                      "bias": jnp.zeros(CHANNELS)}
        for i, inputs in enumerate((1, CHANNELS))
    } | {"dense": head.params}  # fmt: skip

    def apply(params: Params, x: Array) -> Array:
        return head.apply(params["dense"], convolutions(params, x))

    title = f"convolutions of {CHANNELS} channels, dense {HIDDEN}"
    return Network(apply, params, title, learn=lambda p, x, _: (apply(p, x), p))


def features(subject: Subject) -> Dataset:
    """What the dense layers read, of all rows; they are computed once."""
    key, data = ("features", 0.0), subject.dataset
    if key not in subject.made:
        train_rows, valid, test = (
            Split(evaluate.predict(convolutions, subject.params, part.x), part.y)
            for part in (data.train, data.valid, data.test)
        )
        subject.made[key] = Dataset("Features", train_rows, valid, test, data.classes)
    return subject.made[key]


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


def held(network: Network) -> Network:
    """A dense network whose layer of planted units doesn't learn."""

    def apply(params: Params, x: Array) -> Array:
        layers = dict(params["layers"])
        layers[FROZEN] = jax.lax.stop_gradient(layers[FROZEN])
        return network.apply({"layers": layers}, x)

    return network._replace(apply=apply)


def planted(subject: Subject, removed: float, terms: int) -> Params:
    """Plants as many units, and trains the other dense layers on."""
    layers = dict(subject.params["dense"]["layers"])
    layers[FROZEN], _ = plant(layers[FROZEN], terms, int(removed), subject.config.planting.seed)
    start, training = held(dense(layers, "relu")), subject.config.retraining
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "training.npz"
        found = train.alone(start, features(subject), training, file, lambda _: None)
    return subject.params | {"dense": found}


def as_published(subject: Subject, removed: float, terms: int) -> Params:
    """Removes the dependent units as published, as if ``σ(Σ ρ_i z_i)`` were ``Σ ρ_i σ(z_i)``."""
    seed, frozen = subject.config.planting.seed, subject.params["dense"]["layers"][FROZEN]
    _, layout = plant(frozen, terms, int(removed), seed)
    whole = methods.make(subject, f"planted_{terms}", removed)
    layers = dict(whole["dense"]["layers"])
    layer, reader = layers[FROZEN], layers[FROZEN + 1]
    rows = np.array(reader["kernel"], np.float64)
    for target, source, weight in zip(*layout, strict=True):
        rows[source] += weight[:, None] * rows[target]
    kept = np.delete(np.arange(len(rows)), layout.target)
    layers[FROZEN] = {"kernel": layer["kernel"][:, kept], "bias": layer["bias"][kept]}
    layers[FROZEN + 1] = {"kernel": rows[kept].astype(np.float32), "bias": reader["bias"]}
    return whole | {"dense": {"layers": layers}}


def as_large(subject: Subject, removed: float, terms: int) -> Params:
    """A fold of the dense layers in one shot to as many parameters as that leaves."""
    whole = methods.make(subject, f"planted_{terms}", removed)
    head, x = whole["dense"], features(subject).train.x[: len(subject.rows)]
    small = methods.make(subject, f"lumped_2022_{terms}", removed)["dense"]
    net = linjax.trace(dense(head["layers"], "relu").apply, head, x[:2])
    stats = linjax.collect(net, head, batches(x, subject.batch))
    size = linjax.size(linjax.count(small) / linjax.count(head))
    return whole | {"dense": linjax.fold(head, stats, size)}


_made: dict[str, Callable[..., Params]] = {
    "planted": planted, "lumped_2022": as_published, "size_of_2022": as_large,
}  # fmt: skip
for _name, _function in _made.items():
    for _terms in TERMS:
        METHODS.add(f"{_name}_{_terms}")(functools.partial(_function, terms=_terms))
