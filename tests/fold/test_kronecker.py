"""The curvature in Kronecker factors, and conjugate gradients that are preconditioned by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.fold import joint, kronecker, linearised
from linjax.fold.rows import Rows, mean_divergence, taught

RNG = np.random.default_rng(0)


def test_factors_are_partial_traces_and_solve_is_that_of_their_product():
    shapes = ((3, 4), (4,), (2, 3, 2))
    size, rows = 12 + 4 + 12, 50
    given = [RNG.normal(size=size).astype(np.float32) for _ in range(40)]
    found = kronecker.factored(given, rows, shapes)
    vector, damping = RNG.normal(size=size), np.repeat([0.3, 0.2, 0.1], (12, 4, 12))
    wanted, start = [], 0
    for shape in shapes:
        end = start + int(np.prod(shape))
        m = np.stack([g[start:end] for g in given]).reshape(40, -1, shape[-1]).astype(np.float64)
        left = np.einsum("nij,nkj->ik", m, m) / rows
        right = np.einsum("nji,njk->ik", m, m) / rows
        left, right = (
            (x + kronecker.FLOOR * np.trace(x) / len(x) * np.eye(len(x))) / (1 + kronecker.FLOOR)
            for x in (left, right)
        )
        matrix = np.kron(left, right) / np.trace(left) + damping[start] * np.eye(end - start)
        wanted.append(np.linalg.solve(matrix, vector[start:end]))
        np.testing.assert_allclose(found.diagonal[start], np.trace(left) / (end - start), rtol=1e-5)
        start = end
    np.testing.assert_allclose(found.solve(vector, damping), np.concatenate(wanted), rtol=1e-4)


def test_wide_leaves_keep_diagonals(monkeypatch):
    monkeypatch.setattr(kronecker, "WIDEST", 3)
    given = [RNG.normal(size=12).astype(np.float32) for _ in range(20)]
    found = kronecker.factored(given, 20, ((4, 3),))
    m = np.stack(given).reshape(20, 4, 3).astype(np.float64)
    left = np.sum(m**2, axis=(0, 2)) / 20
    right = np.einsum("nji,njk->ik", m, m) / 20
    left = (left + kronecker.FLOOR * np.mean(left)) / (1 + kronecker.FLOOR)
    right += kronecker.FLOOR * np.trace(right) / 3 * np.eye(3)
    right /= 1 + kronecker.FLOOR
    matrix = np.kron(np.diag(left), right) / np.sum(left) + 0.1 * np.eye(12)
    vector = RNG.normal(size=12)
    np.testing.assert_allclose(
        found.solve(vector, np.full(12, 0.1)), np.linalg.solve(matrix, vector), rtol=1e-4
    )


@pytest.mark.parametrize(("metric", "classes"), [("softmax", 4), ("softmax", 12), ("identity", 3)])
def test_signs_have_the_covariance_of_the_metric_and_rows_are_independent(metric, classes):
    outputs = jnp.asarray(RNG.normal(size=(2, classes)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = np.asarray(jax.vmap(lambda k: kronecker.signed(outputs, k, metric))(keys))
    flat = draws.reshape(len(keys), -1)
    p = np.asarray(jax.nn.softmax(outputs))
    wanted = np.zeros((2 * classes, 2 * classes))
    for row in range(2):
        own = slice(row * classes, (row + 1) * classes)
        exact = np.diag(p[row]) - np.outer(p[row], p[row])
        wanted[own, own] = exact if metric == "softmax" else np.eye(classes)
    np.testing.assert_allclose(flat.T @ flat / len(keys), wanted, atol=0.04)


def test_few_preconditioned_steps_solve_what_single_curvatures_cannot():
    """Inputs of very different, mixed directions: the exact solution is known."""
    mix = np.linalg.qr(RNG.normal(size=(20, 20)))[0] * np.geomspace(1, 1e-3, 20)
    x = (RNG.normal(size=(2000, 20)) @ mix).astype(np.float32)
    true = RNG.normal(size=(20, 5)).astype(np.float32)
    target = x.T.astype(np.float64) @ (x @ true) / len(x)
    curved = x.T.astype(np.float64) @ x / len(x)
    pieces = [
        x[i : i + 50].T @ RNG.choice([-1.0, 1.0], (50, 5)).astype(np.float32)
        for i in range(0, 2000, 50)
    ]
    factors = kronecker.factored([p.ravel() for p in pieces], 2000, ((20, 5),))
    damping = np.full(100, 1e-4 * np.trace(curved) / 20)

    def solved(solve):
        found, _ = linearised.conjugate_gradients(
            lambda v: (curved @ v.reshape(20, 5)).ravel(), target.ravel(), damping, solve, 4
        )
        apart = found.reshape(20, 5) - np.linalg.solve(curved + damping[0] * np.eye(20), target)
        return float(np.sum(apart * ((curved + damping[0] * np.eye(20)) @ apart)))

    assert solved(lambda v: factors.solve(v, damping)) < 0.2 * solved(lambda v: v / damping)


def test_a_joint_refit_finds_parameters_again():
    """A perturbed network is brought back towards the original in a few rounds."""
    keys = jax.random.split(jax.random.key(1), 3)
    params = {
        "in": jax.random.normal(keys[0], (6, 16)) / 2,
        "out": jax.random.normal(keys[1], (16, 4)),
    }
    net = linjax.trace(lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, jnp.zeros((1, 6)))
    x = np.asarray(jax.random.normal(keys[2], (3000, 6))) * np.geomspace(
        1, 0.05, 6, dtype=np.float32
    )
    away = jax.tree.map(
        lambda w: w * (1 + 0.1 * RNG.normal(size=w.shape)).astype(np.float32), params
    )
    train, held = (taught(net, params, (rows,)) for rows in (x[:2000], x[2000:]))
    found = joint.joint_refit(net, away, train, held, "softmax", 12)
    before, after = (mean_divergence(net, p, Rows(*held), "softmax") for p in (away, found))
    assert after < 0.01 * before
