"""A network's last layer alone: what it reads is computed once, however often it is refitted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from linjax.dims.layout import number
from linjax.dims.leaves import EXTRAS
from linjax.dims.network import Network
from linjax.dims.replay import behind, changed, wiring
from linjax.dims.run import Run, begin
from linjax.fold.rows import Batch, Rows
from linjax.net import Net
from linjax.program import pytree
from linjax.program.flat import Op, Ref
from linjax.program.pytree import Path

Array = Any


class Last(NamedTuple):
    """The operations that depend on some leaves: the last layer's.

    Attributes:
      net: the traced network.
      moving: paths of its kernel, what stands beside it, and its biases.
    """

    net: Net
    moving: frozenset[Path]

    def read(self, params: Any, rows: Rows) -> Rows:
        """Rows whose inputs are, beside themselves, what the last layer reads of them."""

        @jax.jit
        def values(inputs: Batch) -> dict[int, Array]:
            network, run = self._begun(params, inputs)
            for op in network.layout.program.ops:
                run.step(op)
            return {n: run.env[n] for n in self._read(network)}

        found = (((inputs, values(inputs)), teacher) for inputs, teacher in rows.chunks)
        return Rows(tuple(found), rows.total)

    def apply(self, params: Any, inputs: Batch, values: dict[int, Array]) -> Any:
        """The network's outputs, given what the last layer reads."""
        network, run = self._begun(params, inputs)
        run.env.update(values)
        for op in self._ops(network):
            run.step(op)
        return jax.tree.unflatten(network.layout.out_tree, run.results(network.layout.program))

    def kernels(self) -> set[int]:
        """The products that depend on the leaves."""
        return set(self.net.network.kernels) & self._behind(self.net.network)

    def _begun(self, params: Any, inputs: Batch) -> tuple[Network, Run]:
        flat, leaves = self.net.network.flatten(params), jax.tree.leaves(inputs)
        network = self.net.network_for(flat, inputs)
        run, own = begin(network, flat, leaves)
        run.start(network.layout.program, [*own, *leaves])
        return network, run

    def _behind(self, network: Network) -> set[int]:
        return behind(network, *changed(network, self.moving))

    def _ops(self, network: Network) -> list[Op]:
        own = self._behind(network)
        return [op for op in network.layout.program.ops if number(op) in own]

    def _read(self, network: Network) -> list[int]:
        """Values that operations of the last layer take, and others make."""
        links, own = wiring(network), self._behind(network)
        at = (links.at[number(op)] for op in self._ops(network))
        taken = {value for place in at for value in links.reads[place]}
        outputs = {o.id for o in network.layout.program.outputs if isinstance(o, Ref)}
        return sorted(v for v in (taken | outputs) - own if v in links.at)


def last(net: Net, params: Any) -> Last | None:
    """A network's last layer; None where another one depends on its leaves, or it has none."""
    network, flat = net.network, pytree.flatten(params)
    places = wiring(network)
    outer = [op for op in network.kernels if op in places.at and op not in places.inner]
    if not outer:
        return None
    op = max(outer, key=places.at.__getitem__)
    leaf = network.kernels[op].leaf
    own = [network.paths[leaf], *(network.extra(leaf, kind) for kind in EXTRAS)]
    own += [network.paths[bias.leaf] for bias in network.biases.get(op, ())]
    moving = {p for p in own if p in flat and jnp.issubdtype(flat[p].dtype, jnp.floating)}
    found = Last(net, frozenset(moving))
    return found if found.kernels() == {op} else None
