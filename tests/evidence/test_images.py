"""How outputs that are images themselves depend on channels: against Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.evidence.channels import alike
from tests.properties.convnets import convolve


def apply(p, x):
    """Three convolutions: an image of one channel."""
    h = jax.nn.relu(convolve(x, p["a"], None, 1, 3))
    return convolve(jax.nn.relu(convolve(h, p["b"], None, 1, 3)), p["c"], None, 1, 3)


def test_sensitivities_of_images_count_every_output_by_itself():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 1, 5), "b": (3, 3, 5, 4), "c": (3, 3, 4, 1)}
    params = {name: jnp.asarray(rng.normal(size=s) / 3, jnp.float32) for name, s in shapes.items()}
    x = jnp.asarray(rng.normal(size=(120, 5, 5, 1)), jnp.float32)
    net = linjax.trace(apply, params, x[:2])
    batches = [x[i : i + 20] for i in range(0, 120, 20)]
    stats = linjax.collect(net, params, batches, metric="identity")

    def tail(z):
        return convolve(jax.nn.relu(z), params["c"], None, 1, 3)[0, ..., 0].reshape(-1)

    z = convolve(jax.nn.relu(convolve(x, params["a"], None, 1, 3)), params["b"], None, 1, 3)
    jacobians = jax.vmap(jax.jacrev(lambda z: tail(z[None])))(z).reshape(120, 25, 25, 4)
    each = np.einsum("noqc,noqd->cd", jacobians, jacobians) / 120
    effects = np.einsum("noqc,nqc->noq", jacobians, (z - z.mean((0, 1, 2))).reshape(120, 25, 4))
    whole = np.sum(effects.sum(2) ** 2) / np.sum(effects**2)
    want = each * alike(np.array([whole, 1.0]))
    (moments,) = stats.channels[0].readings
    np.testing.assert_allclose(moments.sensitivity[0], want, atol=0.06 * np.abs(want).max())
