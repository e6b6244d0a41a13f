"""Kernels of several maps in parts: each reads, or makes, what belongs together."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from linjax.errors import StructureError
from linjax.graph import pieces, program, pytree, splits
from linjax.graph.divided import Divided
from linjax.graph.maps import Path
from linjax.graph.views import find_views

Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Apart(Divided):
    """A function whose kernels of several maps are given in parts.

    Attributes:
      apply_fn: the function of whole kernels.
      template: its parameter pytree as shapes and dtypes.
      axes: for each kernel or bias that is in parts, by its path, the axis that is cut.
      widths: for each of them the parts' extents.
    """

    axes: dict[Path, int]
    widths: dict[Path, tuple[int, ...]]

    def count(self, path: Path) -> int | None:
        """Number of a kernel's parts, None for a leaf that is whole."""
        return len(self.widths[path]) if path in self.widths else None

    def joined(self, params: Any) -> Any:
        """Returns the pytree with whole kernels."""
        flat = pytree.flatten(params)
        leaves = []
        for path in pytree.flatten(self.template):
            parts = [flat[part] for part in self.split(path)]
            leaves.append(parts[0] if len(parts) == 1 else jnp.concatenate(parts, self.axes[path]))
        return jax.tree.unflatten(jax.tree.structure(self.template), leaves)

    def __call__(self, params: Any, *inputs: Any) -> Any:
        return self.apply_fn(self.joined(params), *inputs)


def apart(apply_fn: Callable[..., Any], params: Any, *inputs: Any) -> tuple[Apart, Any]:
    """Gives kernels of several maps in parts, each a leaf of its own.

    ``[a, b] W = a W₁ + b W₂``: where a's units are removed, W₁ loses rows and W₂ doesn't. With
    leaves of their own, ``Dense_2/0/kernel`` and ``Dense_2/1/kernel``, that is the fold of two
    maps, whose sum may have units of its own. A kernel whose result is cut apart, such as that of
    queries, keys and values, is given in as many parts, and its bias is: attention's values fold
    by themselves then. Inputs and outputs stay as they are.

    Args:
      apply_fn: ``apply_fn(params, *inputs) -> outputs``.
      params: its parameters.
      *inputs: example inputs, arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      A function of other parameters that computes the same, and these parameters, a nested
      dict: what :func:`trace` takes.

    Raises:
      StructureError: if no kernel reads concatenated features or makes what is cut apart.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> def apply(params, x):  # the input comes back in the second layer
      ...     h = jax.nn.relu(x @ params["a"]["kernel"])
      ...     h = jax.nn.relu(jnp.concatenate([h, x], -1) @ params["b"]["kernel"])
      ...     return h @ params["c"]["kernel"]
      >>> shapes = {"a": (3, 8), "b": (11, 8), "c": (8, 2)}
      >>> params = {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}
      >>> parts_apply, parts = linjax.apart(apply, params, jnp.ones((1, 3)))
      >>> net = linjax.trace(parts_apply, parts, jnp.ones((1, 3)))
      >>> [(site.name, site.width) for site in net.graph.sites]
      [('a', 8), ('b/0', 8)]
    """
    flat = pytree.flatten(params)
    traced = program.record(apply_fn, params, inputs)
    views = find_views(traced)
    axes: dict[Path, int] = {}
    widths: dict[Path, tuple[int, ...]] = {}
    for seam in pieces.seams(traced):
        op = traced.ops[seam.at]
        other = 1 - seam.side
        kernel, (axis,) = op.inputs[other], op.params["dimension_numbers"][0][other]
        if not isinstance(kernel, program.Ref) or kernel.id not in views.leaf:
            continue
        leaf, along = views.of(kernel), views.axes[kernel.id][axis]
        if along is not None and views.uses[leaf] == 1:
            path = list(flat)[leaf]
            axes[path], widths[path] = along, seam.widths
    for split in splits.find(traced, views):
        found = {list(flat)[leaf]: axis for leaf, axis in split.axes.items()}
        if not found.keys() & widths.keys():
            axes |= found
            widths |= dict.fromkeys(found, split.widths)
    if not widths:
        raise StructureError(
            "nothing to take apart: no kernel reads concatenated features or makes what is cut"
        )
    result = Apart(apply_fn, pytree.shapes_of(params), axes, widths)
    parts: pytree.Flat = {}
    for path, value in flat.items():
        own, ends = result.split(path), [0, *itertools.accumulate(widths.get(path, ()))]
        runs = itertools.starmap(slice, itertools.pairwise(ends))
        along = (slice(None),) * axes.get(path, 0)
        cut = [value[(*along, run)] for run in runs] or [value]
        parts |= dict(zip(own, cut, strict=True))
    return result, pytree.unflatten(parts, like=params)
