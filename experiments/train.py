"""The training loop: networks of one shape together, or one alone, going on from a checkpoint.

Small networks are far too small to keep a processor busy alone: their epochs are one compiled
scan, mapped over them. Each has its own order of rows and first weights, and may have its own
data, learning rate, penalties and share of units to prune between epochs; what one learns doesn't
depend on the others. An epoch's order depends only on the seed and the epoch's number, so that
training which is killed and started again ends with the same parameters.
"""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import files, steps
from experiments.data import Dataset, Split
from experiments.models import Network, Params, without

Array = Any

BETWEEN_CHECKPOINTS = 20.0  # seconds at least, but for the last
OWN = {"learning_rate": 1e-3, "l1": 0.0, "extra": 0.0}
"""Fields of ``training`` that networks trained together may differ in."""


class Members(NamedTuple):
    """What tells the networks apart; every leaf has an axis for them in front.

    Attributes:
      params: first parameters.
      train: rows to train on, of one number for all.
      valid: likewise rows that decide which epoch's parameters are kept.
      seed: ``(n,)`` of the order of the rows.
      own: by field of :data:`OWN` ``(n,)``.
      pruned: ``(n,)`` shares of the units to prune.
      shared: whether all have the same rows, which then have no axis for networks.
    """

    params: Params
    train: Split
    valid: Split
    seed: np.ndarray
    own: dict[str, np.ndarray]
    pruned: np.ndarray
    shared: bool


class State(NamedTuple):
    """Where training is; all that a checkpoint holds. The leaves have an axis for networks.

    Attributes:
      params: after the last epoch.
      moments: the optimiser's state.
      best: the parameters with the lowest validation loss so far, or the last.
      best_loss: that loss.
      waited: epochs since ``best``.
      kept: by layer, which units haven't been pruned.
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
    """Trained networks: their parameters, pruned units at zero, and which units are left."""

    params: Params
    kept: tuple[np.ndarray, ...]

    def each(self) -> list[Params]:
        """Every network's parameters, without its pruned units."""
        count = len(jax.tree.leaves(self.params)[0])
        own = [jax.tree.map(lambda leaf, i=i: leaf[i], self.params) for i in range(count)]
        whole = all(np.all(k) for k in self.kept)
        return own if whole else [without(p, [k[i] for k in self.kept]) for i, p in enumerate(own)]


def alone(
    network: Network,
    dataset: Dataset,
    config: Any,
    checkpoint: pathlib.Path,
    say: Callable[[str], None] = print,
) -> Params:
    """Trains one network; arguments as for :func:`fit`."""
    trained = fit(network, members([network], [dataset], [config]), config, checkpoint, say)
    return jax.tree.map(jnp.asarray, trained.each()[0])


def members(
    networks: Sequence[Network],
    datasets: Sequence[Dataset],
    configs: Sequence[Any],
    pruned: Sequence[float] | None = None,
) -> Members:
    """Puts networks, their data and their ``training`` configs side by side."""
    shared = all(d is datasets[0] for d in datasets)

    def stacked(*trees: Any) -> Any:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    return Members(
        params=stacked(*(n.params for n in networks)),
        train=datasets[0].train if shared else stacked(*(d.train for d in datasets)),
        valid=datasets[0].valid if shared else stacked(*(d.valid for d in datasets)),
        seed=np.array([c.seed for c in configs]),
        own={
            name: np.array([c.get(name, value) for c in configs], np.float32)
            for name, value in OWN.items()
        },
        pruned=np.array([0.0] * len(networks) if pruned is None else pruned, np.float32),
        shared=shared,
    )


