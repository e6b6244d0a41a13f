"""Attention's values at lower rank: found in Linen, NNX and by hand; exact where rank is lower."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import linjax
from linjax.program import pytree
from tests.arrays import placed

WIDTH, HEADS, FEATURES = 12, 3, 4


def by_hand(params, x):
    """Attention with flat kernels and no bias, beside the stream; a feed-forward block."""
    rows, length, _ = x.shape
    q, k, v = (
        (x @ params[name]).reshape(rows, length, HEADS, FEATURES) for name in ("q", "k", "v")
    )
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / FEATURES**0.5)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(rows, length, -1)
    return finish(params, x + mixed @ params["o"])


def finish(params, x):
    x = x + jax.nn.relu(x @ params["up"]) @ params["down"]
    return x.mean(1) @ params["head"]


def kernels(names, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"up": (WIDTH, 20), "down": (20, WIDTH), "head": (WIDTH, 3)}
    return {
        name: jnp.asarray(rng.normal(size=shapes.get(name, (WIDTH, WIDTH))) / 3, jnp.float32)
        for name in names
    }


REST = ("up", "down", "head")


def networks(kind):
    """A function, its parameters, and the paths of value kernel, bias and output kernel."""
    x = jnp.ones((2, 5, WIDTH))
    if kind == "by hand":
        params = kernels(("q", "k", "v", "o", *REST))
        return by_hand, params, (("v",), None, ("o",))
    if kind == "linen":
        module = nn.MultiHeadDotProductAttention(num_heads=HEADS)
        own = module.init(jax.random.key(0), x)

        def apply(params, x):
            return finish(params, x + module.apply(params["attention"], x))
    else:
        made = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=nnx.Rngs(0))
        graph, state = nnx.split(made)
        own = nnx.to_pure_dict(state)

        def apply(params, x):
            return finish(params, x + nnx.merge(graph, params["attention"])(x))

    inner = ("attention", *(("params",) if kind == "linen" else ()))
    paths = tuple((*inner, *p) for p in (("value", "kernel"), ("value", "bias"), ("out", "kernel")))
    params = kernels(REST) | {"attention": own}
    flat = pytree.flatten(params)
    rng = np.random.default_rng(1)  # biases aren't zero in a trained network
    for path in flat:
        if path[-1] == "bias":
            flat[path] = jnp.asarray(rng.normal(size=flat[path].shape), jnp.float32)
    return apply, jax.tree.unflatten(jax.tree.structure(params), flat.values()), paths


def with_rank(params, paths, rank):
    """Makes the value kernel and its bias of lower rank in every head."""
    flat, rng = pytree.flatten(params), np.random.default_rng(2)
    mix = rng.normal(size=(HEADS, FEATURES, rank)) @ rng.normal(size=(HEADS, rank, FEATURES))
    for path in paths[:2]:
        if path is not None:
            old = np.asarray(flat[path])
            new = np.einsum("...hw,hwr->...hr", old.reshape(-1, HEADS, FEATURES), mix)
            flat[path] = jnp.asarray(new.reshape(old.shape), jnp.float32)
    return jax.tree.unflatten(jax.tree.structure(params), flat.values())


def inputs(rows=300, seed=3):
    return placed(np.random.default_rng(seed).normal(size=(rows, 5, WIDTH)))


KINDS = pytest.mark.parametrize("kind", ["by hand", "linen", "nnx"])


@KINDS
def test_values_are_found(kind):
    apply, params, paths = networks(kind)
    net = linjax.trace(apply, params, inputs(2))
    forms = {site.form.value: site for site in net.network.foldable}
    site = forms["straight"]
    assert site.width == FEATURES and len(site.beside) == 1
    made, read = ({net.network.paths[p.leaf] for p in own} for own in (site.makers, site.readers))
    assert (made, read) == ({paths[0]}, {paths[2]})
    assert forms["paired"].width == FEATURES  # queries against keys
    assert forms["bent"].name == "up"
    assert "straight" in str(net) and "paired" in str(net)


@KINDS
def test_fewer_features_compute_what_the_full_network_computes(kind):
    """Removing features that the output kernel doesn't read changes nothing: float64."""
    apply, params, paths = networks(kind)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
        x = jnp.asarray(inputs(4), jnp.float64)
        flat = pytree.flatten(params)
        value, bias, out = (None if p is None else np.asarray(flat[p]) for p in paths)
        whole = out.reshape(HEADS, FEATURES, WIDTH).copy()
        whole[:, 2:] = 0
        same = flat | {paths[2]: jnp.asarray(whole.reshape(out.shape))}
        small = dict(same)
        cut = value.reshape(WIDTH, HEADS, FEATURES)[..., :2]
        flat_layout = value.ndim == 2
        small[paths[0]] = jnp.asarray(cut.reshape(WIDTH, -1) if flat_layout else cut)
        small[paths[2]] = jnp.asarray(
            whole[:, :2].reshape(-1, WIDTH) if flat_layout else whole[:, :2]
        )
        if bias is not None:
            small[paths[1]] = jnp.asarray(bias[:, :2])
        net = linjax.trace(apply, params, x)
        want = apply(jax.tree.unflatten(jax.tree.structure(params), same.values()), x)
        np.testing.assert_allclose(jax.jit(net.apply)(pytree.unflatten(small), x), want, atol=1e-12)


