"""Branch and bound over the signs of pre-activations, all rows and domains in batches.

A domain assumes signs of some pre-activations. It is split at the unit where the linear
bound overstates the network most at the point that attains the bound: these gaps sum to
the bound minus the network's value there, so that the choice aims at what keeps the bound
from being tight. Bounds under splits are those of β-CROWN (Wang et al. 2021, arXiv
2103.06624).
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.evidence.certify.cell import Solution, solve_cell
from linjax.evidence.certify.crown import Relaxed, Rows, upper_bound
from linjax.evidence.certify.interval import Interval
from linjax.evidence.certify.optimise import Bounded, Params, bound_rows, in_batches

Array = Any

# Iterations for a fresh child.
STEPS = 24


class Domains(NamedTuple):
    """Parts of the input space, by the signs they assume; n of them.

    Attributes:
      row: ``(n,)`` the row that each domain belongs to.
      value: ``(n,)`` upper bound of the row on the domain.
      params: per step ``(n, w)`` float64, α and β of the bound.
      splits: per step ``(n, w)`` int8, the assumed signs.
      choice: ``(n,)`` where to split next, counting the units of all steps; -1 if every
        sign is assumed.
    """

    row: Array
    value: Array
    params: Params
    splits: tuple[Array, ...]
    choice: Array

    def take(self, which: Array) -> "Domains":
        """Returns the chosen domains."""
        return jax.tree.map(lambda a: a[which], self)


class Outcome(NamedTuple):
    """What branching came to.

    Attributes:
      proven: ``(rows,)`` bool, rows whose upper bound is at most 0 on all leaves.
      leaves: the leaves of the proven rows.
      points: ``(n, p)`` inputs at which a row looks positive: candidates for witnesses.
      nodes: number of domains that were bounded.
    """

    proven: Array
    leaves: Domains
    points: Array
    nodes: int


class _Problem(NamedTuple):
    relaxed: tuple[Relaxed, ...]
    box: Interval
    rows: Rows
    batch: int
    deadline: float


def branch(
    relaxed: tuple[Relaxed, ...],
    box: Interval,
    rows: Rows,
    params: Params,
    *,
    deadline: float,
    batch: int,
) -> Outcome:
    """Tries to prove that every row is at most 0 on the box.

    Args:
      relaxed, box, rows: see :func:`~linjax.evidence.certify.crown.upper_bound`.
      params: where to start, from the bounds without splits.
      deadline: ``time.monotonic()`` at which to stop.
      batch: number of domains to bound at once.
    """
    problem = _Problem(relaxed, box, rows, batch, deadline)
    count = len(rows.constant)
    params = tuple(p.astype(np.float64) for p in params)
    splits = tuple(np.zeros(p.shape, np.int8) for p in params)
    whole = Domains(np.arange(count), np.zeros(count), params, splits, np.zeros(count, int))
    pool, points = _bound_all(problem, whole)
    done = pool.value <= 0  # a bound that is not a number is not done
    closed, found, nodes = [pool.take(done)], [points], len(pool.row)
    dropped = ~np.isin(np.arange(count), pool.row)  # rows that the deadline left out
    pool = pool.take(~done)
    while True:
        dropped[pool.row[pool.choice < 0]] = True  # refuted, or nothing left to split
        pool = pool.take(~dropped[pool.row])
        if not len(pool.row) or time.monotonic() > deadline:
            break
        order = np.argsort(-pool.value, kind="stable")
        parents, rest = pool.take(order[: batch // 2]), pool.take(order[batch // 2 :])
        fresh, points = _bound(problem, *_split(parents), STEPS)
        nodes += len(fresh.row)
        done = fresh.value <= 0
        closed.append(fresh.take(done))
        found.append(points)
        pool = _join(rest, fresh.take(~done))
    dropped[pool.row] = True
    leaves = _join(*closed)
    return Outcome(~dropped, leaves.take(~dropped[leaves.row]), np.concatenate(found), nodes)


def _bound_all(problem: _Problem, whole: Domains) -> tuple[Domains, Array]:
    """Bounds the rows without splits, batch by batch until the deadline."""
    parts: list[Domains] = []
    found: list[Array] = []
    for start in range(0, max(len(whole.row), 1), problem.batch):
        if parts and time.monotonic() > problem.deadline:
            break
        part = whole.take(slice(start, start + problem.batch))
        bounded, points = _bound(problem, part.row, part.params, part.splits, 0)
        parts.append(bounded)
        found.append(points)
    return _join(*parts), np.concatenate(found)


def _bound(
    problem: _Problem, row: Array, params: Params, splits: tuple[Array, ...], steps: int
) -> tuple[Domains, Array]:
    """Bounds domains; also returns points at which their rows look positive."""
    bounded, reached, choice = _bound_once(problem, row, params, splits, steps)
    cells = np.flatnonzero((choice < 0) & ~(bounded.value <= 0))
    points = bounded.point[~(bounded.value <= 0) & (reached > 0)]
    choice[~(bounded.value <= 0) & (reached > 0)] = -1
    if len(cells):
        points = np.concatenate([points, _settle_cells(problem, row, splits, bounded, cells)])
    return Domains(row, bounded.value, bounded.params, splits, choice), points


def _settle_cells(
    problem: _Problem, row: Array, splits: tuple[Array, ...], bounded: Bounded, cells: Array
) -> np.ndarray:
    """Solves the domains without a split left, in place; returns their maximisers."""
    relaxed, box, rows = problem.relaxed, problem.box, problem.rows
    solutions: list[Solution] = []
    for i in cells:
        if solutions and time.monotonic() > problem.deadline:
            break
        row_here = Rows(*(a[row[i], None] for a in rows))
        solutions.append(solve_cell(relaxed, box, row_here, tuple(s[i] for s in splits)))
    cells = cells[: len(solutions)]
    theirs = tuple(s[cells] for s in splits)
    params = tuple(np.stack(p) for p in zip(*(s.params for s in solutions), strict=True))
    again = _bound_once(problem, row[cells], params, theirs, 0)[0]
    for whole, part in zip(jax.tree.leaves(bounded), jax.tree.leaves(again), strict=True):
        whole[cells] = part
    return np.stack([s.point for s in solutions])


def _bound_once(
    problem: _Problem, row: Array, params: Params, splits: tuple[Array, ...], steps: int
) -> tuple[Bounded, Array, Array]:
    relaxed, box, rows, batch, _ = problem
    mine = Rows(rows.weights[row], rows.constant[row])
    goal = np.zeros(len(row))
    bounded = bound_rows(relaxed, box, mine, params, splits, goal=goal, steps=steps, batch=batch)
    arrays, form = jax.tree.flatten((mine, bounded.params, splits))

    def examine(*arrays: Array) -> tuple[Array, Array]:
        return _examine(relaxed, box, *jax.tree.unflatten(form, arrays))

    return bounded, *in_batches(examine, batch, *arrays)


@jax.jit
def _examine(
    relaxed: tuple[Relaxed, ...],
    box: Interval,
    rows: Rows,
    params: Params,
    splits: tuple[Array, ...],
) -> tuple[Array, Array]:
    """The network's value where the bound is attained, and the unit with the largest gap."""
    params = tuple(p.astype(box.lower.dtype) for p in params)
    bound = upper_bound(relaxed, box, rows, params, splits)
    features, scores = bound.point, []
    for step, line, split in zip(relaxed, bound.lines, splits, strict=True):
        z = features @ step.kernel + step.bias
        features = step.negative * z + step.rise * jnp.maximum(z, 0)
        gap = line.slope * z + line.intercept - line.rise * jnp.maximum(z, 0)
        # Where gaps vanish the widest relaxation decides.
        gap += 1e-3 * line.intercept + 1e-9 * jnp.abs(line.rise) * (step.upper - step.lower)
        crossing = (step.lower < 0) & (step.upper > 0) & (split == 0)
        scores.append(jnp.where(crossing, gap, -1.0))
    score = jnp.concatenate(scores, axis=1)
    reached = jnp.sum(features * rows.weights, axis=1) + rows.constant
    return reached, jnp.where(score.max(axis=1) < 0, -1, score.argmax(axis=1))


def _split(parents: Domains) -> tuple[Array, Params, tuple[Array, ...]]:
    """Both children of every domain: (rows, params, splits)."""
    count = len(parents.row)
    sign = np.repeat(np.array([1, -1], np.int8), count)
    choice = np.tile(parents.choice, 2)
    params, splits, offset = [], [], 0
    for param, split in zip(parents.params, parents.splits, strict=True):
        param, split = np.tile(param, (2, 1)), np.tile(split, (2, 1))
        here = np.flatnonzero((choice >= offset) & (choice < offset + split.shape[1]))
        split[here, choice[here] - offset] = sign[here]
        param[here, choice[here] - offset] = 0.0
        offset += split.shape[1]
        params.append(param)
        splits.append(split)
    return np.tile(parents.row, 2), tuple(params), tuple(splits)


def _join(*parts: Domains) -> Domains:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
