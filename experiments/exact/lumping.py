"""Proportional lumping on the convolutional network of 2022, where units depend on others.

The layer before the last is overwritten so that some of its units are combinations of 1 to 4
others, and frozen; the other dense layers are trained on. Then the dependent units go: as
was published, by what linjax can prove, and by refitting.
"""

import itertools
import pathlib
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import linjax
from experiments import evaluate, files, results
from experiments.data import Dataset, Split, batches, load
from experiments.exact import tables
from experiments.exact.network import apply as dense
from experiments.exact.network import init
from experiments.run import claim
from linjax.fold.quantise import quantise

Array = Any
Params = dict[str, Any]

SIDE, CHANNELS, HIDDEN = 28, 32, (16, 128)
CHUNK = 2000  # images run at once


class Case(NamedTuple):
    """``removed`` of the units of a layer are combinations of ``terms`` others."""

    terms: int
    removed: int
    seed: int


class Planted(NamedTuple):
    """Which units depend on which: ``(n,)`` targets, ``(n, terms)`` sources and weights."""

    target: Array
    source: Array
    weight: Array


def convolutions(params: Params, x: Array) -> Array:
    """Two 3×3 convolutions with ReLU, each with max pooling; flat features."""
    x = x.reshape(-1, SIDE, SIDE, 1)
    for name in ("conv_0", "conv_1"):
        x = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[name]["bias"])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(x), -1)


def apply(params: Params, x: Array) -> Array:
    """The whole network's logits."""
    return dense(params["dense"], convolutions(params, x))


def first_params(seed: int) -> Params:
    """First parameters: LeCun's normal kernels, biases of zero."""
    keys = jax.random.split(jax.random.key(seed))
    kernel = jax.nn.initializers.lecun_normal()
    return {
        "conv_0": {"kernel": kernel(keys[0], (3, 3, 1, CHANNELS)), "bias": jnp.zeros(CHANNELS)},
        "conv_1": {"kernel": kernel(keys[1], (3, 3, CHANNELS, CHANNELS)),
                   "bias": jnp.zeros(CHANNELS)},
        "dense": init(seed, (5 * 5 * CHANNELS, *HIDDEN, 10)),
    }  # fmt: skip


def run(config: Any, workdir: str, data_dir: str | None = None) -> list[results.Row]:
    """Trains the network, plants dependent units, removes them, and tabulates what that costs.

    Args:
      config: as in ``configs/lumping_cnn.py``.
      workdir: folder for ``config.json``, the weights, ``results.jsonl``, ``results.md``.
      data_dir: folder that holds the data set.

    Returns:
      The rows of ``results.jsonl``.
    """
    folder = pathlib.Path(workdir)
    claim(folder, config)
    dataset = load(config.dataset, data_dir)
    params = _trained(config.training, dataset.train, folder / "training.npz")
    file = folder / "results.jsonl"
    done = {row["experiment"] for row in results.read(file)}
    if "ranks" not in done:
        _append(file, [ranks(params)])
    if "quantised" not in done:
        _append(file, list(quantised(params, dataset, config.bits)))
    if "planted" not in done:
        _append(file, planted_rows(params, dataset, config))
    finished = results.read(file)
    tables.report(folder, tables.lumping(finished), f"{dataset.title}: proportional lumping")
    return finished


def _append(file: pathlib.Path, rows: list[results.Row]) -> None:
    """Appends the rows of one part all at once, so that a part is there or isn't."""
    old = file.read_bytes() if file.exists() else b""
    draft = file.with_suffix(".part")
    draft.unlink(missing_ok=True)
    for row in rows:
        results.append(draft, row)
    files.write(file, old + draft.read_bytes())
    draft.unlink()


