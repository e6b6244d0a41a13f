"""Shares of parameters that sites reach, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

import linjax


def test_shares_are_those_counted_by_hand():
    def apply(params, x):
        h = jax.nn.relu(x @ params["up"] + params["bias"])
        y = h @ params["down"]  # a straight line to the head
        return y @ params["head"] + x @ params["beside"]

    sizes = {"up": (3, 5), "bias": (5,), "down": (5, 4), "head": (4, 2), "beside": (3, 2)}
    params = {name: jnp.ones(size) for name, size in sizes.items()}
    found = linjax.coverage(linjax.trace(apply, params, jnp.ones((2, 3))))
    assert found.parameters == 15 + 5 + 20 + 8 + 6
    assert found.bent == pytest.approx((15 + 5 + 20) / 54)
    assert found.straight == found.normed == found.foldable == pytest.approx(48 / 54)


def test_what_is_not_used_or_no_floating_number_is_not_counted():
    params = {"up": jnp.ones((3, 4)), "down": jnp.ones((4, 2)), "order": jnp.arange(2),
              "idle": jnp.ones(30)}  # fmt: skip
    net = linjax.trace(
        lambda p, x: (jax.nn.relu(x @ p["up"]) @ p["down"])[:, p["order"]],
        params,
        jnp.ones((1, 3)),
    )
    assert linjax.coverage(net) == linjax.Shares(20, 1.0, 1.0, 1.0, 1.0, 1.0)
