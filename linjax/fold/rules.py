"""What a fold is asked for: a threshold, a size, or a tolerance."""

import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from linjax.errors import LinjaxError
from linjax.evidence.given import is_number, whole


class Threshold(NamedTuple):
    """The published rule; see :func:`threshold`."""

    rate: float
    layers: int | float | Literal["optimal"] = "optimal"
    greedy: bool = False
    gain: Literal["reads", "published"] = "reads"


class PublishedSize(NamedTuple):
    """The published fixed-size rule; see :func:`published_size`."""

    fraction: float
    greedy: bool = False
    counted: Literal["inference", "without_first"] = "inference"
    gain: Literal["reads", "published"] = "reads"


Least = tuple[tuple[str, float], ...]
"""What stays at least, by pattern of layers' names: a share up to 1, or a number of units."""


class Size(NamedTuple):
    """A share of the parameters; see :func:`size`."""

    fraction: float
    round_to: int = 1
    of: Literal["parameters", "flops", "bytes"] = "parameters"
    least: Least = ()

    def __repr__(self) -> str:
        of = f", of={self.of!r}" if self.of != "parameters" else ""
        return f"size({self.fraction:g}{_widths(self.round_to, self.least)}{of})"


class Tolerance(NamedTuple):
    """A bound on the output error; see :func:`tolerance`."""

    error: float
    round_to: int = 1
    least: Least = ()

    def __repr__(self) -> str:
        return f"tolerance({self.error:g}{_widths(self.round_to, self.least)})"


def _widths(round_to: int, least: Least) -> str:
    more = f", round_to={round_to}" if round_to > 1 else ""
    return more + (f", least={dict(least)}" if least else "")


Rule = Threshold | PublishedSize | Size | Tolerance


def threshold(
    rate: float,
    layers: int | float | Literal["optimal"] = "optimal",
    *,
    greedy: bool = False,
    gain: Literal["reads", "published"] = "reads",
) -> Threshold:
    """Folds units whose activation rate is at least ``rate``, by the published method.

    For the set S of a layer's units with ``r ≥ rate``, ``σ(z_S)`` is replaced by ``z_S``:
    a residual kernel ``W[:, S] W'[S, :]`` carries them past the activation, and S is
    dropped. That saves ``(p + q + 1) |S| − p q`` parameters, p counting every feature
    that the layer reads, those on a residual path too.

    Args:
      rate: activation rate in [0, 1].
      layers: which layers fold: those with at least so many such units (int), with at
        least this share of them (float), or those where it saves parameters.
      greedy: fold the layer that saves most first and work the savings out anew, instead
        of going from the first layer to the last.
      gain: ``"reads"``, or ``"published"`` to count, as the authors' code does, a residual
        kernel's output width where its input width is meant.

    Returns:
      A rule for :func:`fold`.

    Raises:
      LinjaxError: if rate or layers is out of range.

    References:
      Dobler and Lemmerich, Linearity-based neural network compression, 2025,
      arXiv 2506.21146.

    Example:
      >>> import linjax
      >>> linjax.threshold(0.95).layers
      'optimal'
    """
    _unit("rate", rate)
    if isinstance(layers, str):
        if layers != "optimal":
            raise LinjaxError(f"layers = {layers!r}, expected an int, a float or 'optimal'")
    elif not is_number(layers) or not layers >= 0 or (isinstance(layers, float) and layers > 1):
        raise LinjaxError(f"layers = {layers!r}, expected a count ≥ 0 or a share in [0, 1]")
    _among("gain", gain, ("reads", "published"))
    return Threshold(float(rate), layers, greedy, gain)


def published_size(
    fraction: float,
    *,
    greedy: bool = False,
    counted: Literal["inference", "without_first"] = "inference",
    gain: Literal["reads", "published"] = "reads",
) -> PublishedSize:
    """Lowers the published rule's threshold until a share of the parameters is met.

    Args:
      fraction: share of the parameters, in (0, 1].
      greedy: as for :func:`threshold`.
      counted: what a size counts: everything that inference needs, or, as the authors'
        fixed-size variant, everything but the first layer.
      gain: as for :func:`threshold`.

    Returns:
      A rule for :func:`fold`.

    Raises:
      LinjaxError: if fraction is out of range.

    Example:
      >>> import linjax
      >>> linjax.published_size(0.75).fraction
      0.75
    """
    _share("fraction", fraction)
    _among("counted", counted, ("inference", "without_first"))
    _among("gain", gain, ("reads", "published"))
    return PublishedSize(float(fraction), greedy, counted, gain)


