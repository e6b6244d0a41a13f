"""``compress``: a smaller network of the best quality, from the network, its parameters, data."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from linjax.errors import FoldWarning
from linjax.evidence.collect import collect
from linjax.evidence.stats import Stats
from linjax.fold.channels.frontier import ChannelFrontier
from linjax.fold.frontier import Frontier, known_or_made, written
from linjax.fold.joint import joint_refit
from linjax.fold.least_squares.measure import Data
from linjax.fold.least_squares.sequential import fold_sequentially
from linjax.fold.rows import (
    CHUNK,
    Batch,
    divided,
    enriched,
    enriched_once,
    load,
    mean_divergence,
    repeatable,
    size_of,
    taught,
    without_held,
)
from linjax.fold.rules import Size, Tolerance
from linjax.fold.threads import one_thread
from linjax.graph import pytree
from linjax.graph.count import count
from linjax.graph.net import Net

NEGLIGIBLE = 2e-4
"""Divergence from the original's outputs that a joint refit isn't worth its time for."""


@one_thread()
def compress(
    net: Net,
    params: Any,
    batches: Iterable[Any] | Callable[[], Iterable[Any]],
    rule: Size | Tolerance,
    *,
    metric: str = "softmax",
    evidence: Stats | Frontier | None = None,
    joint: bool = True,
    progress: bool | None = None,
) -> Any:
    """Makes a network smaller without training, refitting on its own folded activations.

    Widths are planned as by :func:`fold`. Then, layer by layer, units are chosen and kernels
    refitted by least squares so that the original's pre-activations are reproduced from what
    the folded network itself computes (not where there are convolutions: these fold in one
    shot). At last all layers are refitted together by a few rounds of Gauss–Newton least
    squares on the outputs, on the rows and, for floating point inputs, on
    others between pairs of them. Of the three networks (one shot,
    sequential, joint) the one whose outputs are nearest to the original's on held-out
    calibration rows is returned: one row in five, which the refits don't see. Labels are not used.

    Args:
      net: the traced network.
      params: its parameters, original or folded.
      batches: calibration data, read several times: a list of batches, another iterable that
        can be started anew, or a function that returns an iterator.
      rule: :func:`size` or :func:`tolerance`.
      metric: ``"softmax"`` if outputs are logits, ``"identity"`` for a regression.
      evidence: of :func:`collect` on the same parameters and data, to save a pass, or the
        :func:`frontier` made of it, to save the planning, too.
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
    again = repeatable(batches)
    if evidence is None:
        between = map(enriched_once, again())
        evidence = collect(net, params, between, metric=metric, progress=progress)
    known = known_or_made(params, evidence)
    train, held = divided(load(again()))
    if isinstance(known, ChannelFrontier):
        candidates = [known.fold(params, known.plan(rule))[0]]
    else:
        plan = known.plan(rule)
        one_shot = written(params, known.stats, known.fold(plan))
        data = Data(net, params, lambda: map(enriched_once, _passes(train, again)), metric)
        sequential = pytree.unflatten(fold_sequentially(data, known.problems, plan), like=params)
        candidates = [one_shot, sequential]
    held_rows = taught(net, params, enriched(held))
    errors = [mean_divergence(net, p, held_rows, metric) for p in candidates]
    best = candidates[int(np.argmin(errors))]
    if joint and min(errors) > NEGLIGIBLE:
        best = joint_refit(net, best, taught(net, params, enriched(train)), held_rows, metric)
    if count(best) < count(params):
        return best
    warnings.warn(f"nothing was compressed: {rule} leaves the network as it is", FoldWarning, 2)
    return params


def _passes(train: Batch, again: Callable[[], Iterator[Batch]]) -> Iterable[Batch]:
    """The rows to fit on: as one batch where they fit in one, that fewer programs compile."""
    return (train,) if size_of(train) < CHUNK else without_held(again())
