"""Gated layers with one kernel for all parts fold to what those with a kernel for each do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import linjax
from linjax.chains.maps import Part
from linjax.fold.quantise import quantise
from linjax.store import check
from tests.arrays import placed

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")

UNITS = 24


def normal(*shape):
    scale = 1 / np.sqrt(shape[0])
    return placed(np.random.default_rng(sum(shape)).normal(size=shape) * scale)


X = normal(200, 6) * 14


def apart():
    """A dense layer, a gated one with a dead unit and with a duplicate, and a head."""
    gate, up, shift = normal(12, UNITS), normal(12, UNITS + 1)[:, 1:], normal(UNITS + 2)[2:]
    return {
        "a": {"w": normal(6, 12), "b": normal(12)},
        "gate": {
            "w": gate.at[:, 5].set(gate[:, 4]),
            "b": normal(UNITS).at[5].set(normal(UNITS)[4]),
        },
        "up": {
            "w": up.at[:, 3].set(0.0).at[:, 5].set(2 * up[:, 4]),
            "b": shift.at[3].set(0.0).at[5].set(2 * shift[4]),
        },
        "down": {"w": normal(UNITS, 5), "b": normal(5)},
    }


def joined(params, swapped=False):
    """The same with one kernel for gate and values."""
    first, second = ("up", "gate") if swapped else ("gate", "up")
    both = jax.tree.map(lambda v, w: jnp.concatenate([v, w], -1), params[first], params[second])
    return {"a": params["a"], "both": both, "down": params["down"]}


def of_two(params, x):
    h = jax.nn.relu(x @ params["a"]["w"] + params["a"]["b"])
    gate = jax.nn.silu(h @ params["gate"]["w"] + params["gate"]["b"])
    up = h @ params["up"]["w"] + params["up"]["b"]
    return (gate * up) @ params["down"]["w"] + params["down"]["b"]


def of_one(params, x, halves=lambda z: jnp.split(z, 2, axis=-1)):
    h = jax.nn.relu(x @ params["a"]["w"] + params["a"]["b"])
    gate, up = halves(h @ params["both"]["w"] + params["both"]["b"])
    return (jax.nn.silu(gate) * up) @ params["down"]["w"] + params["down"]["b"]


def pair(z):
    return z[..., 0, :], z[..., 1, :]


FORMS = {
    "split": (lambda z: jnp.split(z, 2, axis=-1), False),
    "slices": (lambda z: (z[..., :UNITS], z[..., UNITS:]), False),
    "swapped": (lambda z: (z[..., UNITS:], z[..., :UNITS]), True),
    "sliced twice": (lambda z: (z[..., :UNITS] + 0 * z[..., :UNITS], z[..., UNITS:]), False),
    "reshaped": (lambda z: pair(z.reshape(*z.shape[:-1], 2, UNITS)), False),
    "cast": (lambda z: jnp.split(z.astype(jnp.float32), 2, axis=-1), False),
}


@pytest.fixture(scope="module")
def known():
    two, one = apart(), joined(apart())
    nets = linjax.trace(of_two, two, X[:1]), linjax.trace(of_one, one, X[:1])
    batches = [X[:100], X[100:]]
    stats = [
        linjax.collect(net, params, batches, metric="identity")
        for net, params in zip(nets, (two, one), strict=True)
    ]
    return nets, (two, one), stats


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [(200,), (40, 5)])
def test_found_however_the_halves_are_taken(form, rows):
    halves, swapped = FORMS[form]
    params, x = joined(apart(), swapped), X.reshape(*rows, 6)
    net = linjax.trace(lambda p, x: of_one(p, x, halves), params, x[:1])
    (chain,) = net.graph.chains
    assert not net.graph.refusals
    assert [(s.activation.name, s.width) for s in chain.sites] == [
        ("relu", 12),
        ("silu gate", UNITS),
    ]
    assert chain.sites[1].name == ("both[1]" if swapped else "both[0]")
    want = of_two(apart(), x)
    np.testing.assert_allclose(net.run(params, x).outputs, want, rtol=1e-4, atol=1e-5)
    keep = [np.arange(12) != 7, np.arange(UNITS) % 2 == 0]
    narrow = {
        "a": jax.tree.map(lambda w: w[..., keep[0]], params["a"]),
        "both": {
            "w": params["both"]["w"][keep[0]][:, np.tile(keep[1], 2)],
            "b": params["both"]["b"][np.tile(keep[1], 2)],
        },
        "down": {"w": params["down"]["w"][keep[1]], "b": params["down"]["b"]},
    }
    short = lambda z: jnp.split(z, 2, axis=-1)[:: -1 if swapped else 1]  # noqa: E731
    want = of_one(narrow, x, short)
    np.testing.assert_allclose(jax.jit(net.apply)(narrow, x), want, rtol=1e-4, atol=1e-5)


def test_a_kernel_that_is_cut_itself_and_glu_without_bias():
    params = {"both": normal(6, 2 * UNITS), "down": normal(UNITS, 3)}

    def cut(p, x):
        gate, up = jnp.split(p["both"], 2, axis=1)
        return (jax.nn.relu(x @ gate) * (x @ up)) @ p["down"]

    for apply in (cut, lambda p, x: jax.nn.glu(x @ p["both"]) @ p["down"]):
        net = linjax.trace(apply, params, X[:1])
        small = linjax.fold(params, linjax.collect(net, params, [X]), linjax.size(0.5))
        assert small["both"].shape[1] < 2 * UNITS and linjax.count(small) < 0.55 * linjax.count(
            params
        )
        np.testing.assert_allclose(
            net.run(params, X).outputs, apply(params, X), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "rule", [linjax.size(0.7), linjax.size(0.3), linjax.tolerance(1e-4), linjax.threshold(0.9)]
)
def test_folds_to_what_two_kernels_fold_to(known, rule):
    (two, one), (params, own), (of_apart, of_joined) = known
    want, wanted = linjax.fold_and_report(params, of_apart, rule)
    small, report = linjax.fold_and_report(own, of_joined, rule)
    assert linjax.count(small) == linjax.count(want)
    np.testing.assert_allclose(one.apply(small, X), two.apply(want, X), rtol=1e-3, atol=1e-3)
    name = "both[0]" if rule == linjax.threshold(0.9) else "both"  # rules of chains name maps
    kept = report.sites[name].kept
    np.testing.assert_array_equal(kept, wanted.sites["gate"].kept)
    if len(kept):
        assert small["both"]["w"].shape[1] == 2 * len(kept) == len(small["both"]["b"])
    if rule == linjax.tolerance(1e-4):
        assert 3 not in kept and not {4, 5} <= set(kept.tolist())


def test_pruned_kernels_run_in_the_network_itself(known):
    (_, one), (_, own), (_, stats) = known
    small = linjax.prune(own, stats, keep=0.7, scope="layer")
    assert small["both"]["w"].shape[1] < 2 * UNITS
    np.testing.assert_allclose(one.apply(small, X), of_one(small, X), rtol=1e-4, atol=1e-5)


def test_compressed_again_and_lumped(known):
    (_, one), (_, own), (_, stats) = known
    small = linjax.compress(one, own, [X], linjax.size(0.4), metric="identity", evidence=stats)
    again = linjax.collect(one, small, [X], metric="identity")
    less = linjax.fold(small, again, linjax.size(0.7))
    assert linjax.count(less) <= 0.7 * linjax.count(small)
    assert np.isfinite(one.apply(less, X)).all()
    np.testing.assert_allclose(
        one.apply(linjax.lump(one, own), X), of_one(own, X), rtol=1e-4, atol=1e-5
    )
    rough = quantise(one, own, 4)
    both = quantise(linjax.trace(of_two, apart(), X[:1]), apart(), 4)
    jax.tree.map(np.testing.assert_array_equal, rough, joined(both))


def test_always_on_units_in_front_are_exact_in_float64():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), joined(apart()))
        params["a"]["b"] += 40.0
        x = jnp.asarray(X, jnp.float64)
        net = linjax.trace(of_one, params, x[:1])
        small = linjax.fold(
            params, linjax.collect(net, params, [x]), linjax.threshold(1.0, layers=1)
        )
        assert "a" not in small and small["both"]["w"].shape == (6, 2 * UNITS)
        np.testing.assert_allclose(
            jax.jit(net.apply)(small, x), of_one(params, x), rtol=1e-10, atol=1e-10
        )
        with pytest.warns(linjax.FoldWarning):
            linjax.certify(net, params, -jnp.ones(6), jnp.ones(6))


def test_saving_loading_modules_and_optimiser_state(known, tmp_path):
    (_, one), (_, own), (_, stats) = known
    small, report = linjax.fold_and_report(own, stats, linjax.size(0.5))
    linjax.save(tmp_path / "fused.linjax", one, small)
    again, loaded = linjax.load(tmp_path / "fused.linjax")
    want = one.apply(small, X)
    np.testing.assert_allclose(jax.jit(again.apply)(loaded, X), want, rtol=1e-5, atol=1e-5)
    again, loaded = linjax.load(tmp_path / "fused.linjax", apply_fn=of_one)
    np.testing.assert_allclose(jax.jit(again.apply)(loaded, X), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(linjax.to_nnx(one, small)(X), want, rtol=1e-5, atol=1e-5)
    adam = optax.adam(1e-3)
    state = adam.init(own)
    state = (state[0]._replace(mu=jax.tree.map(lambda w: w + 1.0, own)), *state[1:])
    carried = linjax.carry_over(adam, state, own, small, report)[0].mu["both"]
    kept = report.sites["both"].kept
    columns = np.concatenate([kept, kept + UNITS])
    np.testing.assert_array_equal(carried["b"], own["both"]["b"][columns] + 1.0)
    rows = report.sites["a"].kept
    np.testing.assert_array_equal(
        carried["w"][: len(rows)], own["both"]["w"][rows][:, columns] + 1.0
    )


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        gate, up = jnp.split(nn.Dense(2 * UNITS, name="both")(x), 2, axis=-1)
        return nn.Dense(3)(nn.gelu(gate) * up)


class Module(nnx.Module):
    def __init__(self, rngs):
        self.both = nnx.Linear(6, 2 * UNITS, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(UNITS, 3, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.glu(self.both(x)))


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_modules(kind):
    if kind == "linen":
        module = Linen()
        params = module.init(jax.random.key(0), X[:1])
        net = linjax.trace(module.apply, params, X[:1])
    else:
        net, params = linjax.from_nnx(Module(nnx.Rngs(0)), X[:1])
    (site,) = net.graph.sites
    assert site.width == UNITS and len(site.mates) == 1 and not net.graph.refusals
    stats = linjax.collect(net, params, [X], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.8))
    want, found = net.apply(params, X), jax.jit(net.apply)(small, X)
    assert linjax.count(small) <= 0.8 * linjax.count(params) + 1
    assert jnp.linalg.norm(found - want) < 0.2 * jnp.linalg.norm(want - want.mean(0))


def whole(apply, **params):
    """A network with a kernel that isn't taken for several: its sites in no chain."""
    net = linjax.trace(apply, params, X[:1])
    assert all(affine.part == Part() for affine in net.graph.affines)
    assert "w" not in {name for chain in net.graph.chains for name in chain.maps}
    want = apply(params, X)
    for found, own in zip(
        jax.tree.leaves(net.run(params, X).outputs), jax.tree.leaves(want), strict=True
    ):
        np.testing.assert_allclose(found, own, rtol=1e-4, atol=1e-5)
    return [site.name for site in net.network.sites]


