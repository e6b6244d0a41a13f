"""Outer products of rows over a mesh: blocks of them on each device, summed over rows once.

In a mesh with an axis "model" every device makes the block of rows of a second moment that is its
part: ``(w / M, w)`` of ``(w, w)``. The devices of the other axes have different samples; what they
know of these stays apart, about means of their own, until all batches have been seen.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linjax.errors import EvidenceError

Array = Any
MODEL = "model"
"""Name of the axis of a mesh over which second moments are spread."""


class Spread(NamedTuple):
    """How evidence lies on a mesh.

    Attributes:
      mesh: the mesh.
      rows: its axes over which samples are spread: D devices.
      model: the axis over which rows of second moments are, empty without one.
    """

    mesh: Mesh
    rows: tuple[str, ...]
    model: tuple[str, ...]

    @property
    def parts(self) -> int:
        """D."""
        return math.prod(self.mesh.shape[name] for name in self.rows)

    def blocks(self, width: int) -> int:
        """M, 1 where so many coordinates don't divide over the axis."""
        count = math.prod(self.mesh.shape[name] for name in self.model)
        return count if width % count == 0 else 1


def spread_over(mesh: Mesh | None) -> Spread | None:
    """How evidence lies on a mesh.

    Raises:
      EvidenceError: if devices of different processes share a place's samples.
    """
    if mesh is None:
        return None
    model = tuple(name for name in mesh.axis_names if name == MODEL)
    if model and mesh.is_multi_process:
        along = np.moveaxis(mesh.devices, mesh.axis_names.index(MODEL), -1)
        owners = np.vectorize(lambda device: device.process_index)(along)
        if (owners != owners[..., :1]).any():
            raise EvidenceError(
                'the axis "model" of the mesh reaches over several processes; order the devices so '
                "that each process has all of it, and rows of its own"
            )
    return Spread(mesh, tuple(n for n in mesh.axis_names if n != MODEL), model)


def outer(
    x: Array, weights: Array | None, spread: Spread, own: Callable[..., tuple[Array, ...]]
) -> tuple[Array, ...]:  # fmt: skip
    """What each device makes of its samples, with D in front; second moments last.

    Args:
      x: ``(n, samples, w)``.
      weights: ``(samples,)``, or None.
      spread: where that lies.
      own: makes of samples and weights what isn't spread over the model's axis, and last the rows
        ``(n, samples, w)`` whose outer products are wanted.
    """
    rows, width = spread.rows, x.shape[-1]
    blocks = spread.blocks(width)
    model = spread.model if blocks > 1 else ()

    def local(x: Array, weights: Array | None) -> tuple[Array, ...]:
        *others, centred = own(x, weights)
        block = centred
        if blocks > 1:
            step = width // blocks
            block = lax.dynamic_slice_in_dim(centred, lax.axis_index(MODEL) * step, step, 2)
        gram = jnp.einsum("nsi,nsj->nij", block, centred, precision="highest")
        return tuple(part[None] for part in (*others, gram))

    shapes = jax.eval_shape(own, x, weights)[:-1]
    outs = tuple(PartitionSpec(rows, *(None,) * len(shape.shape)) for shape in shapes)
    outs = (*outs, PartitionSpec(rows, None, model, None))
    if x.shape[1] % spread.parts:  # one of the devices takes them all
        *others, centred = own(x, weights)
        gram = jnp.einsum("nsi,nsj->nij", centred, centred, precision="highest")
        return tuple(
            lax.with_sharding_constraint(
                jnp.zeros((spread.parts, *part.shape), part.dtype).at[0].set(part),
                NamedSharding(spread.mesh, out),
            )
            for part, out in zip((*others, gram), outs, strict=True)
        )
    ins = PartitionSpec(None, rows, None), None if weights is None else PartitionSpec(rows)
    mapped = jax.shard_map(local, mesh=spread.mesh, in_specs=ins, out_specs=outs, check_vma=False)
    return mapped(x, weights)


@functools.partial(jax.jit, static_argnames="spread")
def together(count: Array, mean: Array, scatter: Array, spread: Spread) -> tuple[Array, ...]:
    """Moments that devices know apart, ``(D,)``, ``(D, n, w)`` and ``(D, n, w, w)``, as one."""
    total = jnp.sum(count)
    middle = jnp.tensordot(count, mean, 1) / jnp.maximum(total, 1e-30)
    apart = mean - middle
    between = jnp.einsum("d,dni,dnj->nij", count, apart, apart, precision="highest")
    found = jnp.sum(scatter, axis=0) + between
    return total, middle, blocked(found, spread)


def blocked(gram: Array, spread: Spread) -> Array:
    """Second moments ``(n, w, w)``, their rows over the model's axis, the same for all samples."""
    model = spread.model if spread.blocks(gram.shape[-1]) > 1 else ()
    return lax.with_sharding_constraint(
        gram, NamedSharding(spread.mesh, PartitionSpec(None, model or None, None))
    )
