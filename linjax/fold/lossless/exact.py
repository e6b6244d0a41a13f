"""Exact rewriting on a box: units whose sign is proven compute an affine function there.

Serra, Kumar & Ramalingam (Lossless compression of deep neural networks, 2020, arXiv
2001.00218) remove stably inactive units, rewrite stably active ones that depend on others,
and fold layers that are stably active throughout. The rule ``"linear"`` includes the last
two and goes further: the stable units S of a layer pass on

    z_S a C_S = v (W_S a C_S) + b_S a C_S,      a: slopes, C: the rows that read them,

a linear map of rank ρ ≤ min(|S|, p, q), which ρ linear units compute, or a residual path.
Layers are rewritten from the last to the first, so that C is small already.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy
from numpy.typing import DTypeLike

from linjax.chains.layers import Layer, Layers, replaced
from linjax.chains.structure import Chain
from linjax.chains.substitute import keep_units, substitute
from linjax.errors import LinjaxError
from linjax.evidence.bounds import Bounds, Verdict
from linjax.fold.lossless.proportional import visible
from linjax.fold.lossless.rewriting import in_float64, outgoing, with_outgoing
from linjax.program.precision import coarsest, lost
from linjax.program.pytree import is_floating

Array = Any

RULES = ("inactive", "unread", "dependent", "fold_layer", "linear", "collapse")
PUBLISHED = ("inactive", "dependent", "fold_layer", "collapse")
DEFAULT = ("inactive", "unread", "linear", "collapse")

# Singular values and residuals count as zero below this many times the rounding error of
# the products they come from; whatever is larger is kept.
RANK_MARGIN = 8.0


class SiteReport(NamedTuple):
    """What became of the units of one site.

    Attributes:
      units: number of units before.
      inactive: units removed because they are off, or because nothing reads them.
      folded: units removed because others or linear units stand in for them.
      linear: number of linear units afterwards.
      carried: whether the layer's inputs travel on beside its units afterwards.
    """

    units: int
    inactive: int
    folded: int
    linear: int
    carried: bool

    @property
    def removed(self) -> int:
        """Number of units that are gone."""
        return self.inactive + self.folded


def fold_exact(
    layers: Layers,
    verdicts: Sequence[Array],
    slopes: Sequence[tuple[Any, Any]],
    rules: tuple[str, ...] = DEFAULT,
) -> tuple[Layers, tuple[SiteReport, ...]]:
    """Rewrites a chain by the proven signs of its units.

    Args:
      layers: a chain; it is rewritten in float64.
      verdicts: per site ``(k,)``, see :class:`~linjax.evidence.bounds.Verdict`.
      slopes: ``(negative, positive)`` per site, scalars or ``(k,)``.
      rules: which rewritings to use: ``"inactive"`` removes units that are off,
        ``"unread"`` units whose outgoing weights are all zero, ``"dependent"`` those that
        other stable units determine, ``"fold_layer"`` layers whose units are all stable,
        ``"linear"`` puts linear units or a residual path for stable ones where that is
        smaller, ``"collapse"`` removes layers that are off. The rules of the 2020 paper
        are ``("inactive", "dependent", "fold_layer", "collapse")``.

    Returns:
      The new chain and a report for each site. It computes the same function wherever the
      verdicts hold, up to rounding in float64.

    Raises:
      LinjaxError: for an unknown rule, or verdicts of a wrong shape.
    """
    unknown = set(rules) - set(RULES)
    if unknown:
        raise LinjaxError(f"rules: expected some of {RULES}, found {sorted(unknown)}")
    layers = in_float64(layers)
    reports = []
    for index in reversed(range(len(layers) - 1)):
        verdict = np.asarray(verdicts[index])
        if verdict.shape != (layers[index].units,):
            raise LinjaxError(
                f"verdicts of site {index}: expected shape ({layers[index].units},),"
                f" found {verdict.shape}"
            )
        layers, report = _fold_site(layers, index, verdict, slopes[index], rules)
        reports.append(report)
    return layers, tuple(reversed(reports))


def _fold_site(
    layers: Layers, index: int, verdict: Array, slopes: tuple[Any, Any], rules: tuple[str, ...]
) -> tuple[Layers, SiteReport]:
    units = layers[index].units
    stable, slope = _stable(verdict, slopes)
    off = stable & (slope == 0)
    if off.all():
        off = off & ("collapse" in rules)
    elif "inactive" not in rules:
        off = np.zeros_like(off)
    off = off | _unread(layers, index, rules)
    layers = _remove(layers, index, off)
    stable, slope = stable[~off], slope[~off]
    if "dependent" in rules:
        layers, gone = _remove_dependent(layers, index, stable, slope)
        stable, slope = stable[~gone], slope[~gone]
    if "linear" in rules:
        layers = _linearise(layers, index, stable, slope)
    elif "fold_layer" in rules and len(stable) and stable.all():
        layers = _replace_stable(layers, index, stable, slope, "residual")
    layer, removed = layers[index], int(off.sum())
    stable_units = units - removed - layer.units
    report = SiteReport(units, removed, stable_units, layer.linears, layer.residual)
    return layers, report


def _stable(verdict: Array, slopes: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Which units are linear on the box, and their slopes there."""
    negative, positive = (np.broadcast_to(np.asarray(s, np.float64), verdict.shape) for s in slopes)
    slope = np.where(verdict == Verdict.INACTIVE, negative, positive)
    known = (verdict == Verdict.ACTIVE) | (verdict == Verdict.INACTIVE)
    return known | (negative == positive), slope


