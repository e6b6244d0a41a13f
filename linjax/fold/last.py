"""A network's last layer alone: what it reads is computed once, however often it is refitted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from linjax.dims.layout import number
from linjax.dims.leaves import EXTRAS
from linjax.dims.network import Network
from linjax.dims.replay import behind, wiring
from linjax.dims.run import begin
from linjax.fold.rows import Batch, Rows
from linjax.net import Net
from linjax.program import pytree
from linjax.program.flat import Const, Op, Ref
from linjax.program.pytree import Path

Array = Any


class Last(NamedTuple):
    """The operations from a network's last kernel on.

    Attributes:
      net: the traced network.
      moving: paths of the kernel, what stands beside it, and its biases.
      op: the kernel's product.
    """

    net: Net
    moving: frozenset[Path]
    op: int

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
        outputs = [
            o.value if isinstance(o, Const) else run.env[o.id]
            for o in network.layout.program.outputs
        ]
        return jax.tree.unflatten(network.layout.out_tree, outputs)

    def _begun(self, params: Any, inputs: Batch) -> tuple[Network, Any]:
        flat = self.net.network.flatten(params)
        network = self.net.network_for(flat, inputs)
        leaves = jax.tree.leaves(inputs)
        run, own = begin(network, flat, leaves)
        for ref, value in zip(network.layout.program.inputs, [*own, *leaves], strict=True):
            run.put(ref, value)
        return network, run

    def _behind(self, network: Network) -> set[int]:
        return behind(network, [self.op])

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
    """A network's last layer; None where its kernel is used elsewhere, too, or isn't a leaf."""
    network, flat = net.network, pytree.flatten(params)
    places = wiring(network)
    outer = [op for op in network.kernels if op in places.at and op not in places.inner]
    if not outer:
        return None
    op = max(outer, key=places.at.__getitem__)
    leaf = network.kernels[op].leaf
    if leaf is None or network.twice(leaf):
        return None
    own = [network.paths[leaf], *(network.extra(leaf, kind) for kind in EXTRAS)]
    own += [network.paths[bias.leaf] for bias in network.biases.get(op, ())]
    moving = {p for p in own if p in flat and jnp.issubdtype(flat[p].dtype, jnp.floating)}
    used = [product.leaf for product in network.kernels.values()]
    return Last(net, frozenset(moving), op) if moving and used.count(leaf) == 1 else None
