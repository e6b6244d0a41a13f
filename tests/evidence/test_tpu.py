"""What runs on devices lowers for TPUs, though there is none at hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import linjax
from linjax.evidence import moments, sensitivity
from linjax.program import pytree
from tests.fold.networks import dense, rows


def convolutional(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 1, 8), "second": (3, 3, 8, 8), "dense": (8 * 16, 12), "out": (12, 3)}
    params = {k: jnp.asarray(rng.normal(size=s) / 5, jnp.float32) for k, s in shapes.items()}

    def apply(params, x):
        for name in ("conv", "second"):
            x = jax.lax.conv_general_dilated(
                x, params[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x)
        x = x.reshape(len(x), -1)
        return jax.nn.relu(x @ params["dense"]) @ params["out"]

    return apply, params, jnp.asarray(rng.normal(size=(64, 4, 4, 1)), jnp.float32)


def perceptron():
    apply, params = dense((8, 24, 16, 3))
    return apply, params, rows(64, 8)


def lowered(function, *arguments):
    exported = export.export(jax.jit(function), platforms=["tpu"])(*arguments)
    assert exported.platforms == ("tpu",)
    assert len(exported.mlir_module_serialized) > 0


@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_statistics_and_folded_networks_lower_for_tpus(make):
    apply, params, x = make()
    net = linjax.trace(apply, params, x[:2])
    flat = pytree.flatten(params)
    network = net.network_for(flat, (x,))
    names = {"/".join(path): path for path in flat}
    lowered(
        lambda p, i: moments.batch_sums(
            network, {names[k]: v for k, v in p.items()}, i, None, True
        ), {name: flat[path] for name, path in names.items()}, [x],
    )  # fmt: skip
    lowered(
        lambda p, i: sensitivity.metric_sums(
            network, pytree.flatten(p), i, (0, 0), "softmax", None
        ), params, [x],
    )  # fmt: skip
    stats = linjax.collect(net, params, [x])
    for rule in (linjax.size(0.4), *[linjax.threshold(0.4)] * net.chained):
        small = linjax.fold(params, stats, rule)
        lowered(net.apply, small, x)
        lowered(jax.grad(lambda p: net.apply(p, x).sum()), small)
