"""Times of operations against what they are compared with."""

import functools
import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import linjax
from configs import tabular
from experiments import networks, train
from experiments.benchmarks import scaling
from experiments.data import Dataset, Split
from experiments.evaluate import medians

SIZES = (0.25, 0.1, 0.025)
BATCHES = (1, 32, 1024)
CALLS = 20
AUTHORS = 182.0  # seconds that their code once took for the sweep, on two busy cores
MEMBERS, ROWS, FEATURES, EPOCHS = 12, 1200, 20, 3


class Ratio(NamedTuple):
    """What something takes against something else.

    Attributes:
      what: what was timed.
      seconds: how long it takes.
      against: what it is compared with.
      other: how long that takes.
    """

    what: str
    seconds: float
    against: str
    other: float


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


def gram(rows: Any) -> list[Any]:
    """The lower triangle of ``aᵀ a`` in blocks of a quarter, for two folds of the rows."""
    result, step = [], max(rows.shape[1] // 4, 256)
    for fold in (0, 1):
        a = rows[fold::2]
        for start in range(0, a.shape[1], step):
            end = min(start + step, a.shape[1])
            result.append(
                lax.dot_general(
                    a[:, start:end],
                    a[:, :end],
                    (((0,), (0,)), ((), ())),
                    precision=lax.Precision.HIGHEST,
                )
            )
    return result


def collect() -> list[Ratio]:
    """Times statistics, the forward pass, and the products that second moments need.

    These are of every layer's units before and behind their activation, side by side, and of the
    inputs: what linear units and factored kernels are made of.
    """
    (net, params), batches = scaling.network(), scaling.batches()
    forward = jax.jit(net.apply_fn)

    @jax.jit
    def products(params: Any, x: Any) -> Any:
        needed, parts = [x], list(params["layers"].values())
        for part in parts[:-1]:
            z = x @ part["kernel"] + part["bias"]
            x = jax.nn.relu(z)
            needed.append(jnp.concatenate([x, z], axis=1))
        return x @ parts[-1]["kernel"], [gram(rows) for rows in needed]

    plain, light, needed, full = least(
        lambda: [jax.block_until_ready(forward(params, x)) for x in batches],
        lambda: linjax.collect(net, params, batches, second_moments=False).seen[0].active,
        lambda: [jax.block_until_ready(products(params, x)) for x in batches],
        lambda: linjax.collect(net, params, batches).seen[0].active,
    )
    return [
        Ratio("collect: counts, means, variances", light, "forward pass", plain),
        Ratio("collect: second moments, too", full, "forward pass and their products", needed),
    ]


def inference() -> list[Ratio]:
    """Times single batches of both."""
    (net, params), batches = scaling.network(), scaling.batches()
    known = linjax.frontier(params, linjax.collect(net, params, batches))
    folded = [linjax.fold(params, known, linjax.size(size)) for size in SIZES]
    run, rows, found = jax.jit(net.apply), np.concatenate(batches), []
    for batch in BATCHES:
        x = jax.device_put(rows[:batch])

        def calls(p: object, x: jax.Array = x) -> list[jax.Array]:
            return [run(p, x) for _ in range(CALLS)]

        networks = (params, *folded)
        original, *smaller = medians(*(functools.partial(calls, p) for p in networks))
        for size, seconds in zip(SIZES, smaller, strict=True):
            what = f"inference at {size:.1%} of the size, batch {batch}"
            found.append(Ratio(what, seconds / CALLS, "the original", original / CALLS))
    return found


def sweep() -> list[Ratio]:
    """Times collecting and the sweep once compiled; the authors' time is from one record."""
    (net, params), batches = scaling.network(), scaling.batches()

    def all_thresholds() -> None:
        stats = linjax.collect(net, params, batches, second_moments=False)
        for threshold in np.linspace(0.95, 0.0, 20):
            linjax.count(linjax.fold(params, stats, linjax.threshold(threshold)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        (seconds,) = least(all_thresholds, runs=3)
    return [Ratio("rates and 20 thresholds", seconds, "the authors' code, recorded", AUTHORS)]


def together() -> list[Ratio]:
    """Times both once: a sweep pays for compilation, too."""
    rng = np.random.default_rng(0)
    rows = Split(rng.normal(size=(ROWS, FEATURES)).astype(np.float32),
                 rng.integers(0, 3, ROWS).astype(np.int32))  # fmt: skip
    data = Dataset("Noise", rows, rows.take(slice(200)), rows.take(slice(200)), classes=3)
    configs = [tabular.get_config() for _ in range(MEMBERS)]
    for seed, config in enumerate(configs):
        config.training.epochs = EPOCHS
        config.network.seed = config.training.seed = seed

    def fit(some: list[Any]) -> None:
        built = [networks.build(config, FEATURES, 3) for config in some]
        own = [config.training for config in some]
        with tempfile.TemporaryDirectory() as folder:
            group = train.members(built, [data] * len(some), own)
            train.fit(built[0], group, own[0], pathlib.Path(folder) / "file.npz", lambda _: None)

    def one_by_one() -> None:
        for config in configs:
            fit([config])

    both, alone = once(lambda: fit(configs)), once(one_by_one)
    what = f"training {MEMBERS} small networks together, compilation included"
    return [Ratio(what, both, "one by one", alone)]


ALL = (collect, sweep, inference, together)
