"""NNX modules go in, and folded networks come back as modules that train and save."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import linjax
from tests.arrays import placed

X = placed(np.random.default_rng(0).normal(size=(64, 5)))


class Net(nnx.Module):
    """Dense layers in a list, dropout with its random key, and a submodule used twice."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(5, 24, rngs=rngs), nnx.Linear(24, 16, rngs=rngs)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = self.drop(nnx.relu(layer(x)))
        return self.head(x)

    def features(self, x, scale):
        return self.layers[1](nnx.relu(self.layers[0](x))) * scale


@pytest.fixture(scope="module")
def folded():
    model = Net(nnx.Rngs(0))
    net, params = linjax.from_nnx(model, X[:1])
    stats = linjax.collect(net, params, [X])
    return model, net, params, linjax.fold(params, stats, linjax.size(0.5))


def test_a_module_is_traced_in_inference_mode_and_left_as_it_was(folded):
    model, net, params, _ = folded
    assert [s.name for s in net.graph.sites] == ["layers/0", "layers/1"]
    assert not net.graph.refusals and not model.drop.deterministic
    first = net.apply(params, X)
    np.testing.assert_array_equal(first, net.apply(params, X))
    model.eval()
    np.testing.assert_allclose(first, model(X), rtol=1e-6)
    model.train()


def test_a_method_or_a_function_can_be_traced():
    model = Net(nnx.Rngs(0))
    net, _ = linjax.from_nnx(model, X[:1], 2.0, method="features")
    assert [s.name for s in net.graph.sites] == ["layers/0"]
    net, _ = linjax.from_nnx(model, X[:1], method=lambda m, x: m.features(x, 3.0))
    assert [s.name for s in net.graph.sites] == ["layers/0"]


def test_what_is_no_module_is_refused():
    with pytest.raises(linjax.LinjaxError, match=r"nnx\.Module"):
        linjax.from_nnx(lambda x: x, X)
    with pytest.raises(linjax.LinjaxError, match="no method 'forward'"):
        linjax.from_nnx(Net(nnx.Rngs(0)), X, method="forward")


def test_a_folded_module_computes_the_same_in_and_out_of_jit(folded):
    _, net, params, small = folded
    assert linjax.count(small) < linjax.count(params)
    for tree in (params, small):
        module = linjax.to_nnx(net, tree)
        want = net.apply(tree, X)
        np.testing.assert_allclose(module(X), want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            nnx.jit(lambda m, x: m(x))(module, X), want, rtol=1e-4, atol=1e-5
        )
        again = nnx.to_pure_dict(nnx.state(module))
        assert linjax.count(again) == linjax.count(tree)
        np.testing.assert_array_equal(net.apply(again, X), module(X))


def test_a_folded_module_is_trained(folded):
    _, net, _, small = folded
    module = linjax.to_nnx(net, small)
    optimizer = nnx.Optimizer(module, optax.adam(1e-2), wrt=nnx.Param)
    target = jnp.sin(X[:, :3])

    @nnx.jit
    def step(module, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(X) - target) ** 2))(module)
        optimizer.update(module, grads)
        return loss

    losses = [float(step(module, optimizer)) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    trained = nnx.to_pure_dict(nnx.state(module))
    further = linjax.fold(trained, linjax.collect(net, trained, [X]), linjax.size(0.5))
    assert linjax.count(further) < linjax.count(small)


def test_variables_keep_their_types(folded):
    _, net, params, small = folded
    for tree in (params, small):
        state = nnx.state(linjax.to_nnx(net, tree))
        kinds = {path: type(v) for path, v in nnx.to_flat_state(state)}
        assert kinds[("drop", "rngs", "key")] is nnx.RngKey
        assert kinds[("head", "kernel")] is nnx.Param
    extras = {path[-1] for path in kinds} - {"kernel", "bias", "key", "count"}
    assert extras and all(k is nnx.Param for p, k in kinds.items() if p[-1] in extras)


def test_a_folded_module_is_saved_with_orbax(folded, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    _, net, _, small = folded
    trainable = nnx.to_pure_dict(nnx.state(linjax.to_nnx(net, small), nnx.Param))
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "folded", trainable)
    fresh = linjax.to_nnx(net, jax.tree.map(jnp.zeros_like, small))
    with ocp.StandardCheckpointer() as loader:
        restored = loader.restore(tmp_path / "folded", jax.tree.map(jnp.zeros_like, trainable))
    state = nnx.state(fresh, nnx.Param)
    nnx.replace_by_pure_dict(state, restored)
    nnx.update(fresh, state)
    np.testing.assert_allclose(fresh(X), net.apply(small, X), rtol=1e-6)


def test_parameters_of_another_network_are_refused(folded):
    _, net, params, _ = folded
    with pytest.raises(linjax.StructureError, match="head"):
        linjax.to_nnx(net, {key: part for key, part in params.items() if key != "head"})


def test_linen_variables_become_a_module_with_their_types():
    from flax import linen

    class Small(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.BatchNorm(use_running_average=True)(x)
            return linen.Dense(2)(linen.relu(linen.Dense(8)(x)))

    variables = Small().init(jax.random.key(0), X)
    net = linjax.trace(Small().apply, variables, X[:1])
    module = linjax.to_nnx(net, variables)
    np.testing.assert_allclose(module(X), net.apply(variables, X), rtol=1e-5)
    kinds = {path[0]: type(v) for path, v in nnx.to_flat_state(nnx.state(module))}
    assert kinds == {"params": nnx.Param, "batch_stats": nnx.BatchStat}
