"""Trains networks of one shape at once: one compiled scan over an epoch, mapped over them.

Alone, each of them is far too small to keep a processor busy. Every network has its own rows,
order of rows and first weights, and may have its own learning rate and share of units to
prune between epochs; what one learns doesn't depend on the others.
"""

import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import linjax
from experiments import files
from experiments.data import Split
from experiments.sweep import scoring
from experiments.train import order_of_rows

Array = Any
Params = Any

BETWEEN_CHECKPOINTS = 20.0  # seconds at least, but for the last
CHUNK = 4096  # validation rows at once


class Members(NamedTuple):
    """What tells the networks apart; every leaf has an axis for them in front.

    Attributes:
      params: first parameters.
      train: rows to train on, of one number for all.
      valid: rows that decide which epoch's parameters are kept.
      seed: ``(n,)`` of the order of the rows.
      rate: ``(n,)`` learning rates.
      pruned: ``(n,)`` shares of the units to prune.
    """

    params: Params
    train: Split
    valid: Split
    seed: np.ndarray
    rate: np.ndarray
    pruned: np.ndarray


class State(NamedTuple):
    """Where training is; all that a checkpoint holds. The leaves have an axis for networks.

    Attributes:
      params: after the last epoch.
      moments: the optimiser's state.
      best: the parameters with the lowest validation loss so far.
      best_loss: that loss.
      waited: epochs since ``best``.
      kept: by site, which units haven't been pruned.
      epoch: epochs done, without the axis.
    """

    params: Params
    moments: Any
    best: Params
    best_loss: Array
    waited: Array
    kept: tuple[Array, ...]
    epoch: Array


class Trained(NamedTuple):
    """Trained networks: the best parameters, pruned units at zero, and which units these are."""

    params: Params
    kept: tuple[np.ndarray, ...]


def batchable(config: Any) -> bool:
    """Whether networks of a config can be trained together."""
    plain = config.network.get("kind", "mlp") == "mlp"
    constant = config.training.get("schedule", "constant") == "constant"
    return plain and constant and not config.weights


def fit(
    net: linjax.Net,
    members: Members,
    config: Any,
    checkpoint: pathlib.Path,
    devices: list[Any],
    say: Callable[[str], None],
) -> Trained:
    """Trains the networks, going on from their checkpoint if there is one.

    As :func:`experiments.train.fit` trains each alone, to rounding.

    Args:
      net: the network, traced.
      members: what tells them apart.
      config: ``optimiser``, ``momentum``, ``batch``, ``epochs``, ``patience``.
      checkpoint: file to write now and then, and at the end.
      devices: to spread the networks over.
      say: told about each epoch.
    """
    count = len(members.seed)
    spread = _spreader(devices, count)
    optimise = direction(config)
    size = min(config.batch, members.train.y.shape[1])
    state = _start(net, members, optimise)
    if checkpoint.exists():
        state = files.read_tree(checkpoint, state)
    run_epoch, losses = _epoch(net, optimise), _losses(net)
    params, moments = spread((state.params, state.moments))
    train, valid, rate = spread((members.train, members.valid, members.rate))
    written = time.monotonic()
    while state.epoch < config.epochs and (state.waited < config.patience).any():
        order = np.stack(
            [
                order_of_rows(int(seed), state.epoch, members.train.y.shape[1], size)
                for seed in members.seed
            ]
        )
        mask = spread(scoring.masks(net, members.params, state.kept))
        running = spread((state.waited < config.patience).astype(np.float32))
        params, moments, loss = run_epoch(
            params, moments, mask, rate * running, train, spread(order)
        )
        state = state._replace(epoch=state.epoch + np.int32(1))
        if members.pruned.any() and state.epoch < config.epochs:
            active = scoring.active(net, params, train.x)
            share = members.pruned * int(state.epoch) / max(config.epochs - 1, 1)
            state = state._replace(kept=_pruned(state.kept, active, share, count))
            params = scoring.masked(params, spread(scoring.masks(net, members.params, state.kept)))
        state = _judged(state, params, moments, losses(params, valid), members, config, count)
        if time.monotonic() - written > BETWEEN_CHECKPOINTS:
            files.write_tree(checkpoint, state)
            written = time.monotonic()
        say(f"epoch {int(state.epoch)} of {config.epochs}, loss {float(np.mean(loss)):.4f}")
    files.write_tree(checkpoint, state)
    return Trained(state.best, state.kept)


def direction(config: Any) -> optax.GradientTransformation:
    """The optimiser without its learning rate, which the networks differ in."""
    if config.optimiser == "sgd":
        return optax.trace(config.momentum)
    if config.optimiser == "adam":
        return optax.scale_by_adam()
    raise ValueError(f'config.training.optimiser is "sgd" or "adam", not {config.optimiser!r}')


