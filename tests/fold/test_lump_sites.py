"""Lumping over dimensions: planted multiples and duplicates go, and the function stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
relu = jax.nn.relu


def conv(x, w, stride=1, groups=1):
    """A convolution of images, channels last."""
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


def normal(rng, *shape):
    return rng.normal(size=shape) * np.sqrt(2 / max(1, np.prod(shape[:-1])))


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def agreed(apply, params, x, close=2e-5):
    """Lumps; checks that the function stays, and returns the new parameters."""
    net = linjax.trace(apply, params, x[:2])
    small = linjax.lump(net, params)
    want = np.asarray(jax.jit(apply)(params, x), np.float64)
    got = np.asarray(jax.jit(net.apply)(small, x), np.float64)
    np.testing.assert_allclose(got, want, rtol=0, atol=close * np.abs(want).max() + 1e-30)
    return small


def norm(rng, n):
    return {
        "mean": rng.normal(size=n), "var": rng.uniform(0.5, 2, n),
        "scale": rng.uniform(0.5, 2, n), "shift": rng.normal(size=n),
    }  # fmt: skip


def normed(p, x):
    return (x - p["mean"]) * (jax.lax.rsqrt(p["var"] + 1e-5) * p["scale"]) + p["shift"]


def copied(leaf, to, source, factor=1.0, axis=-1):
    """A leaf in which a coordinate is a multiple of another."""
    leaf = np.moveaxis(np.array(leaf), axis, -1)
    leaf[..., to] = factor * leaf[..., source]
    return np.moveaxis(leaf, -1, axis)


def two_layers(rng, c=6):
    """Two convolutions with planted multiples, read by a dense layer."""
    return {
        "a": copied(copied(normal(rng, 3, 3, 2, c), 4, 1, 3.0), 5, 1, 0.5),
        "b": copied(copied(rng.normal(size=c), 4, 1, 3.0), 5, 1, 0.5),
        "c": copied(normal(rng, 3, 3, c, c), 3, 0, 2.0),
        "d": copied(rng.normal(size=c), 3, 0, 2.0),
        "out": normal(rng, c, 3),
    }


def images(rng, n=4, c=2):
    return placed(rng.normal(size=(n, 6, 6, c)))


def test_convolutions_in_a_row_and_a_dense_layer_behind():
    rng = np.random.default_rng(0)

    def apply(p, x):
        x = relu(conv(x, p["a"]) + p["b"])
        x = jax.nn.leaky_relu(conv(x, p["c"], 2) + p["d"])
        return x.mean((1, 2)) @ p["out"]

    small = agreed(apply, single(two_layers(rng)), images(rng))
    assert small["c"].shape == (3, 3, 4, 5) and small["out"].shape == (5, 3)


def test_a_layer_becomes_lumpable_by_the_one_before():
    rng = np.random.default_rng(0)
    params = two_layers(rng)
    c = params["c"] = rng.integers(-9, 10, params["c"].shape).astype(float)
    c[:, :, :4, 2], c[:, :, 4:, 2] = 2 * c[:, :, :4, 1], 0
    c[:, :, 1, 2] += 6 * c[:, :, 4, 1] + c[:, :, 5, 1]
    params["c"], params["d"][2] = copied(c, 3, 0, 2.0), 2 * params["d"][1]

    def apply(p, x):
        x = relu(conv(x, p["a"]) + p["b"])
        return relu(conv(x, p["c"]) + p["d"]).reshape(len(x), -1) @ p["flat"]

    params["flat"] = normal(rng, 36 * 6, 3)
    small = agreed(apply, single(params), images(rng))
    assert small["c"].shape == (3, 3, 4, 4) and small["flat"].shape == (36 * 4, 3)


def test_a_stage_with_residual_sums():
    """All that make the stream have to agree on the ratio."""
    rng = np.random.default_rng(1)

    def apply(p, x):
        x = relu(conv(x, p["stem"]) + p["a"])
        for own in (p["one"], p["two"]):
            x = relu(x + (conv(relu(conv(x, own["up"]) + own["b"]), own["down"]) + own["c"]))
        return x.sum((1, 2)) @ p["out"]

    def block():
        return {
            "up": normal(rng, 3, 3, 6, 5), "b": rng.normal(size=5),
            "down": copied(normal(rng, 3, 3, 5, 6), 2, 3, 1.5),
            "c": copied(rng.normal(size=6), 2, 3, 1.5),
        }  # fmt: skip

    params = {
        "stem": copied(normal(rng, 3, 3, 2, 6), 2, 3, 1.5),
        "a": copied(rng.normal(size=6), 2, 3, 1.5),
        "one": block(), "two": block(), "out": normal(rng, 6, 2),
    }  # fmt: skip
    assert agreed(apply, single(params), images(rng))["stem"].shape[-1] == 5
    params["two"]["down"] = copied(params["two"]["down"], 2, 3, 1.4)
    assert agreed(apply, single(params), images(rng))["stem"].shape[-1] == 6


def test_concatenated_channels():
    rng = np.random.default_rng(2)

    def apply(p, x):
        left, right = relu(conv(x, p["l"]) + p["b"]), relu(conv(x, p["r"]))
        both = jnp.concatenate([left, x, right, left], -1)
        return relu(conv(both, p["next"])).reshape(len(x), -1) @ p["out"]

    params = {
        "l": copied(normal(rng, 3, 3, 2, 5), 4, 0, 2.0), "b": copied(rng.normal(size=5), 4, 0, 2.0),
        "r": copied(normal(rng, 1, 1, 2, 4), 1, 3, 0.3), "next": normal(rng, 1, 1, 16, 6),
        "out": normal(rng, 216, 2),
    }  # fmt: skip
    assert agreed(apply, single(params), images(rng))["next"].shape == (1, 1, 13, 6)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "relu6"])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_batch_norm(activation, factor):
    """Channels that are multiples once they are normalised, whatever the kernel's scale is."""
    rng = np.random.default_rng(3)

    def apply(p, x):
        x = getattr(jax.nn, activation)(normed(p["norm"], conv(x, p["a"])))
        return relu(conv(x, p["c"])).mean((1, 2)) @ p["out"]

    stats = norm(rng, 6)
    params = {"a": copied(normal(rng, 3, 3, 2, 6), 5, 2, factor), "norm": stats,
              "c": normal(rng, 3, 3, 6, 4), "out": normal(rng, 4, 3)}  # fmt: skip
    stats["mean"][5], stats["var"][5] = factor * stats["mean"][2], stats["var"][2]
    stats["scale"][5], stats["shift"][5] = stats["scale"][2], factor * stats["shift"][2]
    fits = factor == 1.0 or activation == "relu"
    assert agreed(apply, single(params), images(rng))["a"].shape[-1] == 6 - fits
    stats["var"][5] *= 1.5
    assert agreed(apply, single(params), images(rng))["a"].shape[-1] == 6


