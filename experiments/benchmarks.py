"""Benchmarks: times of operations beside what they are compared with, and how times grow.

    python -m experiments.benchmarks                       # all
    python -m experiments.benchmarks collect scaling       # some

Each is the median of some calls in turn, after one to warm up. Time doesn't depend on the weights'
values: networks and inputs are random. For ``scaling`` widths, depths and numbers of rows grow
alone; devices are virtual ones that share the host's cores, so that spreading costs what it costs
and can't gain anything.
"""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import app, logging
from jax import lax
from jax.sharding import Mesh

import linjax
from configs import tabular
from experiments import models, networks, train
from experiments.data import Dataset, Split, batches
from experiments.evaluate import medians
from experiments.journal import versions

WIDTHS, ROWS, BATCH = (784, 1024, 1024, 512, 512, 256, 256, 10), 10_000, 1000
SIZES, BATCHES, CALLS = (0.25, 0.1, 0.025), (1, 32, 1024), 20
MEMBERS, FEATURES = 12, 20
AGAINST = ("what", "seconds", "against", "seconds ", "times as fast")
GROWN = ("what", "grows in", "from", "seconds", "exponent", "expected")
SPREAD = "collect over devices"


def network(widths: Sequence[int] = WIDTHS) -> tuple[linjax.Net, Any]:
    """A random dense network."""
    made = models.dense(models.lecun(0, widths), "relu")
    return linjax.trace(made.apply, made.params, jnp.ones((1, widths[0]))), made.params


def inputs(features: int = WIDTHS[0], rows: int = ROWS, size: int = BATCH) -> list[Any]:
    """Random inputs."""
    x = np.random.default_rng(1).uniform(size=(rows, features)).astype(np.float32)
    return list(map(jnp.asarray, batches(x, size)))


def moments(net: linjax.Net, params: Any, data: Any, **how: Any) -> Callable[[], Any]:
    """Collecting evidence."""
    return lambda: linjax.collect(net, params, data, **how).seen[0].active


rates = functools.partial(moments, second_moments=False)


def tenth(net: linjax.Net, params: Any, data: Any) -> Callable[[], Any]:
    """Folding to a tenth, with a frontier of its own."""
    stats = linjax.collect(net, params, data)
    return lambda: linjax.fold(params, stats, linjax.size(0.1))


def against(what: str, seconds: float, other: str, theirs: float) -> tuple[Any, ...]:
    """A line of the first table; above one the first is faster."""
    return what, f"{seconds:.3g}", other, f"{theirs:.3g}", f"{theirs / seconds:.3g}"


