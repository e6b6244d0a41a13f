"""Shortcuts that zeros are put around: shapes don't tell which of them a fold made fewer."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import linjax

sys.path.insert(0, str(Path(__file__).parent))
from removing import check_wide


def padded():
    """Two blocks, each of twice as many units as the last; unit 0 of the first does nothing."""
    shapes = {"in": (6, 4), "up": (4, 20), "down": (20, 12), "wide": (12, 20), "narrow": (20, 18),
              "out": (18, 3)}  # fmt: skip
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) / 2 for name, s in shapes.items()}
    params["down"] = params["down"].at[:, 0].set(0)

    def apply(p, x):
        h = jax.nn.relu(x @ p["in"])
        for around, one, two in ((4, "up", "down"), (3, "wide", "narrow")):
            y = jax.nn.relu(h @ p[one]) @ p[two]
            h = jax.nn.relu(jnp.pad(h, ((0, 0), (around, around))) + y)
        return h @ p["out"]

    return apply, params, jnp.asarray(rng.normal(size=(1500, 6)), jnp.float32)


def test_removing_is_hiding_behind_padded_shortcuts():
    apply, params, x = padded()
    assert check_wide(apply, params, (x[:5],)) == 5


def test_all_but_one_stay_and_it_is_told():
    apply, params, x = padded()
    net = linjax.trace(apply, params, x[:1])
    widths = {site.name: site.width for site in net.network.foldable}
    assert widths == {"in": 4, "up": 20, "down": 4, "wide": 20, "narrow": 3}
    assert str(net).count("no more than their sum is told") == 2


def test_a_fold_costs_what_it_predicts():
    apply, params, x = padded()
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x[:1000]])
    for size in (0.98, 0.9, 0.7):
        small, report = linjax.fold_and_report(params, stats, linjax.size(size))
        error = linjax.compare(net, params, small, [x[1000:]]).error
        assert error < 3 * report.predicted + 1e-3
