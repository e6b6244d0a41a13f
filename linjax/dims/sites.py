"""Sites: dimensions that parameters make and parameters read."""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

import jax.numpy as jnp

from linjax.dims import merging, pairs
from linjax.dims.layout import Held, Layout, Mark, number
from linjax.dims.norm_values import Norms
from linjax.dims.normed import norms_of
from linjax.dims.span import Span, Spans, companions
from linjax.dims.turning import unturned
from linjax.dims.unmade import kernels_without_product
from linjax.dims.untold import UNTOLD, untold
from linjax.dims.values import Role, Source
from linjax.program.flat import Op, Operand, Ref


class Form(Enum):
    """What may be done with a site's coordinates."""

    BENT = "bent"  # some are kept; the readers are refitted
    STRAIGHT = "straight"  # any basis will do
    PAIRED = "paired"  # two of them meet in a product: queries and keys
    NORMED = "normed"  # a norm runs over them
    BLOCKS = "blocks"  # each stands for several entries that keep their places: heads, groups


class Product(NamedTuple):
    """A product or convolution with a kernel.

    Attributes:
      op: the operation, by its first result.
      data: the operand that depends on the inputs, by its place.
      leaf: number of the kernel's leaf, None where the kernel is computed.
    """

    op: int
    data: int
    leaf: int | None


class Site(NamedTuple):
    """A dimension that can become smaller.

    Attributes:
      name: of the layer that makes it, unique in the network.
      dim: its number in the layout.
      width: number of coordinates in the traced network.
      form: what may be done with them.
      beside: dimensions that it is repeated along; each repeat keeps its own coordinates.
      makers: the products that make it.
      readers: the products that read it.
      points: numbers of the values that they read.
      linear: whether coordinates without their activation can come along.
      fixed: whether some reader can't be refitted: its kernel is computed, or makes the same
        coordinates that it reads.
      opposite: leaves of keys where any basis will do for queries, with its inverse for these:
        those on the other side than the first point.
      told: places among the points of those that tell what is lost: all, but for two that meet
        in a product.
      norms: what a stream is read through that norms run over, where its basis may change.
      steady: whether what is added to linear coordinates arrives at all readers as it is: not where
        they are masked, weighed by data, added up over places or follow zeros on the way.
    """

    name: str
    dim: int
    width: int
    form: Form
    beside: tuple[int, ...]
    makers: tuple[Product, ...]
    readers: tuple[Product, ...]
    points: tuple[int, ...]
    linear: bool
    fixed: bool
    opposite: tuple[int, ...] = ()
    told: tuple[int, ...] = ()
    norms: Norms | None = None
    steady: bool = True

    @property
    def stream(self) -> bool:
        """Whether several products add to its coordinates, and several read them."""
        return self.form is not Form.PAIRED and len(self.makers) > 1 and len(self.readers) > 1


class Refusal(NamedTuple):
    """A layer some dimension of which stays as it is, and why."""

    name: str
    reason: str


PRODUCTS = ("dot_general", "conv_general_dilated")

_BENT = {Role.BENT, Role.GATED, Role.POOLED, Role.FILTERED, Role.SCALED}


def find_sites(
    layout: Layout, names: tuple[str, ...]
) -> tuple[tuple[Site, ...], tuple[Refusal, ...]]:
    """Finds the sites of a network, in the order in which they are first read.

    Args:
      layout: the network's dimensions.
      names: of the layers that the parameter leaves belong to.
    """
    ops = {number(op): op for op in layout.program.all_ops()}
    order = {name: n for n, name in enumerate(ops)}
    together, twice, stays = _together(layout), _twice(layout), unturned(layout)
    found, refused, stuck = list[Site](), list[Refusal](), dict[int, str]()
    dims = {d for spans in layout.leaves for s in spans for d in s.dims()}
    for dim in sorted(dims):
        if layout.traced[dim] < 2:
            continue
        marks = layout.marks.get(dim, ())
        makers = tuple(products_of(layout, ops, marks, Role.MADE))
        if not makers:
            unmade = kernels_without_product(layout, dim)
            refused += [Refusal(names[n], reason) for n, reason in unmade.items()]
            continue
        name = _name(layout, names, dim, makers)
        reason = _reason(layout, dim, marks)
        if reason:
            refused.append(Refusal(name, reason))
            continue
        site = _site(layout, ops, dim, name, makers, together[dim], dim not in stays)
        site = site._replace(fixed=site.fixed or dim in twice)
        if site.form is Form.NORMED:
            norms = _norms(layout, site, bool(together[dim]))
            if isinstance(norms, str):
                stuck[dim] = norms
            else:
                site = site._replace(norms=norms)
        found.append(site)
    repeats = {dim for site in found if site.form is not Form.BLOCKS for dim in site.beside}
    unknown = untold(layout, {site.dim for site in found}, repeats)
    refused += [Refusal(site.name, UNTOLD) for site in found if site.dim in unknown]
    found = _blocked([site for site in found if site.dim not in unknown])
    found.sort(key=lambda s: (s.form is Form.BLOCKS, order[_first(s)]))
    taken: dict[str, int] = {}
    named = [site._replace(name=_unique(site.name, taken)) for site in found]
    refusals = [r._replace(name=_unique(r.name, taken)) for r in dict.fromkeys(refused)]
    refusals += [Refusal(site.name, stuck[site.dim]) for site in named if site.dim in stuck]
    return tuple(sorted(named, key=lambda s: order[_first(s)])), tuple(refusals)


