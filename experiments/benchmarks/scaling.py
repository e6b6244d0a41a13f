"""How the times of ``collect`` and ``fold`` grow, with fitted exponents beside expected ones.

    python -m experiments.benchmarks scaling

Widths, depths and numbers of rows grow alone; devices are virtual ones that share the host's
cores, so that spreading costs what it costs and can't gain anything.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh

import linjax
from experiments import models
from experiments.evaluate import medians

# Time doesn't depend on the weights' values: they and the inputs are random.
WIDTHS = (784, 1024, 1024, 512, 512, 256, 256, 10)
ROWS, AT_ONCE = 10_000, 1_000
RUNS = 3
BATCH = 2048
SPREAD = (256,) * 5 + (10,), 16384  # what is collected over devices

Size = tuple[tuple[int, ...], int]  # widths of a network, and rows


def network(widths: Sequence[int] = WIDTHS) -> tuple[linjax.Net, Any]:
    """A random dense network with biases."""
    rng = np.random.default_rng(0)
    layers = {
        i: part | {"bias": jnp.asarray(rng.normal(size=part["bias"].shape) * 0.5, jnp.float32)}
        for i, part in models.lecun(0, widths).items()
    }
    made = models.dense(layers, "relu")
    return linjax.trace(made.apply, made.params, jnp.ones((1, widths[0]))), made.params


def batches(features: int = WIDTHS[0], rows: int = ROWS, size: int = AT_ONCE) -> list[Any]:
    """Random inputs."""
    x = np.random.default_rng(1).uniform(size=(rows, features)).astype(np.float32)
    return [jnp.asarray(x[i : i + size]) for i in range(0, rows, size)]


def rates(net: linjax.Net, params: Any, data: Any) -> Callable[[], Any]:
    """Collecting activation rates, means and variances."""
    return lambda: linjax.collect(net, params, data, second_moments=False).seen[0].active


def moments(net: linjax.Net, params: Any, data: Any, mesh: Any = None) -> Callable[[], Any]:
    """Collecting second moments, too."""
    return lambda: linjax.collect(net, params, data, mesh=mesh).seen[0].active


def fold(net: linjax.Net, params: Any, data: Any) -> Callable[[], Any]:
    """Folding to a tenth, with a frontier of its own."""
    stats = linjax.collect(net, params, data)
    return lambda: linjax.fold(params, stats, linjax.size(0.1))


def seconds(make: Callable[..., Callable[[], Any]], size: Size, **more: Any) -> float:
    """Median seconds of an operation."""
    widths, rows = size
    return medians(make(*network(widths), batches(widths[0], rows, BATCH), **more), runs=RUNS)[0]


def wide(width: int) -> Size:
    """Four hidden layers of a width."""
    return (width,) * 5 + (10,), 4096


def deep(depth: int) -> Size:
    """Hidden layers of 128 units."""
    return (128,) * (depth + 1) + (10,), 4096


def long(rows: int) -> Size:
    """Rows through four hidden layers of 128 units."""
    return (128,) * 5 + (10,), rows


OPERATIONS = {"collect, rates": rates, "collect, second moments": moments, "fold to a tenth": fold}
GROWTHS: tuple[tuple[str, str, Callable[[int], Size], int, str], ...] = (
    ("collect, rates", "width", wide, 256, "2"),
    ("collect, rates", "depth", deep, 4, "1"),
    ("collect, rates", "rows", long, 16384, "1"),
    ("collect, second moments", "width", wide, 128, "2"),
    ("collect, second moments", "depth", deep, 4, "2"),
    ("collect, second moments", "rows", long, 8192, "1"),
    ("fold to a tenth", "width", wide, 64, "up to 3"),
    ("fold to a tenth", "depth", deep, 2, "1 to 2"),
    ("fold to a tenth", "rows", long, 2048, "0"),
)
"""What is timed, what grows, the first of four values that double, and the exponent that the number
of operations leads to."""


def exponent(values: Sequence[float], taken: Sequence[float]) -> float:
    """Slope of the logarithms over the larger half of the values, where overheads are small.

    >>> round(exponent([1, 2, 4, 8], [9, 4, 16, 64]), 6)
    2.0
    """
    start = (len(values) - 1) // 2
    return float(np.polyfit(np.log(values[start:]), np.log(taken[start:]), 1)[0])


def measure() -> pd.DataFrame:
    """Times everything; the fitted exponents stand beside the expected ones."""
    found = []
    for operation, what, size, first, expected in GROWTHS:
        values = [first << i for i in range(4)]
        taken = [seconds(OPERATIONS[operation], size(value)) for value in values]
        found.append((operation, what, values, taken, expected))
    counts = [1, 2, 4, 8]
    taken = [_on_devices(count) for count in counts]
    found.append(("collect, second moments", "devices", counts, taken, "0: shared cores"))
    rows = [
        (operation, what, ", ".join(map(str, values)), ", ".join(f"{s:.3g}" for s in taken),
         f"{exponent(values, taken):.2f}", expected)
        for operation, what, values, taken, expected in found
    ]  # fmt: skip
    columns = ["what", "grows in", "from", "seconds", "exponent", "expected"]
    return pd.DataFrame(rows, columns=columns)


def _on_devices(count: int) -> float:
    """Seconds of collecting over virtual devices, which a process has to be started with."""
    flags = f"--xla_force_host_platform_device_count={count}"
    # XLA takes NPROC for the number of threads: as many as devices would wait for one another.
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "16"}
    command = [sys.executable, "-m", "experiments.benchmarks.scaling"]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":  # one of the processes of `_on_devices`
    print(seconds(moments, SPREAD, mesh=Mesh(np.array(jax.devices()), ("data",))))
