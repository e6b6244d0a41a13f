"""``load``: a network from its file, with its function or without."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from linjax.chains.check import is_original
from linjax.chains.structure import Graph
from linjax.chains.table import describe as describe_chains
from linjax.errors import LinjaxError, StoreError, StructureError
from linjax.net import Net, trace
from linjax.program import pytree
from linjax.program.placed import placed
from linjax.program.pytree import Leaf, join
from linjax.store import containers, files, keys, tensors
from linjax.store.check import Contents, contents
from linjax.store.manifest import PROGRAM, Manifest, versions
from linjax.store.outline import describe, outlines
from linjax.store.shown import check_shown


@dataclasses.dataclass(frozen=True, eq=False)
class StoredNet:
    """A network that runs without its code, made by :func:`load`; prints like a Net.

    :func:`certify`, :func:`check_certificate` and :func:`count` take it, too.

    Attributes:
      graph: the static description of the network that was traced.
      manifest: everything that the file says: shapes, provenance, versions.
      exported: the program, of ``jax.export``.
    """

    graph: Graph
    manifest: Manifest
    exported: jax_export.Exported

    @property
    def example(self) -> tuple[Any, ...]:
        """The inputs that the network was traced with, as shapes and dtypes."""
        specs = [
            jax.ShapeDtypeStruct(s.shape, keys.dtype_of(s.dtype)) for s in self.manifest.example
        ]
        return tuple(containers.rebuild(self.manifest.inputs, specs, "inputs"))

    def apply(self, params: Any, *inputs: Any) -> Any:
        """Runs the stored program; works under ``jit``, not under ``grad`` or ``vmap``.

        Args:
          params: the loaded parameters, or others of the same paths, shapes and dtypes.
          *inputs: what the network's function took; the batch size is free if it could be
            exported so.

        Returns:
          What the network's function returned. Where no argument is bound to a device, no result
          is either, so that it may meet arrays of other devices.

        Raises:
          StructureError: if parameters or inputs don't fit, naming the expected shape.
        """
        flat = pytree.flatten(params)
        _check_params(self.manifest.leaves, params)
        shaped = jax.tree.map(jnp.asarray, inputs)
        try:
            results = self.exported.call(pytree.unflatten(flat), *shaped)
        except (ValueError, TypeError) as error:
            want = ", ".join(f"{spec.dtype} {spec.shape}" for spec in self.manifest.example)
            free = "the first axis is free" if self.manifest.program.batch is None else "exactly"
            raise StructureError(
                f"the stored program takes {want} ({free}): {error!s:.300}"
            ) from error
        return _placed(results, (flat, shaped))

    def __repr__(self) -> str:
        if self.manifest.sites:
            return describe(self.manifest.sites, self.manifest.provenance.before)
        return describe_chains(self.graph)


def _placed(results: Any, given: Any) -> Any:
    """Frees results from the device that a stored program leaves them on, if none was asked for.

    JAX binds what such a program returns to its device, and refuses to compute with that and with
    arrays of other devices. A copy isn't bound.
    """
    arrays = [x for x in jax.tree.leaves((results, given)) if isinstance(x, jax.Array)]
    traced = any(isinstance(x, jax.core.Tracer) for x in arrays)
    if jax.device_count() == 1 or traced or any(x.committed for x in jax.tree.leaves(given)
                                                if isinstance(x, jax.Array)):  # fmt: skip
        return results

    def free(x: Any) -> Any:
        keyed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return x if keyed else jnp.asarray(np.asarray(x))

    return jax.tree.map(free, results)


@overload
def load(path: str | os.PathLike[str], apply_fn: None = None) -> tuple[StoredNet, Any]: ...
@overload
def load(
    path: str | os.PathLike[str], apply_fn: Callable[..., Any], *, like: Any = None
) -> tuple[Net, Any]: ...
def load(
    path: str | os.PathLike[str], apply_fn: Callable[..., Any] | None = None, *, like: Any = None
) -> tuple[Net | StoredNet, Any]:
    """Loads what :func:`save` wrote; needs no class, no pickle, and not the model's code.

    Sizes, names, dtypes, structure and checksum are checked before an array is allocated.
    The checksum guards against damage, not against malice: without ``apply_fn`` the stored
    program is compiled and run when applied, so do that with files that you trust. With
    ``apply_fn`` the program isn't opened.

    Args:
      path: the file.
      apply_fn: the network's function, as it was traced; it is traced anew and must have
        the sites that the file tells of, and compute what the stored parameters computed.
      like: a pytree of the original's structure, where its parameters were in containers of a
        class (Equinox modules, NamedTuples, dataclasses); without it ``apply_fn`` gets a nested
        dict with the same paths then. Its values don't matter.

    Returns:
      ``(net, params)``. With ``apply_fn`` a :class:`Net`, which trains and folds further;
      without it a :class:`StoredNet`, which runs. ``params`` has the original's containers
      if it wasn't folded, else it is a nested dict.

    Raises:
      StoreError: if the file is missing, damaged, hostile, of a newer linjax, or has no
        program and no ``apply_fn`` is given.
      StructureError: if ``apply_fn`` is another network's, naming the path and what was
        expected.

    Example:
      >>> import jax, jax.numpy as jnp, linjax, os, tempfile
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
      >>> params = {"in": jnp.ones((2, 5)), "out": jnp.ones((5, 3))}
      >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
      >>> linjax.save(path, linjax.trace(apply, params, jnp.ones((1, 2))), params)
      >>> net, params = linjax.load(path, apply)
      >>> net
      1 foldable sites, 25 parameters
      ...
    """
    path = files.place(path)
    with files.opened(path) as (file, size):
        try:
            found = contents(file, size)
            arrays = {
                leaf.path: _on_device(leaf, tensors.read(file, found.header, join(leaf.path)))
                for leaf in found.manifest.leaves
            }
            code = (
                tensors.read(file, found.header, PROGRAM).tobytes()
                if _runs(found, apply_fn)
                else b""
            )
        except LinjaxError as error:
            raise type(error)(f"{path}: {error}") from error
    if apply_fn is None:
        net: Any = _stored(found, code, path)
    else:
        net = _retraced(found, apply_fn, like)
        _check_sizes(net, pytree.unflatten(arrays))
    params = pytree.unflatten(arrays)
    if is_original(found.manifest.graph, arrays):
        params = pytree.contained(arrays, net.template if apply_fn else found.template)
    if apply_fn is not None:
        check_shown(net, params, found.manifest.shown)
    return net, params


def _runs(found: Contents, apply_fn: Callable[..., Any] | None) -> bool:
    """Whether the stored program is what will run."""
    if apply_fn is None and not found.manifest.program.present:
        raise StoreError(
            f"no program was stored ({found.manifest.program.reason}); "
            "give the network's function: linjax.load(path, apply_fn)"
        )
    return apply_fn is None


def _on_device(leaf: Leaf, array: Any) -> Any:
    keys.check_kept(leaf)
    return keys.from_numbers(leaf, placed(array))


def _stored(found: Contents, code: bytes, path: Path) -> StoredNet:
    """Opens the program and holds its parameters against the file's."""
    manifest = found.manifest
    try:
        exported = jax_export.deserialize(bytearray(code))
        if exported.nr_devices != 1:
            raise ValueError("a later jax's fields, misread")
        (params, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        specs = tuple((path, v.shape, str(v.dtype)) for path, v in pytree.flatten(params).items())
    except Exception as error:  # whatever damaged bytes make of the reader
        raise StoreError(
            f"{path}: jax {jax.__version__} can't read the stored program (written by "
            f"{manifest.versions.jax}); give the network's function: linjax.load(path, apply_fn)"
        ) from error
    if set(specs) != {tuple(leaf) for leaf in manifest.leaves}:
        raise StoreError(f"{path}: the stored program is one for other parameters")
    return StoredNet(manifest.graph, manifest, exported)


def _retraced(found: Contents, apply_fn: Callable[..., Any], like: Any) -> Net:
    """Traces the user's function and compares it with the network that was saved."""
    manifest, template = found.manifest, found.template
    if like is not None:
        shapes, given = pytree.flatten(template), pytree.flatten(like)
        for path in shapes.keys() ^ given.keys():
            where = "like" if path in given else "the file"
            raise StructureError(f"{join(path)}: only {where} has it")
        template = pytree.contained(shapes, like)
    try:
        net = trace(apply_fn, template, *found.example)
    except LinjaxError:
        raise
    except Exception as error:
        leaves = ", ".join(f"{join(leaf.path)} {leaf.shape}" for leaf in manifest.graph.leaves[:8])
        ours = like is None and manifest.containers is None
        way = "; or they were in containers of a class: linjax.load(path, apply_fn, like=model)"
        raise StructureError(
            f"apply_fn doesn't run on the stored network's parameters ({leaves}): {error!s:.300}"
            + way * ours
        ) from error
    _compare(net, manifest)
    return net


def _check_sizes(net: Net, params: Any) -> None:
    """Checks what can't be known before the network has been traced."""
    foreign = ("_residual", "_linear_bias") if not net.graph.chains else ("_linear_bias",)
    extra = next((p for p in pytree.flatten(params) if p[-1].endswith(foreign)), None)
    known = {leaf.path for leaf in net.graph.leaves}
    if extra is not None and extra not in known:
        raise StoreError(
            f"{join(extra)}: an earlier linjax folded this network in another way; load it without "
            "apply_fn, or fold the original anew"
        )
    net.check(params)


def _compare(net: Net, manifest: Manifest) -> None:
    """Checks that every stored site is there; a later linjax may find more of them."""
    _compare_chains(net, manifest.graph)
    found = outlines(net.network) if manifest.sites else ()
    exactly = manifest.versions[:2] == versions()[:2]  # else operations may have other names
    for want in manifest.sites:
        if not any(have.fits(want, exactly) for have in found):
            raise StructureError(
                f"{', '.join(want.made)}: expected {want.width} coordinates "
                f"({', '.join(want.steps) or want.form}), read by {', '.join(want.read)}; "
                "apply_fn computes something else"
            )


def _compare_chains(net: Net, stored: Graph) -> None:
    found = net.graph
    sites = {found.affine(site.producer).kernel: site for site in found.sites}
    made = {
        (net.network.paths[maker.leaf], site.width)
        for site in (() if net.network.dense else net.network.sites)  # those of no chain
        for maker in site.makers
        if maker.leaf is not None
    }
    for want in stored.sites:
        producer = stored.affine(want.producer)
        have = sites.get(producer.kernel)
        if have is None and (producer.kernel, want.width) in made:
            continue
        if have is None or _outline(found, have) != _outline(stored, want):
            feeds = ", ".join(join(stored.affine(name).kernel) for name in want.consumers)
            raise StructureError(
                f"{join(producer.kernel)}: expected {producer.inputs} inputs, {want.width} units "
                f"with {want.activation.name}, read by {feeds}; apply_fn computes something else"
            )


def _outline(graph: Graph, site: Any) -> Any:
    """A site by its paths: names are chosen by the trace."""
    readers = {graph.affine(name)._replace(name="") for name in site.consumers}
    made_of = [graph.affine(name)._replace(name="") for name in site.maps]
    return made_of, readers, site.activation, site.unit_leaves


def _check_params(leaves: tuple[Leaf, ...], params: Any) -> None:
    have = {leaf.path: leaf for leaf in pytree.leaves_of(params)}
    want = {leaf.path: leaf for leaf in leaves}
    for path in sorted(have.keys() ^ want.keys()):
        raise StructureError(f"{join(path)}: {'unexpected' if path in have else 'missing'}")
    for path, leaf in want.items():
        if have[path] != leaf:
            raise StructureError(
                f"{join(path)}: {have[path].dtype} {have[path].shape}, "
                f"expected {leaf.dtype} {leaf.shape}"
            )
