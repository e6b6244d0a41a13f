"""The output metric is inferred from the outputs where none is given."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

relu = jax.nn.relu


def normal(*shape, seed=0):
    return placed(np.random.default_rng([seed, *shape]).normal(size=shape))


X, T = normal(500, 8), normal(200, 8, seed=1)
P = {
    "w": normal(8, 32) / 3, "b": normal(32), "v": normal(32, 4) / 5, "u": normal(32, 1) / 5,
}  # fmt: skip


def hidden(p, x):
    return relu(x @ p["w"] + p["b"])


OUTPUTS = {
    "one column": (lambda p, x: hidden(p, x) @ p["u"], "identity"),
    "a number a row": (lambda p, x: (hidden(p, x) @ p["u"])[:, 0], "identity"),
    "a column of tokens": (lambda p, x: (hidden(p, x) @ p["u"])[:, None], "identity"),
    "classes and a number a row": (
        lambda p, x: {"logits": hidden(p, x) @ p["v"], "value": (hidden(p, x) @ p["u"])[:, 0]},
        "identity",
    ),
    "columns of two widths": (
        lambda p, x: (hidden(p, x) @ p["v"], hidden(p, x) @ p["u"]), "identity",
    ),
    "classes": (lambda p, x: hidden(p, x) @ p["v"], "softmax"),
    "classes twice": (lambda p, x: (hidden(p, x) @ p["v"], 2 * hidden(p, x) @ p["v"]), "softmax"),
    "classes and a count": (
        lambda p, x: (hidden(p, x) @ p["v"], jnp.sum(x > 0, axis=1)), "softmax",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_metric_is_that_of_the_outputs(name):
    apply, metric = OUTPUTS[name]
    net = linjax.trace(apply, P, X[:1])
    stats = linjax.collect(net, P, [X])
    assert stats.metric == metric and metric in repr(stats)
    small = linjax.fold(P, stats, linjax.tolerance(0.05))
    found = linjax.compare(net, P, small, [T])
    assert found.metric == metric and f"({metric})" in repr(found)
    assert (found.agreement is None) == (metric == "identity")
    assert 0 < found.error < 0.15
    explicit = linjax.compare(net, P, small, [T], metric=metric)
    assert explicit == found


@pytest.mark.parametrize("name", ["one column", "a number a row"])
def test_a_softmax_of_one_column_is_no_metric(name):
    """Where it is asked for by name, outputs that have no classes are compared as they are."""
    apply, _ = OUTPUTS[name]
    net = linjax.trace(apply, P, X[:1])
    stats = linjax.collect(net, P, [X], metric="softmax")
    small = linjax.fold(P, stats, linjax.tolerance(0.05))
    found = linjax.compare(net, P, small, [T], metric="softmax")
    assert 0 < found.error < 0.15 and found.agreement is None and found.divergence is None


@pytest.mark.parametrize("name", ["one column", "classes and a number a row"])
def test_compress_and_recover_go_by_it(name):
    apply, _ = OUTPUTS[name]
    net = linjax.trace(apply, P, X[:1])
    small = linjax.compress(net, P, [X], linjax.tolerance(0.1))
    assert 0 < linjax.compare(net, P, small, [T]).error < 0.2
    wide = linjax.compress(
        net, P, [X], linjax.size(0.6), evidence=linjax.collect(net, P, [X]), joint=False
    )
    assert 0 < linjax.compare(net, P, wide, [T]).error < 0.9
    worse = {**P, "u": 0.5 * P["u"], "v": 0.5 * P["v"]}
    better = linjax.recover(net, P, worse, [X], steps=100)
    errors = [linjax.compare(net, P, p, [X]).error for p in (worse, better)]
    assert errors[1] < 0.7 * errors[0]


def test_a_convolutional_regression():
    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    params = {"a": normal(3, 3, 2, 12) / 3, "b": normal(3, 3, 12, 4) / 9, "o": normal(4)}
    x = normal(40, 6, 6, 2)

    def apply(p, x):
        return conv(relu(conv(x, p["a"])), p["b"]).mean((1, 2)) @ p["o"]

    net = linjax.trace(apply, params, x)
    stats = linjax.collect(net, params, [x])
    assert stats.metric == "identity"
    small = linjax.fold(params, stats, linjax.size(0.6))
    assert 0 < linjax.compare(net, params, small, [x]).error < 0.8


def test_evidence_of_two_metrics_does_not_merge():
    net = linjax.trace(OUTPUTS["classes"][0], P, X[:1])
    one, other = (linjax.collect(net, P, [X], metric=m) for m in ("softmax", "identity"))
    with pytest.raises(linjax.EvidenceError, match="softmax metric, one by identity"):
        linjax.merge(one, other)


def test_other_metrics_are_refused_with_those_there_are():
    net = linjax.trace(OUTPUTS["classes"][0], P, X[:1])
    for call in (
        lambda: linjax.collect(net, P, [X], metric="hinge"),
        lambda: linjax.compare(net, P, P, [X], metric="hinge"),
        lambda: linjax.recover(net, P, P, [X], metric="hinge"),
        lambda: linjax.compress(net, P, [X], linjax.size(0.5), metric="hinge"),
    ):
        with pytest.raises(linjax.LinjaxError, match="'hinge', expected one of softmax, identity"):
            call()


NO_LOGITS = {
    "bounded": lambda p, x: jnp.tanh(hidden(p, x) @ p["v"]),
    "probabilities": lambda p, x: jax.nn.softmax(hidden(p, x) @ p["v"]),
    "rates": lambda p, x: jnp.exp(hidden(p, x) @ p["v"]),
    "a remainder": lambda p, x: x[:, :4] - hidden(p, x) @ p["v"],
    "a sigmoid for each": lambda p, x: jax.nn.sigmoid(hidden(p, x) @ p["v"]).reshape(-1, 2, 2),
    "positive": lambda p, x: relu(hidden(p, x) @ p["v"]),
}


@pytest.mark.parametrize("name", NO_LOGITS)
def test_what_can_be_no_logits_is_a_regression(name):
    net = linjax.trace(NO_LOGITS[name], P, X[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stats = linjax.collect(net, P, [X])
        assert stats.metric == "identity"
        assert linjax.compare(net, P, P, [X]).metric == "identity"


LOGITS = {
    "classes": lambda p, x: hidden(p, x) @ p["v"],
    "log probabilities": lambda p, x: jax.nn.log_softmax(hidden(p, x) @ p["v"]),
    "capped": lambda p, x: 30 * jnp.tanh(hidden(p, x) @ p["v"] / 30),
    "a temperature": lambda p, x: hidden(p, x) @ p["v"] / 2.5,
    "with a bias": lambda p, x: hidden(p, x) @ p["v"] + p["b"][:4],
}


@pytest.mark.parametrize("name", LOGITS)
def test_what_is_taken_for_logits_says_so(name):
    net = linjax.trace(LOGITS[name], P, X[:1])
    stats = linjax.collect(net, P, [X])
    assert stats.metric == "softmax" and "softmax" in repr(stats)
    assert linjax.collect(net, P, [X], metric="identity").metric == "identity"
