"""Training by optax: an epoch is one compiled scan where it can be; a checkpoint follows each."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import evaluate, files
from experiments.data import Dataset
from experiments.models import Network, Params

Scalar = Any  # a NumPy scalar, or the array without axes that a checkpoint gives back


class Progress(NamedTuple):
    """Where training is; all that a checkpoint holds.

    Attributes:
      params: parameters after the last epoch.
      moments: the optimiser's state.
      best: parameters with the lowest validation loss so far.
      best_loss: that loss.
      epoch: epochs done.
      waited: epochs since ``best``.
    """

    params: Params
    moments: optax.OptState
    best: Params
    best_loss: Scalar
    epoch: Scalar
    waited: Scalar


def optimiser(config: Any, steps: int = 0) -> optax.GradientTransformation:
    """Returns the optimiser that a training config names.

    Args:
      config: as for :func:`fit`.
      steps: number of steps in all, over which a cosine schedule goes to zero.
    """
    rate = config.learning_rate
    if config.get("schedule", "constant") == "cosine":
        rate = optax.cosine_decay_schedule(rate, max(steps, 1))
    if config.optimiser == "sgd":
        return optax.sgd(rate, momentum=config.momentum)
    if config.optimiser == "adam":
        return optax.adam(rate)
    raise ValueError(f'config.training.optimiser is "sgd" or "adam", not {config.optimiser!r}')


def fit(
    network: Network,
    dataset: Dataset,
    config: Any,
    checkpoint: pathlib.Path,
    say: Callable[[str], None] = print,
) -> Params:
    """Trains a network, going on from its checkpoint if there is one.

    Each epoch's order of rows depends only on the seed and the epoch's number, so a run
    that is killed and started again ends with the same parameters.

    Args:
      network: what to train, from its parameters on.
      dataset: its training part is trained on, its validation part decides when to stop.
      config: ``optimiser``, ``learning_rate``, ``momentum``, ``batch``, ``epochs``,
        ``patience`` (epochs without a lower validation loss before stopping), ``seed``,
        ``schedule``, ``"constant"`` or ``"cosine"``.
      checkpoint: file to write after each epoch.
      say: told about each epoch.

    Returns:
      The parameters with the lowest validation loss.
    """
    size = min(config.batch, len(dataset.train.y))
    optimise = optimiser(config, config.epochs * (len(dataset.train.y) // size))
    run_epoch = _epoch(network, optimise)
    x, y = jnp.asarray(dataset.train.x), jnp.asarray(dataset.train.y)

    at = _start(network.params, optimise)
    if checkpoint.exists():
        at = files.read_tree(checkpoint, at)
        say(f"going on after epoch {int(at.epoch)}, from {checkpoint}")
    while at.epoch < config.epochs and at.waited < config.patience:
        order = order_of_rows(config.seed, at.epoch, len(y), size)
        key = jax.random.fold_in(jax.random.key(config.seed), int(at.epoch))
        params, moments, train_loss = run_epoch(at.params, at.moments, x, y, order, key)
        logits = evaluate.predict(network.apply, params, dataset.valid.x)
        loss = np.float32(_cross_entropy(logits, dataset.valid.y))
        better = loss < at.best_loss
        at = Progress(
            params=params,
            moments=moments,
            best=params if better else at.best,
            best_loss=np.where(better, loss, at.best_loss),
            epoch=at.epoch + np.int32(1),
            waited=np.int32(0) if better else at.waited + np.int32(1),
        )
        files.write_tree(checkpoint, at)
        say(f"epoch {int(at.epoch):3d}: loss {float(train_loss):.4f}, validation {loss:.4f}")
    return jax.tree.map(jnp.asarray, at.best)


def _start(params: Params, optimise: optax.GradientTransformation) -> Progress:
    infinity, zero = np.asarray(np.inf, np.float32), np.int32(0)
    return Progress(params, optimise.init(params), params, infinity, zero, zero)


def order_of_rows(seed: int, epoch: Scalar, rows: int, size: int) -> np.ndarray:
    """Returns an epoch's row numbers (steps, size); rows beyond a whole batch sit it out."""
    order = np.random.default_rng((seed, int(epoch))).permutation(rows)
    return order[: rows // size * size].reshape(-1, size)


def _cross_entropy(logits: jax.Array | np.ndarray, y: jax.Array | np.ndarray) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def _epoch(network: Network, optimise: optax.GradientTransformation) -> Callable:
    """Returns the compiled function that runs one epoch."""

    def loss(params, x, y, key):
        if network.learn is None:
            return _cross_entropy(network.apply(params, x), y), params
        logits, seen = network.learn(params, x, key)
        return _cross_entropy(logits, y), seen

    gradient = jax.value_and_grad(loss, has_aux=True)

    def step(carry, at):
        params, moments = carry
        x, y, key = at
        (value, seen), grads = gradient(params, x, y, key)
        updates, moments = optimise.update(grads, moments, params)
        return (_with_statistics(optax.apply_updates(params, updates), seen), moments), value

    @jax.jit
    def at_once(params, moments, x, y, order, key):
        def on_rows(carry, at):
            rows, index = at
            return step(carry, (x[rows], y[rows], jax.random.fold_in(key, index)))

        steps = (order, jnp.arange(len(order)))
        (params, moments), losses = jax.lax.scan(on_rows, (params, moments), steps)
        return params, moments, losses.mean()

    one = jax.jit(step)

    def one_by_one(params, moments, x, y, order, key):
        carry, losses = (params, moments), []
        for index, rows in enumerate(order):
            carry, value = one(carry, (x[rows], y[rows], jax.random.fold_in(key, index)))
            losses.append(value)
        return *carry, jnp.stack(losses).mean()

    # On CPUs a convolution inside of a scan runs on one thread.
    return at_once if network.learn is None else one_by_one


def _with_statistics(params: Params, seen: Params) -> Params:
    """Takes the running statistics of batch norm from a pass, everything else from the step."""

    def pick(path: Any, new: jax.Array, statistic: jax.Array) -> jax.Array:
        name = str(getattr(path[-1], "key", path[-1]))
        return statistic if name in ("mean", "var") else new

    return jax.tree_util.tree_map_with_path(pick, params, seen)
