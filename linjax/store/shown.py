"""A few of a network's outputs, by which its function is known again.

Sites tell a function up to what stands in front of the first of them and behind the last: scaled
inputs, other heads, masks. A few numbers that it computes tell it from those.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.errors import StructureError
from linjax.net import Net
from linjax.program.count import count
from linjax.program.pytree import is_floating
from linjax.store import keys

ENTRIES = 16
"""Entries of each output that are kept."""
LARGEST = 1 << 27
"""Parameters of the largest network that is run for that."""
APART, COARSE = 0.01, 0.1
"""By what share of the largest output outputs may differ, those of 16 bits in the second place:
other machines round otherwise."""


class Shown(NamedTuple):
    """An output of a network on inputs that :func:`made_up` makes.

    Attributes:
      shape: its shape.
      size: its largest entry.
      entries: some of its entries.
    """

    shape: tuple[int, ...]
    size: float
    entries: tuple[float, ...]


def made_up(spec: Any, shape: tuple[int, ...] | None = None) -> Any:
    """An input of some dtype, the same for everyone: normal numbers, zeros and ones, a random key.

    Args:
      spec: an array's shape and dtype.
      shape: another shape for it.
    """
    shape = spec.shape if shape is None else shape
    rng = np.random.default_rng(len(shape))
    if jnp.issubdtype(spec.dtype, jax.dtypes.prng_key):
        key = jax.random.key(0, impl=keys.KINDS[str(spec.dtype)][0])
        return jax.random.split(key, shape) if shape else key
    if is_floating(str(spec.dtype)):
        return jnp.asarray(rng.normal(size=shape), spec.dtype)
    return jnp.asarray(rng.integers(0, 2, size=shape), spec.dtype)


def shown(net: Net, params: Any) -> tuple[Shown, ...]:
    """Returns what a network's outputs are, nothing where it can't be run here, or isn't finite."""
    here = all(x.is_fully_addressable for x in jax.tree.leaves(params) if isinstance(x, jax.Array))
    if not here or count(params) > LARGEST:
        return ()  # other processes would have to run it with this one
    try:
        found = _outputs(net, params)
    except Exception:  # whatever a function does on inputs that mean nothing
        return ()
    finite = all(np.isfinite([own.size, *own.entries]).all() for own in found)
    return found if finite else ()


def check_shown(net: Net, params: Any, wanted: Sequence[Shown]) -> None:
    """Checks that a network has the outputs that it had.

    Raises:
      StructureError: if it hasn't.
    """
    if not wanted:
        return
    try:
        found = _outputs(net, params)
    except Exception as error:
        raise StructureError(
            f"apply_fn doesn't run on the stored parameters: {error!s:.300}"
        ) from error
    if [own.shape for own in found] != [own.shape for own in wanted]:
        raise StructureError(
            f"apply_fn computes something else: outputs of shapes {[own.shape for own in found]}, "
            f"those of the network that was saved are {[own.shape for own in wanted]}"
        )
    coarse = any(leaf.dtype.endswith("float16") for leaf in net.graph.leaves)
    limit = COARSE if coarse else APART
    for n, (own, want) in enumerate(zip(found, wanted, strict=True)):
        apart = np.max(np.abs(np.subtract(own.entries, want.entries)), initial=0.0)
        if not max(apart, abs(own.size - want.size)) <= limit * want.size:
            raise StructureError(
                f"apply_fn computes something else: output {n} differs by {apart:.2g} from that of "
                f"the network that was saved, whose entries are up to {want.size:.2g}"
            )


def _outputs(net: Net, params: Any) -> tuple[Shown, ...]:
    with jax.default_matmul_precision("highest"):
        found = net.apply(params, *jax.tree.map(made_up, net.example))
    return tuple(map(_shown, jax.tree.leaves(found)))


def _shown(output: Any) -> Shown:
    if not jnp.issubdtype(output.dtype, jnp.floating):
        return Shown(tuple(output.shape), 0.0, ())  # a choice of two that are nearly the same
    flat = np.asarray(output.astype(jnp.float32), np.float64).ravel()
    at = np.unique(np.linspace(0, max(len(flat) - 1, 0), ENTRIES).round().astype(int))
    size = float(np.max(np.abs(flat), initial=0.0))
    return Shown(tuple(output.shape), size, tuple(flat[at].tolist()) if len(flat) else ())
