"""``recover``: a short distillation of the original's outputs, without labels."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.errors import EvidenceError, LinjaxError, warn
from linjax.evidence.given import as_batches, as_net, as_values, is_number, whole
from linjax.evidence.metric import settled
from linjax.evidence.objective import divergence
from linjax.fold.rows import (
    Batch,
    divided,
    in_rows,
    load,
    mean_divergence,
    pooled,
    repeatable,
    taught,
)
from linjax.net import Net
from linjax.program import pytree
from linjax.program.placed import automatic
from linjax.report.progress import track

Array = Any

CYCLES = 3
"""Times that the learning rate starts anew, each time at a third of the last."""
LOOKS = 10
"""Looks at the held-out rows in a cycle."""
WARM_UP = 0.1
"""Share of a cycle in which the learning rate rises; Adam's first steps are blind."""
PROGRESS = 0.01
"""Relative improvement below which a cycle is the last, if one before it helped."""


def recover(
    net: Net,
    params: Any,
    small: Any,
    batches: Iterable[Any] | Callable[[], Iterable[Any]],
    *,
    steps: int = 2500,
    learning_rate: float = 3e-3,
    batch_size: int = 256,
    metric: str | None = None,
    mix: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> Any:
    """Trains a folded network for a short while to give the original's outputs.

    Minimises the output divergence, for logits ``KL(softmax y ‖ softmax y')`` and a little
    of the squared error of centred logits, for a regression the squared error, by Adam on
    unlabelled rows and on others drawn between pairs of them. Up to three cosine cycles start
    from the best so far, each with a third of the last one's learning rate: a network
    that is good already only gains by small steps. One row in five is held out; it decides
    what is returned and when to stop.

    Args:
      net: the traced network.
      params: the original parameters, whose outputs are the targets.
      small: the folded ones to start from.
      batches: unlabelled rows; as for :func:`compress`. Of rows and outputs at most 2 GiB
        are kept.
      steps: batches a cycle, ten or more.
      learning_rate: Adam's largest, in the first cycle.
      batch_size: rows a step.
      metric: ``"softmax"`` if outputs are logits, ``"identity"`` for a regression; by default
        as their shapes suggest, see :func:`collect`.
      mix: whether to draw rows between pairs of rows.
      seed: of the order of the rows.
      progress: whether to show progress; by default on a terminal.

    Returns:
      A pytree like ``small``, at least as good as it on the held-out rows; the same, with a
      warning, where no cycle made it better.

    Raises:
      EvidenceError: if batches are empty or can be read only once, or aren't rows.
      LinjaxError: if there are fewer steps than that, or a number isn't one.

    References:
      Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015,
      arXiv 1503.02531. Loshchilov and Hutter, SGDR, 2017, arXiv 1608.03983.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2)) * jnp.array([1.0, -1.0])}
      >>> x = jax.random.normal(jax.random.key(0), (64, 3))
      >>> net = linjax.trace(apply, params, x)
      >>> worse = {"in": params["in"] * 0.5, "out": params["out"]}
      >>> better = linjax.recover(net, params, worse, [x], steps=100)
      >>> errors = [linjax.compare(net, params, p, [x]).error for p in (worse, better)]
      >>> errors[1] < errors[0]
      True
    """
    as_net(net)
    as_batches(net, batches, started=True)
    if np.asarray(steps).dtype.kind not in "iu" or steps < LOOKS:
        raise LinjaxError(f"steps = {steps!r}, expected {LOOKS} or more, a whole number")
    batch_size, seed = whole("batch_size", batch_size, 1), whole("seed", seed, 0)
    if not (is_number(learning_rate) and 0 < learning_rate < float("inf")):
        raise LinjaxError(f"learning_rate = {learning_rate!r}, expected a number > 0")
    metric = settled(metric, net)
    params, small = automatic((params, small))
    again = repeatable(batches)
    net.check(params)
    as_values(params)
    in_rows(net, small, again, "train net.apply on the original's outputs in a loop of your own")
    train, held = divided(load(net, batches, limit=10**9))
    held_rows = taught(net, params, held)
    rows = pooled(net, params, train, mix)
    count = jax.tree.leaves(rows)[0].shape[0]
    batch_size = min(batch_size, count)
    for own in jax.tree.leaves(([outputs for _, outputs in held_rows.chunks], rows[1])):
        if pytree.is_floating(str(own.dtype)) and not np.isfinite(np.asarray(own)).all():
            raise EvidenceError(
                "batches: the original's outputs aren't finite for some rows; leave these away"
            )

    rows = jax.tree.map(jnp.asarray, rows)
    best, fixed = _floating(small)
    errors = [mean_divergence(net, small, held_rows, metric)]
    import optax  # here, so that importing linjax stays quick

    adam = optax.scale_by_adam()
    rng, train_for = np.random.default_rng(seed), _make_stretch(net, adam, metric)
    order = _orders(rng, count, batch_size)
    helped = False
    for cycle in track(range(CYCLES), "recover", progress):
        now, before = best, min(errors)
        state = adam.init(now)
        for rates in np.array_split(_rates(steps) * learning_rate / 3**cycle, LOOKS):
            chosen = np.stack([next(order) for _ in rates])
            now, state = train_for(now, fixed, state, rows, chosen, jnp.asarray(rates))
            error = mean_divergence(net, _joined((now, fixed), small), held_rows, metric)
            best = now if error < min(errors) else best
            errors.append(error)
        gained = min(errors) < (1 - PROGRESS) * before
        if helped and not gained:
            break
        helped = helped or gained
    if min(errors) == errors[0] > 0:
        warn(
            f"nothing was recovered: on held-out rows the outputs' divergence from the original's, "
            f"{errors[0]:.2g}, became no smaller; give more batches or steps"
        )
    return _joined((best, fixed), small)


def _orders(rng: np.random.Generator, count: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yields indices of batches without end, every row once a pass."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def _floating(params: Any) -> tuple[pytree.Flat, pytree.Flat]:
    """Splits a pytree into float32 leaves that train and leaves that don't."""
    flat = pytree.flatten(params)
    moving = {
        p: jnp.asarray(x, jnp.float32)
        for p, x in flat.items()
        if jnp.issubdtype(x.dtype, jnp.floating)
    }
    return moving, {p: x for p, x in flat.items() if p not in moving}


def _joined(parts: tuple[pytree.Flat, pytree.Flat], like: Any) -> dict[str, Any]:
    flat = pytree.flatten(like)
    leaves = {**parts[0], **parts[1]}
    now = {path: pytree.cast(x, flat[path].dtype) for path, x in leaves.items()}
    return pytree.unflatten(now, like=like)


def _rates(steps: int) -> np.ndarray:
    """The learning rate of each step of a cycle: up in a line, down along a cosine."""
    warm = max(int(WARM_UP * steps), 1)
    fall = np.cos(np.linspace(0.0, np.pi, steps - warm)) / 2 + 0.5
    return np.concatenate([np.arange(1, warm + 1) / warm, fall]).astype(np.float32)


def _make_stretch(net: Net, adam: Any, metric: str) -> Callable[..., tuple[pytree.Flat, Any]]:
    """Several steps of Adam in one program."""

    def loss(moving: pytree.Flat, fixed: pytree.Flat, inputs: Batch, targets: Any) -> Array:
        outputs = net.apply(pytree.unflatten({**moving, **fixed}), *inputs)
        return divergence(outputs, targets, metric) / jax.tree.leaves(inputs)[0].shape[0]

    @jax.jit
    def stretch(
        moving: pytree.Flat, fixed: pytree.Flat, state: Any, rows: Any, order: Array, rates: Array
    ) -> tuple[pytree.Flat, Any]:
        def step(carry: Any, now: Any) -> tuple[Any, None]:
            moving, state = carry
            chosen, rate = now
            inputs, targets = jax.tree.map(lambda x: x[chosen], rows)
            gradient = jax.grad(loss)(moving, fixed, inputs, targets)
            updates, state = adam.update(gradient, state, moving)
            moving = jax.tree.map(lambda x, u: x - rate * u, moving, updates)
            return (moving, state), None

        return jax.lax.scan(step, (moving, state), (order, rates))[0]

    return stretch
