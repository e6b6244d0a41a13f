"""Decides the units of one site, stage by stage, each leaving less to the next."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from linjax.evidence.bounds import How, Proofs, SiteBounds, Verdict
from linjax.evidence.certify.branch import branch
from linjax.evidence.certify.crown import Relaxed, Rows, default_params
from linjax.evidence.certify.interval import Interval
from linjax.evidence.certify.optimise import Bounded, Params, bound_rows, in_batches
from linjax.evidence.certify.refute import Seen, ascend, nothing_seen, observe
from linjax.evidence.certify.steps import Step

Array = Any

ALPHA_STEPS = 50
SAMPLES = 256
ASCENT_STEPS, RESTARTS = 60, 8
MORE_ASCENT_STEPS, MORE_RESTARTS = 300, 64
LARGEST_BATCH = 128


class Problem(NamedTuple):
    """A site and all that is known before it.

    Attributes:
      steps: the steps up to the site, its own last.
      units: number of the site's units, the first columns of the last step.
      relaxed: the steps before it, with their bounds.
      box: bounds of the inputs.
      needed: whether later sites need bounds of the unstable units, too.
      data: ``(n, p)`` inputs to look for witnesses among.
    """

    steps: tuple[Step, ...]
    units: int
    relaxed: tuple[Relaxed, ...]
    box: Interval
    needed: bool
    data: Array

    def rows(self, unit: Array, side: Array) -> Rows:
        """The functions -z (side 0) or z (side 1) of the units."""
        sign = np.where(side == 1, 1.0, -1.0)
        step = self.steps[-1]
        return Rows(step.kernel[:, unit].T * sign[:, None], step.bias[unit] * sign)

    @property
    def batch(self) -> int:
        """Number of rows bounded at once: a power of two, so that shapes repeat."""
        return min(LARGEST_BATCH, 1 << (2 * self.units - 1).bit_length())


class State(NamedTuple):
    """What the stages have found; side 0 is about -z, side 1 about z.

    Attributes:
      value: ``(k, 2)`` upper bounds of -z and z.
      how: ``(k, 2)`` int8, the stage that gave them.
      params: per earlier step ``(k, 2, w)`` float32, the best slopes so far.
      corner: ``(k, 2, p)`` where these attain their bound.
      leaves: the proofs by branching.
      seen: witnesses.
    """

    value: Array
    how: Array
    params: Params
    corner: Array
    leaves: Proofs
    seen: Seen

    @property
    def stable(self) -> np.ndarray:
        """``(k,)`` units that are proven never on, or never off."""
        return (self.value <= 0).any(axis=1)

    @property
    def open(self) -> np.ndarray:
        """``(k, 2)`` bounds that would settle a unit, if they could be proven."""
        return ~self.stable[:, None] & (self.seen.index < 0)


Stage = Callable[[Problem, State, float], State]


def start(problem: Problem, z: Interval) -> State:
    """The state that interval bounds give, which are exact for the first step."""
    k, inputs = problem.units, len(problem.box.lower)
    value = np.stack([-z.lower[:k], z.upper[:k]], axis=1)
    how = How.CLOSED_FORM if len(problem.steps) == 1 else How.INTERVAL
    params = default_params(problem.relaxed, 2 * k)
    return State(
        value,
        np.full((k, 2), how, np.int8),
        tuple(np.array(p).reshape(k, 2, p.shape[1]) for p in params),
        np.broadcast_to(problem.box.lower, (k, 2, inputs)).copy(),
        _proofs(np.zeros(0, int), np.zeros(0, int), tuple(np.zeros(p[:0].shape) for p in params)),
        nothing_seen(inputs, k),
    )


def sample(problem: Problem, state: State, deadline: float) -> State:
    """Looks for witnesses among the data and among points that suit the site."""
    points = _random_points(problem.box) if problem.relaxed else _corners(problem, state)
    points = np.concatenate([problem.data, points])
    return state._replace(seen=observe(state.seen, problem.steps, points, state.open, deadline))


def _random_points(box: Interval) -> np.ndarray:
    """Points near corners of the box, from mostly low to mostly high."""
    rng = np.random.default_rng(0)
    centre = rng.uniform(size=(SAMPLES, 1))
    share = rng.beta(0.1 + centre, 1.1 - centre, (SAMPLES, len(box.lower)))
    return np.clip(box.lower + share * (box.upper - box.lower), box.lower, box.upper)


def _corners(problem: Problem, state: State) -> np.ndarray:
    """Where the units of a first site are extreme."""
    up = problem.rows(*np.nonzero(state.open)).weights > 0
    return np.asarray(np.where(up, problem.box.upper, problem.box.lower))


def crown(problem: Problem, state: State, deadline: float) -> State:
    """CROWN bounds, and witnesses from the corners where they are attained."""
    wanted = np.repeat(state.open.any(axis=1, keepdims=True), 2, axis=1)
    return _tighten(problem, state, wanted, 0, How.CROWN, deadline)


def gradient(problem: Problem, state: State, deadline: float) -> State:
    """Witnesses by projected gradient ascent, from the bounds' corners and from anywhere."""
    return _ascend(problem, state, RESTARTS, ASCENT_STEPS, deadline)


