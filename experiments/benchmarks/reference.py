"""The seven-layer network that the benchmarks measure, with random weights and inputs.

Time doesn't depend on the weights' values, so that the benchmarks need no data.
"""

import datetime
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import linjax
from experiments import models


class Ratio(NamedTuple):
    """What something takes against something else.

    Attributes:
      what: what was timed.
      seconds: how long it takes.
      against: what it is compared with.
      other: how long that takes.
      note: what one has to know about the figures.
    """

    what: str
    seconds: float
    against: str
    other: float
    note: str = ""


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


def once(function: Callable[[], Any]) -> float:
    """Seconds of one call, compilation included."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def least(*functions: Callable[[], Any], runs: int = 5) -> list[float]:
    """Processor seconds of functions, taken in turn: the least of some runs, after a warm-up.

    Of all threads together: what others do on the machine hardly counts.
    """
    seconds = [float("inf")] * len(functions)
    for run in range(runs + 1):
        for n, function in enumerate(functions):
            start = time.process_time()
            jax.block_until_ready(function())
            seconds[n] = min(seconds[n], time.process_time() - start) if run else seconds[n]
    return seconds


def machine() -> str:
    """Names the device and the versions that a figure belongs to."""
    device = jax.devices()[0]
    return (
        f"{device.device_kind} × {jax.device_count()}, {os.cpu_count()} host cores, "
        f"jax {jax.__version__}, linjax {linjax.__version__}, {datetime.date.today()}"
    )


def show(ratios: Sequence[Ratio]) -> None:
    """Prints ratios, with what they were measured on; above one the first is faster."""
    rows = [
        (r.what, _seconds(r.seconds), r.against, _seconds(r.other),
         f"{r.other / r.seconds:.3g}", r.note)
        for r in ratios
    ]  # fmt: skip
    columns = ["what", "takes", "against", "takes ", "times as fast", ""]
    print(f"{machine()}\n{pd.DataFrame(rows, columns=columns).to_string(index=False)}")


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.1 else f"{seconds:.3g} s"
