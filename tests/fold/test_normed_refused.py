"""Streams that norms run over whose basis stays: refused by name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.dims.sites import Form
from tests.fold.normed import (
    WIDTH,
    layer,
    plain,
    rms,
    rows,
    typed,
)


def after_sums(p, x):
    h = layer(p, x @ p["e"])
    for q in p["blocks"]:
        h = layer(q, h + jnp.tanh(h @ q["u"]) @ q["d"])
    return h @ p["h"]


def read_elsewhere(p, x):
    h = x @ p["e"]
    for q in p["blocks"]:
        h = h + jnp.tanh(layer(q, h) @ q["u"]) @ q["d"]
    return h @ p["h"]


def in_groups(p, x):
    h = x @ p["e"]
    parts = h.reshape(-1, 3, WIDTH // 3)
    n = parts * jax.lax.rsqrt(jnp.mean(parts**2, -1, keepdims=True) + 1e-6)
    return (h + jnp.tanh(n.reshape(-1, WIDTH) @ p["blocks"][0]["u"]) @ p["blocks"][0]["d"]) @ p["h"]


def bent(p, x):
    h = jax.nn.relu(x @ p["e"])
    return rms(p, h) @ p["h"]


def constants(p, x):
    h = x @ p["e"] + np.linspace(0, 1, WIDTH, dtype=np.float32)
    return rms(p, h) @ p["h"]


def computed(p, x):
    return rms({"g": 1 + p["g"]}, x @ p["e"]) @ p["h"]


def scanned(p, x):
    def step(h, q):
        return h + jnp.tanh(rms(q, h) @ q["u"]) @ q["d"], None

    return rms(p, jax.lax.scan(step, x @ p["e"], p["stacked"])[0]) @ p["h"]


def of_another(p, x):
    """The mean that is subtracted is that of an earlier value of the stream."""
    h = x @ p["e"]
    after = h + jnp.tanh(layer(p, h) @ p["blocks"][0]["u"]) @ p["blocks"][0]["d"]
    apart = after - h.mean(-1, keepdims=True)
    n = apart / jnp.sqrt(jnp.mean(apart**2, -1, keepdims=True) + 1e-6)
    return (n * p["g"]) @ p["h"]


def given_away(p, x):
    h = x @ p["e"]
    return layer(p, h) @ p["h"], h.sum(-1)


def coordinate_by_coordinate(p, x):
    h = (x @ p["e"])[:, :, None] * jnp.ones(3)
    h = jax.lax.conv_general_dilated(
        h, jnp.tile(p["g"][:, None, None], (1, 1, 2)), (1,), "SAME", feature_group_count=WIDTH
    )
    return rms(p, h.swapaxes(1, 2)) @ p["h"]


REFUSED = [
    (of_another, "."),
    (given_away, "a sum over it is given"),
    (coordinate_by_coordinate, "."),
    (after_sums, "follow sums"),
    (read_elsewhere, "read in others"),
    (in_groups, "parts of it|cut or flattened"),
    (bent, "stands between"),
    (constants, "a constant is added"),
    (computed, "computes parameters"),
    (scanned, "in a scan"),
]


@pytest.mark.parametrize(("apply", "reason"), REFUSED)
def test_what_cannot_be_turned_is_refused_by_name(apply, reason):
    params = typed(plain(), jnp.float32)
    params["stacked"] = jax.tree.map(lambda *a: jnp.stack(a), *params["blocks"])
    net = linjax.trace(apply, params, rows(7)[:1])
    normed = [site for site in net.network.sites if site.form is Form.NORMED]
    assert normed and all(site.norms is None for site in normed)
    assert not {site.name for site in normed} & {site.name for site in net.network.foldable}
    reasons = {refusal.name: refusal.reason for refusal in net.network.refusals}
    assert any(re.search(reason, reasons[site.name]) for site in normed), reasons
    assert "left alone" in repr(net)