def gradient_again(problem: Problem, state: State, deadline: float) -> State:
    """The same for the few units left, with patience."""
    return _ascend(problem, state, MORE_RESTARTS, MORE_ASCENT_STEPS, deadline)


def _ascend(problem: Problem, state: State, restarts: int, steps: int, deadline: float) -> State:
    unit, side = np.nonzero(state.open)
    if not len(unit) or time.monotonic() > deadline:
        return state
    lower, upper = problem.box
    draw = np.random.default_rng(0).beta(0.5, 0.5, (len(unit), restarts, len(lower)))
    starts = np.clip(lower + draw * (upper - lower), lower, upper)
    starts[:, 0] = state.corner[unit, side]

    def climb(weights: Array, constant: Array, starts: Array) -> tuple[Array, Array]:
        rows = Rows(weights, constant)
        return ascend(problem.steps[:-1], problem.box, rows, starts, steps)

    rows = problem.rows(np.repeat(unit, restarts), np.repeat(side, restarts))
    starts = starts.reshape(-1, len(lower))
    value, points = in_batches(climb, problem.batch, *rows, starts, deadline=deadline)
    seen = observe(state.seen, problem.steps, points[value > 0], state.open, deadline)
    return state._replace(seen=seen)


def alpha_crown(problem: Problem, state: State, deadline: float) -> State:
    """α-CROWN bounds of what is open, and of all unstable units if later sites need them."""
    wanted = ~state.stable[:, None] & (state.open | problem.needed)
    return _tighten(problem, state, wanted, ALPHA_STEPS, How.ALPHA_CROWN, deadline)


def branching(problem: Problem, state: State, deadline: float) -> State:
    """Branch and bound on what is still open."""
    unit, side = np.nonzero(state.open)
    if not len(unit) or not problem.relaxed or time.monotonic() > deadline:
        return state
    outcome = branch(
        problem.relaxed,
        problem.box,
        problem.rows(unit, side),
        tuple(p[unit, side] for p in state.params),
        deadline=deadline,
        batch=problem.batch,
    )
    leaves, done = outcome.leaves, outcome.proven
    value, how = state.value.copy(), state.how.copy()
    value[unit[done], side[done]] = -np.inf
    np.maximum.at(value, (unit[leaves.row], side[leaves.row]), leaves.value)
    how[unit[done], side[done]] = How.BRANCHING
    return state._replace(
        value=value,
        how=how,
        leaves=_proofs(unit[leaves.row], side[leaves.row], leaves.params, leaves.splits),
        seen=observe(state.seen, problem.steps, outcome.points, state.open, deadline),
    )


