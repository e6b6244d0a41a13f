"""Random keys among the parameters, as dropout leaves them in NNX, pass through everything."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

import linjax


def test_keys_pass_through():
    rng = np.random.default_rng(0)
    params = {
        "in": jnp.asarray(rng.normal(size=(4, 24)), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(24, 3)), jnp.float32),
        "rngs": {"count": jnp.uint32(3), "key": jax.random.key(7)},
    }
    x = jnp.asarray(rng.normal(size=(200, 4)), jnp.float32)
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"], params, x)
    stats = linjax.collect(net, params, [x])
    small = linjax.fold(params, stats, linjax.size(0.6))
    found = [small, linjax.compress(net, params, [x], linjax.size(0.6))]
    found.append(linjax.recover(net, params, small, [x]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        found.append(linjax.lump(net, params))
    for tree in found:
        assert tree["rngs"]["key"] == params["rngs"]["key"]
        assert tree["rngs"]["count"] == 3
        assert jax.jit(net.apply)(tree, x).shape == (200, 3)
