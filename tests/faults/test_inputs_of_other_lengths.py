"""Inputs that differ in rows: graphs, sets, tables and keys beside the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

RNG = np.random.default_rng(0)


def a(*shape):
    return placed(RNG.normal(size=shape) / np.sqrt(shape[0]))


def graph(nodes, edges, graphs=1):
    ends = jnp.asarray(RNG.integers(0, nodes, (2, edges)))
    of = jnp.asarray(np.sort(np.r_[np.arange(graphs), RNG.integers(0, graphs, nodes - graphs)]))
    return a(nodes, 8) * 3, ends[0], ends[1], of


def messages(params, nodes, senders, receivers, of):
    pairs = jnp.concatenate([nodes[senders], nodes[receivers]], -1)
    sent = jax.nn.relu(pairs @ params["msg"]) @ params["mix"]
    return jax.ops.segment_sum(sent, receivers, len(nodes)) @ params["out"]


def whole_graphs(params, nodes, senders, receivers, of):
    got = messages({**params, "out": jnp.eye(8)}, nodes, senders, receivers, of)
    hidden = jax.nn.relu((nodes + got) @ params["node"])
    return jax.ops.segment_sum(hidden, of, 4) @ params["read"]


def attention(params, nodes, senders, receivers, of):
    """Graph attention: a softmax over the edges of every node."""
    q, k, v = (nodes @ params[n] for n in "qkv")
    score = jnp.sum(q[receivers] * k[senders], -1)
    top = jax.ops.segment_max(score, receivers, len(nodes))
    weight = jnp.exp(score - top[receivers])
    total = jax.ops.segment_sum(weight, receivers, len(nodes))
    mean = jax.ops.segment_sum(weight[:, None] * v[senders], receivers, len(nodes))
    return jax.nn.relu(mean / (total[:, None] + 1e-6) @ params["in"]) @ params["out"]


P = {"msg": a(16, 64), "mix": a(64, 8), "out": a(8, 3)}
WHOLE = {"msg": a(16, 64), "mix": a(64, 8), "node": a(8, 32), "read": a(32, 3)}
HEAD = {n: a(8, 12) for n in "qkv"} | {"in": a(12, 48), "out": a(48, 3)}
GRAPHS = {
    "messages": (messages, P),
    "graph by graph": (whole_graphs, WHOLE),
    "attention over edges": (attention, HEAD),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_fold(case):
    apply, params = GRAPHS[case]
    batches = [graph(*((40, 120), (48, 160), (56, 120))[n % 3], 4) for n in range(8)]
    net = linjax.trace(apply, params, *batches[0])
    stats = linjax.collect(net, params, batches, metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.7))
    assert linjax.count(small) <= 0.7 * linjax.count(params)
    found = linjax.compare(net, params, small, batches, metric="identity")
    assert found.error < 2 * report.predicted + 0.02
    assert found.error < 0.7


def test_samples_are_counted_where_they_are():
    batches = [graph(40, 120), graph(50, 90), graph(40, 40)]
    net = linjax.trace(messages, P, *batches[0])
    stats = linjax.collect(net, P, batches, metric="identity")
    assert stats.units["msg"].count == 120 + 90 + 40
    active, total = np.zeros(64, int), np.zeros(64)
    for nodes, senders, receivers, _ in batches:
        pairs = np.concatenate([nodes[senders], nodes[receivers]], -1)
        z = pairs @ np.asarray(P["msg"])
        active += (z > 0).sum(0)
        total += np.maximum(z, 0).sum(0)
    np.testing.assert_array_equal(stats.units["msg"].active, active)
    np.testing.assert_allclose(stats.units["msg"].mean_h, total / 250, rtol=1e-5)


def test_as_many_nodes_as_edges_are_no_rows():
    batch = graph(60, 60)
    net = linjax.trace(messages, P, *batch)
    stats = linjax.collect(net, P, [batch], metric="identity")
    pairs = np.concatenate([batch[0][batch[1]], batch[0][batch[2]]], -1)
    active = (pairs @ np.asarray(P["msg"]) > 0).sum(0)
    np.testing.assert_array_equal(stats.units["msg"].active, active)


def plain(params, x):
    return jax.nn.relu(x @ params["w"]) @ params["v"]


def noisy(params, x, key):
    return plain(params, x + 0.1 * jax.random.normal(key, x.shape))


def with_table(params, x, table, scale):
    """A branch and a trunk: each row is met with every entry of a table."""
    return jax.nn.relu(x @ params["w"]) @ params["v"] @ (table * scale).T


ROWS = {"w": a(8, 48), "v": a(48, 3)}
X = a(300, 8) * 9


@pytest.mark.parametrize(
    ("apply", "beside"),
    [(noisy, (jax.random.key(0),)), (with_table, (a(20, 3), jnp.float32(2.0)))],
)
def test_what_belongs_to_all_rows_isnt_dealt(apply, beside):
    net = linjax.trace(apply, ROWS, X[:2], *beside)
    batches = [(X[:200], *beside), (X[200:], *beside)]
    stats = linjax.collect(net, ROWS, batches, metric="identity")
    assert stats.units["w"].count == 300
    said = (True, *(False for _ in beside))
    found = linjax.collect(net, ROWS, batches, metric="identity", by_row=said)
    assert found.units["w"].count == 300
    small = linjax.fold(ROWS, stats, linjax.size(0.5))
    assert linjax.count(small) <= 0.5 * linjax.count(ROWS)


def test_rows_of_two_lengths_are_refused():
    def summed(params, x, y):
        return plain(params, x) + plain(params, y)

    net = linjax.trace(summed, ROWS, X[:2], X[:2])
    with pytest.raises(linjax.LinjaxError, match=r"rows|shapes"):
        linjax.collect(net, ROWS, [(X, X[:200])], metric="identity", by_row=True)


def test_one_example_as_a_whole_if_asked():
    net = linjax.trace(plain, ROWS, X[:2])
    whole = linjax.collect(net, ROWS, [X], metric="identity", by_row=False)
    rows = linjax.collect(net, ROWS, [X], metric="identity")
    np.testing.assert_array_equal(whole.units["w"].active, rows.units["w"].active)
    got, want = whole.points[0][0], rows.points[0][0]
    np.testing.assert_array_equal(got.count, want.count)
    np.testing.assert_allclose(got.mean.mean(0), want.mean.mean(0), rtol=1e-4, atol=1e-4)


def test_advice_about_rows():
    batch = graph(40, 120)
    net = linjax.trace(messages, P, *batch)
    with pytest.raises(linjax.EvidenceError, match="leave away what is padded"):
        linjax.collect(net, P, [batch], weights=lambda *_: jnp.ones(40), metric="identity")
    linjax.collect(net, P, [batch], metric="identity")
    with pytest.raises(linjax.EvidenceError, match="one boolean for all"):
        linjax.collect(net, P, [batch], by_row=(True, False, False), metric="identity")
    linjax.collect(net, P, [batch], by_row=False, metric="identity")
    with pytest.raises(linjax.EvidenceError, match="fold without rows"):
        linjax.compress(net, P, [batch], linjax.size(0.5), metric="identity")
    small = linjax.fold(P, linjax.collect(net, P, [batch], metric="identity"), linjax.size(0.5))
    with pytest.raises(linjax.EvidenceError, match="a loop of your own"):
        linjax.recover(net, P, small, [batch], metric="identity")
    loss = lambda p: jnp.sum((net.apply(p, *batch) - net.apply(P, *batch)) ** 2)  # noqa: E731
    grad = jax.jit(jax.grad(loss))(small)
    assert jax.tree.structure(grad) == jax.tree.structure(small)


def test_rows_that_cannot_be_taken_together_are_told():
    """Evidence is gathered of sequences of any lengths; refits take rows of one."""
    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)  # noqa: E731
    params = {"a": draw(4, 24), "o": draw(24, 3)}
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["o"], params, draw(1, 5, 4))
    batches = [draw(20, 5, 4), draw(20, 7, 4)]
    half = linjax.size(0.5)
    stats = linjax.collect(net, params, batches, metric="identity")
    small = linjax.fold(params, stats, half)
    for ask in (
        lambda: linjax.compress(net, params, batches, half, evidence=stats),
        lambda: linjax.recover(net, params, small, batches, steps=10),
        lambda: linjax.corrected(net, params, stats, batches, half),
    ):
        with pytest.raises(linjax.EvidenceError, match=r"batch 1: rows of shapes .*pad"):
            ask()
