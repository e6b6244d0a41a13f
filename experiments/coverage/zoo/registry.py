"""The list of models, and what builds them: a new model is one decorated function."""

import importlib.util
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

# apply(params, *inputs) -> outputs, params, inputs
Built = tuple[Callable[..., Any], Any, tuple[Any, ...]]

SCALES = ("scale", "gamma", "weight", "var", "variance", "average", "g")


class Model(NamedTuple):
    """An architecture of the zoo.

    Attributes:
      name: what the table calls it.
      source: the module of the zoo that it is from.
      package: what has to be importable to build it; None where this repository is enough.
      build: gives its function, its random parameters and inputs.
    """

    name: str
    source: str
    package: str | None
    build: Callable[[], Built]

    @property
    def installed(self) -> bool:
        """Whether its package can be found."""
        return self.package is None or importlib.util.find_spec(self.package) is not None


MODELS: dict[str, Model] = {}


def model(name: str, package: str | None = None) -> Callable[[Callable], Callable]:
    """Puts the function that it decorates on the list."""

    def register(build: Callable[[], Built]) -> Callable[[], Built]:
        if name in MODELS:
            raise ValueError(f"two models are called {name!r}")
        MODELS[name] = Model(name, build.__module__.rpartition(".")[2], package, build)
        return build

    return register


def models(package: str | None = None, /, **rows: Callable[[], Built]) -> None:
    """Puts many on the list, each of them by name."""
    for name, build in rows.items():
        model(name, package)(build)


def filled(shapes: Any, seed: int = 0) -> Any:
    """Random parameters of these shapes: no leaf is constant, as those of a trained network.

    Kernels are normal with the variance of their fan-in, scales and variances are spread about
    one, biases and means about zero. Initialisers are not called: they would be compiled, one
    by one, and leave biases at zero.
    """
    rng = np.random.default_rng(seed)

    def fill(path: tuple, leaf: Any) -> jax.Array:
        shape, last = np.shape(leaf), path[-1] if path else ""
        key = str(getattr(last, "key", getattr(last, "name", getattr(last, "idx", last)))).lower()
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.ones(shape, leaf.dtype)
        names = re.split("[^a-z]+", key.rpartition("/")[2])
        if any(n in SCALES for n in names) and not ("weight" in names and len(shape) > 1):
            value = 1 + 0.3 * rng.uniform(-1, 1, shape)
        elif len(shape) > 1:
            value = rng.normal(size=shape) / math.sqrt(math.prod(shape[:-1]))
        else:
            value = 0.1 * rng.normal(size=shape)
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def layered(count: int = 0, **layers: tuple[int, ...]) -> dict:
    """Random kernels by name, from rows and columns, and a bias where a third size is given.

    Each is stacked where there is a count.
    """
    first = (count,) if count else ()

    def leaves(rows: int, columns: int, *bias: int) -> dict:
        kernel = jax.ShapeDtypeStruct((*first, rows, columns), jnp.float32)
        made = {"kernel": kernel}
        if bias:
            made["bias"] = jax.ShapeDtypeStruct((*first, *bias), jnp.float32)
        return made

    return filled({name: leaves(*sizes) for name, sizes in layers.items()})


def linen(module: nn.Module, *inputs: Any) -> Built:
    """A Linen module in inference mode, its variables filled."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return module.apply, filled(shapes), inputs


def normal(*shape: int, seed: int = 1) -> jax.Array:
    """An input."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def tokens(*shape: int, vocabulary: int = 64, seed: int = 1) -> jax.Array:
    """Words, by number."""
    return jnp.asarray(np.random.default_rng(seed).integers(1, vocabulary, shape), jnp.int32)