def _unread(layers: Layers, index: int, rules: tuple[str, ...]) -> np.ndarray:
    """Units that no later layer reads, as all before a layer that has collapsed."""
    rows = outgoing(layers, index)[: layers[index].units]
    wanted = "unread" in rules or ("collapse" in rules and rows.shape[1] == 0)
    return np.asarray(~rows.any(axis=1) & wanted)


def _remove(layers: Layers, index: int, off: Array) -> Layers:
    """Removes units that contribute nothing; with the last of them, what they read."""
    layer, rows = keep_units(layers[index], ~off), outgoing(layers, index)
    if rows.shape[1] == 0:
        layer, rows = layer._replace(linear=None, residual=False), rows[: len(off)]
    if layer.features == 0:
        layer = layer._replace(kernel=np.zeros((layer.reads, 0)), down=None)
    return _rewritten(layers, index, layer, np.delete(rows, np.flatnonzero(off), axis=0))


def _remove_dependent(
    layers: Layers, index: int, stable: Array, slope: Array
) -> tuple[Layers, np.ndarray]:
    """Rewrites stable units whose weights are combinations of other stable units' weights.

    From ``W_D = W_B X`` follows ``h_D = h_B diag(1 / a_B) X diag(a_D) + constant``.
    """
    layer, gone = layers[index], np.zeros(len(stable), bool)
    chosen = np.flatnonzero(stable & (slope != 0))
    basis, others, mix = _dependence(layer.kernel[:, chosen])
    basis, others = chosen[basis], chosen[others]
    gone[others] = True
    offset = np.zeros(layer.features)
    offset[others] = (layer.bias[others] - layer.bias[basis] @ mix) * slope[others]
    layers = substitute(layers, index + 1, lambda rows: rows, offset)
    rows = outgoing(layers, index).copy()
    rows[basis] += (mix * slope[others] / slope[basis][:, None]) @ rows[others]
    rows = np.delete(rows, others, axis=0)
    return _rewritten(layers, index, keep_units(layer, ~gone), rows), gone


