"""Whatever is given in the wrong place, form or order is refused in words, before any work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

SIZE = linjax.size(0.5)
RNG = np.random.default_rng(0)


def apply(p, x):
    h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"])
    h = jax.nn.relu(h @ p["b"]["kernel"] + p["b"]["bias"])
    return h @ p["c"]["kernel"] + p["c"]["bias"]


def draw(*shape):
    return placed(RNG.normal(size=shape) / np.sqrt(shape[0]))


def layers(*widths):
    pairs = zip("abc", widths, widths[1:], strict=False)
    return {name: {"kernel": draw(p, q), "bias": draw(q)} for name, p, q in pairs}


PARAMS, X = layers(4, 16, 12, 3), 4 * draw(200, 4)
BATCHES = [X[:100], X[100:]]
NET = linjax.trace(apply, PARAMS, X[:1])
STATS = linjax.collect(NET, PARAMS, BATCHES)
KNOWN = linjax.frontier(PARAMS, STATS)
BOUNDS = linjax.certify(NET, PARAMS, -1.0, 1.0)
SMALL = linjax.fold(PARAMS, STATS, SIZE)

OF_NETS = {
    "collect": lambda net, params, x: linjax.collect(net, params, x),
    "compress": lambda net, params, x: linjax.compress(net, params, x, SIZE),
    "compare": lambda net, params, x: linjax.compare(net, params, params, x),
    "recover": lambda net, params, x: linjax.recover(net, params, SMALL, x, steps=10),
    "corrected": lambda net, params, x: linjax.corrected(net, params, KNOWN, x, SIZE),
}
OF_PARAMS = {
    "fold": lambda p: linjax.fold(p, STATS, SIZE),
    "threshold": lambda p: linjax.fold(p, STATS, linjax.threshold(0.9)),
    "known": lambda p: linjax.fold(p, KNOWN, SIZE),
    "bounds": lambda p: linjax.fold(p, BOUNDS),
    "score": lambda p: linjax.score(p, STATS),
    "frontier": lambda p: linjax.frontier(p, STATS),
    "recoverability": lambda p: linjax.recoverability(p, STATS),
    "prune": lambda p: linjax.prune(p, STATS, keep=0.5),
    "lump": lambda p: linjax.lump(NET, p),
    "certify": lambda p: linjax.certify(NET, p, -1.0, 1.0),
    "evidence": lambda p: linjax.compress(NET, p, BATCHES, SIZE, evidence=STATS),
    **{name: lambda p, f=f: f(NET, p, BATCHES) for name, f in OF_NETS.items()},
}


@pytest.mark.parametrize("call", OF_NETS.values(), ids=OF_NETS)
def test_arguments_in_another_order(call):
    with pytest.raises(linjax.LinjaxError, match=r"expected a network of linjax.trace"):
        call(PARAMS, NET, BATCHES)


@pytest.mark.parametrize("call", OF_NETS.values(), ids=OF_NETS)
@pytest.mark.parametrize(
    "batches", [X, np.asarray(X), {"x": X}, None, 3, "rows", STATS],
    ids=["jax", "numpy", "dict", "none", "number", "text", "stats"],
)  # fmt: skip
def test_what_is_no_iterable_of_batches(call, batches):
    with pytest.raises(linjax.EvidenceError, match=r"^batches: .*expected .*give a list"):
        call(NET, PARAMS, batches)


def test_an_array_of_batches_is_an_iterable_of_them():
    found = linjax.collect(NET, PARAMS, X.reshape(2, 100, 4))
    assert all((found.rates[name] == STATS.rates[name]).all() for name in STATS.rates)


@pytest.mark.parametrize("call", OF_NETS.values(), ids=OF_NETS)
@pytest.mark.parametrize(
    "batch", [np.array(["a"] * 8), [object()], draw(20, 5), (X, jnp.zeros(200))],
    ids=["text", "object", "columns", "labels"],
)  # fmt: skip
def test_batches_that_do_not_fit(call, batch):
    with pytest.raises(linjax.LinjaxError, match=r"expected arrays of numbers|don't fit"):
        call(NET, PARAMS, [batch])


def replaced(layer, name, value):
    return {**PARAMS, layer: {**PARAMS[layer], name: value}}


@pytest.mark.parametrize("call", OF_PARAMS.values(), ids=OF_PARAMS)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (replaced("a", "bias", "x"), "a/bias: a str, expected an array"),
        (replaced("a", "bias", np.array([object()] * 16)), "a/bias: an array of object"),
        (jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS), "without values"),
        ({name: PARAMS[name] for name in "ac"}, "b/kernel: missing|c/kernel: .* expected"),
        (layers(4, 20, 12, 3), "a/bias.*20.* expected|collected on folded"),
        (NET, "expected an array|not a parameter"),
        ("params", "expected an array"),
    ],
    ids=["text", "objects", "shapes", "layer", "wider", "net", "string"],
)
def test_what_is_no_pytree_of_the_network(call, params, message):
    with pytest.raises(linjax.LinjaxError, match=message):
        call(params)


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", ["fold", "threshold", "known", "prune"])
@pytest.mark.parametrize("gone", ["a", "b"])
def test_layers_that_are_missing_were_not_folded(name, gone):
    """A square layer that isn't there looks like one past which features are carried."""
    params = layers(8, 8, 8, 3)
    x = draw(200, 8)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x])
    less = {layer: own for layer, own in params.items() if layer != gone}
    rule = linjax.threshold(0.9) if name == "threshold" else SIZE
    evidence = linjax.frontier(params, stats) if name == "known" else stats
    with pytest.raises(linjax.StructureError, match=f"{gone}/.*: missing"):
        if name == "prune":
            linjax.prune(less, stats, keep=0.5)
        linjax.fold(less, evidence, rule)
    with pytest.warns(linjax.FoldWarning, match=f"{gone}/bias.*missing"):
        linjax.collect(net, less, [x])


