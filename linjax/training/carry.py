"""The optimiser's state across a fold."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.chains.maps import Affine, Part
from linjax.dims.span import Cut, transform
from linjax.errors import StructureError, renamed
from linjax.fold.report import Report
from linjax.fold.written import taking
from linjax.program import pytree
from linjax.program.pytree import Flat, Path

if TYPE_CHECKING:
    import optax

Array = Any


@renamed(folded="small")
def carry_over(
    optimizer: "optax.GradientTransformation",
    state: Any,
    params: Any,
    small: Any,
    report: Report,
) -> Any:
    """Carries an optimiser's state over a fold, so that training goes on.

    Whatever in the state has an entry of a parameter's path and shape (moments, averages, of
    all parameters or, with masks and several transforms, of some) is narrowed like it: units
    that were kept keep their entries, new leaves start as the optimiser starts them. Step
    counts and whatever else still fits is kept; what doesn't, such as factored moments or the
    memory of quasi-Newton updates, starts fresh.

    Args:
      optimizer: the gradient transformation.
      state: its state for ``params``.
      params: the original parameters.
      small: the folded ones.
      report: what the fold did, of :func:`fold_and_report`.

    Returns:
      A state for ``small``.

    Raises:
      StructureError: if the state isn't one of this optimiser for ``params``, or if it can't
        be started on ``small``, such as one with labels or a mask for every leaf of ``params``.

    Example:
      >>> import jax, jax.numpy as jnp, linjax, optax
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"] + p["shift"]) @ p["out"]
      >>> params = {"in": jnp.ones((2, 50)), "shift": jnp.full(50, 9.0), "out": jnp.ones((50, 3))}
      >>> x = jnp.array([[1.0, -1.0], [3.0, -2.0]])
      >>> net, adam = linjax.trace(apply, params, x), optax.adam(1e-3)
      >>> state, stats = adam.init(params), linjax.collect(net, params, [x])
      >>> small, report = linjax.fold_and_report(params, stats, linjax.threshold(1.0))
      >>> state = linjax.carry_over(adam, state, params, small, report)
      >>> state[0].mu["out"].shape
      (2, 3)
    """
    if not pytree.same_structure(jax.eval_shape(optimizer.init, params), state):
        raise StructureError(
            "the state isn't one that this optimizer made for params: give the state of "
            "optimizer.init(params), with the updates since"
        )
    fresh, shapes = _begun(optimizer, small), _shapes(params)
    groups: dict[Path, Flat] = {}
    for path, leaf in pytree.flatten(state).items():
        prefix, own = _split(path, shapes)
        groups.setdefault(prefix, {})[own] = leaf
    kept: dict[Path, Flat] = {}
    carried, now = [], _shapes(small)
    stacked = {
        prefix[:-1] for prefix, own in groups.items() for path, leaf in own.items()
        if path and shapes[path] and jnp.shape(leaf)[1:] == shapes[path]
    }  # fmt: skip
    for path, leaf in pytree.flatten(fresh).items():
        prefix, own = _split(path, now)
        if any(path[: len(start)] == start for start in stacked):
            carried.append(leaf)  # a memory of past steps is of use only as a whole
            continue
        if own and prefix not in kept:
            kept[prefix] = _moved(prefix, groups.get(prefix, {}), fresh, shapes, now, report)
        was = groups.get(prefix, {}).get(own)
        carried.append(kept[prefix][own] if own else _as_it_was(was, leaf))
    return jax.tree.unflatten(jax.tree.structure(fresh), carried)


def _begun(optimizer: "optax.GradientTransformation", small: Any) -> Any:
    try:
        return optimizer.init(small)
    except Exception as error:
        raise StructureError(
            f"the optimizer can't be started on the folded parameters ({error}): give labels and "
            "masks, of multi_transform and masked, as functions of a pytree, not as the pytree of "
            "the original's leaves: a fold adds some and takes some away"
        ) from error


def _shapes(params: Any) -> dict[Path, tuple[int, ...]]:
    return {path: jnp.shape(leaf) for path, leaf in pytree.flatten(params).items()}


def _split(path: Path, params: dict[Path, Any]) -> tuple[Path, Path]:
    """Splits a path in the state into where the parameters begin and that of a parameter."""
    for n in range(len(path)):
        if path[n:] in params:
            return path[:n], path[n:]
    return path, ()


def _as_it_was(was: Any, leaf: Any) -> Any:
    """A leaf of the state that is of no parameter, or fresh where it doesn't fit any more."""
    return was if was is not None and jnp.shape(was) == jnp.shape(leaf) else leaf


