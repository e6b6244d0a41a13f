"""Units that are provably linear are counted, by signs and by certificates."""

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from experiments.results import Row
from experiments.sweep import proofs, summary


def network():
    """Four units, then three: on by signs, on, off and either; on by signs, off and either."""
    params = {
        "first": jnp.array([[1.0, -1.0, -1.0, 1.0], [2.0, 1.0, -1.0, -1.0]]),
        "shift": jnp.array([0.0, 2.0, -1.0, 0.0]),
        "second": jnp.array([[1.0, -1, 1], [0, -1, 0], [1, -1, 1], [0.5, 0, -3]]),
        "more": jnp.array([0.5, -1.0, 0.0]),
        "last": jnp.ones((3, 2)),
    }

    def apply(p, x):
        h = jax.nn.relu(x @ p["first"] + p["shift"])
        return jax.nn.relu(h @ p["second"] + p["more"]) @ p["last"]

    return linjax.trace(apply, params, jnp.ones((1, 2))), params


def box(low, high):
    corners = np.array([[low, low], [low, high], [high, low], [high, high]])
    return corners.astype(np.float32)


def test_counts_units_that_are_provably_linear():
    net, params = network()
    found = proofs.counts(net, params, box(0.0, 1.0), 60.0)
    assert found == {
        "units": 7, "static": 2, "active": 3, "inactive": 2, "unstable": 2, "undecided": 0
    }  # fmt: skip


def test_signs_say_nothing_where_inputs_may_be_negative():
    net, params = network()
    assert proofs.static(net, params, np.array([-1.0, 0.0])) == 1  # behind a ReLU they still do


def test_the_summary_adds_them_up():
    counts = {"units": 7, "static": 2, "active": 3, "inactive": 2, "unstable": 2, "undecided": 0}
    rows: list[Row] = [
        {
            "task": {"seed": seed}, "rule": "original", "amount": 1.0, "parameters": 10,
            "accuracy": 0.9, "balanced_accuracy": 0.9, "agreement": 1.0, "classes": 2,
            "proven": counts,
        }
        for seed in range(2)
    ]  # fmt: skip
    text = summary.markdown(rows)
    assert "Of 14 units 4 (28.57%) are linear by the signs" in text
    assert "6 (42.86%) are proven to be always on, 4 (28.57%) always off" in text
