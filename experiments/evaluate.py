"""How good a network is, and how far from the one it was made of."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import linjax
from experiments.data import batches
from experiments.models import Params


def predict(apply: Callable, params: Params, x: np.ndarray, size: int = 1000) -> np.ndarray:
    """Returns logits for all rows, computed ``size`` rows at a time."""
    size = min(size, len(x))
    # The last batch is filled up, so that one compilation serves all.
    rows = np.concatenate([x, np.zeros((-len(x) % size, *x.shape[1:]), x.dtype)])
    run = jax.jit(apply)
    return np.concatenate([run(params, batch) for batch in batches(rows, size)])[: len(x)]


def measure(logits: np.ndarray, original: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Returns figures of merit of logits (n, classes), for text (n, length, classes).

    These are ``accuracy`` by the true classes ``y``, (n,) or (n, length); ``balanced_accuracy``,
    the mean over classes of the share of each that is recognised; ``agreement``, the share of
    rows with the class of ``original``, logits of the network that these were made of;
    ``cross_entropy`` and ``divergence``, the original's from these, in nats; for text
    ``perplexity``.

    >>> logits = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    >>> measure(logits, logits, np.array([0, 1, 1]))["balanced_accuracy"]
    0.75
    """
    text = logits.ndim > 2
    logits, original = (x.reshape(-1, x.shape[-1]) for x in (logits, original))
    y = y.reshape(-1)
    classes = logits.argmax(-1)
    right = classes == y
    logs, wanted = (np.asarray(jax.nn.log_softmax(x)) for x in (logits, original))
    cross_entropy = float(-logs[np.arange(len(y)), y].mean())
    perplexity = {"perplexity": float(np.exp(cross_entropy))} if text else {}
    return perplexity | {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean([right[y == c].mean() for c in np.unique(y)])),
        "agreement": float((classes == original.argmax(-1)).mean()),
        "cross_entropy": cross_entropy,
        "divergence": float(np.sum(np.exp(wanted) * (wanted - logs), axis=-1).mean()),
    }


def compiled(net: linjax.Net, params: Params, runtime: str) -> Callable[[np.ndarray], Any]:
    """A network as a function of its inputs alone: by ``"jax"``, or exported for ``"onnx"``."""
    if runtime == "jax":
        return functools.partial(jax.jit(net.apply), params)
    import onnxruntime

    @functools.cache
    def session(rows: int) -> Any:  # the converter knows some operations at one batch size only
        x = jax.ShapeDtypeStruct((rows, *net.example[0].shape[1:]), net.example[0].dtype)
        code = linjax.to_onnx(linjax.trace(net.apply_fn, net.template, x), params)
        return onnxruntime.InferenceSession(code, providers=["CPUExecutionProvider"])

    def run(x: np.ndarray) -> Any:
        own = session(len(x))
        return own.run(None, {own.get_inputs()[0].name: x})

    return run


def latencies(
    one: Callable, other: Callable, x: np.ndarray, sizes: Sequence[int]
) -> dict[str, list[float]]:
    """Milliseconds of a call by batch size, of a network and of the one it was made of."""
    calls = {size: [functools.partial(run, x[:size]) for run in (one, other)] for size in sizes}
    return {str(size): [1e3 * s for s in medians(*own, runs=25)] for size, own in calls.items()}


def medians(*functions: Callable[[], Any], runs: int = 7) -> list[float]:
    """Times functions in turn, so that the machine's drift hits all alike; after a warm-up."""
    seconds = np.zeros((runs + 1, len(functions)))
    for taken in seconds:
        for n, function in enumerate(functions):
            start = time.perf_counter()
            jax.block_until_ready(function())
            taken[n] = time.perf_counter() - start
    return np.median(seconds[1:], axis=0).tolist()
