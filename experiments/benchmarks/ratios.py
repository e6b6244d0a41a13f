"""Times of operations against what they are compared with."""

import functools
import os
import pathlib
import tempfile
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import linjax
from configs import tabular
from experiments import exact, models, networks, train
from experiments.benchmarks import reference
from experiments.benchmarks.reference import Ratio, least, once
from experiments.data import Dataset, Split
from experiments.evaluate import medians
from experiments.methods import Subject

SIZES = (0.25, 0.1, 0.025)
BATCHES = (1, 32, 1024)
CALLS = 20
AUTHORS = 182.0  # seconds their code took for the sweep, on two busy cores
MEMBERS, ROWS, FEATURES, EPOCHS = 12, 1200, 20, 3
NETWORKS = (
    "25-25_0.001_1",
    "100-100_0.0005_0",
    "100-100_0.0005_1",
    "400-400_0.0002_1",
    "100-100-100-100-100_0.0002_1",
)


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
    (net, params), batches = reference.network(), reference.batches()
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
    (net, params), batches = reference.network(), reference.batches()
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
    (net, params), batches = reference.network(), reference.batches()

    def all_thresholds() -> None:
        stats = linjax.collect(net, params, batches, second_moments=False)
        for threshold in np.linspace(0.95, 0.0, 20):
            linjax.count(linjax.fold(params, stats, linjax.threshold(threshold)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        (seconds,) = least(all_thresholds, runs=3)
    return [
        Ratio("rates and 20 thresholds", seconds, "the authors' code", AUTHORS, "once recorded")
    ]


def together() -> list[Ratio]:
    """Times both once: a sweep pays for compilation, too."""
    rng = np.random.default_rng(0)
    rows = Split(rng.normal(size=(ROWS, FEATURES)).astype(np.float32),
                 rng.integers(0, 3, ROWS).astype(np.int32))  # fmt: skip
    valid = rows.take(slice(200))
    built, parts, configs = [], [], []
    for seed in range(MEMBERS):
        config = tabular.get_config()
        config.training.epochs = EPOCHS
        config.network.seed = config.training.seed = seed
        built.append(networks.build(config, FEATURES, 3))
        parts.append(Dataset("Noise", rows, valid, valid, classes=3))
        configs.append(config.training)

    def fit(some: slice) -> None:
        with tempfile.TemporaryDirectory() as folder:
            group = train.members(built[some], parts[some], configs[some])
            train.fit(
                built[0], group, configs[0], pathlib.Path(folder) / "file.npz", lambda _: None
            )

    def alone() -> None:
        for i in range(MEMBERS):
            fit(slice(i, i + 1))

    what = f"training {MEMBERS} small networks together"
    both = once(lambda: fit(slice(None))), once(alone)
    return [Ratio(what, both[0], "one by one", both[1], "compilation included")]


def shared() -> pathlib.Path:
    """The folder of reference networks: ``LINJAX_SHARED``, or beside the repository."""
    beside = pathlib.Path(__file__).resolve().parents[3] / "shared"
    return pathlib.Path(os.environ.get("LINJAX_SHARED", beside))


def load(name: str) -> models.Network:
    """One of the reference networks."""
    with np.load(shared() / "reference" / "exact" / f"{name}.npz") as file:
        depth = sum(key.startswith("kernel") for key in file)
        layers = {i: {"kernel": file[f"kernel_{i}"], "bias": file[f"bias_{i}"]}
                  for i in range(depth)}  # fmt: skip
    return models.dense(layers, "relu")


def certify() -> list[Ratio]:
    """Times certificates against one mixed-integer program a unit, solved by HiGHS.

    The programs are those of Serra, Kumar & Ramalingam (2020), over the reference networks of
    ``shared/reference/exact``, nothing where these are absent. Solving all would take hours: a
    sample is solved, and the time scaled to all units behind the first layer.
    """
    if not (shared() / "reference" / "exact").is_dir():
        return []
    found = []
    for name in NETWORKS:
        made, x = load(name), np.zeros((1, 784), np.float32)
        net = linjax.trace(made.apply, made.params, x)
        subject = Subject(net, made.params, x, 1, seconds=300)
        told = exact.proven(subject, programs=True)
        deeper = sum(len(site.verdict) for site in subject.bounds.sites[1:])
        verified = "verified" if told["verified"] else "NOT VERIFIED"
        note = f"{told['undecided']} undecided, {verified} in {told['check']:.1f} s"
        programs = f"{deeper} mixed-integer programs, from {exact.SAMPLE}"
        found.append(
            Ratio(f"certify {name}", told["certify"], programs, told["program"] * deeper, note)
        )
    return found


ALL = (collect, sweep, inference, together, certify)
