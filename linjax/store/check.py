"""Holding a file against what it says of itself, before anything in it is used."""

import math
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.errors import LinjaxError, StoreError
from linjax.graph import pytree
from linjax.graph.flow import all_flows
from linjax.graph.maps import Part, join
from linjax.graph.structure import Graph, Leaf, Member
from linjax.store import codec, containers, keys, tensors
from linjax.store.manifest import (
    FORMAT,
    PROGRAM,
    SCHEMA,
    Manifest,
    check_names,
    count_leaves,
    digest,
)
from linjax.store.tensors import Header


class Contents(NamedTuple):
    """A checked file: its description, where its arrays lie, and the pytrees of the trace."""

    manifest: Manifest
    header: Header
    template: Any
    example: tuple[Any, ...]


def contents(file: BinaryIO, size: int) -> Contents:
    """Checks everything about a file but its program; reads no array.

    Raises:
      StoreError: if the file is damaged, contradicts itself, or is of a newer linjax.
      StructureError: if its parameters don't fit its network.
    """
    header = tensors.read_header(file, size)
    if header.metadata.get("format") != FORMAT:
        raise StoreError("a safetensors file, but not one of linjax.save")
    if header.metadata.keys() != {"format", "manifest", "sha256"}:
        raise StoreError("header: expected format, manifest and sha256")
    text = header.metadata["manifest"]
    manifest = read_manifest(text)
    _check_arrays(manifest, header)
    try:
        found = digest(text, tensors.bytes_of(file, header))
    except UnicodeEncodeError as error:
        raise StoreError("manifest: not text") from error
    if found != header.metadata["sha256"]:
        raise StoreError("damaged: the bytes don't have the SHA-256 that they were saved with")
    try:
        template, example = _check_network(manifest)
    except LinjaxError:
        raise
    except Exception as error:  # a hostile graph can mislead the checks in any way
        raise StoreError(f"manifest: its graph contradicts itself: {error!s:.200}") from error
    return Contents(manifest, header, template, example)


def read_manifest(text: str) -> Manifest:
    """Reads the description of a network.

    Raises:
      StoreError: if it is malformed or of a newer linjax.
    """
    data = tensors.parse(text, "manifest")
    schema = data.get("schema") if isinstance(data, dict) else None
    if type(schema) is not int or schema < 1:
        raise StoreError("manifest: has no schema version")
    if schema > SCHEMA:
        raise StoreError(
            f"saved by a newer linjax: schema {schema}, this one reads up to {SCHEMA}; "
            "upgrade linjax"
        )
    return codec.decode(Manifest, data, "manifest")


def _check_arrays(manifest: Manifest, header: Header) -> None:
    """The header's arrays are those of the manifest, and the program."""
    check_names(manifest.leaves)
    want = {join(leaf.path): leaf for leaf in manifest.leaves}
    have = header.entries.keys() - {PROGRAM}
    for name in sorted(have ^ want.keys()):
        raise StoreError(f"{name:.200}: {'unexpected' if name in have else 'missing'}")
    for name, leaf in want.items():
        entry, leaf = header.entries[name], keys.as_stored(leaf)
        if (entry.shape, entry.dtype) != (leaf.shape, leaf.dtype):
            raise StoreError(
                f"{name}: {entry.dtype} {entry.shape}, expected {leaf.dtype} {leaf.shape}"
            )
    program = header.entries.get(PROGRAM)
    if (program is not None) != manifest.program.present:
        raise StoreError(f"{PROGRAM}: {'unexpected' if program else 'missing'}")
    if program and (program.dtype != "uint8" or len(program.shape) != 1):
        raise StoreError(f"{PROGRAM}: {program.dtype} {program.shape}, expected bytes")


def _check_network(manifest: Manifest) -> tuple[Any, tuple[Any, ...]]:
    """The parameters fit the graph, the graph itself; returns the trace's pytrees."""
    graph = manifest.graph
    check_names(graph.leaves)
    _check_graph(graph)
    shapes = list(map(keys.spec, graph.leaves))
    if manifest.containers is None:
        paths = [leaf.path for leaf in graph.leaves]
        template = pytree.unflatten(dict(zip(paths, shapes, strict=True)))
        same = set(pytree.leaves_of(template)) == set(graph.leaves)
    else:
        template = containers.rebuild(manifest.containers, shapes, "containers")
        same = pytree.leaves_of(template) == graph.leaves
    if not same or not graph.leaves:
        raise StoreError("containers: not those of the graph's leaves")
    specs = [jax.ShapeDtypeStruct(spec.shape, jnp.dtype(spec.dtype)) for spec in manifest.example]
    example = containers.rebuild(manifest.inputs, specs, "inputs")
    if type(example) is not tuple:
        raise StoreError("inputs: expected a tuple")
    flat = {leaf.path: _hollow(leaf) for leaf in manifest.leaves}
    pytree.check_leaves(graph, flat)
    all_flows(graph, flat)
    counts = (manifest.provenance.before, manifest.provenance.after)
    if counts != (count_leaves(graph.leaves), count_leaves(manifest.leaves)):
        raise StoreError("provenance: its parameter counts aren't those of the arrays")
    return template, example


