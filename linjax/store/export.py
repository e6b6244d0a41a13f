"""A network as a StableHLO program that runs without its code: parameters are arguments."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import export as jax_export

from linjax.errors import LinjaxError
from linjax.evidence.given import as_net
from linjax.net import Net
from linjax.program import pytree
from linjax.program.traced import as_traced
from linjax.store import keys
from linjax.store.unplaced import unplaced

PLATFORMS = ("cpu", "cuda", "tpu")


class Program(NamedTuple):
    """A network's function, compiled as far as it can be without a device.

    Attributes:
      code: ``jax.export``'s serialisation: a function of a nested dict of parameters and
        of the inputs; ``jax.export.deserialize(code).call(params, *inputs)`` runs it.
      platforms: where it runs.
      batch: the only batch size that it takes, None if any.
      reason: why it takes only one, or empty.
    """

    code: bytes
    platforms: tuple[str, ...]
    batch: int | None = None
    reason: str = ""


def to_stablehlo(net: Net, params: Any, *, platforms: tuple[str, ...] = PLATFORMS) -> Program:
    """Exports ``net.apply`` on parameters of these shapes by ``jax.export``.

    The program runs on one device: sharding constraints, which change no value, are left out.
    The batch size stays free: every input axis 0 as long as the first input's becomes one
    symbolic size. Where the function can't be traced so, it is exported for the batch of
    the traced example, and the program says why.

    Args:
      net: the network.
      params: the original or folded parameters; only shapes and dtypes matter.
      platforms: where the program is to run, of ``"cpu"``, ``"cuda"``, ``"tpu"``, ``"rocm"``.

    Returns:
      A :class:`Program`.

    Raises:
      LinjaxError: if the function can't be exported at all, with JAX's reason.
      StructureError: if params isn't that of this network.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> params = {"in": jnp.ones((2, 5)), "out": jnp.ones((5, 3))}
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
      >>> net = linjax.trace(apply, params, jnp.ones((1, 2)))
      >>> program = linjax.to_stablehlo(net, params, platforms=("cpu",))
      >>> jax.export.deserialize(program.code).call(params, jnp.ones((7, 2))).shape
      (7, 3)
    """
    as_net(net)
    net.check(params)
    code, batch, reason = freest(net, lambda inputs: _serialised(net, params, inputs, platforms))
    return Program(code, platforms, batch, reason)


def freest(net: Net, write: Callable[[Any], bytes]) -> tuple[bytes, int | None, str]:
    """Writes a program for inputs with a symbolic batch size, else for those of the trace.

    Args:
      net: the network.
      write: a program from the inputs' shapes and dtypes.

    Returns:
      The program, the only batch size that it takes or None, and why it takes only one.

    Raises:
      LinjaxError: if there is no program at all, with the reason.
    """
    reason = ""
    for symbol in (_symbol(), None):
        try:
            code = write(_inputs(net, symbol))
        except Exception as error:  # whatever the user's function raises on a symbolic size
            reason = reason or f"{type(error).__name__}: {error!s:.300}".splitlines()[0]
            failure = error
        else:
            return code, None if symbol is not None else batch_of(net), reason
    raise LinjaxError(f"the network can't be exported: {failure!s:.300}") from failure


def restrict(exported: jax_export.Exported, platforms: tuple[str, ...]) -> bytes:
    """Serialises a program for some of its platforms.

    Raises:
      LinjaxError: if it wasn't exported for one of them.
    """
    for platform in platforms:
        if platform not in exported.platforms:
            have = ", ".join(exported.platforms)
            raise LinjaxError(f"{platform!r}: the stored program is for {have}; choose of these")
    args, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    return bytes(jax_export.export(jax.jit(exported.call), platforms=platforms)(*args).serialize())


def _serialised(net: Net, params: Any, inputs: Any, platforms: tuple[str, ...]) -> bytes:
    """Exports a function of a nested dict, whatever containers the parameters had."""

    def run(nested: Any, *inputs: Any) -> Any:
        return net.apply(pytree.contained(pytree.flatten(nested), params), *inputs)

    shapes = {leaf.path: keys.spec(leaf) for leaf in pytree.leaves_of(params)}
    arguments = (pytree.unflatten(shapes), *inputs)
    with as_traced():
        found = jax_export.export(jax.jit(run), platforms=platforms)(*arguments)
        if found.nr_devices > 1:
            found = jax_export.export(jax.jit(unplaced(run)), platforms=platforms)(*arguments)
    if found.nr_devices > 1:
        raise LinjaxError(
            f"it runs on {found.nr_devices} devices at once (shard_map, or a kernel of several "
            "devices); export a function that runs on one"
        )
    return bytes(found.serialize())


@functools.cache
def _symbol() -> Any:
    """One batch size for all exports: JAX doesn't compare sizes of different scopes."""
    return jax_export.symbolic_shape("batch")[0]


def batch_of(net: Any) -> int | None:
    """The batch size that a network, traced or loaded, was traced with; None if it has no axes."""
    first = jax.tree.leaves(net.example)[:1]
    return next((spec.shape[0] for spec in first if spec.shape), None)


def _inputs(net: Net, batch: Any) -> Any:
    """The example's shapes, with this batch size if one is given."""
    size = batch_of(net)

    def freed(spec: Any) -> Any:
        if batch is None or not spec.shape or spec.shape[0] != size:
            return spec
        return jax.ShapeDtypeStruct((batch, *spec.shape[1:]), spec.dtype)

    return jax.tree.map(freed, net.example)
