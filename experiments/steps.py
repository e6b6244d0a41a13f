"""Steps of training: what a batch does, an epoch as one program, penalties, validation losses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import Split
from experiments.models import Network, Params
from linjax import penalties

Array = Any

CHUNK = 2000  # validation rows at once


def direction(config: Any) -> optax.GradientTransformation:
    """The optimiser without its learning rate, which the networks differ in."""
    if config.optimiser == "sgd":
        return optax.trace(config.momentum)
    if config.optimiser == "adam":
        return optax.scale_by_adam()
    raise ValueError(f'config.training.optimiser is "sgd" or "adam", not {config.optimiser!r}')


def schedule(config: Any, steps: int) -> Callable[[Array], Array]:
    """What the learning rate is multiplied by at a step, of ``steps`` an epoch."""
    total = steps * config.epochs
    known: dict[str, Callable[[], Any]] = {
        "constant": lambda: optax.constant_schedule(1.0),
        "cosine": lambda: optax.cosine_decay_schedule(1.0, max(total, 1)),
        "halving": lambda: optax.exponential_decay(
            1.0, max(1, round(total / config.stages)), 0.5, staircase=True
        ),
    }
    name = config.get("schedule", "constant")
    if name not in known:
        raise ValueError(f"config.training.schedule is one of {', '.join(known)}, not {name!r}")
    return known[name]()


def order_of_rows(seed: int, epoch: int, rows: int, size: int) -> np.ndarray:
    """Returns an epoch's row numbers (steps, size); rows beyond a whole batch sit it out."""
    order = np.random.default_rng((seed, epoch)).permutation(rows)
    return order[: rows // size * size].reshape(-1, size)


def mapped(function: Callable, axes: tuple[int | None, ...], count: int) -> Callable:
    """Maps a function over networks; one alone runs as if there were no such axis."""
    if count > 1:
        return jax.vmap(function, axes)

    def one(*arguments: Any) -> Any:
        mine = [
            jax.tree.map(lambda leaf: leaf[0], tree) if axis == 0 else tree
            for tree, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*mine))

    return one


def masked(tree: Params, mask: Params | None) -> Params:
    return tree if mask is None else jax.tree.map(jnp.multiply, tree, mask)


def _none(params: Params, values: list[Array]) -> Array:
    return jnp.zeros(())


def _stability(params: Params, values: list[Array]) -> Array:
    low, high = jnp.zeros(params["layers"][0]["kernel"].shape[0]), None
    low, high, losses = low, low + 1, []
    for i in range(len(params["layers"]) - 1):
        part = params["layers"][i]
        low, high = penalties.interval_bounds(part["kernel"], part["bias"], low, high)
        losses.append(penalties.stability(low, high))
        low, high = jax.nn.relu(low), jax.nn.relu(high)
    return jnp.stack(losses).mean()


def _polarised(params: Params, values: list[Array]) -> Array:
    return jnp.stack([penalties.polarised(z) for z in values[:-1]]).mean()


PENALTIES = {"none": _none, "stability": _stability, "polarised": _polarised}
"""Of parameters and a batch's pre-activations, the mean over hidden layers: interval bounds on the
box [0, 1] that don't cross zero; activation rates that are near zero or one."""


def _loss(network: Network, config: Any) -> Callable[..., Any]:
    """A batch's loss, and the parameters as the pass leaves them."""
    name = config.get("penalty", "")
    if name and name not in PENALTIES:
        known = ", ".join(PENALTIES)
        raise ValueError(f"config.training.penalty is one of {known}, not {name!r}")

    def loss(params: Params, x: Array, y: Array, key: Array, own: dict[str, Array]) -> Any:
        if network.learn is not None:
            logits, seen = network.learn(params, x, key)
            return cross_entropy(logits, y).mean(), seen
        if not name:
            return cross_entropy(network.apply(params, x), y).mean(), params
        values = network.before(params, x)
        more = own["l1"] * penalties.l1(params) + own["extra"] * PENALTIES[name](params, values)
        return cross_entropy(values[-1], y).mean() + more, params

    return loss


def cross_entropy(logits: Array, y: Array) -> Array:
    """The cross-entropy of each row."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def epoch(
    network: Network, optimise: Any, config: Any, steps: int, count: int, shared: bool
) -> Callable[..., Any]:
    """The function that runs an epoch of all networks."""
    gradient = jax.value_and_grad(_loss(network, config), has_aux=True)
    factor = schedule(config, steps)
    axes = (0, 0, 0, 0, 0, None if shared else 0)

    def step(params, moments, mask, own, running, rows, part, key, index, at):
        key = jax.random.fold_in(key, index)
        (value, seen), grads = gradient(params, rows.x[part], rows.y[part], key, own)
        updates, after = optimise.update(grads, moments, params)
        # A network that has stopped waits for the others as it is.
        moments = jax.tree.map(lambda new, old: jnp.where(running > 0, new, old), after, moments)
        rate = own["learning_rate"] * running * factor(at)
        new = jax.tree.map(lambda p, u: p - rate * u, params, masked(updates, mask))
        return new if network.learn is None else _with_statistics(new, seen), moments, value

    def scanned(params, moments, mask, own, running, rows, order, key, epoch):
        def one(carry, at):
            (params, moments), (part, index) = carry, at
            more = (mask, own, running, rows, part, key, index, epoch * steps + index)
            params, moments, value = step(params, moments, *more)
            return (params, moments), value

        (params, moments), losses = jax.lax.scan(one, (params, moments), (order, np.arange(steps)))
        return params, moments, losses.mean()

    if network.learn is None:
        return jax.jit(mapped(scanned, (*axes, 0, 0, None), count))
    single = jax.jit(mapped(step, (*axes, 0, 0, None, None), count))

    # On CPUs a convolution inside of a scan runs on one thread.
    def one_by_one(params, moments, mask, own, running, rows, order, key, epoch):
        losses = []
        for i in range(steps):
            more = (mask, own, running, rows, order[:, i], key, i, epoch * steps + i)
            params, moments, value = single(params, moments, *more)
            losses.append(value)
        return params, moments, jnp.stack(losses).mean(0)

    return one_by_one


def _with_statistics(params: Params, seen: Params) -> Params:
    """Takes the running statistics of batch norm from a pass, everything else from the step."""

    def pick(path: Any, new: jax.Array, statistic: jax.Array) -> jax.Array:
        name = str(getattr(path[-1], "key", path[-1]))
        return statistic if name in ("mean", "var") else new

    return jax.tree_util.tree_map_with_path(pick, params, seen)


def losses_of(network: Network, count: int, shared: bool) -> Callable[[Params, Split], Array]:
    """The function that gives every network's validation loss."""
    axis = 0 if shared else 1

    def chunk(params: Params, rows: Split) -> Array:
        return cross_entropy(network.apply(params, rows.x), rows.y).sum()

    run = jax.jit(mapped(chunk, (0, None if shared else 0), count))

    def losses(params: Params, rows: Split) -> Array:
        places = [slice(s, s + CHUNK) for s in range(0, rows.y.shape[axis], CHUNK)]
        parts = [jax.tree.map(lambda leaf, p=p: leaf[(slice(None),) * axis + (p,)], rows)
                 for p in places]  # fmt: skip
        total = rows.y.size if shared else rows.y[0].size
        return sum(np.asarray(run(params, part)) for part in parts) / np.float32(total)

    return losses
