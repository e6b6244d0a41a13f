"""Time of training many small networks together against training them one by one.

    python -m experiments.benchmarks.together

The network of the published tables on a table of random numbers.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

import linjax
from configs import tabular
from experiments import models, train
from experiments.benchmarks.reference import Ratio, show
from experiments.data import Dataset, Split
from experiments.sweep import training

NETWORKS, ROWS, FEATURES, EPOCHS = 12, 1200, 20, 3


def quiet(_: str) -> None:
    """Says nothing."""


def ratios() -> list[Ratio]:
    """Times both once: a sweep pays for compilation, too."""
    config = tabular.get_config()
    config.training.epochs = EPOCHS
    rng = np.random.default_rng(0)
    rows = Split(rng.normal(size=(ROWS, FEATURES)).astype(np.float32),
                 rng.integers(0, 3, ROWS).astype(np.int32))  # fmt: skip
    dataset = Dataset("Noise", rows, rows.take(slice(200)), rows.take(slice(200)), classes=3)
    built = []
    for seed in range(NETWORKS):
        config.network.seed = seed
        built.append(models.build(config.network, FEATURES, 3))
    net = linjax.trace(built[0].apply, built[0].params, rows.x[:1])

    def repeated(part: Split) -> Split:
        return Split(np.stack([part.x] * NETWORKS), np.stack([part.y] * NETWORKS))

    members = training.Members(
        params=jax.tree.map(lambda *leaves: np.stack(leaves), *(b.params for b in built)),
        train=repeated(dataset.train),
        valid=repeated(dataset.valid),
        seed=np.arange(NETWORKS),
        rate=np.full(NETWORKS, config.training.learning_rate, np.float32),
        pruned=np.zeros(NETWORKS, np.float32),
    )

    def together() -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "all.npz"
            training.fit(net, members, config.training, file, jax.local_devices()[:1], say=quiet)

    def alone() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for seed, network in enumerate(built):
                config.training.seed = seed
                file = pathlib.Path(folder) / f"{seed}.npz"
                train.fit(network, dataset, config.training, file, say=quiet)

    return [
        Ratio(
            f"training {NETWORKS} small networks together",
            _once(together),
            "one by one",
            _once(alone),
            "compilation included",
        )
    ]


def _once(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    show(ratios())
