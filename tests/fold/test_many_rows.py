"""Shrinkage is compared for sites whose rows are few, and for no others."""

import jax
import jax.numpy as jnp

import linjax
from linjax.fold.engine.plan import RIDGE, RIDGES, shrinkage
from linjax.fold.engine.problem import many_rows
from linjax.fold.plans import pricing


def apply(p, x):
    h = jax.nn.relu(x @ p["in"])  # (rows, places, units): many samples
    h = jax.nn.relu(h @ p["up"]).mean(1)  # one a row
    return h @ p["head"]


def test_sites_of_many_rows_are_measured_once(monkeypatch):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "in": jax.random.normal(keys[0], (5, 12)),
        "up": jax.random.normal(keys[1], (12, 64)) / 3,
        "head": jax.random.normal(keys[2], (64, 4)) / 8,
    }
    x = jax.random.normal(keys[3], (120, 30, 5))
    net = linjax.trace(apply, params, x)
    calls = []
    whole = pricing.all_surfaces

    def counted(problems, ridges, mesh):
        pairs = zip(problems, ridges, strict=True)
        calls.extend((problem.name, ridge) for problem, own in pairs for ridge in own)
        return whole(problems, ridges, mesh)

    monkeypatch.setattr(pricing, "all_surfaces", counted)
    known = linjax.frontier(params, linjax.collect(net, params, [x]))
    many, few = known.problems.problems
    assert many_rows(many) and not many_rows(few)
    assert [own for own in calls if own[0] == many.name] == [(many.name, RIDGE)]
    assert sorted(r for name, r in calls if name == few.name) == sorted(RIDGES)
    assert shrinkage(many, 0.5) == RIDGE and shrinkage(few, 0.5) == 0.5
    small = linjax.fold(params, known, linjax.size(0.5))
    assert linjax.count(small) <= 0.5 * linjax.count(params)
    assert jnp.isfinite(jax.jit(net.apply)(small, x)).all()
