"""Holding a file against what it says of itself, before anything in it is used."""

from typing import Any, BinaryIO, NamedTuple

import jax

from linjax.chains.check import check_leaves
from linjax.chains.flow import all_flows
from linjax.chains.maps import Part
from linjax.chains.structure import Graph
from linjax.errors import LinjaxError, StoreError, StructureError
from linjax.program import pytree
from linjax.program.pytree import Leaf, join
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

_DROPPED = frozenset({"convolutions", "channels", "heads"})


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
    return codec.decode(Manifest, _of_today(data), "manifest")


def _of_today(data: dict[str, Any]) -> dict[str, Any]:
    """Drops what earlier versions told of convolutions and attention in the graph.

    Where there was any, more may have been folded than chains, of which the sizes aren't told.
    """
    graph = data.get("graph")
    if not isinstance(graph, dict) or _DROPPED.isdisjoint(graph):
        return data
    left = {name: value for name, value in graph.items() if name not in _DROPPED}
    told = any(graph.get(name) for name in _DROPPED)
    return {"chained": not told, **data, "graph": left}


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
    for leaf in graph.leaves:
        keys.check_kept(leaf)
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
    specs = [jax.ShapeDtypeStruct(s.shape, keys.dtype_of(s.dtype)) for s in manifest.example]
    example = containers.rebuild(manifest.inputs, specs, "inputs")
    if type(example) is not tuple:
        raise StoreError("inputs: expected a tuple")
    flat = {leaf.path: keys.hollow(leaf) for leaf in manifest.leaves}
    if manifest.chained:
        check_leaves(graph, flat)
        all_flows(graph, flat)
    else:
        _check_leaves(graph, manifest.leaves)
    counts = (manifest.provenance.before, manifest.provenance.after)
    if counts != (count_leaves(graph.leaves), count_leaves(manifest.leaves)):
        raise StoreError("provenance: its parameter counts aren't those of the arrays")
    return template, example


def _check_leaves(graph: Graph, leaves: tuple[Leaf, ...]) -> None:
    """Every array is one of the network's, or one that a fold put beside it.

    Which sizes fit is known once the network has been traced.
    """
    known = {leaf.path: leaf for leaf in graph.leaves}
    for path, shape, dtype in leaves:
        old = known.get(path)
        if old is None:
            beside = (p for p in known if path[:-1] == p[:-1])
            extra = any(path[-1].startswith(f"{p[-1]}_") for p in beside)
            if not extra and path[0] != pytree.CONSTANTS:
                raise StructureError(f"{join(path)}: not a parameter of this network")
        elif len(shape) != len(old.shape):
            raise StructureError(f"{join(path)}: shape {shape}, expected {len(old.shape)} axes")
        elif pytree.is_floating(dtype) != pytree.is_floating(old.dtype):
            raise StructureError(f"{join(path)}: dtype {dtype}, expected {old.dtype}")


def _check_graph(graph: Graph) -> None:
    """Every name in a graph leads to something in it."""
    names = [affine.name for affine in graph.affines]
    paths = {leaf.path for leaf in (*graph.leaves, *graph.computed)}
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
    if not sound:
        raise StoreError("manifest: its graph contradicts itself")


def _parts_meet(graph: Graph) -> bool:
    """Whether kernels that several maps share are each one gated layer's, all parts of it."""
    columns = {leaf.path: leaf.shape for leaf in (*graph.leaves, *graph.computed)}
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
