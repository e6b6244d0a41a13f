"""What functions are given, checked before anything is done with it."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.leaves import check, check_widths
from linjax.errors import EvidenceError, LinjaxError, StructureError, warn
from linjax.evidence.stats import Stats
from linjax.net import Net
from linjax.program.pytree import flatten, join

FUNCTION = "linjax.load(path, apply_fn)"


def as_net(net: Any, *, stored: bool = False) -> None:
    """Checks that an argument is a network.

    Args:
      net: the argument.
      stored: whether one that was loaded without its function will do.

    Raises:
      LinjaxError: if it isn't, with the way out.
    """
    if isinstance(net, Net) or (stored and hasattr(net, "exported")):
        return
    if hasattr(net, "exported"):
        raise LinjaxError(
            f"net: a {type(net).__name__}, expected a network of linjax.trace; load it with its "
            f"function: {FUNCTION}"
        )
    raise LinjaxError(
        f"net: a {type(net).__name__}, expected a network of linjax.trace; the order of arguments "
        "is (net, params, …)"
    )


def as_batches(net: Net, batches: Any, *, started: bool = False) -> None:
    """Checks that an argument is an iterable of batches, and not a batch itself.

    Args:
      net: the network that they are for.
      batches: the argument.
      started: whether a function that returns an iterator will do.

    Raises:
      EvidenceError: if it isn't, with the way out.
    """
    if started and callable(batches):
        return
    kind = type(batches).__name__
    shape = getattr(batches, "shape", None)
    if isinstance(shape, tuple):
        inputs = jax.tree.leaves(net.example)
        if len(inputs) != 1 or len(shape) != len(inputs[0].shape) + 1:
            raise EvidenceError(
                f"batches: one array of shape {shape}, expected several batches; each of its rows "
                "would be taken for a batch: give a list of one, [x]"
            )
    elif isinstance(batches, Mapping):
        raise EvidenceError(
            f"batches: a {kind}, expected several batches; a batch is what apply_fn takes after "
            "the parameters: give a list of one, [batch]"
        )
    elif isinstance(batches, str | bytes) or not isinstance(batches, Iterable):
        way = "call it" if callable(batches) else "give a list, [x]"
        raise EvidenceError(
            f"batches: a {kind}, expected an iterable of what apply_fn takes after the parameters; "
            f"{way}"
        )


def as_numbers(leaves: Iterable[Any], index: int) -> None:
    """Checks that a batch's leaves are arrays of numbers, or of random keys.

    Raises:
      EvidenceError: naming what one is.
    """
    for leaf in leaves:
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            continue
        dtype = getattr(leaf, "dtype", None)
        dtype = np.asarray(leaf).dtype if dtype is None else dtype
        if getattr(dtype, "kind", "f") in "OUSMmT":
            raise EvidenceError(
                f"batch {index}: holds a {type(leaf).__name__} of dtype {dtype}, expected arrays "
                "of numbers"
            )


def as_values(params: Any) -> None:
    """Checks that parameters are arrays with values, not only their shapes.

    Raises:
      StructureError: naming a leaf that isn't.
    """
    for path, leaf in flatten(params).items():
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise StructureError(f"{join(path)}: a shape without values, expected an array")


def all_there(net: Net, params: Any) -> None:
    """Warns of leaves that are missing where nothing else shows that a network was folded."""
    flat, leaves = flatten(params), {leaf.path: leaf.shape for leaf in net.graph.leaves}
    gone = [join(path) for path in leaves if path not in flat]
    if gone and all(jnp.shape(leaf) == leaves.get(path) for path, leaf in flat.items()):
        warn(
            f"{', '.join(gone)}: missing, and all else has the shape that was traced; this is "
            "taken for layers that a fold removed. If none did, give all parameters"
        )


def as_evidence(params: Any, evidence: Any) -> None:
    """Checks that evidence is of a kind that plans are made by, about parameters of such shapes.

    Args:
      params: the parameters.
      evidence: Stats, or what is made of these and holds them.

    Raises:
      StructureError: if the parameters aren't those of the evidence's network.
      EvidenceError: if it is of another kind, or about parameters of other shapes.
    """
    stats = getattr(evidence, "stats", evidence)
    if not isinstance(stats, Stats):
        raise EvidenceError(
            f"expected Stats, got {type(evidence).__name__}; evidence comes after params"
        )
    flat = stats.network.flatten(params)
    check(stats.network, flat)
    check_widths(stats.network, flat)
    as_values(params)
    now = {path: jnp.shape(leaf) for path, leaf in flatten(params).items()}
    then = {leaf.path: leaf.shape for leaf in stats.leaves}
    for path in (*then, *now):
        if now.get(path) != then.get(path):
            shapes = (f"of shape {own[path]}" if path in own else "absent" for own in (now, then))
            raise EvidenceError(
                "{}: is {}, and was {} when the evidence was collected; collect on these "
                "parameters".format(join(path), *shapes)
            )


def is_number(value: Any) -> bool:
    """Whether a value is a number, be it in an array without axes."""
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiu"


def whole(name: str, value: Any, least: int) -> int:
    """Returns a whole number.

    Raises:
      LinjaxError: if it is none, or too small.
    """
    if not is_number(value) or not value >= least or value % 1:
        raise LinjaxError(f"{name} = {value!r}, expected an integer ≥ {least}")
    return int(value)
