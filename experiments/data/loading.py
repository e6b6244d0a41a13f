"""Finds a data set by its config."""

from typing import Any

import numpy as np

from experiments.data import images, sampled, tabular, text
from experiments.data.dataset import Dataset


def load(config: Any, data_dir: str | None = None) -> Dataset:
    """Returns the data set that a config describes.

    Args:
      config: ``name``; for text also ``length``, of its rows; for tables also ``drop``, the
        columns to leave out; ``seed`` of the split, where the data set has none of its own;
        ``rows``, the number of training rows to use (0: all); ``drawn``, whether ``seed`` draws
        them; ``test_rows``, likewise of the test rows, the first ones; for texts that a network
        has written its ``weights``.
      data_dir: folder that holds the data set; without one the loaders look at
        ``TFDS_DATA_DIR`` and ``LINJAX_TABULAR``.

    Raises:
      MissingData: if the data set is not there; the message says how to prepare it.
    """
    if config.name == "digits":
        dataset = images.digits(config.seed)
    elif config.name == "documentation":
        dataset = text.documentation(config.length)
    elif config.name == "stories":
        dataset = sampled.stories_written(config.weights, config.length)
    elif config.name == "tones":
        dataset = sampled.tones()
    elif config.name in images.TITLES:
        dataset = images.prepared(config.name, data_dir)
    elif config.name in images.ARCHIVES:
        dataset = images.jpeg_archive(config.name, data_dir)
    else:
        dataset = tabular.table(config.name, config.drop, config.seed, data_dir)
    if config.get("drawn", False):
        order = np.random.default_rng(config.seed).permutation(len(dataset.train.y))
        dataset = dataset._replace(train=dataset.train.take(order))
    if config.get("test_rows", 0):
        dataset = dataset._replace(test=dataset.test.take(slice(config.test_rows)))
    if config.rows:
        return dataset._replace(train=dataset.train.take(slice(config.rows)))
    return dataset
