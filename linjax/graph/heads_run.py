"""Executing attention's values with as many features of each head as a pytree holds."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from linjax.errors import StructureError
from linjax.graph.channels.places import rerun
from linjax.graph.heads import Inside
from linjax.graph.maps import Path, join
from linjax.graph.program import Op, Operand, Program, Ref
from linjax.graph.pytree import Flat
from linjax.graph.structure import HeadSite
from linjax.graph.views import operand_id

Array = Any


def rank(site: HeadSite, flat: Flat) -> int:
    """Reads the number of features of each head off the value kernel's shape.

    Raises:
      StructureError: if the kernels' shapes don't fit one another.
    """

    def width(path: Path, rest: int, shape: tuple[int, ...]) -> int:
        size = math.prod(shape)
        if size % max(rest, 1) or not size:
            raise StructureError(f"{join(path)}: shape {shape}, expected {rest} entries a feature")
        return size // rest

    for path in (site.value, site.kernel):
        if path not in flat:
            raise StructureError(f"{join(path)}: missing, expected a kernel")
    own = width(site.value, site.inputs * site.heads, jnp.shape(flat[site.value]))
    found = {own, width(site.kernel, site.outputs * site.readers, jnp.shape(flat[site.kernel]))}
    if site.value_bias in flat:
        found.add(width(site.value_bias, site.heads, jnp.shape(flat[site.value_bias])))
    if len(found) > 1:
        raise StructureError(f"{join(site.kernel)}: not as many features a head as {site.name} has")
    return own


class HeadsRun:
    """The part of an execution that concerns paths of values."""

    def __init__(
        self, program: Program, found: dict[str, tuple[HeadSite, Inside]], flat: Flat,
        env: dict[int, Array], probes: dict[str, Array],
    ) -> None:  # fmt: skip
        self.program, self.flat, self.env, self.probes = program, flat, env, probes
        self.taps: dict[str, Array] = {}
        self.results: dict[str, Array] = {}
        self.at: dict[int, tuple[HeadSite, Inside, int]] = {}
        for site, inside in found.values():
            own = site, inside, rank(site, flat)
            narrow = own[2] != site.width
            for index in {inside.value, inside.out, *(inside.ops if narrow else ())}:
                self.at[index] = own

    def handle(self, index: int, op: Op, read: Callable[[Operand], Array | None]) -> bool:
        """Executes an operation if it belongs to a path; returns whether it does."""
        if index not in self.at:
            return False
        site, inside, width = self.at[index]
        values = [read(o) for o in op.inputs]
        out = op.outputs[0].id
        if index in (inside.value, inside.out):
            path = site.value if index == inside.value else site.kernel
            dtype = self.program.avals[operand_id(op.inputs[1])].dtype
            value = op.bind(values[0], jnp.asarray(self.flat[path], dtype))[0]
            if index == inside.out:
                self.taps[site.name] = values[0].reshape(-1, site.readers * width)
                value = self._probed(site, value)
            self.env[out] = value
            return True
        refs = [o for o in op.inputs if isinstance(o, Ref) and o.id in inside.places]
        before, after = inside.places[refs[0].id], inside.places[out]
        self.env[out] = rerun(op, tuple(values), before, after, width, site.width)
        return True

    def _probed(self, site: HeadSite, value: Array) -> Array:
        probe = self.probes.get(site.out)
        if probe is not None:
            value = value + probe.reshape(value.shape)
        self.results[site.out] = value.reshape(-1, site.outputs)
        return value
