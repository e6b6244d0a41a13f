"""Refitting all layers at once: Gauss–Newton least squares in the output metric.

Layer by layer, least squares reproduces pre-activations; what counts are outputs. Once
widths are chosen, the outputs are linearised in all parameters at once and the linear
least-squares problem is solved by conjugate gradients, a few times over (Gauss–Newton with
Levenberg–Marquardt damping). Rows held out decide when to stop.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.leaves import EXTRAS, RESIDUAL
from linjax.dims.network import CONSTANTS, Network
from linjax.dims.norms import batch_norms
from linjax.evidence.objective import curvature, divergence
from linjax.fold import kronecker
from linjax.fold.last import last
from linjax.fold.rows import Batch, Rows, cut, even, size_of
from linjax.net import Net
from linjax.program import pytree
from linjax.program.flat import Op, Ref, needed
from linjax.program.pytree import Path

Array = Any
Curve = Callable[[np.ndarray], np.ndarray]
Apply = Callable[..., Any]

ROUNDS = 12
STEPS = 4
"""Conjugate-gradient steps of a round: preconditioned, so that few do, and few don't overfit."""
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
DAMPING = 100.0
"""Where the damping starts, relative to the mean curvature of a leaf."""
PATIENCE = 2
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


class _Parts(NamedTuple):
    """A pytree as one vector of what may change, its shapes, and the leaves that stay."""

    vector: Array
    shapes: dict[Path, tuple[int, ...]]
    fixed: pytree.Flat

    @property
    def ends(self) -> list[int]:
        """Where each leaf ends in the vector."""
        return list(itertools.accumulate(map(math.prod, self.shapes.values())))

    def tree(self, vector: Array) -> dict[str, Any]:
        starts = zip([0, *self.ends], self.ends, self.shapes.items(), strict=False)
        moving = {path: vector[a:b].reshape(shape) for a, b, (path, shape) in starts}
        return pytree.unflatten({**self.fixed, **moving})


def _movable(net: Net, params: Any) -> set[Path]:
    """Paths of the leaves that may change."""
    stuck = _in_front(net.network) | _statistics(net.network)
    return {
        path
        for path, x in pytree.flatten(params).items()
        if path[0] != CONSTANTS and path not in stuck and jnp.issubdtype(x.dtype, jnp.floating)
    }


def _parts(params: Any, movable: Set[Path]) -> _Parts:
    flat = pytree.flatten(params)
    moving = {path: x for path, x in flat.items() if path in movable}
    leaves = [np.asarray(x).astype(np.float32) for x in moving.values()]
    vector = jnp.asarray(np.concatenate([leaf.ravel() for leaf in (*leaves, EMPTY)]))
    shapes = {path: leaf.shape for path, leaf in zip(moving, leaves, strict=True)}
    return _Parts(vector, shapes, {p: x for p, x in flat.items() if p not in moving})


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


def joint_refit(net: Net, params: Any, train: Rows, held: Rows, metric: str, rounds: int) -> Any:
    """Refits all kernels and biases of the chains together, towards the original's outputs.

    Each round minimises ``Σ ‖y + J δ − y*‖²_F + λ δᵀ D δ`` over δ, J being the outputs' Jacobian
    by all parameters, F the output metric and D the mean curvature of each leaf; λ follows the
    ratio of the actual to the predicted decrease. Slopes are of all rows, the curvature is that of
    one row in three, by turns: it only has to be right roughly, and takes most of the time.
    Conjugate gradients take a few steps, preconditioned by the curvature in Kronecker factors
    (:mod:`linjax.fold.kronecker`).

    Args:
      net: the traced network.
      params: a folded pytree.
      train: rows to fit on, with the original's outputs.
      held: other rows, that choose among the rounds' results; ``params`` is one of them.
      metric: output metric.
      rounds: the largest number of linearisations, see :func:`affordable`.

    Returns:
      A pytree like ``params``, never worse than it on the held-out rows.

    References:
      Martens, Deep learning via Hessian-free optimization, 2010; Byrd, Chin, Neveitt & Nocedal, On
      the use of stochastic Hessian information in optimization methods, 2011.
    """
    parts, turns = _parts(params, _movable(net, params)), _by_turns(net, train)
    task = _Task(train, held, metric, turns, _pieces(train))
    return _refitted(net.apply, params, parts, task, rounds)


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


def _refitted(apply: Apply, params: Any, parts: _Parts, task: _Task, rounds: int) -> Any:
    """Some rounds of Gauss–Newton steps of what may move."""
    if rounds < 1 or not len(parts.vector):
        return params
    train, held, turns = task.train, task.held, task.turns
    system = _System(apply, parts, task.metric)
    now, damping = parts.vector, DAMPING
    (error, gradient), best = system.slope(now, train), (system.error(now, held), now)
    patience, accepted = PATIENCE, 0
    factors = system.factors(now, task.pieces)
    for turn in range(rounds):
        step, predicted = system.step(now, gradient, turns(turn), factors, damping)
        after, slope = system.slope(now + step, train)
        gain = (after - error) / predicted if predicted < 0 else -1.0
        if not np.isfinite(after) or after >= error:
            damping *= 10.0
        else:
            timid = gain > 0.7 and after > (1 - PROGRESS) * error
            now, error, gradient, accepted = now + step, after, slope, accepted + 1
            if accepted % STEADY == 0:
                factors = system.factors(now, task.pieces)
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


