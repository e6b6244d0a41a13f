"""Refitting all layers at once: Gauss–Newton least squares in the output metric.

Layer by layer, least squares reproduces pre-activations; what counts are outputs. Once
widths are chosen, the outputs are linearised in all parameters at once and the linear
least-squares problem is solved by conjugate gradients, a few times over (Gauss–Newton with
Levenberg–Marquardt damping). Rows held out decide when to stop.
"""

import math
from collections.abc import Callable, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.leaves import EXTRAS, RESIDUAL
from linjax.dims.network import Network
from linjax.dims.norms import batch_norms
from linjax.fold.last import last
from linjax.fold.linearised import STEPS, Apply, Parts, System
from linjax.fold.rows import Batch, Rows, cut, even, size_of
from linjax.net import Net
from linjax.program import pytree
from linjax.program.flat import Op, Ref, needed
from linjax.program.pytree import Path

Array = Any

ROUNDS = 60
WORK = 1e13
"""Floating point operations that all rounds may take: about a minute on two cores."""
WORK_CONVOLUTIONS = 1e12
"""Likewise where there are convolutions, whose derivatives run at a tenth of the speed."""
WORTHWHILE = 4
"""Rounds that are worth leaving rows away for."""
FEWEST = 500
"""Rows below which a joint refit isn't tried."""
PASSES = 6
"""Operations of a curvature product, in forward passes."""
CURVED = 3
"""One row in so many tells the curvature, other ones each round; slopes are of all rows."""
ENOUGH = 2000
"""Samples of outputs that the curvature is told from at least."""
QUICK = 3e12
"""Operations that all rounds may take for all rows to tell it: some seconds on two cores."""
DAMPING = 100.0
"""Where the damping starts, relative to the mean curvature of a leaf."""
PATIENCE = 3
"""Rounds without progress on the held-out rows before stopping; those that the damping alone keeps
from moving don't count."""
STEADY = 3
"""Rounds for which the factors of the curvature are taken for the same."""
PIECES, PIECE = 32, 64
"""Sets of rows that these are told from, and rows of each, at most."""
PROGRESS = 0.01
"""Relative improvement on the held-out rows that counts as progress."""
ONE_WAY = ("while", "custom_vjp", "pallas_call")
"""Operations that can't be differentiated forwards, or not backwards."""
EMPTY = np.zeros(0, np.float32)


class Affordable(NamedTuple):
    """What a joint refit may take.

    Attributes:
      rows: how many rows it may use.
      rounds: how many rounds it may take; both tell its work.
      apart: one row in how many tells a round its curvature.
    """

    rows: int
    rounds: int
    apart: int


def _movable(net: Net, params: Any) -> set[Path]:
    """Paths of the leaves that may change."""
    stuck = _in_front(net.network) | _statistics(net.network)
    floats = {p for p, x in pytree.flatten(params).items() if jnp.issubdtype(x.dtype, jnp.floating)}
    return {path for path in floats - stuck if path[0] != pytree.CONSTANTS}


def _parts(params: Any, movable: Set[Path]) -> Parts:
    flat = pytree.flatten(params)
    moving = {path: x for path, x in flat.items() if path in movable}
    leaves = [np.asarray(x).astype(np.float32) for x in moving.values()]
    vector = jnp.asarray(np.concatenate([leaf.ravel() for leaf in (*leaves, EMPTY)]))
    shapes = {path: leaf.shape for path, leaf in zip(moving, leaves, strict=True)}
    return Parts(vector, shapes, {p: x for p, x in flat.items() if p not in moving})


def _statistics(network: Network) -> set[Path]:
    """Running means and variances: they say what was seen, and scales and offsets suffice."""
    return {network.paths[n] for norm in batch_norms(network) for n in (norm.mean, norm.var)}