def halves(z):
    return jnp.split(z, 2, axis=-1)


def test_kernels_that_stay_whole():
    both, c, d = normal(6, 16), normal(8, 3), normal(9, 3)[:8]
    whole(lambda p, x: halves(x @ p["w"])[0] * halves(x @ p["w"])[1], w=both)
    whole(
        lambda p, x: jax.nn.relu(halves(x @ p["w"])[0]) @ p["c"] + halves(x @ p["w"])[1] @ p["d"],
        w=both, c=c, d=d,
    )  # fmt: skip

    def separately(p, x):
        a, b = halves(x @ p["w"])
        return jax.nn.relu(a) @ p["c"] + jnp.tanh(b) @ p["d"]

    assert whole(separately, w=both, c=c, d=d) == ["w", "w#2"]

    def as_output(p, x):
        a, b = halves(x @ p["w"])
        return (h := jax.nn.relu(a) * b) @ p["c"], h

    assert whole(as_output, w=both, c=c) == []

    def interleaved(p, x):
        z = x @ p["w"]
        return (z[:, ::2] * z[:, 1::2]) @ p["c"]

    assert whole(interleaved, w=both, c=c) == []

    def crossed(p, x):
        (a, b), (c1, c2) = halves(p["w"]), jnp.split(p["b"], 2)
        return (jax.nn.relu(x @ a + c2) * (x @ b + c1)) @ p["c"]

    whole(crossed, w=both, b=normal(16), c=c)

    def rows(p, x):
        a, b = jnp.split(p["w"], 2, axis=0)
        return jax.nn.relu(x[:, :3] @ a + x[:, 3:] @ b) @ p["c"]

    whole(rows, w=both, c=normal(16, 3))


def test_widths_and_parts_that_do_not_fit_are_named(known):
    (_, one), (_, own), _ = known
    odd = {**own, "both": {"w": own["both"]["w"][:, :7], "b": own["both"]["b"][:7]}}
    with pytest.raises(linjax.StructureError, match="both/b, axis 0: 7 entries"):
        one.apply(odd, X)
    graph = one.graph
    check._check_graph(graph)
    for wrong in (Part(1, 2), Part(0, 3), Part(0, 1), Part(0, 0)):
        affines = tuple(
            affine._replace(part=wrong) if affine.name == "both[0]" else affine
            for affine in graph.affines
        )
        with pytest.raises(linjax.StoreError, match="contradicts itself"):
            check._check_graph(graph._replace(affines=affines))
