"""Programs that run a few times only, for which compiling takes longer than running."""

import functools
from collections.abc import Callable
from typing import Any

import jax

UNOPTIMISED = {"xla_backend_optimization_level": 0}


def jit_hastily(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``jax.jit``, but the host compiles without optimising.

    That takes half as long, and products of matrices, which are library calls, run as fast.
    """
    well = jax.jit(function, **options)
    hastily = jax.jit(function, compiler_options=UNOPTIMISED, **options)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return (hastily if jax.default_backend() == "cpu" else well)(*args, **kwargs)

    return run
