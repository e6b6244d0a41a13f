"""Benchmarks run, on small networks, and say what they compare."""

import functools

import pytest
from absl import app

from experiments import benchmarks

SMALL = (6, 24, 16, 3)


def test_ratios_are_told(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "network", functools.partial(benchmarks.network, SMALL))
    monkeypatch.setattr(benchmarks, "inputs", functools.partial(benchmarks.inputs, 6, 1100, 550))
    benchmarks.main(["", "inference", "collect"])
    said = capsys.readouterr().out
    assert "jax" in said.splitlines()[0] and "times as fast" in said
    for line in ("second moments, too", "counts and 20 thresholds", "2.5% of the size, batch 1024"):
        assert line in said
    assert "nan" not in said


def test_what_grows_is_fitted(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "on_devices", lambda count: 0.5)
    monkeypatch.setattr(benchmarks, "seconds", lambda make, size: float(sum(size[0]) * size[1]))
    benchmarks.main(["", "scaling"])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == len(benchmarks.GROWTHS) + 1
    rows = next(line for line in lines if "collect, rates" in line and "rows" in line)
    assert "1.00" in rows and "0.00" in lines[-1]


def test_unknown_names_are_refused():
    with pytest.raises(app.UsageError, match=r"no benchmark sweep; .*collect.*scaling"):
        benchmarks.main(["", "sweep"])
