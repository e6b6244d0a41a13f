"""Small networks and data for tests of folding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from tests.arrays import placed


def dense(widths, seed=0, activation=jax.nn.relu, dtype=jnp.float32, scale=1.0):
    """Returns an apply function and random parameters of a multilayer perceptron."""
    rng = np.random.default_rng(seed)
    params = {}
    for i, (p, q) in enumerate(itertools.pairwise(widths)):
        kernel = scale * rng.normal(size=(p, q)) * np.sqrt(2.0 / max(p, 1))
        params[f"layer_{i}"] = {
            "kernel": placed(kernel, dtype),
            "bias": placed(0.1 * rng.normal(size=q), dtype),
        }
    last = len(widths) - 2

    def apply(params, x):
        for i in range(last + 1):
            x = x @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"]
            x = activation(x) if i < last else x
        return x

    return apply, params


def rows(count, features, seed=1, dtype=jnp.float32):
    """Returns correlated random inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, features)) @ rng.normal(size=(features, features))
    return placed(x / np.sqrt(features), dtype)


def traced(widths, count=400, batch=100, metric="softmax", **options):
    """Returns a traced random network, its parameters, batches and evidence."""
    apply, params = dense(widths, **options)
    x = rows(count, widths[0], dtype=options.get("dtype", jnp.float32))
    batches = [x[i : i + batch] for i in range(0, count, batch)]
    net = linjax.trace(apply, params, x)
    return net, params, batches, linjax.collect(net, params, batches, metric=metric)
