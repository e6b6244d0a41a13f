"""Two linear convolutions become one: exactly, at borders too, and refused where it wouldn't be."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import linjax
from linjax.fold.channels.compose import composed, multiplied
from linjax.graph import pytree

EXTENT = {1: 13, 2: 9, 3: 6}


class Conv(NamedTuple):
    """One of the two convolutions."""

    window: int
    stride: int = 1
    padding: str | tuple[int, int] = "VALID"
    dilation: int = 1


POINT = Conv(1)
LETTERS = {"last": ("N{}C", "{}IO", "N{}C"), "first": ("NC{}", "OI{}", "NC{}")}


def convolve(x, kernel, conv, layout="last"):
    space = x.ndim - 2
    padding = conv.padding if isinstance(conv.padding, str) else [conv.padding] * space
    return lax.conv_general_dilated(
        x, kernel, (conv.stride,) * space, padding, rhs_dilation=(conv.dilation,) * space,
        dimension_numbers=tuple(form.format("DHW"[-space:]) for form in LETTERS[layout]),
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def network(first, second, space=2, layout="last", bias=True, activation=lambda z: z, between=None):
    """Four channels, made of two, between two convolutions; returns it, parameters and inputs."""
    rng = np.random.default_rng(5)

    def kernel(window, p, q):
        value = rng.normal(size=(*(window,) * space, p, q))
        return jnp.asarray(value if layout == "last" else np.moveaxis(value, (-1, -2), (0, 1)))

    params = {
        "a": {"kernel": kernel(first.window, 2, 4)},
        "b": {"kernel": kernel(second.window, 4, 3), "bias": jnp.asarray(rng.normal(size=3))},
    }
    if bias:
        params["a"]["bias"] = jnp.asarray(rng.normal(size=4))
    x = rng.normal(size=(3, *(EXTENT[space],) * space, 2))
    x = jnp.asarray(x if layout == "last" else np.moveaxis(x, -1, 1))

    def plus(x, bias):
        return x + (bias if layout == "last" else bias.reshape(-1, *(1,) * space))

    def apply(params, x, activation=activation):
        h = convolve(x, params["a"]["kernel"], first, layout)
        h = activation(plus(h, params["a"]["bias"]) if bias else h)
        h = h if between is None else between(h)
        return plus(convolve(h, params["b"]["kernel"], second, layout), params["b"]["bias"])

    return apply, params, x


def linear(params):
    """The same channels without their activation."""
    flat = pytree.flatten(params)
    flat["a", "kernel_linear"] = flat.pop(("a", "kernel"))
    if ("a", "bias") in flat:
        flat["a", "kernel_linear_bias"] = flat.pop(("a", "bias"))
    return flat


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


EXACT = {
    "any into a point": (Conv(3, 1, "SAME"), POINT, {}),
    "steps and holes into a point": (Conv(3, 2, (2, 1), 2), Conv(1, 2), {"space": 1}),
    "any into a point, channels first": (Conv(2, 1, "VALID"), Conv(1, 3), {"layout": "first"}),
    "any into a point, in space": (Conv(2, 1, (0, 1)), Conv(1, 2, "SAME"), {"space": 3}),
    "a point into any": (POINT, Conv(3, 2, "VALID", 2), {}),
    "a point into a padded one, without a bias": (Conv(1, 2), Conv(3, 1, "SAME"), {"bias": False}),
    "a point into any, channels first": (Conv(1, 2), Conv(2, 1), {"layout": "first", "space": 1}),
    "a point into any, in space": (POINT, Conv(2, 2, (1, 0)), {"space": 3, "bias": False}),
    "a point into a point": (Conv(1, 2), Conv(1, 2), {}),
}


@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("case", EXACT)
def test_two_become_one_exactly(double, case, activation):
    first, second, options = EXACT[case]
    bends = jax.nn.relu if activation == "relu" else lambda z: z
    apply, params, x = network(first, second, activation=bends, **options)
    net = linjax.trace(apply, params, x[:1])
    flat = linear(params) if activation == "relu" else pytree.flatten(params)
    small = composed(net.graph, flat)
    assert {path[0] for path in small} == {"b"}
    want = apply(params, x, lambda z: z)
    np.testing.assert_allclose(net.apply(pytree.unflatten(small), x), want, atol=1e-11)
    # and a cotangent finds its way back through it
    np.testing.assert_allclose(
        jax.grad(lambda x: jnp.sum(jnp.sin(net.apply(pytree.unflatten(small), x))))(x),
        jax.grad(lambda x: jnp.sum(jnp.sin(apply(params, x, lambda z: z))))(x),
        atol=1e-11,
    )


def total(h):
    return lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


REFUSED = {
    "a bias that isn't padded": (POINT, Conv(3, 1, "SAME"), {}),
    "a bias that is summed": (POINT, POINT, {"between": total}),
    "two windows": (Conv(2), Conv(2), {}),
    "a padded point": (Conv(3), Conv(1, 1, (1, 1)), {}),
    "pooling behind a window": (Conv(3), POINT, {"between": total}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_not_be_exact_stays(double, case):
    first, second, options = REFUSED[case]
    apply, params, x = network(first, second, activation=jax.nn.relu, **options)
    net = linjax.trace(apply, params, x[:1])
    (site,) = net.graph.channels
    assert multiplied(net.graph, linear(params), site) is None


def test_pooling_behind_a_point_takes_its_input(double):
    apply, params, x = network(POINT, Conv(2), activation=jax.nn.relu, between=total, bias=False)
    net = linjax.trace(apply, params, x[:1])
    small = composed(net.graph, linear(params))
    want = apply(params, x, lambda z: z)
    np.testing.assert_allclose(net.apply(pytree.unflatten(small), x), want, atol=1e-11)


def test_larger_products_stay_two_kernels(double):
    apply, params, x = network(Conv(3), POINT, activation=jax.nn.relu)
    flat = linear(params)
    flat["a", "kernel_linear"] = flat["a", "kernel_linear"][..., :1]
    flat["a", "kernel_linear_bias"] = flat["a", "kernel_linear_bias"][:1]
    flat["b", "kernel"] = flat["b", "kernel"][:, :, :1]
    net = linjax.trace(apply, params, x[:1])
    assert composed(net.graph, flat) == flat


def test_activations_that_bend_stay(double):
    apply, params, x = network(Conv(3), POINT, activation=lambda z: jnp.clip(z, -50.0, 50.0))
    net = linjax.trace(apply, params, x[:1])
    (site,) = net.graph.channels
    assert multiplied(net.graph, pytree.flatten(params), site) is None


@pytest.mark.parametrize("left", [{}, {"bias": (4,)}])
def test_a_kernel_that_is_missing_is_missed(left):
    """Where its readers couldn't have taken it up, or something of it is left."""
    first, second = (Conv(2), Conv(2)) if not left else (Conv(2), POINT)
    apply, params, x = network(first, second)
    net = linjax.trace(apply, params, x[:1])
    small = params | {"a": {name: jnp.ones(shape) for name, shape in left.items()}}
    small = small if left else {"b": params["b"]}
    with pytest.raises(linjax.StructureError, match=r"a/kernel: missing|without a kernel"):
        net.apply(small, x)


