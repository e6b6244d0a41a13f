"""What a user says must stay: by layers' names, in shares or units."""

import jax
import numpy as np
import pytest

import linjax
from linjax.program import pytree
from tests.arrays import placed

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
RNG = np.random.default_rng(0)


def normal(*shape):
    return placed(RNG.normal(size=shape) * 0.4)


PARAMS = {
    "body": {"first": {"w": normal(6, 40), "b": normal(40)}, "second": {"w": normal(40, 30)}},
    "head": {"w": normal(30, 3) @ normal(3, 24)},
}
X = normal(500, 6)


def apply(params, x):
    body = params["body"]
    h = jax.nn.relu(x @ body["first"]["w"] + body["first"]["b"])
    return jax.nn.relu(h @ body["second"]["w"]) @ params["head"]["w"]


NET = linjax.trace(apply, PARAMS, X[:2])
STATS = linjax.collect(NET, PARAMS, [X], metric="identity")
KNOWN = linjax.frontier(PARAMS, STATS)


def widths(params):
    """Units and linear units of both layers, and whether each kernel is factored."""
    flat = {pytree.join(path): leaf for path, leaf in pytree.flatten(params).items()}
    found = {}
    for name in ("body/first", "body/second"):
        kinds = (flat.get(f"{name}/{leaf}") for leaf in ("w", "w_linear"))
        found[name] = sum(0 if w is None else w.shape[1] for w in kinds)
    return found, {name.rsplit("/", 1)[0] for name in flat if name.endswith("_down")}


@pytest.mark.parametrize(
    ("least", "wanted"),
    [
        ({"body/second": 1.0}, {"body/second": 30}),
        ({"body/first": 38}, {"body/first": 38}),
        ({"body/first": 0.5, "*second": 15}, {"body/first": 20, "body/second": 15}),
        ({"body/*": 0.5}, {"body/first": 20, "body/second": 15}),
        ({"*": 0.1, "body/first": 25}, {"body/first": 25, "body/second": 3}),
    ],
)
def test_what_must_stay_stays_and_the_rest_makes_up_for_it(least, wanted):
    rule = linjax.size(0.25, least=least)
    for evidence in (KNOWN, STATS):
        small, report = linjax.fold_and_report(PARAMS, evidence, rule)
        assert linjax.count(small) <= 0.25 * linjax.count(PARAMS)
        found, factored = widths(small)
        assert all(found[name] >= width for name, width in wanted.items())
        assert not factored & set(wanted)
        want = apply(PARAMS, X)
        error = np.linalg.norm(net_error(small, want)) / np.linalg.norm(want - want.mean(0))
        assert error <= 2 * report.predicted + 0.02


def test_they_would_not_stay_otherwise():
    free, _ = widths(linjax.fold(PARAMS, KNOWN, linjax.size(0.25)))
    assert free["body/first"] < 25 and free["body/second"] < 15


def net_error(small, want):
    return np.asarray(jax.jit(NET.apply)(small, X) - want)


def test_layers_that_only_read_can_be_named_so_that_they_are_not_factored():
    plain = [widths(linjax.fold(PARAMS, KNOWN, linjax.size(s)))[1] for s in (0.6, 0.4, 0.25, 0.15)]
    assert any("head" in factored for factored in plain)
    for share in (0.6, 0.4, 0.25, 0.15):
        small = linjax.fold(PARAMS, KNOWN, linjax.size(share, least={"head": 1.0}))
        assert "head" not in widths(small)[1]


def test_tolerances_and_compress_keep_to_it():
    loose = linjax.fold(PARAMS, KNOWN, linjax.tolerance(0.5))
    kept = linjax.fold(PARAMS, KNOWN, linjax.tolerance(0.5, least={"body/first": 0.9}))
    assert widths(loose)[0]["body/first"] < 36 <= widths(kept)[0]["body/first"]
    for rule in (linjax.size(0.5, least={"body/first": 30}),
                 linjax.tolerance(0.5, least={"body/first": 30})):  # fmt: skip
        small = linjax.compress(NET, PARAMS, [X], rule, metric="identity")
        assert widths(small)[0]["body/first"] >= 30


def test_what_cannot_be_kept_is_an_error_that_names_what_can():
    with pytest.raises(linjax.LinjaxError, match=r"size\(0.1, least=.*ask for linjax.size\("):
        linjax.fold(PARAMS, KNOWN, linjax.size(0.1, least={"*": 1.0}))
    with pytest.raises(linjax.LinjaxError, match=r"no layer is called 'hed'.*head"):
        linjax.fold(PARAMS, KNOWN, linjax.size(0.5, least={"hed": 1.0}))
    for wrong in (0, -1, 2.5, float("nan")):
        with pytest.raises(linjax.LinjaxError, match=r"a share in .0, 1. or a number of units"):
            linjax.size(0.5, least={"head": wrong})


@pytest.mark.parametrize("name", ["gate", "up", "q", "k"])
def test_any_of_the_layers_that_make_units_together_names_them(name):
    """Which of queries and keys, or of a gate and what it gates, comes first doesn't matter."""
    names = ("q", "k", "v", "gate", "up")
    params = {n: {"w": normal(6, 12)} for n in names} | {"down": {"w": normal(12, 6)}}
    rows = X.reshape(100, 5, 6)

    def both(p, x):
        q, k, v = (x @ p[n]["w"] for n in "qkv")
        x = jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v
        x = x[..., :6] + x[..., 6:]
        return (jax.nn.silu(x @ p["gate"]["w"]) * (x @ p["up"]["w"])) @ p["down"]["w"]

    net = linjax.trace(both, params, rows)
    stats = linjax.collect(net, params, [rows], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.6, least={name: 1.0}))
    assert small[name]["w"].shape[-1] == 12
    assert linjax.count(small) <= 0.6 * linjax.count(params)
