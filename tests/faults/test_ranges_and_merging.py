"""What no dtype can hold, evidence that doesn't belong together, rows that aren't finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.errors import EvidenceError, FoldWarning, StoreError

RNG = np.random.default_rng(0)
relu = jax.nn.relu


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.normal(size=shape), dtype)


def apply(p, x):
    return relu(x @ p["a"]) @ p["b"]


PARAMS = {"a": normal(3, 40), "b": normal(40, 2)}


@pytest.mark.parametrize("scale", [100.0, 1e-4])
@pytest.mark.parametrize("rule", ["exact", "published", "published size"])
def test_products_that_the_dtype_cant_hold_are_left_alone(scale, rule):
    params = {k: (jnp.abs(v) * scale).astype(jnp.float16) for k, v in PARAMS.items()}
    net = linjax.trace(apply, params, jnp.zeros((1, 3), jnp.float16))
    x = jnp.abs(normal(50, 3, dtype=jnp.float16)) / scale
    evidence = {"exact": lambda: linjax.certify(net, params, 0.0, 4 / scale)}.get(
        rule, lambda: linjax.collect(net, params, [x], second_moments=False)
    )()
    rules = {"exact": (), "published": (linjax.threshold(0.4),)}
    with pytest.warns(FoldWarning, match="products of its kernels are too"):
        small = linjax.fold(params, evidence, *rules.get(rule, (linjax.published_size(0.9),)))
    np.testing.assert_array_equal(net.apply(small, x), net.apply(params, x))


def two(p, x):
    return relu(x @ p["a"] + p["ab"]) @ p["c"] + relu(x @ p["d"] + p["db"]) @ p["e"]


def test_chains_have_one_threshold():
    """Each chain had its own: units that are never on were taken for always on."""
    params = {"a": normal(6, 20), "ab": normal(20) - 9, "c": normal(20, 2)}
    params |= {"d": normal(6, 20), "db": normal(20) + 6, "e": normal(20, 2)}
    net, x = linjax.trace(two, params, jnp.zeros((1, 6))), normal(400, 6)
    stats = linjax.collect(net, params, [x])
    small = linjax.fold(params, stats, linjax.published_size(0.9))
    assert linjax.count(small) <= 0.9 * linjax.count(params)
    assert linjax.compare(net, params, small, [x], metric="identity").error < 0.2
    with pytest.warns(FoldWarning, match=r"no threshold leaves so few"):
        linjax.fold(params, stats, linjax.published_size(0.001))


def test_evidence_of_moved_parameters_is_merged_with_a_word():
    net, x = linjax.trace(apply, PARAMS, jnp.zeros((1, 3))), normal(100, 3)
    other = jax.tree.map(lambda v: normal(*v.shape), PARAMS)
    one, two = (linjax.collect(net, p, [x], second_moments=False) for p in (PARAMS, other))
    with pytest.warns(FoldWarning, match="moved in between"):
        linjax.merge(one, two)


def test_huge_whole_weights_are_counted():
    net, x = linjax.trace(apply, PARAMS, jnp.zeros((1, 3))), normal(300, 3)
    weights = np.full(300, 20_000_000)
    weights[:150] //= 2
    found = linjax.collect(net, PARAMS, [x], weights=[weights]).units["a"]
    shares = np.average(np.asarray(x @ PARAMS["a"]) > 0, axis=0, weights=weights)
    np.testing.assert_allclose(found.rate, shares, atol=1e-5)
    np.testing.assert_allclose(float(found.count), weights.sum(), rtol=1e-6)


def test_weights_that_no_batch_takes_are_refused():
    net, x = linjax.trace(apply, PARAMS, jnp.zeros((1, 3))), normal(8, 3)
    with pytest.raises(EvidenceError, match="more of them than batches"):
        linjax.collect(net, PARAMS, [x], weights=[np.ones(8), np.ones(8)])


@pytest.mark.parametrize("row", [0, 6, 9])
def test_recovering_on_rows_that_arent_finite_is_refused(row):
    net, x = linjax.trace(apply, PARAMS, jnp.zeros((1, 3))), normal(100, 3)
    small = linjax.fold(PARAMS, linjax.collect(net, PARAMS, [x]), linjax.size(0.5))
    with pytest.raises(EvidenceError, match="aren't finite"):
        linjax.recover(net, PARAMS, small, [x.at[row, 0].set(jnp.nan)], steps=20)


def test_files_in_float64_say_what_they_need(tmp_path):
    with jax.enable_x64(True):
        params = {k: jnp.asarray(np.asarray(v), jnp.float64) for k, v in PARAMS.items()}
        net = linjax.trace(apply, params, jnp.zeros((1, 3), jnp.float64))
        linjax.save(tmp_path / "net", net, params)
    with pytest.raises(StoreError, match="enable jax_enable_x64"):
        linjax.load(tmp_path / "net")
