"""A traced network: the function, its static graph, and how to run folded parameters."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from linjax.chains.check import is_original
from linjax.chains.structure import Graph
from linjax.chains.view import View, view
from linjax.dims.leaves import check, check_known, check_widths
from linjax.dims.network import Network
from linjax.dims.network import analyse as find_dimensions
from linjax.dims.run import Outcome
from linjax.dims.run import execute as run_dimensions
from linjax.dims.table import describe
from linjax.errors import StructureError
from linjax.program import pytree
from linjax.program.pytree import Flat, Leaf, Path, is_floating, join
from linjax.program.traced import as_traced

Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Net:
    """A network that linjax understands, made by :func:`trace`.

    Printing it shows every site, its width, activation and consumers, and every refusal
    with its reason.

    Attributes:
      apply_fn: the function as it was given, ``apply_fn(params, *inputs) -> outputs``.
      graph: its chains of dense layers, a static description that evidence carries.
      network: its dimensions and all of its sites.
      template: the parameter pytree as shapes and dtypes.
      example: the example inputs as shapes and dtypes.
    """

    apply_fn: Callable[..., Any]
    graph: Graph
    network: Network
    template: Any
    example: tuple[Any, ...]
    _networks: dict[Any, Network] = dataclasses.field(default_factory=dict, repr=False)

    def apply(self, params: Any, *inputs: Any) -> Any:
        """Runs the network on its original parameters or on a folded pytree.

        A pure function: jit, grad, vmap and sharding work as on ``apply_fn``.

        Args:
          params: the pytree that was traced, or one that a fold returned, in any floating
            dtype.
          *inputs: what ``apply_fn`` takes after the parameters; batch sizes are free.

        Returns:
          What ``apply_fn`` returns.

        Raises:
          StructureError: if the pytree isn't that of this network or one folded from it,
            naming the path and the expected shape.
        """
        if is_original(self.graph, pytree.flatten(params)) and pytree.same_structure(
            params, self.template
        ):
            return self.apply_fn(params, *inputs)
        return self.run(params, *inputs).outputs

    def check(self, params: Any) -> None:
        """Checks that a pytree is that of the traced network, or one folded from it.

        Raises:
          StructureError: naming the first leaf that doesn't fit.
        """
        flat = self.network.flatten(params)
        check(self.network, flat)
        check_widths(self.network, flat)

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """:meth:`apply`, compiled once for all parameters and inputs of the same shapes.

        Programs live as long as the network does.
        """

        def run(params: Any, *inputs: Any) -> Any:
            self.fits(inputs)
            return self.apply(params, *inputs)

        return jax.jit(run)

    @functools.cached_property
    def chained(self) -> bool:
        """Whether all that folds are units of chains of dense layers, gated, summed, branching."""
        own = {self.graph.affine(n).kernel for s in self.graph.sites for n in s.maps}
        for site in self.network.foldable:
            if site.norms is not None:
                continue
            made = {self.network.paths[m.leaf] for m in site.makers if m.leaf is not None}
            if not made & own:
                return False
        return bool(self.graph.chains)

    def run(
        self,
        params: Any,
        *inputs: Any,
        taps: frozenset[int] = frozenset(),
        probes: dict[int, Array] | None = None,
    ) -> Outcome:
        """Runs the network at the sizes of its parameters, and returns values on the way, too.

        Args:
          params: original or folded parameters.
          *inputs: as for :meth:`apply`.
          taps: numbers of the values to return.
          probes: arrays to add to values, by number.

        Raises:
          StructureError: as :meth:`apply`.
        """
        flat = self.network.flatten(params)
        check_known(self.network, flat)
        network = self.network_for(flat, inputs)
        return run_dimensions(network, flat, jax.tree.leaves(inputs), taps, probes)

    def network_for(self, flat: Flat, inputs: Any) -> Network:
        """The dimensions for inputs of these shapes and parameters of these dtypes.

        Traced anew for each combination.
        """
        leaves = self._given(flat)
        shapes = pytree.shapes_of(inputs)
        key = (leaves, jax.tree.structure(shapes),
               tuple((s.shape, str(s.dtype)) for s in jax.tree.leaves(shapes)))  # fmt: skip
        if key not in self._networks:
            template = self._template(leaves)
            self._fitting(lambda: jax.eval_shape(self.apply_fn, template, *shapes), shapes)
            found = find_dimensions(self.apply_fn, template, shapes, self._paths)
            if _outline(found) != _outline(self.network):
                raise StructureError(
                    f"inputs of shapes {[s.shape for s in jax.tree.leaves(shapes)]} lead to "
                    f"other sites than {[s.shape for s in jax.tree.leaves(self.example)]}"
                )
            self._same_computed(found, shapes)
            self._networks[key] = found
        return self._networks[key]

    def flops(self, params: Any, *inputs: Any) -> float:
        """Returns the floating point operations of one call, as XLA counts them.

        A product and the addition that takes it up are two operations. Nothing is run and
        nothing compiled.

        Args:
          params: original or folded parameters, or their shapes.
          *inputs: as for :meth:`apply`, or their shapes; by default those traced with.

        Raises:
          StructureError: as :meth:`apply`.

        Example:
          >>> import jax, jax.numpy as jnp, linjax
          >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
          >>> params = {"in": jnp.ones((8, 64)), "out": jnp.ones((64, 4))}
          >>> net = linjax.trace(apply, params, jnp.ones((1, 8)))
          >>> net.flops(params) >= 2 * linjax.count(params)
          True
        """
        with as_traced():  # a function that no trace is remembered of
            apply = jax.jit(lambda *given: self.apply(*given))
            lowered = apply.lower(params, *(inputs or self.example))
        cost: Any = lowered.cost_analysis()
        return float((cost or {}).get("flops", 0.0))  # nothing is counted for a constant

    def examined(self, flat: Flat) -> View:
        """Returns the network's chains as they stand in its program, for parameters' dtypes.

        Args:
          flat: parameters by path, original or folded.

        Raises:
          StructureError: if they are others with such parameters.
        """
        found = view(self.network_for(flat, self.example), self._given(flat))
        if not _same_sites(found.graph, self.graph):
            raise StructureError("parameters of these dtypes lead to other chains; trace with such")
        return found

    @property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(leaf.path for leaf in self.graph.leaves)

    def _given(self, flat: Flat) -> tuple[Leaf, ...]:
        """The traced leaves with the dtypes that given ones have, of either form."""
        own = () if self.network.computed is None else self.network.computed.leaves
        return pytree.in_dtypes((*self.graph.leaves, *own), flat)[: len(self.graph.leaves)]

    def _same_computed(self, found: Network, shapes: Any) -> None:
        """Checks that what is computed of parameters hasn't other shapes for these inputs."""
        own = [n.computed.leaves if n.computed else () for n in (self.network, found)]
        was, now = ({leaf.path: leaf.shape for leaf in leaves} for leaves in own)
        if was != now:
            path = next(p for p in {**was, **now} if was.get(p) != now.get(p))
            raise StructureError(
                f"{join(path)}: is computed of parameters, of shape {now.get(path)} for inputs of "
                f"shapes {[s.shape for s in jax.tree.leaves(shapes)]}, and was {was.get(path)}"
            )

    def _template(self, leaves: tuple[Leaf, ...]) -> Any:
        """The traced pytree's shapes, in the dtypes of these leaves."""
        traced, tree = jax.tree.flatten(self.template)
        return jax.tree.unflatten(
            tree,
            [
                jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_floating(leaf.dtype) else old
                for leaf, old in zip(leaves, traced, strict=True)
            ],
        )

    def fits(self, inputs: tuple[Any, ...]) -> None:
        """Checks that the function takes inputs of these shapes.

        Raises:
          StructureError: if not, naming those that it was traced with.
        """
        shapes = pytree.shapes_of(inputs)
        self._fitting(lambda: jax.eval_shape(self.apply_fn, self.template, *shapes), shapes)

    def _fitting(self, traced: Callable[[], Any], shapes: Any) -> Any:
        """Traces, and says which inputs were expected where the function fails on them."""
        try:
            return traced()
        except Exception as error:
            want = [str(s.shape) for s in jax.tree.leaves(self.example)]
            got = [str(s.shape) for s in jax.tree.leaves(shapes)]
            if got == want:
                raise
            raise StructureError(
                f"inputs of shapes {', '.join(got)} don't fit this network, which was traced "
                f"with {', '.join(want)} (the first axis is free): {error}"
            ) from error

    def __repr__(self) -> str:
        return describe(self.network)