def decide(
    problem: Problem, z: Interval, stages: tuple[Stage, ...], deadline: float
) -> tuple[SiteBounds, bool]:
    """Runs the stages; returns what they found, and whether they were interrupted."""
    state = start(problem, z)
    for stage in stages:
        try:
            if state.open.any() or (problem.relaxed and stage is alpha_crown):
                state = stage(problem, state, deadline)
        except KeyboardInterrupt:
            return finish(state), True
    return finish(state), False


def finish(state: State) -> SiteBounds:
    """Turns what was found into verdicts."""
    proven, seen = state.value <= 0, state.seen
    inactive = proven[:, 1]
    active = proven[:, 0] & ~inactive
    unstable = seen.unstable & ~(inactive | active)
    verdict = np.select(
        [inactive, active, unstable],
        [Verdict.INACTIVE, Verdict.ACTIVE, Verdict.UNSTABLE],
        Verdict.UNDECIDED,
    )
    deciding = np.where(inactive, 1, 0)[:, None]
    how = np.take_along_axis(state.how, deciding, axis=1)[:, 0]
    bound = -np.take_along_axis(state.value, deciding, axis=1)[:, 0]
    margin = np.select([inactive | active, unstable], [bound, seen.margin.min(axis=1)], 0.0)
    return SiteBounds(
        lower=-state.value[:, 0],
        upper=state.value[:, 1],
        verdict=verdict.astype(np.int8),
        how=np.select([inactive | active, unstable], [how, How.WITNESS], How.OPEN).astype(np.int8),
        margin=margin,
        witness=seen.index,
        points=seen.points,
        proofs=_linear_proofs(state),
        leaves=state.leaves,
    )


def _tighten(
    problem: Problem, state: State, wanted: Array, steps: int, how: How, deadline: float
) -> State:
    """Bounds the wanted rows batch by batch, and looks at the corners they name."""
    units, sides = np.nonzero(wanted)
    for first in range(0, len(units), problem.batch):
        if time.monotonic() > deadline:
            break
        unit, side = (a[first : first + problem.batch] for a in (units, sides))
        params = tuple(p[unit, side] for p in state.params)
        bounded = bound_rows(
            problem.relaxed,
            problem.box,
            problem.rows(unit, side),
            params,
            _no_splits(params),
            # Bounds that later sites need are lowered as far as they go.
            goal=np.full(len(unit), -np.inf if problem.needed else 0.0),
            steps=steps,
            batch=problem.batch,
        )
        seen = observe(state.seen, problem.steps, bounded.point, state.open, deadline)
        state = _adopt(state._replace(seen=seen), unit, side, bounded, how)
    return state


def _adopt(state: State, unit: Array, side: Array, bounded: Bounded, how: How) -> State:
    """Takes over the bounds that are tighter than those known."""
    corner = state.corner.copy()
    corner[unit, side] = bounded.point
    better = bounded.value < state.value[unit, side]
    unit, side = unit[better], side[better]
    value, hows = state.value.copy(), state.how.copy()
    value[unit, side], hows[unit, side] = bounded.value[better], how
    params = tuple(p.copy() for p in state.params)
    for mine, new in zip(params, bounded.params, strict=True):
        mine[unit, side] = new[better]
    return state._replace(value=value, how=hows, params=params, corner=corner)


def _proofs(
    unit: Array, side: Array, params: Params, splits: tuple[Array, ...] | None = None
) -> Proofs:
    sign = np.where(side == 1, 1, -1).astype(np.int8)
    splits = _no_splits(params) if splits is None else splits
    return Proofs(unit.astype(np.int32), sign, params, splits)


def _no_splits(params: Params) -> tuple[np.ndarray, ...]:
    return tuple(np.zeros(p.shape, np.int8) for p in params)


def _linear_proofs(state: State) -> Proofs:
    """The slopes of all bounds that aren't interval bounds or by branching."""
    unit, side = np.nonzero(np.isin(state.how, (How.CROWN, How.ALPHA_CROWN)))
    return _proofs(unit, side, tuple(p[unit, side] for p in state.params))
