"""The static description of a network: affine maps, the sites between them, and what was refused.

Everything here is hashable and free of arrays, so that evidence can carry it as
static data and a fold needs neither the network's function nor its class.
"""

import math
from typing import Any, NamedTuple

Path = tuple[str, ...]


def join(path: Path) -> str:
    """Returns a leaf's path as people write it: ``params/Dense_0/kernel``."""
    return "/".join(path)


class Slope(NamedTuple):
    """A slope that may be a parameter: PReLU's below zero.

    Attributes:
      value: the slope, where it is a constant.
      leaf: path of the parameter that holds it, a scalar or one entry a unit; None for a
        constant.
    """

    value: float
    leaf: Path | None = None


class Activation(NamedTuple):
    """An elementwise function ``h = σ(z)``.

    Attributes:
      name: ``"relu"``, ``"gelu"``, ``"identity"``, or what the trace made of it.
      slopes: ``(negative, positive)`` if ``σ(z)`` is exactly ``negative · z`` below
        zero and ``positive · z`` above (then σ is positively homogeneous), else None.
        ReLU is ``(0.0, 1.0)``, the identity ``(1.0, 1.0)``.
      learned: the same if a slope is a parameter (PReLU); then ``slopes`` is None.
      per_unit: whether σ reads per-unit parameters, so that units differ.
    """

    name: str
    slopes: tuple[float, float] | None = None
    learned: tuple[Slope, Slope] | None = None
    per_unit: bool = False

    @property
    def two_slopes(self) -> bool:
        """Whether σ is linear on either side of zero."""
        return self.slopes is not None or self.learned is not None

    @property
    def identity_above(self) -> bool:
        """Whether ``σ(z) = z`` above zero."""
        if self.slopes is not None:
            return self.slopes[1] == 1.0
        return self.learned is not None and self.learned[1] == Slope(1.0)


class Term(NamedTuple):
    """One step of an operand's computation from parameters, in postfix order.

    Attributes:
      op: ``"leaf"``, ``"constant"``, or the name of an elementwise primitive.
      leaf: path of the parameter that ``"leaf"`` stands for.
      value: the number that ``"constant"`` stands for.
    """

    op: str
    leaf: Path = ()
    value: float = 0.0


class Rescaling(NamedTuple):
    """One elementwise operation on a pre-activation, with one operand entry a unit.

    Attributes:
      op: ``"add"``, ``"sub"``, ``"mul"``, ``"div"``, or ``"rsub"`` for ``operand − z``.
      operand: the other operand.
    """

    op: str
    operand: tuple[Term, ...]


class Scaling(NamedTuple):
    """A per-unit affine map behind an affine map, such as batch norm in inference.

    Attributes:
      steps: its operations.
      leaves: paths of its parameters; a pytree without them has it multiplied into the kernel.
    """

    steps: tuple[Rescaling, ...]
    leaves: tuple[Path, ...]


class Part(NamedTuple):
    """Which of several equal runs of a leaf's columns belong to a map: all there are, unless said.

    A folded leaf has as many runs, narrower ones.

    Attributes:
      number: which run, from zero.
      of: the number of runs.
    """

    number: int = 0
    of: int = 1

    def take(self, array: Any, axis: int) -> Any:
        """Returns this run of an array along an axis."""
        if self.of == 1:
            return array
        width = array.shape[axis] // self.of
        run = slice(self.number * width, (self.number + 1) * width)
        return array[(slice(None),) * axis + (run,)]


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
      scaling: a per-unit affine map that follows it, such as batch norm; None without one.
      part: which of the columns and of the bias are its own, where a gated layer has one kernel.
    """

    name: str
    kernel: Path
    bias: Path | None
    inputs: int
    outputs: int
    layout: tuple[int, int] = (0, 1)
    scaling: Scaling | None = None
    part: Part = Part()

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
      mates: names of further affine maps of the same features whose results h is made of,
        too, unit by unit: a gated layer's ``h = σ(z) · z'``.
    """

    name: str
    producer: str
    consumers: tuple[str, ...]
    width: int
    activation: Activation
    unit_leaves: tuple[Path, ...] = ()
    mates: tuple[str, ...] = ()


class Convolution(NamedTuple):
    """A convolution with its parameters' places in the pytree.

    Attributes:
      name: shortest readable name, unique in the network.
      kernel: path of the kernel leaf.
      bias: path of the bias leaf, None without one.
      inputs: number of channels read.
      outputs: number of channels made.
      axes: axes of the kernel leaf that hold (space …, inputs, outputs).
      window: extent of the kernel in space.
      padded: whether it reads beyond the border of its input.
      scaling: a per-channel affine map that follows it, None without one.
    """

    name: str
    kernel: Path
    bias: Path | None
    inputs: int
    outputs: int
    axes: tuple[int, ...]
    window: tuple[int, ...]
    padded: bool
    scaling: Scaling | None = None

    def extra(self, kind: str) -> Path:
        """Path of a leaf that folding adds beside the kernel: ``kernel_linear``."""
        return (*self.kernel[:-1], f"{self.kernel[-1]}_{kind}")

    @property
    def bias_path(self) -> Path:
        """Where this convolution's bias is, or would be put if a fold made one."""
        return self.extra("bias") if self.bias is None else self.bias

    @property
    def taps(self) -> int:
        """Number of places that the kernel reads at a time."""
        return math.prod(self.window)

    @property
    def pointwise(self) -> bool:
        """Whether each place of the result is made of one place of the input."""
        return self.taps == 1 and not self.padded


