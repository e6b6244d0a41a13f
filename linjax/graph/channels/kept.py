"""Which entries of the leaves around convolutions belong to the channels that a fold kept."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from linjax.graph.channels import shapes
from linjax.graph.channels.members import Width, left, run_of
from linjax.graph.maps import Path
from linjax.graph.pytree import Flat
from linjax.graph.structure import ChannelSite, Graph, Member, Reading

Array = Any


def kept_channels(
    graph: Graph, flat: Flat, sites: Mapping[str, Any]
) -> dict[Path, dict[int, Array]]:
    """Returns by path, for each axis that got shorter, the entries that are left.

    Args:
      graph: the network.
      flat: leaves in the shapes before.
      sites: what became of each site: its ``kept`` units.
    """
    before = shapes.widths(graph, flat)
    units = {name: Width(width.units, 0) for name, width in before.items()}
    chosen = {site.name: sites[site.name].kept for site in graph.channels if site.name in sites}

    def stays(site: ChannelSite, members: tuple[Member, ...]) -> tuple[Array, int]:
        """Units that are left of all that stand beside a site's, and how many there were."""
        stay, _ = left(members, units, site.name, chosen)
        return stay, run_of(members, units, site.name).whole.units

    found: dict[Path, dict[int, Array]] = {}
    convolutions = {conv.name: conv for conv in graph.convolutions}
    for site in graph.channels:
        if site.name not in sites:
            continue
        kept, conv = np.asarray(sites[site.name].kept, int), convolutions[site.producer]
        found.setdefault(conv.kernel, {})[conv.axes[-1]] = kept
        if conv.bias is not None:
            found.setdefault(conv.bias, {})[0] = kept
        for leaf in site.unit_leaves:
            found.setdefault(leaf.path, {})[leaf.axis] = stays(site, leaf.members)[0]
        for reading in site.readings:
            kept, width = stays(site, reading.members)
            if reading.consumer in convolutions:
                reader = convolutions[reading.consumer]
                found.setdefault(reader.kernel, {})[reader.axes[-2]] = kept
                continue
            affine = graph.affine(reading.consumer)
            rows = _rows(width, reading, kept)
            found.setdefault(affine.kernel, {})[affine.layout[0]] = rows
            own = next((s.name for s in graph.sites if s.producer == affine.name), None)
            if own in sites:
                found[affine.kernel][affine.layout[1]] = np.asarray(sites[own].kept, int)
    return found


def _rows(width: int, reading: Reading, kept: Array) -> Array:
    """The features of kept channels in what a dense layer reads."""
    outer, inner = np.arange(reading.outer)[:, None, None], np.arange(reading.inner)
    return ((outer * width + kept[None, :, None]) * reading.inner + inner).reshape(-1)
