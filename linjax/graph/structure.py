"""The static description of a network: affine maps, the sites between them, and what was refused.

Everything here is hashable and free of arrays, so that evidence can carry it as
static data and a fold needs neither the network's function nor its class.
"""

from typing import NamedTuple

Path = tuple[str, ...]


def join(path: Path) -> str:
    """Returns a leaf's path as people write it: ``params/Dense_0/kernel``."""
    return "/".join(path)


class Activation(NamedTuple):
    """An elementwise function ``h = σ(z)``.

    Attributes:
      name: ``"relu"``, ``"gelu"``, ``"identity"``, or what the trace made of it.
      slopes: ``(negative, positive)`` if ``σ(z)`` is exactly ``negative · z`` below
        zero and ``positive · z`` above (then σ is positively homogeneous), else None.
        ReLU is ``(0.0, 1.0)``, the identity ``(1.0, 1.0)``.
      per_unit: whether σ reads per-unit parameters (PReLU), so that units differ.
    """

    name: str
    slopes: tuple[float, float] | None = None
    per_unit: bool = False


class Affine(NamedTuple):
    """An affine map ``z = v W + b`` with its parameters' places in the pytree.

    Attributes:
      name: shortest readable name, unique in the network (``"Dense_0"``).
      kernel: path of the kernel leaf.
      bias: path of the bias leaf, None without one.
      inputs: number of features read, ``p``.
      outputs: number of units, ``q``.
      layout: axes of the kernel leaf that hold (inputs, outputs): ``(0, 1)`` in
        Flax, ``(1, 0)`` in Equinox.
    """

    name: str
    kernel: Path
    bias: Path | None
    inputs: int
    outputs: int
    layout: tuple[int, int] = (0, 1)

    def extra(self, kind: str) -> Path:
        """Path of a leaf that folding adds beside the kernel: ``kernel_residual``."""
        return (*self.kernel[:-1], f"{self.kernel[-1]}_{kind}")

    @property
    def bias_path(self) -> Path:
        """Where this map's bias is, or would be put if a fold made one."""
        return self.extra("bias") if self.bias is None else self.bias


class Site(NamedTuple):
    """An activation between affine maps: the place where units can fold.

    Attributes:
      name: the producer's name.
      producer: name of the affine map that computes the pre-activation ``z``.
      consumers: names of the affine maps that read ``h = σ(z)``, and its only readers.
      width: number of units ``m`` in the traced network.
      activation: the elementwise function σ.
      unit_leaves: paths of parameters with one entry a unit that σ reads (PReLU's slopes).
    """

    name: str
    producer: str
    consumers: tuple[str, ...]
    width: int
    activation: Activation
    unit_leaves: tuple[Path, ...] = ()


class Refusal(NamedTuple):
    """Something that was left alone, and why."""

    name: str
    reason: str


class Chain(NamedTuple):
    """A run of affine maps with a site between each and the next.

    Attributes:
      layers: names of the affine maps at each depth. All but the last depth hold one
        name; the last may hold several consumers, which read the same features.
      sites: ``sites[i]`` lies between ``layers[i]`` and ``layers[i + 1]``.
      source: ``"input"`` if the first map reads the network's first input, flattened
        per example; else ``"hidden"``.
    """

    layers: tuple[tuple[str, ...], ...]
    sites: tuple[Site, ...]
    source: str


class Leaf(NamedTuple):
    """A parameter leaf's path, shape and dtype."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


class Graph(NamedTuple):
    """A traced network, statically: what evidence is about.

    Attributes:
      affines: every affine map with a kernel that is a parameter leaf.
      chains: the foldable runs; each site is in exactly one.
      refusals: what cannot be folded, with reasons.
      leaves: the traced parameter pytree's leaves, in order.
    """

    affines: tuple[Affine, ...]
    chains: tuple[Chain, ...]
    refusals: tuple[Refusal, ...]
    leaves: tuple[Leaf, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites, chain by chain."""
        return tuple(site for chain in self.chains for site in chain.sites)

    def affine(self, name: str) -> Affine:
        """Returns the affine map of this name."""
        return next(a for a in self.affines if a.name == name)
