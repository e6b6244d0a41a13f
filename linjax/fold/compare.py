"""How far a smaller network is from the original, measured."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.errors import EvidenceError, LinjaxError
from linjax.evidence.given import as_batches, as_net, as_numbers, as_values
from linjax.evidence.metric import chosen, is_logits, settled
from linjax.fold.outer import Outer, along, outer
from linjax.net import Net
from linjax.program.count import count
from linjax.program.placed import automatic, inputs_of
from linjax.report.progress import track

Array = Any
Function = Callable[[tuple[Any, ...]], Any]

WITHIN, BETWEEN = 0, 1
"""Seeds of random sums over the rows of batches, and of what is between batches."""


class Comparison(NamedTuple):
    """What a smaller network costs and saves; prints as text.

    Attributes:
      rows: number of samples of outputs compared.
      metric: ``"softmax"`` or ``"identity"``, as for :func:`collect`.
      error: relative output error in that metric, as rules mean it: the root of
        ``E δᵀGδ / E (y − E y)ᵀG(y − E y)`` with ``δ = y' − y`` and ``G = E F``; of more than 4,096
        classes an unbiased estimate, from random sums over rows, that is off by a few percent.
      plain: the same with G the identity.
      largest: largest absolute difference of an output.
      divergence: mean ``KL(softmax y ‖ softmax y')``, None for a regression.
      agreement: share of samples with the original's class, None for a regression.
      before: number of parameters of the original.
      after: number of parameters of the smaller network.
    """

    rows: int
    metric: str
    error: float
    plain: float
    largest: float
    divergence: float | None
    agreement: float | None
    before: int
    after: int

    def __repr__(self) -> str:
        lines = [
            f"{self.before:,} → {self.after:,} parameters "
            f"({self.after / max(self.before, 1):.2%}), compared on {self.rows:,} samples",
            f"relative output error {self.error:.3g} ({self.metric}), {self.plain:.3g} unweighted, "
            f"largest difference {self.largest:.3g}",
        ]
        if self.agreement is not None:
            lines.append(
                f"same class in {self.agreement:.2%}, mean KL divergence {self.divergence:.3g}"
            )
        return "\n".join(lines)


class _Sums(NamedTuple):
    """Sums over samples for one output leaf.

    ``diag(likely) − seen`` is the metric of logits. The original's outputs enter by their mean, and
    by squares and outer products about it: these less what all classes share, which the metric is
    blind to.
    """

    rows: Array
    likely: Array
    seen: Outer
    mean: Array
    varied: Array
    scatter: Outer
    wrong: Outer
    plain: Array
    largest: Array
    divergence: Array
    same: Array


def compare(
    net: Net,
    params: Any,
    small: Any,
    batches: Iterable[Any],
    *,
    metric: str | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Measures how far a smaller network's outputs are from the original's.

    Args:
      net: the traced network.
      params: the original parameters.
      small: the folded ones.
      batches: inputs, as for :func:`collect`; better not those that the fold went by.
      metric: ``"softmax"`` if outputs are logits, ``"identity"`` for a regression; by default
        as they suggest, see :func:`collect`.
      progress: whether to show progress; by default on a terminal.

    Returns:
      A :class:`Comparison`: relative error, largest difference, agreement, counts.

    Raises:
      EvidenceError: if there are no batches, or the network has no floating point output.
      StructureError: if a pytree isn't one of this network.
      LinjaxError: for another metric.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.array([[1.0, 0], [0, 1], [1e-3, 0]])}
      >>> small = {"in": params["in"][:, :2], "out": params["out"][:2]}
      >>> x = jax.random.normal(jax.random.key(0), (64, 3))
      >>> net = linjax.trace(apply, params, x)
      >>> found = linjax.compare(net, params, small, [x])
      >>> found.before, found.after, found.agreement, found.error < 0.01
      (15, 10, 1.0, True)
    """
    as_net(net, stored=True)
    as_batches(net, batches)
    for given in (params, small):
        as_values(given)
        if isinstance(net, Net):  # else the stored program's function checks
            net.check(given)

    params, small = automatic((params, small))
    run = net.compiled if isinstance(net, Net) else jax.jit(net.apply)
    return compare_functions(
        lambda inputs: run(params, *inputs),
        lambda inputs: run(small, *inputs),
        (count(params), count(small)),
        batches,
        metric=settled(metric, net),
        progress=progress,
    )


def compare_functions(
    original: Function,
    other: Function,
    counts: tuple[int, int],
    batches: Iterable[Any],
    *,
    metric: str | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Compares two functions of a tuple of inputs; as :func:`compare`.

    Args:
      original: the first function, compiled.
      other: the second; it is measured against the first.
      counts: how many parameters each has.
      batches: inputs.
      metric: as for :func:`compare`.
      progress: whether to show progress; by default on a terminal.

    Raises:
      EvidenceError, LinjaxError: as :func:`compare`, or if the outputs have other shapes.
    """
    metric = metric if metric is None else chosen(metric, None)
    total: list[_Sums] = []
    for index, batch in enumerate(track(batches, "compare", progress)):
        inputs = inputs_of(batch)
        as_numbers(jax.tree.leaves(inputs), index)
        outputs = original(inputs), other(inputs)
        metric = metric or chosen(None, outputs[0])
        total = _added(total, _apart(*outputs, metric, index))
        if not all(np.isfinite(own.mean).all() for own in total):
            raise EvidenceError(
                f"batch {index}: the original's outputs aren't finite; leave such rows away"
            )
    if not total or not total[0].rows:
        raise EvidenceError("no batches: the iterable of inputs is empty, or no output is a float")
    return Comparison(
        rows=int(total[0].rows),
        metric=metric or "identity",
        error=_error(total),
        plain=_root(total, lambda s: (s.plain, s.varied)),
        largest=float(max(s.largest for s in total)),
        divergence=_mean(total, "divergence"),
        agreement=_mean(total, "same"),
        before=counts[0],
        after=counts[1],
    )


def relative_error(original: Any, outputs: Any, *, metric: str | None = None) -> float:
    """The relative output error of outputs that are at hand, as :func:`compare` measures it.

    The root of ``E δᵀGδ / E (y − E y)ᵀG(y − E y)`` with ``δ = y' − y`` and ``G = E F``, F the
    metric at the original's outputs; ``diag(p) − ppᵀ`` for logits of probabilities p.

    Args:
      original: outputs y of the original, one array or a pytree: ``(rows, …, classes)``.
      outputs: outputs y' of a smaller network on the same rows.
      metric: as for :func:`compare`; by default as the shapes suggest.

    Returns:
      0 where nothing differs, infinite where the original's outputs don't vary.

    Raises:
      EvidenceError: if there are no rows, no floating point outputs, or for another metric.
      LinjaxError: if the shapes differ.

    Example:
      >>> import jax.numpy as jnp, linjax
      >>> y = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
      >>> linjax.relative_error(y, y + 5.0, metric="softmax") < 1e-3  # nothing to a softmax
      True
      >>> linjax.relative_error(y, 1.1 * y - 0.1 * y.mean(0), metric="identity")
      0.1...
    """
    original, outputs = jax.tree.map(jnp.asarray, (original, outputs))
    sums = outputs_apart(original, outputs, chosen(metric, original), 0)
    if not sums or not sums[0].rows:
        raise EvidenceError("no outputs to compare: no rows, or no output is a float")
    return error_of([sums])


def _host(value: Array) -> Array:
    return np.asarray(value, np.float64)


def _add(a: _Sums, b: _Sums) -> _Sums:
    summed = _Sums(*(x + y for x, y in zip(a, b, strict=True)))
    apart, weight = b.mean - a.mean, a.rows * b.rows / max(summed.rows, 1)
    summed = summed._replace(
        mean=a.mean + apart * b.rows / max(summed.rows, 1),
        varied=summed.varied + weight * np.sum(apart**2),
        largest=np.maximum(a.largest, b.largest),
    )
    if summed.seen.whole is None:
        return summed
    row = jnp.asarray(weight**0.5 * _relative(apart[None], summed.likely))
    return summed._replace(
        scatter=summed.scatter + jax.tree.map(_host, outer(row, (BETWEEN, int(a.rows))))
    )


def _relative(logits: Array, likely: Array) -> Array:
    """Logits less their mean over likely classes."""
    return logits - (logits @ likely / likely.sum())[:, None]


def _added(total: list[_Sums], found: list[_Sums]) -> list[_Sums]:
    found = jax.tree.map(_host, found)
    return list(map(_add, total, found)) if total else found


def error_of(parts: Iterable[list[_Sums]]) -> float:
    """The relative output error on the rows of all parts, see :class:`Comparison`."""
    return _error(functools.reduce(_added, parts, []))


def _error(total: list[_Sums]) -> float:
    def cost(own: _Sums, of: Outer) -> float:
        return float(own.likely @ of.diagonal) - along(own.seen, of)

    def costs(own: _Sums) -> tuple[float, float]:
        if own.seen.whole is None:
            return float(own.plain), float(own.varied)
        return cost(own, own.wrong), cost(own, own.scatter)

    return _root(total, costs)


def _root(total: list[_Sums], pair: Callable[[_Sums], tuple[float, float]]) -> float:
    """The root of a ratio of sums; 0 if nothing is wrong, infinite if nothing varies."""
    wrong, scale = (max(sum(pair(s)[i] for s in total), 0.0) for i in (0, 1))
    if scale == 0:
        return math.inf if wrong else 0.0
    return math.sqrt(wrong / scale)


def _mean(total: list[_Sums], name: str) -> float | None:
    """The mean over the samples of all logits; None without any."""
    logits = [s for s in total if s.seen.whole is not None]
    if not logits:
        return None
    return float(sum(getattr(s, name) for s in logits) / sum(s.rows for s in logits))


def outputs_apart(original: Any, other: Any, metric: str, index: Array) -> list[_Sums]:
    """How far outputs are from the original's, by leaf, summed over the samples of a batch."""
    pairs = jax.tree.leaves(original), jax.tree.leaves(other)
    shapes = [[leaf.shape for leaf in leaves] for leaves in pairs]
    if shapes[0] != shapes[1]:
        raise LinjaxError(f"outputs of shapes {shapes[1]} can't be compared with {shapes[0]}")
    return [
        _leaf(y.astype(jnp.float32), z.astype(jnp.float32), metric, index)
        for y, z in zip(*pairs, strict=True)
        if jnp.issubdtype(y.dtype, jnp.floating)
    ]


_apart = jax.jit(outputs_apart, static_argnames="metric")


def _leaf(y: Array, other: Array, metric: str, index: Array) -> _Sums:
    logits, classes = is_logits(y, metric), y.shape[-1] if y.ndim >= 2 else 1
    y, other = y.reshape(-1, classes), other.reshape(-1, classes)
    difference, rows, mean = other - y, jnp.asarray(len(y)), jnp.mean(y, axis=0)
    plain, largest = jnp.sum(difference**2), jnp.max(jnp.abs(difference), initial=0.0)
    varied, none = jnp.sum((y - mean) ** 2), jnp.zeros(())
    if not logits:
        nothing = Outer(none, None)
        apart = nothing, mean, varied, nothing, nothing, plain, largest
        return _Sums(rows, none, *apart, none, none)
    logs, p = jax.nn.log_softmax(y), jax.nn.softmax(y)
    likely = jnp.sum(p, axis=0)
    return _Sums(
        rows=rows,
        likely=likely,
        seen=outer(p, (WITHIN, index, 0)),
        mean=mean,
        varied=varied,
        scatter=outer(_relative(y - mean, likely), (WITHIN, index, 1)),
        wrong=outer(_relative(difference, likely), (WITHIN, index, 2)),
        plain=plain,
        largest=largest,
        divergence=jnp.sum(p * (logs - jax.nn.log_softmax(other))),
        same=jnp.sum(jnp.argmax(y, axis=-1) == jnp.argmax(other, axis=-1)),
    )
