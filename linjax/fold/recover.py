"""``recover``: a short distillation of the original's outputs, without labels."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.fold.objective import divergence
from linjax.fold.rows import divided, load, mean_divergence, repeatable, size_of, taught
from linjax.graph import pytree
from linjax.graph.net import Net
from linjax.report.progress import track

if TYPE_CHECKING:
    import optax

Array = Any


class Recovered(NamedTuple):
    """Recovered parameters and how far they were from the original on held-out rows.

    Attributes:
      params: the best pytree seen.
      errors: mean divergence on held-out rows before the first epoch and after each.
    """

    params: Any
    errors: tuple[float, ...]


def recover(
    net: Net,
    params: Any,
    original: Any,
    batches: Iterable[Any] | Callable[[], Iterable[Any]],
    *,
    epochs: int = 6,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    metric: str = "softmax",
    mix: bool = True,
    patience: int = 2,
    seed: int = 0,
    details: bool = False,
    progress: bool | None = None,
) -> Any:
    """Trains a folded network for a few epochs to give the original's outputs.

    Minimises ``KL(softmax y ‖ softmax y') + 0.005 ‖centred (y' − y)‖²`` (squared error of the
    outputs for a regression) with Adam and a cosine schedule on unlabelled rows, half of them
    drawn on lines between pairs of rows. One row in five is held out: it decides which epoch's
    parameters are returned, and when to stop.

    Args:
      net: the traced network.
      params: the folded pytree to start from.
      original: the original pytree, whose outputs are the targets.
      batches: unlabelled rows; as for :func:`compress`.
      epochs: passes over the rows.
      learning_rate: Adam's, at the start.
      batch_size: rows a step.
      metric: ``"softmax"`` if outputs are logits, ``"identity"`` for a regression.
      mix: whether to draw half of the rows between pairs of rows.
      patience: epochs without a better held-out error before stopping.
      seed: of the order of the rows.
      details: also return the held-out errors.
      progress: whether to show progress; by default on a terminal.

    Returns:
      A pytree like ``params``, at least as good as it on the held-out rows; with ``details``
      a :class:`Recovered`.

    Raises:
      EvidenceError: if batches are empty or can be read only once.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> from linjax.fold.recover import recover
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2)) * jnp.array([1.0, -1.0])}
      >>> x = jax.random.normal(jax.random.key(0), (64, 3))
      >>> net = linjax.trace(apply, params, x)
      >>> worse = {"in": params["in"] * 0.5, "out": params["out"]}
      >>> result = recover(net, worse, params, [x], details=True)
      >>> result.errors[0] > min(result.errors)
      True
    """
    import optax  # slow to import, and only needed here

    train, held = divided(load(repeatable(batches)(), limit=10**9))
    held_rows = taught(net, original, held)
    count = size_of(train)
    batch_size = min(batch_size, count)
    steps = max(count // batch_size, 1)
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, epochs * steps))
    mix = mix and all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(train))
    step = _make_step(net, original, optimiser, metric, mix)

    best = now = _floating(params)
    state = optimiser.init(now[0])
    errors = [mean_divergence(net, params, held_rows, metric)]
    key = jax.random.key(seed)
    bad = 0
    for _ in track(range(epochs), "recover", progress):
        key, order_key, mix_key = jax.random.split(key, 3)
        order = np.asarray(jax.random.permutation(order_key, count))
        for i in range(steps):
            chosen = order[i * batch_size : (i + 1) * batch_size]
            inputs = jax.tree.map(lambda x, chosen=chosen: x[chosen], train)
            moving, state = step(now[0], now[1], state, inputs, jax.random.fold_in(mix_key, i))
            now = (moving, now[1])
        error = mean_divergence(net, _joined(now, params), held_rows, metric)
        if np.isfinite(error) and error < min(errors):
            best, bad = now, 0
        else:
            bad += 1
        errors.append(error)
        if bad >= patience:
            break
    recovered = _joined(best, params)
    return Recovered(recovered, tuple(errors)) if details else recovered


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


def _make_step(
    net: Net, original: Any, optimiser: "optax.GradientTransformation", metric: str, mix: bool
) -> Callable[..., tuple[pytree.Flat, Any]]:
    """One step of Adam on a batch, compiled."""
    import optax

    def loss(moving: pytree.Flat, fixed: pytree.Flat, inputs: Any, targets: Any) -> Array:
        outputs = net.apply(pytree.unflatten({**moving, **fixed}), *inputs)
        rows = jax.tree.leaves(inputs)[0].shape[0]
        return divergence(outputs, targets, metric) / rows

    @jax.jit
    def step(
        moving: pytree.Flat, fixed: pytree.Flat, state: Any, inputs: Any, key: Array
    ) -> tuple[pytree.Flat, Any]:
        if mix:
            share_key, coin_key = jax.random.split(key)
            rows = jax.tree.leaves(inputs)[0].shape[0]
            share = jax.random.uniform(share_key, (rows,), maxval=0.5)
            share = jnp.where(jax.random.bernoulli(coin_key, 0.5, (rows,)), share, 0.0)

            def between(x: Array) -> Array:
                weight = share.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
                return x + weight * (jnp.roll(x, 1, axis=0) - x)

            inputs = jax.tree.map(between, inputs)
        targets = jax.lax.stop_gradient(net.apply(original, *inputs))
        gradient = jax.grad(loss)(moving, fixed, inputs, targets)
        updates, state = optimiser.update(gradient, state, moving)
        return optax.apply_updates(moving, updates), state

    return step
