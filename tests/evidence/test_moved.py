"""Sketches of parameters tell how far they have moved, and are taken once of what can't change."""

import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from linjax.evidence import moved as own

RNG = np.random.default_rng(0)


def estimate(before, after):
    a, b = own.sketch({"a": before}), own.sketch({"a": after})
    return float(np.linalg.norm((a - b)[:, 1:]))


@pytest.mark.parametrize("kind", ["all", "column", "row", "entry", "low rank"])
def test_differences_of_sketches_tell_distances_to_about_a_quarter(kind):
    shape, found = (64, 48), []
    for turn in range(100):
        value, step = RNG.normal(size=shape), np.zeros(shape)
        if kind == "all":
            step = RNG.normal(size=shape)
        elif kind == "column":
            step[:, turn % 48] = RNG.normal(size=64)
        elif kind == "row":
            step[turn % 64] = 1.0
        elif kind == "entry":
            step[turn % 64, 5] = 1.0
        else:
            step = np.outer(RNG.normal(size=64), RNG.normal(size=48))
        found.append(estimate(value, value + step) / np.linalg.norm(step))
    assert abs(np.mean(found) - 1) < 0.15
    assert np.std(found) < 0.3 and min(found) > 0.1


def test_a_sketch_does_not_depend_on_how_many_entries_are_summed_at_once(monkeypatch):
    value = RNG.normal(size=1000)
    whole = own.sketch({"a": value})
    monkeypatch.setattr(own, "AT_ONCE", 64)
    np.testing.assert_allclose(own.sketch({"a": value}), whole, rtol=1e-12)


def test_arrays_that_can_change_are_looked_at_each_time():
    value = np.ones(100, np.float32)
    before = own.sketch({"a": value})
    value *= 2
    assert own.moved({"a": value}, before)


def test_arrays_that_cannot_change_are_summed_once_and_forgotten(monkeypatch):
    value, calls = jnp.arange(10.0), []
    sums = own._sums
    monkeypatch.setattr(own, "_sums", lambda leaf: calls.append(1) or sums(leaf))
    first = own.sketch({"a": value})
    np.testing.assert_array_equal(own.sketch({"b": value}), first)
    assert len(calls) == 1
    key, gone = id(value), weakref.ref(value)
    assert own._sketched[key][0]() is value
    del value
    gc.collect()  # may free arrays of other tests, too: only this one is looked at
    assert gone() is None and key not in own._sketched
