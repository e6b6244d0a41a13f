import importlib.util
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import linjax
from experiments.data import load
from experiments.exact import network, removal, scaling, tables, training
from experiments.run import OtherRun
from linjax.fold.lossless.exact import DEFAULT, PUBLISHED

ROOT = pathlib.Path(__file__).parents[2]


def config_of(name, *variant):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*variant)


@pytest.fixture
def config():
    config = config_of("exact_mnist")
    config.dataset.name = "digits"
    config.cases = ((6, 1e-2, 0.0), (6, 0.0, 0.0))
    config.seeds = 1
    config.training.epochs = 4
    return config


@pytest.fixture(scope="module")
def digits():
    return load(ConfigDict({"name": "digits", "seed": 0, "rows": 0, "drop": ()})).train


PAIR = training.Members(
    np.array([3, 4], np.int32), np.array([0.0, 1e-2], np.float32), np.zeros(2, np.float32)
)
WIDTHS = (64, 5, 10)


def quick():
    config = config_of("exact_mnist").training
    config.epochs = 2
    return config


@pytest.fixture(scope="module")
def together(digits, tmp_path_factory):
    """Two networks, trained at once."""
    file = tmp_path_factory.mktemp("pair") / "training.npz"
    return training.fit(PAIR, WIDTHS, quick(), digits, file, say=str)


def norm(params):
    return sum(float(jnp.abs(part["kernel"]).sum()) for part in params)


def test_networks_trained_together_are_those_trained_alone(together, digits, tmp_path):
    second = training.Members(*(field[1:] for field in PAIR))
    alone = training.fit(second, WIDTHS, quick(), digits, tmp_path / "file.npz", say=str)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b[1], atol=1e-4), alone, together)


def test_training_goes_on_to_the_same_parameters(together, digits, tmp_path):
    def stop(text):
        raise KeyboardInterrupt

    file = tmp_path / "parts.npz"
    with pytest.raises(KeyboardInterrupt):
        training.fit(PAIR, WIDTHS, quick(), digits, file, stop)
    parts = training.fit(PAIR, WIDTHS, quick(), digits, file, say=str)
    jax.tree.map(np.testing.assert_array_equal, together, parts)


def test_l1_makes_kernels_smaller(together):
    free, penalised = (jax.tree.map(lambda leaf, i=i: leaf[i], together) for i in range(2))
    assert norm(penalised) < norm(free)


@pytest.mark.parametrize("name", ["stability", "polarised"])
def test_second_penalties_are_differentiable(name):
    params = network.init(0, (4, 3, 3, 2))
    x = jnp.linspace(0, 1, 20).reshape(5, 4)

    def loss(params):
        return training.penalty_of(name)(params, network.preactivations(params, x))

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert -1 <= value <= 1
    assert norm(gradient) > 0


def test_unknown_penalty_is_refused():
    with pytest.raises(ValueError, match="'l3'"):
        training.penalty_of("l3")


def test_ours_removes_at_least_as_much_as_published():
    # In the first layer two units are on and one is off, in the second both are on.
    params = [
        {"kernel": np.array([[1.0, 1.0, -1.0]] * 9), "bias": np.array([1.0, 2.0, -1.0])},
        {"kernel": np.array([[1.0, -1.0]] * 3), "bias": np.array([0.0, 2.0])},
        {"kernel": np.ones((2, 2)), "bias": np.zeros(2)},
    ]
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    net = linjax.trace(network.apply, params, np.zeros((1, 9), np.float32))
    bounds = linjax.certify(net, params, 0.0, 1.0)
    reports = [
        linjax.fold_and_report(params, bounds, rewritings=rules)[1]
        for rules in (PUBLISHED, DEFAULT)
    ]
    published, ours = reports
    assert published.before == ours.before == 44
    assert removal.removed_units(published) >= 2
    assert ours.after <= published.after


def test_run_is_taken_up_where_it_stopped(config, tmp_path, capsys):
    rows = removal.run(config, tmp_path)
    assert len(rows) == 2
    assert all(row["verified"] and row["undecided"] == 0 for row in rows)
    assert all(row["ours_parameters"] >= row["published_parameters"] for row in rows)
    assert all(row["ours_agreement"] == 1 for row in rows)
    table = (tmp_path / "results.md").read_text()
    assert "| 6 | 0.01 | 0 | 1 |" in table

    # Without its last row the run makes just that one again, from the weights it kept.
    file = tmp_path / "results.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole.splitlines(keepends=True)[0])
    capsys.readouterr()
    again = removal.run(config, tmp_path)
    said = capsys.readouterr().out
    assert "epoch" not in said and said.count("accuracy 0.") == 1
    assert file.read_bytes().startswith(whole.splitlines(keepends=True)[0])
    assert {k: v for k, v in again[1].items() if k != "seconds"} == {
        k: v for k, v in rows[1].items() if k != "seconds"
    }

    config.training.epochs = 5
    with pytest.raises(OtherRun, match=r"training\.epochs"):
        removal.run(config, tmp_path)


def test_table_gives_means_beside_published_figures(config):
    row = {
        "width": 25, "l1": 1e-3, "extra": 0.0, "accuracy": 0.95, "units": 50, "parameters": 1000,
        "published_units": 10, "ours_units": 15, "published_parameters": 100,
        "ours_parameters": 300, "published_agreement": 1.0, "ours_agreement": 1.0,
        "undecided": 0, "verified": True, "seconds": 2.0,
    }  # fmt: skip
    config.cases = ((25, 1e-3, 0.0), (25, 0.0, 0.0))
    lines = tables.removal([row, row | {"accuracy": 0.97}], config).splitlines()
    assert len(lines) == 3  # a case without rows has no line
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:7] == ["25", "0.001", "0", "2", "96.00%", "95.76%", "22%"]
    assert cells[7:] == ["20.0%", "30.0%", "10.0%", "30.0%", "100.00%", "0", "2", "2.0"]


def test_scaling_times_each_shape_once(tmp_path):
    config = config_of("exact_scaling")
    config.dataset.name = "digits"
    config.shapes = ((6, 6),)
    config.training.epochs = 1
    config.sampled = False
    (row,) = scaling.run(config, tmp_path)
    assert row["verified"] and row["units"] == 12
    assert row["active"] + row["inactive"] + row["unstable"] + row["undecided"] == 12
    assert scaling.run(config, tmp_path)[0]["certify"] == row["certify"]
    assert "| 6-6 | 12 |" in (tmp_path / "results.md").read_text()


def test_command_says_what_data_is_missing(tmp_path):
    command = [
        sys.executable, "-m", "experiments.exact", f"--config={ROOT}/configs/exact_mnist.py",
        f"--workdir={tmp_path}", f"--data_dir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1
    assert f"mnist is not in {tmp_path}" in done.stderr


@pytest.mark.parametrize("name", ["exact_mnist", "exact_scaling"])
def test_config_gives_its_command(name):
    assert config_of(name).experiment == name.replace("exact_mnist", "removal").split("_")[-1]
    command = f"python -m experiments.exact --config=configs/{name}.py"
    assert command in (ROOT / "configs" / f"{name}.py").read_text()
