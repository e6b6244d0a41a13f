"""Maps of different features whose results are added, and kernels behind concatenations."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linjax
from tests.fold import affine
from tests.fold.affine import dense, distance

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
relu = jax.nn.relu
layer = functools.partial(affine.layer, gain=1.5)


def plant(part, on, off):
    part["b"] = part["b"].at[:on].add(60.0).at[on : on + off].add(-60.0)


BIASES = ((True, False, False), (False, True, True), (False, False, False))


def added(dtype, biases=BIASES[0]):
    """Units of ``h W + x U + g V``, with units planted in front of it and in it."""
    rng = np.random.default_rng(0)
    params = {
        "late": layer(rng, 8, 24, dtype, biases[1]),
        "h": layer(rng, 8, 30, dtype),
        "g": layer(rng, 8, 20, dtype),
        "join": layer(rng, 30, 24, dtype, biases[0]),
        "other": layer(rng, 20, 24, dtype, biases[2]),
        "out": layer(rng, 24, 3, dtype),
    }
    plant(params["h"], 10, 5)
    for name in ("join", "late", "other"):
        if "b" in params[name]:
            plant(params[name], 6, 3)

    def apply(params, x):
        z = dense(params["late"], x)  # stands before what it is added to has been computed
        h, g = relu(dense(params["h"], x)), relu(dense(params["g"], x))
        z = dense(params["join"], h) + z + dense(params["other"], g)
        return dense(params["out"], relu(z))

    x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (1000, 8)), dtype)
    return apply, params, x


def skipping(dtype):
    """A network that gets its input again in its third layer, as radiance fields do."""
    rng = np.random.default_rng(2)
    names, shapes = ("one", "two", "three", "out"), ((6, 24), (24, 20), (26, 16), (16, 3))
    params = {name: layer(rng, *s, dtype) for name, s in zip(names, shapes, strict=True)}
    for name in names[:3]:
        plant(params[name], 5, 4)

    def apply(params, x):
        h = relu(dense(params["two"], relu(dense(params["one"], x))))
        h = relu(dense(params["three"], jnp.concatenate([x, h], -1)))
        return dense(params["out"], h)

    x = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (1000, 6)), dtype)
    return apply, params, x


@pytest.mark.parametrize("biases", BIASES)
def test_a_sum_is_one_map(dtype, biases):
    apply, params, x = added(dtype, biases)
    net = linjax.trace(apply, params, x[:1])
    site = net.graph.sites[-1]
    assert set(site.maps) == {"join", "late", "other"} and site.width == 24
    assert site.producer == next((n for n in ("late", "join", "other") if "b" in params[n]), "late")
    close = 1e-12 if dtype is np.float64 else 2e-5
    assert distance(net.run(params, x).outputs, jax.jit(apply)(params, x)) < close
    units = linjax.collect(net, params, [x], second_moments=False).units
    h, g = (relu(dense(params[n], x)) for n in "hg")
    z = dense(params["join"], h) + dense(params["late"], x) + dense(params["other"], g)
    (own,) = (units[name] for name in units if name in site.maps)
    np.testing.assert_allclose(own.mean_z, z.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("biases", BIASES)
def test_exact_folds_preserve_the_function(dtype, biases):
    apply, params, x = added(dtype, biases)
    net, want = linjax.trace(apply, params, x), jax.jit(apply)(params, x)
    close = 1e-10 if dtype is np.float64 else 1e-4
    stats = linjax.collect(net, params, [x], second_moments=False)
    for rule in (linjax.threshold(1.0), linjax.threshold(1.0, layers=1)):
        folded, report = linjax.fold_and_report(params, stats, rule)
        assert linjax.count(folded) < linjax.count(params)
        assert len(report.sites["h"].kept) <= 25
        if any(biases):
            assert len(report.sites[net.graph.sites[-1].name].kept) <= 21
        assert distance(jax.jit(net.apply)(folded, x), want) < close
        assert distance(jax.jit(net.apply)(folded, x), want) < close
    bounds = linjax.certify(net, params, -1.0, 1.0)
    folded = linjax.fold(params, bounds)
    assert distance(jax.jit(net.apply)(folded, x), want) < close and folded["h"]["w"].shape[1] <= 25
    twins = {"join", "late", "other"}
    doubled = {
        name: jax.tree.map(lambda w: w.at[..., 1].set(2 * w[..., 0]), part)
        if name in twins else part
        for name, part in params.items()
    }  # fmt: skip
    lumped = linjax.lump(net, doubled)
    assert {lumped[name]["w"].shape[1] for name in twins} == {23}
    assert distance(jax.jit(net.apply)(lumped, x), jax.jit(apply)(doubled, x)) < close


def test_the_published_fold_takes_units_for_linear_ones():
    """The oracle is the original with ``σ(z) := z`` for the units that are on often enough."""
    with jax.enable_x64(True):
        apply, params, x = added(np.float64)
        net = linjax.trace(apply, params, x)
        stats = linjax.collect(net, params, [x], second_moments=False)
        folded, report = linjax.fold_and_report(params, stats, linjax.threshold(0.6, layers=1))
        linear = {}  # where a layer is folded, units that are on often; others stay or were off
        for site in net.graph.sites:
            units = next(u for name, u in stats.units.items() if name in site.maps)
            removed = np.ones(site.width, bool)
            removed[report.sites[site.name].kept] = False
            linear[site.name] = removed & (units.active > 0)
            assert (units.active[linear[site.name]] >= 0.6 * len(x)).all()
        lead = net.graph.sites[-1].name

        def oracle(params, x):
            def act(name, z):
                return jnp.where(linear[name], z, relu(z))

            h, g = (act(n, dense(params[n], x)) for n in ("h", "g"))
            pairs = (("join", h), ("late", x), ("other", g))
            return dense(params["out"], act(lead, sum(dense(params[n], v) for n, v in pairs)))

        want = oracle(params, x)
        assert distance(jax.jit(apply)(params, x), want) > 1e-3
        assert distance(jax.jit(net.apply)(folded, x), want) < 1e-10


def test_sizes_are_met_and_errors_predicted():
    apply, params, x = added(np.float32)
    net, want = linjax.trace(apply, params, x), jax.jit(apply)(params, x)
    known = linjax.frontier(params, linjax.collect(net, params, [x], metric="identity"))
    errors = []
    for share in (0.8, 0.5, 0.25, 0.1, 0.03):
        folded, report = linjax.fold_and_report(params, known, linjax.size(share))
        assert linjax.count(folded) <= share * linjax.count(params)
        errors.append(linjax.compare(net, params, folded, [x], metric="identity").error)
        assert errors[-1] <= 2 * report.predicted + 1e-3  # float32 beside biases of 60
    assert max(errors[:2]) < 1e-3 and all(a <= b + 1e-3 for a, b in itertools.pairwise(errors))
    small = linjax.compress(net, params, [x], linjax.size(0.25), metric="identity")
    assert linjax.compare(net, params, small, [x], metric="identity").error < errors[2]
    assert bool(jnp.isfinite(want).all())


def test_concatenated_features_fold(dtype):
    """Skips that are concatenated in front of a kernel are sums of dimensions."""
    apply, params, x = skipping(dtype)
    net = linjax.trace(apply, params, x[:1])
    assert {"one", "two", "three"} <= {site.name for site in net.network.foldable}
    close = 1e-10 if dtype is np.float64 else 1e-3
    assert distance(net.run(params, x).outputs, jax.jit(apply)(params, x)) < close
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    assert all(np.shape(c.kept)[-1] + c.linears <= c.before for c in report.sites.values())
    assert linjax.count(small) < linjax.count(params)
    assert linjax.compare(net, params, small, [x], metric="identity").error < 0.02


def test_concatenated_pre_activations_and_transposed_kernels():
    """The activation stands behind the concatenation, the kernel is read transposed."""
    rng = np.random.default_rng(4)
    params = {"a": layer(rng, 5, 8, np.float32), "b": layer(rng, 5, 6, np.float32)}
    params["out"] = {"w": jnp.asarray(rng.normal(size=(3, 14)), jnp.float32)}

    def apply(params, x):
        z = jnp.concatenate([dense(params["a"], x), dense(params["b"], x)], -1)
        return jax.nn.gelu(z) @ params["out"]["w"].T

    x = jnp.asarray(rng.normal(size=(50, 5)), jnp.float32)
    net = linjax.trace(apply, params, x)
    assert {site.name for site in net.network.foldable} == {"a", "b"}
    small = linjax.fold(params, linjax.collect(net, params, [x]), linjax.size(0.7))
    assert jax.jit(net.apply)(small, x).shape == (50, 3)


def test_what_a_fold_returns_folds_again_and_is_saved(tmp_path):
    apply, params, x = added(np.float32)
    net = linjax.trace(apply, params, x)
    for share in (0.5, 0.1, 0.03):
        small = linjax.fold(params, linjax.collect(net, params, [x]), linjax.size(share))
        stats = linjax.collect(net, small, [x], metric="identity")
        again = linjax.fold(small, stats, linjax.tolerance(0.01))
        assert linjax.count(again) <= linjax.count(small)
        assert linjax.compare(net, small, again, [x], metric="identity").error < 0.03
        linjax.save(tmp_path / f"{share}", net, small)
        other, back = linjax.load(tmp_path / f"{share}")
        np.testing.assert_array_equal(other.apply(back, x), jax.jit(net.apply)(small, x))


def test_an_optimisers_state_is_carried_over():
    apply, params, x = added(np.float32)
    net, adam = linjax.trace(apply, params, x), optax.adam(1e-3)
    state = jax.tree.map(lambda m: m + 1 if jnp.ndim(m) else m, adam.init(params))
    stats = linjax.collect(net, params, [x], second_moments=False)
    rule = linjax.threshold(1.0, layers=1)
    folded, report = linjax.fold_and_report(params, stats, rule)
    moved = linjax.carry_over(adam, state, params, folded, report)[0].mu
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, folded)
    for name in ("join", "late", "other"):
        assert float(moved[name]["w"].min()) == 1.0


def test_parts_that_do_not_fit_are_named():
    apply, params, x = added(np.float32)
    net = linjax.trace(apply, params, x)
    wrong = {**params, "late": {"w": params["late"]["w"][:, :20]}}
    with pytest.raises(linjax.StructureError, match="late/w, axis 1: 20 entries, expected 24"):
        net.apply(wrong, x)
    wrong = {**params, "other": {"w": params["other"]["w"][:12]}}
    with pytest.raises(linjax.StructureError, match="other/w, axis 0: 12 entries, expected 20"):
        net.apply(wrong, x)


def test_maps_of_the_same_features_and_streams_are_no_sums():
    rng = np.random.default_rng(5)
    params = {n: layer(rng, 6, 6, np.float32) for n in ("a", "b", "c", "d", "e")}

    def same(params, x):
        return dense(params["c"], relu(dense(params["a"], x) + dense(params["b"], x)))

    (site,) = linjax.trace(same, params, jnp.ones((1, 6))).graph.sites
    assert site.mates and not site.terms

    def stream(params, x):
        h = dense(params["a"], x)
        h = h + dense(params["c"], relu(dense(params["b"], h)))
        return dense(params["e"], relu(dense(params["d"], h)))

    graph = linjax.trace(stream, params, jnp.ones((1, 6))).graph
    assert [site.name for site in graph.sites] == ["b", "d"]
    assert not any(site.terms for site in graph.sites)
