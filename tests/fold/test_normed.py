"""Streams that norms run over, in a basis of their own: however norms are written."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import linjax
from linjax.dims.sites import Form

WIDTH, RANK, UNITS, BLOCKS, OUT, INPUTS = 12, 5, 16, 2, 4, 7
VOCABULARY, HEADS, LENGTH = 24, 2, 5


def rms(q, x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * q["g"]


def rms_divided(q, x):
    return q["g"] * (x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True) / WIDTH + 1e-6))


def layer(q, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-6) * q["g"] + q["b"]


def layer_fast(q, x):
    """Variance as a difference of moments, the scale in the factor."""
    mean = x.mean(-1)
    var = jnp.maximum(0.0, (x**2).mean(-1) - mean**2)
    factor = jax.lax.rsqrt(var + 1e-6)[..., None] * q["g"]
    return (x - mean[..., None]) * factor + q["b"]


def residual(norm):
    def apply(p, x):
        h = x @ p["e"] + p["eb"]
        for q in p["blocks"]:
            h = h + jnp.tanh(norm(q, h) @ q["u"] + q["c"]) @ q["d"] + q["db"]
        return norm(p, h) @ p["h"]

    return apply


class Residual(nn.Module):
    norm: type

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(WIDTH)(x)
        for _ in range(BLOCKS):
            h = h + nn.Dense(WIDTH)(jnp.tanh(nn.Dense(UNITS)(self.norm()(h))))
        return nn.Dense(OUT, use_bias=False)(self.norm()(h))


class Rebuilt(nnx.Module):
    def __init__(self, rngs):
        self.e = nnx.Linear(INPUTS, WIDTH, rngs=rngs)
        self.up = nnx.List([nnx.Linear(WIDTH, UNITS, rngs=rngs) for _ in range(BLOCKS)])
        self.down = nnx.List([nnx.Linear(UNITS, WIDTH, rngs=rngs) for _ in range(BLOCKS)])
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(BLOCKS + 1)])
        self.h = nnx.Linear(WIDTH, OUT, use_bias=False, rngs=rngs)

    def __call__(self, x):
        h = self.e(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            h = h + down(jnp.tanh(up(norm(h))))
        return self.h(self.norms[BLOCKS](h))


def span(seed=1):
    """A random projection on so many directions of the stream."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0][:, :RANK]
    return turn @ turn.T


def plain(seed=0, planted=True):
    """Parameters by hand, whose stream lies in a few directions, unlike its coordinates."""
    rng = np.random.default_rng(seed)
    onto = span() if planted else np.eye(WIDTH)
    make = lambda *s: rng.normal(size=s) / s[0] ** 0.5  # noqa: E731
    scales = lambda: {"g": 1 + 0.5 * rng.normal(size=WIDTH), "b": make(WIDTH)}  # noqa: E731
    blocks = [
        scales() | {"u": make(WIDTH, UNITS), "c": make(UNITS), "d": make(UNITS, WIDTH) @ onto,
                    "db": make(WIDTH) @ onto} for _ in range(BLOCKS)
    ]  # fmt: skip
    own = {"e": 2 * make(INPUTS, WIDTH) @ onto, "eb": make(WIDTH) @ onto, "h": make(WIDTH, OUT)}
    return scales() | own | {"blocks": blocks}


def by_hand(p, x, centred):
    """The residual network in NumPy."""

    def norm(q, h):
        if centred:
            h = h - h.mean(-1, keepdims=True)
        n = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * q["g"]
        return n + q["b"] if centred else n

    h = x @ p["e"] + p["eb"]
    for q in p["blocks"]:
        h = h + np.tanh(norm(q, h) @ q["u"] + q["c"]) @ q["d"] + q["db"]
    return norm(p, h) @ p["h"]


def in_linen(p, name):
    def norm(q):
        return {"scale": q["g"]} | ({"bias": q["b"]} if name == "LayerNorm" else {})

    dense = [(p["e"], p["eb"])]
    for q in p["blocks"]:
        dense += [(q["d"], q["db"]), (q["u"], q["c"])]  # named as they are constructed
    found = {f"Dense_{n}": {"kernel": k, "bias": b} for n, (k, b) in enumerate(dense)}
    found[f"Dense_{len(dense)}"] = {"kernel": p["h"]}
    found |= {f"{name}_{n}": norm(q) for n, q in enumerate([*p["blocks"], p])}
    return {"params": found}


