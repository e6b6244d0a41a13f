"""A network's values on some rows while its leaves change: each made when it is asked for.

Operations run one by one. What products read and make stays, and where sites are read, until
the leaves change that it depends on; what lies between (norms, activations) goes as soon as nothing
ahead needs it, and is made again where something does after all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from linjax.dims.layout import number
from linjax.dims.leaves import EXTRAS, RESIDUAL
from linjax.dims.network import Network
from linjax.dims.remembered import remembered
from linjax.dims.run import begin
from linjax.program.flat import Const, Op, Program, Ref
from linjax.program.placed import placed

Array = Any


class Wiring(NamedTuple):
    """Which operation makes each value, and which take it.

    Attributes:
      at: by value, the place among the outermost operations of the one that makes it, or whose
        body it stands in.
      reads: by place, the values that an operation takes.
      users: by value, the places of the operations that take it.
      inner: values in the bodies of scans.
      bodies: these, by place of the scan.
    """

    at: dict[int, int]
    reads: tuple[tuple[int, ...], ...]
    users: dict[int, tuple[int, ...]]
    inner: frozenset[int]
    bodies: dict[int, tuple[int, ...]]


@remembered
def order(network: Network) -> dict[int, int]:
    """Places of all operations in the order of execution, those in the bodies of scans, too."""
    return {number(op): n for n, op in enumerate(network.layout.program.all_ops())}


@remembered
def wiring(network: Network) -> Wiring:
    """How a network's operations hang together."""
    ops = network.layout.program.ops
    at: dict[int, int] = {}
    users: dict[int, list[int]] = {}
    reads, bodies = [], {}
    for n, op in enumerate(ops):
        own = [o.id for o in op.inputs if isinstance(o, Ref)]
        for place in range(len(op.inputs)):  # linear coordinates join from where they come from
            own += [r for _, roots in network.merges.get((number(op), place), ()) for r in roots]
        reads.append(tuple(own))
        for value in own:
            users.setdefault(value, []).append(n)
        at.update({ref.id: n for ref in op.outputs})
        if op.scan is not None:
            bodies[n] = tuple(_within(op.scan.body))
            at.update(dict.fromkeys(bodies[n], n))
    inner = frozenset(value for own in bodies.values() for value in own)
    return Wiring(at, tuple(reads), {v: tuple(p) for v, p in users.items()}, inner, bodies)


def _within(body: Program) -> Iterator[int]:
    """The values of a scan's body, and of those in it."""
    yield from (ref.id for ref in body.inputs)
    for op in body.ops:
        yield from (ref.id for ref in op.outputs)
        if op.scan is not None:
            yield from _within(op.scan.body)


def behind(network: Network, values: Iterable[int], leaves: Iterable[int] = ()) -> set[int]:
    """Values that depend on some others, these among them, or on leaves beside kernels."""
    links, ops = wiring(network), network.layout.program.ops
    beside = set(leaves)
    values = [*values]
    for op, product in network.kernels.items():
        if product.leaf in beside:
            values.append(op)
    found, waiting = set[int](), [*values]
    while waiting:
        value = waiting.pop()
        if value in found:
            continue
        found.add(value)
        own = (links.at[value],) if value in links.inner else links.users.get(value, ())
        for place in own:  # a step hands on to the next: everything in a scan
            waiting += [ref.id for ref in ops[place].outputs]
            waiting += links.bodies.get(place, ())
    return found


@remembered
def anchors(network: Network) -> frozenset[int]:
    """Values that others are asked for by: what products read and make, and sites' points."""
    makers, merged = network.layout.makers, network.merges.values()
    read = [makers[op].inputs[product.data] for op, product in network.kernels.items()]
    return frozenset(
        (
            *network.kernels,
            *(operand.id for operand in read if isinstance(operand, Ref)),
            *(point for site in network.sites for point in site.points),
            *(root for joined in merged for _, roots in joined for root in roots),
        )
    )


