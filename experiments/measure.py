"""Measures one trained network by every rule: a row each."""

from collections.abc import Iterator

import linjax
from experiments import evaluate, exact, layers, methods
from experiments.journal import NETWORK, Row
from experiments.methods import Subject
from linjax import baselines


def rows(task: Row, own: Subject, missing: list[tuple[str, float]]) -> Iterator[Row]:
    """Yields a row for each of some rules and amounts, measured on the test rows.

    Where a rule fails its row holds the ``failure`` instead of figures. The config may ask for
    ``latency``, batch sizes to time, in a ``runtime``; ``certify_seconds`` for proofs about the
    original, and ``programs`` beside them.
    """
    if not missing:
        return
    config, test = own.config, own.dataset.test
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
                "classes": own.dataset.classes,
                "predicted": methods.predicted(own, rule, amount),
                "error": linjax.relative_error(original, logits, metric="softmax"),
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
