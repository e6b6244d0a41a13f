"""Evidence gathered in several passes, and kept in files, is that of one pass in memory."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence import limits, moments, stored

WIDTHS, LAYERS = (6, 20), 5
ROWS = np.random.default_rng(3).normal(size=(96, 6)).astype(np.float32)


def parameters(width=WIDTHS[0], hidden=WIDTHS[1], layers=LAYERS):
    rng = np.random.default_rng(0)
    shapes = {"up": (layers, width, hidden), "down": (layers, hidden, width), "out": (width, 3)}
    return {k: jnp.asarray(rng.normal(size=s) / s[-2] ** 0.5, jnp.float32)
            for k, s in shapes.items()}  # fmt: skip


def apply(params, x):
    def step(x, layer):
        up, down = layer
        return x + jax.nn.relu(x @ up) @ down, None

    return jax.lax.scan(step, x, (params["up"], params["down"]))[0] @ params["out"]


def network():
    params = parameters()
    return linjax.trace(apply, params, ROWS[:4]), params, np.split(ROWS, 6)


def extents(*sizes, name="a"):
    return [limits.Extent(name, *size) for size in sizes]


@pytest.mark.parametrize("room", [4_000, 20_000, 21_000, 100_000, 10**9])
def test_passes_take_what_they_may_and_leave_nothing_out(room):
    places = extents((7, 10, 10), (1, 0, 8), (3, 12, 4))
    found = limits.groups(places, 2, room)
    for kind, field in ((0, "width"), (1, "result")):
        seen = [(p.place, n) for g in found for p in g[kind]
                for n in range(p.start, p.start + p.size)]  # fmt: skip
        every = [(i, n) for i, e in enumerate(places) if getattr(e, field)
                 for n in range(e.repeats)]  # fmt: skip
        assert sorted(seen) == every and len(set(seen)) == len(seen)
    for group in found:
        entries = [sum(p.size * getattr(places[p.place], field) ** 2 for p in group[kind])
                   for kind, field in ((0, "width"), (1, "result"))]  # fmt: skip
        assert limits.taken(*entries, 2) <= room
    assert (len(found) == 1) == (room > 40_000)


def test_what_one_repeat_takes_is_told_where_it_is_too_much():
    with pytest.raises(linjax.EvidenceError, match="a: its evidence takes 1,600 bytes for one of"):
        limits.groups(extents((3, 10, 0)), 2, 1599)


def test_several_passes_and_files_give_the_evidence_of_one_pass(tmp_path, monkeypatch):
    net, params, batches = network()
    one = linjax.collect(net, params, batches)
    monkeypatch.setattr(stored, "SMALL", 0)
    monkeypatch.setattr(stored, "AT_ONCE", 40_000)  # two layers at a time
    room = linjax.Limits(bytes=20_000)
    many = linjax.collect(net, params, batches, limits=room, folder=tmp_path / "evidence")
    kept = many.points[0][0].scatter
    assert isinstance(kept, stored.Stored) and kept.shape == (2, LAYERS, 20, 20)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        scale = np.abs(np.asarray(a)).max(initial=1e-9)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-6 * scale)
    rule = linjax.size(0.7)
    whole, parts = (linjax.fold(params, stats, rule) for stats in (one, many))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        linjax.merge(one, many).points[0][0].count, 2 * one.points[0][0].count
    )


def test_batches_that_come_once_are_gathered_in_one_pass_or_refused():
    net, params, batches = network()
    with pytest.raises(linjax.EvidenceError, match="passes over the batches"):
        linjax.collect(net, params, iter(batches), limits=linjax.Limits(bytes=20_000))
    linjax.collect(net, params, iter(batches), limits=linjax.Limits(bytes=10**9))


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    net, params, batches = network()
    (tmp_path / "other").touch()
    with pytest.raises(linjax.EvidenceError, match="isn't empty"):
        linjax.collect(net, params, batches, folder=tmp_path)


def test_dead_derivatives_are_told_over_all_passes():
    def stopped(params, x):
        return jnp.round(4 * apply(params, x))

    params = parameters()
    net = linjax.trace(stopped, params, ROWS[:4])
    found = []
    for room in (None, 20_000):
        with pytest.warns(linjax.FoldWarning, match="no derivative"):
            found.append(
                linjax.collect(
                    net, params, [ROWS], limits=linjax.Limits(bytes=room), metric="identity"
                )
            )
    a, b = (stats.points[0][0].metric for stats in found)
    assert a.any()
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_programs_take_what_the_formula_says():
    """XLA's own account of a batch's moments and of putting them together, on a device."""
    params = parameters(8, 300, 4)
    net = linjax.trace(apply, params, ROWS[:4, :1].repeat(8, 1))
    x = [jnp.ones((16, 8))]
    flat = net.network.flatten(params)
    network = net.network_for(flat, tuple(x))
    sums = moments.batch_sums.lower(
        network, flat, x, None, True, None, ((0, 2),), np.zeros(1, np.int32)
    )
    made = sums.compile().memory_analysis()
    entries = 2 * 600**2  # two of four layers
    assert made.output_size_in_bytes < 1.05 * 4 * entries
    assert made.temp_size_in_bytes < 1.3 * 4 * entries
    shapes = jax.eval_shape(
        lambda: moments.batch_sums(network, flat, x, None, True, None, ((0, 2),))
    )
    merged = moments.merge_on_device.lower(shapes, shapes).compile().memory_analysis()
    assert merged.alias_size_in_bytes > 0.99 * merged.output_size_in_bytes
    assert merged.temp_size_in_bytes < 0.05 * 4 * entries


PEAK = """
import sys, numpy as np, linjax
from experiments.large.stages import reset_peak, resident
from tests.evidence.test_limits import apply, parameters
import jax, jax.numpy as jnp
params = parameters(16, 1600, 16)
x = np.random.default_rng(1).normal(size=(4, 64, 16)).astype(np.float32)
net = linjax.trace(apply, params, x[0])
linjax.collect(net, params, x, second_moments=False)
before = resident("VmRSS")
reset_peak()
if sys.argv[1] == "whole":
    linjax.collect(net, params, list(x))
else:
    linjax.collect(net, params, list(x), limits=linjax.Limits(bytes=45_000_000), folder=sys.argv[1])
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_stays_near_the_limit(tmp_path):
    """Evidence of 16 layers of 1,600 units: 983 MB in float64, of which few are at hand."""
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    environment["MALLOC_ARENA_MAX"] = "1"  # what is held, not what a heap a thread keeps free
    peaks = [
        int(subprocess.run([sys.executable, "-W", "ignore", "-c", PEAK, how], cwd=root, text=True,
                           env=environment, capture_output=True, check=True).stdout.split()[-1])
        for how in ("whole", str(tmp_path))
    ]  # fmt: skip
    print("resident at most, whole and in groups:", peaks)
    assert peaks[1] < 45_000_000 + 400_000_000  # programs and a few layers in float64
    assert peaks[0] > 3 * peaks[1]
