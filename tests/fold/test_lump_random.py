"""Lumping of random networks with planted multiples and duplicates: the function stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linjax
from linjax.dims.sites import Form
from linjax.dims.span import Cut, transform
from linjax.exact.multiples import prove
from linjax.fold.lossless.lump_sites import lump_sites
from linjax.program import pytree
from tests.fold.test_lump_sites import copied
from tests.properties import architectures, convnets

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")


def planted(net, params, rng):
    """Plants multiples of random coordinates, or duplicates, in what random sites are made of."""
    flat = {path: np.array(leaf) for path, leaf in pytree.flatten(params).items()}
    layout, duplicates = net.network.layout, set()
    for site in net.network.sites:
        if site.form not in (Form.BENT, Form.STRAIGHT) or rng.random() < 0.3:
            continue
        to, source = rng.choice(site.width, 2, replace=False)
        factor, faithful = rng.choice([1.0, 0.5, 3.0]), rng.random() < 0.7
        read = {reader.leaf for reader in site.readers}
        for n, spans in enumerate(layout.leaves):
            if n in read or not any(site.dim in s.dims() for s in spans):
                continue
            own = factor if faithful or rng.random() < 0.5 else 1.0

            def plant(x, to=to, source=source, own=own):
                return copied(x, to, source, own)

            size = layout.traced.__getitem__
            path = net.network.paths[n]
            flat[path] = transform(flat[path], spans, Cut(site.dim, site.beside, size, plant))
        if factor == 1.0:
            duplicates.add(site.name)
    return pytree.unflatten(flat, like=params), duplicates


def keeps_the_function(apply, params, x, seed):
    """Whatever is planted; returns widths before and after, and where duplicates were planted."""
    rng = np.random.default_rng(seed)
    net = linjax.trace(apply, params, x[:2])
    params, duplicates = planted(net, params, rng)
    params = jax.tree.map(lambda a: jnp.asarray(a), params)
    flat = pytree.flatten(params)
    found = lump_sites(net.network_for(flat, net.example), flat, 0.0)
    want = np.asarray(jax.jit(apply)(params, x), np.float64)
    own = jax.jit(lambda p, x: net.run(p, x).outputs)
    got = np.asarray(own(pytree.unflatten(found.flat), x), np.float64)
    eps = float(jnp.finfo(want.dtype if x.dtype == np.float64 else x.dtype).eps)
    scale = np.abs(want[np.isfinite(want)]).max(initial=1e-30)
    np.testing.assert_allclose(got, want, rtol=0, atol=2000 * eps * scale)
    names = [site.name for site in net.network.sites]
    lost = {n for n, a, b in zip(names, found.units, found.kept, strict=True) if b < a}
    return net, lost, duplicates


@settings(max_examples=12, deadline=None, derandomize=True)
@given(convnets.plans, st.integers(0, 2**20), st.booleans())
def test_random_convolutional_networks(plan, seed, double):
    with jax.enable_x64(double):
        apply, params, x = convnets.build(plan, np.float64 if double else np.float32)
        x = np.asarray(x)
        net, lost, duplicates = keeps_the_function(apply, params, x, seed)
        for site in net.network.sites:
            if site.name in duplicates and not site.fixed:
                proof = prove(net.network.layout, site.dim, site.beside)
                assert proof is None or site.name in lost, (site.name, plan)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**20), st.lists(st.sampled_from(architectures.KINDS), min_size=1, max_size=3)
)
def test_random_architectures(seed, kinds):
    with jax.enable_x64(True):
        network = architectures.make(seed, kinds)
        keeps_the_function(network.apply_fn, network.params, network.x, seed)
