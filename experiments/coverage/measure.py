"""What of an architecture linjax can fold, read from its trace."""

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax

import linjax
from experiments.coverage.zoo import Model


class Shares(NamedTuple):
    """What of a network's parameters can fold.

    Attributes:
      parameters: how many it has.
      foldable: share of those in leaves with a dimension that can fold; None if unknown.
      kinds: the same, by the kind of the dimension; a leaf may be of several.
    """

    parameters: int
    foldable: float | None = None
    kinds: Mapping[str, float] = {}


class Measurement(NamedTuple):
    """A row of the report.

    Attributes:
      model: the architecture.
      shares: what of it can fold; None where it couldn't be traced.
      seconds: how long tracing took.
      error: why it couldn't be traced or built; empty if it could.
    """

    model: Model
    shares: Shares | None
    seconds: float
    error: str = ""


def share_of(net: linjax.Net) -> Shares:
    """The shares of a traced network."""
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(net.template)]
    coverage = getattr(net, "coverage", None)
    if coverage is None:
        return Shares(sum(sizes))
    return Shares(sum(sizes), coverage.foldable, coverage.kinds)


def measure(model: Model) -> Measurement:
    """Builds and traces an architecture; what goes wrong is the row's error."""
    start = time.perf_counter()
    try:
        apply, params, inputs = model.build()
        start = time.perf_counter()
        net = linjax.trace(apply, params, *inputs)
        seconds = time.perf_counter() - start
        return Measurement(model, share_of(net), seconds)
    except Exception as error:
        # One network of a hundred may fail in any way: the others' rows are still wanted.
        line = next(iter(str(error).splitlines()), "")
        reason = f"{type(error).__name__}: {line}"
        return Measurement(model, None, time.perf_counter() - start, reason)
