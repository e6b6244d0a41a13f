"""``certify`` and ``check_certificate``: certificates of traced networks."""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from linjax.errors import EvidenceError
from linjax.evidence.bounds import Bounds, SiteBounds, fingerprint, unknown
from linjax.evidence.certify.chain import certify_layers
from linjax.evidence.certify.check import SiteCheck, check_layers
from linjax.evidence.certify.steps import Slopes
from linjax.graph import pytree
from linjax.graph.chains import read_chain
from linjax.graph.layers import Layers
from linjax.graph.net import Net
from linjax.graph.structure import Chain, Graph

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
    progress: Callable[[str], None] | None = None,
) -> Bounds:
    """Proves for every unit whether it is always on, always off, or neither, on a box.

    For all inputs ``lower ≤ x ≤ upper`` of the network as a function of real numbers. A
    first layer is decided in closed form; behind it interval bounds, CROWN and optimised
    linear bounds (α-CROWN) prove signs, inputs found by gradient ascent disprove them, and
    branch and bound (β-CROWN) decides the rest. Rounding is bounded throughout, so that it
    can't make a verdict wrong; what isn't decided in time stays undecided.

    Args:
      net: the traced network.
      params: its parameters, original or folded, in any floating dtype.
      lower: the box's lower side: a number, or an array of the shape of one input.
      upper: the box's upper side. Inputs that no unit reads may be unbounded.
      time_limit: seconds after which units are left undecided.
      data: inputs, clipped to the box, to look for units' signs at first; optional.
      method: the last stage to use: ``"interval"``, ``"crown"``, ``"alpha-crown"``, or
        ``"auto"`` for all. ``"milp"`` solves one mixed-integer program per unit and sign
        instead, as published in 2020: for comparison, to a solver's tolerance, not proven.
      progress: called with a line of text after each site, for example ``print``.

    Returns:
      :class:`Bounds`: per unit bounds, verdict, how it was decided, margin, witnesses, and
      what :func:`check_certificate` needs to verify them. Sites that don't descend from
      the network's input are left undecided. An interrupt (Ctrl-C) ends the search and
      returns what has been found.

    Raises:
      EvidenceError: if the box is empty, not a number or of another shape, an activation
        is not piecewise linear with its kink at zero, or no site reads the input.
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
    started = time.monotonic()
    graph, flat = net.graph, pytree.flatten(params)
    pytree.check_leaves(graph, flat)
    if not any(chain.source == "input" for chain in graph.chains):
        raise EvidenceError("no site descends from the network's first input by affine maps")
    low, high = (_side(name, side, net) for name, side in (("lower", lower), ("upper", upper)))
    sites: list[SiteBounds] = []
    for chain in graph.chains:
        layers = read_chain(graph, flat, chain)
        if chain.source != "input":
            sites += [unknown(layer.units) for layer in layers[: len(chain.sites)]]
            continue
        sites += certify_layers(
            layers,
            slopes_of(chain, layers),
            low,
            high,
            time_limit=time_limit - (time.monotonic() - started),
            data=data,
            method=method,
            progress=progress,
        )
    return Bounds(low, high, tuple(sites), graph, pytree.leaves_of(params), fingerprint(params))


def check_certificate(net: Net, params: Any, bounds: Bounds) -> CertificateCheck:
    """Verifies every verdict and every bound again, independently of how they were found.

    Interval bounds in exact integer arithmetic; linear bounds by re-evaluation with a
    proven bound of all rounding errors; branch and bound by checking that the leaves
    cover the box; witnesses by evaluating the network there, exactly where it is close.

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
    require_same(params, bounds, net.graph)
    flat = pytree.flatten(params)
    checks: list[SiteCheck] = []
    for chain, claims in zip(net.graph.chains, by_chain(bounds), strict=True):
        layers = read_chain(net.graph, flat, chain)
        if chain.source != "input":
            checks += [_unclaimed(claim) for claim in claims]
            continue
        slopes = slopes_of(chain, layers)
        checks += check_layers(layers, slopes, bounds.lower, bounds.upper, claims)
    return CertificateCheck(tuple(site.name for site in net.graph.sites), tuple(checks))


def slopes_of(chain: Chain, layers: Layers) -> list[Slopes]:
    """The slopes of a chain's activations.

    Raises:
      EvidenceError: naming a site whose activation is of another form.
    """
    slopes = []
    for site, layer in zip(chain.sites, layers, strict=False):
        if layer.slopes is None:
            raise EvidenceError(
                f"{site.name}: activation {site.activation.name} isn't piecewise linear with its"
                " kink at zero (ReLU, leaky ReLU, PReLU, identity); there are no certificates"
                " for it"
            )
        slopes.append(layer.slopes)
    return slopes


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
    """One side of the box, flattened as the network's first input is."""
    shape = jax.tree.leaves(net.example)[0].shape[1:]
    side = np.asarray(side).astype(np.float64)
    if side.shape not in ((), shape, (int(np.prod(shape)),)):
        raise EvidenceError(f"{name}: expected a number or shape {shape}, found {side.shape}")
    return np.broadcast_to(side.reshape(-1) if side.ndim else side, (int(np.prod(shape)),))
