"""Measures one trained network by every rule: a row each."""

from collections.abc import Iterator
from typing import Any

import linjax
from experiments import evaluate, exact, layers, methods
from experiments.data import Dataset
from experiments.journal import NETWORK, Row
from experiments.methods import Subject
from experiments.models import Params
from linjax import baselines


def subject(net: linjax.Net, params: Params, dataset: Dataset, config: Any) -> Subject:
    """A trained network, to be calibrated on training rows as its config says.

    ``calibration``; ``rules_of``, what sizes are shares of; ``certify_seconds`` for proofs about
    units, on the ``box`` ``"data"`` that the training rows span or the ``"unit"`` box.
    """
    x, (rows, batch) = dataset.train.x, (config.calibration.rows, config.calibration.batch)
    box = (0.0, 1.0) if config.get("box", "data") == "unit" else (x.min(0), x.max(0))
    of, seconds = config.get("rules_of", "whole"), config.get("certify_seconds", 0.0)
    return Subject(net, params, x[:rows], batch, of, box, seconds, dataset, config)


def rows(
    task: Row, own: Subject, dataset: Dataset, config: Any, missing: list[tuple[str, float]]
) -> Iterator[Row]:
    """Yields a row for each of some rules and amounts, measured on the test rows.

    Where a rule fails its row holds the ``failure`` instead of figures.

    Args:
      task: the network's settings.
      own: the network.
      dataset: its data.
      config: ``latency``, batch sizes to time, in ``runtime``; ``certify_seconds`` for proofs
        about the original, and ``programs`` beside them.
      missing: rules and amounts.
    """
    if not missing:
        return
    test = dataset.test
    original = evaluate.predict(own.net.apply, own.params, test.x)
    y = test.y if config.dataset.get("labels", True) else original.argmax(-1)
    timed, runtime = config.get("latency", ()), config.get("runtime", "jax")
    whole = evaluate.compiled(own.net, own.params, runtime) if timed else None
    for rule, amount in missing:
        row: Row = {"task": task, "rule": rule, "amount": amount}
        try:
            small = methods.make(own, rule, amount)
            net, small = small if isinstance(small, methods.Rewritten) else (own.net, small)
            logits = evaluate.predict(net.apply, small, test.x)
            row |= {
                "parameters": linjax.count(small),
                "share": linjax.count(small) / linjax.count(own.params),
                "flops": net.flops(small, test.x[:1]),
                "bytes": baselines.stored_bytes(small, methods.bits_of(rule)),
                "classes": dataset.classes,
                "predicted": methods.predicted(own, rule, amount),
                "error": evaluate.relative_error(logits, original),
                **evaluate.measure(logits, original, y),
                **layers.describe(net, small),
            }
            if rule == "original":
                row["rates"] = layers.histograms(own.rates.rates)
                if config.get("certify_seconds", 0):
                    row["proven"] = exact.proven(own, config.get("programs", False))
            if timed:
                one = evaluate.compiled(net, small, runtime)
                row["latency"] = evaluate.latencies(one, whole, test.x, timed)
        except Exception as error:  # whatever it is, the other rules go on
            row = failed(task, error, rule, amount)
        yield row


def failed(task: Row, error: BaseException, rule: str = NETWORK, amount: float = 0.0) -> Row:
    """The row of what went wrong; by default of a network that couldn't be trained or scored."""
    failure = f"{type(error).__name__}: {error}"
    return {"task": task, "rule": rule, "amount": amount, "failure": failure}


def sentence(row: Row) -> str:
    """What a run says about a row."""
    if "failure" in row:
        return f"failed: {row['task']} {row['rule']}: {row['failure']}"
    return (
        f"{row['rule']} {row['amount']:g}: {row['parameters']:,} parameters "
        f"({row['share']:.1%}), accuracy {row['accuracy']:.4f}, agreement {row['agreement']:.4f}"
    )
