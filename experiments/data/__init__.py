"""Data sets as arrays: ``load`` finds one by its config."""

import functools
import json
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments.data import images, sampled, tabular, text
from experiments.data.dataset import Dataset, MissingData, Split, batches
from experiments.registry import DATASETS

__all__ = ["Dataset", "MissingData", "Split", "batches", "load"]
MODULES = (images, sampled, tabular, text)  # each registers its data sets


def load(config: Any, data_dir: str | None = None) -> Dataset:
    """Returns the data set that a config describes; the same one for the same config.

    Args:
      config: ``name``, in ``registry.DATASETS`` or of a table; for text also ``length``, of its
        rows; for tables also ``drop``, the columns to leave out; ``seed`` of the split, where the
        data set has none of its own; ``rows``, the number of training rows to use (0: all);
        ``drawn``, whether ``seed`` draws them; ``test_rows``, likewise of the test rows, the
        first ones; for texts that a network has written its ``weights``.
      data_dir: folder that holds the data set; without one the loaders look at
        ``TFDS_DATA_DIR`` and ``LINJAX_TABULAR``.

    Raises:
      MissingData: if the data set is not there; the message says how to prepare it.
    """
    return _loaded(json.dumps(config.to_dict()), data_dir)


@functools.lru_cache(maxsize=32)
def _loaded(text: str, data_dir: str | None) -> Dataset:
    config = ConfigDict(json.loads(text))
    dataset = DATASETS.get(config.name, tabular.table)(config, data_dir)
    if config.get("drawn", False):
        order = np.random.default_rng(config.seed).permutation(len(dataset.train.y))
        dataset = dataset._replace(train=dataset.train.take(order))
    if config.get("test_rows", 0):
        dataset = dataset._replace(test=dataset.test.take(slice(config.test_rows)))
    if config.rows:
        return dataset._replace(train=dataset.train.take(slice(config.rows)))
    return dataset
