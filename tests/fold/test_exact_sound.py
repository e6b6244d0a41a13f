"""Exact folds by a certificate: scales of features and outputs, large biases, coarse dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
RULES = [("linear",), ("dependent",), ("fold_layer", "collapse"), None]


def relu_net(w, b, v, dtype):
    params = {name: jnp.asarray(leaf, dtype) for name, leaf in zip("wbv", (w, b, v), strict=True)}
    return lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"], params


def folded(apply, params, low, high, rules):
    net = linjax.trace(apply, params, jnp.ones((1, params["w"].shape[0])))
    bounds = linjax.certify(net, params, low, high)
    assert linjax.check_certificate(net, params, bounds).ok
    return linjax.fold(params, bounds, **({} if rules is None else {"rewritings": rules}))


def real(params, x):
    """What parameters compute in more bits: nothing but what the fold changed is seen."""
    wide = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    v = np.asarray(x, np.longdouble)
    whole = np.zeros((len(v), 0), np.longdouble)
    if "w" in wide or "b" in wide:
        z = v @ wide["w"] if "w" in wide else np.zeros((len(v), len(wide["b"])))
        whole = np.maximum(z + wide.get("b", 0.0), 0)
    parts = [whole] + ([v @ wide["w_linear"]] if "w_linear" in wide else [])
    gone = not {"w", "b", "w_linear"} & wide.keys()
    h = v if gone else np.concatenate(parts, axis=1)
    h = h @ wide["v_down"] if "v_down" in wide else h
    y = h @ wide["v"] if "v" in wide else np.zeros((len(v), wide["v_bias"].shape[0]))
    if "v_residual" in wide:
        y = y + v @ wide["v_residual"]
    return y + wide.get("v_bias", 0.0)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("large", [1.0, 1e6, 1e15, 1e20])
def test_small_weights_of_large_features_count(rules, large):
    """Two features, one a hundred billion times the other, as much in the units' values."""
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 1 / large])
    w = rng.normal(size=(2, 12)) * scale[:, None]
    apply, params = relu_net(w, np.full(12, 9.0), rng.normal(size=(12, 3)), np.float32)
    box = -1 / scale, 1 / scale
    small = folded(apply, params, *box, rules)
    x = rng.uniform(*box, (300, 2)).astype(np.float32)
    want, got = real(params, x), real(small, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.ptp(want))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("small", [1.0, 1e-8, 1e-16, 1e-24])
def test_small_outputs_count(rules, small):
    """An output a millionth of a billionth of the others is an output all the same."""
    rng = np.random.default_rng(0)
    v = rng.normal(size=(12, 3)) * np.array([1.0, small, 1.0])
    apply, params = relu_net(rng.normal(size=(4, 12)), np.full(12, 9.0), v, np.float32)
    left = folded(apply, params, -1.0, 1.0, rules)
    x = rng.uniform(-1, 1, (300, 4)).astype(np.float32)
    want, got = real(params, x), real(left, x)
    assert (np.abs(got - want).max(axis=0) <= 1e-5 * np.ptp(want, axis=0)).all()


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("bias", [1.0, 6.0, 100.0, 1e4])
def test_large_biases_in_any_dtype(bias, dtype, rules):
    """Always on, and the same but for what rounding each weight once changes."""
    rng = np.random.default_rng(0)
    w, v = 0.1 * rng.normal(size=(8, 32)), rng.normal(size=(32, 4))
    apply, params = relu_net(w, np.full(32, bias), v, dtype)
    small = folded(apply, params, -1.0, 1.0, rules)
    x = rng.uniform(-1, 1, (300, 8))
    want, got = real(params, x), real(small, x)
    eps = float(jnp.finfo(dtype).eps)
    close = 64 * eps if eps < 1e-4 else 8 * eps
    assert np.abs(got - want).max() <= close * np.ptp(want, axis=0).max()
