"""How the times of ``collect`` and ``fold`` grow, with fitted exponents beside expected ones.

    python -m experiments.benchmarks.scaling

Widths, depths and numbers of rows grow alone; devices are virtual ones that share the host's
cores, so that spreading costs what it costs and can't gain anything.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

import linjax
from experiments.benchmarks.reference import batches, machine, network
from experiments.evaluate import medians

RUNS = 3
BATCH = 2048


class Growth(NamedTuple):
    """Times of an operation as one thing grows.

    Attributes:
      operation: what was timed.
      what: what grew.
      values: how large it was.
      seconds: medians.
      expected: the exponent that the number of operations leads to.
    """

    operation: str
    what: str
    values: tuple[int, ...]
    seconds: tuple[float, ...]
    expected: str

    @property
    def exponent(self) -> float:
        """Slope of the logarithms over the larger half of the values, where overheads are small."""
        start = (len(self.values) - 1) // 2
        slope, _ = np.polyfit(np.log(self.values[start:]), np.log(self.seconds[start:]), 1)
        return float(slope)


def median(function: Callable[[], Any]) -> float:
    """Median time of a few calls after one that compiles."""
    return medians(function, runs=RUNS)[0]


Widths = tuple[int, ...]


def rates(widths: Widths, rows: int) -> float:
    """Seconds of collecting activation rates, means and variances."""
    (net, params), data = network(widths), batches(widths[0], rows, BATCH)
    return median(lambda: linjax.collect(net, params, data, second_moments=False).seen[0].active)


def moments(widths: Widths, rows: int, mesh: Mesh | None = None) -> float:
    """Seconds of collecting second moments, too."""
    (net, params), data = network(widths), batches(widths[0], rows, BATCH)
    return median(lambda: linjax.collect(net, params, data, mesh=mesh).seen[0].active)


def fold(widths: Widths, rows: int) -> float:
    """Seconds of folding to a tenth, with a frontier of its own."""
    net, params = network(widths)
    stats = linjax.collect(net, params, batches(widths[0], rows, BATCH))
    return median(lambda: linjax.fold(params, stats, linjax.size(0.1)))


def wide(width: int) -> tuple[Widths, int]:
    """Four hidden layers of a width."""
    return (width,) * 5 + (10,), 4096


def deep(depth: int) -> tuple[Widths, int]:
    """Hidden layers of 128 units."""
    return (128,) * (depth + 1) + (10,), 4096


def long(rows: int) -> tuple[Widths, int]:
    """Rows through four hidden layers of 128 units."""
    return (128,) * 5 + (10,), rows


OPERATIONS: dict[str, Callable[..., float]] = {
    "collect, rates": rates,
    "collect, second moments": moments,
    "fold to a tenth": fold,
}
GROWTHS: tuple[tuple[str, str, Callable[[int], tuple[Widths, int]], tuple[int, ...], str], ...] = (
    ("collect, rates", "width", wide, (256, 512, 1024, 2048), "2"),
    ("collect, rates", "depth", deep, (4, 8, 16, 32), "1"),
    ("collect, rates", "rows", long, (16384, 32768, 65536, 131072), "1"),
    ("collect, second moments", "width", wide, (128, 256, 512, 1024), "2"),
    ("collect, second moments", "depth", deep, (4, 8, 16, 32), "2"),
    ("collect, second moments", "rows", long, (8192, 16384, 32768, 65536), "1"),
    ("fold to a tenth", "width", wide, (64, 128, 256, 512), "up to 3"),
    ("fold to a tenth", "depth", deep, (2, 4, 8, 16), "1 to 2"),
    ("fold to a tenth", "rows", long, (2048, 4096, 8192, 16384), "0"),
)


def measure() -> list[Growth]:
    """Times everything."""
    found = [
        Growth(
            operation,
            what,
            values,
            tuple(OPERATIONS[operation](*shape(value)) for value in values),
            expected,
        )
        for operation, what, shape, values, expected in GROWTHS
    ]
    counts = (1, 2, 4, 8)
    seconds = tuple(map(_on_devices, counts))
    found.append(Growth("collect, second moments", "devices", counts, seconds, "0: shared cores"))
    return found


def _on_devices(count: int) -> float:
    """Seconds of collecting over virtual devices, which a process has to be started with."""
    flags = f"--xla_force_host_platform_device_count={count}"
    # XLA takes NPROC for the number of threads: as many as devices would wait for one another.
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "16"}
    command = [sys.executable, "-m", "experiments.benchmarks.scaling", "devices"]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
    return float(done.stdout.split()[-1])


def spread() -> float:
    """Seconds of collecting over all devices of this process."""
    return moments((256,) * 5 + (10,), 16384, Mesh(np.array(jax.devices()), ("data",)))


def table(found: list[Growth]) -> str:
    """The times, and the fitted exponents beside the expected ones."""
    rows = [
        (
            g.operation,
            g.what,
            ", ".join(map(str, g.values)),
            ", ".join(f"{s:.3g}" for s in g.seconds),
            f"{g.exponent:.2f}",
            g.expected,
        )
        for g in found
    ]
    columns = ["what", "grows in", "from", "seconds", "exponent", "expected"]
    return pd.DataFrame(rows, columns=columns).to_string(index=False)


if __name__ == "__main__":
    if sys.argv[1:] == ["devices"]:
        print(spread())
    else:
        print(machine())
        print(table(measure()))
