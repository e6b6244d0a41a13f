"""Data that are made where they are used: what a network has written, tones with overtones."""

import functools
from typing import Any

import numpy as np

from experiments.data.dataset import Dataset, Split
from experiments.registry import DATASETS

TEXTS = (2048, 256)  # to calibrate with and to test on
FRAMES = (4000, 1000)
RATE, FRAME = 16_000, 1024  # samples a second, and in a frame


@DATASETS.add("stories")
def stories_written(config: Any, data_dir: str | None) -> Dataset:
    """Returns texts that the decoder in ``weights`` has written, ``length`` tokens of each.

    What to predict for each token is the next one.
    """
    classes, tokens = _written(config.weights, config.length + 1)
    rows = Split(tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32))
    train, test = rows.take(slice(TEXTS[0])), rows.take(slice(TEXTS[0], None))
    return Dataset("Stories that it wrote", train, train, test, classes)


@functools.cache  # draws of calibration rows share them
def _written(weights: str, length: int) -> tuple[int, np.ndarray]:
    """How many tokens there are, and texts of them."""
    import jax

    from experiments import pretrained  # this reads data sets, too
    from experiments.coverage.zoo import trained

    params = pretrained.read_tree(pretrained.found("stories260k", weights))
    texts = trained.sample(params, jax.random.key(0), sum(TEXTS), length)
    return len(params["embedding"]), np.asarray(texts)


@DATASETS.add("tones")
def tones(config: Any, data_dir: str | None) -> Dataset:
    """Returns frames of tones with overtones and noise, 50 to 1000 Hz; classes are octaves."""
    rng = np.random.default_rng(0)
    count = sum(FRAMES)
    pitch = 50 * 20 ** rng.uniform(size=count)
    phase = 2 * np.pi * np.outer(pitch, np.arange(FRAME) / RATE)
    wave = rng.normal(size=(count, FRAME)) * rng.uniform(0, 0.3, (count, 1))
    for overtone in range(1, 9):
        loud = rng.exponential(size=(count, 1)) / overtone
        loud *= (pitch * overtone < RATE / 2)[:, None]
        wave += loud * np.sin(overtone * phase + rng.uniform(0, 2 * np.pi, (count, 1)))
    wave -= wave.mean(1, keepdims=True)
    x = (wave / wave.std(1, keepdims=True)).astype(np.float32)
    y = np.log2(pitch / 50).astype(np.int32)
    train, test = Split(x, y).take(slice(FRAMES[0])), Split(x, y).take(slice(FRAMES[0], None))
    return Dataset("Tones", train, train, test, int(y.max()) + 1)
