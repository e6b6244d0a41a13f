"""Published folds preserve the function on the calibration set, for random networks."""

import sys
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import linjax
from linjax.fold.chained import units_of

sys.path.insert(0, str(Path(__file__).parent))
from networks import Planted, cast, planted, relative

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")


def everything(network: Planted, dtype: str):
    params, x = cast(network.params, dtype), jnp.asarray(network.x, dtype)
    net = linjax.trace(network.apply_fn, params, x)
    stats = linjax.collect(net, params, [x[:25], x[25:]], second_moments=False)
    return net, params, x, stats


@given(planted(), st.sampled_from(["float32", "float64"]), st.booleans())
def test_folding_always_on_units_preserves_the_outputs(network, dtype, greedy):
    with jax.enable_x64(dtype == "float64"):
        net, params, x, stats = everything(network, dtype)
        rule = linjax.threshold(1.0, layers=1, greedy=greedy)
        folded, report = linjax.fold_and_report(params, stats, rule)
        want = jax.jit(network.apply_fn)(params, x)
        assert relative(jax.jit(net.apply)(folded, x), want) < (
            2e-5 if dtype == "float32" else 1e-12
        )
        assert linjax.count(folded) == report.after <= report.before == linjax.count(params)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(folded))


@given(planted())
def test_counts_are_exact_and_planted_units_are_seen(network):
    with jax.enable_x64(True):
        _, _, _, stats = everything(network, "float64")
        chain = stats.graph.chains[0]
        for site, on, off in zip(chain.sites, network.on, network.off, strict=True):
            units = units_of(stats, site)
            assert int(units.count) == len(network.x)
            np.testing.assert_array_equal(units.active == len(network.x), on)
            np.testing.assert_array_equal(units.active[off], 0)


@given(planted(), st.floats(0, 1), st.sampled_from(["optimal", 1, 0.5]))
def test_any_threshold_equals_the_definition(network, rate, layers):
    """Independent oracle: run the network with σ(z_S) := z_S for the folded sets."""
    with jax.enable_x64(True):
        net, params, x, stats = everything(network, "float64")
        folded, report = linjax.fold_and_report(
            params, stats, linjax.threshold(rate, layers=layers)
        )
        h = np.asarray(x)
        chain = net.graph.chains[0]
        for depth, group in enumerate(chain.layers):
            part = network.params[group[0]]
            z = h @ part["w"] + part.get("b", 0.0)
            if depth == len(chain.sites):
                break
            slope = chain.sites[depth].activation.slopes[0]
            h = np.where(z > 0, z, slope * z)
            linear = np.ones(z.shape[1], bool)
            linear[report.sites[group[0]].kept] = False
            h = np.where(linear, z, h)
        assert relative(jax.jit(net.apply)(folded, x), z) < 1e-9


@given(planted(max_depth=4, max_width=24))
def test_folding_again_with_the_same_evidence_changes_nothing(network):
    with jax.enable_x64(True):
        net, params, x, stats = everything(network, "float64")
        rule = linjax.threshold(0.5, layers="optimal")
        once = linjax.fold(params, stats, rule)
        twice = linjax.fold(once, stats, rule)
        assert jax.tree.structure(once) == jax.tree.structure(twice)
        jax.tree.map(np.testing.assert_array_equal, once, twice)
        again = linjax.collect(net, once, [x], second_moments=False)
        further = linjax.fold(once, again, linjax.threshold(1.0))
        assert relative(jax.jit(net.apply)(further, x), jax.jit(net.apply)(once, x)) < 1e-9