class Replay:
    """Values of a network on some rows.

    Args:
      network: the traced network.
      flat: its leaves by path.
      inputs: the leaves of its inputs.
    """

    def __init__(self, network: Network, flat: Mapping[Any, Array], inputs: Sequence[Array]):
        self.network, self.inputs = network, list(inputs)
        self.links = wiring(network)
        self.flat: dict[Any, Array] = {}
        self.there: dict[Any, Array] = {}
        self.done = 0
        self.change(flat)

    def change(self, flat: Mapping[Any, Array]) -> None:
        """Goes over to other leaves; those that are the same objects stay."""
        paths = {p for p in {*flat, *self.flat} if flat.get(p) is not self.flat.get(p)}
        if not paths and self.flat:
            return
        network = self.network
        self.there = {
            path: placed(leaf) if path in paths else self.there[path] for path, leaf in flat.items()
        }
        before, self.flat = getattr(self, "run", None), dict(flat)
        self.run, leaves = begin(network, self.there, self.inputs)
        self.run.start(network.layout.program, [*leaves, *self.inputs])
        if before is not None:
            stale = behind(network, *changed(network, paths))
            sizes, old = self.run.sizes, before.sizes
            moved = {d for d in sizes.kept if sizes.all(d) != old.all(d)}
            moved |= {d for d in sizes.kept if sizes.kept[d] != old.kept[d]}
            values = network.layout.values
            self.run.env.update(
                {
                    key: value
                    for key, value in before.env.items()
                    if key not in stale and key in self.links.at and not moved & values[key].dims()
                }
            )

    @property
    def sizes(self) -> Any:
        """Sizes of the dimensions."""
        return self.run.sizes

    def value(self, value: int) -> Array:
        """A value of the program; with the steps of scans in front."""
        place = self.links.at.get(value)
        if place is not None and value in self.links.inner:
            return self._inside(place, value)
        self._make([value])
        return self.run.env[value]

    def operand(self, op: Op, place: int) -> Array:
        """An operation's operand, with its linear coordinates where they join."""
        operand: Any = op.inputs[place]
        if isinstance(operand, Const):
            return self.run.read(op, place, operand)
        if number(op) in self.links.inner:
            return self.value(operand.id)
        joining = self.network.merges.get((number(op), place), ())
        self._make([operand.id, *(root for _, roots in joining for root in roots)])
        return self.run.read(op, place, operand)

    def leave(self, place: int) -> None:
        """Forgets values that only operations before a place take."""
        env, links = self.run.env, self.links
        needed, waiting = set[int](), [v for own in links.reads[place:] for v in own]
        while waiting:
            value = waiting.pop()
            if value not in needed:
                needed.add(value)
                if value not in env and value in links.at:  # it will be made again
                    waiting += links.reads[links.at[value]]
        for value in [v for v in env if v in links.at]:
            if value not in needed and links.at[value] < place:
                del env[value]

    def _make(self, values: Iterable[int]) -> None:
        """Runs what some values need and isn't there."""
        env, ops, links = self.run.env, self.network.layout.program.ops, self.links
        values = set(values)
        wanted = {links.at[v] for v in values if v not in env}
        todo = set[int]()
        while wanted:
            place = wanted.pop()
            todo.add(place)
            lacking = {links.at[v] for v in links.reads[place] if v not in env}
            wanted |= lacking - todo
        stays = values | anchors(self.network)
        for place in sorted(todo):
            self.run.step(ops[place])
            for value in links.reads[place]:
                if value in links.at and value not in stays and links.users[value][-1] <= place:
                    env.pop(value, None)

    def _inside(self, place: int, value: int) -> Array:
        """A value in the body of a scan."""
        op = self.network.layout.program.ops[place]
        self._make(self.links.reads[place])
        self.run.taps = frozenset({value})
        self.run.scan(op, [self.run.read(op, k, o) for k, o in enumerate(op.inputs)])
        self.run.taps = frozenset()
        return self.run.found.pop(value)


def changed(network: Network, paths: Set[Any]) -> tuple[set[int], set[int]]:
    """Values that some leaves are, and leaves beside which there are others."""
    values, beside = set[int](), set[int]()
    for leaf, path in enumerate(network.paths):
        if path in paths or network.extra(leaf, RESIDUAL) in paths:
            values.add(network.ref(leaf))
        if any(network.extra(leaf, kind) in paths for kind in EXTRAS):
            beside.add(leaf)
    for key in network.varying:
        if network.constant(key) in paths:
            values.add(key[0])
    return values, beside
