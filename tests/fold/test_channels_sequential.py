"""Refits of convolutions on the folded network's own activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import linjax
from linjax.fold.channels.execute import choices, executed
from linjax.fold.channels.sequential import refit_in_order
from linjax.fold.frontier import frontier
from linjax.graph import pytree, reads
from tests.properties.convnets import Plan, Stage, build

STAGE = Stage(8, 3, 1, 1, "SAME", True, "none", "relu", False, "none")
NUMBERS = ("NHWC", "HWIO", "NHWC")


def images(shape, rows=400, seed=1):
    """Images of a few degrees of freedom, with a little noise."""
    pattern = np.random.default_rng(0).normal(size=(4, *shape))
    rng = np.random.default_rng(seed)
    x = np.einsum("ni,i...->n...", rng.normal(size=(rows, 4)), pattern)
    return jnp.asarray(x + 0.2 * rng.normal(size=x.shape), jnp.float32)


def convolve(x, kernel, strides=(1, 1), padding="SAME"):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NUMBERS)


def residual(params, x):
    """A stem, a block whose second convolution is added to the stem's result, a head."""
    first = jax.nn.relu(convolve(x, params["stem"]))
    inside = jax.nn.relu(convolve(first, params["a"]) + params["shift"])
    x = jax.nn.relu(first + convolve(inside, params["b"]))
    inside = jax.nn.relu(convolve(x, params["c"]))
    x = jax.nn.relu(x + convolve(inside, params["d"]))
    return x.mean((1, 2)) @ params["head"]


def residual_params(width=6):
    rng = np.random.default_rng(0)

    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)

    return {
        "stem": kernel(3, 3, 2, width), "a": kernel(3, 3, width, 12),
        "shift": jnp.asarray(rng.normal(size=12), jnp.float32), "b": kernel(3, 3, 12, width),
        "c": kernel(3, 3, width, 12), "d": kernel(3, 3, 12, width), "head": kernel(width, 4),
    }  # fmt: skip


@pytest.mark.parametrize(("strides", "padding"), [((1, 1), "SAME"), ((2, 1), ((0, 1), (2, 0)))])
def test_what_is_read_times_the_kernel_is_the_result(strides, padding):
    rng = np.random.default_rng(0)
    params = {
        "first": jnp.asarray(rng.normal(size=(3, 2, 2, 5)), jnp.float32),
        "second": jnp.asarray(rng.normal(size=(2, 3, 5, 4)), jnp.float32),
    }

    def apply(params, x):
        x = jnp.tanh(convolve(x, params["first"], strides, padding))
        return convolve(x, params["second"])

    x = images((5, 6, 2), 3)
    net = linjax.trace(apply, params, x)
    found = net.reads(params, x)
    assert list(found) == ["first", "second"]
    rows = reads.rows(found["second"], 10**6, jax.random.key(0))
    result = rows @ params["second"].reshape(-1, 4)
    np.testing.assert_allclose(result, apply(params, x).reshape(-1, 4), rtol=1e-4, atol=1e-4)


def test_the_other_branch_of_a_sum_is_found():
    params, x = residual_params(), images((4, 4, 2), 3)
    net = linjax.trace(residual, params, x)
    found = net.reads(params, x)
    first = jax.nn.relu(convolve(x, params["stem"]))
    np.testing.assert_allclose(found["b"].beside, first, rtol=1e-5, atol=1e-6)
    assert [name for name in found if found[name].beside is not None] == ["b", "d"]


def folded(apply, params, x, size):
    net = linjax.trace(apply, params, x[:2])
    known = frontier(params, linjax.collect(net, params, [x], metric="identity"))
    plan = known.plan(linjax.size(size))
    made = choices(known.network, plan.state)
    flat, changes = executed(known.network, known.land, plan.state, made)
    refitted = refit_in_order(net, known.network, flat, made, changes, (x,), "identity")
    return net, pytree.unflatten(flat), pytree.unflatten(refitted)


def variation(a, b):
    return float(jnp.sqrt(jnp.mean((a - b) ** 2) / jnp.mean((b - b.mean(0)) ** 2)))


def test_refit_is_least_squares_on_patches_of_the_folded_network():
    """The last convolution against a regression on the patches, built as a matrix."""
    params, x = residual_params(), images((4, 4, 2))
    net, _, new = folded(residual, params, x, 0.4)
    assert new["d"].shape[2] < 12

    def inside(p):
        return net.reads(p, x)["d"]

    patches, sums = [], []
    for p in (params, new):
        read = inside(p)
        matrix = lax.conv_general_dilated_patches(
            read.value, (3, 3), (1, 1), "SAME", dimension_numbers=NUMBERS
        )
        patches.append(np.asarray(matrix, np.float64).reshape(len(x) * 16, -1))
        sums.append(np.asarray(read.beside, np.float64).reshape(len(x) * 16, -1))
    kernel = np.moveaxis(np.asarray(params["d"], np.float64), 2, 0)  # as the patches are ordered
    target = patches[0] @ kernel.reshape(-1, 6) + sums[0] - sums[1]
    design = np.concatenate([patches[1], np.ones((len(target), 1))], axis=1)
    best = np.linalg.lstsq(design, target, rcond=None)[0]
    ours = np.moveaxis(np.asarray(new["d"], np.float64), 2, 0).reshape(-1, 6)
    answer = patches[1] @ ours + np.asarray(new["d_bias"], np.float64)
    least, found = (np.mean((a - target) ** 2) for a in (design @ best, answer))
    assert found <= least * 1.002
    np.testing.assert_allclose(ours, best[:-1], atol=0.02 * np.abs(best).max())


@pytest.mark.parametrize("end", ["flatten", "mean"])
def test_deep_networks_are_nearer_to_the_original(end):
    stages = (STAGE, STAGE._replace(norm="before"), STAGE._replace(channels=6, pool="max"))
    apply, params, example = build(Plan(2, 2, stages, "none", end, 3))
    x = images(example.shape[1:], 600)
    net, once, new = folded(apply, params, x, 0.5)
    fresh = images(example.shape[1:], 300, seed=2)
    before, after = (variation(net.apply(p, fresh), apply(params, fresh)) for p in (once, new))
    assert after < 0.98 * before
    shapes = [jax.tree.map(jnp.shape, p) for p in (once, new)]
    assert set(pytree.flatten(once)) <= set(pytree.flatten(new)), shapes
    assert linjax.count(new) <= 0.5 * linjax.count(params)


SHARES = (0.5, 0.4, 0.3)


def test_sums_of_branches_are_aimed_at():
    params, x = residual_params(), images((4, 4, 2), 600)
    fresh = images((4, 4, 2), 300, seed=2)
    want, errors = residual(params, fresh), []
    for share in SHARES:
        net, once, new = folded(residual, params, x, share)
        errors.append([variation(net.apply(p, fresh), want) for p in (once, new)])
    before, after = np.sum(errors, axis=0)
    assert after < before


def test_compress_takes_the_better_of_both():
    params, x = residual_params(), images((4, 4, 2), 600)
    net = linjax.trace(residual, params, x[:2])
    stats = linjax.collect(net, params, [x], metric="identity")
    fresh = images((4, 4, 2), 300, seed=2)
    want, errors = residual(params, fresh), []
    for share in SHARES:
        once = linjax.fold(params, stats, linjax.size(share))
        small = linjax.compress(
            net, params, [x], linjax.size(share), metric="identity", joint=False
        )
        errors.append([variation(net.apply(p, fresh), want) for p in (once, small)])
        assert linjax.count(small) <= share * linjax.count(params)
    before, after = np.sum(errors, axis=0)
    assert after < before
