"""Channels among others that they are concatenated with.

What reads concatenated channels reads the units of all members first, in their order, then the
linear channels of all.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from linjax.graph.structure import Member

Array = Any


class Width(NamedTuple):
    """Numbers of channels: those with their activation, and linear ones."""

    units: int
    linears: int

    @property
    def total(self) -> int:
        """All channels."""
        return self.units + self.linears


class Run(NamedTuple):
    """Where a site's channels are among all that are read together.

    Attributes:
      unit: the first of its units among all units.
      linear: the first of its linear channels among all linear ones.
      own: how many it has.
      whole: how many there are.
    """

    unit: int
    linear: int
    own: Width
    whole: Width

    @property
    def channels(self) -> Array:
        """The numbers of its channels, ``(own.total,)``: units, then linear ones."""
        units = self.unit + np.arange(self.own.units)
        return np.concatenate([units, self._start + np.arange(self.own.linears)])

    @property
    def _start(self) -> int:
        return self.whole.units + self.linear

    def replaced(self, rows: Array, new: Array, width: Width) -> Array:
        """Returns ``(taps, whole, q)`` rows with others in place of its own, units first."""
        end = self.unit + self.own.units
        parts = [rows[:, : self.unit], new[:, : width.units], rows[:, end : self._start]]
        parts += [new[:, width.units :], rows[:, self._start + self.own.linears :]]
        return np.concatenate(parts, axis=1)

    def with_own(self, width: Width) -> Width:
        """Returns how many channels there are if it has so many instead."""
        return Width(*(w - o + n for w, o, n in zip(self.whole, self.own, width, strict=True)))


def run_of(members: tuple[Member, ...], widths: Mapping[str, Width], site: str) -> Run:
    """Finds a site's channels among members; without any, they are alone."""
    unit = linear = 0
    found, own = (0, 0), widths[site]
    for member in members or (Member(site, 0),):
        if member.site == site:
            found = unit, linear
        now = _width(member, widths)
        unit, linear = unit + now.units, linear + now.linears
    return Run(*found, own, Width(unit, linear))


def left(
    members: tuple[Member, ...], widths: Mapping[str, Width], site: str, kept: Mapping[str, Array]
) -> tuple[Array, Array]:
    """Returns which of all units are left, and which of all linear channels.

    Args:
      members: what is read together with a site's channels; these alone, if there are none.
      widths: channels by site.
      site: the site.
      kept: channels that are left by site, linear ones numbered behind units; all, where a site
        isn't there.
    """
    units, linears, at = [np.zeros(0, int)], [np.zeros(0, int)], Width(0, 0)
    for member in members or (Member(site, 0),):
        own = _width(member, widths)
        mine = np.asarray(kept.get(member.site, np.arange(own.total)), int)
        units.append(at.units + mine[mine < own.units])
        linears.append(at.linears + mine[mine >= own.units] - own.units)
        at = Width(at.units + own.units, at.linears + own.linears)
    return np.concatenate(units), np.concatenate(linears)


def _width(member: Member, widths: Mapping[str, Width]) -> Width:
    return widths[member.site] if member.site else Width(member.width, 0)
