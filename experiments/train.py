"""Training by optax: an epoch is one compiled scan, and a checkpoint follows each."""

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


def optimiser(config: Any) -> optax.GradientTransformation:
    """Returns the optimiser that a training config names."""
    if config.optimiser == "sgd":
        return optax.sgd(config.learning_rate, momentum=config.momentum)
    if config.optimiser == "adam":
        return optax.adam(config.learning_rate)
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
        ``patience`` (epochs without a lower validation loss before stopping), ``seed``.
      checkpoint: file to write after each epoch.
      say: told about each epoch.

    Returns:
      The parameters with the lowest validation loss.
    """
    optimise = optimiser(config)
    size = min(config.batch, len(dataset.train.y))
    run_epoch = _epoch(network, optimise)
    x, y = jnp.asarray(dataset.train.x), jnp.asarray(dataset.train.y)

    at = _start(network.params, optimise)
    if checkpoint.exists():
        at = files.read_tree(checkpoint, at)
        say(f"going on after epoch {int(at.epoch)}, from {checkpoint}")
    while at.epoch < config.epochs and at.waited < config.patience:
        order = _order(config.seed, at.epoch, len(y), size)
        params, moments, train_loss = run_epoch(at.params, at.moments, x, y, order)
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


def _order(seed: int, epoch: Scalar, rows: int, size: int) -> np.ndarray:
    """Returns an epoch's row numbers (steps, size); rows beyond a whole batch sit it out."""
    order = np.random.default_rng((seed, int(epoch))).permutation(rows)
    return order[: rows // size * size].reshape(-1, size)


def _cross_entropy(logits: jax.Array | np.ndarray, y: jax.Array | np.ndarray) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def _epoch(network: Network, optimise: optax.GradientTransformation) -> Callable:
    """Returns the compiled function that runs one epoch."""

    @jax.value_and_grad
    def gradient(params, x, y):
        return _cross_entropy(network.apply(params, x), y)

    @jax.jit
    def run(params, moments, x, y, order):
        def step(carry, rows):
            params, moments = carry
            loss, grads = gradient(params, x[rows], y[rows])
            updates, moments = optimise.update(grads, moments, params)
            return (optax.apply_updates(params, updates), moments), loss

        (params, moments), losses = jax.lax.scan(step, (params, moments), order)
        return params, moments, losses.mean()

    return run