def fit(
    network: Network,
    group: Members,
    config: Any,
    checkpoint: pathlib.Path,
    say: Callable[[str], None] = print,
    devices: Sequence[Any] = (),
) -> Trained:
    """Trains networks of one shape, going on from their checkpoint if there is one.

    Args:
      network: one of them, for its functions.
      group: what tells them apart.
      config: ``optimiser``, ``"adam"`` or ``"sgd"`` with ``momentum``; ``schedule``,
        ``"constant"``, ``"cosine"``, or ``"halving"`` in ``stages``; ``batch``, ``epochs``;
        ``patience``, epochs without a lower validation loss before stopping, 0 to take the last
        parameters; ``penalty``, of strength ``extra``, see ``steps.PENALTIES``.
      checkpoint: file to write now and then, and at the end.
      say: told about each epoch.
      devices: to spread the networks over; by default they aren't.
    """
    count, total = len(group.seed), group.train.y.shape[0 if group.shared else 1]
    size = min(config.batch, total)
    spread = _spreader(devices, count)
    optimise = steps.direction(config)
    state = _start(network, group, optimise)
    if checkpoint.exists():
        state = files.read_tree(checkpoint, state)
        say(f"going on after epoch {int(state.epoch)}, from {checkpoint}")
    run_epoch = steps.epoch(network, optimise, config, total // size, count, group.shared)
    losses = steps.losses_of(network, count, group.shared)
    params, moments, own = spread((state.params, state.moments, group.own))
    train, valid = _spreader(() if group.shared else devices, count)((group.train, group.valid))
    written = time.monotonic()
    while state.epoch < config.epochs and _running(state, config).any():
        epoch = int(state.epoch)
        order = np.stack([steps.order_of_rows(int(s), epoch, total, size) for s in group.seed])
        keys = jax.vmap(lambda s, e=epoch: jax.random.fold_in(jax.random.key(s), e))(group.seed)
        mask = spread(_masks(group.params, state.kept))
        running = spread(_running(state, config).astype(np.float32))
        params, moments, loss = run_epoch(
            params, moments, mask, own, running, train, spread(order), spread(keys), epoch
        )
        state = state._replace(epoch=state.epoch + np.int32(1))
        if group.pruned.any() and state.epoch < config.epochs:
            share = group.pruned * int(state.epoch) / max(config.epochs - 1, 1)
            rates = _rates(network, group, params, train)
            state = state._replace(kept=_pruned(state.kept, rates, share, count))
            params = steps.masked(params, spread(_masks(group.params, state.kept)))
        checked = losses(params, valid)
        state = _judged(state, params, moments, checked, group, config, count)
        if time.monotonic() - written > BETWEEN_CHECKPOINTS:
            files.write_tree(checkpoint, state)
            written = time.monotonic()
        means = f"loss {float(np.mean(loss)):.4f}, validation {float(np.mean(checked)):.4f}"
        say(f"epoch {int(state.epoch):3d} of {config.epochs}: {means}")
    files.write_tree(checkpoint, state)
    return Trained(state.best, state.kept)


def _running(state: State, config: Any) -> np.ndarray:
    return np.asarray(state.waited) < (config.patience or np.inf)


def _spreader(devices: Sequence[Any], count: int) -> Callable[[Any], Any]:
    """Spreads leaves over devices by their first axis, filled up to a multiple."""
    if len(devices) < 2 or count < 2:
        return lambda tree: jax.tree.map(jnp.asarray, tree)
    sharding = NamedSharding(Mesh(np.array(devices), ("networks",)), PartitionSpec("networks"))
    index = np.minimum(np.arange(-(-count // len(devices)) * len(devices)), count - 1)
    return lambda tree: jax.tree.map(lambda leaf: jax.device_put(leaf[index], sharding), tree)


def _start(network: Network, group: Members, optimise: optax.GradientTransformation) -> State:
    count, params = len(group.seed), jax.tree.map(np.asarray, group.params)
    moments = _host(steps.mapped(optimise.init, (0,), count)(params), count)
    hidden = () if network.before is None else range(len(params["layers"]) - 1)
    kept = tuple(np.ones(params["layers"][i]["bias"].shape, bool) for i in hidden)
    infinite, zero = np.full(count, np.inf, np.float32), np.zeros(count, np.int32)
    return State(params, moments, params, infinite, zero, kept, np.int32(0))


def _host(tree: Any, count: int) -> Any:
    """Copies of the networks' leaves on the host, without what was filled up."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], tree)


def _judged(
    state: State, params: Any, moments: Any, loss: Any, group: Members, config: Any, count: int
) -> State:
    """Takes over an epoch's result: the best so far, and how long ago that was."""
    params, moments, loss = (_host(tree, count) for tree in (params, moments, loss))
    running = _running(state, config)
    # Until the last units have been pruned, the latest network is the best.
    pruning = (group.pruned > 0) & (state.epoch < config.epochs)
    better = running & ((loss < state.best_loss) | pruning | (config.patience == 0))

    def chosen(new: np.ndarray, old: np.ndarray) -> np.ndarray:
        return np.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    best_loss = np.where(pruning, np.inf, np.where(better, loss, state.best_loss))
    return state._replace(
        params=params,
        moments=moments,
        best=jax.tree.map(chosen, params, state.best),
        best_loss=best_loss.astype(np.float32),
        waited=np.where(better, 0, state.waited + running).astype(np.int32),
    )


def _rates(network: Network, group: Members, params: Params, rows: Split) -> list[np.ndarray]:
    """By layer ``(networks, units)``: on how many rows each unit is on."""

    def count(params: Params, x: Array) -> list[Array]:
        return [jnp.sum(z > 0, axis=0, dtype=jnp.int32) for z in network.before(params, x)[:-1]]

    over = jax.jit(steps.mapped(count, (0, None if group.shared else 0), len(group.seed)))
    return [np.asarray(c) for c in over(params, rows.x)]


def _pruned(
    kept: tuple[np.ndarray, ...], active: list[np.ndarray], share: np.ndarray, count: int
) -> tuple[np.ndarray, ...]:
    """Drops the units that fire least, all layers together, down to each network's share."""
    ends = np.cumsum([k.shape[1] for k in kept])[:-1]
    before = np.concatenate(kept, axis=1)
    rates = np.where(before, np.concatenate([a[:count] for a in active], axis=1), -1)
    after = before.copy()
    for member, fraction in enumerate(share):
        order = np.argsort(rates[member], kind="stable")
        after[member, order[: round(fraction * rates.shape[1])]] = False
    parts = list(np.split(after, ends, axis=1))
    for part, rate in zip(parts, np.split(rates, ends, axis=1), strict=True):
        empty = ~part.any(axis=1)
        part[empty, rate[empty].argmax(axis=1)] = True  # no layer loses its last unit
    return tuple(parts)


def _masks(params: Params, kept: tuple[np.ndarray, ...]) -> Params | None:
    """Ones, and zeros for the weights of pruned units; None if there are none."""
    if all(k.all() for k in kept):
        return None
    ones = jax.tree.map(lambda leaf: np.ones(np.shape(leaf), np.float32), params)
    for i, keep in enumerate(kept):
        ones["layers"][i]["kernel"] *= keep[:, None]
        ones["layers"][i]["bias"] *= keep
        ones["layers"][i + 1]["kernel"] *= keep[..., None]
    return ones
