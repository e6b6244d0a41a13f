"""Streams that norms run over, in a basis of their own: however norms are written."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linjax
from tests.fold.normed import (
    BLOCKS,
    HEADS,
    INPUTS,
    KINDS,
    LENGTH,
    OUT,
    RANK,
    UNITS,
    VOCABULARY,
    WIDTH,
    by_hand,
    layer,
    narrowed,
    network,
    plain,
    rms,
    rows,
    seen,
    span,
    stream,
    typed,
)


@pytest.mark.quick(7)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("double", [False, True])
def test_directions_that_nothing_uses_fold_exactly(kind, double):
    dtype, tolerance = (jnp.float64, 1e-8) if double else (jnp.float32, 1e-4)
    with jax.enable_x64(double):
        apply, params, centred = network(kind)
        params, x = typed(params, dtype), rows(7, dtype)
        net = linjax.trace(apply, params, x[:1])
        stats = linjax.collect(net, params, [x[:300], x[300:]], metric="identity")
        small, _ = narrowed(params, stats, net, RANK + centred)
        held = rows(8, dtype)
        expected = by_hand(plain(), np.asarray(held, np.float64), centred)
        np.testing.assert_allclose(apply(params, held), expected, atol=tolerance)
        np.testing.assert_allclose(jax.jit(net.apply)(small, held), expected, atol=tolerance)
    assert all(WIDTH not in x.shape for x in jax.tree.leaves(small) if x.ndim > 1)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_tolerance_finds_them(kind):
    with jax.enable_x64(True):
        apply, params, centred = network(kind)
        params, x = typed(params, jnp.float64), rows(7, jnp.float64)
        net = linjax.trace(apply, params, x[:1])
        stats = linjax.collect(net, params, [x[:300], x[300:]], metric="identity")
        small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-6))
        change = report.sites[stream(net).name]
        assert change.mixed and change.kept.shape[-1] == RANK + centred
        held = rows(8, jnp.float64)
        expected = by_hand(plain(), np.asarray(held), centred)
        np.testing.assert_allclose(net.apply(small, held), expected, atol=1e-5)
        assert linjax.fold(params, stats, linjax.tolerance(1e-6))["e"].shape == small["e"].shape


@pytest.mark.quick(6)
@pytest.mark.parametrize("kind", ["rms", "layer", "RMSNorm", "LayerNorm"])
@pytest.mark.parametrize("k", [11, 9, 6])
def test_predicted_errors_are_those_that_are_measured(kind, k):
    _, params, _, _, net, stats = seen(kind, count=2000)
    small, predicted = narrowed(params, stats, net, k)
    error = linjax.compare(net, params, small, [rows(8)], metric="identity").error
    assert predicted > 0.01 and 1 / 1.5 < error / predicted < 1.5, (predicted, error)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_no_choice_of_coordinates_is_as_good(kind):
    """Dropping the least coordinates of the stream, kernels behind it refitted, loses more."""
    apply, params, centred, x, net, stats = seen(kind, count=2000)
    small, _ = narrowed(params, stats, net, 9 + centred)
    error = linjax.compare(net, params, small, [rows(8)], metric="identity").error

    def without(i):
        onto = jnp.eye(WIDTH).at[i, i].set(0)
        cut = jax.tree.map(lambda a: a, params)
        cut["e"], cut["eb"] = params["e"] @ onto, params["eb"] @ onto
        for q, old in zip(cut["blocks"], params["blocks"], strict=True):
            q["d"], q["db"] = old["d"] @ onto, old["db"] @ onto
        y, z = (np.asarray(apply(p, x)) for p in (params, cut))
        return (np.sum((y - z) ** 2) / np.sum((y - y.mean(0)) ** 2)) ** 0.5

    assert error < 3**0.5 * min(map(without, range(WIDTH)))  # of the one that is worth least


def decoder(p, tokens):
    """A decoder whose embeddings are tied, with queries of one more head than keys."""
    h = p["embedding"][tokens] + p["places"]
    for q in p["blocks"]:
        x = rms(q["n1"], h)
        one, two, three = (jnp.einsum("blp,phd->blhd", x, q[n]) for n in ("q", "k", "v"))
        scores = jax.nn.softmax(jnp.einsum("blhd,bmhd->bhlm", one, two), -1)
        mixed = jnp.einsum("bhlm,bmhd->blhd", scores, three)
        h = h + jnp.einsum("blhd,hdq->blq", mixed, q["o"])
        x = rms(q["n2"], h)
        h = h + (jax.nn.silu(x @ q["gate"]) * (x @ q["up"])) @ q["down"]
    return rms(p["n"], h) @ p["embedding"].T


def decoder_by_hand(p, tokens):
    def norm(q, h):
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * q["g"]

    h = p["embedding"][tokens] + p["places"]
    for q in p["blocks"]:
        x, mixed = norm(q["n1"], h), np.zeros_like(h)
        for head in range(HEADS):
            scores = (x @ q["q"][:, head]) @ (x @ q["k"][:, head]).swapaxes(-1, -2)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            weights = scores / scores.sum(-1, keepdims=True)
            mixed = mixed + weights @ (x @ q["v"][:, head]) @ q["o"][head]
        h = h + mixed
        x = norm(q["n2"], h)
        gate = x @ q["gate"]
        h = h + (gate / (1 + np.exp(-gate)) * (x @ q["up"])) @ q["down"]
    return norm(p["n"], h) @ p["embedding"].T


def decoding(planted=True):
    rng, onto = np.random.default_rng(3), span() if planted else np.eye(WIDTH)
    make = lambda *s: rng.normal(size=s) / s[0] ** 0.5  # noqa: E731
    scale = lambda: {"g": np.exp(0.4 * rng.normal(size=WIDTH))}  # noqa: E731
    each = WIDTH // HEADS
    blocks = [
        {
            "n1": scale(), "n2": scale(), "gate": make(WIDTH, UNITS), "up": make(WIDTH, UNITS),
            "down": make(UNITS, WIDTH) @ onto, "o": make(HEADS, each, WIDTH) @ onto,
            **{n: make(WIDTH, HEADS, each) for n in "qkv"},
        } for _ in range(BLOCKS)
    ]  # fmt: skip
    places = 0.5 * rng.normal(size=(LENGTH, WIDTH)) @ onto
    embedding = 2 * rng.normal(size=(VOCABULARY, WIDTH)) @ onto
    for q in blocks:
        q["q"], q["o"] = q["q"] / 4, q["o"] / 3  # derivatives say something about it
    return {"embedding": embedding, "places": places, "blocks": blocks, "n": scale()}


def texts(seed, count=400):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCABULARY, (count, LENGTH)))


@pytest.mark.parametrize("double", [False, True])
def test_tied_embeddings_keep_the_scale_in_front_of_them(double):
    dtype, tolerance = (jnp.float64, 1e-8) if double else (jnp.float32, 2e-4)
    with jax.enable_x64(double):
        params, x = typed(decoding(), dtype), texts(5)
        net = linjax.trace(decoder, params, x[:1])
        stats = linjax.collect(net, params, [x[:200], x[200:]], metric="identity")
        small, _ = narrowed(params, stats, net, RANK)
        assert small["embedding"].shape == (VOCABULARY, RANK) and small["n"]["g"].shape == (RANK,)
        held = texts(6, 50)
        expected = decoder_by_hand(decoding(), np.asarray(held))
        np.testing.assert_allclose(decoder(params, held), expected, atol=tolerance)
        np.testing.assert_allclose(net.apply(small, held), expected, atol=tolerance)


def test_tied_embeddings_lose_what_is_predicted():
    params, x = typed(decoding(planted=False), jnp.float32), texts(5)
    net = linjax.trace(decoder, params, x[:1])
    stats = linjax.collect(net, params, [x[:200], x[200:]])
    for k in (11, 9):
        small, predicted = narrowed(params, stats, net, k)
        error = linjax.compare(net, params, small, [texts(6, 100)]).error
        assert 1 / 1.6 < error / predicted < 1.6, (k, predicted, error)


def test_pooled_tokens_and_a_class_token_of_layer_norms():
    """Norms whose results are averaged over places, and a stream that begins with a leaf."""

    def apply(p, x):
        h = x @ p["e"]
        first = jnp.broadcast_to(p["class"], (len(x), 1, WIDTH))
        h = jnp.concatenate([first, h], 1) + p["places"]
        h = h + jnp.tanh(layer(p["n1"], h) @ p["u"]) @ p["d"]
        n = layer(p["n2"], h)
        return n[:, 0] @ p["one"], n.mean(1) @ p["all"]

    rng, onto = np.random.default_rng(9), span()
    norm = lambda: {"g": 1 + 0.4 * rng.normal(size=WIDTH), "b": rng.normal(size=WIDTH)}  # noqa: E731
    make = lambda *s: rng.normal(size=s) / s[0] ** 0.5  # noqa: E731
    with jax.enable_x64(True):
        params = typed(
            {"e": make(INPUTS, WIDTH) @ onto, "class": rng.normal(size=(1, 1, WIDTH)) @ onto,
             "places": rng.normal(size=(LENGTH + 1, WIDTH)) @ onto, "n1": norm(), "n2": norm(),
             "u": make(WIDTH, UNITS), "d": make(UNITS, WIDTH) @ onto,
             "one": make(WIDTH, OUT), "all": make(WIDTH, OUT)}, jnp.float64,
        )  # fmt: skip
        x = jnp.asarray(rng.normal(size=(300, LENGTH, INPUTS)))
        net = linjax.trace(apply, params, x[:1])
        stats = linjax.collect(net, params, [x[:150], x[150:]], metric="identity")
        small, _ = narrowed(params, stats, net, RANK + 1)
        held = jnp.asarray(rng.normal(size=(20, LENGTH, INPUTS)))
        for found, expected in zip(net.apply(small, held), apply(params, held), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("kind", ["rms", "layer", "nnx"])
def test_folded_streams_fold_again_and_are_saved_and_trained(kind, tmp_path):
    apply, params, _, x, net, stats = seen(kind, count=1000)
    small, _ = narrowed(params, stats, net, 10)
    again = linjax.collect(net, small, [x[:500], x[500:]], metric="identity")
    smaller, predicted = narrowed(small, again, net, 8)
    assert linjax.count(smaller) < linjax.count(small) < linjax.count(params)
    error = linjax.compare(net, small, smaller, [rows(8)], metric="identity").error
    assert error < 1.6 * predicted
    linjax.save(tmp_path / "net", net, smaller)
    stored, loaded = linjax.load(tmp_path / "net")
    np.testing.assert_allclose(stored.apply(loaded, x), net.apply(smaller, x), atol=1e-5)

    @jax.jit
    def loss(p):
        return jnp.mean((net.apply(p, x) - apply(params, x)) ** 2)

    rate, before = 1e-3, float(loss(smaller))
    for _ in range(30):
        smaller = jax.tree.map(lambda a, g: a - rate * g, smaller, jax.grad(loss)(smaller))
    assert float(loss(smaller)) < before
    last = linjax.collect(net, smaller, [x], metric="identity")
    least = linjax.fold(smaller, last, linjax.size(0.9))
    error = linjax.compare(net, smaller, least, [rows(8)], metric="identity").error
    known = linjax.frontier(smaller, last)
    assert error < 1.6 * known.plan(linjax.size(0.9)).error + 1e-3


def test_the_optimisers_state_goes_on():
    _, params, _, _, _, stats = seen("rms", planted=True)
    adam = optax.adam(1e-3)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    state = linjax.carry_over(adam, adam.init(params), params, small, report)
    shapes = jax.tree.map(jnp.shape, small)
    assert jax.tree.map(jnp.shape, state[0].mu) == shapes
    adam.update(jax.tree.map(jnp.ones_like, small), state, small)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_no_plan_is_worse_for_them(kind):
    _, params, _, _, net, stats = seen(kind, count=1000)
    known, whole = linjax.frontier(params, stats), {stream(net).name: 1.0}
    for size in (0.9, 0.8, 0.7, 0.6, 0.5):
        without = known.plan(linjax.size(size, least=whole))
        assert known.plan(linjax.size(size)).error <= without.error


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_compress_refits_around_them(kind):
    apply, params, _ = network(kind, planted=False)
    params, x = typed(params, jnp.float32), rows(7, count=2000)
    net = linjax.trace(apply, params, x[:1])
    batches, rule = [x[:1000], x[1000:]], linjax.size(0.6)
    stats = linjax.collect(net, params, batches, metric="identity")
    known = linjax.frontier(params, stats)
    n = known.problems.sites.index(stream(net))
    assert known.plan(rule).state.units[n] < WIDTH
    folded = linjax.fold(params, known, rule)
    best = linjax.compress(
        net, params, batches, rule, metric="identity", evidence=known, progress=False
    )
    errors = [
        linjax.compare(net, params, p, [rows(8)], metric="identity").error for p in (folded, best)
    ]
    assert errors[1] < errors[0]


def test_others_leave_streams_alone():
    """What removes units by scores of their own knows nothing of norms."""
    _, params, _, _, _, stats = seen("layer")
    for small in (
        linjax.baselines.magnitude(params, stats, linjax.size(0.8)),
        linjax.baselines.pruned_and_refitted(params, stats, linjax.size(0.8)),
    ):
        assert small["e"].shape == (INPUTS, WIDTH) and linjax.count(small) < linjax.count(params)
