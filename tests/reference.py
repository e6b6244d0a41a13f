"""Trained networks and their certificates, for the tests that need them; made once a process."""

import functools
import pathlib

import numpy as np

from linjax.chains.layers import Layer, Layers
from linjax.evidence.bounds import SiteBounds
from linjax.evidence.certify.chain import certify_layers


@functools.cache
def certified(shared: pathlib.Path, name: str) -> tuple[Layers, tuple[SiteBounds, ...]]:
    """Returns a ReLU network of ``shared/reference/exact`` and its bounds on [0, 1]."""
    with np.load(shared / "reference" / "exact" / f"{name}.npz") as file:
        depth = sum(key.startswith("kernel") for key in file)
        layers = tuple(Layer(file[f"kernel_{i}"], file[f"bias_{i}"]) for i in range(depth))
    return layers, certify_layers(layers, [(0.0, 1.0)] * (depth - 1), 0.0, 1.0)
