"""The seven-layer network that the benchmarks measure, with random weights and inputs.

Time doesn't depend on the weights' values, so that the benchmarks need no data.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import linjax
from experiments import models

WIDTHS = (784, 1024, 1024, 512, 512, 256, 256, 10)
ROWS, BATCH = 10_000, 1_000


def network(widths: Sequence[int] = WIDTHS) -> tuple[linjax.Net, Any]:
    """A random dense network with biases."""
    rng = np.random.default_rng(0)
    layers = {
        i: part | {"bias": jnp.asarray(rng.normal(size=part["bias"].shape) * 0.5, jnp.float32)}
        for i, part in models.lecun(0, widths).items()
    }
    made = models.dense(layers, "relu")
    return linjax.trace(made.apply, made.params, jnp.ones((1, widths[0]))), made.params


def batches(features: int = WIDTHS[0], rows: int = ROWS, size: int = BATCH) -> list[Any]:
    """Random inputs."""
    x = np.random.default_rng(1).uniform(size=(rows, features)).astype(np.float32)
    return [jnp.asarray(x[i : i + size]) for i in range(0, rows, size)]
