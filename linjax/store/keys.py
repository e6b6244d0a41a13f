"""Random keys in files: arrays of a dtype of JAX's own, stored as the integers they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.errors import StoreError
from linjax.program.pytree import Leaf, join

KINDS = {"key<fry>": ("threefry2x32", 2), "key<rbg>": ("rbg", 4), "key<urbg>": ("unsafe_rbg", 4)}
"""By dtype: the generator, and how many uint32 make a key."""


def dtype_of(name: str) -> Any:
    """Returns the dtype of this name, of numbers or of random keys.

    Example:
      >>> dtype_of("bfloat16").itemsize, str(dtype_of("key<fry>"))
      (2, 'key<fry>')
    """
    if name not in KINDS:
        return jnp.dtype(name)
    generator = KINDS[name][0]
    return jax.eval_shape(lambda: jax.random.key(0, impl=generator)).dtype


def spec(leaf: Leaf) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a leaf as JAX wants them."""
    return jax.ShapeDtypeStruct(leaf.shape, dtype_of(leaf.dtype))


def check_kept(leaf: Leaf) -> None:
    """Checks that JAX takes a leaf's numbers as they are.

    Raises:
      StoreError: if it would cut them to fewer bits.
    """
    kept = leaf.dtype if leaf.dtype in KINDS else jax.dtypes.canonicalize_dtype(leaf.dtype)
    if str(kept) != leaf.dtype:
        raise StoreError(
            f"{join(leaf.path)}: dtype {leaf.dtype}, which JAX would cut to {kept}; "
            "enable jax_enable_x64"
        )


def as_stored(leaf: Leaf) -> Leaf:
    """Describes the numbers that stand for a leaf in a file.

    Example:
      >>> as_stored(Leaf(("rngs", "key"), (), "key<fry>"))
      Leaf(path=('rngs', 'key'), shape=(2,), dtype='uint32')
    """
    if leaf.dtype not in KINDS:
        return leaf
    return Leaf(leaf.path, (*leaf.shape, KINDS[leaf.dtype][1]), "uint32")


def to_numbers(leaf: Leaf, value: Any) -> Any:
    """Returns a leaf's value as numbers."""
    return jax.random.key_data(value) if leaf.dtype in KINDS else value


def from_numbers(leaf: Leaf, value: Any) -> Any:
    """Returns numbers as the leaf that they stand for."""
    if leaf.dtype not in KINDS:
        return value
    return jax.random.wrap_key_data(value, impl=KINDS[leaf.dtype][0])


def hollow(leaf: Leaf) -> Any:
    """Something of a leaf's shape and dtype that takes no memory."""
    if leaf.dtype in KINDS:
        return spec(leaf)
    return np.broadcast_to(np.zeros((), jnp.dtype(leaf.dtype)), leaf.shape)
