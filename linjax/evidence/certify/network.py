"""``certify`` and ``check_certificate``: certificates of traced networks."""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from linjax.chains.flow import units
from linjax.chains.layers import Layers
from linjax.chains.reading import read_chain
from linjax.chains.structure import Chain, Graph
from linjax.errors import EvidenceError, warn
from linjax.evidence.bounds import Bounds, SiteBounds, fingerprint, unknown
from linjax.evidence.certify.chain import certify_layers, require_ordered
from linjax.evidence.certify.check import SiteCheck, check_layers
from linjax.evidence.certify.steps import Slopes
from linjax.evidence.certify.ways import Entry, example_shape, ways_of
from linjax.evidence.given import as_net, as_values
from linjax.net import Net
from linjax.program import pytree

Array = Any


class CertificateCheck(NamedTuple):
    """What :func:`check_certificate` found.

    Attributes:
      names: the sites.
      sites: what could be verified of each.
    """

    names: tuple[str, ...]
    sites: tuple[SiteCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every verdict and every bound has been verified."""
        return all(site.ok for site in self.sites)

    def __repr__(self) -> str:
        lines = []
        for name, site in zip(self.names, self.sites, strict=True):
            failed = np.flatnonzero(~(site.verdict & site.lower & site.upper))
            text = "verified" if not len(failed) else f"NOT verified: units {failed.tolist()}"
            lines.append(f"{name}: {text}")
        return "\n".join(lines)


def certify(
    net: Net,
    params: Any,
    lower: Array,
    upper: Array,
    *,
    time_limit: float = float("inf"),
    data: Array | None = None,
    method: str = "auto",
    progress: bool | Callable[[str], None] | None = None,
) -> Bounds:
    """Proves for every unit whether it is always on, always off, or neither, on a box.

    For all inputs ``lower ≤ x ≤ upper`` of the network as a function of real numbers. A
    first layer is decided in closed form; behind it interval bounds, CROWN and optimised
    linear bounds (α-CROWN) prove signs, inputs found by gradient ascent disprove them, and
    branch and bound (β-CROWN) decides the rest. Rounding is bounded throughout, so that it
    can't make a verdict wrong; what isn't decided in time stays undecided. Parameters are those
    that the function computes with, cast as it casts them; a batch norm's factor and offset are
    the products that float64 makes of its parameters.

    Args:
      net: the traced network.
      params: its parameters, original or folded, in any floating dtype.
      lower: the box's lower side: a number, or an array that broadcasts to the shape of one
        input. Over tokens or places of an image, which a map reads one by one, that is a box for
        each; units are decided for all of them together, on the smallest box that holds them.
      upper: the box's upper side. Inputs that no unit reads may be unbounded.
      time_limit: seconds after which units are left undecided.
      data: inputs, clipped to the box, to look for units' signs at first; optional.
      method: the last stage to use: ``"interval"``, ``"crown"``, ``"alpha-crown"``, or
        ``"auto"`` for all. ``"milp"`` solves one mixed-integer program per unit and sign
        instead, as published in 2020: for comparison, to a solver's tolerance, not proven.
      progress: whether to print a line of text after each site; or a function to call with it.

    Returns:
      :class:`Bounds`: per unit bounds, verdict, how it was decided, margin, witnesses, and
      what :func:`check_certificate` needs to verify them. Chains about which nothing can be
      proven are left undecided, with the reason in ``bounds.reasons`` and in a
      :class:`FoldWarning`: the network has no dense ones, their first map doesn't
      read the first input but for reshapes and
      casts between floating dtypes, their leaves were folded together with ones that no chain has,
      or an activation isn't proved to be piecewise linear with
      its kink at zero by the primitives that compute it. An interrupt (Ctrl-C) ends the search and
      returns what has been found.

    Raises:
      EvidenceError: if the box is empty, not a number, of another shape, or so large that float64
        doesn't hold what is computed in it.
      StructureError: if params doesn't fit the network, naming the path.

    References:
      Zhang et al., Efficient neural network robustness certification with general
      activation functions, 2018, arXiv 1811.00866. Xu et al., Fast and complete, 2020,
      arXiv 2011.13824. Wang et al., Beta-CROWN, 2021, arXiv 2103.06624.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"] + p["shift"]) @ p["out"]
      >>> kernel, shift = jnp.array([[1.0, -1.0, 1.0]]), jnp.array([0.5, -0.5, -0.5])
      >>> params = {"in": kernel, "shift": shift, "out": jnp.ones((3, 2))}
      >>> net = linjax.trace(apply, params, jnp.ones((1, 1)))
      >>> linjax.certify(net, params, 0.0, 1.0)
      site  units  active  inactive  unstable  undecided  closed-form  witness
      in        3       1         1         1          0            2        1
    """
    as_net(net, stored=True)
    as_values(params)
    started = time.monotonic()
    graph, (flat, entries) = net.graph, ways_of(net, params)
    trunks = [any(graph.trunks(chain)) for chain in graph.chains]
    pairs = zip(entries, trunks, strict=True)
    reasons = tuple(e for e, behind in pairs if isinstance(e, str) and not behind)
    if not graph.chains:
        reasons = (_no_chains(net),)
    low, high = (_side(name, side, net) for name, side in (("lower", lower), ("upper", upper)))
    require_ordered(low, high)
    points = None if data is None else _inputs(data, net)
    sites: list[SiteBounds] = []
    for chain, entry in zip(graph.chains, entries, strict=True):
        if not isinstance(entry, Entry):
            sites += map(unknown, units(graph, chain, flat))
            continue
        layers = read_chain(graph, flat, chain)
        sites += certify_layers(
            layers,
            slopes_of(chain, layers),
            *entry.box(low, high),
            time_limit=time_limit - (time.monotonic() - started),
            data=None if points is None or not entry.inner else entry.rows(points),
            method=method,
            progress=print if progress is True else progress or None,
        )
    if reasons:
        warn(f"undecided, nothing is claimed there: {'; '.join(reasons)}")
    leaves, digest = pytree.leaves_of(params), fingerprint(params)
    computed = net.network.computed if isinstance(net, Net) else None
    return Bounds(low, high, tuple(sites), graph, leaves, digest, reasons, computed)


def check_certificate(net: Net, params: Any, bounds: Bounds) -> CertificateCheck:
    """Verifies every verdict and every bound again, independently of how they were found.

    Interval bounds in exact integer arithmetic; linear bounds by re-evaluation with a
    proven bound of all rounding errors; branch and bound by checking that the leaves
    cover the box; witnesses by evaluating the network there, exactly where it is close. What the
    function does to the input and to parameters on their way to the maps, and which slopes its
    activations have, is derived from its program again.

    A network that was loaded without its function has no program to derive anything from: there
    its file's description is taken at its word.

    Args:
      net: the traced network.
      params: the parameters that ``bounds`` are about.
      bounds: what :func:`certify` returned.

    Returns:
      A :class:`CertificateCheck`; its ``ok`` says whether everything holds.

    Raises:
      EvidenceError: if the bounds are of another network or of other parameters.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.array([[1.0, -1.0]]), "out": jnp.ones((2, 2))}
      >>> net = linjax.trace(apply, params, jnp.ones((1, 1)))
      >>> linjax.check_certificate(net, params, linjax.certify(net, params, 0.0, 1.0))
      in: verified
    """
    as_net(net, stored=True)
    if not isinstance(bounds, Bounds):
        raise EvidenceError(f"expected Bounds, got {type(bounds).__name__}")
    require_same(params, bounds, net.graph)
    flat, entries = ways_of(net, params)
    checks: list[SiteCheck] = []
    for chain, entry, claims in zip(net.graph.chains, entries, by_chain(bounds), strict=True):
        if not isinstance(entry, Entry):
            checks += [_unclaimed(claim) for claim in claims]
            continue
        layers = read_chain(net.graph, flat, chain)
        slopes = slopes_of(chain, layers)
        box = entry.box(bounds.lower, bounds.upper)
        checks += check_layers(layers, slopes, *box, claims)
    return CertificateCheck(tuple(site.name for site in net.graph.sites), tuple(checks))


def _no_chains(net: Net) -> str:
    """Why a network has nothing to certify."""
    network = getattr(net, "network", None)  # a stored network knows of none
    refusals = (*net.graph.refusals, *(network.refusals if network is not None else ()))
    told = "; ".join(dict.fromkeys(f"{r.name}: {r.reason}" for r in refusals))
    alone = network is not None and network.convolutional
    kinds = "certificates are of chains of dense layers, not of convolutions; " if alone else ""
    return f"{kinds}there are no chains of dense layers that fold" + (f" ({told})" if told else "")


def slopes_of(chain: Chain, layers: Layers) -> list[Slopes]:
    """The slopes of a chain's activations, each of which is linear on either side of zero."""
    pairs = (layer.slopes for layer in layers[: len(chain.sites)])
    return [pair for pair in pairs if pair is not None]


