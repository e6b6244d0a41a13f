"""Rows as measuring makes them, for tests of tables, charts and reports."""

RULES = {"threshold": (0.5, 0.1), "size": (0.25, 0.1, 0.01)}


def row(rule, amount, share, accuracy, task=None, **fields):
    return {
        "task": task or {}, "rule": rule, "amount": amount, "parameters": round(4000 * share),
        "share": share, "flops": 8e6 * share, "bytes": 16000 * share, "classes": 10,
        "accuracy": accuracy, "balanced_accuracy": accuracy - 0.003,
        "agreement": min(1.0, accuracy + 0.02), "cross_entropy": 0.3, "divergence": 0.1,
        "predicted": 0.2 - share / 10 if rule == "size" else None, "error": 0.21 - share / 10,
        "layers": ["in", "middle"], "units": [max(1, round(64 * share)), 3], "linear": [0, 3],
        "bottleneck": [2, 0], **fields,
    }  # fmt: skip


def measured(seed=0, task=None):
    """The rows of a network: its own and some of two rules."""
    original = row("original", 1.0, 1.0, 0.97 + seed / 1000, task, units=[64, 32], linear=[0, 0],
                   bottleneck=[0, 0], rates={"in": [3] * 20, "middle": [1] * 20})  # fmt: skip
    small = [
        row(rule, amount, amount * 0.99, 0.97 - 0.02 * (1 - amount) + seed / 2000, task)
        for rule, amounts in RULES.items() for amount in amounts
    ]  # fmt: skip
    return [original, *small]


def swept():
    """Those of five seeds, and one that failed."""
    rows = [r for seed in range(5) for r in measured(seed, {"seed": seed, "dataset.name": "d"})]
    failure = {"task": {"seed": 9}, "rule": "network", "amount": 0.0, "failure": "gone <away>"}
    return [*rows, failure]
