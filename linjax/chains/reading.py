"""Reading the layers of a chain from a parameter pytree, and writing them back."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from linjax.chains.check import check_leaves
from linjax.chains.flow import Flow, Known, all_flows, entry, flows, settled
from linjax.chains.layers import Array, Layer, Layers
from linjax.chains.maps import Activation, Affine
from linjax.chains.normal import normalise
from linjax.chains.parts import Parts, parts_of, units_of
from linjax.chains.slopes import slope_and_offset
from linjax.chains.structure import Chain, Graph, Site
from linjax.errors import StructureError
from linjax.program.pytree import Flat, Path, on_device, on_host


def read_chain(graph: Graph, params: Flat, chain: Chain) -> Layers:
    """Returns a chain's layers, one per depth, in float64 on the host.

    Several consumers stand side by side in one last layer, the first maps of branches by their
    units.

    Raises:
      StructureError: if a leaf's shape doesn't fit or its values aren't finite, by path.
    """
    known: Known = {}
    flow, parts = flows(graph, chain, params, known)
    heads = len(chain.layers[-1])
    names = [name for group in chain.layers for name in group]
    layers = []
    for index, (name, f, part) in enumerate(zip(names, flow, parts, strict=True)):
        if index == 0 and len(chain.firsts) > 1:
            layer = _sum_of(graph, params, chain, f, entry(graph, chain, params, known))
        else:
            layer = _scaled(graph.affine(name), params, _layer(graph.affine(name), f, part))
        if index < len(chain.sites):
            site = chain.sites[index]
            leaves = tuple(np.asarray(params[p]) for p in site.unit_leaves if p in params)
            layer = layer._replace(
                unit_leaves=leaves,
                slopes=_slopes(site.activation, params, layer.units),
                mates=_mates(graph, site, f, params),
            )
        layers.append(layer)
    ends = layers[len(layers) - heads :]
    if heads == 1:
        return tuple(layers)
    stacked = Layer(
        np.concatenate([e.kernel if e.down is None else e.down @ e.kernel for e in ends], axis=1),
        np.concatenate([e.bias for e in ends]),
    )
    return (*layers[: len(layers) - heads], stacked)


def _sum_of(
    graph: Graph, params: Flat, chain: Chain, flow: Flow, entries: tuple[tuple[int, int], ...]
) -> Layer:
    """The one layer that a sum's maps are, which reads the features of all."""
    own = []
    for name, (main, carried) in zip(chain.firsts, entries, strict=True):
        affine = graph.affine(name)
        own.append(
            _layer(affine, flow._replace(main=main, carried=carried), parts_of(affine, params))
        )
    units = own[0].units
    linear = [x.linear for x in own if x.linear is not None and x.linear.shape[1]]
    return own[0]._replace(
        kernel=np.concatenate([x.kernel for x in own if x.units == units]),
        bias=np.sum([x.bias for x in own if x.units == units], axis=0),
        linear=np.concatenate(linear) if linear else None,
    )


def _scaled(affine: Affine, params: Flat, layer: Layer) -> Layer:
    """Multiplies a per-unit affine map into a layer's kernel."""
    found = slope_and_offset(affine.scaling, params)
    if found is None:
        return layer
    slope, offset = found
    return layer._replace(kernel=layer.kernel * slope, bias=layer.bias * slope + offset)


def _slopes(activation: Activation, params: Flat, units: int) -> tuple[Array, Array] | None:
    """The units' slopes below and above zero; what went with its units has none."""
    if activation.slopes is not None:
        below, above = (np.full(units, slope) for slope in activation.slopes)
        return below, above
    if activation.learned is None:
        return None
    below, above = (
        np.full(units, slope.value)
        if slope.leaf is None
        else np.broadcast_to(on_host(slope.leaf, params.get(slope.leaf, np.zeros(0))), (units,))
        for slope in activation.learned
    )
    return below, above


def _mates(graph: Graph, site: Site, flow: Flow, params: Flat) -> tuple[tuple[Array, Array], ...]:
    affines = map(graph.affine, site.mates)
    layers = (_layer(affine, flow, parts_of(affine, params)) for affine in affines)
    return tuple((layer.kernel, layer.bias) for layer in layers)


def _layer(affine: Affine, flow: Flow, part: Parts) -> Layer:
    """Stacks what an affine map reads from the features and from the residual path."""
    where = affine.kernel[:-1] or (affine.name,)
    kernel, bias, linear, residual, down = (None if p is None else on_host(where, p) for p in part)
    reads = flow.main + flow.carried if down is None else down.shape[1]
    rows = [p for p in (kernel, residual) if p is not None]
    width = units_of(part)
    return Layer(
        kernel=np.concatenate(rows) if rows else np.zeros((reads, width)),
        bias=np.zeros((width,)) if bias is None else bias,
        linear=linear,
        residual=flow.residual,
        down=down,
        origin=np.arange(width),
    )


def _dtype(graph: Graph, params: Flat) -> DTypeLike:
    kernels = [params[a.kernel].dtype for a in graph.affines if a.kernel in params]
    return kernels[0] if kernels else np.float32