def size(
    fraction: float, *, round_to: int = 1,
    of: Literal["parameters", "flops", "bytes"] = "parameters",
    least: Mapping[str, float] | None = None,
) -> Size:  # fmt: skip
    """Asks for a share of the parameters, or of the operations or bytes.

    Args:
      fraction: share of the original's, in (0, 1].
      round_to: of units, of linear ones and of ranks a multiple of this is kept, for hardware, or
        none, or all that there are.
      of: what is counted: parameters; multiplications and additions of all products, for
        inputs as traced; or bytes of the parameters.
      least: what stays at least, by pattern of the layers' names as ``print(net)`` shows them
        (``*`` stands for anything): a share of its units up to 1, which leaves all of them, or a
        number of units; linear ones count. Of units that several layers make together (queries and
        keys, gates) each layer's name will do; a stream that many add to has one of its own.
        Kernels of these layers aren't factored, either.

    Returns:
      A rule for :func:`fold` and :func:`compress`.

    Raises:
      LinjaxError: if an argument is out of range.

    Example:
      >>> import linjax
      >>> linjax.size(0.1)
      size(0.1)
      >>> linjax.size(0.1, least={"decoder/*": 1.0, "encoder/*": 64})
      size(0.1, least={'decoder/*': 1.0, 'encoder/*': 64.0})
    """
    _share("fraction", fraction)
    round_to = whole("round_to", round_to, 1)
    _among("of", of, ("parameters", "flops", "bytes"))
    return Size(float(fraction), round_to, of, _least(least))


def tolerance(
    error: float, *, round_to: int = 1, least: Mapping[str, float] | None = None
) -> Tolerance:
    """Asks for the smallest network with at most this relative output error.

    Args:
      error: root of the mean squared output error over that of the outputs' variation, in
        the output metric of the evidence, ≥ 0; predicted from the calibration set by
        :func:`fold`, measured on held-out rows by :func:`compress`.
      round_to: of units, of linear ones and of ranks a multiple of this is kept, for hardware, or
        none, or all that there are.
      least: what stays at least, as for :func:`size`.

    Returns:
      A rule for :func:`fold` and :func:`compress`.

    Raises:
      LinjaxError: if an argument is out of range.

    Example:
      >>> import linjax
      >>> linjax.tolerance(0.01).error
      0.01
    """
    if not is_number(error) or not 0 <= error < float("inf"):
        raise LinjaxError(f"error = {error!r}, expected a number ≥ 0")
    round_to = whole("round_to", round_to, 1)
    return Tolerance(float(error), round_to, _least(least))


def planned(rule: Any) -> None:
    """Checks that a rule is one that plans are made for.

    Raises:
      LinjaxError: if it isn't.
    """
    if not isinstance(rule, Size | Tolerance):
        raise LinjaxError(
            f"{rule!r}: expected linjax.size(...) or linjax.tolerance(...); published rules are "
            "for linjax.fold(params, stats, rule)"
        )


def unmet(rule: Size, least: float) -> LinjaxError:
    """The error for a size below the smallest network that there is.

    Args:
      rule: what was asked for.
      least: share that the smallest network has.
    """
    return LinjaxError(
        f"{rule}: the smallest network that there is has {least:.3g} of the {rule.of} (print "
        f"the net to see what folds); ask for linjax.size({above(least)}) or more"
    )


def above(share: float) -> str:
    """A share in three digits, rounded up, at most one."""
    unit = 10.0 ** (math.floor(math.log10(max(share, 1e-12))) - 2)
    return f"{min(math.ceil(share / unit - 1e-9) * unit, 1.0):.3g}"


def stays(least: Least, name: str, width: int) -> int:
    """How many of a layer's units stay at least, by the strictest pattern; 0 if there is none."""
    own = [value for pattern, value in least if fnmatch.fnmatchcase(name, pattern)]
    counts = (math.ceil(value * width) if value <= 1 else int(value) for value in own)
    return min(max(counts, default=0), width)


def _least(least: Mapping[str, float] | None) -> Least:
    if not isinstance(least, Mapping | None):
        raise LinjaxError(f"least = {least!r}, expected a dict of names, as {{'decoder/*': 1.0}}")
    pairs = (least or {}).items()
    for name, value in pairs:
        if not is_number(value) or not (0 < value <= 1 or (1 < value < math.inf and not value % 1)):
            raise LinjaxError(
                f"least[{name!r}] = {value!r}, expected a share in (0, 1] or a number of units"
            )
    return tuple((str(name), float(value)) for name, value in pairs)


def unmatched(least: Least, names: Iterable[str]) -> None:
    """Checks that every pattern is of some layer.

    Raises:
      LinjaxError: naming one that isn't, and what there is.
    """
    known = sorted(set(names))
    for pattern, _ in least:
        if not fnmatch.filter(known, pattern):
            close = difflib.get_close_matches(pattern, known, 3, 0.0) or known[:3]
            raise LinjaxError(
                f"least: no layer is called {pattern!r}; there are {len(known)}, such as "
                f"{', '.join(close)} (print the net to see them)"
            )


def _among(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LinjaxError(f"{name} = {value!r}, expected {' or '.join(map(repr, known))}")


def _unit(name: str, value: float) -> None:
    if not is_number(value) or not 0 <= value <= 1:
        raise LinjaxError(f"{name} = {value!r}, expected a number in [0, 1]")


def _share(name: str, value: float) -> None:
    if not is_number(value) or not 0 < value <= 1:
        raise LinjaxError(f"{name} = {value!r}, expected a share in (0, 1]")
