"""Random convolutional networks: what has lost channels computes what it should, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given

import linjax
from linjax.fold.channels.compose import multiplied
from linjax.graph import pytree
from linjax.graph.channels import kernels
from linjax.graph.channels.kernels import Kernel
from tests.properties import convnets


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def rows_of(reading, width, channels):
    """Features of some channels in what a reader reads, by counting."""
    features = np.arange(reading.outer * width * reading.inner)
    of = features // reading.inner % width
    return features[np.isin(of, channels)]


def among(members, name, width):
    """The first of a site's channels among all that stand together, and how many these are."""
    starts = np.cumsum([0, *(m.width for m in members)])
    mine = [m.site for m in members].index(name) if members else 0
    return (starts[mine], starts[-1]) if members else (0, width)


def by_group(kernel, groups, keep):
    """A kernel (…, inputs of a group, outputs) that ignores channels, and one without them."""
    each, ignoring, small = kernel.shape[-2], [], []
    for group, own in enumerate(np.split(kernel, groups, axis=-1)):
        left = keep[keep // each == group] - group * each
        ignoring.append(own * np.isin(np.arange(each), left)[:, None])
        small.append(own[..., left, :])
    return np.concatenate(ignoring, -1), np.concatenate(small, -1)


def without(net, params, rng):
    """Parameters in which readers ignore some channels, and the pytree without these channels."""
    graph = net.graph
    ignoring = {k: np.array(v) for k, v in pytree.flatten(params).items()}
    small, drops = dict(ignoring), {}
    convolutions = {conv.name: conv for conv in graph.convolutions}
    for site in graph.channels:
        each = site.width // site.groups
        many = rng.integers(1, each + 1)
        keep = [np.sort(rng.permutation(each)[:many]) + g * each for g in range(site.groups)]
        keep = np.concatenate(keep)
        drop = np.setdiff1d(np.arange(site.width), keep)
        for reading in site.readings:
            if reading.consumer in convolutions:
                path = convolutions[reading.consumer].kernel
                axis = convolutions[reading.consumer].axes[-2]
            else:
                path, axis = graph.affine(reading.consumer).kernel, 0
            if reading.consumer in convolutions and convolutions[reading.consumer].groups > 1:
                groups = convolutions[reading.consumer].groups
                ignoring[path], small[path] = by_group(small[path], groups, keep)
                continue
            start, width = among(reading.members, site.name, site.width)
            gone = rows_of(reading, width, start + drop)
            ignoring[path] = ignoring[path].copy()
            np.moveaxis(ignoring[path], axis, 0)[gone] = 0.0
            drops.setdefault((path, axis), []).append(gone)
        for leaf in site.unit_leaves:
            start, _ = among(leaf.members, site.name, site.width)
            drops.setdefault((leaf.path, leaf.axis), []).append(start + drop)
        conv = convolutions[site.producer]
        units = [(conv.kernel, conv.axes[-1])]
        units += [(conv.bias, 0)] if conv.bias else []
        units += [(path, 0) for path in conv.scaling.leaves] if conv.scaling else []
        for path, axis in units:
            small[path] = np.take(small[path], keep, axis)
    for (path, axis), gone in drops.items():
        small[path] = np.delete(small[path], np.concatenate(gone), axis)
    return (pytree.unflatten({k: jnp.asarray(v) for k, v in t.items()}) for t in (ignoring, small))


@given(convnets.plans)
def test_narrowed_networks_compute_what_is_left(plan):
    check(plan)


@given(convnets.plans)
def test_linear_convolutions_compose_exactly(plan):
    """Channels without activation: two kernels and their product compute the same."""
    apply, params, x = convnets.build(plan, np.float64)
    assume(0 not in jax.eval_shape(apply, params, x).shape)
    net = linjax.trace(apply, params, x[:2])
    flat = pytree.flatten(params)
    for site in net.graph.channels:
        conv = net.graph.convolution(site.producer)
        shared = any(leaf.members for leaf in site.unit_leaves)  # others' units are in them, too
        chained = any(net.graph.in_chain(r.consumer) for r in site.readings)
        if site.straight and not shared and not chained:
            own = kernels.read(conv, flat)
            none = Kernel(own.kernel[..., :0], own.bias[:0], own.kernel, own.bias)
            flat = kernels.write(conv, flat, none)
            flat = {p: v for p, v in flat.items() if p not in {u.path for u in site.unit_leaves}}
    want = net.apply(pytree.unflatten(flat), x)
    small, gone = flat, 0
    for site in net.graph.channels:
        one = multiplied(net.graph, small, site)
        small, gone = (small, gone) if one is None else (one, gone + 1)
    assume(gone)
    scale = max(float(abs(want).max()), 1e-3)
    np.testing.assert_allclose(net.apply(pytree.unflatten(small), x), want, atol=1e-9 * scale)


def check(plan):
    """Traces a network, takes channels out, and compares with the network that ignores them."""
    apply, params, x = convnets.build(plan, np.float64)
    assume(0 not in jax.eval_shape(apply, params, x).shape)
    net = linjax.trace(apply, params, x[:2])
    inner = {f"stage{i}" for i in range(len(plan.stages))} | set(params) & {"block"}
    sites = {site.name for site in net.graph.channels}
    known = sites | {r.name for r in net.graph.refusals}
    assert inner <= {name.split("/")[0] for name in known}  # found, or refused with a reason
    if "block" in params:
        assert "block/first" in sites
    if plan.block == "fork":
        assert "block/third" in sites
    if plan.block in ("dense", "skip", "inception"):
        assert "block/second" in sites
    if plan.block == "groups":
        assert {"block/second", "block/third"} <= sites
    if plan.block == "growing":
        assert {"block/second", "block/grown"} <= sites

    y = apply(params, x)
    scale = max(float(abs(y).max()), 1e-3)
    np.testing.assert_allclose(net.run(params, x, through=True)[0], y, atol=1e-9 * scale)
    ignoring, small = without(net, params, np.random.default_rng(plan.seed))
    want = apply(ignoring, x)
    np.testing.assert_allclose(net.apply(small, x), want, atol=1e-9 * scale)

    merged = pytree.flatten(small)  # batch norm multiplied in
    for conv in net.graph.convolutions:
        merged = kernels.write(conv, merged, kernels.read(conv, merged))
    np.testing.assert_allclose(net.apply(pytree.unflatten(merged), x), want, atol=1e-8 * scale)