@KINDS
def test_values_of_lower_rank_are_folded_exactly(kind):
    apply, params, paths = networks(kind)
    params, x = with_rank(params, paths, 2), inputs()
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x[:150], x[150:]], metric="identity")
    known = linjax.frontier(params, stats)
    small, report = linjax.fold_and_report(params, known, linjax.tolerance(1e-3))
    flat = pytree.flatten(small)
    assert flat[paths[0]].size == WIDTH * HEADS * 2
    fresh = inputs(50, seed=4)
    want = apply(params, fresh)
    error = jnp.sqrt(jnp.mean((jax.jit(net.apply)(small, fresh) - want) ** 2)) / jnp.std(want)
    assert error < 3e-3
    assert report.after == linjax.count(small) < report.before
    assert [c.mixed for c in report.sites.values()].count(True) == 1


def test_queries_and_keys_that_say_nothing_go_together():
    """A coordinate of one head's queries is zero, another's keys are: neither is missed."""
    apply, params, _ = networks("by hand")
    params["q"] = params["q"].at[:, jnp.array([1, 6, 9])].set(0.0)
    params["k"] = params["k"].at[:, jnp.array([3, 4, 10])].set(0.0)
    x = inputs()
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    assert small["q"].shape == small["k"].shape == (WIDTH, HEADS * 2)
    assert report.sites["q"].kept.shape == (HEADS, 2)
    found, wanted = (
        np.einsum("phd,qhd->hpq", *(np.reshape(own[n], (WIDTH, HEADS, -1)) for n in "qk"))
        for own in (small, params)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())
    assert linjax.compare(net, params, small, [x], metric="identity").error < 1e-3


def test_ranks_share_the_budget_and_are_refitted():
    apply, params, _ = networks("nnx")
    x = inputs()
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x[:150], x[150:]], metric="identity")
    total, errors = linjax.count(params), []
    for share in (0.9, 0.7, 0.5):
        small, report = linjax.fold_and_report(params, stats, linjax.size(share))
        assert linjax.count(small) <= share * total
        errors.append(linjax.compare(net, params, small, [x], metric="identity").error)
        assert 0.4 * errors[-1] < report.predicted < 5 * errors[-1] + 1e-3  # rather too much
    assert errors == sorted(errors)
    rule = linjax.size(0.5)
    best = linjax.compress(
        net, params, [x], rule, metric="identity", joint=False, evidence=stats, progress=False
    )
    assert linjax.count(best) <= 0.5 * total
    assert linjax.compare(net, params, best, [x], metric="identity").error < 1.1 * errors[-1]