def by_chain(bounds: Bounds) -> list[tuple[SiteBounds, ...]]:
    """The sites' bounds, chain by chain."""
    ends = np.cumsum([0, *(len(chain.sites) for chain in bounds.graph.chains)])
    return [bounds.sites[a:b] for a, b in itertools.pairwise(ends)]


def require_same(params: Any, bounds: Bounds, graph: Graph) -> None:
    """Checks that bounds are about these very parameters: they hold for no others.

    Raises:
      EvidenceError: if not.
    """
    if bounds.graph != graph:
        raise EvidenceError("the bounds are of another network")
    if bounds.fingerprint != fingerprint(params):
        raise EvidenceError("the bounds are of other parameters: certify these")


def _unclaimed(claim: SiteBounds) -> SiteCheck:
    nothing = (claim.verdict == 0) & np.isneginf(claim.lower) & np.isposinf(claim.upper)
    return SiteCheck(nothing, nothing, nothing)


def _side(name: str, side: Array, net: Net) -> np.ndarray:
    """One side of the box, flattened as one input is."""
    shape = example_shape(net)
    size = math.prod(shape)
    side = np.asarray(side)
    if side.dtype.kind in "OUSMm":
        raise EvidenceError(f"{name}: expected numbers, found {side.dtype}")
    side = side.astype(np.float64)
    if side.shape != (size,):
        try:
            side = np.broadcast_to(side, shape)
        except ValueError:
            raise EvidenceError(
                f"{name}: expected a number, or an array of the shape {shape} of one input or one"
                f" that broadcasts to it, found shape {side.shape} (the input's first axis is the"
                " batch)"
            ) from None
    return side.reshape(size)


def _inputs(data: Array, net: Net) -> np.ndarray:
    """Inputs ``(n, …)``, flattened."""
    data, shape = np.asarray(data, np.float64), example_shape(net)
    if data.ndim < 1 or data.size != len(data) * math.prod(shape):
        raise EvidenceError(f"data: expected inputs of shape {shape}, found {data.shape[1:]}")
    return data.reshape(len(data), -1)
