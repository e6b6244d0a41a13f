"""The command line: what it prints, where it writes, how it fails."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax import cli
from tests.store import networks


@pytest.fixture
def path(tmp_path):
    net, params, _ = networks.network()
    linjax.save(tmp_path / "net", net, params)
    return tmp_path / "net"


def test_inspect(path, capsys):
    assert cli.main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    for word in ("2 foldable sites", "relu", "840 of 840 parameters", "any batch size", "last/w"):
        assert word in text
    assert cli.main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == path.stat().st_size
    assert found["provenance"]["after"] == 840


def test_export(path, tmp_path, capsys):
    target = tmp_path / "program"
    assert cli.main(["export", str(path), "--to", str(target), "--platforms", "cpu,tpu"]) == 0
    assert "cpu,tpu" in capsys.readouterr().out
    program = jax.export.deserialize(bytearray(target.read_bytes()))
    net, params = linjax.load(path)
    x = jnp.ones((5, 6))
    np.testing.assert_allclose(program.call(params, x), net.apply(params, x), rtol=1e-6)
    assert program.platforms == ("cpu", "tpu")


def test_fold(path, tmp_path, capsys):
    np.save(tmp_path / "x.npy", networks.network()[2])
    target = tmp_path / "small"
    command = [
        "fold", str(path), "--data", str(tmp_path / "x.npy"), "--apply",
        "tests.store.networks:apply_fn", "--size", "0.3", "--to", str(target), "--json",
    ]  # fmt: skip
    assert cli.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    _, params = linjax.load(target)
    assert linjax.count(params) == found["after"] <= 0.3 * found["before"]
    assert found["bytes"] == target.stat().st_size


def test_errors_take_one_line(path, tmp_path, capsys):
    (tmp_path / "noise.npy").write_bytes(b"noise")
    fold = ["fold", str(path), "--to", str(tmp_path / "y"), "--size", "0.5"]
    apply = ["--apply", "tests.store.networks:apply_fn"]
    for command, reason in (
        (["inspect", str(tmp_path / "nowhere")], "No such file"),
        (["inspect", str(tmp_path / "noise.npy")], "not a safetensors file"),
        (["export", str(path), "--to", str(tmp_path / "p"), "--platforms", "abacus"], "choose"),
        (["export", str(path), "--to", str(path)], "give another path"),
        ([*fold, "--data", "nowhere.npy", *apply], "No such file"),
        ([*fold, "--data", str(tmp_path / "noise.npy"), *apply], "not an .npy or .npz"),
        ([*fold, "--data", "x.npy", "--apply", "nowhere"], "expected MODULE:FUNCTION"),
        ([*fold, "--data", "x.npy", "--apply", "json:nothing"], "expected MODULE:FUNCTION"),
        ([*fold, "--data", "x.npy", *apply, "--batch", "0"], "at least 1"),
    ):
        assert cli.main(command) == 1, command
        captured = capsys.readouterr()
        assert reason in captured.err and captured.err.count("\n") == 1
        assert captured.err.startswith("linjax: ") and not captured.out


@pytest.mark.parametrize("command", [[], ["fold", "x"], ["melt"], ["inspect"]])
def test_wrong_usage_exits_with_two(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(command)
    assert exit_.value.code == 2
    assert "usage: linjax" in capsys.readouterr().err


def test_help_and_version(capsys):
    for command in (["--help"], ["fold", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(command)
        assert exit_.value.code == 0
    assert f"linjax {linjax.__version__}" in capsys.readouterr().out