def in_nnx(p):
    graph, state = nnx.split(Rebuilt(nnx.Rngs(0)))
    pure = nnx.to_pure_dict(state)
    pure["e"] = {"kernel": p["e"], "bias": p["eb"]}
    pure["h"] = {"kernel": p["h"]}
    for n, q in enumerate(p["blocks"]):
        pure["up"][n] = {"kernel": q["u"], "bias": q["c"]}
        pure["down"][n] = {"kernel": q["d"], "bias": q["db"]}
    for n, q in enumerate([*p["blocks"], p]):
        pure["norms"][n] = {"scale": q["g"], "bias": q["b"]}

    def apply(params, x):
        own = jax.tree.map(lambda a: a, state)
        nnx.replace_by_pure_dict(own, params)
        return nnx.merge(graph, own)(x)

    return apply, pure


def network(kind, planted=True):
    """A function, its parameters, and whether its norms subtract the mean."""
    p = plain(planted=planted)
    if kind in ("LayerNorm", "RMSNorm"):
        module = Residual(getattr(nn, kind))
        return module.apply, in_linen(p, kind), kind == "LayerNorm"
    if kind == "nnx":
        return *in_nnx(p), True
    norm = {"rms": rms, "rms_divided": rms_divided, "layer": layer, "layer_fast": layer_fast}[kind]
    if kind.startswith("rms"):
        p = {n: x for n, x in p.items() if n != "b"}
        p["blocks"] = [{n: x for n, x in q.items() if n != "b"} for q in p["blocks"]]
    return residual(norm), p, kind.startswith("layer")


KINDS = ("rms", "rms_divided", "layer", "layer_fast", "LayerNorm", "RMSNorm", "nnx")


def stream(net):
    (site,) = (site for site in net.network.sites if site.form is Form.NORMED)
    return site


def narrowed(params, stats, net, k):
    """The network of which the stream alone is folded, to k coordinates."""
    known = linjax.frontier(params, stats)
    n = known.problems.sites.index(stream(net))
    plan = known.plan(linjax.size(1.0))
    units = list(plan.state.units)
    units[n] = k
    plan = plan._replace(state=plan.state._replace(units=tuple(units)))
    surface = next(iter(known.errors_by_width.surfaces.values()))[n]
    return known.fold(params, plan)[0], float(surface.errors[k, 0] / stats.variation) ** 0.5


def typed(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def rows(seed, dtype=jnp.float32, count=600):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, INPUTS)), dtype)


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


@pytest.mark.parametrize("kind", ["rms", "layer", "RMSNorm", "LayerNorm"])
@pytest.mark.parametrize("k", [11, 9, 6])
def test_predicted_errors_are_those_that_are_measured(kind, k):
    apply, params, _ = network(kind, planted=False)
    params, x = typed(params, jnp.float32), rows(7, count=2000)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x[:1000], x[1000:]], metric="identity")
    small, predicted = narrowed(params, stats, net, k)
    error = linjax.compare(net, params, small, [rows(8)], metric="identity").error
    assert predicted > 0.01 and 1 / 1.5 < error / predicted < 1.5, (predicted, error)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_no_choice_of_coordinates_is_as_good(kind):
    """Dropping the least coordinates of the stream, kernels behind it refitted, loses more."""
    apply, params, centred = network(kind, planted=False)
    params, x = typed(params, jnp.float32), rows(7, count=2000)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
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


def after_sums(p, x):
    h = layer(p, x @ p["e"])
    for q in p["blocks"]:
        h = layer(q, h + jnp.tanh(h @ q["u"]) @ q["d"])
    return h @ p["h"]


def read_elsewhere(p, x):
    h = x @ p["e"]
    for q in p["blocks"]:
        h = h + jnp.tanh(layer(q, h) @ q["u"]) @ q["d"]
    return h @ p["h"]


