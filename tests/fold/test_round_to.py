"""Widths that are multiples, for hardware."""

import jax
import pytest

import linjax
from tests.arrays import normal


def conv(x, kernel):
    return jax.nn.relu(jax.lax.conv(x, kernel, (1, 1), "SAME"))


def network(kind):
    if kind == "conv":
        params = {"a": normal(0, 8, 2, 3, 3), "b": normal(1, 8, 8, 3, 3), "c": normal(2, 8, 4)}
        return (
            lambda p, x: conv(conv(x, p["a"]), p["b"]).mean((2, 3)) @ p["c"],
            params, 3 * normal(3, 64, 2, 6, 6),
        )  # fmt: skip
    params = {"a": normal(0, 6, 16), "b": normal(1, 16, 18), "c": normal(2, 18, 4)}
    return (
        lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"],
        params, 3 * normal(3, 200, 6),
    )  # fmt: skip


@pytest.mark.parametrize("of", ["parameters", "flops"])
@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_every_width_is_a_multiple_or_all_there_is(kind, of):
    apply, params, x = network(kind)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    known = linjax.frontier(params, stats)
    for size in (0.8, 0.65, 0.5, 0.35, 0.2):
        rule = linjax.size(size, round_to=4, of=of)
        small, report = linjax.fold_and_report(params, known, known.reachable(rule))
        for site in report.sites.values():
            assert site.kept.size % 4 == 0 or site.kept.size == site.before
            assert site.linears % 4 == 0
        assert net.apply(small, x).shape == apply(params, x).shape


def test_a_size_that_multiples_do_not_reach_is_refused():
    apply, params, x = network("conv")
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    with pytest.raises(linjax.LinjaxError, match="the smallest network that there is"):
        linjax.fold(params, stats, linjax.size(0.05, round_to=4))
