"""``save``: a network and its parameters in one file."""

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.errors import LinjaxError, StoreError, warn
from linjax.fold.compare import Comparison
from linjax.fold.report import Report
from linjax.net import Net
from linjax.program import pytree
from linjax.program.pytree import Leaf, join
from linjax.store import codec, files, keys, tensors
from linjax.store.export import Program, to_stablehlo
from linjax.store.manifest import FORMAT, PROGRAM, check_names, describe, digest, provenance_of


def save(
    path: str | os.PathLike[str],
    net: Net,
    params: Any,
    *,
    report: Report | None = None,
    measured: Comparison | None = None,
    note: str = "",
) -> None:
    """Saves a network, original or folded, so that it runs where its code isn't.

    One safetensors file holds the arrays in their dtypes, the network's description and
    provenance as JSON in the header, and ``net.apply`` as a ``jax.export`` program with a
    symbolic batch size. It is one file because only one file can be replaced as a whole:
    a save that is killed leaves the old one as it was. ``safetensors`` opens it, too.

    Args:
      path: where to; an earlier save there is replaced, anything else is refused.
      net: the network that ``params`` belong to, of :func:`trace`.
      params: its original parameters or folded ones.
      report: what the last fold did (of :func:`fold_and_report`), to be kept as provenance:
        its rule, its evidence, the predicted error, what became of each site.
      measured: how far the outputs are from the original's, of :func:`compare`, to be kept, too.
      note: anything else that whoever loads it should know.

    Raises:
      StoreError: if the place is taken by something else or can't be written, if a leaf
        or an input is of a kind that can't be stored, or if report or measured is of other
        parameters.
      StructureError: if params isn't that of this network.

    Example:
      >>> import jax, jax.numpy as jnp, linjax, os, tempfile
      >>> params = {"in": jnp.ones((2, 5)), "out": jnp.ones((5, 3))}
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
      >>> net = linjax.trace(apply, params, jnp.ones((1, 2)))
      >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
      >>> linjax.save(path, net, params)
      >>> stored, loaded = linjax.load(path)
      >>> stored.apply(loaded, jnp.ones((7, 2))).shape
      (7, 3)
    """
    path = files.place(path)
    if not isinstance(net, Net):
        raise StoreError(
            f"expected a network of linjax.trace, got {type(net).__name__}; "
            "one that was loaded without its function: linjax.load(path, apply_fn)"
        )
    _check_free(path)
    flat = pytree.flatten(params)
    leaves = pytree.leaves_of(params)
    check_names(leaves)
    net.check(params)
    provenance = provenance_of(net, leaves, report, measured, note)
    program = _program(net, params)
    if isinstance(program, Program) and program.batch is not None:
        warn(
            f"the stored program takes only batches of {program.batch}: {program.reason}; loaded "
            "with its function the network takes what that takes"
        )
    manifest = describe(net, params, leaves, provenance, program)
    arrays = {join(leaf.path): _host(leaf, flat[leaf.path]) for leaf in leaves}
    if isinstance(program, Program):
        arrays[PROGRAM] = np.frombuffer(program.code, np.uint8)
    text = json.dumps(codec.encode(manifest), allow_nan=False)
    texts = {"format": FORMAT, "manifest": text, "sha256": digest(text, tensors.blocks(arrays))}
    files.replace(path, lambda file: tensors.write(file, arrays, texts))


def _check_free(path: Path) -> None:
    """Refuses to replace anything but an earlier save."""
    if not os.path.lexists(path):
        return
    with files.opened(path) as (file, size):
        try:
            ours = tensors.read_header(file, size).metadata.get("format") == FORMAT
        except StoreError:
            ours = False
    if not ours:
        raise StoreError(
            f"{path}: exists and isn't a save of linjax; it is left alone: "
            "give another path or remove it"
        )


def _program(net: Net, params: Any) -> Program | str:
    """The program, or why there is none; the parameters are worth saving without it."""
    try:
        return to_stablehlo(net, params)
    except LinjaxError as error:
        return str(error)


def _host(leaf: Leaf, value: Any) -> np.ndarray:
    """Brings a leaf to the host in the dtype that JAX gives it."""
    try:
        return np.asarray(keys.to_numbers(leaf, value), jnp.dtype(keys.as_stored(leaf).dtype))
    except (RuntimeError, TypeError) as error:
        raise StoreError(f"{join(leaf.path)}: can't be brought to this host: {error}") from error
