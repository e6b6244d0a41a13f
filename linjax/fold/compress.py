"""``compress``: a smaller network of the best quality, from the network, its parameters, data."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from linjax.errors import warn
from linjax.evidence.collect import collect
from linjax.evidence.given import as_batches, as_evidence, as_net
from linjax.evidence.metric import settled
from linjax.evidence.moved import moved
from linjax.evidence.stats import Stats
from linjax.fold.candidates import Work, nearest, within
from linjax.fold.fold import RUIN, ruin
from linjax.fold.frontier import Frontier, known_or_made
from linjax.fold.joint import affordable, joint_refit, last_refit
from linjax.fold.rows import (
    Batch,
    Rows,
    divided,
    enriched,
    enriched_once,
    even,
    first,
    in_rows,
    load,
    repeatable,
    size_of,
    taught,
)
from linjax.fold.rules import Size, Tolerance, planned
from linjax.fold.threads import one_thread
from linjax.net import Net
from linjax.program.count import count
from linjax.program.placed import automatic

NEGLIGIBLE = 2e-4
"""Divergence from the original's outputs that a joint refit isn't worth its time for."""

WITHOUT = "fold without rows: linjax.fold(params, linjax.collect(net, params, batches), rule)"
"""What to do where inputs aren't rows."""


@one_thread()
def compress(
    net: Net,
    params: Any,
    batches: Iterable[Any] | Callable[[], Iterable[Any]],
    rule: Size | Tolerance,
    *,
    metric: str | None = None,
    evidence: Stats | Frontier | None = None,
    joint: bool = True,
    progress: bool | None = None,
) -> Any:
    """Makes a network smaller without training, refitting on its own folded activations.

    Widths are planned as by :func:`fold`, or without narrowing streams where that measures better.
    Then, in the order of execution, coordinates are chosen
    and kernels refitted by least squares so that what the original computes is reproduced from
    what the folded network itself does. At last all layers are refitted
    together by a few rounds of Gauss–Newton least squares on the outputs, on the rows and, for
    floating point inputs, on others between pairs of them; fewer rows and rounds, or the last layer
    alone, where a network is large. Of the three networks (one shot, sequential, joint) the one
    whose outputs are nearest to the original's on held-out calibration rows is returned: one row
    in five, which the refits don't see. Labels are not used.

    By a tolerance it is the smallest network found whose error, *measured* on the held-out fifth
    in the output's metric (:func:`compare`), is at most that: sizes are bisected, in one shot
    first, then refitted. Where these are few, the error on all rows may be somewhat above it.
    :func:`fold`, which sees no rows, goes by the predicted error, which for deep networks can be
    several times too small.

    Args:
      net: the traced network.
      params: its parameters, original or folded.
      batches: calibration data, read several times: a list of batches, another iterable that
        can be started anew, or a function that returns an iterator.
      rule: :func:`size`, or :func:`tolerance`, which takes a few times as long.
      metric: ``"softmax"`` if outputs are logits, ``"identity"`` for a regression; by default
        that of the evidence, or as the outputs' shapes suggest, see :func:`collect`.
      evidence: of :func:`collect` on the same parameters and data, to save a pass, or the
        :func:`frontier` made of it, to save the planning, too.
      joint: whether to refit all layers together at the end.
      progress: whether to show progress; by default on a terminal.

    Returns:
      A nested dict for ``net.apply``; ``params`` itself, with a warning, where nothing could
      be made smaller.

    Raises:
      EvidenceError: if batches can be read only once, or aren't rows.
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
    as_net(net)
    planned(rule)
    as_batches(net, batches, started=True)
    again, params = repeatable(batches), automatic(params)
    if evidence is not None:
        as_evidence(params, evidence)
    if metric is None and evidence is not None:
        metric = (evidence if isinstance(evidence, Stats) else evidence.stats).metric
    metric = settled(metric, net)
    in_rows(net, params, again, WITHOUT)
    if evidence is None:
        between = map(enriched_once, again())
        evidence = collect(net, params, between, metric=metric, progress=progress)
    if isinstance(evidence, Stats) and (far := moved(params, evidence.sketch)):
        warn(far)
    known = known_or_made(params, evidence)
    train, held = divided(load(net, batches))
    work = Work(net, params, known, train, held, metric)
    held_rows = taught(net, params, even(net, held))

    @functools.cache
    def inputs() -> Batch:
        return even(net, enriched(train))

    @functools.cache
    def rows() -> Rows:
        return taught(net, params, inputs())

    def make(size: Size) -> Any:
        best, error = nearest(net, work.refitted(size, held_rows), held_rows, metric)
        if not joint or error <= NEGLIGIBLE:
            return best
        allowed = affordable(net, best, held_rows, size_of(inputs()))
        if not allowed.rounds:
            return last_refit(net, best, taught(net, params, even(net, train)), held_rows, metric)
        # Many rounds of fitting need rows in between, too; a choice of two is made on real ones.
        between_too = taught(net, params, even(net, enriched(held)))
        some = first(rows(), allowed.rows)
        return joint_refit(net, best, some, between_too, metric, allowed)

    best = within(work, rule, make) if isinstance(rule, Tolerance) else make(rule)
    if count(best) < count(params):
        if isinstance(rule, Size) and known.plan(rule).error >= RUIN:
            error = work.error(best)
            if error >= RUIN:
                found = f"measured relative output error {error:.2g}"
                warn(ruin(known, rule, found))
        return best
    warn(f"nothing was compressed: {rule} leaves the network as it is")
    return params
