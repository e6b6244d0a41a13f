"""Public architectures as pure functions of random parameters, tiny, in inference mode.

`MODELS` lists them by name. Those that are written out in Flax or bare JAX need nothing but
linjax's dependencies; the others build the public code of a package and are listed without it.
To install what they need, in an environment of its own (Keras, Haiku, transformers, diffusers
and Equinox; no torch, no TensorFlow):

    python -m venv .venv-zoo && .venv-zoo/bin/pip install -e ".[zoo]"

A new model is one function under `@model(name, package)` that returns
`(apply, params, inputs)`: see `registry`. Nothing here knows about linjax.
"""

from experiments.coverage.zoo import (
    cells,
    convolutional,
    dense_outputs,
    diffusers,
    distributions,
    encoders,
    equinox,
    haiku,
    huggingface,
    keras,
    kernels,
    language,
    modules,
    patches,
    penzai,
    sequences,
    tables,
    translation,
)
from experiments.coverage.zoo.registry import MODELS, Built, Model, model

# Importing a module registers its models; what they build from is imported when they are built.
SOURCES = (
    cells,
    convolutional,
    dense_outputs,
    diffusers,
    distributions,
    encoders,
    equinox,
    haiku,
    huggingface,
    keras,
    kernels,
    language,
    modules,
    patches,
    penzai,
    sequences,
    tables,
    translation,
)

__all__ = ["MODELS", "SOURCES", "Built", "Model", "model"]
