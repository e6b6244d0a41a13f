"""A budget is used up as far as widths, which come in steps, allow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax

WIDTH, BLOCKS = 16, 4


def _apply(params, x):
    h = x @ params["in"]
    for n in range(BLOCKS):
        p = params[f"block_{n}"]
        h = h + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    return h @ params["out"]


def _params(units, rng):
    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)

    blocks = {
        f"block_{n}": {
            "gate": kernel(WIDTH, units), "up": kernel(WIDTH, units), "down": kernel(units, WIDTH)
        }
        for n in range(BLOCKS)
    }  # fmt: skip
    return {"in": kernel(8, WIDTH), "out": kernel(WIDTH, 3), **blocks}


@pytest.mark.parametrize("units", [24, 40])
def test_biases_that_a_fold_puts_beside_leave_no_more_than_a_step_over(units):
    """Kernels without biases get some, which a budget has to hold: a few units are left at most.

    Where the budget is stepped down by a few entries, a plan of wide units costs the same again.
    """
    rng = np.random.default_rng(0)
    params, x = _params(units, rng), rng.normal(size=(600, 8)).astype(np.float32)
    net = linjax.trace(_apply, params, x)
    known = linjax.frontier(params, linjax.collect(net, params, [x]))
    step = 3 * 3 * WIDTH  # three units: biases and factors come or go with them
    for fraction in np.linspace(0.3, 0.97, 27):
        plan = known.plan(linjax.size(fraction))
        used = plan.cost + known.biases("parameters", plan.state)
        assert 0 <= fraction * known.before - used <= step, fraction