class Affordable(NamedTuple):
    """How many rows a joint refit may use, and how many rounds it may take: both tell its work."""

    rows: int
    rounds: int


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
    inputs, share = some.chunks[0][0], 1 / _apart(total * _positions(some))
    once = net.flops(params, *inputs) / size_of(inputs) * PASSES * (share * (STEPS + 2) + 1)
    work = WORK if net.network.dense else WORK_CONVOLUTIONS
    rounds = int(work / max(once * total, 1.0))
    if rounds >= WORTHWHILE:
        return Affordable(total, min(rounds, ROUNDS))
    fewer = int(work / max(once * WORTHWHILE, 1.0))
    worth = fewer >= min(FEWEST, total)
    return Affordable(fewer, WORTHWHILE) if worth else Affordable(total, rounds)


def _apart(samples: int) -> int:
    """One row in how many tells the curvature."""
    return int(min(max(samples // ENOUGH, 1), CURVED))


def _by_turns(net: Net, rows: Rows) -> Callable[[int], list[Batch]]:
    """By round, the inputs that the curvature is told from: chunks of as many rows each time."""
    apart = _apart(rows.total * _positions(rows))
    every = jax.tree.map(lambda *x: np.concatenate(x), *(inputs for inputs, _ in rows.chunks))
    most = rows.total // apart

    def own(turn: int) -> list[Batch]:
        return cut(net, even(net, jax.tree.map(lambda x: x[turn % apart :: apart][:most], every)))

    return own


class _System:
    """The linearised problem: errors, gradients and curvature products summed over chunks."""

    def __init__(self, apply: Apply, parts: _Parts, metric: str) -> None:
        def outputs(vector: Array, inputs: Any) -> Any:
            return apply(parts.tree(vector), *inputs)

        @jax.jit
        def error(vector: Array, inputs: Any, teacher: Any) -> Array:
            return divergence(outputs(vector, inputs), teacher, metric)

        @jax.jit
        def product(vector: Array, direction: Array, inputs: Any) -> Array:
            y, push = jax.linearize(lambda w: outputs(w, inputs), vector)
            (back,) = jax.linear_transpose(push, vector)(curvature(y, push(direction), metric))
            return back

        @jax.jit
        def signs(vector: Array, inputs: Any, key: Array) -> Array:
            y, pull = jax.vjp(lambda w: outputs(w, inputs), vector)
            return pull(kronecker.signed(y, key, metric))[0]

        self._error, self._product, self._signs = error, product, signs
        self._slope = jax.jit(jax.value_and_grad(error))
        self._shapes = tuple(parts.shapes.values())

    def error(self, vector: Array, rows: Rows) -> float:
        """Mean divergence of the rows."""
        return float(sum(self._error(vector, *chunk) for chunk in rows.chunks)) / rows.total

    def slope(self, vector: Array, rows: Rows) -> tuple[float, np.ndarray]:
        """Mean divergence of the rows, and its derivative."""
        pairs = [self._slope(vector, *chunk) for chunk in rows.chunks]
        gradient = _mean((gradient for _, gradient in pairs), rows.total)
        return float(sum(error for error, _ in pairs)) / rows.total, gradient

    def step(
        self, vector: Array, gradient: np.ndarray, rows: list[Batch], factors: kronecker.Factors,
        damping: float,
    ) -> tuple[Array, float]:  # fmt: skip
        """Returns the damped Gauss–Newton step and the decrease that it predicts.

        Sums over chunks and conjugate gradients run on the host: their programs would have to
        be compiled anew for every number of parameters.
        """
        own = damping * factors.diagonal
        curve, solve = self._curve(vector, rows), functools.partial(factors.solve, damping=own)
        step, curved = _conjugate_gradients(curve, -gradient, own, solve, STEPS)
        return jnp.asarray(step, jnp.float32), float(gradient @ step + step @ curved / 2)

    def _curve(self, vector: Array, rows: list[Batch]) -> Curve:
        """The mean Gauss–Newton matrix of the rows, as a product with vectors."""

        def curve(direction: np.ndarray) -> np.ndarray:
            moved = jnp.asarray(direction, jnp.float32)
            return _mean((self._product(vector, moved, x) for x in rows), sum(map(size_of, rows)))

        return curve

    def factors(self, vector: Array, pieces: list[Batch]) -> kronecker.Factors:
        """The curvature in Kronecker factors, from sets of as many rows each."""
        own = (self._signs(vector, x, jax.random.key(n)) for n, x in enumerate(pieces))
        return kronecker.factored(own, len(pieces) * size_of(pieces[0]), self._shapes)


def _mean(sums: Iterable[Array], total: int) -> np.ndarray:
    result: np.ndarray = functools.reduce(np.add, (np.asarray(x, np.float64) for x in sums))
    return result / total


def _conjugate_gradients(
    curve: Curve, target: np.ndarray, damping: np.ndarray, solve: Curve, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Solves ``(A + diag damping) x = target``, preconditioned; returns A x, too.

    Args:
      curve: multiplies by A.
      target: what to solve for.
      damping: what is added to the diagonal.
      solve: solves for a matrix that is close to the whole.
      steps: the largest number of products with A.
    """
    x = np.zeros_like(target)
    residual = target
    direction = weighted = solve(residual)
    energy = start = residual @ weighted
    for _ in range(steps):
        image = curve(direction) + damping * direction
        length = energy / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        weighted = solve(residual)
        energy, before = residual @ weighted, energy
        if not energy > 1e-6 * start:
            break
        direction = weighted + (energy / before) * direction
    return x, target - residual - damping * x
