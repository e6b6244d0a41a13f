"""The numeric form of a chain: one :class:`Layer` per affine map, whatever the pytree looks like.

Every transformation in :mod:`linjax.fold` maps layers to layers; this module reads
them from a parameter pytree and writes them back.

A layer maps its features ``v`` to the next layer's features

    v  ←  v @ down                          (if there is a bottleneck)
    v' =  [σ(v @ kernel + bias),  v @ linear,  v if residual]

and the last layer of a chain to ``v @ kernel + bias``. A layer without units and
without linear units that carries its input has disappeared.
"""

from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy, float64: the algebra of folding runs on the host


class Layer(NamedTuple):
    """One affine map of a chain and what stands beside its units.

    Attributes:
      kernel: ``(p, k)``; p features in (after ``down``), k units with an activation.
      bias: ``(k,)``; zeros where the pytree has none.
      linear: ``(p, r)`` kernel of the linear units, None without any.
      residual: whether the features themselves travel on, as residual path.
      down: ``(p_in, p)`` bottleneck in front of the layer, None without one.
      unit_leaves: arrays with one entry a unit that the activation reads.
      slopes: ``(k,)`` each, the units' slopes below and above zero, as the layer was read;
        None where they have none, or behind the last layer.
      mates: a gated layer's other kernels and biases, ``(p, k)`` and ``(k,)`` each.
      origin: ``(k,)`` index of every unit in the layer as it was read, None if unknown.
    """

    kernel: Array
    bias: Array
    linear: Array | None = None
    residual: bool = False
    down: Array | None = None
    unit_leaves: tuple[Array, ...] = ()
    slopes: tuple[Array, Array] | None = None
    mates: tuple[tuple[Array, Array], ...] = ()
    origin: Array | None = None

    @property
    def reads(self) -> int:
        """Number of features that the layer reads, before its bottleneck."""
        return self.kernel.shape[0] if self.down is None else self.down.shape[0]

    @property
    def kernels(self) -> Array:
        """The kernel and those of the mates side by side: ``(p, k (1 + mates))``."""
        if not self.mates:
            return self.kernel
        return np.concatenate([self.kernel, *(kernel for kernel, _ in self.mates)], axis=1)

    @property
    def biases(self) -> Array:
        """The bias and those of the mates, one after another."""
        return np.concatenate([self.bias, *(bias for _, bias in self.mates)])

    @property
    def units(self) -> int:
        """Number k of units that keep their activation."""
        return self.kernel.shape[1]

    @property
    def linears(self) -> int:
        """Number r of linear units."""
        return 0 if self.linear is None else self.linear.shape[1]

    @property
    def features(self) -> int:
        """Number of features that the next layer reads."""
        carried = self.kernel.shape[0] if self.residual else 0
        return self.units + self.linears + carried


Layers = tuple[Layer, ...]


def replaced(layers: Layers, index: int, *changed: Layer) -> Layers:
    """Returns a chain with other layers from an index on, as many as are given."""
    return (*layers[:index], *changed, *layers[index + len(changed) :])
