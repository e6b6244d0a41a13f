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
ASCENT_STEPS = 40
RESTARTS = 8
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
      how: ``(k, 2)`` the stage that gave them.
      owner: ``(k, 2)`` index of the proof in effect, -1 for the interval bound.
      proofs: all proofs so far.
      seen: witnesses.
    """

    value: Array
    how: Array
    owner: Array
    proofs: tuple[Proofs, ...]
    seen: Seen

    @property
    def open(self) -> np.ndarray:
        """``(k, 2)`` bounds that would settle a unit, if they could be proven."""
        stable = (self.value <= 0).any(axis=1, keepdims=True)
        return ~stable & (self.seen.index < 0)


Stage = Callable[[Problem, State, float], State]


def start(problem: Problem, z: Interval) -> State:
    """The state that interval bounds give, which are exact for the first step."""
    k = problem.units
    value = np.stack([-z.lower[:k], z.upper[:k]], axis=1)
    how = How.CLOSED_FORM if len(problem.steps) == 1 else How.INTERVAL
    nothing = nothing_seen(len(problem.box.lower), k)
    return State(value, np.full((k, 2), how, np.int8), np.full((k, 2), -1), (), nothing)


def from_data(problem: Problem, state: State, deadline: float) -> State:
    """Looks for witnesses among the data."""
    return state._replace(seen=observe(state.seen, problem.steps, problem.data, state.open))


def crown(problem: Problem, state: State, deadline: float) -> State:
    """CROWN bounds, and witnesses from the corners where they are attained."""
    unit, side = np.nonzero(np.repeat(state.open.any(axis=1, keepdims=True), 2, axis=1))
    return _tighten(problem, state, unit, side, 0, How.CROWN, deadline)


def gradient(problem: Problem, state: State, deadline: float) -> State:
    """Witnesses by projected gradient ascent from several starts."""
    unit, side = np.nonzero(state.open)
    if not len(unit) or time.monotonic() > deadline:
        return state
    unit, side = np.repeat(unit, RESTARTS), np.repeat(side, RESTARTS)
    lower, upper = problem.box
    draw = np.random.default_rng(0).beta(0.5, 0.5, (len(unit), len(lower)))
    draw = lower + draw * (upper - lower)
    return _climb(problem, state, unit, side, np.clip(draw, lower, upper))


def alpha_crown(problem: Problem, state: State, deadline: float) -> State:
    """α-CROWN bounds of what is open, and of all unstable units if later sites need them."""
    stable = (state.value <= 0).any(axis=1, keepdims=True)
    wanted = np.repeat(~stable, 2, axis=1) if problem.needed else state.open
    return _tighten(problem, state, *np.nonzero(wanted), ALPHA_STEPS, How.ALPHA_CROWN, deadline)


def branching(problem: Problem, state: State, deadline: float) -> State:
    """Branch and bound on what is still open."""
    unit, side = np.nonzero(state.open)
    if not len(unit) or not problem.relaxed or time.monotonic() > deadline:
        return state
    outcome = branch(
        problem.relaxed,
        problem.box,
        problem.rows(unit, side),
        _start_params(problem, state, unit, side),
        deadline=deadline,
        batch=problem.batch,
    )
    leaves = outcome.leaves
    value = np.full(len(unit), -np.inf)
    np.maximum.at(value, leaves.row, leaves.value)
    state = state._replace(seen=observe(state.seen, problem.steps, outcome.points, state.open))
    proofs = _proofs(unit[leaves.row], side[leaves.row], leaves.params, leaves.splits)
    done = outcome.proven
    return _adopt(state, unit[done], side[done], value[done], proofs, How.BRANCHING)


STAGES: tuple[Stage, ...] = (from_data, crown, gradient, alpha_crown, gradient, branching)


def decide(
    problem: Problem, z: Interval, stages: tuple[Stage, ...], deadline: float
) -> tuple[SiteBounds, bool]:
    """Runs the stages; returns what they found, and whether they were interrupted."""
    state = start(problem, z)
    for stage in stages:
        try:
            if state.open.any() or (problem.needed and stage is alpha_crown):
                state = stage(problem, state, deadline)
        except KeyboardInterrupt:
            return finish(problem, state), True
    return finish(problem, state), False


def finish(problem: Problem, state: State) -> SiteBounds:
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
        proofs=_in_effect(problem, state),
    )


def _tighten(
    problem: Problem,
    state: State,
    unit: Array,
    side: Array,
    steps: int,
    how: How,
    deadline: float,
) -> State:
    """Bounds rows by linear bounds, batch by batch, and looks at the corners they name."""
    wanted = state.open
    for first in range(0, len(unit), problem.batch):
        if time.monotonic() > deadline:
            break
        u, s = unit[first : first + problem.batch], side[first : first + problem.batch]
        # Bounds that later sites need are lowered as far as they go.
        goal = np.full(len(u), -np.inf if problem.needed else 0.0)
        params = _start_params(problem, state, u, s)
        bounded = bound_rows(
            problem.relaxed,
            problem.box,
            problem.rows(u, s),
            params,
            _no_splits(params),
            goal=goal,
            steps=steps,
            batch=problem.batch,
        )
        state = state._replace(seen=observe(state.seen, problem.steps, bounded.point, wanted))
        state = _adopt_bounded(state, u, s, bounded, how)
    return state


def _climb(problem: Problem, state: State, unit: Array, side: Array, starts: Array) -> State:
    def climb(weights: Array, constant: Array, starts: Array) -> tuple[Array, Array]:
        rows = Rows(weights, constant)
        return ascend(problem.steps[:-1], problem.box, rows, starts, ASCENT_STEPS)

    value, points = in_batches(climb, problem.batch, *problem.rows(unit, side), starts)
    return state._replace(
        seen=observe(state.seen, problem.steps, points[value > 0], state.open)
    )


def _adopt_bounded(state: State, unit: Array, side: Array, bounded: Bounded, how: How) -> State:
    proofs = _proofs(unit, side, bounded.params, _no_splits(bounded.params))
    return _adopt(state, unit, side, bounded.value, proofs, how)


def _adopt(
    state: State, unit: Array, side: Array, value: Array, proofs: Proofs, how: How
) -> State:
    """Takes over the bounds that are tighter than those known."""
    better = value < state.value[unit, side]
    unit, side = unit[better], side[better]
    values, hows, owner = state.value.copy(), state.how.copy(), state.owner.copy()
    values[unit, side], hows[unit, side] = value[better], how
    owner[unit, side] = len(state.proofs)
    return state._replace(value=values, how=hows, owner=owner, proofs=(*state.proofs, proofs))


def _proofs(unit: Array, side: Array, params: Params, splits: tuple[Array, ...]) -> Proofs:
    sign = np.where(side == 1, 1, -1).astype(np.int8)
    return Proofs(unit.astype(np.int32), sign, params, splits)


def _no_splits(params: Params) -> tuple[np.ndarray, ...]:
    return tuple(np.zeros(p.shape, np.int8) for p in params)


def _start_params(problem: Problem, state: State, unit: Array, side: Array) -> Params:
    """The best slopes known for each row, else CROWN's own."""
    params = [p.copy() for p in default_params(problem.relaxed, len(unit))]
    place = {key: i for i, key in enumerate(zip(unit.tolist(), side.tolist(), strict=True))}
    for number, proof in enumerate(state.proofs):
        theirs = (proof.sign > 0).astype(int)
        current = state.owner[proof.unit, theirs] == number
        pairs = zip(proof.unit[current].tolist(), theirs[current].tolist(), strict=True)
        target = np.array([place.get(pair, -1) for pair in pairs], int)
        for mine, known in zip(params, proof.params, strict=True):
            mine[target[target >= 0]] = known[current][target >= 0]
    return tuple(params)


def _in_effect(problem: Problem, state: State) -> Proofs:
    """The proofs that bounds rest on; without later sites, only those that decide."""
    settled = state.value <= 0
    kept = [_none(problem)]
    for number, proof in enumerate(state.proofs):
        side = (proof.sign > 0).astype(int)
        keep = state.owner[proof.unit, side] == number
        if not problem.needed:
            keep &= settled[proof.unit, side]
        kept.append(_take(proof, keep))
    return _concatenate(kept)


def _none(problem: Problem) -> Proofs:
    params = tuple(p.copy() for p in default_params(problem.relaxed, 0))
    return Proofs(np.zeros(0, np.int32), np.zeros(0, np.int8), params, _no_splits(params))


def _take(proofs: Proofs, keep: Array) -> Proofs:
    params, splits = (tuple(a[keep] for a in part) for part in (proofs.params, proofs.splits))
    return Proofs(proofs.unit[keep], proofs.sign[keep], params, splits)


def _concatenate(parts: list[Proofs]) -> Proofs:
    unit, sign = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    params, splits = (
        tuple(np.concatenate(arrays) for arrays in zip(*[p[i] for p in parts], strict=True))
        for i in (2, 3)
    )
    return Proofs(unit, sign, params, splits)
