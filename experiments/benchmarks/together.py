"""Time of training many small networks together against training them one by one.

    python -m experiments.benchmarks.together

The network of the published tables on a table of random numbers.
"""

import pathlib
import tempfile

import numpy as np

from configs import tabular
from experiments import networks, train
from experiments.benchmarks.reference import Ratio, once, show
from experiments.data import Dataset, Split

NETWORKS, ROWS, FEATURES, EPOCHS = 12, 1200, 20, 3


def ratios() -> list[Ratio]:
    """Times both once: a sweep pays for compilation, too."""
    rng = np.random.default_rng(0)
    rows = Split(rng.normal(size=(ROWS, FEATURES)).astype(np.float32),
                 rng.integers(0, 3, ROWS).astype(np.int32))  # fmt: skip
    valid = rows.take(slice(200))
    built, parts, configs = [], [], []
    for seed in range(NETWORKS):
        config = tabular.get_config()
        config.training.epochs = EPOCHS
        config.network.seed = config.training.seed = seed
        built.append(networks.build(config, FEATURES, 3))
        parts.append(Dataset("Noise", rows, valid, valid, classes=3))
        configs.append(config.training)

    def fit(some: slice) -> None:
        with tempfile.TemporaryDirectory() as folder:
            group = train.members(built[some], parts[some], configs[some])
            train.fit(
                built[0], group, configs[0], pathlib.Path(folder) / "file.npz", lambda _: None
            )

    def alone() -> None:
        for i in range(NETWORKS):
            fit(slice(i, i + 1))

    what = f"training {NETWORKS} small networks together"
    both = once(lambda: fit(slice(None))), once(alone)
    return [Ratio(what, both[0], "one by one", both[1], "compilation included")]


if __name__ == "__main__":
    show(ratios())