class Reading(NamedTuple):
    """An affine map or convolution that reads a site's channels.

    Attributes:
      consumer: its name.
      outer: how often the channels occur, one place of an image after another, in front of
        the channels' axis where that was flattened with others.
      inner: likewise behind it.
    """

    consumer: str
    outer: int = 1
    inner: int = 1


class UnitLeaf(NamedTuple):
    """A parameter with one entry, or slice, a unit along an axis."""

    path: Path
    axis: int


class ChannelSite(NamedTuple):
    """What stands between a convolution and the maps that read its channels.

    Attributes:
      name: the producer's name.
      producer: name of the convolution that computes the channels.
      readings: the only readers.
      width: number of channels in the traced network.
      activation: the elementwise function that comes first.
      steps: names of the channelwise operations behind it.
      unit_leaves: parameters of a channelwise operation.
      straight: whether channels without their activation could take the same way, all
        operations behind being linear.
    """

    name: str
    producer: str
    readings: tuple[Reading, ...]
    width: int
    activation: Activation
    steps: tuple[str, ...] = ()
    unit_leaves: tuple[UnitLeaf, ...] = ()
    straight: bool = True


class HeadSite(NamedTuple):
    """Attention's values: heads whose features can become fewer combinations of them.

    Attributes:
      name: name of the value kernel's map.
      out: name of the output kernel's map.
      value: path of the value kernel: inputs first, then heads and features, or both as one axis.
      value_bias: path of its bias, None without one.
      kernel: path of the output kernel: heads and features, or both as one axis, then outputs.
      bias: path of its bias, None without one.
      heads: number of heads.
      width: features of each head in the traced network.
      inputs: number of features that the value kernel reads.
      outputs: number of features that the output kernel makes.
    """

    name: str
    out: str
    value: Path
    value_bias: Path | None
    kernel: Path
    bias: Path | None
    heads: int
    width: int
    inputs: int
    outputs: int


class Refusal(NamedTuple):
    """Something that was left alone, and why."""

    name: str
    reason: str


class Chain(NamedTuple):
    """A run of affine maps with a site between each and the next.

    Attributes:
      layers: names of the affine maps at each depth. All but the last depth hold one
        name; the last may hold several consumers, which read the same features. One of
        these may have units itself: it is the first of another chain, a branch.
      sites: ``sites[i]`` lies between ``layers[i]`` and ``layers[i + 1]``.
      source: ``"input"`` if the first map reads the network's first input, flattened
        per example; else ``"hidden"``.
    """

    layers: tuple[tuple[str, ...], ...]
    sites: tuple[Site, ...]
    source: str

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of all affine maps at each depth, a gated layer's mates among them."""
        mates = (*(site.mates for site in self.sites), ())
        return tuple((*own, *more) for own, more in zip(self.layers, mates, strict=True))


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
      convolutions: every convolution whose kernel is a parameter leaf.
      channels: the sites between a convolution and what reads it.
      heads: the linear paths of attention's values.
    """

    affines: tuple[Affine, ...]
    chains: tuple[Chain, ...]
    refusals: tuple[Refusal, ...]
    leaves: tuple[Leaf, ...]
    convolutions: tuple[Convolution, ...] = ()
    channels: tuple[ChannelSite, ...] = ()
    heads: tuple[HeadSite, ...] = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites, chain by chain."""
        return tuple(site for chain in self.chains for site in chain.sites)

    def affine(self, name: str) -> Affine:
        """Returns the affine map of this name."""
        return next(a for a in self.affines if a.name == name)

    def convolution(self, name: str) -> Convolution:
        """Returns the convolution of this name."""
        return next(c for c in self.convolutions if c.name == name)

    def in_chain(self, name: str) -> bool:
        """Whether an affine map has units itself, or reads such."""
        return any(name in group for chain in self.chains for group in chain.layers)

    def trunk(self, chain: Chain) -> Chain | None:
        """Returns the chain whose last activation a chain reads, None where none does."""
        first = chain.layers[0][0]
        return next((c for c in self.chains if first in c.layers[-1]), None)

    def branches(self, chain: Chain) -> tuple[Chain, ...]:
        """Returns the chains that begin where a chain ends, all reading its last activation."""
        return tuple(c for c in self.chains if c.layers[0][0] in chain.layers[-1])

    @property
    def branching(self) -> bool:
        """Whether some activation is read by several maps of which one has units itself."""
        return any(self.trunk(chain) is not None for chain in self.chains)