def _in_front(network: Network) -> set[Path]:
    """Leaves in front of what has no derivative both ways: they stay as they are."""
    program = network.layout.program

    def opaque(op: Op) -> bool:
        within = () if op.scan is None else op.scan.body.all_ops()
        return any(own.name.startswith(ONE_WAY) for own in (op, *within))

    taken = [operand for op in program.ops if opaque(op) for operand in op.inputs]
    values = {o.id for op in needed(program.ops, taken) for o in op.inputs if isinstance(o, Ref)}
    values |= {o.id for o in taken if isinstance(o, Ref)}
    leaves = [n for n in range(len(network.paths)) if network.ref(n) in values]
    beside = {network.extra(n, kind) for n in leaves for kind in (*EXTRAS, RESIDUAL)}
    return {*(network.paths[n] for n in leaves), *beside}


def joint_refit(
    net: Net, params: Any, train: Rows, held: Rows, metric: str, allowed: Affordable
) -> Any:
    """Refits all kernels and biases of the chains together, towards the original's outputs.

    Each round minimises ``Σ ‖y + J δ − y*‖²_F + λ δᵀ D δ`` over δ, J being the outputs' Jacobian
    by all parameters, F the output metric and D the mean curvature of each leaf; λ follows the
    ratio of the actual to the predicted decrease. Slopes are of all rows, the curvature is that of
    one row in three, by turns, where all would take long: it only has to be right roughly.
    Conjugate gradients take a few steps, preconditioned by the curvature in Kronecker factors
    (:mod:`linjax.fold.kronecker`).

    Args:
      net: the traced network.
      params: a folded pytree.
      train: rows to fit on, with the original's outputs.
      held: other rows, that choose among the rounds' results; ``params`` is one of them.
      metric: output metric.
      allowed: the largest number of linearisations, and what tells their curvature.

    Returns:
      A pytree like ``params``, never worse than it on the held-out rows.

    References:
      Martens, Deep learning via Hessian-free optimization, 2010; Byrd, Chin, Neveitt & Nocedal, On
      the use of stochastic Hessian information in optimization methods, 2011.
    """
    parts, turns = _parts(params, _movable(net, params)), _by_turns(net, train, allowed.apart)
    task = _Task(train, held, metric, turns, _pieces(train))
    return _refitted(net.apply, params, parts, task, allowed.rounds)


def last_refit(net: Net, params: Any, train: Rows, held: Rows, metric: str) -> Any:
    """Refits the last layer alone, where all layers together would take too long.

    What it reads is computed once, so that a round costs next to nothing. Of a network of classes
    the layer was fitted to logits before; what counts is what becomes of them.

    Args:
      net, params, train, held, metric: as for :func:`joint_refit`.

    Returns:
      A pytree like ``params``, never worse than it on the held-out rows.
    """
    own = last(net, params)
    if own is None:
        return params
    parts, before = _parts(params, own.moving & _movable(net, params)), own.read(params, train)
    each = 2.0 * len(parts.vector) * PASSES * (STEPS + 3) * train.total * _positions(train)
    inputs = [chunk for chunk, _ in before.chunks]
    apart = own.read(params, Rows(tuple((x, None) for x in _pieces(train)), 0))
    pieces = [piece for piece, _ in apart.chunks]
    task = _Task(before, own.read(params, held), metric, lambda _: inputs, pieces)
    return _refitted(own.apply, params, parts, task, min(ROUNDS, int(WORK / max(each, 1.0))))


def _positions(rows: Rows) -> int:
    """Positions of a row's outputs."""
    return math.prod(jax.tree.leaves(rows.chunks[0][1])[0].shape[1:-1])


