"""Public architectures as pure functions of random parameters, tiny, in inference mode.

`MODELS` lists them by name. Those that are written out in Flax or bare JAX need nothing but
linjax's dependencies; the others build the public code of a package and are listed without it.
To install what they need, in an environment of its own (Keras, Haiku, transformers, diffusers
and Equinox; no torch, no TensorFlow):

    python -m venv .venv-zoo && .venv-zoo/bin/pip install -e ".[zoo]"

A new model is one row of a module's `models(package, name=build)`, where `build` returns
`(apply, params, inputs)`: see `registry`. Nothing here knows about linjax.
"""

import importlib
import pkgutil

from experiments.coverage.zoo.registry import MODELS, Built, Model, model, models

# Importing a module registers its models; what they build from is imported when they are built.
SOURCES = tuple(
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
    if module.name not in ("attention", "registry")
)

__all__ = ["MODELS", "SOURCES", "Built", "Model", "model", "models"]
