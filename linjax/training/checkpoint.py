"""Orbax checkpoints of training loops whose parameters change their shapes on the way."""

import itertools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.tree_util import GetAttrKey, SequenceKey, keystr

from linjax.errors import LinjaxError, StoreError, StructureError
from linjax.net import Net
from linjax.program import pytree
from linjax.program.pytree import Leaf, join
from linjax.store import codec, keys

__all__ = ["Checkpoint", "restore_checkpoint", "save_checkpoint"]

Array = Any


class Checkpoint(NamedTuple):
    """What a training loop goes on with.

    Attributes:
      step: the step that was saved.
      params: the parameters, original or folded: a nested dict.
      state: the optimiser's state, None without one.
    """

    step: int
    params: Any
    state: Any


class _Described(NamedTuple):
    """What stands beside the arrays: the traced network's leaves, and those saved.

    Of the state whether there is one, and what it keeps; files of before don't tell that.
    """

    traced: tuple[Leaf, ...]
    leaves: tuple[Leaf, ...]
    state: bool
    names: tuple[str, ...] = ()


def save_checkpoint(
    folder: str | os.PathLike[str],
    step: int,
    net: Net,
    params: Any,
    state: Any = None,
    *,
    keep: int = 3,
) -> None:
    """Saves a step of a training loop by Orbax, whatever shapes the parameters have by now.

    A checkpoint is written as a whole or not at all. Beside the arrays it tells the shapes of
    the network that was traced and of what a fold made of it, so that
    :func:`restore_checkpoint` needs no example of them.

    Args:
      folder: of all steps; made if it isn't there.
      step: number of the step.
      net: the traced network.
      params: its parameters, original or folded; sharded arrays are saved as such.
      state: the optimiser's state for them, optional.
      keep: number of latest checkpoints that stay.

    Raises:
      StructureError: if params isn't that of this network.
      StoreError: if the step is there already or can't be written.

    Example:
      >>> import jax, jax.numpy as jnp, linjax, optax, tempfile
      >>> from linjax.training.checkpoint import restore_checkpoint, save_checkpoint
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
      >>> params = {"in": jnp.ones((2, 5)), "out": jnp.ones((5, 3))}
      >>> net, adam = linjax.trace(apply, params, jnp.ones((1, 2))), optax.adam(1e-3)
      >>> small = {"in": params["in"][:, :4], "out": params["out"][:4]}
      >>> folder = tempfile.mkdtemp()
      >>> save_checkpoint(folder, 100, net, small, adam.init(small))
      >>> found = restore_checkpoint(folder, net, adam)
      >>> found.step, found.params["out"].shape, found.state[0].mu["out"].shape
      (100, (4, 3), (4, 3))
    """
    ocp = _orbax()
    net.check(params)
    nested = pytree.unflatten(pytree.flatten(params))
    leaves = pytree.leaves_of(nested)
    flat = pytree.flatten(nested)
    numbers = pytree.unflatten({x.path: keys.to_numbers(x, flat[x.path]) for x in leaves})
    told = codec.encode(_Described(net.graph.leaves, leaves, state is not None, _names(state)))
    items = {
        "params": ocp.args.StandardSave(numbers),
        "linjax": ocp.args.JsonSave(told),
    }
    if state is not None:
        # lists of leaves: the state's containers are the optimiser's, not the file's
        items["state"] = ocp.args.StandardSave(jax.tree.leaves(state))
    with _manager(ocp, folder, keep, create=True) as manager:
        try:
            saved = manager.save(step, args=ocp.args.Composite(**items), force=True)
            manager.wait_until_finished()
        except Exception as error:  # orbax and its file systems raise whatever they like
            raise StoreError(f"{folder}: step {step} can't be saved: {error!s:.300}") from error
    if not saved:
        raise StoreError(f"{folder}: step {step} was not saved")


