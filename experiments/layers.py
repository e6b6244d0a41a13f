"""What became of each layer, read off the shapes of a folded pytree."""

from typing import Any

import jax
import numpy as np

import linjax

BINS = 20  # of the histograms of activation rates


def flat(params: Any) -> dict[str, Any]:
    """Leaves by their paths, ``layers/0/kernel``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def describe(net: linjax.Net, params: Any) -> dict[str, list]:
    """Returns, for each site of a network, what its parameters leave of it.

    Returns:
      ``layers``: names of the sites; ``units``: how many keep their activation; ``linear``:
      how many linear units, and what is carried on, stand beside them; ``bottleneck``: the rank
      through which the layer reads its input, 0 if it reads it directly.
    """
    network, after = net.network, flat(params)
    paths = ["/".join(path) for path in network.paths]
    before = dict(zip(paths, jax.tree.leaves(net.template), strict=True))
    found: dict[str, list] = {"layers": [], "units": [], "linear": [], "bottleneck": []}

    def axis(leaf: int, dim: int) -> int:
        return next(n for n, s in enumerate(network.layout.leaves[leaf]) if dim in s.dims())

    for site in network.foldable:
        units, linear, ranks = [], [], [0]
        for leaf in {m.leaf for m in site.makers} - {None}:
            path, n = paths[leaf], axis(leaf, site.dim)
            units.append(site.width * _size(after, path, n) // before[path].shape[n])
            if f"{path}_down" in after:
                ranks.append(after[f"{path}_down"].shape[n])
        made = min(units, default=0)
        for leaf in {r.leaf for r in site.readers} - {None}:
            path, n = paths[leaf], axis(leaf, site.dim)
            read = f"{path}_down" if f"{path}_down" in after else path
            total = site.width * _size(after, read, n) // before[path].shape[n]
            linear.append(total + _size(after, f"{path}_residual", n) - made)
        found["layers"].append(site.name)
        found["units"].append(made)
        found["linear"].append(max(0, *linear, 0))
        found["bottleneck"].append(min(ranks[1:], default=0))
    return found


def _size(leaves: dict[str, Any], path: str, axis: int) -> int:
    return leaves[path].shape[axis] if path in leaves else 0


def histograms(rates: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """Returns how many units of each layer are on how often: counts in equal parts of [0, 1].

    >>> histograms({"in": np.array([0.0, 0.02, 1.0])})["in"][:2]
    [2, 0]
    """
    return {name: np.histogram(rate, BINS, (0.0, 1.0))[0].tolist() for name, rate in rates.items()}
