"""A function without what it says of devices: a stored program runs on any single one."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from linjax.graph import compat
from linjax.program.flat import PLACES

_SHARDINGS = ("in_shardings", "out_shardings")


def unplaced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function with the same values that asks for no places of arrays.

    Sharding constraints and transfers between devices change where values are, not what they
    are. What runs on several devices at once (``shard_map``) stays as it is.

    Example:
      >>> import jax.numpy as jnp
      >>> here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
      >>> function = lambda x: jax.lax.with_sharding_constraint(2 * x, here) + 1
      >>> "sharding_constraint" in str(jax.make_jaxpr(unplaced(function))(jnp.ones(3)))
      False
    """

    def run(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        plain = compat.ClosedJaxpr(_plain(closed.jaxpr), list(map(_here, closed.consts)))
        found = compat.jaxpr_as_fun(plain)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return run


def _here(const: Any) -> Any:
    """A captured value without the devices that it is spread over."""
    spread = isinstance(const, jax.Array) and len(const.sharding.device_set) > 1
    return np.asarray(const) if spread else const


@functools.cache
def _anywhere() -> dict[str, Any]:
    """What a ``jit`` that says nothing of places says in its equation."""
    (eqn,) = jax.make_jaxpr(jax.jit(lambda x: x + 1))(0.0).jaxpr.eqns
    return {name: eqn.params[name] for name in ("ctx_mesh",) if name in eqn.params} | {
        name: eqn.params[name][0] for name in _SHARDINGS if name in eqn.params
    }


def _plain(jaxpr: Any) -> Any:
    return jaxpr.replace(eqns=[own for eqn in jaxpr.eqns for own in _equations(eqn)])


def _equations(eqn: Any) -> list[Any]:
    """An equation without places."""
    if eqn.primitive.name in PLACES:
        return [
            eqn.replace(
                primitive=lax.convert_element_type_p, invars=[own], outvars=[out], effects=set(),
                params={"new_dtype": out.aval.dtype, "weak_type": False, "sharding": None},
            )
            for own, out in zip(eqn.invars, eqn.outvars, strict=True)
        ]  # fmt: skip
    params = {name: _within(value) for name, value in eqn.params.items()}
    if _SHARDINGS[0] in params:
        for name, value in _anywhere().items():
            params[name] = (value,) * len(params[name]) if name in _SHARDINGS else value
    return [eqn.replace(params=params)]


def _within(value: Any) -> Any:
    """A parameter of an equation; jaxprs in it are without places, too."""
    if isinstance(value, compat.ClosedJaxpr):
        return value.replace(jaxpr=_plain(value.jaxpr))
    if isinstance(value, compat.Jaxpr):
        return _plain(value)
    if type(value) in (tuple, list):
        return type(value)(map(_within, value))
    return value