def test_values_that_are_read_by_something_else_are_left_alone():
    def apply(params, x):
        v = x @ params["v"]
        weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", x, x))
        mixed = jnp.einsum("bqk,bkd->bqd", weights, v)
        return finish(params, mixed @ params["o"]) + jnp.sort(v, -1).sum((1, 2))[:, None]

    params = kernels(("v", "o", *REST))
    net = linjax.trace(apply, params, inputs(2))
    assert "v" not in {site.name for site in net.network.sites}
    assert "v" in {refusal.name for refusal in net.network.refusals}


def test_optimiser_and_files_take_lower_ranks(tmp_path):
    apply, params, paths = networks("by hand")
    params, x = with_rank(params, paths, 2), inputs(100)
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    assert report.after == linjax.count(small)
    adam = optax.adam(1e-3)
    state = linjax.carry_over(adam, adam.init(params), params, small, report)
    assert jax.tree.map(jnp.shape, state[0].mu) == jax.tree.map(jnp.shape, small)
    linjax.save(tmp_path / "small", net, small)
    loaded, again = linjax.load(tmp_path / "small")
    np.testing.assert_allclose(
        jax.jit(loaded.apply)(again, x), jax.jit(net.apply)(small, x), rtol=1e-5, atol=1e-6
    )


def test_shapes_that_do_not_fit_are_refused():
    apply, params, _ = networks("by hand")
    net = linjax.trace(apply, params, inputs(2))
    with pytest.raises(linjax.StructureError, match=r"(o|v), axis"):
        net.apply(params | {"v": params["v"][:, :9]}, inputs(2))


READERS = 6
GROUPED = ("einsum", "repeat", "library", "multi-query")


