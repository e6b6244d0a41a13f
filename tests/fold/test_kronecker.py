"""The Gauss–Newton matrix from random derivatives, against matrices written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linjax.evidence.objective import LOGITS, directions
from linjax.fold.joint import _conjugate_gradients
from linjax.fold.kronecker import LARGEST, LEAST, as_matrix, curvatures


def spread(rng: np.random.Generator, size: int) -> np.ndarray:
    """A covariance whose eigenvalues lie orders of magnitude apart."""
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return turn @ np.diag(np.geomspace(1e-3, 10, size)) @ turn.T


def drawn(rng: np.random.Generator, covariance: np.ndarray, count: int) -> np.ndarray:
    return rng.normal(size=(count, len(covariance))) @ np.linalg.cholesky(covariance).T


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (3, 2, 2, 2)])
def test_kronecker_products_are_found_and_divided_by(shape):
    rng = np.random.default_rng(0)
    m, n = as_matrix(shape)
    whole = np.kron(spread(rng, m), spread(rng, n))
    found = curvatures([drawn(rng, whole, 20_000)] * 2, 2, [shape])  # two chunks of one row
    np.testing.assert_allclose(found.means(), np.trace(whole) / len(whole), rtol=0.05)
    vector = rng.normal(size=len(whole))
    expected = np.linalg.solve(whole + 0.1 * np.eye(len(whole)), vector)
    error = found.divide(vector, np.array([0.1])) - expected
    assert np.linalg.norm(error) < 0.03 * np.linalg.norm(expected)


def test_leaves_have_a_curvature_each():
    rng = np.random.default_rng(1)
    first, second = np.kron(spread(rng, 3), spread(rng, 2)), 5 * np.eye(4)
    samples = np.concatenate([drawn(rng, first, 20_000), drawn(rng, second, 20_000)], axis=1)
    found = curvatures([samples], 1, [(3, 2), (4,)])
    assert found.ends == [6, 10]
    np.testing.assert_allclose(found.means()[1], 5, rtol=0.05)
    damping = np.array([0.1, 1.0])
    vector = rng.normal(size=10)
    whole = np.block([[first, np.zeros((6, 4))], [np.zeros((4, 6)), second]])
    expected = np.linalg.solve(whole + np.diag(found.spread(damping)), vector)
    np.testing.assert_allclose(found.divide(vector, damping), expected, rtol=0.05, atol=0.05)


def test_a_leaf_that_nothing_depends_on_keeps_a_least_curvature():
    samples = np.concatenate([np.ones((3, 6)), np.zeros((3, 2))], axis=1)
    means = curvatures([samples], 1, [(3, 2), (2,)]).means()
    np.testing.assert_allclose(means[1], LEAST * 6 / 8, rtol=1e-3)


@pytest.mark.parametrize("shape", [(LARGEST + 1, 2), (2, LARGEST + 1), (5,), (1, 5), (), (0, 3)])
def test_long_sides_and_single_ones_have_no_eigenvectors(shape):
    size = int(np.prod(shape))
    samples = np.random.default_rng(2).normal(size=(4, size))
    found = curvatures([samples], 1, [shape])
    divided = found.divide(np.ones(size), np.array([1e3]))
    np.testing.assert_allclose(divided, 1e-3, rtol=0.02)
    (leaf,) = found.leaves
    for side in (leaf.rows, leaf.columns):
        assert side is None or len(side) <= LARGEST


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((64, 8, 8), (64, 64)),
        ((3, 3, 16, 32), (144, 32)),
        ((8, 8, 64), (64, 64)),
        ((3, 3, 1, 64), (9, 64)),
        ((7,), (7, 1)),
        ((), (1, 1)),
    ],
)
def test_kernels_are_cut_between_what_they_read_and_what_they_make(shape, sides):
    assert as_matrix(shape) == sides


@pytest.mark.parametrize("metric", ["softmax", "identity"])
def test_directions_have_the_metric_for_covariance(metric):
    y = jnp.asarray([[2.0, 0.0, -1.0, 0.5]])
    found = np.asarray(directions((y,), jax.random.key(0), metric, 200_000)[0])[:, 0]
    p = np.asarray(jax.nn.softmax(y[0]))
    expected = np.diag(p) - np.outer(p, p) + LOGITS * (np.eye(4) - 1 / 4)
    expected = expected if metric == "softmax" else np.eye(4)
    np.testing.assert_allclose(found.T @ found / len(found), expected, atol=5 / 200_000**0.5)


def test_certain_outputs_have_directions_of_their_centred_logits():
    y = jnp.asarray([[60.0, 0.0, 0.0, 0.0]])
    found = np.asarray(directions((y,), jax.random.key(0), "softmax", 200_000)[0])[:, 0]
    expected = LOGITS * (np.eye(4) - 1 / 4)
    np.testing.assert_allclose(found.T @ found / len(found), expected, atol=5e-3 * LOGITS)


def test_integer_outputs_have_no_direction():
    ys = {"label": jnp.arange(3), "score": jnp.ones((3, 2))}
    found = directions(ys, jax.random.key(0), "identity", 5)
    assert found["label"].dtype == jax.dtypes.float0
    assert found["label"].shape == (5, 3)
    assert found["score"].shape == (5, 3, 2)


def test_few_steps_solve_what_is_badly_scaled():
    rng = np.random.default_rng(3)
    whole = np.kron(spread(rng, 12), spread(rng, 10)) + 0.01 * spread(rng, 120)
    damping, target = np.full(120, 1e-3), rng.normal(size=120)
    found = curvatures([drawn(rng, whole, 64)], 1, [(12, 10)])

    def left(near):
        x, _ = _conjugate_gradients(lambda v: whole @ v, target, damping, near)
        return np.linalg.norm(target - whole @ x - damping * x) / np.linalg.norm(target)

    assert left(lambda v: found.divide(v, damping[:1])) < 0.2 * left(lambda v: v / damping)
