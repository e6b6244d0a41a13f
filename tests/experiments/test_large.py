"""The decoder that is folded within a limit of memory, where it is small."""

import jax
import numpy as np
import pytest

from configs.large_decoder import get_config
from experiments.large import checkpoint, decoder
from experiments.large.run import run
from experiments.large.stages import Stages, resident


@pytest.fixture
def config():
    found = get_config("toy")
    found.update(width=32, layers=3, heads=2, head=8, hidden=40, vocabulary=64, length=8,
                 sequences=16, batch=8, evidence=6e-5)  # fmt: skip
    return found


def test_all_stages_run_and_leave_a_smaller_checkpoint(config, tmp_path, capsys):
    stages = run(config, tmp_path)
    assert [s.name for s in stages.done][3:6] == ["collect", "frontier", "fold"]
    assert all(stage.peak >= stage.before > 0 for stage in stages.done)
    assert "GB at most" in repr(stages)
    said = capsys.readouterr().out
    assert "measured relative error" in said
    net = decoder.traced(config)
    tokens = decoder.batches(config)[0]
    original = checkpoint.read(tmp_path / "original", decoder.shapes(config))
    assert original["layers"]["gate"]["kernel"].shape == (3, 32, 40)
    assert net.apply(original, tokens).shape == (8, 8, 64)


def test_a_checkpoint_is_what_was_written(config, tmp_path):
    params = decoder.random(config)
    checkpoint.write(tmp_path / "params", params)
    again = checkpoint.read(tmp_path / "params", decoder.shapes(config))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_stage_knows_its_own_peak():
    stages = Stages()
    with stages.stage("large"):
        kept = np.ones(40_000_000)
        del kept
    with stages.stage("small"):
        pass
    large, small = stages.done
    assert large.peak - large.before > 300_000_000
    assert small.peak - small.before < 200_000_000
    assert resident("VmRSS") <= stages.peak + 50_000_000