def test_a_scale_that_makes_up_for_the_kernel():
    rng = np.random.default_rng(3)

    def apply(p, x):
        return conv(relu(normed(p["norm"], conv(x, p["a"]))), p["c"])

    stats = norm(rng, 6)
    params = {"a": copied(normal(rng, 3, 3, 2, 6), 5, 2, 4.0), "norm": stats,
              "c": normal(rng, 3, 3, 6, 4)}  # fmt: skip
    stats["mean"][5], stats["var"][5] = 4 * stats["mean"][2], stats["var"][2]
    stats["scale"][5], stats["shift"][5] = 0.125 * stats["scale"][2], 0.5 * stats["shift"][2]
    assert agreed(apply, single(params), images(rng))["norm"]["var"].shape == (5,)


@pytest.mark.parametrize("same", [True, False])
def test_depthwise_channels(same):
    rng = np.random.default_rng(4)

    def apply(p, x):
        x = jax.nn.relu6(conv(x, p["a"]) + p["b"])
        x = jax.nn.silu(conv(x, p["deep"], groups=6) + p["c"])
        return conv(x, p["d"])

    params = {
        "a": copied(normal(rng, 1, 1, 2, 6), 5, 2), "b": copied(rng.normal(size=6), 5, 2),
        "deep": rng.normal(size=(3, 3, 1, 6)), "c": copied(rng.normal(size=6), 5, 2),
        "d": normal(rng, 1, 1, 6, 3),
    }  # fmt: skip
    if same:
        params["deep"] = copied(params["deep"], 5, 2)
    small = agreed(apply, single(params), images(rng))
    assert small["deep"].shape[-1] == 6 - same


def grouped(rng, planted):
    """A convolution with two groups of four channels, multiples planted in each."""
    params = {
        "a": normal(rng, 1, 1, 2, 8),
        "c": normal(rng, 3, 3, 4, 6),
        "d": normal(rng, 1, 1, 6, 2),
    }
    for group, many in enumerate(planted):
        for k in range(many):
            params["a"] = copied(params["a"], 4 * group + 1 + k, 4 * group, 2.0 + k)
    return params, lambda p, x: conv(relu(conv(relu(conv(x, p["a"])), p["c"], groups=2)), p["d"])


@pytest.mark.parametrize("planted", [(1, 1), (2, 1), (3, 2), (1, 0)])
def test_groups_lose_as_many(planted):
    rng = np.random.default_rng(5)
    params, apply = grouped(rng, planted)
    small = agreed(apply, single(params), images(rng))
    assert small["a"].shape[-1] == 8 - 2 * min(planted)


@pytest.mark.parametrize("other", ["relu", "tanh"])
def test_nothing_but_zeros_goes(other):
    rng = np.random.default_rng(6)
    params = two_layers(rng)
    params = {"a": params["a"], "b": params["b"], "c": params["c"], "out": params["out"]}
    params["a"][..., [0, 2]] = 0.0
    params["b"][[0, 2]] = [0.0, 0.0]

    def apply(p, x):
        x = getattr(jax.nn if other == "relu" else jnp, other)(conv(x, p["a"]) + p["b"])
        return conv(x, p["c"]).mean((1, 2)) @ p["out"]

    small = agreed(apply, single(params), images(rng))
    assert small["a"].shape[-1] == (2 if other == "relu" else 6)


