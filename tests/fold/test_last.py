"""The last layer alone: what it reads is computed once, and it is refitted to the outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence import objective
from linjax.fold import joint
from linjax.fold.joint import last_refit
from linjax.fold.last import last
from linjax.fold.rows import taught
from linjax.program import pytree
from tests.arrays import placed
from tests.properties.convnets import Plan, Stage, build

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
RNG = np.random.default_rng(0)
STAGE = Stage(8, 3, 1, 1, "SAME", True, "before", "relu", False, "mean")


def normal(*shape):
    return placed(RNG.normal(size=shape))


def convolutional(end="mean", block="residual"):
    apply, params, x = build(Plan(2, 2, (STAGE, STAGE), block, end, 3))
    return apply, params, normal(300, *x.shape[1:])


def dense(p, x):
    h = jax.nn.relu(x @ p["a"] + p["b"])
    return jax.nn.relu(h @ p["c"]) @ p["d"] + p["e"]


def two_heads(p, x):
    h = jax.nn.relu(x @ p["a"] + p["b"])
    return {"value": (h @ p["c"]).mean(-1), "classes": h @ p["f"] + p["e"]}


def scanned(p, x):
    def step(h, w):
        return h + jax.nn.relu(h @ w) @ w.T, None

    return jax.lax.scan(step, x, p["stack"])[0] @ p["g"]


def tied(p, x):
    return jax.nn.relu(jax.nn.relu(x @ p["s"]) @ p["s"]) @ p["s"]


P = {
    "a": normal(6, 30), "b": normal(30), "c": normal(30, 20) * 0.3, "d": normal(20, 4),
    "e": normal(4), "f": normal(30, 4), "g": normal(6, 4), "s": normal(6, 6),
    "stack": normal(3, 6, 6) * 0.3,
}  # fmt: skip
X = normal(300, 6)
CASES = {
    "channels": convolutional(),
    "patches": convolutional("convolution"),
    "concatenated": convolutional("flatten", "dense"),
    "dense": (dense, {k: P[k] for k in "abcde"}, X),
    "two heads": (two_heads, {k: P[k] for k in "abcfe"}, X),
    "behind a scan": (scanned, {k: P[k] for k in ("stack", "g")}, X),
}


def folds(net, params, x):
    """The network itself and folds of every kind, factors and vanished layers among them."""
    yield params
    stats = linjax.collect(net, params, [x[:150], x[150:]], metric="identity")
    known = linjax.frontier(params, stats)
    for share in (0.8, 0.5, 0.35):
        try:
            yield linjax.fold(params, known, linjax.size(share))
        except linjax.LinjaxError:
            return
    if net.chained:
        yield linjax.fold(params, stats, linjax.threshold(0.5, layers=1))


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_the_network_does(case):
    apply, params, x = CASES[case]
    net, seen = linjax.trace(apply, params, x[:2]), 0
    run = jax.jit(net.apply)
    for small in folds(net, params, x):
        own = last(net, small)
        rows = taught(net, params, (x,))
        for (inputs, values), _ in own.read(small, rows).chunks:
            got, want = jax.jit(own.apply)(small, inputs, values), run(small, *inputs)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-4), got, want)
            seen += 1
    assert seen > 1


def divergence(net, params, small, x):
    return linjax.compare(net, params, small, [x], metric="softmax").divergence


@pytest.mark.parametrize("case", ["channels", "concatenated", "dense"])
def test_outputs_come_nearer_and_nothing_else_changes(case):
    apply, params, x = CASES[case]
    net = linjax.trace(apply, params, x[:2])
    rows, held = taught(net, params, (x[:200],)), taught(net, params, (x[200:],))
    stats = linjax.collect(net, params, [x[:200]], metric="softmax")
    small = linjax.fold(params, stats, linjax.size(0.3))
    new = last_refit(net, small, rows, held, "softmax")
    assert divergence(net, params, new, x[:200]) < 0.95 * divergence(net, params, small, x[:200])
    assert divergence(net, params, new, x[200:]) <= divergence(net, params, small, x[200:])
    moving = last(net, small).moving
    for path, leaf in pytree.flatten(small).items():
        same = np.array_equal(leaf, pytree.flatten(new)[path])
        assert same or path in moving
        assert leaf.dtype == pytree.flatten(new)[path].dtype


def test_what_serves_elsewhere_too_is_left_alone():
    params = {"s": P["s"]}
    net = linjax.trace(tied, params, X[:2])
    assert last(net, params) is None
    rows = taught(net, params, (X,))
    assert last_refit(net, params, rows, rows, "softmax") is params


def test_compress_refits_it_where_all_layers_would_take_too_long(monkeypatch):
    apply, params, x = CASES["channels"]
    net = linjax.trace(apply, params, x[:2])
    options = {"metric": "softmax", "evidence": linjax.collect(net, params, [x], metric="softmax")}
    plain = linjax.compress(net, params, [x], linjax.size(0.15), joint=False, **options)
    monkeypatch.setattr(joint, "WORK_CONVOLUTIONS", 0.0)
    refitted = linjax.compress(net, params, [x], linjax.size(0.15), **options)
    assert linjax.count(refitted) == linjax.count(plain)
    assert divergence(net, params, refitted, x) < divergence(net, params, plain, x)


def looked_up(p, x):
    h = p["e"][x]
    return (h + jax.nn.relu(h @ p["a"]) @ p["b"]) @ p["e"].T


def shifted_twice(p, x):
    return jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"] + p["b"]


def test_leaves_of_other_layers_are_not_moved():
    """A tied embedding, looked up in front, and a bias that two layers have."""
    words = jnp.asarray(RNG.integers(0, 20, (100, 5)))
    tied_embedding = {"e": normal(20, 8), "a": normal(8, 30), "b": normal(30, 8)}
    shared_bias = {"w": normal(6, 6), "b": normal(6), "v": normal(6, 6)}
    cases = ((looked_up, tied_embedding, words), (shifted_twice, shared_bias, X))
    for apply, params, x in cases:
        net = linjax.trace(apply, params, x[:2])
        found = last(net, params)
        assert found is None or not found.moving & {("e",), ("b",)}
        other = jax.tree.map(lambda w: w + 0.1 * normal(*w.shape), params)
        rows = taught(net, other, (x,))
        new = last_refit(net, params, rows, rows, "softmax")
        before, after = (
            objective.divergence(net.apply(p, x), net.apply(other, x), "softmax")
            for p in (params, new)
        )
        assert after <= before


def test_what_has_no_derivative_forwards_is_left_alone():
    @jax.custom_vjp
    def own(x):
        return x

    own.defvjp(lambda x: (x, None), lambda _, g: (g,))

    def apply(p, x):
        return own(jax.nn.relu(x @ p["a"] + p["b"]) @ p["f"])

    params = {name: P[name] for name in ("a", "b", "f")}
    net, rows = (
        linjax.trace(apply, params, X[:2]),
        taught(linjax.trace(apply, params, X[:2]), params, (X,)),
    )
    new = last_refit(net, params, rows, rows, "softmax")
    jax.tree.map(np.testing.assert_array_equal, new, params)
