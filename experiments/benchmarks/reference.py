"""The seven-layer network that the benchmarks measure, with random weights and inputs.

Time doesn't depend on the weights' values, so that the benchmarks need no data.
"""

import datetime
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.report.table import grid


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


def apply(params: list[dict[str, Any]], x: Any) -> Any:
    """Dense layers with ReLU between."""
    for index, part in enumerate(params):
        x = x @ part["kernel"] + part["bias"]
        x = jax.nn.relu(x) if index < len(params) - 1 else x
    return x


def network() -> tuple[linjax.Net, list[dict[str, Any]], list[Any]]:
    """Returns net, parameters and batches."""
    rng = np.random.default_rng(0)
    params = [
        {
            "kernel": jnp.asarray(rng.normal(size=(p, q)) * np.sqrt(2 / p), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=q) * 0.5, jnp.float32),
        }
        for p, q in itertools.pairwise(WIDTHS)
    ]
    x = jnp.asarray(rng.uniform(size=(ROWS, WIDTHS[0])), jnp.float32)
    net = linjax.trace(apply, params, x[:1])
    return net, params, [x[i : i + BATCH] for i in range(0, ROWS, BATCH)]


def medians(*functions: Callable[[], Any], runs: int = 7) -> list[float]:
    """Times functions in turn, so that the machine's drift hits all alike; after a warm-up."""
    for function in functions:
        jax.block_until_ready(function())
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(runs):
        for function, taken in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            taken.append(time.perf_counter() - start)
    return [float(np.median(taken)) for taken in seconds]


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
    print(machine())
    print(grid(("what", "takes", "against", "takes", "times as fast", ""), rows))


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.1 else f"{seconds:.3g} s"