def _blocked(found: list[Site]) -> list[Site]:
    """Makes blocks of sites that others are repeated along.

    Of two that are repeated along each other (heads and their values, shuffled channels) the one
    that is merely passed along is the block, else the narrower one.
    """
    repeats = set[int]()
    for site in sorted(found, key=lambda s: (s.form is Form.BLOCKS, -s.width)):
        if site.form is not Form.BLOCKS and site.dim not in repeats:
            repeats.update(site.beside)
    return [_block(site) if site.dim in repeats else site for site in found]


def _block(site: Site) -> Site:
    """A site whose coordinates stand for several entries each."""
    return site if site.form is Form.NORMED else site._replace(form=Form.BLOCKS, linear=False)


def _twice(layout: Layout) -> set[int]:
    """Dimensions that some leaf makes and reads at once, as a recurrent kernel does."""
    found = set()
    for spans in layout.leaves:
        once: set[int] = set()
        for span in spans:
            found |= once & set(span.dims())
            once |= set(span.dims())
    return found


def _first(site: Site) -> int:
    return min((p.op for p in site.readers), default=site.makers[0].op)


def _site(
    layout: Layout, ops: dict[int, Op], dim: int, name: str, makers: tuple[Product, ...],
    beside: tuple[int, ...], turns: bool,
) -> Site:  # fmt: skip
    marks = layout.marks[dim]
    readers = tuple(products_of(layout, ops, marks, Role.READ))
    roles = {mark.role for mark in marks}
    paired = [ops[m.op].inputs[m.operand] for m in marks if m.role is Role.PAIRED]
    read = [ops[p.op].inputs[p.data] for p in readers]
    points = tuple(dict.fromkeys(o.id for o in (*read, *paired) if isinstance(o, Ref)))
    form = _form(roles)
    form = Form.BENT if form is Form.STRAIGHT and not turns else form
    made = {p.leaf for p in makers}
    fixed = any(p.leaf is None or p.leaf in made for p in readers)
    bent = form is Form.BENT and bool(roles & _BENT)
    linear = bent and not fixed and _apart(layout, ops, dim, makers)
    across = pairs.Sides((), tuple(range(len(points))))
    if form is Form.PAIRED:
        across = pairs.sides(layout, dim, points, fixed or not turns)
    return Site(
        name, dim, layout.traced[dim], form, beside, makers, readers, points, linear, fixed, *across
    )


def _norms(layout: Layout, site: Site, repeated: bool) -> Norms | str:
    """What a stream is read through that norms run over, or why it stays as it is."""
    if repeated:
        return "a norm runs over parts of it, or over each repeat alone"
    return norms_of(layout, site.dim, site.makers, site.readers, site.points)


def _apart(layout: Layout, ops: dict[int, Op], dim: int, makers: tuple[Product, ...]) -> bool:
    """Whether linear coordinates can be made by kernels of their own, and pass."""
    for maker in makers:
        spans = () if maker.leaf is None else layout.leaves[maker.leaf]
        if ops[maker.op].name not in PRODUCTS or all(s.dim != dim for s in spans):
            return False
        if _rearranged(layout, ops[maker.op].inputs[1 - maker.data]):
            return False
    return merging.merges(layout, dim) is not None


def _rearranged(layout: Layout, operand: Operand) -> bool:
    """Whether a leaf is reshaped or cut on its way to a product."""
    while isinstance(operand, Ref) and operand.id in layout.makers:
        op = layout.makers[operand.id]
        if op.name in ("reshape", "squeeze", "slice", "split", "broadcast_in_dim", "scan"):
            return True
        operand = op.inputs[0]
    return False


