"""Dimensions whose sizes no shape tells: parameters have them beside others alone."""

from collections.abc import Set

from linjax.dims.layout import Layout

UNTOLD = "parameters have it beside others alone: of all these no more than their sum is told"


def untold(layout: Layout, sites: Set[int], repeats: Set[int]) -> set[int]:
    """Returns the dimensions of sites that have to stay, so that shapes tell all others.

    Channels that zeros are put in front of and behind are three dimensions, two of them of what is
    added. A folded network is run by its leaves' shapes, which tell how many there are together:
    all but one stay, the narrower ones.

    Args:
      layout: the network's dimensions.
      sites: those that may change their sizes.
      repeats: those of them that others are repeated along, see :func:`linjax.dims.sizes.solve`,
        whose steps are taken here.
    """
    spans = [span for leaf in layout.leaves for span in leaf]
    known, found = {d for d, reasons in layout.reasons.items() if reasons}, set[int]()
    while left := [dims for span in spans if (dims := {*span.dims()} - known)]:
        alone = {d for dims in left if len(dims) == 1 for d in dims}
        if alone:
            known |= alone
            continue
        others = {d for dims in left for d in dims if d not in sites or d in repeats}
        dim = min(others or left[0], key=lambda d: (d in sites, layout.traced[d], d))
        known.add(dim)
        found |= set() if others else {dim}
    return found
