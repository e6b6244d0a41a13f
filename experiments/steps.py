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
    known = {"sgd": lambda: optax.trace(config.momentum), "adam": optax.scale_by_adam}
    return _named("optimiser", config.optimiser, known)()


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
    return _named("schedule", config.get("schedule", "constant"), known)()


def _named(field: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"config.training.{field} is one of {', '.join(known)}, not {name!r}")
    return known[name]


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


def _stability(params: Params, values: list[Array]) -> Array:
    low, losses = jnp.zeros(params["layers"][0]["kernel"].shape[0]), []
    high = low + 1
    for i in range(len(params["layers"]) - 1):
        part = params["layers"][i]
        low, high = penalties.interval_bounds(part["kernel"], part["bias"], low, high)
        losses.append(penalties.stability(low, high))
        low, high = jax.nn.relu(low), jax.nn.relu(high)
    return jnp.stack(losses).mean()


def _polarised(params: Params, values: list[Array]) -> Array:
    return jnp.stack([penalties.polarised(z) for z in values[:-1]]).mean()


PENALTIES: dict[str, Callable[[Params, list[Array]], Array]] = {
    "none": lambda params, values: jnp.zeros(()), "stability": _stability, "polarised": _polarised,
}  # fmt: skip
"""Of parameters and a batch's pre-activations, the mean over hidden layers: interval bounds on the
box [0, 1] that don't cross zero; activation rates that are near zero or one."""


def _loss(network: Network, config: Any) -> Callable[..., Any]:
    """A batch's loss, and the parameters as the pass leaves them."""
    name = config.get("penalty", "")
    penalty = _named("penalty", name, PENALTIES) if name else None

    def loss(params: Params, x: Array, y: Array, key: Array, own: dict[str, Array]) -> Any:
        if network.learn is not None:
            logits, seen = network.learn(params, x, key)
            return cross_entropy(logits, y).mean(), seen
        if penalty is None:
            return cross_entropy(network.apply(params, x), y).mean(), params
        values = network.before(params, x)
        more = own["l1"] * penalties.l1(params) + own["extra"] * penalty(params, values)
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

    def step(params, moments, mask, own, running, rows, key, part, index, at):
        key = jax.random.fold_in(key, index)
        (value, seen), grads = gradient(params, rows.x[part], rows.y[part], key, own)
        updates, after = optimise.update(grads, moments, params)
        # A network that has stopped waits for the others as it is.
        moments = jax.tree.map(lambda new, old: jnp.where(running > 0, new, old), after, moments)
        rate = own["learning_rate"] * running * factor(at)
        new = jax.tree.map(lambda p, u: p - rate * u, params, masked(updates, mask))
        return new if network.learn is None else _with_statistics(new, seen), moments, value

    # On CPUs a convolution inside of a scan runs on one thread.
    jit, scan = (jax.jit, _loop) if network.learn else (lambda function: function, jax.lax.scan)
    together = jit(mapped(step, (0, 0, 0, 0, 0, None if shared else 0, 0, 0, None, None), count))

    def run(params, moments, mask, own, running, rows, order, key, epoch):
        def one(carry, at):
            more = (mask, own, running, rows, key, *at, epoch * steps + at[1])
            *carry, value = together(*carry, *more)
            return tuple(carry), value

        batches = jnp.swapaxes(order, 0, 1), np.arange(steps)
        (params, moments), losses = scan(one, (params, moments), batches)
        return params, moments, losses.mean()

    return run if network.learn else jax.jit(run)


def _loop(one: Callable, carry: Any, xs: tuple[Array, ...]) -> tuple[Any, Array]:
    """A scan that runs its steps one after the other."""
    values = []
    for at in zip(*xs, strict=True):
        carry, value = one(carry, at)
        values.append(value)
    return carry, jnp.stack(values)


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
        cuts = range(CHUNK, rows.y.shape[axis], CHUNK)
        parts = zip(*(jnp.split(leaf, list(cuts), axis) for leaf in rows), strict=True)
        total = rows.y.size if shared else rows.y[0].size
        return sum(np.asarray(run(params, Split(*part))) for part in parts) / np.float32(total)

    return losses