def _check_graph(graph: Graph) -> None:
    """Every name in a graph leads to something in it."""
    names = [affine.name for affine in graph.affines]
    paths = {leaf.path for leaf in graph.leaves}
    sound = len(set(names)) == len(names) and all(
        affine.kernel in paths
        and affine.layout in ((0, 1), (1, 0))
        and (affine.bias is None or affine.bias in paths)
        for affine in graph.affines
    )
    for chain in graph.chains:
        sound &= len(chain.layers) == len(chain.sites) + 1 > 1
        sound &= all(name in names for group in chain.layers for name in group)
        sound &= all(len(group) == 1 for group in chain.layers[:-1]) and bool(chain.layers[-1])
        for site, group, readers in zip(chain.sites, chain.layers, chain.layers[1:], strict=False):
            sound &= (site.producer,) == group and set(readers) <= set(site.consumers)
            sound &= all(name in names for name in (*site.consumers, *site.mates, *site.terms))
            sound &= not site.terms or site is chain.sites[0]
            sound &= all(graph.affine(n).outputs == site.width for n in site.terms if n in names)
            sound &= site.width == graph.affine(site.producer).outputs
            sound &= all(path in paths for path in site.unit_leaves)
            sound &= all(s.leaf is None or s.leaf in paths for s in site.activation.learned or ())
    sound &= _parts_meet(graph)
    maps = {*names, *(convolution.name for convolution in graph.convolutions)}
    sound &= len(maps) == len(names) + len(graph.convolutions)
    sound &= all(c.kernel in paths and c.bias in (None, *paths) for c in graph.convolutions)
    for channel in graph.channels:
        sound &= channel.width == graph.convolution(channel.producer).outputs
        sound &= all(reading.consumer in maps for reading in channel.readings)
        sound &= all(leaf.path in paths for leaf in channel.unit_leaves)
    sound &= _side_by_side(graph)
    shapes = {leaf.path: math.prod(leaf.shape) for leaf in graph.leaves}
    for one in graph.heads:
        features = one.heads * one.width
        sound &= shapes.get(one.value) == one.inputs * features
        sound &= shapes.get(one.kernel) == one.outputs * features * one.repeats
        sound &= one.value_bias is None or shapes.get(one.value_bias) == features
        sound &= one.bias is None or shapes.get(one.bias) == one.outputs
    if not sound:
        raise StoreError("manifest: its graph contradicts itself")


def _side_by_side(graph: Graph) -> bool:
    """Whether all sites say the same of the channels that are read together."""
    widths = {site.name: site.width for site in graph.channels}
    said: dict[Any, dict[str, tuple[Member, ...]]] = {}
    for site in graph.channels:
        for reading in site.readings:
            said.setdefault(reading.consumer, {})[site.name] = reading.members
        for leaf in site.unit_leaves:
            said.setdefault(leaf.path, {})[site.name] = leaf.members
    for site_of in said.values():
        members = next(iter(site_of.values()))
        alone = len(site_of) == 1 and not any(site_of.values())
        named = [(m.site, m.width) for m in members if m.site]
        fits = set(site_of.values()) == {members} and dict(named) == {n: widths[n] for n in site_of}
        fits &= len(named) == len(site_of) and all(m.width > 0 for m in members)
        if not alone and not fits:
            return False
    return True


def _parts_meet(graph: Graph) -> bool:
    """Whether kernels that several maps share are each one gated layer's, all parts of it."""
    columns = {leaf.path: leaf.shape for leaf in graph.leaves}
    left = {affine.name for affine in graph.affines if affine.part != Part()}
    for site in graph.sites:
        own = [graph.affine(n) for n in (site.producer, *site.mates) if n in left]
        for kernel in {affine.kernel for affine in own}:
            parts = [affine for affine in own if affine.kernel == kernel]
            of, width = len(parts), columns[kernel][parts[0].layout[1]]
            left -= {
                affine.name
                for number, affine in enumerate(sorted(parts, key=lambda one: one.part))
                if affine.part == Part(number, of) and affine.outputs * of == width
                and (affine.bias, affine.layout) == (parts[0].bias, parts[0].layout)
            }  # fmt: skip
    return not left


def _hollow(leaf: Leaf) -> Any:
    """Something of this shape and dtype that takes no memory."""
    if leaf.dtype in keys.KINDS:
        return keys.spec(leaf)
    return np.broadcast_to(np.zeros((), jnp.dtype(leaf.dtype)), leaf.shape)
