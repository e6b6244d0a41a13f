"""Queries and keys at lower rank, in any basis: found however they are written."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import linjax
from linjax.dims.sites import Form
from tests.arrays import placed

WIDTH, HEADS, FEATURES, RANK = 12, 2, 6, 2


def low(rng, heads=HEADS, rank=RANK):
    """Kernels of queries and of keys whose products have a low rank, unlike their coordinates."""
    turn = np.linalg.qr(rng.normal(size=(heads, FEATURES, FEATURES)))[0]
    query = np.einsum("phr,hrd->phd", rng.normal(size=(WIDTH, heads, rank)), turn[:, :rank])
    return query, rng.normal(size=(WIDTH, heads, FEATURES))


def kernels(seed=0, heads=HEADS, groups=HEADS):
    rng = np.random.default_rng(seed)
    query, key = low(rng, heads)
    params = {
        "q": query,
        "k": key[:, :groups],
        "v": rng.normal(size=(WIDTH, groups, FEATURES)),
        "o": rng.normal(size=(heads, FEATURES, WIDTH)) / 3,
        "head": rng.normal(size=(WIDTH, WIDTH)),
    }
    return jax.tree.map(lambda x: jnp.asarray(x / 2), params)


def attention(q, k, v, o):
    scores = jax.nn.softmax(jnp.einsum("blhd,bmhd->bhlm", q, k) / FEATURES**0.5)
    mixed = jnp.einsum("bhlm,bmhd->blhd", scores, v)
    return jnp.einsum("blhd,hdq->blq", mixed, o)


def heads(x, kernel):
    return jnp.einsum("blp,phd->blhd", x, kernel)


def plain(p, x):
    q, k, v = (heads(x, p[name]) for name in "qkv")
    return (x + attention(q, k, v, p["o"])) @ p["head"]


def flattened(p, x):
    """Kernels of two axes, heads being cut apart behind them; the scale before the product."""
    rows, length, _ = x.shape
    q, k, v = ((x @ p[name].reshape(WIDTH, -1)).reshape(rows, length, HEADS, -1) for name in "qkv")
    return (x + attention(2 * q, k / 2, v, p["o"])) @ p["head"]


def biased(p, x):
    q, k, v = (heads(x, p[name]) + p[f"{name}_bias"] for name in "qkv")
    return (x + attention(q, k, v, p["o"])) @ p["head"]


def grouped(p, x):
    """Two heads of queries for each of keys."""
    q, k, v = (heads(x, p[name]) for name in "qkv")
    k, v = (jnp.repeat(y, 2, axis=2) for y in (k, v))
    return (x + attention(q, k, v, p["o"])) @ p["head"]


def scanned(p, x):
    def layer(x, own):
        q, k, v = (heads(x, own[name]) for name in "qkv")
        return x + attention(q, k, v, own["o"]), None

    return jax.lax.scan(layer, x, p["layers"])[0] @ p["head"]


def network(kind):
    """A function and parameters whose queries have rank 2 of 6 in every head."""
    if kind == "plain":
        return plain, kernels()
    if kind == "flat":
        params = kernels()
        flat = {name: params[name].reshape(WIDTH, -1) for name in "qkv"}
        return flattened, params | flat
    if kind == "biased":
        rng, params = np.random.default_rng(5), kernels()
        params |= {f"{name}_bias": jnp.asarray(rng.normal(size=(HEADS, FEATURES))) for name in "kv"}
        mean = jnp.asarray(rng.normal(size=WIDTH))
        return biased, params | {"q_bias": jnp.einsum("p,phd->hd", mean, params["q"])}
    if kind == "grouped":
        rng, params = np.random.default_rng(6), kernels(1, 4, 2)
        turn = rng.normal(size=(2, RANK, FEATURES))  # heads of a group share their directions
        query = np.einsum("phr,hrd->phd", rng.normal(size=(WIDTH, 4, RANK)), np.repeat(turn, 2, 0))
        return grouped, params | {"q": jnp.asarray(query / 2)}
    if kind == "scanned":
        layers = [kernels(seed) for seed in (2, 3, 4)]
        head = layers[0]["head"]
        stacked = jax.tree.map(
            lambda *x: jnp.stack(x), *({n: p[n] for n in "qkvo"} for p in layers)
        )
        return scanned, {"layers": stacked, "head": head}
    module = nn.MultiHeadDotProductAttention(HEADS, qkv_features=HEADS * FEATURES)
    own = module.init(jax.random.key(0), jnp.ones((2, 5, WIDTH)))["params"]
    query, key = low(np.random.default_rng(0))
    own["query"]["kernel"], own["key"]["kernel"] = jnp.asarray(query / 2), jnp.asarray(key / 2)
    head = jnp.asarray(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))
    return (lambda p, x: (x + module.apply(p["own"], x)) @ p["head"]), {
        "own": {"params": own}, "head": head,
    }  # fmt: skip


KINDS = ("plain", "flat", "biased", "grouped", "scanned", "linen")


def paired(net):
    (site,) = (site for site in net.network.foldable if site.form is Form.PAIRED)
    return site


def rows(seed, count=300):
    return placed(np.random.default_rng(seed).normal(size=(count, 5, WIDTH)))


def without_queries(net, params):
    """The share of the parameters that is left if nothing but queries and keys is narrowed to 2."""
    site = paired(net)
    leaves = net.network.flatten(params)
    along = sum(
        np.size(leaves[net.network.paths[n]])
        for n, spans in enumerate(net.network.layout.leaves)
        if any(site.dim in span.dims() for span in spans)
    )
    return 1 - along * (1 - RANK / FEATURES) / linjax.count(params)


@pytest.mark.parametrize("kind", KINDS)
def test_low_ranks_fold_in_a_basis_of_their_own(kind):
    apply, params = network(kind)
    params, x = jax.tree.map(lambda p: p.astype(jnp.float32), params), rows(7)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    size = without_queries(net, params) + 1e-3
    small, report = linjax.fold_and_report(params, stats, linjax.size(size))
    assert linjax.count(small) <= size * linjax.count(params)
    assert report.sites[paired(net).name].kept.shape[-1] == RANK
    held = rows(8)
    error = linjax.compare(net, params, small, [held], metric="identity").error
    assert error < 2e-3
    np.testing.assert_allclose(report.predicted, error, atol=2e-3)


@pytest.mark.parametrize("kind", ["plain", "biased", "grouped"])
def test_what_is_written_is_the_product_of_rank_k(kind):
    """Scores of the folded kernels are those of a projection, head by head."""
    apply, params = network(kind)
    x = rows(9)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    known = linjax.frontier(params, stats)
    n = known.problems.sites.index(paired(net))
    plan = known.plan(linjax.size(1.0))
    units = list(plan.state.units)
    units[n] = RANK + 1
    plan = plan._replace(state=plan.state._replace(units=tuple(units)))
    now, choices = known.write(params, plan)
    decode, basis = choices[n].decode[0], choices[n].basis
    both = np.einsum("hdk,hke->hde", basis, decode)
    if 0 in paired(net).opposite:  # keys come first
        both = both.swapaxes(1, 2)
    own = {name: np.asarray(params[name], np.float64) for name in "qk"}
    queries = own["q"].reshape(WIDTH, len(both), -1, FEATURES)
    found = {name: np.asarray(now.flat[(name,)], np.float64) for name in "qk"}
    small = found["q"].reshape(WIDTH, len(both), -1, RANK + 1)
    expected = np.einsum("phsd,hde,qhe->hspq", queries, both, own["k"])
    scores = np.einsum("phsk,qhk->hspq", small, found["k"])
    np.testing.assert_allclose(scores, expected, atol=1e-5 * np.abs(expected).max())


def test_no_choice_of_coordinates_is_as_good():
    apply, params = network("plain")
    rng = np.random.default_rng(11)
    params["q"] = params["q"] + 0.1 * jnp.asarray(rng.normal(size=params["q"].shape))
    params, x = jax.tree.map(lambda p: p.astype(jnp.float32), params), rows(12)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    size = without_queries(net, params) + 1e-3
    small = linjax.fold(params, stats, linjax.size(size))
    error = linjax.compare(net, params, small, [x], metric="identity").error

    def dropped(kept):
        own = {n: np.stack([params[n][:, h, list(k)] for h, k in enumerate(kept)], 1) for n in "qk"}
        narrow = params | jax.tree.map(jnp.asarray, own)
        return float(jnp.sum((apply(narrow, x) - apply(params, x)) ** 2))

    pairs = list(itertools.combinations(range(FEATURES), RANK))
    least = min(dropped(kept) for kept in itertools.product(pairs, repeat=HEADS))
    y = jax.jit(apply)(params, x)
    assert error < 0.5 * (least / float(jnp.sum((y - y.mean(0)) ** 2))) ** 0.5


def test_folded_queries_fold_again_and_are_saved(tmp_path):
    apply, params = network("biased")
    params, x = jax.tree.map(lambda p: p.astype(jnp.float32), params), rows(13)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.9))
    assert small["q"].shape[-1] == small["k"].shape[-1] < FEATURES
    smaller = linjax.fold(
        small, linjax.collect(net, small, [x], metric="identity"), linjax.size(0.8)
    )
    assert linjax.count(smaller) < linjax.count(small)
    assert np.isfinite(np.asarray(jax.jit(net.apply)(smaller, x))).all()
    linjax.save(tmp_path / "net", net, small)
    again, loaded = linjax.load(tmp_path / "net")
    np.testing.assert_allclose(
        jax.jit(again.apply)(loaded, x), jax.jit(net.apply)(small, x), rtol=1e-5, atol=1e-5
    )


def test_compress_refits_around_them():
    apply, params = network("plain")
    params, x = jax.tree.map(lambda p: p.astype(jnp.float32), params), rows(14, 600)
    net = linjax.trace(apply, params, x[:1])
    batches = [x[:300], x[300:]]
    stats = linjax.collect(net, params, batches, metric="identity")
    rule = linjax.size(0.45)
    folded = linjax.fold(params, stats, rule)
    best = linjax.compress(net, params, batches, rule, metric="identity", progress=False)
    held = rows(15)
    errors = [
        linjax.compare(net, params, p, [held], metric="identity").error for p in (folded, best)
    ]
    assert errors[1] < errors[0]


def rotary(p, x):
    q, k, v = (heads(x, p[name]) for name in "qkv")
    angle = jnp.arange(x.shape[1])[:, None, None] * jnp.linspace(0.1, 1, FEATURES // 2)

    def turned(y):
        a, b = jnp.split(y, 2, axis=-1)
        c, s = jnp.cos(angle), jnp.sin(angle)
        return jnp.concatenate([a * c - b * s, a * s + b * c], -1)

    return (x + attention(turned(q), turned(k), v, p["o"])) @ p["head"]


def fused(p, x):
    q, k = jnp.split(heads(x, p["qk"]), 2, axis=-1)
    return (x + attention(q, k, heads(x, p["v"]), p["o"])) @ p["head"]


def scaled(p, x):
    q, k, v = (heads(x, p[name]) for name in "qkv")
    return (x + attention(q * p["scale"], k, v, p["o"])) @ p["head"]


def bent(p, x):
    q, k, v = (heads(x, p[name]) for name in "qkv")
    return (x + attention(jax.nn.relu(q), k, v, p["o"])) @ p["head"]


def shared(p, x):
    q, v = heads(x, p["q"]), heads(x, p["v"])
    return (x + attention(q, q, v, p["o"])) @ p["head"]


def weighed(p, x):
    q, k, v = (heads(x, p[name]) for name in "qkv")
    return (x + attention(q * np.linspace(1, 2, FEATURES), k, v, p["o"])) @ p["head"]


@pytest.mark.parametrize("apply", [rotary, fused, scaled, bent, shared, weighed])
def test_coordinates_that_are_told_apart_are_chosen(apply):
    params = kernels() | {"scale": jnp.linspace(1, 2, FEATURES)}
    params["qk"] = jnp.concatenate([params["q"], params["k"]], -1)
    x = rows(16)
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    net = linjax.trace(apply, params, x[:1])
    assert all(not site.opposite for site in net.network.sites)
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.8))
    error = linjax.compare(net, params, small, [x], metric="identity").error
    assert error < 3 * report.predicted + 1e-3