def _spreader(devices: list[Any], count: int) -> Callable[[Any], Any]:
    """Spreads leaves over devices by their first axis, filled up to a multiple."""
    if len(devices) == 1:
        return lambda tree: jax.tree.map(lambda leaf: jax.device_put(leaf, devices[0]), tree)
    sharding = NamedSharding(Mesh(np.array(devices), ("networks",)), PartitionSpec("networks"))
    index = np.minimum(np.arange(-(-count // len(devices)) * len(devices)), count - 1)

    def spread(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[index], sharding), tree)

    return spread


def _host(tree: Any, count: int) -> Any:
    """Copies of the networks' leaves on the host, without what was filled up."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], tree)


def _start(net: linjax.Net, members: Members, optimise: optax.GradientTransformation) -> State:
    count = len(members.seed)
    params = _host(members.params, count)
    moments = _host(jax.vmap(optimise.init)(params), count)
    kept = tuple(np.ones((count, site.width), bool) for site in net.graph.sites)
    infinite, zero = np.full(count, np.inf, np.float32), np.zeros(count, np.int32)
    return State(params, moments, params, infinite, zero, kept, np.int32(0))


def _judged(
    state: State, params: Any, moments: Any, loss: Any, members: Members, config: Any, count: int
) -> State:
    """Takes over an epoch's result: the best so far, and how long ago that was."""
    params, moments, loss = (_host(tree, count) for tree in (params, moments, loss))
    running = state.waited < config.patience
    # Until the last units have been pruned, the latest network is the best.
    pruning = (members.pruned > 0) & (state.epoch < config.epochs)
    better = running & ((loss < state.best_loss) | pruning)
    best = jax.tree.map(lambda new, old: np.where(_like(better, new), new, old), params, state.best)
    waited = np.where(better, 0, state.waited + running).astype(np.int32)
    best_loss = np.where(better, loss, state.best_loss)
    best_loss = np.where(pruning, np.inf, best_loss).astype(np.float32)
    return state._replace(
        params=params, moments=moments, best=best, best_loss=best_loss, waited=waited
    )


def _like(flags: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    return flags.reshape(-1, *(1,) * (leaf.ndim - 1))


def _pruned(
    kept: tuple[np.ndarray, ...], active: tuple[Array, ...], share: np.ndarray, count: int
) -> tuple[np.ndarray, ...]:
    """Drops the units that fire least, all layers together, down to each network's share."""
    ends = np.cumsum([k.shape[1] for k in kept])[:-1]
    before = np.concatenate(kept, axis=1)
    rates = np.where(before, np.concatenate([np.asarray(a)[:count] for a in active], axis=1), -1)
    after = before.copy()
    for member, fraction in enumerate(share):
        order = np.argsort(rates[member], kind="stable")
        after[member, order[: round(fraction * rates.shape[1])]] = False
    parts = list(np.split(after, ends, axis=1))
    for part, rate in zip(parts, np.split(rates, ends, axis=1), strict=True):
        empty = ~part.any(axis=1)
        part[empty, rate[empty].argmax(axis=1)] = True  # no layer loses its last unit
    return tuple(parts)


def _epoch(net: linjax.Net, optimise: optax.GradientTransformation) -> Callable:
    """The compiled function that runs an epoch of all networks."""

    @jax.value_and_grad
    def gradient(params, x, y):
        logits = net.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def run(params, moments, mask, rate, rows, order):
        def step(carry, part):
            params, moments = carry
            loss, grads = gradient(params, rows.x[part], rows.y[part])
            updates, after = optimise.update(grads, moments, params)
            # A network that has stopped waits for the others as it is.
            moments = jax.tree.map(lambda new, old: jnp.where(rate > 0, new, old), after, moments)
            params = jax.tree.map(lambda p, u: p - rate * u, params, scoring.masked(updates, mask))
            return (params, moments), loss

        (params, moments), losses = jax.lax.scan(step, (params, moments), order)
        return params, moments, losses.mean()

    return jax.jit(jax.vmap(run))


def _losses(net: linjax.Net) -> Callable:
    """The compiled function that gives every network's validation loss."""

    @jax.jit
    @jax.vmap
    def losses(params, rows):
        total = jnp.zeros(())
        for start in range(0, len(rows.y), CHUNK):
            logits = net.apply(params, rows.x[start : start + CHUNK])
            y = rows.y[start : start + CHUNK]
            total += optax.softmax_cross_entropy_with_integer_labels(logits, y).sum()
        return total / len(rows.y)

    return losses
