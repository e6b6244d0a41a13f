"""Kernels that make linear coordinates are factored after these have first been read."""

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.fold.engine.choose import Choice
from linjax.fold.plans.factored import Kernel
from linjax.fold.plans.pricing import chosen
from linjax.fold.rewrite import write
from linjax.fold.sequential.necks import _metric, refactored
from linjax.fold.written import begun, finished

WIDTH = 24


def apply(p, x):
    z = x @ p["a"] + p["ab"]
    g = jnp.tanh(jax.nn.relu(z) @ p["r"] @ p["s"] + p["sb"])
    return jax.nn.relu(z + g @ p["m"] + p["mb"]) @ p["o"]


def network():
    rng = np.random.default_rng(3)

    def draw(*s):
        return jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]), jnp.float32)

    params = {"a": draw(8, WIDTH), "ab": draw(WIDTH) + 1, "r": draw(WIDTH, WIDTH)}
    params |= {"s": draw(WIDTH, 32), "sb": draw(32) + 1, "m": draw(32, WIDTH), "mb": draw(WIDTH)}
    return params | {"o": draw(WIDTH, 4)}, 28 * draw(800, 8)


def test_what_linear_coordinates_lack_is_given_to_their_readers():
    """The means of what is read linearly stay, however few directions pass."""
    params, x = network()
    net = linjax.trace(apply, params, x[:1])
    own = net.network
    known = linjax.frontier(params, linjax.collect(net, params, [x], metric="identity"))
    flat = own.flatten(params)
    n = next(i for i, site in enumerate(known.problems.sites) if site.name == "a")
    site, points = known.problems.sites[n], known.problems.points[n]
    plan = known.plan(linjax.size(0.2))
    choice = chosen(known.problems, plan)[n].by_site(points)
    now = write(own, begun(own, flat), site, choice)
    assert ("m_linear",) in now.flat
    units = choice.kept.shape[-1]
    now.flat[("o",)][:units] = 0.0  # what is read of units is not linear
    kernel = next(k for k in known.problems.kernels if own.paths[k.leaf] == ("m",))
    z = x @ params["a"] + params["ab"]
    g = np.asarray(jnp.tanh(jax.nn.relu(z) @ params["r"] @ params["s"] + params["sb"]), np.float64)
    moments = g.mean(0), np.cov(g.T, bias=True)
    after = refactored(own, now, kernel, 2, moments, choice)
    before, found = (
        np.asarray(net.apply(finished(w.flat, params), x), np.float64) for w in (now, after)
    )
    assert np.abs(found - before).mean() > 1e-2  # few directions pass
    shift = np.abs((found - before).mean(0))
    assert shift.max() < 0.05 * np.abs(found - before).mean()


def test_errors_of_what_is_made_cost_what_errors_that_make_them_do():
    """The metric at the results, of units that stay and of combinations of the others."""
    rng = np.random.default_rng(0)
    root, linear = rng.normal(size=(9, 9)), rng.normal(size=(9, 3))
    kept = np.array([1, 4, 7])
    kernel = Kernel(None, 0, rng.normal(size=(5, 9)), None, root @ root.T, 0, None)
    made = Choice(kept[None], linear[None], None, (), (), 0.0)
    assert _metric(kernel, None, 9) is kernel.metric
    for width in (3, 6):  # without and with linear coordinates
        found = _metric(kernel, made, width)
        mix = np.concatenate([np.eye(9)[:, kept], linear], axis=1)[:, :width]
        error = rng.normal(size=width)
        smallest = np.linalg.lstsq(mix.T, error, rcond=None)[0]
        np.testing.assert_allclose(smallest @ mix, error, rtol=1e-9)
        np.testing.assert_allclose(error @ found @ error, smallest @ kernel.metric @ smallest)
    basis = np.linalg.qr(rng.normal(size=(9, 4)))[0]
    turned = made._replace(basis=basis[None], kept=np.arange(4)[None])
    np.testing.assert_allclose(_metric(kernel, turned, 4), basis.T @ kernel.metric @ basis)
