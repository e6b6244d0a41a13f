"""Constants on their way from where linear coordinates are made to where they are read.

The oracle is the network itself: kernels of units that are always on, in all layers but the last,
so that linear coordinates give what they computed exactly, whatever lies between.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.program import pytree

T, ROWS = 5, 300
relu = jax.nn.relu


def mixed(p, x):
    """Weights of three members that depend on the input."""
    return jax.nn.softmax(x @ p["gate"], axis=-1)


MEMBERS = "bte,betq->btq"
TRIANGLE = jnp.tril(jnp.ones((T, T)))
BEHIND = {
    "as it is": (lambda p, x, h: h, True),
    "a multiple": (lambda p, x, h: 3 * h, True),
    "less": (lambda p, x, h: 1 - 3 * h, True),
    "mean": (lambda p, x, h: h.mean(axis=1), True),
    "turned around": (lambda p, x, h: h[:, ::-1], True),
    "joined": (lambda p, x, h: jnp.concatenate([h[:, 1:], h[:, :1]], axis=1), True),
    "halves": (lambda p, x, h: (h + h[:, ::-1]) / 2, False),
    "sum": (lambda p, x, h: h.sum(axis=1), False),
    "sum so far": (lambda p, x, h: jnp.cumsum(h, axis=1), False),
    "differences": (lambda p, x, h: jnp.diff(h, axis=1), False),
    "masked": (lambda p, x, h: h * (x[..., :1] > 0), False),
    "chosen": (lambda p, x, h: jnp.where(x[..., :1] > 0, h, 0.0), True),
    "a constant mask": (lambda p, x, h: h * jnp.asarray([1.0, 0, 1, 0, 1])[:, None], True),
    "padded": (lambda p, x, h: jnp.pad(h, ((0, 0), (1, 1), (0, 0))), False),
    "weighed": (lambda p, x, h: h * mixed(p, x)[..., :1], False),
    "attended": (lambda p, x, h: jnp.einsum("btd,bsd->bts", x, x) @ h, False),
    "mixed over places": (lambda p, x, h: jnp.einsum("ts,bsd->btd", TRIANGLE, h), False),
}  # fmt: skip


def parameters(members=()):
    rng = np.random.default_rng(0)

    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) / shape[-2] ** 0.5, jnp.float32)

    shift = jnp.asarray(rng.choice([0.0, 6.0], (*members, 24)), jnp.float32)
    return {
        "up": kernel(6, 24), "on": jnp.full(24, 8.0), "across": kernel(*members, 24, 24),
        "shift": shift, "down": kernel(24, 4), "gate": kernel(6, 3),
        "each": kernel(3, 24, 4),
    }  # fmt: skip


def first(p, x):
    return relu(x @ p["up"] + p["on"])


def behind(way):
    def apply(p, x):
        return way(p, x, relu(first(p, x) @ p["across"] + p["shift"])) @ p["down"]

    return apply


def before(way):
    def apply(p, x):
        return relu(way(p, x, first(p, x) @ p["across"]) + p["shift"]) @ p["down"]

    return apply


def members_behind(p, x):
    h = jnp.einsum("btd,edq->betq", first(p, x), p["across"]) + p["shift"][:, None]
    return jnp.einsum(MEMBERS, mixed(p, x), relu(h)) @ p["down"]


def members_before(p, x):
    h = jnp.einsum("btd,edq->betq", first(p, x), p["across"]) + p["shift"][:, None]
    return relu(jnp.einsum(MEMBERS, mixed(p, x), h)) @ p["down"]


def members_apart(p, x):
    h = relu(jnp.einsum("btd,edq->betq", first(p, x), p["across"]) + p["shift"][:, None])
    every = jnp.einsum("betq,eqo->beto", h, p["each"])
    return jnp.einsum("bte,beto->bto", mixed(p, x), every)


NETWORKS = {
    **{f"{name} behind": (behind(way), ()) for name, (way, _) in BEHIND.items()},
    **{f"{name} before": (before(way), ()) for name, (way, _) in BEHIND.items()
       if name in ("masked", "sum so far", "padded", "weighed")},
    "members behind": (members_behind, (3,)),
    "members before": (members_before, (3,)),
    "members apart": (members_apart, (3,)),
}  # fmt: skip


@pytest.mark.quick(8)
@pytest.mark.parametrize("name", NETWORKS)
def test_folds_behind_layers_that_are_affine_cost_what_is_predicted(name):
    apply, members = NETWORKS[name]
    params = parameters(members)
    if apply is not members_apart:
        del params["each"]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, T, 6)), jnp.float32)
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x[: ROWS // 2], x[ROWS // 2 :]], metric="identity")
    known = linjax.frontier(params, stats)
    for share in (0.5, 0.35, 0.2):
        rule = linjax.size(share)
        plan, small = known.plan(rule), linjax.fold(params, known, rule)
        assert linjax.count(small) <= share * linjax.count(params)
        error = linjax.compare(net, params, small, [x], metric="identity").error
        assert error < 2 * plan.error + 1e-3
        once_more = linjax.collect(net, small, [x], metric="identity")
        smaller = linjax.fold(small, once_more, linjax.size(0.8))
        assert linjax.compare(net, small, smaller, [x], metric="identity").error < 0.1


@pytest.mark.parametrize("name", BEHIND)
def test_what_constants_become_on_their_way(name):
    way, steady = BEHIND[name]
    params, x = parameters(), jnp.zeros((2, T, 6))
    net = linjax.trace(behind(way), params, x)
    assert net.network.site("across").steady == steady


def test_offsets_are_saved(tmp_path):
    params = parameters()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, T, 6)), jnp.float32)
    apply = behind(BEHIND["sum"][0])
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.35))
    flat = pytree.flatten(small)
    assert ("across_linear_offset",) in flat
    linjax.save(tmp_path / "net", net, small)
    for stored, loaded in (linjax.load(tmp_path / "net"), linjax.load(tmp_path / "net", apply)):
        np.testing.assert_allclose(stored.apply(loaded, x), net.apply(small, x), rtol=1e-4)
    wrong = {**small, "across_linear_offset": jnp.ones(1 + small["across_linear_offset"].size)}
    with pytest.raises(linjax.StructureError, match="across_linear_offset"):
        net.apply(wrong, x)
