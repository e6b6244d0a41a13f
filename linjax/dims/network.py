"""A traced network with its sites: what running, measuring and folding go by."""

import collections
import dataclasses
import functools
from typing import Any, NamedTuple

from linjax.dims import merging
from linjax.dims.carrying import Way, find_ways
from linjax.dims.computed import Computed, cut, known_by, staying
from linjax.dims.layout import LAID_OUT, Layout, lay_out, number
from linjax.dims.scalings import Scaling, find_scalings
from linjax.dims.sites import PRODUCTS, Form, Product, Refusal, Site, find_sites, products_of
from linjax.dims.span import Span
from linjax.dims.steady import steady
from linjax.dims.values import Role, Source
from linjax.program import pytree
from linjax.program.flat import Const, Op, Ref, record
from linjax.program.pytree import CONSTANTS, Flat, Leaf, Path, join


class Bias(NamedTuple):
    """A leaf that is added to a product's result, or subtracted from it."""

    leaf: int
    sign: int


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A traced network.

    Attributes:
      layout: its program and dimensions.
      paths: of the parameter leaves, in order.
      names: of the layers that they belong to.
      sites: what can become smaller.
      refusals: what can't, and why.
      kernels: by operation, the products whose kernels are leaves.
      ways: dimensions beside whose coordinates all that their makers read may be carried on.
      merges: by operation and operand, the dimensions whose linear coordinates join there, with
        the values that they come from.
      repeats: dimensions that others are repeated along.
      varying: constants whose entries differ along a site's dimension, by operation and operand.
      biases: by product, the leaf that is added to its result and to nothing else.
      scalings: per-unit affine maps behind products, which folds multiply into kernels.
      computed: which leaves are computed of traced ones, and how; None if none are.
    """

    layout: Layout
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    sites: tuple[Site, ...]
    refusals: tuple[Refusal, ...]
    kernels: dict[int, Product]
    ways: tuple[Way, ...]
    merges: dict[tuple[int, int], tuple[tuple[int, tuple[int, ...]], ...]]
    repeats: frozenset[int]
    varying: tuple[tuple[int, int], ...]
    biases: dict[int, tuple[Bias, ...]]
    scalings: tuple[Scaling, ...]
    computed: Computed | None = None

    @functools.cached_property
    def _own(self) -> frozenset[Path]:
        return frozenset(self.paths)

    def flatten(self, params: Any) -> Flat:
        """Returns a pytree's leaves by path as the network takes them: computed ones computed.

        Raises:
          StructureError: if they can't be, or aren't arrays, naming the path.
        """
        flat = pytree.flatten(params)
        pytree.check_arrays(flat)
        return flat if self.computed is None else self.computed.flatten(flat)

    @property
    def convolutional(self) -> bool:
        """Whether there are convolutions."""
        return any(op.name == "conv_general_dilated" for op in self.layout.program.all_ops())

    @property
    def dense(self) -> bool:
        """Whether there are neither convolutions nor products of queries and keys."""
        paired = any(site.form is Form.PAIRED for site in self.sites)
        return not paired and not self.convolutional

    @property
    def foldable(self) -> tuple[Site, ...]:
        """The sites that least squares folds."""
        forms = (Form.BENT, Form.STRAIGHT, Form.PAIRED)
        return tuple(s for s in self.sites if s.form in forms or s.norms is not None)

    def twice(self, leaf: int) -> bool:
        """Whether a leaf has some dimension on several axes, as a recurrent kernel has."""
        dims = [d for span in self.layout.leaves[leaf] for d in span.dims()]
        return len(set(dims)) < len(dims)

    @property
    def passed(self) -> dict[int, tuple[Product, ...]]:
        """The dimensions that something can pass by, with the products that make them."""
        found = {site.dim: site.makers for site in self.sites if site.linear}
        return found | {way.dim: way.makers for way in self.ways}

    def site(self, name: str) -> Site:
        """The site of this name."""
        return next(site for site in self.sites if site.name == name)

    def ref(self, leaf: int) -> int:
        """The number of a leaf's value."""
        return self.layout.program.inputs[leaf].id

    def extra(self, leaf: int, kind: str) -> Path:
        """Path of a leaf that a fold puts beside a kernel."""
        return pytree.beside(self.paths[leaf], kind, self._own)

    def constant(self, key: tuple[int, int]) -> Path:
        """Path of a constant that went along with coordinates."""
        return (CONSTANTS, str(self.varying.index(key)))

    def made_axes(self, op: int) -> tuple[int, ...]:
        """Axes of a product's result that are its kernel's."""
        product = self.kernels[op]
        held = self.layout.operand(self.layout.makers[op], 1 - product.data)
        own = held.dims() - held.read
        spans = self.layout.values[op].spans
        return tuple(n for n, s in enumerate(spans) if own & set(s.dims()))

    def bias_axes(self, leaf: int) -> tuple[int, ...]:
        """Axes of a kernel's leaf that a bias behind it has: what it makes, and steps of scans."""
        layout, held = self.layout, self.layout.values[self.ref(leaf)]
        loops = {span.dim for own in layout.steps.values() for span in own}
        return tuple(
            n
            for n, s in enumerate(held.spans)
            if not held.read & set(s.dims())
            and any(d in layout.marks or d in loops for d in s.dims())
        )

    def linear_axis(self, op: int) -> int:
        """The axis of a product's result along which linear coordinates stand."""
        own = {d for d, makers in self.passed.items() if any(m.op == op for m in makers)}
        spans = self.layout.values[op].spans
        return next(n for n, s in enumerate(spans) if own & set(s.dims()))


