"""What kernels read, where that is no site: against the results that it makes."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.dims.reads import results
from linjax.dims.replay import Replay
from linjax.dims.spelled import spelled
from linjax.fold.engine.problem import frame
from linjax.fold.plans.factored import kernels_of
from tests.properties import convnets

STAGE = convnets.Stage(6, 2, 1, 1, "SAME", True, "none", "relu", False, "none")
PLANS = [
    convnets.Plan(space, 2, (STAGE._replace(channels=5), STAGE), block, end, seed)
    for seed, (space, block, end) in enumerate(
        itertools.product(
            (1, 2), ("dense", "growing", "skip", "inception"), ("convolution", "mean")
        )
    )
]


@pytest.mark.quick(6)
@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{p.space}d {p.block} {p.end}")
def test_kernels_behind_concatenations_read_what_they_read(plan):
    """Linear coordinates stand within each part: results are, on average, of what is told."""
    apply, params, x = convnets.build(plan)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, *x.shape[1:])), jnp.float32)
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x[:32], x[32:]], metric="identity")
    flat = net.network.flatten(params)
    replay, seen = Replay(net.network, flat, [x]), 0
    for kernel in kernels_of(net.network, spelled(net.network, flat), stats.kernels):
        want = results(kernel.read.frame, replay.value(kernel.read.op)).mean((0, 1))
        own = frame(kernel.moments)
        np.testing.assert_allclose(own.mean[0] @ kernel.matrix, want, rtol=1e-3, atol=1e-4)
        seen += kernel.read.point is None
    assert seen
