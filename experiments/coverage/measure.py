"""What of an architecture linjax can fold, read from its trace."""

import time
from typing import NamedTuple

import linjax
from experiments.coverage.zoo import Model


class Measurement(NamedTuple):
    """A row of the report.

    Attributes:
      model: the architecture.
      shares: what of it can fold; None where it couldn't be traced.
      seconds: how long tracing took.
      error: why it couldn't be traced or built; empty if it could.
    """

    model: Model
    shares: linjax.Shares | None
    seconds: float
    error: str = ""


def measure(model: Model) -> Measurement:
    """Builds and traces an architecture; what goes wrong is the row's error."""
    start = time.perf_counter()
    try:
        apply, params, inputs = model.build()
        start = time.perf_counter()
        net = linjax.trace(apply, params, *inputs)
        seconds = time.perf_counter() - start
        return Measurement(model, linjax.coverage(net), seconds)
    except Exception as error:
        # One network of a hundred may fail in any way: the others' rows are still wanted.
        line = next(iter(str(error).splitlines()), "")
        reason = f"{type(error).__name__}: {line}"
        return Measurement(model, None, time.perf_counter() - start, reason)
