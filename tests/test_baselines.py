"""The rivals meet the same budgets, and least squares is nearer to the original."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax import baselines
from tests.fold.networks import rows, traced

ALL = [
    baselines.magnitude,
    baselines.activity,
    baselines.pruned_and_refitted,
    baselines.truncated,
    baselines.truncated_whitened,
]


@pytest.fixture(scope="module")
def network():
    return traced((12, 48, 40, 5), count=1000, batch=250)


@pytest.mark.parametrize("rival", ALL, ids=lambda r: r.__name__)
@pytest.mark.parametrize("fraction", [0.7, 0.2])
def test_meets_the_budget(network, rival, fraction):
    net, params, batches, stats = network
    small = rival(params, stats, linjax.size(fraction))
    assert linjax.count(small) <= fraction * linjax.count(params)
    assert np.isfinite(net.apply(small, batches[0])).all()


@pytest.mark.parametrize("rival", ALL, ids=lambda r: r.__name__)
def test_folding_is_nearer_to_the_original(network, rival):
    net, params, _, stats = network
    x = rows(500, 12, seed=1)

    def error(small):
        y, z = (jax.nn.log_softmax(net.apply(p, x)) for p in (params, small))
        return float(jnp.mean(jnp.sum(jnp.exp(y) * (y - z), -1)))

    rule = linjax.size(0.3)
    assert error(linjax.fold(params, stats, rule)) < error(rival(params, stats, rule))


def test_refit_changes_nothing_at_full_width(network):
    net, params, batches, stats = network
    small = baselines.pruned_and_refitted(params, stats, linjax.size(1.0))
    np.testing.assert_allclose(
        net.apply(small, batches[0]), net.apply(params, batches[0]), rtol=1e-3, atol=1e-3
    )