def test_layers_that_a_fold_removed_may_be_missing():
    params = layers(8, 8, 8, 3)
    params["a"]["bias"] = params["a"]["bias"] + 100.0
    x = draw(200, 8)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x])
    small = linjax.fold(params, stats, linjax.threshold(1.0))
    assert "a" not in small
    with pytest.warns(linjax.FoldWarning, match="have been folded"):
        assert linjax.fold(small, stats, linjax.threshold(1.0)) is small


@pytest.mark.parametrize(
    "ask",
    [
        lambda: linjax.score(STATS, PARAMS),
        lambda: linjax.frontier(STATS, PARAMS),
        lambda: linjax.frontier(PARAMS, BOUNDS),
        lambda: linjax.recoverability(STATS, PARAMS),
        lambda: linjax.compress(NET, PARAMS, BATCHES, SIZE, evidence=BOUNDS),
        lambda: linjax.merge(STATS, PARAMS),
        lambda: linjax.check_certificate(NET, PARAMS, STATS),
        lambda: linjax.collect(NET, PARAMS, BATCHES, folds="2"),
        lambda: linjax.collect(NET, PARAMS, BATCHES, folds=2.5),
        lambda: linjax.collect(NET, PARAMS, BATCHES, limits=3),
        lambda: linjax.collect(NET, PARAMS, BATCHES, weights="ab"),
        lambda: linjax.collect(NET, PARAMS, BATCHES, weights=[np.zeros(100)] * 2),
        lambda: linjax.prune(PARAMS, STATS, keep="half"),
        lambda: linjax.prune(PARAMS, STATS, keep=True),
        lambda: linjax.recover(NET, PARAMS, SMALL, BATCHES, steps=20.5),
        lambda: linjax.recover(NET, PARAMS, SMALL, BATCHES, steps=20, batch_size=0),
        lambda: linjax.recover(NET, PARAMS, SMALL, BATCHES, steps=20, batch_size=-1),
        lambda: linjax.recover(NET, PARAMS, SMALL, BATCHES, steps=20, learning_rate="a"),
        lambda: linjax.recover(NET, PARAMS, SMALL, BATCHES, steps=20, learning_rate=np.nan),
        lambda: linjax.size(0.5, least={"a": "x"}),
        lambda: linjax.size(0.5, least={"a": float("inf")}),
        lambda: linjax.size(0.5, least=["a"]),
        *(lambda v=v: linjax.size(0.5, round_to=v) for v in ("a", None, np.nan, np.inf, 1.5, True)),
        *(lambda v=v: linjax.threshold(0.5, v) for v in (None, float("nan"), [1], -1)),
        lambda: linjax.threshold(0.5, gain="x"),
        lambda: linjax.published_size(0.5, gain="x"),
        lambda: linjax.published_size(0.5, counted="x"),
        lambda: linjax.certify(NET, PARAMS, "a", "b"),
        lambda: linjax.certify(PARAMS, NET, -1.0, 1.0),
        lambda: linjax.lump(PARAMS, NET),
        lambda: linjax.coverage(PARAMS),
        lambda: linjax.to_stablehlo(PARAMS, NET),
        lambda: linjax.to_nnx(PARAMS, NET),
        lambda: linjax.save(NET, "path", PARAMS),
        lambda: linjax.load(None),
        lambda: linjax.count("abc"),
        lambda: linjax.trace(None, PARAMS, X),
    ],
)
def test_arguments_of_another_kind(ask):
    with pytest.raises(linjax.LinjaxError, match=r"expected|weights"):
        ask()


def test_a_function_that_fails_when_traced_says_what_it_was_called_with():
    with pytest.raises(TypeError) as caught:
        linjax.trace(apply, PARAMS, draw(3, 5))
    assert "(3, 5)" in caught.value.__notes__[-1]


@pytest.mark.parametrize("dead", "ab")
def test_what_is_left_of_a_network_that_computes_a_constant(dead):
    """Composes as others do: nothing is left to measure or to fold, and nothing fails."""
    params = replaced(dead, "bias", PARAMS[dead]["bias"] - 100.0)
    small = linjax.fold(params, linjax.certify(NET, params, -1.0, 1.0))
    assert linjax.count(small) == 3
    stats = linjax.collect(NET, small, BATCHES)
    with pytest.warns(linjax.FoldWarning, match="nothing was folded"):
        assert linjax.fold(small, stats, linjax.tolerance(0.1)) is small
    assert np.allclose(NET.apply(small, X), apply(params, X), atol=1e-6)


@pytest.mark.parametrize("alone", "abc")
def test_biases_that_are_alone(alone):
    """Of a layer that makes nothing of what it reads the bias alone is left: kernel of zeros."""
    params = {**PARAMS, alone: {"bias": PARAMS[alone]["bias"] + 1.0}}
    zeros = {**params[alone], "kernel": jnp.zeros_like(PARAMS[alone]["kernel"])}
    stats = [linjax.collect(NET, p, BATCHES) for p in (params, {**params, alone: zeros})]
    for own, other in zip(*(jax.tree.leaves(s.seen) for s in stats), strict=True):
        assert np.allclose(own, other, atol=1e-5)
    small = linjax.fold(params, stats[0], linjax.tolerance(1e-3))
    assert np.allclose(NET.apply(small, X), NET.apply(params, X), atol=1e-3)
    assert linjax.count(small) < linjax.count(params)