def _moved(
    prefix: Path,
    old: Flat,
    fresh: Any,
    before: dict[Path, tuple[int, ...]],
    after: dict[Path, tuple[int, ...]],
    report: Report,
) -> Flat:
    """A part of the state that has an entry for each parameter, or for some, narrowed like them.

    What hasn't a parameter's shape (factored moments, flags) is kept where it fits as it is.
    """
    everything = pytree.flatten(fresh)
    new = {path: everything[(*prefix, *path)] for path in after if (*prefix, *path) in everything}
    whole = {p: x for p, x in old.items() if jnp.shape(x) == before[p]}
    like = {p: x for p, x in new.items() if jnp.shape(x) == after[p]}
    narrowed = _narrow(whole, like, report) if like else {}
    return {p: narrowed[p] if p in narrowed else _as_it_was(old.get(p), x) for p, x in new.items()}


def _narrow(old: Flat, new: Flat, report: Report) -> Flat:
    if report.network is not None:
        return {path: _kept_entries(report, old, new, path) for path in new}
    affines = {affine.kernel: affine for affine in report.graph.affines}
    vectors = {
        path: (site.name, Part()) for site in report.graph.sites for path in site.unit_leaves
    }
    vectors |= {
        affine.bias_path: (site.name, affine.part)
        for site in report.graph.sites
        for affine in map(report.graph.affine, site.maps)
    }
    result: Flat = {}
    for path, leaf in new.items():
        was = old.get(path)
        if was is None:
            result[path] = leaf
        elif path in affines:
            result[path] = _matrix(was, leaf, affines[path], old, new, report)
        elif path in vectors and jnp.shape(was)[0] == _before(report, *vectors[path]):
            result[path] = jnp.asarray(was)[_kept(report, *vectors[path])]
        else:
            result[path] = was if jnp.shape(was) == jnp.shape(leaf) else leaf
    return result


def _before(report: Report, site: str, part: Part) -> int:
    """Number of columns of a leaf that holds a site's units, in several runs perhaps."""
    return part.of * report.sites[site].before


def _kept(report: Report, site: str, part: Part) -> Array:
    """Columns of such a leaf that were kept, those of the same units in all runs."""
    starts = np.arange(0, _before(report, site, part), max(report.sites[site].before, 1))
    return (starts[:, None] + report.sites[site].kept).reshape(-1)


def _kept_entries(report: Report, old: Flat, new: Flat, path: Path) -> Array:
    """What is left of a leaf of the state; entries of linear coordinates start fresh.

    Where coordinates became combinations of others, or a kernel two factors, all entries do.
    """
    network, was, leaf = report.network, old.get(path), new[path]
    if was is None or path not in network.paths:
        return leaf
    if network.extra(network.paths.index(path), "down") in new:
        return leaf
    spans = network.layout.leaves[network.paths.index(path)]
    sizes, value = dict(network.layout.traced), np.asarray(was)
    if value.shape != tuple(s.size for s in spans):
        return leaf
    for site in network.sites:
        change = report.sites.get(site.name)
        if change is None or not any(site.dim in s.dims() for s in spans):
            continue
        if change.mixed:
            return leaf
        kept = np.atleast_2d(change.kept)
        cut = Cut(site.dim, site.beside, sizes.__getitem__, taking(kept, len(site.beside)))
        value = transform(value, spans, cut)
        sizes[site.dim] = kept.shape[-1]
    target = np.array(leaf)
    if any(n > m for n, m in zip(value.shape, target.shape, strict=True)):
        return leaf
    target[tuple(map(slice, value.shape))] = value
    return jnp.asarray(target, jnp.result_type(leaf))


def _matrix(was: Array, leaf: Array, affine: Affine, old: Flat, new: Flat, report: Report) -> Array:
    """Moves the entries of kept inputs and kept units; all others stay as they start."""
    read = next((s.name for s in report.graph.sites if affine.name in s.consumers), None)
    was, result = np.asarray(was), np.array(leaf)
    if affine.layout == (1, 0):
        was, result = was.T, result.T
    rows = np.arange(min(was.shape[0], result.shape[0]))
    source = rows
    if affine.extra("down") in new:
        if new[affine.extra("down")].shape != jnp.shape(old.get(affine.extra("down"), 0.0)):
            return leaf
    elif read is not None:
        source = report.sites[read].kept
        rows = np.arange(len(source))
    columns = np.arange(was.shape[1])
    made = next((s for s in report.graph.sites if affine.name in s.maps), None)
    if made is not None:
        columns = _kept(report, made.name, affine.part)
    result[np.ix_(rows, np.arange(len(columns)))] = was[np.ix_(source, columns)]
    return jnp.asarray(result if affine.layout == (0, 1) else result.T)