def planted():
    """All channels of the first convolution are always on; behind the last but one nothing is."""
    rng = np.random.default_rng(3)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)

    params = {
        "wide": {"kernel": normal(3, 3, 2, 24), "bias": jnp.full(24, 30.0)},
        "point": {"kernel": normal(1, 1, 24, 12), "bias": normal(12) * 0.1},
        "bent": {"kernel": normal(3, 3, 12, 6)},
        "through": {"kernel": normal(1, 1, 6, 20)},
        "last": {"kernel": normal(6, 6, 20, 4)},
    }
    params["point"]["bias"] -= jnp.sum(params["point"]["kernel"], (0, 1, 2)) * 30.0

    def apply(params, x):
        h = convolve(x, params["wide"]["kernel"], Conv(3, 1, "SAME")) + params["wide"]["bias"]
        h = convolve(jax.nn.relu(h), params["point"]["kernel"], POINT) + params["point"]["bias"]
        h = jax.nn.relu(convolve(jax.nn.relu(h), params["bent"]["kernel"], Conv(3)))
        h = convolve(h, params["through"]["kernel"], POINT)
        return convolve(h, params["last"]["kernel"], Conv(6)).reshape(len(x), -1)

    x = jnp.asarray(rng.normal(size=(120, 8, 8, 2)), jnp.float32)
    return apply, params, x


def test_folds_compose_what_has_become_linear(tmp_path):
    apply, params, x = planted()
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x[:60], x[60:]], metric="identity")
    small, report = linjax.fold(params, stats, linjax.tolerance(1e-3), details=True)
    assert set(small) == {"point", "bent", "last"}
    assert small["point"]["kernel"].shape == (3, 3, 2, 12)
    assert small["last"]["kernel"].shape == (6, 6, 6, 4)
    assert len(report.sites["wide"].kept) == 0 and report.sites["wide"].linears == 2
    assert report.after == linjax.count(small)
    want = apply(params, x)
    np.testing.assert_allclose(net.apply(small, x), want, atol=3e-3 * float(want.std()))

    linjax.save(tmp_path / "small.safetensors", net, small)
    stored, loaded = linjax.load(tmp_path / "small.safetensors")
    np.testing.assert_allclose(stored.apply(loaded, x[:2]), net.apply(small, x[:2]), atol=1e-5)

    adam = optax.adam(1e-3)
    state = linjax.carry_over(adam, adam.init(params), params, small, report)
    assert jax.tree.map(jnp.shape, state[0].mu) == jax.tree.map(jnp.shape, small)

    again = linjax.collect(net, small, [x], metric="identity")
    with pytest.warns(linjax.FoldWarning, match="wide, bent, through: a convolution beside"):
        twice = linjax.fold(small, again, linjax.size(0.6))
    assert linjax.count(twice) <= 0.6 * linjax.count(small)
    assert twice["point"]["kernel"].shape[:3] == (3, 3, 2)
