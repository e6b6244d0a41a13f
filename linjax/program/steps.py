"""Operations by which derivatives are lost, and functions that have derivatives of their own."""

from collections.abc import Iterator, Mapping
from typing import Any

from linjax.program import compat

FLAT = frozenset(("round", "floor", "ceil", "sign", "nextafter"))
COMPARED = frozenset(("gt", "ge", "lt", "le"))
_ONE_WAY = ("while", "cond", "scan", "custom_", "call", "random", "argm")
"""Parts of names of what is run in a way of its own (``pallas_call``, callbacks), or chooses."""


def has_own(params: Mapping[str, Any]) -> bool:
    """Whether parameters are of a function with a derivative of its own (``custom_vjp``)."""
    return "fwd_jaxpr_thunk" in params


def computed(params: Mapping[str, Any]) -> Any:
    """Returns what a function with a derivative of its own computes, as a jaxpr.

    None where that has no derivative either, or none that tells as much: it rounds, it compares,
    it loops, it calls what isn't JAX.
    """
    (body,) = bodies(params)
    for name in names(body.jaxpr):
        if name in FLAT | COMPARED or any(part in name for part in _ONE_WAY):
            return None
    return body


def bodies(params: Mapping[str, Any]) -> list[Any]:
    """Jaxprs that an operation runs, closed or not: branches, regions, functions."""
    found = []
    for value in params.values():
        for body in value if isinstance(value, tuple | list) else (value,):
            if isinstance(body, compat.ClosedJaxpr | compat.Jaxpr):
                found.append(body)
    return found


def names(jaxpr: Any) -> Iterator[str]:
    """Names of a jaxpr's primitives, and of what these run."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for body in bodies(eqn.params):
            yield from names(body.jaxpr if isinstance(body, compat.ClosedJaxpr) else body)
