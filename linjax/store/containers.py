"""The containers of a pytree as JSON: dicts, lists, tuples, None, and leaves by number."""

from collections.abc import Sequence
from typing import Any

import jax

from linjax.errors import StoreError

NONE = "none"


def skeleton(tree: Any) -> Any | None:
    """Returns a pytree's containers as JSON, its leaves numbered as JAX numbers them.

    None if there are containers of other kinds: they need their class to be rebuilt.

    Example:
      >>> skeleton({"b": (1.0, None), "a": [2.0]})
      {'dict': [['a', {'list': [0]}], ['b', {'tuple': [1, 'none']}]]}
    """
    leaves, structure = jax.tree.flatten(tree)
    try:
        return _outline(jax.tree.unflatten(structure, range(len(leaves))))
    except TypeError:
        return None


def _outline(node: Any) -> Any:
    if type(node) is int:
        return node
    if node is None:
        return NONE
    if type(node) is dict and all(type(key) in (str, int) for key in node):
        return {"dict": [[key, _outline(node[key])] for key in sorted(node)]}
    if type(node) in (list, tuple):
        return {type(node).__name__: [_outline(item) for item in node]}
    raise TypeError(type(node).__name__)


def rebuild(outline: Any, leaves: Sequence[Any], where: str) -> Any:
    """Puts leaves into the containers that :func:`skeleton` described.

    Raises:
      StoreError: if the description makes no sense, or not for so many leaves.

    Example:
      >>> rebuild({"list": [{"tuple": [1, 0]}, "none"]}, "xy", "inputs")
      Traceback (most recent call last):
      linjax.errors.StoreError: inputs: its leaves aren't numbered in order
      >>> rebuild({"list": [{"tuple": [0, 1]}, "none"]}, "xy", "inputs")
      [('x', 'y'), None]
    """
    try:
        tree = _build(outline)
        order = jax.tree.leaves(tree)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not the containers of a pytree") from error
    if order != list(range(len(leaves))):
        raise StoreError(f"{where}: its leaves aren't numbered in order")
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _build(outline: Any) -> Any:
    if type(outline) is int:
        return outline
    if outline == NONE:
        return None
    ((kind, items),) = dict(outline).items()
    if kind == "dict":
        tree = {key: _build(item) for key, item in items if type(key) in (str, int)}
        if len(tree) != len(items):
            raise ValueError("a key twice, or of another type")
        return tree
    return {"list": list, "tuple": tuple}.get(kind, _unknown)(map(_build, items))


def _unknown(items: Any) -> Any:
    raise ValueError("a container of another kind")