def write_chain(graph: Graph, params: Flat, chain: Chain, layers: Layers) -> Flat:
    """Returns the flat pytree with a chain's layers written in their smallest form.

    Arrays are cast to the dtype that the map's kernel has in ``params``.
    """
    flat = dict(params)
    layers = normalise(layers, single=graph.single(chain))
    main = layers[0].reads  # features that the next map reads by its kernel; the rest is residual
    entries = entry(graph, chain, params)
    if len(entries) == 1 and any(graph.trunks(chain)):
        main = entries[0][0]
    default = _dtype(graph, params)
    for depth, (names, layer) in enumerate(zip(chain.layers, layers, strict=True)):
        last = depth == len(layers) - 1
        summed = depth == 0 and len(entries) > 1
        if summed:
            maps = _terms(graph, chain, entries, layer)
        else:
            maps = _maps(graph, params, names, () if last else chain.sites[depth].mates, layer)
        for affine in (graph.affine(affine.name) for affine, _ in maps):
            scaling = () if affine.scaling is None else affine.scaling.leaves
            for path in (affine.kernel, affine.bias_path, *scaling, *map(affine.extra, _EXTRAS)):
                flat.pop(path, None)
        reads = [first for first, _ in entries] if summed else itertools.repeat(main)
        for (affine, own), first in zip(_joined(maps), reads, strict=False):
            dtype = params[affine.kernel].dtype if affine.kernel in params else default
            _put(flat, affine, own, first, dtype, last)
        if not last:
            paths = chain.sites[depth].unit_leaves
            flat = {path: leaf for path, leaf in flat.items() if path not in paths}
            if layer.units:
                flat |= dict(zip(paths, map(jnp.asarray, layer.unit_leaves), strict=True))
        if layer.units or layer.linears or not layer.residual:
            main = layer.units + layer.linears
    return flat


def readable(graph: Graph, params: Flat) -> bool:
    """Whether a pytree is one that chains know: least squares also folds what lies between them."""
    try:
        check_leaves(graph, params)
        all_flows(graph, params)
    except StructureError:
        return False
    return True


def simplest(graph: Graph, params: Flat) -> Flat:
    """The same function with every chain in normal form where that has fewer parameters.

    Chains of which others have their form (settled ones) stay as they are.
    """
    for chain in graph.chains if readable(graph, params) else ():
        if settled(graph, chain, params):
            continue
        written = write_chain(graph, params, chain, read_chain(graph, params, chain))
        params = written if _entries(written) < _entries(params) else params
    return params


def _entries(params: Flat) -> int:
    return sum(np.size(leaf) for leaf in params.values())


_EXTRAS = ("linear", "residual", "down")


def _maps(
    graph: Graph, params: Flat, names: tuple[str, ...], mates: tuple[str, ...], layer: Layer
) -> list[tuple[Affine, Layer]]:
    """The maps of one depth: several consumers, or a producer and a gated layer's other maps.

    These have the same units, and nothing beside them.
    """
    affines = [graph.affine(name) for name in names]
    ends: Any = np.cumsum([units_of(parts_of(a, params)) for a in affines])[:-1]
    runs = zip(np.split(layer.kernel, ends, axis=1), np.split(layer.bias, ends), strict=True)
    own = [layer._replace(kernel=kernel, bias=bias) for kernel, bias in runs]
    none = [(layer.kernel, layer.bias)] * len(mates)
    own += [Layer(*pair) for pair in (layer.mates if layer.units else none)]
    return list(zip((*affines, *map(graph.affine, mates)), own, strict=True))


def _terms(
    graph: Graph, chain: Chain, entries: tuple[tuple[int, int], ...], layer: Layer
) -> list[tuple[Affine, Layer]]:
    """The maps of a sum: each has its rows, the first has the bias."""
    linear, nothing = layer.linear, Layer(np.zeros((0, 0)), np.zeros(0))
    if not layer.units and linear is None and layer.residual:
        linear = np.zeros((layer.reads, 0))  # says what each of the vanished maps reads
    result, start = [], 0
    for index, (name, widths) in enumerate(zip(chain.firsts, entries, strict=True)):
        rows = slice(start, start + sum(widths))
        start = rows.stop
        affine = graph.affine(name)
        part = None if linear is None or not sum(widths) else linear[rows]
        own = layer._replace(kernel=layer.kernel[rows], linear=part)
        if index:
            affine = affine._replace(bias=None)
            own = own._replace(bias=np.zeros(layer.units)) if sum(widths) else nothing
        result.append((affine, own))
    return result


def _joined(maps: list[tuple[Affine, Layer]]) -> list[tuple[Affine, Layer]]:
    """Puts maps that are parts of one kernel side by side."""
    groups: dict[Path, list[tuple[Affine, Layer]]] = {}
    for affine, layer in maps:
        groups.setdefault(affine.kernel, []).append((affine, layer))
    result = []
    for group in groups.values():
        affine, first = group[0]  # what stands beside the units stands beside the producer's
        runs = [layer for _, layer in sorted(group, key=lambda one: one[0].part)]
        kernel = np.concatenate([run.kernel for run in runs], axis=1)
        bias = np.concatenate([run.bias for run in runs])
        result.append((affine, first._replace(kernel=kernel, bias=bias)))
    return result


def _put(flat: Flat, affine: Affine, layer: Layer, main: int, dtype: DTypeLike, last: bool) -> None:
    """Writes one affine map's leaves; those without entries are left out."""
    kernel, bias, had_bias = layer.kernel, layer.bias, affine.bias is not None

    def put(path: Path, matrix: Array) -> None:
        turned = matrix if affine.layout == (0, 1) else matrix.T
        flat[path] = on_device(turned, dtype)

    if layer.down is not None:
        put(affine.extra("down"), layer.down)
        main = layer.kernel.shape[0]
    constant = kernel.shape[0] == 0
    if kernel.shape[1] and not constant:
        put(affine.kernel, kernel[:main])
        if kernel.shape[0] > main:
            put(affine.extra("residual"), kernel[main:])
    if kernel.shape[1] and (had_bias or constant or bool(np.any(bias))):
        flat[affine.bias_path] = on_device(bias, dtype)
    if layer.linear is not None and not last:
        put(affine.extra("linear"), layer.linear)
