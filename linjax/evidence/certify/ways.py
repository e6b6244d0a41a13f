"""What the function itself does around the maps of a chain, derived from its program.

A certificate is about real numbers: the box, the kernels, the activations. That these are what
the function computes with is part of the proof. Here it is derived from the primitives, anew for
each certificate and for each check, and refused by name where it doesn't follow: which input of
the network each feature of the first map is, how it is cast on its way, to which dtype every
parameter is cast, and that activations have the slopes that they are taken to have.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from linjax.chains import activation
from linjax.chains.check import check_leaves, foldable_paths
from linjax.chains.dtypes import computed_dtypes
from linjax.chains.flow import unread
from linjax.chains.maps import Activation, Slope
from linjax.chains.structure import Chain, Site
from linjax.chains.view import View
from linjax.dims.leaves import check, check_widths
from linjax.errors import EvidenceError
from linjax.exact.casts import cast_keeps
from linjax.exact.scalar import Scalar
from linjax.net import Net
from linjax.program import pytree
from linjax.program.flat import Operand, Ref
from linjax.program.pytree import Flat, join

Array = Any

BEFORE = (
    "whose range isn't followed: trace and certify what comes behind, on a box of what it is given"
)


class Entry(NamedTuple):
    """How a chain's first map reads the network's first input.

    Attributes:
      features: number of features that are read.
      inner: numbers of an input between one feature and the next, 0 where features aren't each
        the same numbers of every input: then all that is known is that they are some of them.
      casts: the dtypes that they are cast to on their way, one after another.
    """

    features: int
    inner: int
    casts: tuple[Any, ...]

    def box(self, lower: Array, upper: Array) -> tuple[np.ndarray, np.ndarray]:
        """The smallest box that holds each feature at all positions, and what casts make of it.

        Casts round to nearest, which keeps the order: what lies in the box stays between its
        rounded sides.
        """
        if not self.inner:
            lower, upper = (
                np.full(self.features, np.min(lower)),
                np.full(self.features, np.max(upper)),
            )
        low, high = (self.rows(side[None]) for side in (lower, upper))
        low, high = low.min(axis=0), high.max(axis=0)
        for dtype in self.casts:
            with np.errstate(over="ignore"):  # beyond the dtype: unbounded, which is refused
                low = np.minimum(low, low.astype(dtype).astype(np.float64))
                high = np.maximum(high, high.astype(dtype).astype(np.float64))
        return low, high

    def rows(self, inputs: Array) -> np.ndarray:
        """Inputs ``(n, …)`` as rows of features, one for each position."""
        parts = np.reshape(inputs, (-1, self.features, max(self.inner, 1)))
        return np.moveaxis(parts, 1, 2).reshape(-1, self.features)


class Ways(NamedTuple):
    """What is derived of a network and of parameters.

    Attributes:
      flat: the parameters as the function computes with them.
      entries: for each chain how it reads the input, or why it isn't known to.
    """

    flat: Flat
    entries: tuple[Entry | str, ...]


def ways_of(net: Net, params: Any) -> Ways:
    """Derives what stands between inputs, parameters and maps from the function's program.

    Of a chain that reads the input it is proved, too, that its activations have the slopes that
    their sites say; where one hasn't, that is the reason in the entry's place.

    Raises:
      EvidenceError: naming a parameter that is used in several dtypes.
      StructureError: if params doesn't fit the network, naming the path.
    """
    flat = net.network.flatten(params) if isinstance(net, Net) else pytree.flatten(params)
    if not isinstance(net, Net):
        check_leaves(net.graph, flat)
        return _as_told(net, flat)
    check(net.network, flat)
    check_widths(net.network, flat)
    if not net.graph.chains:
        return Ways(flat, ())
    found = net.examined(flat)
    entries: list[Entry | str] = []
    for chain in net.graph.chains:
        why = unread(net.graph, chain, flat)
        entry = f"{chain.layers[0][0]}: {why}" if why else _entry(net, found, chain)
        for site in chain.sites if isinstance(entry, Entry) else ():
            entry = _other_slopes(found, site) or entry
        entries.append(entry)
    return Ways(_as_computed(found, flat), tuple(entries))


def example_shape(net: Any) -> tuple[int, ...]:
    """Shape of one example of the first input, whose first axis is the batch."""
    return tuple(jax.tree.leaves(net.example)[0].shape[1:])


def _as_told(net: Any, flat: Flat) -> Ways:
    """What the description of a stored network says: its program can't be looked into."""
    size, entries = math.prod(example_shape(net)), []
    for chain in net.graph.chains:
        name, told = chain.layers[0][0], chain.source == "input"
        features = net.graph.affine(name).inputs
        entry: Entry | str = f"{name}: it doesn't read the first input"
        if told:
            bent = (site for site in chain.sites if not site.activation.two_slopes)
            reasons = map(_no_certificate, bent)
            entry = next(reasons, None) or Entry(features, 1 if features == size else 0, ())
        entries.append(entry)
    return Ways(flat, tuple(entries))