def _dependence(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits columns into a basis and others with ``columns[:, others] = columns[:, basis] X``."""
    if columns.size == 0:
        return np.arange(columns.shape[1]), np.zeros(0, int), np.zeros((columns.shape[1], 0))
    scale = np.linalg.norm(columns, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    # Each feature counts by its own weights: small ones may be read of large features.
    even = columns / scale / _lengths(columns / scale, axis=1)[:, None]
    triangle, order = scipy.linalg.qr(even, mode="r", pivoting=True)
    margin = RANK_MARGIN * max(columns.shape) * np.finfo(np.float64).eps
    rank = int(np.count_nonzero(np.abs(np.diag(triangle)) > margin))
    basis, others = order[:rank], order[rank:]
    mix = scipy.linalg.solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:])
    return basis, others, mix * scale[others] / scale[basis][:, None]


def _lengths(matrix: np.ndarray, axis: int) -> np.ndarray:
    """Lengths of rows or columns, 1 for those that are zero."""
    length = np.linalg.norm(matrix, axis=axis)
    return np.asarray(np.where(length > 0, length, 1.0))


def _linearise(layers: Layers, index: int, stable: Array, slope: Array) -> Layers:
    """Puts linear units or a residual path for stable units, whichever is smallest."""
    layer = layers[index]
    if not stable.any() and not layer.linears:
        return layers
    if layer.residual:  # what travels on anyway takes the stable units' part for nothing
        return _replace_stable(layers, index, stable, slope, "residual")
    within, through = _linear_part(layers, index, stable, slope)
    inputs, width = layer.kernel.shape[0], through.shape[1]
    costs = {
        "keep": within.shape[1] * (inputs + width) + int(stable.sum()),
        "linear": _rank(within, through) * (inputs + width),
        "residual": inputs * width,
    }
    best = min(costs, key=costs.__getitem__)
    return layers if best == "keep" else _replace_stable(layers, index, stable, slope, best)


def _replace_stable(layers: Layers, index: int, stable: Array, slope: Array, form: str) -> Layers:
    """Computes what stable units and linear units pass on by the given form instead."""
    layer = layers[index]
    offset = np.zeros(layer.features)
    offset[: layer.units][stable] = layer.bias[stable] * slope[stable]
    layers = substitute(layers, index + 1, lambda rows: rows, offset)
    within, through = _linear_part(layers, index, stable, slope)
    read = outgoing(layers, index)
    units, carried = read[: layer.units][~stable], read[layer.units + layer.linears :]
    kept = keep_units(layer, ~stable)
    if form == "linear":
        linear, rows = _factor(within, through)
        kept = kept._replace(linear=linear if linear.shape[1] else None)
    else:
        rows = within @ through + (carried if layer.residual else 0.0)
        kept, carried = kept._replace(linear=None, residual=True), rows[:0]
    return _rewritten(layers, index, kept, np.concatenate([units, rows, carried]))


def _linear_part(
    layers: Layers, index: int, stable: Array, slope: Array
) -> tuple[np.ndarray, np.ndarray]:
    """The linear map of a layer's stable and linear units as a product: (in, out)."""
    layer, read = layers[index], outgoing(layers, index)
    within = [layer.kernel[:, stable] * slope[stable]]
    through = [read[: layer.units][stable], read[layer.units : layer.units + layer.linears]]
    if layer.linear is not None:
        within.append(layer.linear)
    return np.concatenate(within, axis=1), np.concatenate(through)


def _factor(within: np.ndarray, through: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors ``within @ through`` at its rank, without rounding where the rank is full."""
    rank = _rank(within, through)
    if rank == within.shape[1]:
        return within, through
    product = within @ through
    if rank == product.shape[1]:
        return product, np.eye(rank)
    rows, columns = _lengths(within, axis=1), _lengths(through, axis=0)
    left, values, right = np.linalg.svd(product / rows[:, None] / columns, full_matrices=False)
    root = np.sqrt(values[:rank])
    return rows[:, None] * left[:, :rank] * root, root[:, None] * right[:rank] * columns


def _rank(within: np.ndarray, through: np.ndarray) -> int:
    """Rank of ``within @ through``.

    Counts singular values above ``RANK_MARGIN`` times the rounding error of the product in
    the Frobenius norm: leaving out the others changes no more than rounding does. Inputs and
    outputs count alike, whatever they are scaled to: small weights may be read of large features.
    """
    if min(*within.shape, through.shape[1]) == 0:
        return 0
    within = within / _lengths(within, axis=1)[:, None]
    through = through / _lengths(through, axis=0)
    left: Array = np.linalg.qr(within, mode="r")
    right: Array = np.linalg.qr(through.T, mode="r")
    core = left @ right.T
    values = np.linalg.svd(core, compute_uv=False)
    error = max(*within.shape, through.shape[1]) * np.finfo(np.float64).eps
    margin = RANK_MARGIN * error * np.linalg.norm(within) * np.linalg.norm(through)
    return int(np.count_nonzero(values > margin))


def _rewritten(layers: Layers, index: int, layer: Layer, rows: Array) -> Layers:
    """Replaces a layer, and the rows that read its features."""
    return with_outgoing(replaced(layers, index, layer), index, rows)


def _storable(before: Layers, after: Layers, dtype: DTypeLike) -> bool:
    """Whether new biases can be rounded to a dtype: by a share of the weights beside them.

    Biases of units that are always on add up behind them; where they are large and the dtype is
    coarse, the rounding of their sum would be seen.
    """
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        own = np.arange(new.units) if index + 1 == len(before) else new.origin
        kernel = old.kernel if old.down is None else old.down @ old.kernel
        bias, beside = old.bias[own], np.linalg.norm(kernel, axis=0)[own]
        error = lost(new.bias, dtype)
        if (error > visible(dtype) * (beside + np.abs(bias)))[new.bias != bias].any():
            return False
    return True


def exact_rewrite(
    bounds: Bounds, rules: tuple[str, ...] = DEFAULT
) -> Callable[[Chain, Layers], Layers]:
    """Returns the rewriting of a network's chains that its bounds allow.

    A chain whose new biases can't be rounded to the dtype of its kernels without a visible change
    stays as it is.
    """
    sites = {site.name: b for site, b in zip(bounds.graph.sites, bounds.sites, strict=True)}
    dtypes = {leaf.path: jnp.dtype(leaf.dtype) for leaf in bounds.leaves
              if is_floating(leaf.dtype)}  # fmt: skip

    def rewrite(chain: Chain, layers: Layers) -> Layers:
        slopes = [layer.slopes for layer in layers[: len(chain.sites)]]
        if any(pair is None for pair in slopes):
            return layers
        verdicts = [sites[site.name].verdict for site in chain.sites]
        folded = fold_exact(layers, verdicts, slopes, rules)[0]
        kernels = (bounds.graph.affine(name).kernel for name in chain.maps)
        own = [dtypes[path] for path in kernels if path in dtypes]
        stored = coarsest(own)
        return folded if _storable(in_float64(layers), folded, stored) else layers

    return rewrite
