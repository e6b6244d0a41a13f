"""Affine maps and activations, with their parameters' places in the pytree."""

from typing import Any, NamedTuple

from linjax.program.pytree import Path, beside


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
      taken: names of leaves that begin like the kernel's: no others may be called so.
    """

    name: str
    kernel: Path
    bias: Path | None
    inputs: int
    outputs: int
    layout: tuple[int, int] = (0, 1)
    scaling: Scaling | None = None
    part: Part = Part()
    taken: tuple[str, ...] = ()

    def extra(self, kind: str) -> Path:
        """Path of a leaf that folding adds beside the kernel: ``kernel_residual``."""
        taken = {(*self.kernel[:-1], name) for name in self.taken}
        return beside(self.kernel, kind, taken)

    @property
    def bias_path(self) -> Path:
        """Where this map's bias is, or would be put if a fold made one."""
        return self.extra("bias") if self.bias is None else self.bias
