"""A small network, saved: what most tests of the store begin with."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from tests.arrays import placed


def apply_fn(params: dict[str, Any], x: Any) -> Any:
    h = jax.nn.relu(x @ params["first"]["w"] + params["first"]["b"])
    h = jax.nn.gelu(h @ params["second"]["w"] + params["second"]["b"])
    return h @ params["last"]["w"]


def network(width: int = 24, dtype: Any = jnp.float32) -> tuple[Any, Any, Any]:
    """Returns a network, its parameters, and inputs."""
    rng = np.random.default_rng(0)

    def leaf(*shape: int) -> Any:
        return placed(rng.normal(size=shape) / np.sqrt(shape[0]), dtype)

    params = {
        "first": {"w": leaf(6, width), "b": leaf(width)},
        "second": {"w": leaf(width, width), "b": leaf(width)},
        "last": {"w": leaf(width, 3)},
    }
    x = placed(rng.normal(size=(64, 6)), dtype)
    return linjax.trace(apply_fn, params, x[:1]), params, x


@functools.cache
def folded() -> tuple[Any, Any, Any, Any]:
    """Returns a network, folded parameters, inputs and the fold's report."""
    net, params, x = network()
    stats = linjax.collect(net, params, [x])
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.3))
    return net, small, x, report


def narrowed(params: Any, width: int) -> Any:
    """The first units of each layer: what a fold that drops the others would return."""
    first, second, last = params["first"], params["second"], params["last"]
    return {
        "first": {"w": first["w"][:, :width], "b": first["b"][:width]},
        "second": {"w": second["w"][:width, :width], "b": second["b"][:width]},
        "last": {"w": last["w"][:width]},
    }
