"""Trains many small networks at once: one compiled scan over an epoch, mapped over them.

Alone, each of them is far too small to keep a processor busy. They share the batches, in one
order, and differ in their first weights and in the strengths of the penalties.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import files
from experiments.data import Split
from experiments.exact.network import Array, Params, init, preactivations
from linjax import penalties


class Members(NamedTuple):
    """What tells networks trained together apart; every field ``(n,)``.

    Attributes:
      seed: of the first weights.
      l1: strength of the sum of magnitudes of all kernels.
      extra: strength of the second penalty.
    """

    seed: Array
    l1: Array
    extra: Array


class Progress(NamedTuple):
    """Where training is; all that a checkpoint holds. Leaves have an axis for the networks."""

    params: Params
    moments: optax.OptState
    epoch: Any


def fit(
    members: Members,
    widths: Sequence[int],
    config: Any,
    rows: Split,
    checkpoint: pathlib.Path,
    say: Callable[[str], None] = print,
) -> Params:
    """Trains networks of one shape, going on from their checkpoint if there is one.

    Args:
      members: the networks.
      widths: inputs, hidden widths, classes.
      config: ``learning_rate``, ``momentum``, ``batch``, ``epochs``, ``stages`` (equal parts
        of the training, each at half the rate of the one before), ``seed`` of the order of
        the rows, ``penalty``, see :func:`penalty_of`.
      rows: what to train on, in the box [0, 1]; rows beyond a whole batch sit an epoch out.
      checkpoint: file to write after each epoch.
      say: told about each epoch.

    Returns:
      The parameters, with an axis for the networks in front.
    """
    size = min(config.batch, len(rows.y))
    steps = len(rows.y) // size
    stage = max(1, round(steps * config.epochs / config.stages))
    rate = optax.exponential_decay(config.learning_rate, stage, 0.5, staircase=True)
    optimise = optax.sgd(rate, momentum=config.momentum)
    run_epoch = _epoch(optimise, penalty_of(config.penalty))

    params = jax.vmap(lambda seed: init(seed, widths))(members.seed)
    at = Progress(params, jax.vmap(optimise.init)(params), np.int32(0))
    if checkpoint.exists():
        at = files.read_tree(checkpoint, at)
    x, y = jnp.asarray(rows.x), jnp.asarray(rows.y)
    while at.epoch < config.epochs:
        order = np.random.default_rng((config.seed, int(at.epoch))).permutation(len(rows.y))
        batches = order[: steps * size].reshape(steps, size)
        params, moments, losses = run_epoch(at.params, at.moments, members, x, y, batches)
        at = Progress(params, moments, at.epoch + np.int32(1))
        files.write_tree(checkpoint, at)
        say(f"epoch {int(at.epoch):3d} of {config.epochs}: loss {float(losses.mean()):.4f}")
    return at.params


def penalty_of(name: str) -> Callable[[Params, list[Array]], Array]:
    """Returns the second penalty, a function of parameters and pre-activations of a batch.

    ``"none"``; ``"stability"``, by interval bounds over the box [0, 1]; ``"polarised"``, by
    activation rates over the batch. The mean over the hidden layers.

    Raises:
      ValueError: for another name.
    """
    table = {"none": _none, "stability": _stability, "polarised": _polarised}
    if name not in table:
        raise ValueError(f"config.training.penalty is one of {', '.join(table)}, not {name!r}")
    return table[name]


def _none(params: Params, values: list[Array]) -> Array:
    return jnp.zeros(())


def _stability(params: Params, values: list[Array]) -> Array:
    inputs = params[0]["kernel"].shape[0]
    low, high, losses = jnp.zeros(inputs), jnp.ones(inputs), []
    for part in params[:-1]:
        low, high = penalties.interval_bounds(part["kernel"], part["bias"], low, high)
        losses.append(penalties.stability(low, high))
        low, high = jax.nn.relu(low), jax.nn.relu(high)
    return jnp.stack(losses).mean()


def _polarised(params: Params, values: list[Array]) -> Array:
    return jnp.stack([penalties.polarised(z) for z in values[:-1]]).mean()


def _epoch(optimise: optax.GradientTransformation, penalty: Callable) -> Callable:
    """Returns the compiled function that runs an epoch of all networks."""

    @jax.value_and_grad
    def gradient(params, member, x, y):
        values = preactivations(params, x)
        loss = optax.softmax_cross_entropy_with_integer_labels(values[-1], y).mean()
        return loss + member.l1 * penalties.l1(params) + member.extra * penalty(params, values)

    def run(params, moments, member, x, y, batches):
        def step(carry, rows):
            params, moments = carry
            loss, grads = gradient(params, member, x[rows], y[rows])
            updates, moments = optimise.update(grads, moments, params)
            return (optax.apply_updates(params, updates), moments), loss

        (params, moments), losses = jax.lax.scan(step, (params, moments), batches)
        return params, moments, losses.mean()

    return jax.jit(jax.vmap(run, in_axes=(0, 0, 0, None, None, None)))
