"""What is gathered where sites are read, against the same worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence import passing
from linjax.fold.plans.pricing import problems_of
from linjax.program import pytree
from tests.arrays import placed
from tests.properties.convnets import convolve


def image(p, x):
    """Three convolutions: an image of one channel."""
    h = jax.nn.relu(convolve(x, p["a"], None, 1, 3))
    return convolve(jax.nn.relu(convolve(h, p["b"], None, 1, 3)), p["c"], None, 1, 3)


RNG = np.random.default_rng(0)
SHAPES = {"a": (3, 3, 1, 5), "b": (3, 3, 5, 4), "c": (3, 3, 4, 1)}
PARAMS = {name: jnp.asarray(RNG.normal(size=s) / 3, jnp.float32) for name, s in SHAPES.items()}
X = placed(RNG.normal(size=(120, 5, 5, 1)))


def gathered(apply, params, batches, **options):
    net = linjax.trace(apply, params, batches[0][:2])
    options = {"metric": "identity", **options}
    return net, linjax.collect(net, params, batches, **options)


def pooled(point):
    """Mean and scatter over all folds."""
    count = point.count.sum()
    mean = np.tensordot(point.count, point.mean, 1) / count
    apart = point.mean - mean
    between = np.einsum("f,fni,fnj->nij", point.count, apart, apart)
    return count, mean, point.scatter.sum(0) + between


@pytest.mark.parametrize("size", [20, 33, 1])
def test_moments_are_those_of_all_places_of_all_rows(monkeypatch, size):
    monkeypatch.setattr(passing, "wanted", lambda network: 0)  # places count alike
    x = X[:40] if size == 1 else X
    net, stats = gathered(image, PARAMS, [x[i : i + size] for i in range(0, len(x), size)])
    z = np.asarray(convolve(x, PARAMS["a"], None, 1, 3), np.float64).reshape(-1, 5)
    both = np.concatenate([np.maximum(z, 0), z], axis=1)
    index = [site.name for site in net.network.foldable].index("a")
    (point,) = stats.points[index]
    count, mean, scatter = pooled(point)
    assert count == len(z) and point.places == 25
    np.testing.assert_allclose(mean[0], both.mean(0), atol=1e-5)
    np.testing.assert_allclose(scatter[0], len(z) * np.cov(both.T, bias=True), rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(stats.units["a"].active, (z > 0).sum(0))
    np.testing.assert_allclose(stats.rates["a"], (z > 0).mean(0), atol=1e-6)


def test_metrics_are_products_of_jacobians():
    """What an error at a place costs, on average: every output by itself."""
    net, stats = gathered(image, PARAMS, [X[i : i + 20] for i in range(0, 120, 20)])

    def tail(h):
        return convolve(h, PARAMS["c"], None, 1, 3)[0, ..., 0].reshape(-1)

    h = jax.nn.relu(convolve(jax.nn.relu(convolve(X, PARAMS["a"], None, 1, 3)),
                             PARAMS["b"], None, 1, 3))  # fmt: skip
    jacobians = jax.vmap(jax.jacrev(lambda h: tail(h[None])))(h).reshape(120, 25, 25, 4)
    want = np.einsum("noqc,noqd->cd", jacobians, jacobians) / 120 / 25
    index = [site.name for site in net.network.foldable].index("b")
    (point,) = stats.points[index]
    np.testing.assert_allclose(point.metric[0], want, atol=0.1 * np.abs(want).max())
    y = np.asarray(image(PARAMS, X), np.float64)
    np.testing.assert_allclose(stats.variation, ((y - y.mean()) ** 2).sum() / 120, rtol=0.1)


def test_padding_counts_as_places_that_are_zero():
    """What a window's taps see is zero at the border; all other places count alike."""
    _, stats = gathered(image, PARAMS, [X])
    found = problems_of(pytree.flatten(PARAMS), stats)
    (problem,) = [p for p in found.problems if p.name == "a"]
    z = np.asarray(jax.nn.relu(convolve(X, PARAMS["a"], None, 1, 3)), np.float64)
    wide = np.pad(z, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [wide[:, i : i + 5, j : j + 5] for i in range(3) for j in range(3)]
    rows = np.stack(taps).reshape(-1, 5)
    moments = problem.points[0].moments
    weights = moments.count / moments.count.sum()
    mean = np.tensordot(weights, moments.mean, 1)
    np.testing.assert_allclose(mean[0, :5], rows.mean(0), rtol=0.1)
    apart = moments.mean - mean
    own = moments.covariance + np.einsum("fni,fnj->fnij", apart, apart)
    own = np.tensordot(weights, own, 1)
    want = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(own[0, :5, :5], want, atol=0.1 * np.abs(want).max())


def test_moments_of_attention_are_those_that_the_output_kernel_reads():
    rng = np.random.default_rng(1)
    params = {n: jnp.asarray(rng.normal(size=(6, 6)) / 2, jnp.float32) for n in "qkvo"}

    def split(x):
        return x.reshape(*x.shape[:2], 2, 3)

    def mixed(p, x):
        q, k, v = (split(x @ p[n]) for n in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    def apply(p, x):
        return (x + mixed(p, x).reshape(x.shape) @ p["o"]).mean(1)

    x = jnp.asarray(rng.normal(size=(40, 5, 6)), jnp.float32)
    net = linjax.trace(apply, params, x[:2])
    parts = [linjax.collect(net, params, [part], metric="identity") for part in (x[:24], x[24:])]
    stats = linjax.merge(*parts)
    index = [site.form.value for site in net.network.foldable].index("straight")
    (point,) = stats.points[index]
    _, mean, scatter = pooled(point)
    rows = np.asarray(mixed(params, x), np.float64).reshape(200, 2, 3)
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-5)
    apart = rows - rows.mean(0)
    np.testing.assert_allclose(scatter, np.einsum("shi,shj->hij", apart, apart), rtol=1e-3)


def test_what_enters_a_step_of_a_scan_is_measured_by_steps():
    rng = np.random.default_rng(2)
    shapes = {"in": (4, 6), "up": (3, 6, 5), "down": (3, 5, 6), "out": (6, 2)}
    params = {k: jnp.asarray(rng.normal(size=s) / 2, jnp.float32) for k, s in shapes.items()}

    def apply(p, x):
        def step(x, own):
            return x + jnp.tanh(x @ own[0]) @ own[1], None

        return jax.lax.scan(step, x @ p["in"], (p["up"], p["down"]))[0] @ p["out"]

    x = jnp.asarray(rng.normal(size=(90, 4)), jnp.float32)
    net, stats = gathered(apply, params, [x])
    index = [site.name for site in net.network.foldable].index("up")
    (point,) = stats.points[index]
    want, h = [], x @ params["in"]
    for up, down in zip(params["up"], params["down"], strict=True):
        want.append(np.tanh(h @ up).mean(0))
        h = h + jnp.tanh(h @ up) @ down
    np.testing.assert_allclose(pooled(point)[1], np.stack(want), atol=1e-4)
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.7))
    error = linjax.compare(net, params, small, [x], metric="identity").error
    assert linjax.count(small) <= 0.7 * linjax.count(params)
    assert error < 2.5 * report.predicted + 1e-3