def _outline(network: Network) -> Any:
    """What two traces of a network have to have in common: its sites and where they stand."""
    return [(site.name, site.width, site.form, len(site.points)) for site in network.sites]


def _same_sites(a: Graph, b: Graph) -> bool:
    def outline(graph: Graph) -> Any:
        return [(c.layers, [s.consumers for s in c.sites]) for c in graph.chains]

    return outline(a) == outline(b)


def trace(apply_fn: Callable[..., Any], params: Any, *inputs: Any) -> Net:
    """Finds the foldable sites of a JAX model: affine map → activation → affine maps.

    The function is traced to a jaxpr; nothing is inferred from the names of layers, and
    nothing is executed. Works for Linen (``model.apply``), NNX (a function that merges a
    pure dict of parameters), Equinox and bare functions, through jit, remat and
    custom_jvp.

    Args:
      apply_fn: ``apply_fn(params, *inputs) -> outputs``, in inference mode.
      params: a pytree of arrays, or of ``jax.ShapeDtypeStruct``.
      *inputs: example inputs, arrays or ``jax.ShapeDtypeStruct``; batch sizes are free
        later on.

    Returns:
      A :class:`Net`. Print it to see its sites, and what was refused and why.

    Raises:
      StructureError: if ``params`` has no leaves, or is one array without a name, or
        ``apply_fn`` isn't a function. What that raises itself is raised on.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> def apply(params, x):
      ...     return jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
      >>> net = linjax.trace(apply, params, jnp.ones((1, 3)))
      >>> [(site.name, site.width, site.activation.name) for site in net.graph.sites]
      [('in', 8, 'relu')]
    """
    leaves = pytree.leaves_of(params)
    if not leaves:
        raise StructureError("params has no leaves; expected a pytree of arrays")
    template, example = pytree.shapes_of((params, inputs))
    paths = tuple(leaf.path for leaf in leaves)
    if paths == ((),):
        raise StructureError('params is one array; give it a name, as in {"kernel": array}')
    if not callable(apply_fn):
        raise StructureError(
            f"apply_fn: a {type(apply_fn).__name__}, expected a function of (params, *inputs); the "
            "order of arguments is (apply_fn, params, *inputs)"
        )
    try:
        network = find_dimensions(apply_fn, template, example, paths)
    except Exception as error:
        given = ", ".join(str(s.shape) for s in jax.tree.leaves(example)) or "none"
        error.add_note(f"linjax.trace called apply_fn(params, *inputs), inputs of shapes {given}")
        raise
    return Net(apply_fn, view(network, leaves).graph, network, template, example)
