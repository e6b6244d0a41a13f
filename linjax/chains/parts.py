"""The leaves of one affine map in a folded pytree.

Beside a kernel leaf ``W`` a folded pytree may hold

    W_linear     (p, r)    linear units: ``u = v @ W_linear``
    W_residual   (c, q)    what the map reads from the residual path
    W_down       (p, s)    a bottleneck in front of the map

in the layout of the kernel.
"""

from typing import NamedTuple

import jax.numpy as jnp

from linjax.chains.layers import Array
from linjax.chains.maps import Affine
from linjax.errors import StructureError
from linjax.program.pytree import Flat, Path, join


class Parts(NamedTuple):
    """The leaves of one affine map, as (inputs, outputs) matrices; None where absent."""

    kernel: Array | None
    bias: Array | None
    linear: Array | None
    residual: Array | None
    down: Array | None

    @property
    def gone(self) -> bool:
        """Whether the map has disappeared."""
        return all(part is None for part in self)


def parts_of(affine: Affine, flat: Flat) -> Parts:
    """Collects the leaves of an affine map from a flat pytree.

    A map that has some columns of a kernel has as many of the residual kernel and of the bias.
    """

    def own(path: Path, leaf: Array | None) -> Array | None:
        if leaf is None or affine.part.of == 1:
            return leaf
        if leaf.shape[-1] % affine.part.of:
            raise StructureError(
                f"{join(path)}: {leaf.shape[-1]} units, expected {affine.part.of} times as many"
            )
        return affine.part.take(leaf, leaf.ndim - 1)

    def matrix(path: Path) -> Array | None:
        leaf = flat.get(path)
        if leaf is None:
            return None
        if jnp.ndim(leaf) != 2:
            raise StructureError(f"{join(path)}: shape {jnp.shape(leaf)}, expected a matrix")
        return leaf if affine.layout == (0, 1) else leaf.T

    residual = affine.extra("residual")
    return Parts(
        kernel=own(affine.kernel, matrix(affine.kernel)),
        bias=own(affine.bias_path, flat.get(affine.bias_path)),
        linear=matrix(affine.extra("linear")),
        residual=own(residual, matrix(residual)),
        down=matrix(affine.extra("down")),
    )


def units_of(part: Parts) -> int:
    """Number of units that a map computes."""
    if part.kernel is not None:
        return part.kernel.shape[1]
    return 0 if part.bias is None else part.bias.shape[0]
