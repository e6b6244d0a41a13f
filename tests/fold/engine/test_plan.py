"""Costs against brute force; paths and plans."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linjax.fold.engine.cost import Ledger, Monomial, State, Term, total
from linjax.fold.engine.moves import Room, narrower, ranks_below
from linjax.fold.engine.path import Caution, Prices, balanced, filled, path
from linjax.fold.engine.plan import Curve, Plan, curve, within_budget, within_error


def _random_terms(rng, sites, kernels, count):
    def side():
        return tuple(
            Monomial(
                float(rng.integers(1, 4)),
                tuple(
                    (int(rng.integers(sites)), bool(rng.integers(2)))
                    for _ in range(rng.integers(0, 3))
                ),
            )
            for _ in range(rng.integers(1, 4))
        )

    return tuple(
        Term(
            side(),
            side(),
            int(rng.integers(-1, kernels)),
            float(rng.integers(1, 3)),
        )
        for _ in range(count)
    )


def _by_hand(terms, state):
    found = 0.0
    for term in terms:
        sides = []
        rank = state.ranks[term.kernel] if term.kernel >= 0 else 0
        for side in (term.inputs, term.outputs):
            value = 0.0
            for monomial in side:
                product = monomial.coefficient
                for site, kept in monomial.axes:
                    product *= state.units[site] + (0 if kept else state.linears[site])
                value += product
            sides.append(value)
        found += term.weight * (rank * sum(sides) if rank else sides[0] * sides[1])
    return found


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_costs_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    terms = _random_terms(rng, 4, 3, 8)

    def state():
        return State(*(tuple(int(v) for v in rng.integers(0, 9, n)) for n in (4, 4, 3)))

    now = state()
    assert total(terms, now) == _by_hand(terms, now)
    ledger = Ledger(terms, now)
    for _ in range(12):
        site, kernel = int(rng.integers(4)), int(rng.integers(3))
        k, r, s = rng.integers(0, 9, 3)
        units, linears = np.array([k, now.units[site]]), np.array([r, now.linears[site]])
        wanted = now._replace(
            units=(*now.units[:site], int(k), *now.units[site + 1 :]),
            linears=(*now.linears[:site], int(r), *now.linears[site + 1 :]),
        )
        costs = ledger.site_costs(site, units.astype(float), linears.astype(float))
        assert costs[0] - costs[1] == total(terms, wanted) - total(terms, now)
        ledger.put_site(site, int(k), int(r))
        now = wanted
        wanted = now._replace(ranks=(*now.ranks[:kernel], int(s), *now.ranks[kernel + 1 :]))
        costs = ledger.rank_costs(kernel, np.array([s, now.ranks[kernel]]))
        assert costs[0] - costs[1] == total(terms, wanted) - total(terms, now)
        ledger.put_rank(kernel, int(s))
        now = wanted
        assert ledger.state == now


def _dense(sizes):
    """Terms of an MLP whose inner widths are sites."""

    def side(i):
        inner = 0 < i < len(sizes) - 1
        return (Monomial(1.0, ((i - 1, False),)) if inner else Monomial(float(sizes[i])),)

    kernels = [Term(side(i), side(i + 1), kernel=i) for i in range(len(sizes) - 1)]
    biases = [Term((Monomial(1.0),), (Monomial(1.0, ((i, True),)),)) for i in range(len(sizes) - 2)]
    return (*kernels, *biases)


def _prices(seed, sizes=(30, 24, 16, 20, 5), **given):
    rng = np.random.default_rng(seed)
    rooms = []
    for m in sizes[1:-1]:
        k, r = np.arange(m + 1)[:, None], np.arange(9)[None]
        errors = rng.uniform(1, 5) * np.exp(-k / rng.uniform(2, m) - r / rng.uniform(2, m))
        errors[-1] = 0.0
        rooms.append(Room(errors))
    kernels = tuple(
        rng.uniform(1, 5) * np.exp(-np.arange(min(pair) + 1) / rng.uniform(1, 6))
        for pair in itertools.pairwise(sizes)
    )
    return Prices(tuple(rooms), kernels, _dense(sizes), **given)


SEEDS = st.integers(0, 10**6)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_paths_fall_to_the_smallest_network(seed):
    prices = _prices(seed)
    steps = list(path(prices))
    costs = [step.cost for step in steps]
    assert np.all(np.diff(costs) < 0)
    for step in steps:
        assert step.cost == pytest.approx(prices.cost(step.state))
        assert step.error == prices.error(step.state)
    assert steps[0].state == prices.start and steps[0].error == 0.0
    assert steps[-1].cost == 0.0


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, tangled=st.booleans())
def test_every_step_is_the_cheapest_move(seed, tangled):
    """The lazy search takes what a search through everything would."""
    prices = _prices(seed)
    if tangled:
        terms = _random_terms(np.random.default_rng(seed), 3, 4, 10)
        prices = prices._replace(terms=terms)
    steps = list(path(prices))
    for step, after in itertools.pairwise(steps):
        state, best = step.state, np.inf
        for i, room in enumerate(prices.sites):
            sizes = narrower(room, state.units[i], state.linears[i])
            for k, r in zip(sizes.units, sizes.linears, strict=True):
                units = (*state.units[:i], int(k), *state.units[i + 1 :])
                linears = (*state.linears[:i], int(r), *state.linears[i + 1 :])
                best = min(best, _price(prices, step, state._replace(units=units, linears=linears)))
        for i, errors in enumerate(prices.kernels):
            for s in ranks_below(state.ranks[i], len(errors) - 1, 1):
                ranks = (*state.ranks[:i], int(s), *state.ranks[i + 1 :])
                best = min(best, _price(prices, step, state._replace(ranks=ranks)))
        assert _price(prices, step, after.state) <= best * (1 + 1e-9) + 1e-12


def _price(prices, step, state):
    saved = step.cost - prices.cost(state)
    return max(prices.error(state) - step.error, 0.0) / saved if saved > 1e-9 else np.inf


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, share=st.floats(0.0, 1.2))
def test_plans_keep_budgets(seed, share):
    prices = _prices(seed)
    own = curve(1e-3, prices, 10.0)
    budget = share * own.steps[0].cost
    plan = within_budget([own], budget)
    assert plan.cost <= budget and plan.cost == pytest.approx(prices.cost(plan.state))
    fitting = next(step for step in own.steps if step.cost <= budget)
    assert plan.error**2 * own.scale <= fitting.error * (1 + 1e-9) + 1e-12
    if share >= 1.0:
        assert plan.state == prices.start


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, share=st.floats(0.05, 0.9), convexity=st.sampled_from([0.0, 2.0]))
def test_balance_is_never_worse_and_keeps_the_budget(seed, share, convexity):
    prices = _prices(seed, caution=Caution(convexity=convexity))
    budget = share * prices.cost(prices.start)
    step = next(step for step in path(prices) if step.cost <= budget)
    found = balanced(prices, step.state, budget)
    assert prices.cost(found) <= budget
    assert prices.feared.error(found) <= prices.feared.error(step.state)


def test_what_is_feared_is_dearer_by_the_share_that_is_lost():
    errors = np.array([[4.0], [1.0], [0.0]])
    prices = Prices((Room(errors),), (np.array([2.0, 1.0, 0.0]),), (), caution=Caution(2.0))
    state = State((1,), (0,), (1,))
    assert prices.error(state) == 2.0
    assert prices.feared.error(state) == pytest.approx(1.0 * (1 + 2 / 4) + 1.0 * (1 + 2 / 2))


def test_balance_comes_close_to_the_best_widths_there_are():
    """Of all networks of two narrow layers within a budget, and closer than a path alone."""
    ours, greedy = [], []
    for seed in range(12):
        prices = _prices(seed, sizes=(6, 7, 6, 3))
        prices = prices._replace(kernels=(np.zeros(1),) * 3)
        budget = 0.4 * prices.cost(prices.start)
        own = list(itertools.product(range(8), range(9), range(7), range(9)))
        states = [State((k, p), (r, s), (0, 0, 0)) for k, r, p, s in own]
        best = min(prices.error(state) for state in states if prices.cost(state) <= budget)
        step = next(step for step in path(prices) if step.cost <= budget)
        before = filled(prices, step.state, budget)
        greedy.append(prices.error(before) / best)
        ours.append(prices.error(balanced(prices, before, budget)) / best)
    assert np.mean(ours) < 1.03 and np.mean(ours) < np.mean(greedy)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, error=st.floats(0.0, 1.5))
def test_plans_keep_errors(seed, error):
    own = curve(1e-3, _prices(seed), 10.0)
    plan = within_error([own], error)
    assert plan.error <= error * (1 + 1e-9)
    assert all(step.cost >= plan.cost for step in own.steps if step.error <= error**2 * own.scale)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, multiple=st.sampled_from([2, 4, 5]), share=st.floats(0.05, 0.9))
def test_widths_are_multiples_and_not_too_few(seed, multiple, share):
    prices = _prices(seed, multiple=multiple)
    rooms = [room._replace(multiple=multiple, least=3) for room in prices.sites]
    rooms[1] = rooms[1]._replace(fixed=True)
    prices = prices._replace(sites=tuple(rooms))
    own = curve(1e-3, prices, 10.0)
    states = [step.state for step in own.steps]
    states.append(filled(prices, own.smallest.state, share * own.steps[0].cost))
    states.append(balanced(prices, own.smallest.state, share * own.steps[0].cost))
    for state in states:
        assert state.units[1] == 16 and state.linears[1] == 0
        for i, full in ((0, 24), (2, 20)):
            assert state.units[i] + state.linears[i] >= 3
            for n in (state.units[i], state.linears[i]):
                assert n < multiple or n % multiple == 0 or n == full
        assert all(s < multiple or s % multiple == 0 for s in state.ranks)


def test_a_budget_below_the_smallest_network_gives_that():
    prices = _prices(0)
    rooms = tuple(room._replace(least=4) for room in prices.sites)
    own = curve(1e-3, prices._replace(sites=rooms), 1.0)
    plan = within_budget([own], 1.0)
    assert plan.cost == own.smallest.cost > 1.0


def test_caution_spares_sites_from_being_emptied():
    prices = _prices(3)
    budget = 0.1 * prices.cost(prices.start)

    def worst(caution):
        own = curve(1e-3, prices._replace(caution=caution), 1.0)
        state = within_budget([own], budget).state
        return max(
            room.errors[k, min(r, room.errors.shape[1] - 1)] / room.errors[0, 0]
            for room, k, r in zip(prices.sites, state.units, state.linears, strict=True)
        )

    assert worst(Caution(convexity=20.0)) < worst(Caution())
    assert worst(Caution(cap=0.5)) <= 0.5
    own = curve(1e-3, prices._replace(caution=Caution(cap=0.5)), 1.0)
    assert own.steps[-1].cost == 0.0


def test_of_close_plans_the_first_shrinkage_is_taken():
    prices = _prices(4)

    def scaled(ridge, factor):
        rooms = tuple(room._replace(errors=room.errors * factor) for room in prices.sites)
        kernels = tuple(errors * factor for errors in prices.kernels)
        return curve(ridge, prices._replace(sites=rooms, kernels=kernels), 1.0)

    budget = 0.3 * prices.cost(prices.start)
    first, near, far = scaled(1e-2, 1.0), scaled(1e-1, 0.9), scaled(0.5, 0.5)
    assert within_budget([first, near], budget).shrinkage == 1e-2
    assert within_budget([first, near, far], budget).shrinkage == 0.5
    assert isinstance(within_budget([first], budget), Plan) and isinstance(first, Curve)


def test_nothing_to_decide():
    prices = Prices((), (), (Term((Monomial(2.0),), (Monomial(3.0),)),))
    assert [step.cost for step in path(prices)] == [6.0]
    assert within_budget([curve(1e-3, prices, 1.0)], 10.0).cost == 6.0