def products(params: Any, x: Any) -> Any:
    """The forward pass, and the products that second moments of it need.

    These are of every layer's units before and behind their activation, side by side, and of the
    inputs: what linear units and factored kernels are made of. Of each the lower triangle in
    blocks of a quarter, for two folds of the rows.
    """
    needed, parts = [x], list(params["layers"].values())
    for part in parts[:-1]:
        z = x @ part["kernel"] + part["bias"]
        x = jax.nn.relu(z)
        needed.append(jnp.concatenate([x, z], axis=1))
    blocks = []
    for a in (rows[fold::2] for rows in needed for fold in (0, 1)):
        step = max(a.shape[1] // 4, 256)
        for start in range(0, a.shape[1], step):
            end, dims = start + step, (((0,), (0,)), ((), ()))
            high = lax.Precision.HIGHEST
            blocks.append(lax.dot_general(a[:, start:end], a[:, :end], dims, precision=high))
    return x @ parts[-1]["kernel"], blocks


def collect() -> list[Any]:
    """Statistics and a sweep, against the forward pass and the products that moments need."""
    (net, params), data = network(), inputs()

    def through(run: Callable[..., Any]) -> list[Any]:
        return [jax.block_until_ready(run(params, x)) for x in data]

    forward, needed = (
        functools.partial(through, jax.jit(function)) for function in (net.apply_fn, products)
    )

    def thresholds() -> None:
        stats = linjax.collect(net, params, data, second_moments=False)
        for threshold in np.linspace(0.95, 0.0, 20):
            linjax.count(linjax.fold(params, stats, linjax.threshold(threshold)))

    both = rates(net, params, data), moments(net, params, data)
    plain, light, least, full, swept = medians(forward, both[0], needed, both[1], thresholds)
    return [
        against("collect: counts, means, variances", light, "forward pass", plain),
        against("collect: second moments, too", full, "forward pass and their products", least),
        against("counts and 20 thresholds", swept, "counts alone", light),
    ]


def inference() -> list[Any]:
    """Single batches of folded networks, against the original."""
    (net, params), data = network(), inputs()
    known = linjax.frontier(params, linjax.collect(net, params, data))
    folded = [linjax.fold(params, known, linjax.size(size)) for size in SIZES]
    run, rows, found = jax.jit(net.apply), np.concatenate(data), []
    for batch in BATCHES:
        x = jax.device_put(rows[:batch])
        calls = [lambda p=p, x=x: [run(p, x) for _ in range(CALLS)] for p in (params, *folded)]
        original, *smaller = (seconds / CALLS for seconds in medians(*calls))
        for size, seconds in zip(SIZES, smaller, strict=True):
            what = f"inference at {size:.1%} of the size, batch {batch}"
            found.append(against(what, seconds, "the original", original))
    return found


def together() -> list[Any]:
    """Training small networks together, against one by one; a sweep compiles, too."""
    rng, rows = np.random.default_rng(0), 1200
    split = Split(rng.normal(size=(rows, FEATURES)).astype(np.float32),
                  rng.integers(0, 3, rows).astype(np.int32))  # fmt: skip
    data = Dataset("Noise", split, split.take(slice(200)), split.take(slice(200)), classes=3)
    configs = [tabular.get_config() for _ in range(MEMBERS)]
    for seed, config in enumerate(configs):
        config.training.epochs, config.network.seed, config.training.seed = 3, seed, seed

    def fit(some: list[Any]) -> Any:
        built = [networks.build(config, FEATURES, 3) for config in some]
        own = [config.training for config in some]
        with tempfile.TemporaryDirectory() as folder:
            group = train.members(built, [data] * len(some), own)
            file = pathlib.Path(folder) / "file.npz"
            return train.fit(built[0], group, own[0], file, lambda _: None)

    both, alone = medians(lambda: fit(configs), lambda: [fit([c]) for c in configs], runs=1)
    what = f"training {MEMBERS} small networks together, compilation included"
    return [against(what, both, "one by one", alone)]


Size = tuple[tuple[int, ...], int]  # widths of a network, and rows
SHAPES: dict[str, Callable[[int], Size]] = {
    "width": lambda n: ((n,) * 5 + (10,), 4096),
    "depth": lambda n: ((128,) * (n + 1) + (10,), 4096),
    "rows": lambda n: ((128,) * 5 + (10,), n),
}
TIMED: dict[str, Callable[..., Callable[[], Any]]] = {
    "collect, rates": rates, "collect, second moments": moments, "fold to a tenth": tenth,
}  # fmt: skip
GROWTHS = (
    ("collect, rates", "width", 256, "2"),
    ("collect, rates", "depth", 4, "1"),
    ("collect, rates", "rows", 16384, "1"),
    ("collect, second moments", "width", 128, "2"),
    ("collect, second moments", "depth", 4, "2"),
    ("collect, second moments", "rows", 8192, "1"),
    ("fold to a tenth", "width", 64, "up to 3"),
    ("fold to a tenth", "depth", 2, "1 to 2"),
    ("fold to a tenth", "rows", 2048, "0"),
)
"""What is timed, what grows, the first of four values that double, and the exponent that the number
of operations leads to."""


def seconds(make: Callable[..., Callable[[], Any]], size: Size, **more: Any) -> float:
    """Median seconds of an operation."""
    widths, rows = size
    return medians(make(*network(widths), inputs(widths[0], rows, 2048), **more), runs=3)[0]


def grown(what: str, name: str, values: list[int], taken: list[float], expected: str) -> Any:
    """A line of the second table: the slope of the logarithms over the larger half of the values.

    >>> grown("fold", "width", [1, 2, 4, 8], [9, 4, 16, 64], "2")[3:5]
    ('9, 4, 16, 64', '2.00')
    """
    start = (len(values) - 1) // 2  # where values are small overheads weigh
    slope = np.polyfit(np.log(values[start:]), np.log(taken[start:]), 1)[0]
    said = ", ".join(f"{s:.3g}" for s in taken)
    return what, name, ", ".join(map(str, values)), said, f"{slope:.2f}", expected


def scaling() -> list[Any]:
    """How the times of ``collect`` and ``fold`` grow."""
    found = []
    for what, name, first, expected in GROWTHS:
        values = [first << i for i in range(4)]
        taken = [seconds(TIMED[what], SHAPES[name](value)) for value in values]
        found.append(grown(what, name, values, taken, expected))
    counts = [1, 2, 4, 8]
    taken = [on_devices(count) for count in counts]
    return [*found, grown("collect, second moments", "devices", counts, taken, "0: shared cores")]


def on_devices(count: int) -> float:
    """Seconds of collecting over virtual devices, which a process has to be started with."""
    flags = f"--xla_force_host_platform_device_count={count}"
    # XLA takes NPROC for the number of threads: as many as devices would wait for one another.
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "16"}
    command = [sys.executable, "-m", "experiments.benchmarks", SPREAD]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
    return float(done.stdout.split()[-1])


ALL = {f.__name__: f for f in (collect, inference, together, scaling)}


def main(argv: list[str]) -> None:
    """Runs those named, or all, one after the other, and prints both tables."""
    logging.set_verbosity(logging.ERROR)
    warnings.simplefilter("ignore", linjax.FoldWarning)
    names = argv[1:] or [*ALL]
    if names == [SPREAD]:  # one of the processes of `on_devices`
        mesh = Mesh(np.array(jax.devices()), ("data",))
        print(seconds(moments, ((256,) * 5 + (10,), 16384), mesh=mesh))
        return
    if unknown := {*names} - {*ALL}:
        raise app.UsageError(f"no benchmark {', '.join(sorted(unknown))}; there are {[*ALL]}")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    for columns, own in ((AGAINST, [*ALL][:-1]), (GROWN, ["scaling"])):
        lines = [line for name in own if name in names for line in ALL[name]()]
        if lines:
            print(pd.DataFrame(lines, columns=list(columns)).to_string(index=False), flush=True)


if __name__ == "__main__":
    app.run(main)
