"""How much of a network can become smaller, before anything is measured."""

from linjax.dims.coverage import Shares, shares
from linjax.evidence.given import as_net
from linjax.net import Net

__all__ = ["Shares", "coverage"]


def coverage(net: Net) -> Shares:
    """Returns which shares of a network's parameters its sites reach.

    A parameter is reached where its leaf has a dimension of some site, whether or not anything
    folds along it in the end. No data are needed.

    Args:
      net: the traced network.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2)), "idle": jnp.ones(20)}
      >>> linjax.coverage(linjax.trace(apply, params, jnp.ones((1, 3))))
      Shares(parameters=20, bent=1.0, straight=1.0, normed=1.0, foldable=1.0, inside=1.0)
    """
    as_net(net)
    return shares(net.network)
