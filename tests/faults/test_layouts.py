"""Sites are found however kernels are stored and values placed; each case folds as predicted."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import linjax
from tests.arrays import placed

RNG = np.random.default_rng(0)
ROWS, T, D, N, H = 120, 6, 16, 4, 8


def a(*shape):
    return placed(RNG.normal(size=shape) / np.sqrt(shape[0]))


def low(shape, rank=3):
    """A kernel whose heads' values have few directions, so that folding them costs little."""
    flat = RNG.normal(size=(N * H, D)).reshape(N, H, D)
    left, s, right = np.linalg.svd(flat, full_matrices=False)
    s[:, rank:] *= 0.01
    return jnp.asarray((left * s[:, None]) @ right, jnp.float32).reshape(shape)


X = a(ROWS, T, D) * 10
EVEN = jax.nn.softmax(a(1, N, T, T) * 3)


def mixed(values):
    return jnp.einsum("bnts,bsnh->btnh", jnp.broadcast_to(EVEN, (len(values), N, T, T)), values)


def flax_way(p, x):
    return jnp.einsum("btnh,nhd->btd", mixed(jnp.einsum("btd,dnh->btnh", x, p["v"])), p["o"])


def heads_first(p, x):
    return jnp.einsum("btnh,nhd->btd", mixed(jnp.einsum("btd,ndh->btnh", x, p["v"])), p["o"])


def transposed(p, x):
    values = (x @ p["v"].T).reshape(*x.shape[:2], N, H)
    return mixed(values).reshape(*x.shape[:2], N * H) @ p["o"].T


def features_first(p, x):
    values = (x @ p["v"]).reshape(*x.shape[:2], H, N).swapaxes(-1, -2)
    return mixed(values).swapaxes(-1, -2).reshape(*x.shape[:2], N * H) @ p["o"]


def bound(p, x):
    """As some write it: with the batch's size inside."""
    values = (x @ p["v"].T).reshape(ROWS, T, N, H)
    return mixed(values).reshape(ROWS, T, N * H) @ p["o"].T


V = low((N, H, D))
OUT = a(N, H, D)
VALUES = {
    "flax": (flax_way, V.transpose(2, 0, 1), OUT),
    "heads first": (heads_first, V.transpose(0, 2, 1), OUT),
    "transposed": (transposed, V.reshape(N * H, D), OUT.reshape(N * H, D).T),
    "features first": (
        features_first,
        V.transpose(2, 1, 0).reshape(D, N * H),
        OUT.transpose(1, 0, 2).reshape(N * H, D),
    ),
    "bound to its batch": (bound, V.reshape(N * H, D), OUT.reshape(N * H, D).T),
}


def folded(apply, params, x, share):
    net = linjax.trace(apply, params, x)
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(share))
    assert linjax.count(small) <= share * linjax.count(params)
    want, got = np.asarray(jax.jit(apply)(params, x)), np.asarray(jax.jit(net.apply)(small, x))
    error = np.linalg.norm(got - want) / np.linalg.norm(want - want.mean(0))
    assert error <= 2 * report.predicted + 0.02
    return error


@pytest.mark.parametrize("case", VALUES)
def test_values_fold_however_they_are_stored(case):
    apply, v, o = VALUES[case]
    assert folded(apply, {"v": v, "o": o}, X, 0.5) < 0.1


def conv(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def shuffled(p, x):
    h = jax.nn.relu(conv(x, p["a"]))
    h = h.reshape(*h.shape[:3], 2, 8).swapaxes(3, 4).reshape(h.shape)
    return conv(h, p["b"])


def shuffled_grouped(p, x):
    """A shuffle between two grouped convolutions, as in ShuffleNet."""
    h = jax.nn.relu(conv(x, p["a"]))
    h = h.reshape(*h.shape[:3], 2, 8).swapaxes(3, 4).reshape(h.shape)
    return jax.lax.conv_general_dilated(
        h, p["b"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )


@pytest.mark.parametrize("apply", [shuffled, shuffled_grouped])
def test_shuffled_channels(apply):
    into = 16 if apply is shuffled else 8
    params = {"a": a(1, 1, 3, 16), "b": a(1, 1, into, 8)}
    folded(apply, params, a(40, 6, 6, 3) * 6, 0.8)


def over(*axes):
    return NamedSharding(Mesh(np.array(jax.devices()[:1]), ("model",)), PartitionSpec(*axes))


def checked(h):
    from jax.ad_checkpoint import checkpoint_name

    return checkpoint_name(h, "hidden")


PLACES = {
    "a sharding constraint": lambda h: jax.lax.with_sharding_constraint(h, over(None, "model")),
    "a name": checked,
    "a barrier": jax.lax.optimization_barrier,
    "no gradient": jax.lax.stop_gradient,
    "moved": lambda h: jax.device_put(h, over(None, "model")),
    "inside of jit": jax.jit(lambda h: h, out_shardings=over(None, "model")),
    "twice": lambda h: jax.lax.with_sharding_constraint(
        jax.lax.with_sharding_constraint(h, over(None, "model")), over("model")
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_places_change_nothing(place):
    params = {"w": a(D, 64), "v": a(64, 3)}

    def plain(p, x):
        return jax.nn.relu(x @ p["w"]) @ p["v"]

    def placed(p, x):
        return PLACES[place](jax.nn.relu(PLACES[place](x @ PLACES[place](p["w"])))) @ p["v"]

    x = X.reshape(-1, D)
    counts = []
    for apply in (plain, placed):
        net = linjax.trace(apply, params, x)
        assert [(s.width, s.linear) for s in net.network.sites] == [(64, True)]
        stats = linjax.collect(net, params, [x], metric="identity")
        counts.append(linjax.count(linjax.fold(params, stats, linjax.size(0.5))))
    assert counts[0] == counts[1] <= 0.5 * linjax.count(params)


@contextlib.contextmanager
def explicit(shape=(1, 1)):
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        yield


def looked_up(p, t):
    h = p["embed"].at[t].get(out_sharding=PartitionSpec())
    return jax.nn.relu(h @ p["in"]) @ p["out"]


def test_explicit_meshes():
    params = {"embed": a(50, 8) * 7, "in": a(8, 64), "out": a(64, 5)}
    with explicit():
        folded(looked_up, params, jnp.asarray(RNG.integers(0, 50, (64, 6))), 0.6)


def test_computed_kernels_whose_leaves_serve_elsewhere_are_named_and_the_advice_works():
    def standard(w):
        return (w - w.mean((0, 1, 2))) / w.std((0, 1, 2))

    def apply(p, x):
        shown = conv(jax.nn.relu(conv(x, standard(p["a"]))), standard(p["b"]))
        return shown * jnp.square(p["a"]).mean()

    params = {"a": a(3, 3, 3, 16), "b": a(3, 3, 16, 8)}
    x = a(60, 6, 6, 3) * 6
    net = linjax.trace(apply, params, x)
    (refusal,) = [r for r in net.network.refusals if r.name == "a"]
    assert "compute such kernels once" in refusal.reason and refusal.reason in repr(net)

    def plain(p, x):
        return conv(jax.nn.relu(conv(x, p["a"])), p["b"]) * p["c"]

    once = {name: standard(w) for name, w in params.items()}
    once["c"] = jnp.square(params["a"]).mean()
    np.testing.assert_allclose(plain(once, x), jax.jit(apply)(params, x), rtol=1e-5, atol=1e-5)
    folded(plain, once, x, 0.8)
