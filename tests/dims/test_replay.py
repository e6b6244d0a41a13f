"""Values made one by one, forgotten, and made again."""

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.dims.memory import largest, replayed
from linjax.dims.replay import Replay, anchors, wiring
from linjax.dims.run import execute
from linjax.fold import rows
from linjax.program import pytree


def apply(p, x):
    h = x
    for n in range(4):
        z = (h @ p["in"][n] - 0.1) * 2.0 + p["shift"]
        h = h + jnp.tanh(jax.nn.relu(z) * 0.5) @ p["out"][n]
    return h @ p["head"]


def network(count=20):
    keys = jax.random.split(jax.random.key(0), 10)
    params = {
        "in": [jax.random.normal(k, (6, 16)) / 3 for k in keys[:4]],
        "out": [jax.random.normal(k, (16, 6)) / 4 for k in keys[4:8]],
        "shift": jnp.ones(16),
        "head": jax.random.normal(keys[8], (6, 3)),
    }
    x = jax.random.normal(keys[9], (count, 6))
    return linjax.trace(apply, params, x), params, x


def test_only_what_others_ask_for_stays():
    net, params, x = network()
    replay = Replay(net.network, pytree.flatten(params), [x])
    last = net.network.layout.program.outputs[0].id
    replay.value(last)
    there = {v for v in replay.run.env if v in wiring(net.network).at}
    assert there <= anchors(net.network) | {last}
    assert len(there) < len(wiring(net.network).at) / 2


def test_values_are_those_of_a_run_whatever_was_forgotten():
    net, params, x = network()
    flat = pytree.flatten(params)
    links = wiring(net.network)
    every = execute(net.network, flat, [x], frozenset(links.at)).values
    replay = Replay(net.network, flat, [x])
    places = sorted(links.at, key=links.at.__getitem__)
    for value in places:  # each asked for when everything before it has been left
        np.testing.assert_allclose(replay.value(value), every[value], rtol=1e-5, atol=1e-6)
        replay.leave(links.at[value])
    # Other leaves, when half of the network is forgotten.
    replay = Replay(net.network, flat, [x])
    middle = places[len(places) // 2]
    replay.value(places[-1])
    replay.leave(links.at[middle])
    changed = {**flat, ("head",): 2 * flat["head",], ("out", "3"): -flat["out", "3"]}
    replay.change(changed)
    again = execute(net.network, changed, [x], frozenset({places[-1]})).values
    np.testing.assert_allclose(replay.value(places[-1]), again[places[-1]], rtol=1e-5, atol=1e-6)


def test_what_is_behind_is_not_run_again():
    net, params, x = network()
    flat, ran = pytree.flatten(params), []
    links = wiring(net.network)
    replay = Replay(net.network, flat, [x])
    last = max(links.at.values())
    replay.value(net.network.layout.program.outputs[0].id)
    replay.leave(last)
    replay.change({**flat, ("head",): 2 * flat["head",]})
    step = replay.run.step
    replay.run.step = lambda op: (ran.append(op), step(op))
    replay.value(net.network.layout.program.outputs[0].id)
    assert len(ran) == 1


def test_rows_are_as_many_as_memory_allows(monkeypatch):
    net, _, x = network(100)
    assert largest(net.network) == 4 * 16
    held = replayed(net.network)
    # At some time the stream, a block's units before and behind their activation, and what it adds.
    assert 4 * (6 + 16 + 16 + 6) <= held <= 4 * 200
    assert len(rows.replayable(net, (x,))[0]) == 100
    monkeypatch.setattr(rows, "REPLAYED", int(2 * held * 40))
    assert len(rows.replayable(net, (x,))[0]) == 40
    monkeypatch.setattr(rows, "REPLAYED", 1)
    assert len(rows.replayable(net, (x,))[0]) == rows.FEWEST
    monkeypatch.setattr(rows, "SPACE", 25 * rows.VALUES * 4 * 16)
    assert [len(part[0]) for part in rows.cut(net, (x,))] == [25] * 4
