"""What a convolution reads at borders is no coordinate: offsets of features are none there."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import linjax

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")

ROWS = 400


def made(extent, window, stride, holes, padding, seed):
    """Channels that are almost always on, far from zero, read by a convolution."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)

    params = {
        "in": normal(2, 9, scale=0.5),
        "shift": jnp.asarray(rng.uniform(1.0, 2.0, 9), jnp.float32),
        "out": normal(*window, 9, 3),
    }
    x = normal(ROWS, *extent, 2)

    def apply(params, x):
        hidden = jax.nn.relu(x @ params["in"] + params["shift"])
        return lax.conv_general_dilated(
            hidden, params["out"], (stride,) * 2, padding, lhs_dilation=(holes,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
        )  # fmt: skip

    return apply, params, x


CASES = [
    case
    for case in itertools.product(
        ((1, 1), (2, 3), (4, 4)), ((3, 3), (1, 5)), (1, 2), (1, 2), ("SAME", [(2, 1), (0, 2)])
    )
    if (case[0] != (1, 1) or case[3] == 1) and (case[3] == 1 or case[4] != "SAME")
]


@pytest.mark.quick(12)
@pytest.mark.parametrize(("extent", "window", "stride", "holes", "padding"), CASES)
def test_outputs_are_right_on_average_however_much_of_what_is_read_is_padding(
    extent, window, stride, holes, padding
):
    apply, params, x = made(extent, window, stride, holes, padding, seed=len(padding))
    if 0 in jax.eval_shape(apply, params, x).shape:
        pytest.skip("no place is left")
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x[: ROWS // 2], x[ROWS // 2 :]], metric="identity")
    want = np.asarray(jax.jit(apply)(params, x), np.float64)
    strict = 1e-5 if extent == (1, 1) else 0.1  # where there is one place, exactly
    for share in (0.5, 0.35):
        small = linjax.fold(params, stats, linjax.size(share))
        error = np.asarray(jax.jit(net.apply)(small, x), np.float64) - want
        scatter = np.linalg.norm(error - error.mean(0)) / np.sqrt(error.size)
        # Over places, not at each: at borders fewer taps' errors make up for one another.
        assert abs(error.mean((0, 1, 2))).max() <= strict * scatter + 1e-6
