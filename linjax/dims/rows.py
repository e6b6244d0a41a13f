"""What kernels have for each coordinate of a site."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from linjax.dims.network import Network
from linjax.dims.sites import Product, Site
from linjax.dims.sizes import Flat, read_sizes
from linjax.dims.span import Cut, exposed

Array = np.ndarray


def kernel_rows(
    network: Network, flat: Flat, site: Site, products: tuple[Product, ...]
) -> Iterator[Array]:
    """Yields for every kernel leaf that is there its entries by coordinate, ``(n, entries, m)``.

    Args:
      network: the traced network.
      flat: its parameters, original or folded.
      site: the site, of n repeats.
      products: those whose kernels are meant; what is computed has none.
    """
    sizes = read_sizes(network, flat)
    for leaf in sorted({p.leaf for p in products if p.leaf is not None}):
        if network.paths[leaf] in flat:
            held = network.layout.values[network.ref(leaf)]
            cut = Cut(site.dim, site.beside, sizes.of(held), _as_it_is)
            value = np.asarray(flat[network.paths[leaf]], np.float64)
            rows = np.asarray(exposed(value, held.spans, cut))
            yield rows.reshape(-1, *rows.shape[-2:])


def _as_it_is(x: Any) -> Any:
    return x
