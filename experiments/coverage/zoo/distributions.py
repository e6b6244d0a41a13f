"""Normalising flows of FlowJAX and distrax: the density of a point under them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.coverage.zoo.registry import Built, filled, model, models, normal


def flow(kind: str, **options: Any) -> Built:
    """The log density of one of FlowJAX's flows; its arrays are the parameters."""
    import equinox
    import paramax
    from flowjax import flows
    from flowjax.distributions import Normal

    make = getattr(flows, kind)
    net = make(jax.random.key(0), base_dist=Normal(jnp.zeros(6)), **options)
    # Distributions and masks aren't trained: they are wrapped, and stay constants.
    arrays, rest = equinox.partition(
        net, equinox.is_inexact_array, is_leaf=lambda x: isinstance(x, paramax.NonTrainable)
    )
    noise = np.random.default_rng(0)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return paramax.unwrap(equinox.combine(params, rest)).log_prob(x)

    spread = jax.tree.map(lambda a: a + 0.1 * noise.normal(size=a.shape).astype(a.dtype), arrays)
    return apply, spread, (normal(4, 6),)


@model("distrax_realnvp", "distrax")
def realnvp() -> Built:
    import distrax
    from flax import linen as nn

    class Conditioner(nn.Module):
        """What a coupling scales and shifts by."""

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for _ in range(2):
                x = nn.relu(nn.Dense(32)(x))
            return nn.Dense(12)(x).reshape(*x.shape[:-1], 6, 2)

    net = Conditioner()
    shapes = jax.eval_shape(net.init, jax.random.key(0), normal(4, 6))

    def bijector(values: jax.Array) -> Any:
        return distrax.ScalarAffine(shift=values[..., 0], log_scale=jnp.tanh(values[..., 1]))

    def apply(params: list, x: jax.Array) -> jax.Array:
        layers = []
        for k, p in enumerate(params):
            mask = np.arange(6) % 2 == k % 2

            def condition(y: jax.Array, p: Any = p) -> Any:
                return net.apply(p, y)

            layers.append(distrax.MaskedCoupling(mask, condition, bijector))
        base = distrax.MultivariateNormalDiag(jnp.zeros(6), jnp.ones(6))
        return distrax.Transformed(base, distrax.Chain(layers)).log_prob(x)

    return apply, [filled(shapes, k) for k in range(3)], (normal(4, 6),)


models(
    "flowjax",
    flowjax_coupling=lambda: flow("coupling_flow", flow_layers=2, nn_width=24, nn_depth=2),
    flowjax_maf=lambda: flow("masked_autoregressive_flow", flow_layers=2, nn_width=24, nn_depth=2),
)