def _form(roles: set[Role]) -> Form:
    if Role.SUMMED in roles:
        return Form.NORMED
    if Role.BESIDE in roles:
        return Form.BLOCKS
    if Role.PAIRED in roles:
        return Form.PAIRED
    return Form.BENT if roles & _BENT else Form.STRAIGHT


def _reason(layout: Layout, dim: int, marks: tuple[Mark, ...]) -> str:
    """Why a dimension isn't a site, empty where it is."""
    if layout.reasons[dim]:
        return layout.reasons[dim][0]
    roles = {mark.role for mark in marks}
    if Role.READ not in roles and Role.PAIRED not in roles:
        return "no parameters read it"
    if any(_complex(layout, mark.op) for mark in marks if mark.role in (Role.READ, Role.PAIRED)):
        return "complex numbers read it, as in a Fourier layer"
    if Role.WEIGHED in roles and (Role.SUMMED not in roles or _normalised(layout, dim, marks)):
        return (
            "parameters alone are summed over it, as where kernels are normalised: "
            "compute such kernels once and give them as parameters"
        )
    return ""


def _complex(layout: Layout, op: int) -> bool:
    return bool(jnp.issubdtype(layout.program.avals[op].dtype, jnp.complexfloating))


def _normalised(layout: Layout, dim: int, marks: tuple[Mark, ...]) -> bool:
    """Whether parameters that are summed over a dimension come from kernels that read it."""
    weighed = {mark.op for mark in marks if mark.role is Role.WEIGHED}
    kernels: set[int] = set()
    for op in layout.program.all_ops():
        refs = [o.id for o in op.inputs if isinstance(o, Ref)]
        own = any(r in kernels or dim in layout.values[r].read for r in refs)
        if own and number(op) in weighed and op.name not in PRODUCTS:
            return True
        if own and all(layout.values[r.id].source is Source.PARAMETER for r in op.outputs):
            kernels.update(r.id for r in op.outputs)
    return False


def features_of(layout: Layout, product: Product) -> list[Span]:
    """The axes of what a matrix reads that it sums over."""
    op = layout.makers[product.op]
    (contract, _) = op.params["dimension_numbers"]
    spans = layout.operand(op, product.data).spans
    return [spans[n] for n in contract[product.data]]


def products_of(
    layout: Layout, ops: dict[int, Op], marks: Iterable[Mark], role: Role
) -> Iterable[Product]:
    """The products with a role for a dimension, each once, in order."""
    seen = set()
    for mark in marks:
        if mark.role is not role or mark.op in seen:
            continue
        seen.add(mark.op)
        op = ops[mark.op]
        data = next(
            (k for k in range(len(op.inputs)) if layout.operand(op, k).source is Source.DATA), 0
        )
        kernel = layout.operand(op, 1 - data) if len(op.inputs) > 1 else None
        yield Product(mark.op, data, None if kernel is None else kernel.leaf)


def _together(layout: Layout) -> dict[int, tuple[int, ...]]:
    """By dimension, those that all leaves and values with it have, too: its repeats."""
    common: dict[int, set[int]] = {}

    def meet(spans: Spans, loops: tuple[int, ...] = (), among: set[int] | None = None) -> None:
        for dim, own in companions(spans, loops).items():
            if among is None or dim in among:
                common[dim] = common[dim] & own if dim in common else own

    for spans in layout.leaves:
        meet(spans)
    for key, held in layout.values.items():
        op = layout.makers.get(key)
        if held.source is Source.DATA or _spread(held):
            meet(held.spans, () if op is None else tuple(s.dim for s in layout.steps[number(op)]))
    for held in layout.constants.values():
        pairs = zip(held.spans, held.varies, strict=True)
        # All steps of a scan have the same constants, and so keep the same coordinates of them.
        meet(held.spans, (), {d for s, v in pairs if v for d in s.dims()})
    kept, sizes = {d for spans in layout.leaves for s in spans for d in s.dims()}, layout.traced
    return {
        dim: tuple(sorted(d for d in own & kept if d != dim and sizes[d] > 1))
        for dim, own in common.items()
    }


def _spread(held: Held) -> bool:
    return held.source is Source.PARAMETER and held.leaf is None and any(held.varies)


def _name(layout: Layout, names: tuple[str, ...], dim: int, makers: tuple[Product, ...]) -> str:
    leaf = next((p.leaf for p in makers if p.leaf is not None), None)
    if leaf is None:
        leaf = next(n for n, s in enumerate(layout.leaves) if any(dim in x.dims() for x in s))
    return names[leaf]


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