def grouped(kind):
    """Attention whose heads share values, in groups or all of them; apply and parameters."""
    own = 1 if kind == "multi-query" else 2
    rng = np.random.default_rng(4)
    shapes = {
        "q": (WIDTH, READERS, FEATURES), "k": (WIDTH, own, FEATURES), "v": (WIDTH, own, FEATURES),
        "b": (own, FEATURES), "o": (READERS, FEATURES, WIDTH),
    }  # fmt: skip
    params = {n: jnp.asarray(rng.normal(size=s) / 3, jnp.float32) for n, s in shapes.items()}

    def apply(params, x):
        q, k, v = (jnp.einsum("btc,chd->bthd", x, params[name]) for name in "qkv")
        v = v + params["b"]
        rows, length, _ = x.shape
        if kind == "library":
            mixed = jax.nn.dot_product_attention(q, k, v)
        elif kind == "repeat":
            k, v = (jnp.repeat(t, READERS // own, axis=2) for t in (k, v))
            weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / FEATURES**0.5)
            mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        else:
            q = q.reshape(rows, length, own, READERS // own, FEATURES)
            weights = jax.nn.softmax(jnp.einsum("bqgrd,bkgd->bgrqk", q, k) / FEATURES**0.5)
            mixed = jnp.einsum("bgrqk,bkgd->bqgrd", weights, v)
        if kind == "einsum":
            flat = params["o"].reshape(READERS, -1, WIDTH)
            return finish(params, x + jnp.einsum("bqhd,hdc->bqc", mixed.reshape(
                rows, length, READERS, -1), flat))  # fmt: skip
        mixed = mixed.reshape(rows, length, READERS, -1)
        return finish(params, x + jnp.einsum("bqhd,hdc->bqc", mixed, params["o"]))

    return apply, params | kernels(REST)


@pytest.mark.parametrize("kind", GROUPED)
def test_values_that_several_heads_read_fold(kind):
    """Values of rank two in every head: lower ranks compute the same, for all heads that read."""
    apply, params = grouped(kind)
    rng = np.random.default_rng(2)
    own = params["v"].shape[1]
    mix = rng.normal(size=(own, FEATURES, 2)) @ rng.normal(size=(own, 2, FEATURES)) / 2
    for name in "vb":
        params[name] = jnp.asarray(np.einsum("...hw,hwr->...hr", params[name], mix), jnp.float32)
    x = inputs()
    net = linjax.trace(apply, params, x[:2])
    assert net.network.site("v").form.value == "straight"
    stats = linjax.collect(net, params, [x[:150], x[150:]], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(5e-3))
    assert small["v"].shape == (WIDTH, own, 2) and small["o"].shape == (READERS, 2, WIDTH)
    assert small["b"].shape == (own, 2)
    assert report.after == linjax.count(small)
    fresh = inputs(50, seed=4)
    want = apply(params, fresh)
    error = jnp.sqrt(jnp.mean((jax.jit(net.apply)(small, fresh) - want) ** 2)) / jnp.std(want)
    assert error < 8e-3


def test_values_that_heads_read_in_turns_fold_or_are_left_alone():
    """Heads that read the same values don't lie side by side, as where kernels are tiled."""

    def apply(params, x):
        q, k, v = (jnp.einsum("btc,chd->bthd", x, params[name]) for name in "qkv")
        k, v = (jnp.tile(each, (1, 1, READERS // 2, 1)) for each in (k, v))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return finish(params, jnp.einsum("bqhd,hdc->bqc", mixed, params["o"]))

    _, params = grouped("einsum")
    x = inputs()
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.8))
    error = linjax.compare(net, params, small, [x], metric="identity").error
    assert error < 2.5 * report.predicted + 1e-3


def test_fused_kernels_fold_as_separate_ones_do():
    """Queries, keys and values of one kernel: the same sites, sizes and outputs."""
    apply, params, _ = networks("by hand")
    params, x = with_rank(params, (("v",), None), 2), inputs()

    def fused(p, x):
        rows, length, _ = x.shape
        parts = jnp.split(x @ p["qkv"], 3, axis=-1)
        q, k, v = (part.reshape(rows, length, HEADS, FEATURES) for part in parts)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / FEATURES**0.5)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(rows, length, -1)
        return finish(p, x + mixed @ p["o"])

    one = {n: params[n] for n in ("o", *REST)}
    one["qkv"] = jnp.concatenate([params[n] for n in "qkv"], axis=1)
    counts, errors = [], []
    for function, tree in ((apply, params), (fused, one)):
        net = linjax.trace(function, tree, x[:2])
        stats = linjax.collect(net, tree, [x], metric="identity")
        small = linjax.fold(tree, stats, linjax.tolerance(1e-3))
        counts.append(linjax.count(small))
        errors.append(linjax.compare(net, tree, small, [x], metric="identity").error)
    assert counts[1] == counts[0] and max(errors) < 3e-3


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_transformers_of_scanned_layers_fold(share):
    """Stacked kernels in a scan: every layer keeps coordinates of its own."""
    rng = np.random.default_rng(6)
    names = ("q", "k", "v", "o", "up", "down")
    shapes = {"up": (3, WIDTH, 20), "down": (3, 20, WIDTH)}
    params = {
        n: jnp.asarray(rng.normal(size=shapes.get(n, (3, WIDTH, WIDTH))) / 5, jnp.float32)
        for n in names
    } | kernels(("head",))

    def apply(params, x):
        def layer(x, own):
            heads = (*x.shape[:2], HEADS, FEATURES)
            q, k, v = ((x @ own[n]).reshape(heads) for n in "qkv")
            mixed = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
            x = x + mixed @ own["o"]
            return x + jax.nn.gelu(x @ own["up"]) @ own["down"], None

        x, _ = jax.lax.scan(layer, x, {n: params[n] for n in names})
        return x.mean(1) @ params["head"]

    x = inputs(200)
    net = linjax.trace(apply, params, x[:2])
    assert len(net.network.foldable) == 3
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(share))
    assert linjax.count(small) <= share * linjax.count(params)
    error = linjax.compare(net, params, small, [x], metric="identity").error
    assert 0.4 * error < report.predicted < 2.5 * error + 1e-3
    assert np.ndim(report.sites["up"].kept) == 2 and len(report.sites["up"].kept) == 3
