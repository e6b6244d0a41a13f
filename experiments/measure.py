"""Measures one trained network by every rule: a row each."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import linjax
from experiments import evaluate, exact, layers, methods
from experiments.data import Dataset
from experiments.journal import NETWORK, Row
from experiments.models import Params
from linjax import baselines


class Measured(NamedTuple):
    """A trained network to be measured.

    Attributes:
      task: its settings.
      net: the network, traced.
      params: its parameters.
      dataset: test rows measure, training rows calibrate.
      config: ``calibration``; ``rules_of``, what sizes are shares of; ``certify_seconds`` for
        proofs about units, on the ``box`` ``"data"`` that the training rows span or the
        ``"unit"`` box, and ``programs`` beside them; ``latency``, batch sizes to time, in
        ``runtime``.
      extra: what the network's study knows of it, for methods of its own.
    """

    task: Row
    net: linjax.Net
    params: Params
    dataset: Dataset
    config: Any
    extra: Any = None

    def subject(self) -> methods.Subject:
        """The network with its evidence."""
        config, x = self.config, self.dataset.train.x
        box = (0.0, 1.0) if config.get("box", "data") == "unit" else (x.min(0), x.max(0))
        return methods.Subject(
            self.net, self.params, x[: config.calibration.rows], config.calibration.batch,
            config.get("rules_of", "whole"), box, config.get("certify_seconds", 0.0), self.extra,
        )  # fmt: skip


def rows(measured: Measured, missing: list[tuple[str, float]]) -> Iterator[Row]:
    """Yields a row for each of some rules and amounts.

    Where a rule fails its row holds the ``failure`` instead of figures.
    """
    if not missing:
        return
    test, config, subject = measured.dataset.test, measured.config, measured.subject()
    original = evaluate.predict(measured.net.apply, measured.params, test.x)
    y = test.y if config.dataset.get("labels", True) else original.argmax(-1)
    timed, runtime = config.get("latency", ()), config.get("runtime", "jax")
    whole = evaluate.compiled(measured.net, measured.params, runtime) if timed else None
    for rule, amount in missing:
        row: Row = {"task": measured.task, "rule": rule, "amount": amount}
        try:
            small = methods.make(subject, rule, amount)
            net, small = small if isinstance(small, methods.Rewritten) else (measured.net, small)
            logits = evaluate.predict(net.apply, small, test.x)
            row |= {
                "parameters": linjax.count(small),
                "share": linjax.count(small) / linjax.count(measured.params),
                "flops": net.flops(small, test.x[:1]),
                "bytes": baselines.stored_bytes(small, methods.bits_of(rule)),
                "classes": measured.dataset.classes,
                "predicted": methods.predicted(subject, rule, amount),
                "error": evaluate.relative_error(logits, original),
                **evaluate.measure(logits, original, y),
                **layers.describe(net, small),
            }
            if rule == "original":
                row |= _of_the_original(subject, config)
            if timed:
                one = evaluate.compiled(net, small, runtime)
                row["latency"] = evaluate.latencies(one, whole, test.x, timed)
        except Exception as error:  # whatever it is, the other rules go on
            row = {"task": measured.task, "rule": rule, "amount": amount} | failure(error)
        yield row


def _of_the_original(subject: methods.Subject, config: Any) -> Row:
    found: Row = {"rates": layers.histograms(subject.rates.rates)}
    if config.get("certify_seconds", 0):
        found["proven"] = exact.proven(subject, config.get("programs", False))
    return found


def failure(error: BaseException) -> Row:
    """What went wrong, as a row tells it."""
    return {"failure": f"{type(error).__name__}: {error}"}


def failed(task: Row, error: BaseException) -> Row:
    """The row of a network that couldn't be trained or scored."""
    return {"task": task, "rule": NETWORK, "amount": 0.0} | failure(error)


def sentence(row: Row) -> str:
    """What a run says about a row."""
    if "failure" in row:
        return f"failed: {row['task']} {row['rule']}: {row['failure']}"
    return (
        f"{row['rule']} {row['amount']:g}: {row['parameters']:,} parameters "
        f"({row['share']:.1%}), accuracy {row['accuracy']:.4f}, agreement {row['agreement']:.4f}"
    )