def analyse(
    apply_fn: Any, params: Any, inputs: tuple[Any, ...], paths: tuple[Path, ...]
) -> Network:
    """Traces a network and finds its sites."""
    program, out_tree = record(apply_fn, params, *inputs)
    traced = tuple(
        Leaf(path, tuple(program.avals[ref.id].shape), str(program.avals[ref.id].dtype))
        for path, ref in zip(paths, program.inputs, strict=False)
    )
    program, computed = cut(program, traced)
    paths = tuple(leaf.path for leaf in staying(traced, computed))
    layout = lay_out(program, len(paths), out_tree)
    ops = {number(op): op for op in layout.program.all_ops()}
    kernels = {}
    for marks in layout.marks.values():
        for role in (Role.MADE, Role.READ):
            for product in products_of(layout, ops, marks, role):
                if product.leaf is not None and ops[product.op].name in PRODUCTS:
                    kernels[product.op] = product
    names = layer_names(known_by(paths, computed), {product.leaf for product in kernels.values()})
    sites, refusals = find_sites(layout, names)
    ways = find_ways(layout, ops)
    passing = {s.dim: merging.merges(layout, s.dim) or () for s in sites if s.linear}
    passing |= {way.dim: way.merges for way in ways}
    sites = tuple(
        site._replace(steady=not site.linear or steady(layout, site.dim, passing[site.dim]))
        for site in sites
    )
    merges: dict[tuple[int, int], list[tuple[int, tuple[int, ...]]]] = {}
    for dim, own in passing.items():
        for merge in own:
            merges.setdefault((merge.op, merge.place), []).append((dim, merge.roots))
    dims = {site.dim for site in sites}
    biases = _biases(layout, kernels)
    added = {op: frozenset(b.leaf for b in own if b.sign > 0) for op, own in biases.items()}
    return Network(
        layout=layout,
        paths=paths,
        names=names,
        sites=sites,
        refusals=refusals,
        kernels=kernels,
        ways=ways,
        merges={key: tuple(own) for key, own in merges.items()},
        repeats=frozenset(d for s in sites if s.form is not Form.BLOCKS for d in s.beside),
        varying=_varying(layout, dims),
        biases=biases,
        scalings=find_scalings(layout, kernels, added),
        computed=computed,
    )