def restore_checkpoint(
    folder: str | os.PathLike[str],
    net: Net,
    optimizer: Any = None,
    *,
    step: int | None = None,
) -> Checkpoint:
    """Restores a step that :func:`save_checkpoint` saved, after comparing it with the network.

    Args:
      folder: of all steps.
      net: the traced network: the same as when the step was saved, never mind how small its
        parameters had become.
      optimizer: the gradient transformation, if its state is wanted.
      step: number of the step; by default the latest.

    Returns:
      A :class:`Checkpoint`.

    Raises:
      StoreError: if there is no such step, or no state in it though one is wanted.
      StructureError: if it is another network's, naming the path and both shapes, or the
        state another optimiser's.
    """
    ocp = _orbax()
    if not Path(folder).is_dir():
        raise StoreError(f"{folder}: no such folder")
    with _manager(ocp, folder, None, create=False) as manager:
        at = manager.latest_step() if step is None else step
        if at is None or at not in manager.all_steps():
            have = ", ".join(map(str, manager.all_steps())) or "none"
            raise StoreError(f"{folder}: no step {'at all' if at is None else at}; it has {have}")
        told = _told(_restore(manager, ocp, at, linjax=ocp.args.JsonRestore()))
        _compare(net.graph.leaves, told.traced)
        wanted = pytree.unflatten({x.path: keys.spec(x) for x in told.leaves})
        net.check(wanted)
        shapes = pytree.unflatten({x.path: keys.spec(keys.as_stored(x)) for x in told.leaves})
        found = _restore(manager, ocp, at, params=ocp.args.StandardRestore(shapes))
        flat = pytree.flatten(found)
        params = pytree.unflatten({x.path: keys.from_numbers(x, flat[x.path]) for x in told.leaves})
        if optimizer is None:
            return Checkpoint(at, params, None)
        if not told.state:
            raise StoreError(f"{folder}: step {at} has no optimiser's state")
        template = jax.eval_shape(optimizer.init, wanted)
        _compare_states(_names(template), told.names)
        specs, structure = jax.tree.flatten(template)
        try:
            leaves = _restore(manager, ocp, at, state=ocp.args.StandardRestore(specs))
        except StoreError as error:
            raise StructureError(f"the state isn't one of this optimizer: {error}") from error
        return Checkpoint(at, params, jax.tree.unflatten(structure, leaves))


def _orbax() -> Any:
    """Imports Orbax only here: it takes longer than the rest of the library."""
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise LinjaxError(f"{error}; install it: pip install orbax-checkpoint") from error
    return ocp


def _manager(ocp: Any, folder: Any, keep: int | None, create: bool) -> Any:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=create, enable_async_checkpointing=False
    )
    return ocp.CheckpointManager(Path(folder).resolve(), options=options)


def _restore(manager: Any, ocp: Any, step: int, **item: Any) -> Any:
    """Restores one item of a step."""
    ((name, how),) = item.items()
    try:
        return manager.restore(step, args=ocp.args.Composite(**{name: how}))[name]
    except Exception as error:  # orbax and its file systems raise whatever they like
        raise StoreError(
            f"{manager.directory}: step {step}: {name} can't be read: {error!s:.300}"
        ) from error


def _told(data: Any) -> _Described:
    return codec.decode(_Described, json.loads(json.dumps(data)), "checkpoint")


def _names(state: Any) -> tuple[str, ...]:
    """What a state keeps, as ``[0].mu``: shapes alone don't tell optimisers apart.

    What is behind it, ``['kernel']``, are parameters, in whichever containers these are.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    found = []
    for path, _ in leaves:
        own = list(itertools.takewhile(lambda k: isinstance(k, (GetAttrKey, SequenceKey)), path))
        while own and not isinstance(own[-1], GetAttrKey):
            own.pop()
        found.append(keystr(tuple(own)))
    return tuple(dict.fromkeys(found))


def _compare_states(have: tuple[str, ...], saved: tuple[str, ...]) -> None:
    """The optimiser must keep what the saved state does, name by name."""
    here = [name for name in have if not any(own.startswith(name) for own in saved)]
    there = [own for own in saved if not any(own.startswith(name) for name in have)]
    if saved and (here or there):
        apart = [f"it keeps {', '.join(here)}"] * bool(here)
        apart += [f"the checkpoint has {', '.join(there)}"] * bool(there)
        raise StructureError(f"the state isn't one of this optimizer: {'; '.join(apart)}")


def _compare(have: tuple[Leaf, ...], saved: tuple[Leaf, ...]) -> None:
    """The traced network must be the one of the checkpoint, leaf by leaf."""
    ours, theirs = ({leaf.path: leaf for leaf in leaves} for leaves in (have, saved))
    for path in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(path), theirs.get(path)
        if a is None or b is None:
            where = "the checkpoint" if b is None else "this network"
            raise StructureError(f"{join(path)}: not in {where}")
        if a != b:
            raise StructureError(
                f"{join(path)}: {a.dtype} {a.shape} here, {b.dtype} {b.shape} in the checkpoint"
            )