def _trained(config: Any, rows: Split, checkpoint: pathlib.Path) -> Params:
    params = first_params(config.seed)
    if checkpoint.exists():
        return files.read_tree(checkpoint, params)
    optimise = optax.adam(config.learning_rate)
    step = jax.jit(_step(apply, optimise))
    state = optimise.init(params)
    for epoch in range(config.epochs):
        order = np.random.default_rng((config.seed, epoch)).permutation(len(rows.y))
        losses = []
        for part in np.array_split(order, len(order) // config.batch):
            params, state, loss = step(params, state, rows.x[part], rows.y[part])
            losses.append(loss)
        print(f"epoch {epoch + 1} of {config.epochs}: loss {np.mean(losses):.4f}")
    files.write_tree(checkpoint, params)
    return params


def _step(function: Any, optimise: optax.GradientTransformation, frozen: int | None = None) -> Any:
    """One step of training; the dense layer numbered ``frozen`` stays as it is."""

    def step(params, state, x, y):
        def loss(params):
            logits = function(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(params)
        if frozen is not None:
            grads[frozen] = jax.tree.map(jnp.zeros_like, grads[frozen])
        updates, state = optimise.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def features(params: Params, x: np.ndarray) -> np.ndarray:
    """What the dense layers read."""
    run = jax.jit(convolutions)
    return np.concatenate([np.asarray(run(params, part)) for part in batches(x, CHUNK)])


def ranks(params: Params) -> results.Row:
    """Singular values of every kernel as a matrix with a column a unit, largest first."""
    named = {"conv_0": params["conv_0"], "conv_1": params["conv_1"]}
    named |= {f"dense_{i}": part for i, part in enumerate(params["dense"])}
    found = {}
    for name, part in named.items():
        kernel = np.asarray(part["kernel"], np.float64)
        values = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)
        energy = np.cumsum(values**2) / (values**2).sum()
        found[name] = {
            "units": kernel.shape[-1],
            "rank": int((values > 1e-6 * values[0]).sum()),
            "rank 99%": int(np.searchsorted(energy, 0.99) + 1),
            "rank 90%": int(np.searchsorted(energy, 0.90) + 1),
            "values": [round(float(v), 6) for v in values],
        }
    return {"experiment": "ranks", "kernels": found}


def quantised(params: Params, dataset: Dataset, bits: tuple[int, ...]) -> list[results.Row]:
    """Quantises what the trace understands, lumps it, and measures both."""
    test = dataset.test
    net = linjax.trace(apply, params, test.x[:2])
    original = evaluate.predict(apply, params, test.x)
    rows = []
    for number in bits:
        small = quantise(net, params, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", linjax.FoldWarning)
            lumped, reports = linjax.lump_and_report(net, small)
        logits = evaluate.predict(net.apply, small, test.x)
        after = evaluate.predict(net.apply, lumped, test.x)
        rows.append({
            "experiment": "quantised",
            "bits": number,
            "accuracy": evaluate.measure(logits, original, test.y)["accuracy"],
            "lumped accuracy": evaluate.measure(after, original, test.y)["accuracy"],
            "agreement": evaluate.measure(after, logits, test.y)["agreement"],
            "layers": [site.name for site in net.network.sites],
            "units": [u for report in reports for u in report.units],
            "kept": [k for report in reports for k in report.kept],
            "parameters": linjax.count(params),
            "lumped parameters": linjax.count(lumped),
        })  # fmt: skip
    return rows


def plant(layer: Params, case: Case) -> tuple[Params, Planted]:
    """Overwrites units by positive combinations of others."""
    rng = np.random.default_rng((case.seed, case.terms, case.removed))
    kernel, bias = (np.array(layer[name]) for name in ("kernel", "bias"))
    order = rng.permutation(len(bias))
    target, rest = order[: case.removed], order[case.removed :]
    source = np.array([rng.choice(rest, case.terms, replace=False) for _ in target])
    weight = rng.uniform(0.5, 2.0, source.shape).astype(np.float32)
    kernel[:, target] = (kernel[:, source] * weight).sum(axis=2)
    bias[target] = (bias[source] * weight).sum(axis=1)
    return {"kernel": kernel, "bias": bias}, Planted(target, source, weight)


def without(params: list[Params], planted: Planted, frozen: int) -> list[Params]:
    """Removes the dependent units as published, as if ``σ(Σ ρ_i z_i)`` were ``Σ ρ_i σ(z_i)``."""
    layer, reader = params[frozen], params[frozen + 1]
    rows = np.array(reader["kernel"], np.float64)
    for target, source, weight in zip(*planted, strict=True):
        rows[source] += weight[:, None] * rows[target]
    kept = np.delete(np.arange(len(rows)), planted.target)
    return [
        *params[:frozen],
        {"kernel": layer["kernel"][:, kept], "bias": layer["bias"][kept]},
        {"kernel": rows[kept].astype(np.float32), "bias": reader["bias"]},
        *params[frozen + 2 :],
    ]


def planted_rows(params: Params, dataset: Dataset, config: Any) -> list[results.Row]:
    """Plants, trains on, and removes, all cases at once as far as they have one shape."""
    frozen = len(HIDDEN) - 1
    train = Split(features(params, dataset.train.x), dataset.train.y)
    test = Split(features(params, dataset.test.x), dataset.test.y)
    cases = [Case(*c) for c in itertools.product(config.terms, config.removed, range(config.seeds))]
    start, layouts = [], []
    for case in cases:
        layer, planted = plant(params["dense"][frozen], case)
        start.append([*params["dense"][:frozen], layer, *params["dense"][frozen + 1 :]])
        layouts.append(planted)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *start)
    together = _retrained(together, train, config.retraining, frozen)
    rows = []
    for index, (case, planted) in enumerate(zip(cases, layouts, strict=True)):
        mine = jax.tree.map(lambda leaf, i=index: np.asarray(leaf[i]), together)
        row = {"experiment": "planted"} | case._asdict()
        row |= _compared(mine, planted, train.x[: config.calibration_rows], test, frozen)
        rows.append(row)
        print(tables.planted_sentence(row))
    return rows


def _retrained(params: Any, rows: Split, config: Any, frozen: int) -> Any:
    optimise = optax.adam(config.learning_rate)
    step = jax.vmap(_step(dense, optimise, frozen), in_axes=(0, 0, None, None))
    state = jax.vmap(optimise.init)(params)

    @jax.jit
    def epoch_of(params, state, x, y, order):
        def one(carry, part):
            params, state, loss = step(*carry, x[part], y[part])
            return (params, state), loss

        return jax.lax.scan(one, (params, state), order)

    steps = len(rows.y) // config.batch
    x, y = jnp.asarray(rows.x), jnp.asarray(rows.y)
    for epoch in range(config.epochs):
        start = time.perf_counter()
        order = np.random.default_rng((config.seed, epoch)).permutation(len(rows.y))
        order = order[: steps * config.batch].reshape(steps, -1)
        (params, state), losses = epoch_of(params, state, x, y, order)
        print(
            f"retraining, epoch {epoch + 1} of {config.epochs}: loss {float(losses.mean()):.4f}"
            f" [{time.perf_counter() - start:.0f} s]"
        )
    return params


def _compared(
    params: list[Params], planted: Planted, calibration: np.ndarray, test: Split, frozen: int
) -> results.Row:
    """Accuracies before and after: as published, by ``lump``, and by ``fold`` at the same size."""
    net = linjax.trace(dense, params, calibration[:2])
    before = evaluate.predict(dense, params, test.x)
    published = without(params, planted, frozen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        lumped, (report,) = linjax.lump_and_report(net, params)
        stats = linjax.collect(net, params, list(batches(calibration, CHUNK)))
        size = linjax.count(published) / linjax.count(params)
        folded = linjax.fold(params, stats, linjax.size(size))
    row = {"accuracy": evaluate.measure(before, before, test.y)["accuracy"],
           "parameters": linjax.count(params)}  # fmt: skip
    for name, function, small in (
        ("published", dense, published),
        ("lump", net.apply, lumped),
        ("fold", net.apply, folded),
    ):
        found = evaluate.measure(evaluate.predict(function, small, test.x), before, test.y)
        row[f"{name}_accuracy"] = found["accuracy"]
        row[f"{name}_agreement"] = found["agreement"]
        row[f"{name}_parameters"] = linjax.count(small)
    return row | {"lump_units": report.units[frozen] - report.kept[frozen]}
