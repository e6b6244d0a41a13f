"""Folding by least squares: planted structure, budgets, errors, degenerate networks."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linjax
from linjax.fold.engine.directions import Left, linear_directions
from linjax.fold.engine.linalg import metric_root, solve
from linjax.fold.engine.pursuit import View, pursue
from tests.fold.networks import dense, rows, traced

warnings.filterwarnings("ignore", category=linjax.FoldWarning)


def difference(net, params, folded, x):
    y, z = jax.jit(net.apply)(params, x), jax.jit(net.apply)(folded, x)
    y, z = np.asarray(y, np.float64), np.asarray(z, np.float64)
    return float(np.sqrt(np.mean((y - z) ** 2) / max(np.var(y), 1e-12)))


def folded_at(params, stats, fraction):
    return linjax.fold(params, stats, linjax.size(fraction))


class TestPlanted:
    """Structure that least squares must find by itself, free of charge."""

    def test_always_on_units_become_linear_units(self):
        apply, params = dense((6, 64, 4))
        params["layer_0"]["bias"] = jnp.full(64, 20.0)
        x = rows(400, 6)
        net = linjax.trace(apply, params, x)
        stats = linjax.collect(net, params, [x], metric="identity")
        small = linjax.fold(params, stats, linjax.tolerance(1e-3))
        assert linjax.count(small) <= 6 * 4 + 4
        np.testing.assert_allclose(
            jax.jit(net.apply)(small, x), jax.jit(net.apply)(params, x), rtol=1e-3, atol=0.05
        )

    def test_dead_units_cost_nothing(self):
        apply, params = dense((6, 32, 4))
        params["layer_0"]["bias"] = jnp.where(jnp.arange(32) < 24, -1e3, 0.1)
        x = rows(400, 6)
        net = linjax.trace(apply, params, x)
        stats = linjax.collect(net, params, [x])
        small = linjax.fold(params, stats, linjax.size(0.3))
        assert difference(net, params, small, x) < 1e-3

    def test_duplicated_units_cost_nothing(self):
        apply, params = dense((6, 8, 4))
        first, second = params["layer_0"], params["layer_1"]
        wide = {
            "layer_0": {k: jnp.concatenate([v, v, v], axis=-1) for k, v in first.items()},
            "layer_1": {"kernel": jnp.tile(second["kernel"], (3, 1)), "bias": second["bias"]},
        }
        x = rows(400, 6)
        net = linjax.trace(apply, wide, x)
        stats = linjax.collect(net, wide, [x])
        small = linjax.fold(wide, stats, linjax.size(0.36))
        assert difference(net, wide, small, x) < 1e-2

    @pytest.mark.parametrize("activation", [jax.nn.gelu, jax.nn.silu, jax.nn.leaky_relu, jnp.tanh])
    def test_units_far_out_are_affine(self, activation):
        apply, params = dense((6, 40, 3), activation=activation)
        shift = 0.0 if activation is jnp.tanh else 30.0
        scale = 1e-3 if activation is jnp.tanh else 1.0
        params["layer_0"] = {
            "kernel": scale * params["layer_0"]["kernel"],
            "bias": jnp.full(40, shift),
        }
        x = rows(300, 6)
        net = linjax.trace(apply, params, x)
        stats = linjax.collect(net, params, [x], metric="identity")
        small = linjax.fold(params, stats, linjax.size(0.1))
        assert difference(net, params, small, x) < 1e-2


class TestBudget:
    def test_is_met_and_error_falls_with_size(self):
        net, params, batches, stats = traced((12, 40, 30, 5))
        x = jnp.concatenate(batches)
        errors = []
        for fraction in (0.1, 0.25, 0.5, 0.8):
            small = folded_at(params, stats, fraction)
            assert linjax.count(small) <= fraction * linjax.count(params)
            errors.append(difference(net, params, small, x))
        assert errors[0] > errors[-1]
        assert all(b <= a * 1.1 + 1e-6 for a, b in itertools.pairwise(errors))

    def test_whole_network_stays_as_it_is(self):
        _, params, _, stats = traced((8, 20, 4))
        with pytest.warns(linjax.FoldWarning):
            assert folded_at(params, stats, 1.0) is params

    def test_far_too_small_names_the_smallest_network(self):
        net, params, batches, stats = traced((8, 20, 20, 4))
        with pytest.raises(linjax.LinjaxError, match=r"ask for linjax.size\(") as refusal:
            folded_at(params, stats, 1e-6)
        named = str(refusal.value).split("ask for linjax.size(")[1].split(")")[0]
        small = folded_at(params, stats, float(named))
        assert linjax.count(small) < 0.1 * linjax.count(params)
        assert np.isfinite(jax.jit(net.apply)(small, batches[0])).all()

    def test_widths_are_rounded(self):
        _, params, _, stats = traced((32, 64, 64, 10))
        small = linjax.fold(params, stats, linjax.size(0.5, round_to=8))
        widths = {leaf.shape[-1] for leaf in jax.tree.leaves(small)}
        assert all(w % 8 == 0 or w in (10,) or w < 8 for w in widths)

    def test_path_shrinks_and_its_error_grows(self):
        _, params, _, stats = traced((10, 24, 16, 3))
        steps = linjax.frontier(params, stats).of(linjax.size(0.5))[0].steps
        sizes = [step.cost for step in steps]
        assert sizes[0] == linjax.count(params) and sizes == sorted(sizes, reverse=True)
        assert steps[0].error <= 1e-6 <= steps[-1].error

    def test_prediction_tracks_the_measured_error(self):
        net, params, _batches, stats = traced((16, 60, 40, 5), count=2000, batch=500, seed=3)
        fresh = rows(2000, 16, seed=1)
        pairs = []
        for fraction in (0.7, 0.4, 0.2, 0.1, 0.05):
            small, report = linjax.fold_and_report(params, stats, linjax.size(fraction))
            y, z = (
                jax.nn.softmax(net.apply(params, fresh)),
                jax.nn.softmax(jax.jit(net.apply)(small, fresh)),
            )
            pairs.append((report.predicted, float(jnp.sqrt(jnp.mean((y - z) ** 2)))))
        predicted, measured = np.log(np.array(pairs) + 1e-9).T
        assert np.corrcoef(predicted, measured)[0, 1] > 0.9

    def test_more_calibration_rows_are_no_worse(self):
        errors = []
        for count in (60, 240, 6000):
            net, params, _, stats = traced((16, 60, 40, 5), count=count, batch=count, seed=3)
            small = linjax.fold(params, stats, linjax.size(0.2))
            fresh = [rows(2000, 16, seed=99)]
            errors.append(linjax.compare(net, params, small, fresh).error)
        assert errors[2] < 1.2 * errors[1] and errors[1] < 1.2 * errors[0] < 1

    def test_tolerance_is_monotone(self):
        _, params, _, stats = traced((12, 40, 30, 5))
        sizes = [
            linjax.count(linjax.fold(params, stats, linjax.tolerance(e))) for e in (0.01, 0.1, 0.5)
        ]
        assert sizes == sorted(sizes, reverse=True)


class TestDegenerate:
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_narrow_dtypes(self, dtype):
        net, params, batches, stats = traced((8, 24, 4), dtype=dtype)
        small = folded_at(params, stats, 0.5)
        assert {leaf.dtype for leaf in jax.tree.leaves(small)} == {jnp.dtype(dtype)}
        assert np.isfinite(jax.jit(net.apply)(small, batches[0]).astype(jnp.float32)).all()

    def test_constant_inputs(self):
        apply, params = dense((5, 16, 3))
        x = jnp.ones((50, 5))
        net = linjax.trace(apply, params, x)
        small = folded_at(params, linjax.collect(net, params, [x]), 0.3)
        np.testing.assert_allclose(
            jax.jit(net.apply)(small, x), jax.jit(net.apply)(params, x), atol=1e-3
        )

    def test_layers_of_one_unit_stay(self):
        net, params, batches, stats = traced((6, 20, 1, 12, 3))
        for rule in (linjax.threshold(0.3, layers=1), linjax.size(0.7)):
            small = linjax.fold(params, stats, rule)
            assert linjax.count(small) < linjax.count(params)
            assert np.isfinite(jax.jit(net.apply)(small, batches[0])).all()

    def test_folds_compose(self):
        net, params, batches, stats = traced((12, 40, 30, 5))
        half = folded_at(params, stats, 0.5)
        again = folded_at(half, linjax.collect(net, half, batches), 0.5)
        assert linjax.count(again) <= 0.25 * linjax.count(params)
        direct = folded_at(params, stats, 0.25)
        x = jnp.concatenate(batches)
        assert difference(net, params, again, x) < 3 * difference(net, params, direct, x) + 0.05

    @settings(max_examples=6, deadline=None)
    @given(
        widths=st.lists(st.integers(1, 12), min_size=3, max_size=5).filter(
            lambda own: max(own[1:-1]) > 1  # one unit makes no dimension
        ),
        fraction=st.sampled_from([0.001, 0.1, 0.5, 0.9]),
        count=st.sampled_from([2, 7, 40]),
        seed=st.integers(0, 3),
    )
    def test_any_network_stays_valid(self, widths, fraction, count, seed):
        net, params, batches, stats = traced(tuple(widths), count=count, batch=20, seed=seed)
        try:
            small = folded_at(params, stats, fraction)
        except linjax.LinjaxError as error:
            assert "smallest network" in str(error)
            return
        outputs = jax.jit(net.apply)(small, batches[0])
        assert outputs.shape == net.apply(params, batches[0]).shape
        assert np.isfinite(outputs).all()
        assert linjax.count(small) <= linjax.count(params)


class TestParts:
    def test_pursuit_explains_all_of_a_target_in_its_span(self):
        rng = np.random.default_rng(0)
        h = rng.normal(size=(500, 10)) @ rng.normal(size=(10, 10))
        covariance = h.T @ h / 500
        cross = covariance[:, [2, 5]]
        pursuit = pursue(View(covariance, cross), 2)
        assert set(pursuit.order) == {2, 5}
        assert np.sum(pursuit.explained**2) == pytest.approx(covariance[[2, 5], [2, 5]].sum())

    def test_directions_reproduce_a_low_rank_target(self):
        rng = np.random.default_rng(0)
        v = rng.normal(size=(500, 12))
        target = v @ rng.normal(size=(12, 2)) @ rng.normal(size=(2, 6))
        found = linear_directions([Left(v.T @ v / 500, v.T @ target / 500)])
        ((kernel, explained),) = found.readings
        assert found.kernel.shape == kernel.shape == (12, 2)
        np.testing.assert_allclose(kernel.T @ v.T @ v @ kernel / 500, np.eye(2), atol=1e-6)
        assert np.sum(explained**2) == pytest.approx(np.mean(np.sum(target**2, 1)), rel=1e-5)

    def test_solve_leaves_out_variables_without_variance(self):
        covariance = np.diag([1.0, 0.0, 4.0])
        np.testing.assert_allclose(
            solve(covariance, np.ones((3, 1))).ravel(), [1.0, 0.0, 0.25], rtol=1e-6
        )

    def test_solve_survives_a_singular_covariance(self):
        ones = np.ones((4, 4))
        answer = solve(ones, ones[:, :1])
        np.testing.assert_allclose(ones @ answer, ones[:, :1], rtol=1e-4)

    def test_metric_root_is_a_root(self):
        g = np.cov(np.random.default_rng(0).normal(size=(5, 50)))
        root = metric_root(g)
        lift = root @ root.T - g
        np.testing.assert_allclose(lift, np.eye(5) * lift[0, 0], atol=1e-12)


class TestFrontier:
    def test_folds_as_if_planned_anew(self):
        _, params, _, stats = traced((10, 40, 30, 4))
        known = linjax.frontier(params, stats)
        for rule in (linjax.size(0.3), linjax.size(0.05), linjax.tolerance(0.05)):
            a, b = linjax.fold(params, stats, rule), linjax.fold(params, known, rule)
            assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))

    def test_errors_grow_as_sizes_shrink(self):
        _, params, _, stats = traced((10, 40, 30, 4))
        errors = linjax.frontier(params, stats).errors([1.0, 0.5, 0.2, 0.1, 0.01])
        assert (np.diff(errors) >= 0).all() and errors[0] < 1e-3

    def test_other_values_are_refused(self):
        _, params, _, stats = traced((10, 40, 30, 4))
        known = linjax.frontier(params, stats)
        other = jax.tree.map(lambda x: 2 * x, params)
        with pytest.raises(linjax.StructureError, match="other values"):
            linjax.fold(other, known, linjax.size(0.5))

    def test_prints_sizes(self):
        _, params, _, stats = traced((10, 40, 30, 4))
        assert "10.0%" in repr(linjax.frontier(params, stats))

    def test_what_the_path_leaves_over_is_spent(self):
        _, params, _, stats = traced((16, 60, 40, 5))
        known = linjax.frontier(params, stats)
        for share in (0.5, 0.2, 0.1):
            rule = linjax.size(share)
            budget, own = share * known.before, known.of(rule)[0]
            step = next(s for s in own.steps if s.cost + known.biases("parameters") <= budget)
            plan = known.plan(rule)
            assert step.cost <= plan.cost <= budget
            assert plan.error <= np.sqrt(step.error / own.scale)
            assert linjax.count(linjax.fold(params, known, rule)) <= budget