def in_groups(p, x):
    h = x @ p["e"]
    parts = h.reshape(-1, 3, WIDTH // 3)
    n = parts * jax.lax.rsqrt(jnp.mean(parts**2, -1, keepdims=True) + 1e-6)
    return (h + jnp.tanh(n.reshape(-1, WIDTH) @ p["blocks"][0]["u"]) @ p["blocks"][0]["d"]) @ p["h"]


def bent(p, x):
    h = jax.nn.relu(x @ p["e"])
    return rms(p, h) @ p["h"]


def constants(p, x):
    h = x @ p["e"] + np.linspace(0, 1, WIDTH, dtype=np.float32)
    return rms(p, h) @ p["h"]


def computed(p, x):
    return rms({"g": 1 + p["g"]}, x @ p["e"]) @ p["h"]


def scanned(p, x):
    def step(h, q):
        return h + jnp.tanh(rms(q, h) @ q["u"]) @ q["d"], None

    return rms(p, jax.lax.scan(step, x @ p["e"], p["stacked"])[0]) @ p["h"]


def of_another(p, x):
    """The mean that is subtracted is that of an earlier value of the stream."""
    h = x @ p["e"]
    after = h + jnp.tanh(layer(p, h) @ p["blocks"][0]["u"]) @ p["blocks"][0]["d"]
    apart = after - h.mean(-1, keepdims=True)
    n = apart / jnp.sqrt(jnp.mean(apart**2, -1, keepdims=True) + 1e-6)
    return (n * p["g"]) @ p["h"]


def given_away(p, x):
    h = x @ p["e"]
    return layer(p, h) @ p["h"], h.sum(-1)


def coordinate_by_coordinate(p, x):
    h = (x @ p["e"])[:, :, None] * jnp.ones(3)
    h = jax.lax.conv_general_dilated(
        h, jnp.tile(p["g"][:, None, None], (1, 1, 2)), (1,), "SAME", feature_group_count=WIDTH
    )
    return rms(p, h.swapaxes(1, 2)) @ p["h"]


REFUSED = [
    (of_another, "."),
    (given_away, "a sum over it is given"),
    (coordinate_by_coordinate, "."),
    (after_sums, "follow sums"),
    (read_elsewhere, "read in others"),
    (in_groups, "parts of it|cut or flattened"),
    (bent, "stands between"),
    (constants, "a constant is added"),
    (computed, "computes parameters"),
    (scanned, "in a scan"),
]


@pytest.mark.parametrize(("apply", "reason"), REFUSED)
def test_what_cannot_be_turned_is_refused_by_name(apply, reason):
    params = typed(plain(), jnp.float32)
    params["stacked"] = jax.tree.map(lambda *a: jnp.stack(a), *params["blocks"])
    net = linjax.trace(apply, params, rows(7)[:1])
    normed = [site for site in net.network.sites if site.form is Form.NORMED]
    assert normed and all(site.norms is None for site in normed)
    assert not {site.name for site in normed} & {site.name for site in net.network.foldable}
    reasons = {refusal.name: refusal.reason for refusal in net.network.refusals}
    assert any(re.search(reason, reasons[site.name]) for site in normed), reasons
    assert "left alone" in repr(net)


@pytest.mark.parametrize("kind", ["rms", "layer", "nnx"])
def test_folded_streams_fold_again_and_are_saved_and_trained(kind, tmp_path):
    apply, params, _ = network(kind, planted=False)
    params, x = typed(params, jnp.float32), rows(7, count=1000)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x[:500], x[500:]], metric="identity")
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
    apply, params, _ = network("rms")
    params, x = typed(params, jnp.float32), rows(7)
    net, adam = linjax.trace(apply, params, x[:1]), optax.adam(1e-3)
    stats = linjax.collect(net, params, [x[:300], x[300:]], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    state = linjax.carry_over(adam, adam.init(params), params, small, report)
    shapes = jax.tree.map(jnp.shape, small)
    assert jax.tree.map(jnp.shape, state[0].mu) == shapes
    adam.update(jax.tree.map(jnp.ones_like, small), state, small)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_no_plan_is_worse_for_them(kind):
    apply, params, _ = network(kind, planted=False)
    params, x = typed(params, jnp.float32), rows(7, count=1000)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
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
    apply, params, _ = network("layer", planted=False)
    params, x = typed(params, jnp.float32), rows(7)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    for small in (
        linjax.baselines.magnitude(params, stats, linjax.size(0.8)),
        linjax.baselines.pruned_and_refitted(params, stats, linjax.size(0.8)),
    ):
        assert small["e"].shape == (INPUTS, WIDTH) and linjax.count(small) < linjax.count(params)
