"""Work on many sites, shared by the cores of a host and by processes.

Linear algebra runs in float64 through LAPACK, one thread each (:mod:`linjax.fold.threads`): threads
of a factorisation wait for one another, sites and their repeats don't. So as many of these are
worked on at once as there are cores, each process of a mesh does its share, and what they found is
exchanged: every process has all of it, in the order of the tasks.
"""

import io
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

T = TypeVar("T")
R = TypeVar("R")

WORTHWHILE = 1e8
"""Cubes of widths, summed, from which threads gain more than they cost."""


_thread = threading.local()


def at_once(function: Callable[[T], R], tasks: Sequence[T], costs: Sequence[float]) -> list[R]:
    """Maps a function over tasks, on all cores where they are worth it.

    Tasks of a task run one after the other: the cores are busy, and each at work takes memory.
    """
    workers = min(cores(), len(tasks))
    if workers < 2 or sum(costs) < WORTHWHILE or getattr(_thread, "busy", False):
        return [function(task) for task in tasks]
    with ThreadPoolExecutor(workers, initializer=setattr, initargs=(_thread, "busy", True)) as pool:
        return list(pool.map(function, tasks))


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def shares(costs: Sequence[float], processes: int) -> list[int]:
    """Deals tasks to processes, the dearest first, each to whoever has least to do.

    >>> shares([1.0, 5.0, 2.0, 3.0], 2)
    [0, 0, 1, 1]
    """
    loads, owner = np.zeros(processes), [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda n: -costs[n]):
        owner[task] = int(np.argmin(loads))
        loads[owner[task]] += costs[task]
    return owner


def shared(
    function: Callable[[T], Sequence[np.ndarray]], tasks: Sequence[T], costs: Sequence[float],
    mesh: Mesh | None,
) -> list[list[np.ndarray]]:  # fmt: skip
    """Maps a function that returns arrays over tasks, a share of them in each process of a mesh."""
    if mesh is None or not mesh.is_multi_process:
        return [list(found) for found in at_once(function, tasks, costs)]
    members = sorted({device.process_index for device in mesh.devices.flat})
    owner = shares(costs, len(members))
    me = members.index(next(iter(mesh.local_devices)).process_index)
    mine = [n for n, own in enumerate(owner) if own == me]
    found = at_once(function, [tasks[n] for n in mine], [costs[n] for n in mine])
    packed = {f"{n}.{k}": x for n, own in zip(mine, found, strict=True) for k, x in enumerate(own)}
    result: dict[int, dict[int, np.ndarray]] = {n: {} for n in range(len(tasks))}
    for name, array in exchanged(packed).items():
        n, k = map(int, name.split("."))
        result[n][k] = array
    return [[own[k] for k in sorted(own)] for own in result.values()]


def exchanged(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of all processes, by name."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    own = np.frombuffer(file.getvalue(), np.uint8)
    sizes: Any = multihost_utils.process_allgather(np.int64(len(own)))
    wide = np.zeros(int(np.max(sizes)), np.uint8)
    wide[: len(own)] = own
    everyone: Any = multihost_utils.process_allgather(wide)
    found: dict[str, np.ndarray] = {}
    for data, size in zip(everyone, np.ravel(sizes), strict=True):
        found.update(np.load(io.BytesIO(np.asarray(data)[: int(size)].tobytes())))
    return found
