"""What a saved file says about its network, beside the arrays."""

import hashlib
import math
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from linjax.chains.reading import readable
from linjax.chains.structure import Graph
from linjax.errors import StoreError
from linjax.fold.compare import Comparison
from linjax.fold.report import Report
from linjax.net import Net
from linjax.program.count import count
from linjax.program.pytree import Leaf, join
from linjax.store import containers, keys, tensors
from linjax.store.export import Program
from linjax.store.outline import Outline, outlines
from linjax.store.shown import Shown, shown

SCHEMA = 1
FORMAT = "linjax"
PROGRAM = "linjax/program"  # the array that holds the program's bytes


class Spec(NamedTuple):
    """The shape and dtype of an input."""

    shape: tuple[int, ...]
    dtype: str


class Versions(NamedTuple):
    """What the file was written with."""

    linjax: str
    jax: str
    numpy: str
    python: str


class Folded(NamedTuple):
    """What became of one site: units before, kept, linear units beside them, a residual path."""

    name: str
    units: int
    kept: int
    linears: int
    residual: bool


class Measured(NamedTuple):
    """What a comparison with the original found; see :class:`linjax.Comparison`."""

    rows: int
    metric: str
    error: float
    agreement: float | None


class Provenance(NamedTuple):
    """How the network became what it is.

    Attributes:
      before: number of parameters of the traced network.
      after: number of parameters in the file.
      predicted: relative output error that the last fold predicted, None if it predicted none.
      sites: what the last fold did, empty if no report was given.
      rule: the rule of the last fold, empty if no report was given.
      evidence: what it went by.
      measured: how far the network is from the original, None if it wasn't given.
      note: what else its maker wrote.
    """

    before: int
    after: int
    predicted: float | None
    sites: tuple[Folded, ...]
    rule: str = ""
    evidence: str = ""
    measured: Measured | None = None
    note: str = ""


class Stored(NamedTuple):
    """What the file says of its program.

    Attributes:
      present: whether there is one.
      platforms: where it runs.
      batch: the only batch size that it takes, None if any.
      reason: why it takes only one, or why there is none.
    """

    present: bool
    platforms: tuple[str, ...]
    batch: int | None
    reason: str


class Manifest(NamedTuple):
    """A network without its arrays and without its function.

    Attributes:
      schema: version of this table.
      versions: what wrote the file.
      graph: the traced network's chains, its original shapes and dtypes among it.
      containers: the traced pytree's dicts and lists; None if they need a class.
      inputs: the containers of the example inputs.
      example: their shapes and dtypes.
      leaves: the parameters in the file.
      provenance: how they came to be.
      program: what the stored program takes.
      sites: all that folds, where that is more than units of chains.
      chained: whether it isn't, so that the chains say which sizes fit.
      shown: a few outputs of the parameters in the file; empty in files of before.
    """

    schema: int
    versions: Versions
    graph: Graph
    containers: Any
    inputs: Any
    example: tuple[Spec, ...]
    leaves: tuple[Leaf, ...]
    provenance: Provenance
    program: Stored
    sites: tuple[Outline, ...] = ()
    chained: bool = True
    shown: tuple[Shown, ...] = ()


def describe(
    net: Net, params: Any, leaves: tuple[Leaf, ...], provenance: Provenance, program: Program | str
) -> Manifest:
    """Describes a network and parameters of it.

    Args:
      net: the network.
      params: the parameters to be stored.
      leaves: what these are.
      provenance: how they came to be.
      program: the exported program, or why there is none.

    Raises:
      StoreError: if the inputs need a class of their own.
    """
    inputs = containers.skeleton(net.example)
    if inputs is None:
        raise StoreError("inputs: expected arrays in dicts, lists or tuples, to be told in a file")
    example = tuple(map(_spec, jax.tree.leaves(net.example)))
    stored = (
        Stored(False, (), None, program)
        if isinstance(program, str)
        else Stored(True, program.platforms, program.batch, program.reason)
    )
    told = {x.path: keys.hollow(x) for x in leaves}
    chained = net.chained and not net.graph.computed and readable(net.graph, told)
    return Manifest(
        SCHEMA,
        versions(),
        net.graph,
        containers.skeleton(net.template),
        inputs,
        example,
        leaves,
        provenance,
        stored,
        () if chained else outlines(net.network),
        chained,
        shown(net, params),
    )


