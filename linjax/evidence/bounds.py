"""Bounds of pre-activations over a box of inputs, and the proofs that go with them."""

import dataclasses
import enum
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.chains.structure import Graph
from linjax.dims.computed import Computed
from linjax.program import pytree
from linjax.program.pytree import Leaf, join

Array = Any


class Verdict(enum.IntEnum):
    """What is proven of a unit's pre-activation z over the box."""

    UNDECIDED = 0
    ACTIVE = 1  # z >= 0 everywhere
    INACTIVE = 2  # z <= 0 everywhere
    UNSTABLE = 3  # z < 0 at one witness, z > 0 at another


class How(enum.IntEnum):
    """The stage that settled a verdict."""

    OPEN = 0
    CLOSED_FORM = 1
    INTERVAL = 2
    CROWN = 3
    ALPHA_CROWN = 4
    BRANCHING = 5
    WITNESS = 6
    MILP = 7


class Proofs(NamedTuple):
    """Linear bounds of a site's units, in the form that re-evaluates to the bound.

    A row bounds ``sign · z[unit]`` from above, where the pre-activations of earlier steps
    have the signs of ``splits``. The rows of one unit and sign are the leaves of a tree of
    splits: together they cover the box. A bound without branching is a single leaf.

    Attributes:
      unit: ``(n,)`` int32.
      sign: ``(n,)`` int8, 1 or -1.
      params: per earlier step ``(n, w)``: the slope α in [0, 1], or for a split unit the
        multiplier β ≥ 0. Float32 suffices without splits.
      splits: per earlier step ``(n, w)`` int8: 1 for z ≥ 0, -1 for z ≤ 0, 0 for either.
    """

    unit: Array
    sign: Array
    params: tuple[Array, ...]
    splits: tuple[Array, ...]


class SiteBounds(NamedTuple):
    """What is known of the k units of a site.

    Attributes:
      lower: ``(k,)`` float64, z is never less.
      upper: ``(k,)`` float64, z is never greater.
      verdict: ``(k,)`` int8, see :class:`Verdict`.
      how: ``(k,)`` int8, see :class:`How`.
      margin: ``(k,)`` float64: how far from zero the proven bound is, for unstable units
        the witness that is closer to it; 0 for undecided ones.
      witness: ``(k, 2)`` int32: the rows of ``points`` at which the unit is off and on; -1
        where no such input is known.
      points: ``(n, p)`` float64 inputs.
      proofs: the linear bounds, for :func:`linjax.check_certificate`.
      leaves: those by branching.
    """

    lower: Array
    upper: Array
    verdict: Array
    how: Array
    margin: Array
    witness: Array
    points: Array
    proofs: Proofs
    leaves: Proofs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bounds:
    """Verdicts on every unit over a box of inputs; made by :func:`linjax.certify`.

    Attributes:
      lower: ``(p,)`` float64, the box's lower side.
      upper: ``(p,)`` float64, the box's upper side.
      sites: what is known at each site, in the order of ``graph.sites``.
      graph: the network that the bounds are of.
      leaves: the parameter pytree that they are of.
      fingerprint: of its numbers: bounds hold for no others.
      reasons: why nothing could be proven of some sites, which are undecided.
      computed: which leaves of the network are computed of the pytree's, None if none are.
    """

    lower: Array
    upper: Array
    sites: tuple[SiteBounds, ...]
    graph: Graph = dataclasses.field(metadata={"static": True})
    leaves: tuple[Leaf, ...] = dataclasses.field(metadata={"static": True})
    fingerprint: str = dataclasses.field(metadata={"static": True})
    reasons: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    computed: Computed | None = dataclasses.field(default=None, metadata={"static": True})

    def flatten(self, params: Any) -> pytree.Flat:
        """Returns a pytree's leaves by path as the network takes them."""
        flat = pytree.flatten(params)
        return flat if self.computed is None else self.computed.flatten(flat)

    def __repr__(self) -> str:
        table = summary(self.sites, [site.name for site in self.graph.sites])
        return "\n".join([table, *(f"undecided: {reason}" for reason in self.reasons)])


def unknown(units: int) -> SiteBounds:
    """What is known of a site that wasn't looked at: nothing."""
    none = np.zeros(units, np.int8)
    nothing = Proofs(np.zeros(0, np.int32), np.zeros(0, np.int8), (), ())
    return SiteBounds(
        lower=np.full(units, -np.inf),
        upper=np.full(units, np.inf),
        verdict=none,
        how=none,
        margin=np.zeros(units),
        witness=np.full((units, 2), -1, np.int32),
        points=np.zeros((0, 0)),
        proofs=nothing,
        leaves=nothing,
    )


def fingerprint(params: Any) -> str:
    """Returns a digest of every leaf's path, dtype, shape and numbers."""
    digest = hashlib.sha256()
    for path, leaf in sorted(pytree.flatten(params).items()):
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        digest.update(f"{join(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def summary(sites: tuple[SiteBounds, ...], names: list[str]) -> str:
    """Returns a table: per site how many units have which verdict, and by which stage."""
    verdicts = [v for v in Verdict if v != Verdict.UNDECIDED] + [Verdict.UNDECIDED]
    stages = [h for h in How if h != How.OPEN and any((s.how == h).any() for s in sites)]
    head = ["site", "units", *(v.name.lower() for v in verdicts)]
    head += [h.name.lower().replace("_", "-") for h in stages]
    rows = [
        [name, str(len(s.verdict))]
        + [str(int(np.sum(s.verdict == v))) for v in verdicts]
        + [str(int(np.sum(s.how == h))) for h in stages]
        for name, s in zip(names, sites, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    )
