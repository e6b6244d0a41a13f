"""Proportional lumping: units that are multiples of one another become one, on all inputs.

Chains of dense layers are lumped here, all other networks in ``lump_sites``.

For a positively homogeneous activation, σ(ρ z) = ρ σ(z) for ρ > 0, units whose incoming
weights and bias are proportional compute proportional activations: one of them can stand
for all, its outgoing weights being the weighted sum (Ressi, Romanello, Piazza & Rossi,
Neural network reduction by proportional lumping, 2022). Going from the first layer to the
last finds the coarsest such partition, in time linear in the number of weights.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.chains.check import check_leaves
from linjax.chains.dtypes import coarsest
from linjax.chains.layers import Layers
from linjax.chains.reading import read_chain, readable
from linjax.chains.structure import Chain, Graph
from linjax.dims.leaves import check, check_widths
from linjax.errors import EvidenceError, warn
from linjax.evidence.bounds import Bounds, fingerprint
from linjax.evidence.given import as_net, as_values
from linjax.fold.chained import transform
from linjax.fold.lossless.exact import exact_rewrite
from linjax.fold.lossless.lump_layers import LumpReport, at_least_zero, lump_layers
from linjax.fold.lossless.lump_sites import LumpedSites, lump_sites
from linjax.net import Net
from linjax.program import precision, pytree
from linjax.program.count import count

__all__ = ["LumpReport", "Lumped", "lump", "lump_and_report"]

Array = Any


def lump(
    net: Net,
    params: Any,
    tolerance: float = 0.0,
    *,
    bounds: Bounds | None = None,
    radius: float = 1.0,
) -> Any:
    """Joins units whose incoming weights are proportional: exact on all inputs, data-free.

    If ``(W[:, t], b_t) = ρ (W[:, v], b_v)``, ρ > 0, and σ is positively homogeneous (ReLU, leaky
    ReLU, PReLU), then ``σ(z_t) = ρ σ(z_v)``: unit t goes, and ρ times its outgoing weights are
    added to those of v. Layers are lumped from the first to the last, which finds the
    coarsest partition. Units without incoming weights move into the next bias, where a network is
    of dense layers alone.

    Coordinates of all other sites (channels of convolutions, the width of a residual stage,
    attention's values) are joined, too, if they are multiples of one another in all that makes
    them, batch norms included, and everything up to their readers keeps proportions: sums,
    pooling, activations with two slopes. Behind anything else that acts coordinate by coordinate
    (GELU, gates, depthwise convolutions) only equal ones are, down to every scale on their way.

    **What rounding may change.** With ε of the kernels' dtype and δ = min(4 ε, 2⁻¹⁰), each weight
    of a unit has to be ρ times its counterpart to a relative δ, its bias to δ times the length
    ‖w‖ of its weights: however large biases are, and whatever features are scaled to, a
    pre-activation is off by at most ``δ (|w| · |v| + ‖w‖)``. Sums of outgoing weights are
    rounded to the dtype that they are stored or computed in, the coarser one; units are
    joined only if that changes what they pass on for features of length one, biases apart, by
    at most 64 ε of it, in float16 and bfloat16 4 ε. Behind biases more than some 100 times as
    large as the weights, there seven times, only such are joined whose sums need no rounding.

    Args:
      net: the traced network.
      params: its parameters, original or folded, in any floating dtype.
      tolerance: how far normalised weight vectors ``(w, b) / ‖w‖`` may be apart, in the
        Euclidean norm; zero allows for rounding only, see above.
      bounds: if given, units that are linear combinations of others, all of proven sign,
        are rewritten by these first: exact on the bounds' box only.
      radius: magnitude of the chains' inputs for which :func:`lump_and_report` tells the error.

    Returns:
      A nested dict of arrays, for ``net.apply``; or ``params`` itself, with a
      :class:`FoldWarning`, where no units are proportional.

    Raises:
      StructureError: if params doesn't fit the network, naming the path.
      EvidenceError: if the bounds are of other parameters.
      LinjaxError: for a negative tolerance.

    References:
      Ressi, Romanello, Piazza and Rossi, Neural network reduction by proportional
      lumping, 2022.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> from linjax.fold.lossless.lump import lump
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.array([[1.0, 3.0, -1.0]]), "out": jnp.ones((3, 2))}
      >>> net = linjax.trace(apply, params, jnp.ones((1, 1)))
      >>> lump(net, params)["out"].tolist()
      [[4.0, 4.0], [1.0, 1.0]]
    """
    return lump_and_report(net, params, tolerance, bounds=bounds, radius=radius).params


class Lumped(NamedTuple):
    """Lumped parameters, and what was done; of :func:`lump_and_report`.

    Attributes:
      params: the parameters.
      reports: one a chain; one in all of sites for networks of other layers, and where units of
        other activations are equal.
    """

    params: Any
    reports: tuple[LumpReport, ...]


def lump_and_report(
    net: Net,
    params: Any,
    tolerance: float = 0.0,
    *,
    bounds: Bounds | None = None,
    radius: float = 1.0,
) -> Lumped:
    """Lumps as :func:`lump` does, and says how many units were joined and what it may change.

    Args:
      net, params, tolerance, bounds, radius: as for :func:`lump`.

    Returns:
      :class:`Lumped`.

    Raises:
      StructureError, EvidenceError, LinjaxError: as :func:`lump`.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.array([[1.0, 3.0, -1.0]]), "out": jnp.ones((3, 2))}
      >>> net = linjax.trace(apply, params, jnp.ones((1, 1)))
      >>> linjax.lump_and_report(net, params).reports[0].kept
      (2,)
    """
    as_net(net, stored=True)
    as_values(params)
    if bounds is not None and bounds.fingerprint != fingerprint(params):
        raise EvidenceError("the bounds were proven for other values of these parameters")
    at_least_zero(tolerance)
    combine = None if bounds is None else exact_rewrite(bounds, ("dependent",))
    flat = net.network.flatten(params) if isinstance(net, Net) else pytree.flatten(params)
    if isinstance(net, Net):
        check(net.network, flat)
        check_widths(net.network, flat)
    if isinstance(net, Net) and not (net.chained and readable(net.graph, flat)):
        lumped, sites = _by_site(net, params, tolerance)
        return _better(params, lumped, [_of_sites(sites, tolerance)], sites.unknown)
    check_leaves(net.graph, flat)
    found = net.examined(flat) if isinstance(net, Net) else None  # else loaded, without a program
    coarse = coarsest(found, flat)
    reports: dict[Chain, LumpReport] = {}

    def rewrite(chain: Chain, layers: Layers) -> Layers:
        slopes = [layer.slopes for layer in layers[: len(chain.sites)]]
        units = tuple(layer.units for layer in layers[: len(chain.sites)])
        layers = layers if combine is None else combine(chain, layers)
        kernels = [net.graph.affine(name).kernel for name in chain.maps]
        kernels = [path for path in kernels if path in flat]
        own = precision.coarsest(jnp.result_type(flat[p]) for p in kernels)
        stored = precision.coarsest(coarse[path] for path in kernels)
        lumped, report = lump_layers(
            layers, slopes, tolerance, radius=radius, dtype=own, stored=stored
        )
        reports[chain] = report._replace(units=units)
        return lumped

    lumped, _ = transform(params, flat, net.graph, rewrite)
    told = [reports.get(chain) or _alone(net.graph, flat, chain) for chain in net.graph.chains]
    if not isinstance(net, Net):
        return _better(params, lumped, told)
    again, sites = _by_site(net, lumped, tolerance)  # equal units behind any activation
    if sites.kept != sites.units:
        lumped, told = again, [*told, _of_sites(sites, tolerance)]
    return _better(params, lumped, told)


def _by_site(net: Net, params: Any, tolerance: float) -> tuple[Any, LumpedSites]:
    """A network lumped site by site."""
    flat = net.network.flatten(params)
    sites = lump_sites(net.network_for(flat, net.example), flat, tolerance)
    return pytree.unflatten(sites.flat, like=params), sites


def _alone(graph: Graph, flat: pytree.Flat, chain: Chain) -> LumpReport:
    """Reports of a chain that stays as it is, since branches behind it have another form."""
    layers = read_chain(graph, flat, chain)
    units = tuple(layer.units for layer in layers[:-1])
    return LumpReport(units, units, np.zeros(layers[-1].units))


def _better(
    params: Any, lumped: Any, reports: list[LumpReport], unknown: tuple[str, ...] = ()
) -> Lumped:
    """The lumped parameters, or with a warning the original ones if nothing went."""
    if count(lumped) >= count(params):
        beside = f"; nothing is known of {', '.join(unknown)}" if unknown else ""
        warn("nothing was lumped: no units are proportional, of those that may be joined" + beside)
        lumped = params
        reports = [own._replace(kept=own.units) for own in reports]
    return Lumped(lumped, tuple(reports))


def _of_sites(sites: LumpedSites, tolerance: float) -> LumpReport:
    return LumpReport(sites.units, sites.kept, np.asarray([np.inf if tolerance else 0.0]))