def _other_slopes(found: View, site: Site) -> str:
    """Proves that an activation has the slopes that its site says; else returns what it hasn't."""
    bent = found.bent[site.name]
    was, now = _pair(site.activation), _pair(bent.activation)
    if not was or not now:
        ends = () if site.mates else bent.region.reads.values()
        proofs = (activation.prove(found.program, bent.region, bent.pre, end) for end in ends)
        return _no_certificate(site, next((f" ({_why(proof)})" for proof in proofs), ""))
    if was != now:
        return (
            f"{site.name}: with parameters of these dtypes its activation has other slopes"
            " than when it was traced; trace with such parameters"
        )
    return ""


def _pair(what: Activation) -> tuple[Slope, ...]:
    """Slopes below and above zero, none where an activation hasn't two."""
    return what.learned or tuple(map(Slope, what.slopes or ()))


def _no_certificate(site: Site, why: str = "") -> str:
    return (
        f"{site.name}: activation {site.activation.name} isn't piecewise linear with its kink at"
        f" zero (ReLU, leaky ReLU, PReLU, identity); there are no certificates for it{why}"
    )


def _why(proof: Scalar) -> str:
    """Why an activation has no two slopes."""
    if proof.form is None:
        return proof.reason
    knots = [f"{float(x):.4g}" for x in proof.form.knots]
    if knots not in ([], ["0"]):
        return f"it bends or jumps at {', '.join(knots)}"
    if proof.two_slopes is None:
        return "it moves values away from zero"
    return "its slopes are no floats"


def _entry(net: Net, found: View, chain: Chain) -> Entry | str:
    """Follows the first map's operand back to the input: reshapes, and casts that round."""
    layout, name = found.program.layout, chain.layers[0][0]
    if len(chain.firsts) > 1:
        return f"{name}: it is a sum of maps of different features"
    first = found.maps[name]
    value: Operand = first.data
    casts: list[Any] = []
    while isinstance(value, Ref) and value.id in layout.makers:
        op = layout.makers[value.id]
        source = op.inputs[0]
        if op.name == "convert_element_type" and isinstance(source, Ref):
            before, after = layout.program.avals[source.id].dtype, op.params["new_dtype"]
            if cast_keeps(before, after) == "changes":
                return f"{name}: it reads the input cast from {before} to {after}"
            casts.append(after)
        elif op.name != "reshape" or op.params["dimensions"] is not None:
            return f"{name}: it reads the result of {op.name}, {BEFORE}"
        value = source
    if not layout.inputs or value != layout.inputs[0]:
        return f"{name}: it doesn't read the first input"
    shape = layout.program.shape(first.data)
    features, inner = shape[first.contract], math.prod(shape[first.contract + 1 :])
    # Reshapes keep the row-major order: features repeat with this period.
    whole = inner and features and math.prod(example_shape(net)) % (features * inner) == 0
    return Entry(features, inner if whole else 0, tuple(reversed(casts)))


def _as_computed(found: View, flat: Flat) -> Flat:
    """Casts the parameters of chains as the function does before it computes with them."""
    dtypes = computed_dtypes(found)
    result = dict(flat)
    for path in foldable_paths(found.graph) & flat.keys() & dtypes.keys():
        if len(dtypes[path]) > 1:
            raise EvidenceError(f"{join(path)}: the function computes with it in several dtypes")
        (dtype,) = dtypes[path]
        traced = jax.dtypes.canonicalize_dtype(np.asarray(flat[path]).dtype)
        result[path] = np.asarray(flat[path]).astype(traced).astype(dtype)
    return result