def tokens(p, x):
    """Integers in, two outputs, one of rank one."""
    h = p["table"][x]
    h = jax.nn.relu(convolve(h, p["conv"], None, 1, 3)).mean(1)
    return {"logits": h @ p["head"], "value": (h @ p["value"])[:, 0]}


def test_integers_in_and_several_outputs():
    rng = np.random.default_rng(3)
    shapes = {"table": (11, 4), "conv": (3, 4, 6), "head": (6, 5), "value": (6, 1)}
    params = {k: jnp.asarray(rng.normal(size=s) / 2, jnp.float32) for k, s in shapes.items()}
    x = jnp.asarray(rng.integers(0, 11, (80, 7)))
    for metric in ("identity", "softmax"):
        net, stats = gathered(tokens, params, [x[:40], x[40:]], metric=metric)
        small, report = linjax.fold_and_report(params, stats, linjax.size(0.7))
        assert linjax.count(small) <= 0.7 * linjax.count(params)
        y, own = tokens(params, x), jax.jit(net.apply)(small, x)
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, y)
        assert np.isfinite(report.predicted) and all(map(np.all, map(np.isfinite, own.values())))


@pytest.mark.parametrize("what", ["input", "parameter"])
def test_what_is_not_finite_is_named(what):
    x = X.at[3, 0, 0, 0].set(jnp.nan) if what == "input" else X
    params = dict(PARAMS)
    if what == "parameter":
        params["b"] = params["b"].at[0, 0, 0, 0].set(jnp.inf)
    with pytest.raises(linjax.EvidenceError, match="not finite"):
        gathered(image, params, [x])


def test_data_that_say_nothing():
    """Constant inputs: nothing varies, whatever is cut; and outputs that are always the same."""
    x = jnp.ones_like(X[:30])
    net, stats = gathered(image, PARAMS, [x])
    small = linjax.fold(PARAMS, stats, linjax.size(0.5))
    assert all(np.isfinite(w).all() for w in jax.tree.leaves(small))
    assert np.isfinite(jax.jit(net.apply)(small, x)).all()
    dead = PARAMS | {"c": jnp.zeros_like(PARAMS["c"])}
    net, stats = gathered(image, dead, [X])
    small = linjax.fold(dead, stats, linjax.size(0.5))
    np.testing.assert_allclose(jax.jit(net.apply)(small, X), 0.0, atol=1e-6)


def test_evidence_of_other_networks_is_refused():
    _, stats = gathered(image, PARAMS, [X[:40]])
    with pytest.raises(linjax.StructureError):
        linjax.fold({"a": PARAMS["a"], "other": PARAMS["b"]}, stats, linjax.size(0.5))
    wider = PARAMS | {"b": jnp.ones((3, 3, 6, 4))}
    with pytest.raises(linjax.StructureError, match=r"[ab], axis"):
        linjax.fold(wider, stats, linjax.size(0.5))
    with pytest.raises(linjax.EvidenceError, match="empty"):
        gathered(image, PARAMS, [X[:0]])
