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

    def size(site: Any, leaf: int, end: str = "", each: bool = True) -> int:
        """How long the site's axis of a leaf is, or of what stands beside it; 0 without that.

        Where it is flattened with others, how long it is itself.
        """
        sizes = network.layout.leaves[leaf]
        axis = next(n for n, size in enumerate(sizes) if site.dim in size.dims())
        now = after[paths[leaf] + end].shape[axis] if paths[leaf] + end in after else 0
        return site.width * now // before[paths[leaf]].shape[axis] if each else now

    for site in network.foldable:
        makers, readers = ({m.leaf for m in own} - {None} for own in (site.makers, site.readers))
        made = min((size(site, leaf) for leaf in makers), default=0)
        read = [
            (size(site, leaf, "_down") or size(site, leaf)) + size(site, leaf, "_residual", False)
            for leaf in readers
        ]
        ranks = filter(None, (size(site, leaf, "_down", False) for leaf in makers))
        found["layers"].append(site.name)
        found["units"].append(made)
        found["linear"].append(max(0, *(total - made for total in read), 0))
        found["bottleneck"].append(min(ranks, default=0))
    return found


def histograms(rates: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """Returns how many units of each layer are on how often: counts in equal parts of [0, 1].

    >>> histograms({"in": np.array([0.0, 0.02, 1.0])})["in"][:2]
    [2, 0]
    """
    return {name: np.histogram(rate, BINS, (0.0, 1.0))[0].tolist() for name, rate in rates.items()}
