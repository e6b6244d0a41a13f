"""NumPy's arrays become JAX's without a program, and as ``jnp.asarray`` makes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linjax.program.placed import placed

ARRAYS = {
    "single": np.ones((3, 5), np.float32),
    "double": np.linspace(0, 1, 7),
    "half": np.ones((2, 3), jnp.bfloat16),
    "int": np.arange(4),
    "bool": np.array([True, False]),
    "scalar": np.array(2.5),
    "strided": np.arange(12.0).reshape(3, 4).T[::2],
    "empty": np.zeros((0, 3)),
    "number": 2.5,
    "numpy's number": np.float32(2.5),
}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("kind", ARRAYS)
def test_placed_arrays_are_those_of_asarray(kind, wide):
    with jax.enable_x64(wide):
        found, want = placed(ARRAYS[kind]), jnp.asarray(ARRAYS[kind])
        assert found.aval == want.aval and found.committed == want.committed
        np.testing.assert_array_equal(np.asarray(found), np.asarray(want))


def test_what_happens_to_the_numbers_later_changes_nothing():
    numbers = np.ones((64, 64), np.float32)
    found = placed(numbers)
    numbers[:] = 2.0
    assert float(found.max()) == 1.0


def test_no_program_is_compiled():
    compiled = []

    def listen(event, _, **__):
        compiled.extend([event] * ("backend_compile" in event))

    jax.monitoring.register_event_duration_secs_listener(listen)  # older versions keep it for good
    placed(np.ones((3, 11, 17), np.float32))
    assert not compiled
    jax.jit(lambda a: 2 * a + 1)(jnp.ones((3, 11, 17)))
    assert compiled, "the event has another name"


def test_jax_arrays_stay_what_they_are():
    array = jnp.ones(3)
    assert placed(array) is array
