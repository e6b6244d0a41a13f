"""Units that are provably linear are counted, by signs and by certificates; what proofs remove."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from configs import exact_mnist, exact_scaling
from experiments import exact, methods, models
from experiments.run import run


def network():
    """Four units, then three: on by signs, on, off and either; on by signs, off and either."""
    layers = {
        0: {"kernel": jnp.array([[1.0, -1.0, -1.0, 1.0], [2.0, 1.0, -1.0, -1.0]]),
            "bias": jnp.array([0.0, 2.0, -1.0, 0.0])},
        1: {"kernel": jnp.array([[1.0, -1, 1], [0, -1, 0], [1, -1, 1], [0.5, 0, -3]]),
            "bias": jnp.array([0.5, -1.0, 0.0])},
        2: {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)},
    }  # fmt: skip
    return models.dense(layers, "relu")


def box(low, high):
    return np.array(list(itertools.product((low, high), repeat=2)), np.float32)


def subject(made, rows):
    net = linjax.trace(made.apply, made.params, rows[:1])
    return methods.Subject(net, made.params, rows, 4, box=(rows.min(0), rows.max(0)))


def test_counts_units_that_are_provably_linear():
    found = exact.proven(subject(network(), box(0.0, 1.0)))
    counts = {name: found[name] for name in ("static", *exact.VERDICTS, "verified")}
    assert counts == {
        "static": 2, "active": 3, "inactive": 2, "unstable": 2, "undecided": 0, "verified": 1,
    }  # fmt: skip


def test_signs_say_nothing_where_inputs_may_be_negative():
    assert exact.static(network().params, np.array([-1.0, 0.0])) == 1  # behind a ReLU they do


def test_programs_decide_what_certificates_do():
    own = subject(network(), box(0.0, 1.0))
    bounds = linjax.certify(own.net, own.params, *own.box, method="milp")
    for theirs, ours in zip(bounds.sites, own.bounds.sites, strict=True):
        np.testing.assert_array_equal(theirs.verdict, ours.verdict)
    assert linjax.How.WITNESS in bounds.sites[1].how  # an input that a program found
    started = time.perf_counter()
    assert 0 < exact.one_unit(own) < (time.perf_counter() - started) / 2  # of three units


def test_ours_removes_at_least_as_much_as_published():
    # In the first layer two units are on and one is off, in the second both are on.
    layers = {
        0: {"kernel": np.array([[1.0, 1.0, -1.0]] * 9), "bias": np.array([1.0, 2.0, -1.0])},
        1: {"kernel": np.array([[1.0, -1.0]] * 3), "bias": np.array([0.0, 2.0])},
        2: {"kernel": np.ones((2, 2)), "bias": np.zeros(2)},
    }
    made = models.dense(jax.tree.map(lambda leaf: leaf.astype(np.float32), layers), "relu")
    rows = np.random.default_rng(0).uniform(size=(50, 9)).astype(np.float32)
    own = methods.Subject(linjax.trace(made.apply, made.params, rows), made.params, rows, 50)
    sizes = []
    for name in ("exact_2020", "exact"):
        small = methods.make(own, name, 1.0)
        np.testing.assert_allclose(
            own.net.apply(small, rows), made.apply(made.params, rows), rtol=1e-4
        )
        sizes.append(linjax.count(small))
    assert linjax.count(made.params) == 44 > sizes[0] >= sizes[1]


def test_removal_is_a_sweep(tmp_path):
    config = exact_mnist.get_config()
    config.dataset.name, config.training.epochs, config.calibration.rows = "digits", 4, 200
    axis = f"{'+'.join(config.by)}=((6, 6),1e-2,0.0),((6, 6),0.0,0.0)"
    rows = run(config, [axis, "network.seed=0"], tmp_path)
    assert len(rows) == 2 * 3
    for row in rows:
        assert row["agreement"] == 1 and row["error"] < 1e-5
        if row["rule"] == "original":
            assert row["proven"]["verified"] and row["proven"]["undecided"] == 0
    text = (tmp_path / "results.md").read_text()
    assert "| training.l1 | rule |" in text and "| 0.01 | exact 2020 |" in text


def test_scaling_times_each_shape_once(tmp_path):
    config = exact_scaling.get_config()
    config.dataset.name, config.training.epochs, config.calibration.rows = "digits", 1, 200
    axis = ["network.hidden=(6,6),(5,5,5)"]
    rows = {str(r["task"]["network.hidden"]): r for r in run(config, axis, tmp_path)
            if r["rule"] == "original"}  # fmt: skip
    proven = rows["[6, 6]"]["proven"]
    assert proven["verified"] and sum(proven[name] for name in exact.VERDICTS) == 12
    assert proven["program"] > 0 and proven["ratio"] > 0
    again = run(config, axis, tmp_path)
    assert any(row.get("proven", {}).get("certify") == proven["certify"] for row in again)
    assert "[6, 6]" in (tmp_path / "results.md").read_text()