def _spec(leaf: Any) -> Spec:
    """Describes an input.

    Raises:
      StoreError: if it can't be told in a file.
    """
    dtype = str(leaf.dtype)
    if not all(isinstance(n, int) for n in leaf.shape):
        raise StoreError(f"inputs: a symbolic shape {leaf.shape}; trace with sizes to save")
    try:
        known = keys.dtype_of(dtype) == leaf.dtype
    except TypeError:
        known = False
    if not known:
        kinds = ", ".join(keys.KINDS)
        raise StoreError(
            f"inputs: dtype {dtype} can't be told in a file; of random keys only {kinds} can, and "
            "raw ones (jax.random.PRNGKey)"
        )
    return Spec(tuple(leaf.shape), dtype)


def provenance_of(
    net: Net,
    leaves: tuple[Leaf, ...],
    report: Report | None,
    measured: Comparison | None,
    note: str,
) -> Provenance:
    """Gathers what is known of how parameters came to be.

    Raises:
      StoreError: if the report or the comparison is of other parameters.
    """
    before, after = count(net.template), count_leaves(leaves)
    known = Provenance(before, after, None, (), measured=_measured(measured, after), note=note)
    if report is None:
        return known
    if report.graph != net.graph or report.after != after:
        raise StoreError(
            f"report: it is of a fold to {report.after:,} parameters, these are {after:,}; "
            "give the report that came with these parameters, or none"
        )
    sites = tuple(
        Folded(name, int(s.before), np.shape(s.kept)[-1], int(s.linears), bool(s.residual))
        for name, s in report.sites.items()
    )
    return known._replace(
        predicted=_finite(report.predicted),
        sites=sites,
        rule=report.rule,
        evidence=report.evidence,
    )


def _measured(measured: Comparison | None, after: int) -> Measured | None:
    if measured is None:
        return None
    if measured.after != after:
        raise StoreError(
            f"measured: it is of {measured.after:,} parameters, these are {after:,}; "
            "compare these with the original"
        )
    error = _finite(measured.error)
    if error is None:
        raise StoreError(f"measured: its error is {measured.error}; nothing to keep")
    return Measured(measured.rows, measured.metric, error, _finite(measured.agreement))


def _finite(value: Any) -> float | None:
    """JSON has no infinities."""
    return float(value) if value is not None and math.isfinite(value) else None


def count_leaves(leaves: tuple[Leaf, ...]) -> int:
    """Counts parameters from their descriptions."""
    return count(list(map(keys.spec, leaves)))


def digest(manifest: str, blocks: Iterable[Any]) -> str:
    """The SHA-256 of the description and of all bytes behind the header."""
    sha = hashlib.sha256(manifest.encode())
    for block in blocks:
        sha.update(block)
    return sha.hexdigest()


def check_names(leaves: tuple[Leaf, ...]) -> None:
    """Checks that every array gets a name of its own, and one that leads nowhere as a path.

    Raises:
      StoreError: naming the leaf.
    """
    seen = {PROGRAM}
    for leaf in leaves:
        name = join(leaf.path)
        parts = name.replace("\\", "/").split("/")
        if not name or not {"", ".", ".."}.isdisjoint(parts) or not name.isprintable():
            raise StoreError(f"{name!r}: not a name for an array in a file; rename its keys")
        if name in seen:
            raise StoreError(f"{name}: two arrays would have this name; rename a key")
        if keys.as_stored(leaf).dtype not in tensors.CODES:
            kinds = ", ".join(tensors.CODES)
            raise StoreError(f"{name}: dtype {leaf.dtype} can't be stored; expected one of {kinds}")
        seen.add(name)


def versions() -> Versions:
    """What writes files now."""
    import linjax  # only by now is its version known: the package imports this module

    python = ".".join(map(str, sys.version_info[:3]))
    return Versions(linjax.__version__, jax.__version__, np.__version__, python)
