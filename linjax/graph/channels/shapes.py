"""Numbers of channels, read off the shapes of a pytree's leaves, and whether these fit."""

import math

import jax.numpy as jnp

from linjax.errors import StructureError
from linjax.graph.channels import vanished
from linjax.graph.channels.members import Width, run_of
from linjax.graph.maps import Convolution, Path, Scaling, join
from linjax.graph.pytree import Flat
from linjax.graph.structure import ChannelSite, Graph


def width(site: ChannelSite, graph: Graph, flat: Flat) -> Width:
    """Reads a site's numbers of channels off the shapes of its producer's leaves.

    Raises:
      StructureError: if there are none, and the convolution can't have disappeared.
    """
    conv = graph.convolution(site.producer)
    if vanished.gone(conv, flat):
        return Width(0, _passed_on(site, conv, graph, flat))

    def channels(path: Path) -> int:
        leaf = flat.get(path)
        if leaf is None:
            return 0
        if jnp.ndim(leaf) != len(conv.axes):
            raise StructureError(
                f"{join(path)}: shape {jnp.shape(leaf)}, expected {len(conv.axes)} axes"
            )
        return int(jnp.shape(leaf)[conv.axes[-1]])

    return Width(channels(conv.kernel), channels(conv.extra("linear")))


def _passed_on(site: ChannelSite, conv: Convolution, graph: Graph, flat: Flat) -> int:
    """How many channels a convolution without a kernel passes on."""
    own = vanished.slides_as(graph, conv, flat) is conv
    if not own or not vanished.may_vanish(graph, site):
        raise StructureError(f"{join(conv.kernel)}: missing, expected a kernel")
    left = next((p for p in (conv.bias_path, conv.extra("linear_bias")) if p in flat), None)
    if left is not None:
        raise StructureError(f"{join(left)}: there without a kernel")
    before = vanished.source(graph, conv)
    return conv.inputs if before is None else width(before, graph, flat).total


def widths(graph: Graph, flat: Flat) -> dict[str, Width]:
    """Reads the numbers of channels of all sites."""
    return {site.name: width(site, graph, flat) for site in graph.channels}


def incoming(graph: Graph, flat: Flat) -> dict[str, int]:
    """Returns how many features the readers of channels read, by name."""
    features, known = {}, widths(graph, flat)
    for site in graph.channels:
        for reading in site.readings:
            whole = run_of(reading.members, known, site.name).whole
            features[reading.consumer] = whole.total * reading.outer * reading.inner
    return features


def check(graph: Graph, flat: Flat) -> None:
    """Checks the shapes of all convolutions' leaves.

    Raises:
      StructureError: naming the leaf whose shape doesn't fit, and the expected one.
    """
    reads = incoming(graph, flat)
    known = widths(graph, flat)
    for conv in graph.convolutions:
        own = known.get(conv.name, Width(conv.outputs, 0))
        check_scaling(conv.scaling, own.units, flat)
        if conv.name in known and vanished.gone(conv, flat):
            continue
        inputs = reads.get(conv.name, conv.inputs)
        window = vanished.slides_as(graph, conv, flat).window
        for path, outputs in ((conv.kernel, own.units), (conv.extra("linear"), own.linears)):
            if outputs or path in flat:
                shape = _leaf_shape(conv.axes, (*window, inputs // conv.groups, outputs))
                _expect(flat, path, shape)
        if inputs % conv.groups or own.units % conv.groups:
            raise StructureError(
                f"{join(conv.kernel)}: reads {inputs} channels for {own.units}, expected as many "
                f"in each of {conv.groups} groups"
            )
        for path, outputs, needed in (
            (conv.bias_path, own.units, conv.bias is not None and own.units > 0),
            (conv.extra("linear_bias"), own.linears, False),
        ):
            if needed or path in flat:
                _expect(flat, path, (outputs,), loose=path == conv.bias)
    for site in graph.channels:
        for leaf in site.unit_leaves:
            now = jnp.shape(flat[leaf.path]) if leaf.path in flat else ()
            units = run_of(leaf.members, known, site.name).whole.units
            if units and (len(now) <= leaf.axis or now[leaf.axis] != units):
                raise StructureError(
                    f"{join(leaf.path)}: shape {now}, expected {units} entries on axis {leaf.axis}"
                )
    for affine in graph.affines:
        if affine.name in reads and not graph.in_chain(affine.name):
            rows = flat[affine.kernel].shape[affine.layout[0]] if affine.kernel in flat else 0
            if rows != reads[affine.name]:
                raise StructureError(
                    f"{join(affine.kernel)}: {rows} inputs, expected {reads[affine.name]}"
                )


def check_scaling(scaling: Scaling | None, units: int, flat: Flat) -> None:
    """Checks that a per-unit affine map's parameters are there, one entry a unit, or all gone.

    Raises:
      StructureError: naming the first leaf that doesn't fit.
    """
    if scaling is None:
        return
    there = [path for path in scaling.leaves if path in flat]
    if there and len(there) != len(scaling.leaves):
        gone = next(p for p in scaling.leaves if p not in flat)
        raise StructureError(f"{join(gone)}: missing beside {join(there[0])}")
    for path in there:
        if math.prod(jnp.shape(flat[path])) != units:
            raise StructureError(
                f"{join(path)}: shape {jnp.shape(flat[path])}, expected ({units},)"
            )


def _expect(flat: Flat, path: Path, shape: tuple[int, ...], loose: bool = False) -> None:
    if path not in flat:
        raise StructureError(f"{join(path)}: missing, expected {shape}")
    have = tuple(jnp.shape(flat[path]))
    same = math.prod(have) == math.prod(shape) if loose else have == shape
    if not same:
        raise StructureError(f"{join(path)}: shape {have}, expected {shape}")


def _leaf_shape(axes: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for _, size in sorted(zip(axes, sizes, strict=True)))
