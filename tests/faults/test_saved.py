"""What save writes load reads, with the function and without; or save says why not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import linjax
from tests.arrays import placed

place = jax.lax.with_sharding_constraint
RNG = np.random.default_rng(0)
P = {
    "w": jnp.asarray(RNG.normal(size=(4, 16)), jnp.float32),
    "v": jnp.asarray(RNG.normal(size=(16, 2)), jnp.float32),
}
X = placed(RNG.normal(size=(200, 4)))
KEY = jax.random.key(3)


def noisy(params, x, key):
    return jax.nn.relu((x + jax.random.normal(key, x.shape)) @ params["w"]) @ params["v"]


def by_row(params, x, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
    return jax.nn.relu((x + noise) @ params["w"]) @ params["v"]


def given(params, x, rngs):
    return noisy(params, x, rngs["noise"])


def captured(params, x):
    return noisy(params, x, KEY)


def raw(params, x, key):
    return noisy(params, x, jax.random.wrap_key_data(key))


def typed(params, x):
    return jax.nn.relu(x.real @ params["w"]) @ params["v"]


CASES = {
    "a key": (noisy, (X, KEY)),
    "a key of another generator": (noisy, (X, jax.random.key(1, impl="rbg"))),
    "a key for each row": (by_row, (X, jax.random.split(KEY, 200))),
    "keys in a dict": (given, (X, {"noise": KEY})),
    "a key in the function": (captured, (X,)),
    "a raw key": (raw, (X, jax.random.PRNGKey(2))),
    "complex inputs": (typed, (X + 1j,)),
    "half precision": (typed, (X.astype(jnp.bfloat16),)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_save_writes_load_reads(tmp_path, case):
    apply, inputs = CASES[case]
    net = linjax.trace(apply, P, *inputs)
    path = tmp_path / "network"
    linjax.save(path, net, P)
    for function in (None, apply):
        stored, params = linjax.load(path, function)
        np.testing.assert_allclose(
            stored.apply(params, *inputs), apply(P, *inputs), rtol=1e-5, atol=1e-5
        )
        assert [s.dtype for s in jax.tree.leaves(stored.example)] == [
            x.dtype for x in jax.tree.leaves(inputs)
        ]


def test_symbolic_shapes_are_refused(tmp_path):
    batch = jax.export.symbolic_shape("batch")[0]
    net = linjax.trace(typed, P, jax.ShapeDtypeStruct((batch, 4), jnp.float32))
    with pytest.raises(linjax.StoreError, match="trace with sizes"):
        linjax.save(tmp_path / "network", net, P)
    assert not (tmp_path / "network").exists()
    linjax.save(tmp_path / "network", linjax.trace(typed, P, X), P)  # what it says to do


def test_unknown_generators_are_refused(tmp_path):
    from jax.extend import random

    own = random.define_prng_impl(
        key_shape=(2,), seed=lambda s: jnp.zeros(2, jnp.uint32), split=lambda k, s: k, fold_in=None,
        random_bits=lambda k, w, s: jnp.zeros(s, jnp.uint32), name="own", tag="own",
    )  # fmt: skip
    key = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32), impl=own)
    net = linjax.trace(noisy, P, X, key)
    with pytest.raises(linjax.StoreError, match="raw ones"):
        linjax.save(tmp_path / "network", net, P)
    linjax.save(tmp_path / "network", linjax.trace(raw, P, X, jax.random.PRNGKey(0)), P)


def test_a_program_of_one_batch_size_says_so(tmp_path):
    def bound(params, x):
        return typed(params, x) + jnp.zeros((200, 2))

    net = linjax.trace(bound, P, X)
    with pytest.warns(linjax.FoldWarning, match="only batches of 200"):
        linjax.save(tmp_path / "network", net, P)
    stored, params = linjax.load(tmp_path / "network")
    np.testing.assert_allclose(stored.apply(params, X), bound(P, X), rtol=1e-5, atol=1e-5)


def spread():
    """A sharding over eight devices."""
    if jax.device_count() < 8:
        pytest.skip("needs eight devices")
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "model"))
    return NamedSharding(mesh, PartitionSpec("data", "model"))


def constrained(params, x):
    return place(jax.nn.relu(x @ params["w"]), spread()) @ params["v"]


def scanned(params, x):
    def step(h, _):
        return place(h + jnp.tanh(h @ params["w"]) @ params["w"].T, spread()), None

    return jax.lax.scan(step, x, None, length=3)[0] @ params["w"] @ params["v"]


def jitted(params, x):
    return jax.jit(lambda x: x @ params["w"], out_shardings=spread())(x) @ params["v"]


def moved(params, x):
    return jax.device_put(x @ params["w"], spread()) @ params["v"]


def holding(params, x):
    table = jax.device_put(np.ones((8, 4), np.float32), spread())
    return jax.nn.relu((x[:8] + table) @ params["w"]) @ params["v"]


def branching(params, x):
    h = jax.nn.relu(x @ params["w"])
    ways = (lambda h: place(h, spread()), lambda h: -h)
    return jax.lax.cond(x[0, 0] > 0, *ways, h) @ params["v"]


@pytest.mark.parametrize("apply", [constrained, scanned, jitted, moved, holding, branching])
def test_a_stored_program_runs_on_one_device(tmp_path, apply):
    spread()
    net, x = linjax.trace(apply, P, X), X
    linjax.save(tmp_path / "network", net, P)
    want = np.asarray(apply(P, x))
    for function in (None, apply):
        stored, params = linjax.load(tmp_path / "network", function)
        np.testing.assert_allclose(stored.apply(params, x), want, rtol=1e-4, atol=1e-5)


def test_what_runs_on_many_devices_at_once_is_stored_without_a_program(tmp_path):
    mesh = spread().mesh
    relu = jax.shard_map(
        jax.nn.relu, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data")
    )

    def apply(params, x):
        return relu(x @ params["w"]) @ params["v"]

    linjax.save(tmp_path / "network", linjax.trace(apply, P, X), P)
    with pytest.raises(linjax.StoreError, match=r"8 devices at once.*give the network's function"):
        linjax.load(tmp_path / "network")
    stored, params = linjax.load(tmp_path / "network", apply)  # what it says to do
    np.testing.assert_allclose(np.asarray(stored.apply(params, X)), typed(P, X), rtol=1e-4)


def test_results_meet_arrays_of_other_devices(tmp_path):
    """Unless an argument was bound to a device: then JAX's own rules hold."""
    there = spread()
    linjax.save(tmp_path / "network", linjax.trace(constrained, P, X), P)
    stored, params = linjax.load(tmp_path / "network")
    want = constrained(P, X)
    assert len(want.sharding.device_set) == 8
    result = stored.apply(params, X)
    assert not result.committed and jnp.allclose(result, want, rtol=1e-4, atol=1e-5)
    assert jnp.allclose(result + want, 2 * want, rtol=1e-4, atol=1e-5)
    whole = NamedSharding(there.mesh, PartitionSpec())
    given, x = jax.device_put((params, X), whole)
    assert stored.apply(given, x).sharding.device_set == set(there.mesh.devices.flat)
    bound = jax.device_put(X, jax.devices()[3])
    assert stored.apply(params, bound).sharding.device_set == {jax.devices()[3]}
    np.testing.assert_allclose(jax.jit(stored.apply)(params, X), want, rtol=1e-4, atol=1e-5)


def test_sizes_that_a_program_holds_as_numpys_integers(tmp_path):
    """As ``split`` does: what is told of its sites is written as JSON."""
    keys = jax.random.split(jax.random.key(0), 4)

    def apply(p, x):
        most = jnp.einsum("nd,dhk->nhk", x, p["a"]).max(1)
        value, gate = jnp.split(x @ p["b"], 2, axis=1)
        return jnp.concatenate([most, value * jax.nn.sigmoid(gate)], 1) @ p["c"]

    params = {
        "a": jax.random.normal(keys[0], (10, 4, 8)),
        "b": jax.random.normal(keys[1], (10, 40)),
        "c": jax.random.normal(keys[2], (28, 5)),
    }
    x = jax.random.normal(keys[3], (50, 10))
    net = linjax.trace(apply, params, x)
    linjax.save(tmp_path / "network", net, params)
    stored, loaded = linjax.load(tmp_path / "network")
    np.testing.assert_allclose(stored.apply(loaded, x), apply(params, x), rtol=1e-5, atol=1e-5)
    assert all(type(site.width) is int for site in net.network.sites)
