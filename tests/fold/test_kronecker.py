"""The Gauss–Newton matrix from random derivatives, against matrices written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence.objective import LOGITS, directions
from linjax.fold import joint
from linjax.fold.kronecker import FLOOR, LARGEST, LEAST, as_matrix, curvatures
from linjax.fold.linearised import conjugate_gradients
from linjax.fold.rows import mean_divergence, taught


def floored(matrix):
    """What few samples don't see is lifted."""
    mean = np.trace(matrix) / len(matrix)
    return (matrix + FLOOR * mean * np.eye(len(matrix))) / (1 + FLOOR)


def test_factors_are_partial_traces_and_are_divided_by():
    rng = np.random.default_rng(0)
    shapes = ((3, 4), (2, 3, 2), (4, 1, 3))
    samples = rng.normal(size=(40, 36)).astype(np.float32)
    found = curvatures(samples, 50, shapes)
    vector, damping = rng.normal(size=36), np.array([0.3, 0.2, 0.1])
    expected, start = [], 0
    for shape, own in zip(shapes, damping, strict=True):
        end = start + 12
        s = samples[:, start:end].reshape(40, *as_matrix(shape)).astype(np.float64)
        left, right = np.einsum("nij,nkj->ik", s, s) / 50, np.einsum("nji,njk->ik", s, s) / 50
        whole = np.kron(floored(left), floored(right)) / np.trace(left)
        expected.append(np.linalg.solve(whole + own * np.eye(12), vector[start:end]))
        start = end
    np.testing.assert_allclose(found.divide(vector, damping), np.concatenate(expected), rtol=1e-4)
    means = np.square(samples.reshape(40, 3, 12), dtype=np.float64).sum((0, 2)) / 50 / 12
    np.testing.assert_allclose(found.means(), means, rtol=1e-5)
    np.testing.assert_array_equal(found.spread(damping), np.repeat(damping, 12))


def test_a_leaf_that_nothing_depends_on_keeps_a_least_curvature():
    samples = np.concatenate([np.ones((3, 6)), np.zeros((3, 2))], axis=1)
    means = curvatures(samples, 3, [(3, 2), (2,)]).means()
    np.testing.assert_allclose(means[1], LEAST * 6 / 8, rtol=1e-3)


@pytest.mark.parametrize("shape", [(LARGEST + 1, 2), (2, LARGEST + 1), (5,), (1, 5), (), (0, 3)])
def test_long_sides_and_single_ones_have_no_eigenvectors(shape):
    size = int(np.prod(shape))
    samples = np.random.default_rng(2).normal(size=(4, size))
    found = curvatures(samples, 4, [shape])
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
def test_directions_have_the_metric_for_covariance_and_rows_are_independent(metric):
    y = jnp.asarray([[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 0.0, 0.0]])
    turns = jnp.arange(100_000)
    found = np.asarray(jax.vmap(lambda n: directions(y, (n,), metric))(turns)).reshape(-1, 8)
    expected = np.zeros((8, 8))
    for n, p in enumerate(np.asarray(jax.nn.softmax(y))):
        exact = np.diag(p) - np.outer(p, p) + LOGITS * (np.eye(4) - 1 / 4)
        expected[4 * n : 4 * n + 4, 4 * n : 4 * n + 4] = exact if metric == "softmax" else np.eye(4)
    np.testing.assert_allclose(found.T @ found / len(found), expected, atol=5 / 100_000**0.5)


def test_certain_outputs_have_directions_of_their_centred_logits():
    y, turns = jnp.asarray([60.0, 0.0, 0.0, 0.0]), jnp.arange(100_000)
    found = np.asarray(jax.vmap(lambda n: directions(y[None], (n,), "softmax"))(turns))[:, 0]
    expected = LOGITS * (np.eye(4) - 1 / 4)
    np.testing.assert_allclose(found.T @ found / len(found), expected, atol=0.02 * LOGITS)


def test_integer_outputs_have_no_direction():
    ys = {"label": jnp.arange(3), "score": jnp.ones((3, 2))}
    found = directions(ys, (0,), "identity")
    assert found["label"].dtype == jax.dtypes.float0
    assert found["label"].shape == (3,)
    assert found["score"].shape == (3, 2)


def test_few_steps_solve_what_single_curvatures_cannot():
    """Inputs of very different, mixed directions: the exact solution is known."""
    rng = np.random.default_rng(3)
    mix = np.linalg.qr(rng.normal(size=(20, 20)))[0] * np.geomspace(1, 1e-3, 20)
    x = rng.normal(size=(2000, 20)) @ mix
    curved, target = x.T @ x / len(x), x.T @ (x @ rng.normal(size=(20, 5))) / len(x)
    pieces = [x[i : i + 50].T @ rng.choice([-1.0, 1.0], (50, 5)) for i in range(0, 2000, 50)]
    known = curvatures([piece.ravel() for piece in pieces], 2000, ((20, 5),))
    own = np.array([1e-4 * np.trace(curved) / 20])
    damping, whole = known.spread(own), curved + own * np.eye(20)

    def left(near):
        found, _ = conjugate_gradients(
            lambda v: (curved @ v.reshape(20, 5)).ravel(), target.ravel(), damping, near, 4
        )
        apart = found.reshape(20, 5) - np.linalg.solve(whole, target)
        return float(np.sum(apart * (whole @ apart)))

    assert left(lambda v: known.divide(v, own)) < 0.2 * left(lambda v: v / damping)


def test_a_joint_refit_finds_parameters_again():
    """A perturbed network is brought back towards the original in a few rounds."""
    keys, rng = jax.random.split(jax.random.key(1), 3), np.random.default_rng(0)
    params = {
        "in": jax.random.normal(keys[0], (6, 16)) / 2,
        "out": jax.random.normal(keys[1], (16, 4)),
    }
    net = linjax.trace(lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, jnp.zeros((1, 6)))
    scales = np.geomspace(1, 0.05, 6, dtype=np.float32)
    x = np.asarray(jax.random.normal(keys[2], (3000, 6))) * scales
    away = jax.tree.map(
        lambda w: w * (1 + 0.1 * rng.normal(size=w.shape)).astype(np.float32), params
    )
    train, held = (taught(net, params, (rows,)) for rows in (x[:2000], x[2000:]))
    allowed = joint.Affordable(train.total, 12, 3)
    found = joint.joint_refit(net, away, train, held, "softmax", allowed)
    before, after = (mean_divergence(net, p, held, "softmax") for p in (away, found))
    assert after < 0.01 * before