def _pieces(rows: Rows) -> list[Batch]:
    """A few sets of a few rows."""
    inputs = rows.chunks[0][0]
    count = min(PIECES, size_of(inputs))
    size = min(PIECE, size_of(inputs) // count)
    starts = range(0, count * size, size)
    return [jax.tree.map(lambda x, a=a: x[a : a + size], inputs) for a in starts]


class _Task(NamedTuple):
    """Rows to fit on and others, the output metric, and what tells a round its curvature.

    That are rows by round for its products, and sets of rows for its factors.
    """

    train: Rows
    held: Rows
    metric: str
    turns: Callable[[int], list[Batch]]
    pieces: list[Batch]


def _refitted(apply: Apply, params: Any, parts: Parts, task: _Task, rounds: int) -> Any:
    """Some rounds of Gauss–Newton steps of what may move."""
    if rounds < 1 or not len(parts.vector):
        return params
    train, held, turns = task.train, task.held, task.turns
    system = System(apply, parts, task.metric)
    now, damping = parts.vector, DAMPING
    (error, gradient), best = system.slope(now, train), (system.error(now, held), now)
    patience, accepted = PATIENCE, 0
    known = system.curvatures(now, task.pieces)
    for turn in range(rounds):
        step, predicted = system.step(now, gradient, turns(turn), known, damping)
        after, slope = system.slope(now + step, train)
        gain = (after - error) / predicted if predicted < 0 else -1.0
        if not np.isfinite(after) or after >= error:
            damping *= 10.0
        else:
            timid = gain > 0.7 and after > (1 - PROGRESS) * error
            now, error, gradient, accepted = now + step, after, slope, accepted + 1
            if accepted % STEADY == 0:
                known = system.curvatures(now, task.pieces)
            damping *= 0.1 if timid else (0.2 if gain > 0.7 else (2.0 if gain < 0.3 else 1.0))
            outside = system.error(now, held)
            slow = outside >= (1 - PROGRESS) * best[0]
            patience = PATIENCE if not slow else patience - (not timid)
            best = min(best, (outside, now), key=lambda pair: pair[0])
        if patience <= 0:
            break
    dtypes = {path: leaf.dtype for path, leaf in pytree.flatten(params).items()}
    flat = pytree.flatten(parts.tree(np.asarray(best[1])))
    now = {path: jax.device_put(pytree.cast(leaf, dtypes[path])) for path, leaf in flat.items()}
    return pytree.unflatten(now, like=params)


def affordable(net: Net, params: Any, some: Rows, total: int) -> Affordable:
    """What a joint refit of a network may take; fewer rounds, then fewer rows, if it is large.

    Args:
      net: the traced network.
      params: its folded parameters.
      some: a few rows.
      total: how many there are to fit on.

    Returns:
      No rounds where the network is too large for any that is worth its time.
    """
    inputs, apart = some.chunks[0][0], _apart(total * _positions(some))
    passes = net.flops(params, *inputs) / size_of(inputs) * PASSES
    if passes * (STEPS + 3) * total * ROUNDS <= QUICK:
        apart = 1
    once = passes * ((STEPS + 2) / apart + 1)
    work = WORK_CONVOLUTIONS if net.network.convolutional else WORK
    rounds = int(work / max(once * total, 1.0))
    if rounds >= WORTHWHILE:
        return Affordable(total, min(rounds, ROUNDS), apart)
    fewer = int(work / max(once * WORTHWHILE, 1.0))
    if fewer >= min(FEWEST, total):
        return Affordable(fewer, WORTHWHILE, apart)
    return Affordable(total, rounds, apart)


def _apart(samples: int) -> int:
    """One row in how many tells the curvature."""
    return int(min(max(samples // ENOUGH, 1), CURVED))


def _by_turns(net: Net, rows: Rows, apart: int) -> Callable[[int], list[Batch]]:
    """By round, the inputs that the curvature is told from: chunks of as many rows each time."""
    every = jax.tree.map(lambda *x: np.concatenate(x), *(inputs for inputs, _ in rows.chunks))
    most = rows.total // apart

    def own(turn: int) -> list[Batch]:
        return cut(net, even(net, jax.tree.map(lambda x: x[turn % apart :: apart][:most], every)))

    return own