def _varying(layout: Layout, dims: set[int]) -> tuple[tuple[int, int], ...]:
    found = []
    for op in layout.program.all_ops():
        for place, operand in enumerate(op.inputs):
            if isinstance(operand, Const):
                held = layout.constants[number(op), place]
                differs = zip(held.spans, held.varies, strict=True)
                if any(v and dims & set(s.dims()) for s, v in differs):
                    found.append((number(op), place))
    return tuple(found)


def _biases(layout: Layout, kernels: dict[int, Product]) -> dict[int, tuple[Bias, ...]]:
    """Finds leaves of one entry for each of a product's, behind it."""
    users = layout.program.takers()
    outputs = {o.id for o in layout.program.outputs if isinstance(o, Ref)}
    used = uses(layout)
    found: dict[int, tuple[Bias, ...]] = {}
    for leaf in {product.leaf for product in kernels.values()}:
        ops = [op for op, product in kernels.items() if product.leaf == leaf]
        if outputs & set(ops):
            continue
        own = {_bias(layout, op, kernels[op], users) for op in ops}
        bias = own.pop()  # of a kernel that is used several times, the same behind each use
        if not own and bias is not None and used[bias.leaf] == len(ops):
            found |= dict.fromkeys(ops, (bias,))
    return found


def _bias(layout: Layout, product: int, kernel: Product, users: dict[int, list[Op]]) -> Bias | None:
    ref = product
    while len(users.get(ref, ())) == 1:
        op = users[ref][0]
        if op.name in LAID_OUT:
            ref = number(op)  # laid out otherwise before the bias is added
            continue
        place = next(k for k, o in enumerate(op.inputs) if isinstance(o, Ref) and o.id == ref)
        if op.name not in ("add", "sub", "add_any") or (op.name == "sub" and place):
            return None
        other = layout.operand(op, 1 - place)
        if other.source is not Source.PARAMETER or other.leaf is None:
            return None
        own = layout.operand(layout.makers[product], 1 - kernel.data)
        made = [s for s in own.spans if not own.read & set(s.dims()) and _marked(layout, s)]
        steps = tuple(span.dim for span in layout.steps[number(op)])
        bias = [s for s in layout.leaves[other.leaf] if s.size > 1 and s.dim not in steps]
        dims = [d for s in made if s.size > 1 for d in s.dims()]
        if [d for s in bias for d in s.dims()] != dims:
            return None
        return Bias(other.leaf, -1 if op.name == "sub" else 1)
    return None


def uses(layout: Layout) -> collections.Counter[int]:
    """How many operations use each leaf, and don't merely show it otherwise."""
    found = collections.Counter[int]()
    for op in layout.program.all_ops():
        if op.scan is not None:
            continue  # its body's operations use them
        shown = {layout.values[ref.id].leaf for ref in op.outputs}
        operands = {layout.operand(op, place).leaf for place in range(len(op.inputs))}
        found.update(leaf for leaf in operands if leaf is not None and shown != {leaf})
    return found


def _marked(layout: Layout, span: Span) -> bool:
    return any(d in layout.marks for d in span.dims())


def layer_names(paths: tuple[Path, ...], kernels: set[int]) -> tuple[str, ...]:
    """Shortest readable names of the layers that leaves belong to, one for each leaf.

    The leaf's folder, or its path where there are several kernels in that.
    """
    own = [paths[leaf] for leaf in kernels]
    inner = {path[0] for path in own if len(path) > 1} == {"params"}
    skip = 1 if inner and all(len(p) > 2 or len(p) == 1 for p in own) else 0
    folders = [path[:-1] for path in own]
    return tuple(
        join(p[from_:-1])
        if len(p) > from_ + 1 and (n not in kernels or folders.count(p[:-1]) == 1)
        else join(p[from_:] or p)
        for n, p in enumerate(paths)
        for from_ in (skip if p[0] == "params" else 0,)
    )
