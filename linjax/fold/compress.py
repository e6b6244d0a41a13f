"""``compress``: a smaller network of the best quality, from the network, its parameters, data."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.errors import EvidenceError, FoldWarning
from linjax.evidence.collect import collect
from linjax.evidence.stats import Stats
from linjax.fold.joint import Rows, joint_refit
from linjax.fold.least_squares.measure import Data, mean_uncertainty
from linjax.fold.least_squares.network import task, written
from linjax.fold.least_squares.sequential import fold_sequentially
from linjax.fold.objective import divergence
from linjax.fold.rules import Size, Tolerance
from linjax.graph import pytree
from linjax.graph.count import count
from linjax.graph.net import Net

Array = Any

HELD_OUT = 5
"""One in so many rows decides between candidates and isn't used by the joint refit."""
CHUNK = 4096
"""Rows that the joint refit runs at a time."""
ROWS = 20_000
"""Rows that the joint refit keeps in memory."""
CERTAIN = 0.25
"""Weight of a row whose outputs are certain, relative to the mean uncertainty."""


def compress(
    net: Net,
    params: Any,
    batches: Iterable[Any] | Callable[[], Iterable[Any]],
    rule: Size | Tolerance,
    *,
    metric: str = "softmax",
    stats: Stats | None = None,
    joint: bool = True,
    progress: bool | None = None,
) -> Any:
    """Makes a network smaller without training, refitting on its own folded activations.

    Widths are planned as by :func:`fold`. Then, layer by layer, units are chosen and kernels
    refitted by least squares so that the original's pre-activations are reproduced from what
    the folded network itself computes. At last all layers are refitted together by a few
    rounds of Gauss–Newton least squares on the outputs. Of the three networks (one shot,
    sequential, joint) the one whose outputs are nearest to the original's on held-out
    calibration rows is returned. Labels are not used.

    Args:
      net: the traced network.
      params: its parameters, original or folded.
      batches: calibration data, read several times: a list of batches, another iterable that
        can be started anew, or a function that returns an iterator.
      rule: :func:`size` or :func:`tolerance`.
      metric: ``"softmax"`` if outputs are logits, ``"identity"`` for a regression.
      stats: evidence of :func:`collect` on the same parameters and data, to save a pass.
      joint: whether to refit all layers together at the end.
      progress: whether to show progress; by default on a terminal.

    Returns:
      A nested dict for ``net.apply``; ``params`` itself, with a warning, where nothing could
      be made smaller.

    Raises:
      EvidenceError: if batches can be read only once.
      StructureError, LinjaxError: as :func:`fold`.

    References:
      Sequential refits: CORP, 2026, arXiv 2602.05243; GRAIL, 2026, arXiv 2602.23795.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> from linjax.fold.compress import compress
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> params = {"in": jax.random.normal(keys[0], (4, 32)),
      ...           "out": jax.random.normal(keys[1], (32, 3))}
      >>> x = jax.random.normal(keys[2], (200, 4))
      >>> net = linjax.trace(apply, params, x)
      >>> small = compress(net, params, [x], linjax.size(0.5))
      >>> linjax.count(params), linjax.count(small) <= 112
      (224, True)
    """
    again = _repeatable(batches)
    if stats is None:
        stats = collect(net, params, again(), metric=metric, progress=progress)
    work = task(params, stats, rule)
    plan = work.plan()
    one_shot = written(params, stats, work.fold(plan).chains)
    floor = CERTAIN * mean_uncertainty(net, params, again(), metric)
    data = Data(net, params, again, metric, floor)
    sequential = pytree.unflatten(fold_sequentially(data, work.problems, plan))
    train, held = _rows(net, params, again())
    candidates = [one_shot, sequential]
    errors = [_error(net, c, held, metric) for c in candidates]
    best = candidates[int(np.argmin(errors))]
    if joint:
        best = joint_refit(net, best, train, held, metric)
    if count(best) < count(params):
        return best
    warnings.warn(f"nothing was compressed: {rule} leaves the network as it is", FoldWarning, 2)
    return params


def _repeatable(batches: Any) -> Callable[[], Iterator[tuple[Any, ...]]]:
    """A function that starts the batches anew, each as a tuple of inputs."""
    if isinstance(batches, Iterator):
        raise EvidenceError(
            "batches can be read only once; pass a list, or a function that returns an iterator"
        )
    start = batches if callable(batches) else lambda: batches
    return lambda: (b if isinstance(b, tuple) else (b,) for b in start())


def _rows(net: Net, params: Any, batches: Iterable[tuple[Any, ...]]) -> tuple[Rows, Rows]:
    """Collects rows with the original's outputs, and holds one in five out."""
    some, count = [], 0
    for inputs in batches:
        some.append(jax.tree.map(np.asarray, inputs))
        count += jax.tree.leaves(inputs)[0].shape[0]
        if count >= ROWS:
            break
    everything = jax.tree.map(lambda *x: np.concatenate(x), *some)
    out = np.arange(count) % HELD_OUT == HELD_OUT - 1
    apply = jax.jit(lambda inputs: net.apply(params, *inputs))

    def chunks(chosen: Array) -> Rows:
        inputs = jax.tree.map(lambda x: x[chosen], everything)
        rows = int(chosen.sum())
        cuts = [slice(a, a + CHUNK) for a in range(0, rows, CHUNK)]
        parts = [jax.tree.map(lambda x, cut=cut: jnp.asarray(x[cut]), inputs) for cut in cuts]
        return Rows(tuple((part, apply(part)) for part in parts), rows)

    return chunks(~out), chunks(out if out.any() else ~out)


def _error(net: Net, params: Any, rows: Rows, metric: str) -> float:
    """Mean divergence of the rows' outputs from the original's."""
    measure = jax.jit(lambda x, y: divergence(net.apply(params, *x), y, metric))
    return float(sum(measure(*chunk) for chunk in rows.chunks)) / max(rows.count, 1)
