"""Every name of JAX that isn't part of its stable public interface, in one place."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from jax import lax, typeof
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun
from jax.sharding import get_abstract_mesh
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

__all__ = [
    "ClosedJaxpr",
    "Jaxpr",
    "Literal",
    "Var",
    "bind",
    "context",
    "jaxpr_as_fun",
    "key_name",
    "scan_counts",
    "within",
]


def key_name(key: object) -> str:
    """Returns a pytree key as a plain string: dict key, index, or attribute name."""
    match key:
        case DictKey(key=name) | FlattenedIndexKey(key=name) | GetAttrKey(name=name):
            return str(name)
        case SequenceKey(idx=index):
            return str(index)
    return str(key)


def bind(primitive: Any, params: dict[str, Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Applies a primitive as an equation of a jaxpr does; always returns a tuple."""
    prepared = primitive.get_bind_params(params)
    values = _varying_alike(values)
    if isinstance(prepared, tuple):  # up to jax 0.9: functions apart from parameters
        functions, prepared = prepared
        values = (*functions, *values)
    out = primitive.bind(*values, **prepared)
    return tuple(out) if primitive.multiple_results else (out,)


def _varying_alike(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Lets operands vary over all axes of a ``shard_map`` that one does, as JAX's functions do."""
    own = [_varying(value) for value in values]
    axes: frozenset[str] = frozenset().union(*own)
    if not axes:
        return values
    pairs = zip(values, own, strict=True)
    return tuple(v if seen == axes else _vary(v, tuple(axes - seen)) for v, seen in pairs)


def _varying(value: Any) -> frozenset[str]:
    """The axes of a ``shard_map`` over which a value varies."""
    aval = typeof(value)
    found = getattr(getattr(aval, "mat", aval), "varying", None)  # from jax 0.10 on
    axes: frozenset[str] = getattr(aval, "vma", frozenset()) if found is None else found
    return axes


def _vary(value: Any, axes: tuple[str, ...]) -> Any:
    """Lets a value vary over axes of a ``shard_map``."""
    if hasattr(lax, "pcast"):
        return lax.pcast(value, axes, to="varying")
    up_to_jax_08: Any = lax
    return up_to_jax_08.pvary(value, axes)


def context(eqn: Any) -> Any:
    """Returns the mesh context that a function set for an equation, None where it set none.

    What is set around all of it is no part of it: it may run in another mesh, or in none.
    """
    found = getattr(eqn, "ctx", None)
    mesh = getattr(found, "cur_abstract_mesh", None)
    around = mesh is None or mesh.empty or mesh == get_abstract_mesh()
    return None if around else found


def within(context: Any) -> AbstractContextManager[Any]:
    """Runs what follows in a context of :func:`context`."""
    manager: AbstractContextManager[Any] = nullcontext() if context is None else context.manager
    return manager


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """Returns how many of a scan's inputs are constants, and how many it carries."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # from jax 0.12 on
    return len(consts), len(carry)
