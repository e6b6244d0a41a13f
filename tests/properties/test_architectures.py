"""Random architectures: every planted unit is found or its site refused; never a wrong fold.

Thousands of networks: ``python -m tests.properties.test_architectures 2000``.
"""

import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import linjax
from linjax.fold.chained import units_of

sys.path.insert(0, str(Path(__file__).parent))
from architectures import KINDS, Planted, architectures, make

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")

FOLDABLE = {
    "dense", "deep", "residual", "normed", "heads", "branches", "tree", "concat", "skip", "meet",
}  # fmt: skip


REFITTED = 5
"""One network in so many is folded by least squares, too, where thousands are checked."""
WORSE = 3.0
"""How many times its prediction a measured error may be: to first order errors of layers add."""
WORST = 30.0
"""The same where an error reaches the outputs on several ways at once, or units are multiplied."""
WAYS = {"branches", "tree", "heads", "gated", "glu", "sum", "concat", "skip", "meet"}
"""Kinds of which that is so."""
RARE = 1e-2
"""Error that no prediction sees: directions with a ten-thousandth of the variance, which are left
out of the search, and rows in the half that is fitted to alone, where a unit is on once."""
LOST = 0.1
"""The same where weights of a residual stream are used twice: errors that don't count where they
are made arrive where a narrowed stream is read anew, in directions that no row has. How much
that is depends on rounding."""
HARDLY = 1e-2
"""Variation of outputs, relative to their size, up to which they count as constant."""

HARD = ((52, "tree"), (130, "tree"))
"""Seeds and kinds: one branch is constant, or gated, where another passes features on."""


def distance(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def relative(a, b):
    """Relative error, root mean square, as folds predict it."""
    a, b = np.asarray(a), np.asarray(b)
    spread = max(np.linalg.norm(b - b.mean(0)), HARDLY * np.linalg.norm(b), 1e-30)
    return float(np.linalg.norm(a - b) / spread)


def check(network: Planted, refit: bool = True) -> dict[str, int]:
    """Traces, collects and folds a network in every way; counts what was seen.

    Without ``refit`` only in ways that preserve the outputs to rounding.
    """
    params, x = jax.tree.map(jnp.asarray, network.params), jnp.asarray(network.x)
    net = linjax.trace(network.apply_fn, params, x)
    want = network.apply_fn(params, x)
    assert distance(net.run(params, x).outputs, want) < 1e-12
    if not net.chained and not net.network.foldable:
        return {"networks": 1, "refused": len(network.plants)}
    second = refit or not net.chained
    stats = linjax.collect(
        net, params, [x[:200], x[200:]], metric="identity", second_moments=second
    )
    assert distance(net.apply(linjax.lump(net, params), x), want) < 1e-9
    if net.chained:
        assert distance(net.run(params, x).outputs, want) < 1e-12
        folded = linjax.fold(params, stats, linjax.threshold(1.0, layers=1))
        assert distance(net.apply(folded, x), want) < 1e-9
    seen = {"networks": 1, "refitted": int(refit), "found": 0, "removed": 0, "refused": 0}
    predicted, kept = None, {}
    if refit:
        small, report = linjax.fold_and_report(params, stats, linjax.tolerance(0.02))
        predicted = report.predicted
        kept = {name: set(np.ravel(c.kept).tolist()) for name, c in report.sites.items()}
        error = relative(net.apply(small, x), want)
        times = WORST if WAYS & set(network.kinds) or not net.chained else WORSE
        rare = LOST if "shared" in network.kinds else RARE
        assert error <= times * (0.0 if predicted is None else predicted) + rare
    if net.chained:
        _planted(network, net, stats, seen, predicted, kept)
    return seen


def _planted(network, net, stats, seen, predicted, kept):
    """Checks what was counted of planted units, and that those that say nothing are gone."""
    units = {site.name: units_of(stats, site) for site in net.graph.sites}
    refused = {refusal.name: refusal.reason for refusal in net.graph.refusals}
    for plant in network.plants:
        if plant.layer not in units:
            assert refused[plant.layer], plant.layer
            seen["refused"] += 1
            continue
        np.testing.assert_array_equal(units[plant.layer].active == len(network.x), plant.on)
        np.testing.assert_array_equal(units[plant.layer].active == 0, plant.off)
        seen["found"] += 1
        if predicted is None or predicted > 0.02:
            continue  # outputs that hardly vary, or units that differ by less than a hundredth
        seen["removed"] += 1
        left = kept[plant.layer]
        if plant.off.all():
            assert len(left) == 1  # a site keeps a coordinate, whatever it says
            continue
        assert not left & set(np.flatnonzero(plant.off).tolist()), (plant, left)
        assert plant.twin is None or not left >= set(plant.twin), (plant, left)


@given(architectures())
def test_every_planted_unit_is_found_or_refused_and_outputs_are_preserved(network):
    with jax.enable_x64(True), jax.disable_jit():
        check(network)


@pytest.mark.parametrize(("seed", "kind"), HARD)
def test_networks_that_were_wrong_once(seed, kind):
    with jax.enable_x64(True), jax.disable_jit():
        check(make(seed, [kind]))


@pytest.mark.parametrize(("seed", "kinds"), [(59910, ["residual", "residual", "dense", "shared"])])
def test_kinds_that_were_wrong_together(seed, kinds):
    """Of weights that are used twice, both uses make linear coordinates."""
    with jax.enable_x64(True), jax.disable_jit():
        check(make(seed, kinds))


@given(architectures(most=2))
def test_compiled_and_in_float32(network):
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), network.params)
    x = jnp.asarray(network.x, jnp.float32)
    net = linjax.trace(network.apply_fn, params, x)
    if net.chained:
        stats = linjax.collect(net, params, [x], second_moments=False)
        folded = linjax.fold(params, stats, linjax.threshold(1.0, layers=1))
        assert distance(jax.jit(net.apply)(folded, x), network.apply_fn(params, x)) < 2e-4


@pytest.mark.parametrize("kind", KINDS)
def test_what_must_fold_folds(kind):
    with jax.enable_x64(True):
        network = make(3, [kind])
        net = linjax.trace(network.apply_fn, network.params, network.x)
        sites = {site.name for site in (*net.graph.sites, *net.network.foldable)}
        told = sites | {own.name for own in (*net.network.sites, *net.network.refusals)}
        planted = {plant.layer for plant in network.plants}
        assert planted <= (sites if kind in FOLDABLE else told)


def many(count: int) -> dict[str, int]:
    """Checks so many random networks; raises at the first that is wrong."""
    total: dict[str, int] = {}
    warnings.simplefilter("ignore", linjax.FoldWarning)
    with jax.enable_x64(True), jax.disable_jit():
        for seed in range(count):
            rng = np.random.default_rng((7, seed))
            kinds = [str(k) for k in rng.choice(KINDS, rng.integers(1, 5))]
            try:
                seen = check(make(seed, kinds), refit=seed % REFITTED == 0)
            except Exception as error:
                raise AssertionError(f"network {seed}: {kinds}") from error
            for key, value in seen.items():
                total[key] = total.get(key, 0) + value
            if (seed + 1) % 20 == 0:
                print(total, flush=True)
    return total


if __name__ == "__main__":
    print(many(int(sys.argv[1])))
