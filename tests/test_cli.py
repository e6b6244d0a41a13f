"""The command line: what it prints, where it writes, how it fails."""

import json
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture
def data(tmp_path):
    x = networks.network()[2]
    np.save(tmp_path / "x.npy", x)
    return ["--data", str(tmp_path / "x.npy")]


APPLY = ["--apply", "tests.store.networks:apply_fn"]


def run(capsys, *command):
    """Runs a command that must succeed; returns what it printed as JSON."""
    assert cli.main([*map(str, command), "--json"]) == 0
    captured = capsys.readouterr()
    assert not captured.err
    return json.loads(captured.out)


@pytest.mark.parametrize("extra", [(), ("--refit",)])
def test_fold_measures_and_saves(path, data, tmp_path, capsys, extra):
    target = tmp_path / "small"
    found = run(capsys, "fold", path, *data, *APPLY, "--size", 0.3, "--to", target, *extra)
    net, params = linjax.load(target)
    assert linjax.count(params) == found["after"] <= 0.3 * found["before"]
    assert found["bytes"] == target.stat().st_size
    known = net.manifest.provenance
    assert known.measured.error == found["error"]
    assert known.measured.agreement == found["agreement"]
    assert (known.predicted == found["predicted"]) and (known.rule or known.note)
    assert cli.main(["inspect", str(target)]) == 0
    assert "0.3" in capsys.readouterr().out


def test_a_fold_that_does_nothing_says_so(path, data, tmp_path, capsys):
    command = ["fold", str(path), *data, *APPLY, "--threshold", "1", "--to", str(tmp_path / "y")]
    assert cli.main(command) == 0
    captured = capsys.readouterr()
    assert "linjax: warning: nothing was folded" in captured.err


def test_scores(path, data, capsys):
    found = run(capsys, "inspect", path, *data, *APPLY)
    assert len(found["scores"]["first"]["rate"]) == 24


def test_report_compares_programs_without_code(path, data, tmp_path, capsys):
    small, x = tmp_path / "small", networks.network()[2]
    run(capsys, "fold", path, *data, *APPLY, "--size", 0.3, "--to", small)
    net, params = linjax.load(path)
    np.save(tmp_path / "labels.npy", np.argmax(net.apply(params, x), axis=1))
    found = run(capsys, "report", path, small, *data, "--labels", tmp_path / "labels.npy")
    assert found["accuracy_before"] == 1
    assert found["accuracy"] == found["agreement"] < 1
    assert (found["before"], found["after"]) == (840, linjax.count(linjax.load(small)[1]))


def relu_network(params, x):
    h = jax.nn.relu(x @ params["in"] + params["shift"])
    return h @ params["out"]


def test_certify(tmp_path, capsys):
    rng = np.random.default_rng(0)
    params = {
        "in": jnp.asarray(rng.normal(size=(2, 40)), jnp.float32),
        "shift": jnp.asarray(np.linspace(-6, 6, 40), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(40, 3)), jnp.float32),
    }
    net = linjax.trace(relu_network, params, jnp.ones((1, 2)))
    whole, small = tmp_path / "whole", tmp_path / "small"
    linjax.save(whole, net, params)
    np.save(tmp_path / "low.npy", np.zeros(2))
    box = ["--lower", tmp_path / "low.npy", "--upper", 1]
    found = run(capsys, "certify", whole, *box, "--check")
    bounds = linjax.certify(net, params, 0.0, 1.0)
    assert found["checked"] and found["sites"]["in"]["active"] == np.sum(
        bounds.sites[0].verdict == 1
    )
    apply = ["--apply", f"{__name__}:relu_network"]
    found = run(capsys, "certify", whole, *box, *apply, "--to", small)
    again, folded = linjax.load(small)
    x = jnp.asarray(rng.uniform(size=(50, 2)), jnp.float32)
    np.testing.assert_allclose(again.apply(folded, x), net.apply(params, x), rtol=1e-4, atol=1e-4)
    assert found["after"] < found["before"]
    assert "certificate for a box" in again.manifest.provenance.evidence


def test_bench(path, capsys):
    found = run(capsys, "bench", path, path, "--batch", 8, "--repeat", 3)
    assert [r["parameters"] for r in found["runs"]] == [840, 840]
    assert all(r["best_ms"] <= r["median_ms"] and r["batch"] == 8 for r in found["runs"])
    assert cli.main(["bench", str(path), "--repeat", "2"]) == 0
    assert "speed-up" in capsys.readouterr().out


def test_onnx(path, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    target = tmp_path / "net.onnx"
    found = run(capsys, "export", path, "--format", "onnx", *APPLY, "--to", target)
    assert found["bytes"] == target.stat().st_size
    net, params = linjax.load(path)
    x = np.ones((5, 6), np.float32)
    (y,) = onnxruntime.InferenceSession(target).run(None, {"x0": x})
    np.testing.assert_allclose(y, net.apply(params, x), rtol=1e-5)


def test_errors_take_one_line(path, data, tmp_path, capsys):
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
        ([*fold, "--data", "x.npy", "--apply", "json:__doc__"], "expected MODULE:FUNCTION"),
        ([*fold, "--data", "x.npy", *apply, "--batch", "0"], "at least 1"),
        ([*fold[:-1], "1.5", *data, *apply], "expected a share"),
        (["inspect", str(path), *data], "add --apply"),
        (["export", str(path), "--format", "onnx", "--to", str(tmp_path / "p")], "add --apply"),
        (["certify", str(path), "--lower", "a", "--upper", "1"], "number or an .npy"),
        (["certify", str(path), "--lower", "0", "--upper", "1", "--to", "y"], "add --apply"),
        (["report", str(path), str(path), *data, "--labels", data[1]], "expected (64,)"),
        (["bench", str(path), "--repeat", "0"], "at least 1"),
    ):
        assert cli.main(command) == 1, command
        captured = capsys.readouterr()
        assert reason in captured.err and captured.err.count("\n") == 1
        assert captured.err.startswith("linjax: ") and not captured.out


def test_an_interrupt_is_told(path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(linjax, "load", stop)
    assert cli.main(["bench", str(path)]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_it_runs_as_a_module_and_stays_quiet_in_a_pipe(path):
    command = [sys.executable, "-m", "linjax.cli", "bench", str(path), "--repeat", "2", "--json"]
    root = Path(linjax.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr
    assert json.loads(done.stdout)["runs"]


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