def test_all_zeros_leave_one():
    rng = np.random.default_rng(6)
    params = {"a": np.zeros((3, 3, 2, 4)), "c": normal(rng, 3, 3, 4, 2)}
    small = agreed(
        lambda p, x: conv(relu(conv(x, p["a"])), p["c"]) + x, single(params), images(rng)
    )
    assert small["a"].shape[-1] == 1


def test_values_of_attention():
    """A straight dimension repeated along heads, each with a value that is twice another."""
    rng = np.random.default_rng(7)
    params = {name: normal(rng, 8, 2, 4) for name in "qkv"} | {"o": normal(rng, 2, 4, 8)}
    params["v"] = copied(params["v"], 3, 1, 2.0)
    params["v"][:, 0] = copied(params["v"][:, 0], 0, 2, -1.5)

    def apply(p, x):
        q, k, v = (jnp.einsum("btd,dhe->bhte", x, p[name]) for name in "qkv")
        h = jnp.einsum("bhst,bhte->bhse", jax.nn.softmax(q @ k.swapaxes(-1, -2)), v)
        return jnp.einsum("bhse,hed->bsd", h, p["o"])

    x = jnp.asarray(rng.normal(size=(3, 5, 8)), jnp.float32)
    small = agreed(apply, single(params), x)
    assert small["v"].shape == (8, 2, 3)


def test_slopes_of_their_own():
    """Learned slopes: joined where they are the same."""
    rng = np.random.default_rng(8)
    params = {
        "a": normal(rng, 3, 3, 2, 6),
        "s": rng.uniform(0, 0.5, 6),
        "c": normal(rng, 3, 3, 6, 2),
    }
    params["a"] = copied(copied(params["a"], 5, 2, 2.0), 4, 2, 3.0)
    params["s"][5] = params["s"][2]

    def apply(p, x):
        z = conv(x, p["a"])
        return conv(jnp.where(z >= 0, z, p["s"] * z), p["c"])

    assert agreed(apply, single(params), images(rng))["s"].shape == (5,)


def test_layers_of_a_scan():
    """Each layer keeps as many units as the others, with representatives of its own."""
    rng = np.random.default_rng(14)
    up, bias = np.stack([normal(rng, 1, 1, 4, 6)] * 3), rng.normal(size=(3, 6))
    for layer, (to, source) in enumerate([(0, 1), (5, 2), (3, 4)]):
        up[layer] = copied(up[layer], to, source, 1.5)
        bias[layer] = copied(bias[layer], to, source, 1.5)
    down = np.stack([normal(rng, 1, 1, 6, 4) for _ in range(3)])
    params = {"in": normal(rng, 3, 3, 2, 4), "up": up, "b": bias, "down": down}

    def apply(p, x):
        def layer(h, own):
            return h + conv(relu(conv(h, own["up"]) + own["b"]), own["down"]), None

        layers = {name: p[name] for name in ("up", "b", "down")}
        return jax.lax.scan(layer, conv(x, p["in"]), layers)[0]

    small = agreed(apply, single(params), images(rng))
    assert small["b"].shape == (3, 5) and small["down"].shape[-2:] == (5, 4)


def test_looked_up_vectors():
    rng = np.random.default_rng(15)
    params = {"table": copied(rng.normal(size=(9, 6)), 4, 2, 2.0), "c": normal(rng, 3, 6, 2)}

    def apply(p, x):
        dims = ("NWC", "WIO", "NWC")
        h = relu(p["table"][x])
        return jax.lax.conv_general_dilated(h, p["c"], (1,), "SAME", dimension_numbers=dims)

    small = agreed(apply, single(params), jnp.asarray(rng.integers(0, 9, (4, 7))))
    assert small["table"].shape == (9, 5)


def test_folds_and_lumping_compose():
    rng = np.random.default_rng(16)
    params = single(two_layers(rng)) | {"key": jax.random.key(3)}

    def apply(p, x):
        x = relu(conv(x, p["a"]) + p["b"])
        return relu(conv(x, p["c"]) + p["d"]).mean((1, 2)) @ p["out"]

    x = images(rng, 64)
    net = linjax.trace(apply, params, x[:2])
    small = linjax.lump(net, params)
    assert small["key"] == params["key"]
    with pytest.warns(linjax.FoldWarning):
        assert linjax.lump(net, small) is small
    _, (report,) = linjax.lump_and_report(net, params)
    assert report.units == (6, 6) and report.kept == (4, 5) and not report.error.any()
    params = {name: leaf for name, leaf in params.items() if name != "key"}
    net = linjax.trace(apply, params, x[:2])
    folded = linjax.fold(params, linjax.collect(net, params, [x]), linjax.size(0.8))
    again = linjax.lump(net, folded)
    np.testing.assert_allclose(
        jax.jit(net.apply)(again, x), jax.jit(net.apply)(folded, x), atol=1e-4
    )
