"""Kernels that make linear coordinates are factored after these have first been read."""

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.fold.plans.pricing import chosen
from linjax.fold.rewrite import write
from linjax.fold.sequential.necks import refactored
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
    after = refactored(own, now, kernel, 2, moments, None)
    before, found = (
        np.asarray(net.apply(finished(w.flat, params), x), np.float64) for w in (now, after)
    )
    assert np.abs(found - before).mean() > 1e-2  # few directions pass
    shift = np.abs((found - before).mean(0))
    assert shift.max() < 0.05 * np.abs(found - before).mean()
