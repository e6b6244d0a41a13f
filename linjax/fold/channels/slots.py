"""Maps of a folded network that may be refitted: what they are, and how to put them back."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.fold.channels.network import Network
from linjax.fold.channels.surface import Choice
from linjax.fold.report import SiteChange
from linjax.graph import pytree
from linjax.graph.chains import read_chain, write_chain
from linjax.graph.channels import kernels, vanished
from linjax.graph.channels.kernels import Kernel
from linjax.graph.layers import replaced
from linjax.graph.maps import Affine, Convolution
from linjax.graph.structure import Chain

Array = np.ndarray


class Matrices(NamedTuple):
    """One map as the original has it and as the folded network does, ``(inputs, outputs)`` each.

    Attributes:
      target: what the original's features are multiplied with; its columns are the outputs that
        the folded network still computes.
      shift: the target's bias.
      kernel: the folded map's kernel.
      down: the folded map's bottleneck, None without one.
      whole: whether all outputs are as they were, so that they may be added to a branch.
      groups: rows and columns of the kernel by group, where it has groups.
    """

    target: Array
    shift: Array
    kernel: Array
    down: Array | None
    whole: bool
    groups: tuple[tuple[Array, Array], ...] = ()


class Slot(NamedTuple):
    """A map that may be refitted, and how to write its kernel and bias."""

    matrices: Matrices
    write: Callable[[pytree.Flat, Array, Array], pytree.Flat]


def slot(
    network: Network, flat: pytree.Flat, changes: Mapping[str, SiteChange],
    made: Mapping[str, Choice], name: str,
) -> Slot | None:  # fmt: skip
    """Returns a map as a slot; None if it is none that folds touch, or has disappeared.

    Args:
      network: the network before the fold.
      flat: the folded pytree.
      changes: what became of every site.
      made: what the sites behind convolutions keep.
      name: the map's name.
    """
    graph = network.graph
    if name in network.kernels:
        if vanished.gone(graph.convolution(name), flat):
            return None
        return _convolution(network, flat, graph.convolution(name), made.get(name))
    for chain in graph.chains:
        for depth, group in enumerate(chain.layers):
            if name == group[0]:
                return _layer(network, flat, chain, depth, changes)
            if name in group:
                return None  # refitted with the first of the group
    readers = {reading.consumer for site in graph.channels for reading in site.readings}
    if name in readers:
        return _reader(network, flat, graph.affine(name))
    return None


def _convolution(
    network: Network, flat: pytree.Flat, conv: Convolution, choice: Choice | None
) -> Slot:
    old, new = network.kernels[conv.name], kernels.read(conv, flat)
    target, shift = _matrix(old)
    kernel, _ = _matrix(new)
    if choice is not None:
        units = choice.kept[choice.kept < old.kernel.shape[2]]
        linear = choice.kept[choice.kept >= old.kernel.shape[2]]
        select = np.eye(target.shape[1])[:, np.concatenate([units, linear])]
        mix = np.zeros((target.shape[1], choice.mix.shape[1]))
        mix[: len(choice.mix)] = choice.mix
        select = np.concatenate([select, mix], axis=1)
        target, shift = target @ select, shift @ select
    taps, k = len(new.kernel), new.kernel.shape[2]

    def write(flat: pytree.Flat, kernel: Array, bias: Array) -> pytree.Flat:
        whole = kernel.reshape(taps, -1, kernel.shape[1])
        return kernels.write(conv, flat, Kernel(whole[..., :k], bias[:k], whole[..., k:], bias[k:]))

    groups = _groups(new.kernel, conv.groups) if conv.groups > 1 else ()
    return Slot(Matrices(target, shift, kernel, None, choice is None, groups), write)


def _groups(kernel: Array, count: int) -> tuple[tuple[Array, Array], ...]:
    """Rows and columns of the groups in a kernel ``(taps, inputs, outputs)`` as a matrix."""
    taps, p, q = kernel.shape
    rows = np.arange(taps * p).reshape(taps, count, -1).swapaxes(0, 1).reshape(count, -1)
    return tuple(zip(rows, np.arange(q).reshape(count, -1), strict=True))


def _matrix(kernel: Kernel) -> tuple[Array, Array]:
    """Units and linear channels side by side, ``(taps · inputs, outputs)``, and their bias."""
    whole = np.concatenate([kernel.kernel, kernel.linear], axis=2)
    return whole.reshape(-1, whole.shape[2]), np.concatenate([kernel.bias, kernel.linear_bias])


def _layer(
    network: Network, flat: pytree.Flat, chain: Chain, depth: int, changes: Mapping[str, SiteChange]
) -> Slot | None:
    """A dense layer of a chain; its linear units and its bottleneck stay as they are."""
    old = read_chain(network.graph, network.flat, chain)[depth]
    layers = read_chain(network.graph, flat, chain)
    new = layers[depth]
    target = old.kernels if old.down is None else old.down @ old.kernels
    columns = np.arange(target.shape[1])
    last = depth == len(chain.sites)
    if not last:
        kept = changes[chain.sites[depth].name].kept
        columns = np.concatenate([m * old.units + kept for m in range(1 + len(old.mates))])
    if len(columns) != new.kernels.shape[1]:
        return None

    def write(flat: pytree.Flat, kernel: Array, bias: Array) -> pytree.Flat:
        changed = new.with_kernels(kernel, bias)
        return write_chain(network.graph, flat, chain, replaced(layers, depth, changed))

    whole = last and len(chain.layers[-1]) == 1
    found = Matrices(target[:, columns], old.biases[columns], new.kernels, new.down, whole)
    return Slot(found, write)


def _reader(network: Network, flat: pytree.Flat, affine: Affine) -> Slot:
    """A dense layer that reads channels and has no units."""

    def matrix(flat: pytree.Flat) -> tuple[Array, Array]:
        kernel = np.asarray(flat[affine.kernel]).astype(np.float64)
        kernel = kernel if affine.layout == (0, 1) else kernel.T
        bias = flat.get(affine.bias_path, jnp.zeros(kernel.shape[1]))
        return kernel, np.asarray(bias).astype(np.float64)

    def write(flat: pytree.Flat, kernel: Array, bias: Array) -> pytree.Flat:
        dtype = flat[affine.kernel].dtype
        turned = kernel if affine.layout == (0, 1) else kernel.T
        flat = flat | {affine.kernel: jnp.asarray(turned, dtype)}
        if affine.bias_path in flat or np.any(bias):
            flat[affine.bias_path] = jnp.asarray(bias, dtype)
        return flat

    target, shift = matrix(network.flat)
    return Slot(Matrices(target, shift, matrix(flat)[0], None, True), write)
