"""The states of optimisers in daily use are carried over a fold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linjax
from tests.arrays import placed

relu = jax.nn.relu


def normal(*shape):
    return placed(np.random.default_rng(shape).normal(size=shape))


P = {"w": normal(8, 40), "b": normal(40) + 3, "v": normal(40, 6) / 7, "u": normal(6, 40)}
P |= {"o": normal(40, 3) / 6}
X = normal(300, 8)


def apply(p, x):
    return relu((relu(x @ p["w"] + p["b"]) @ p["v"]) @ p["u"]) @ p["o"]


def large(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


def label(tree):
    return jax.tree.map(lambda leaf: "large" if leaf.ndim > 1 else "small", tree)


OPTIMISERS = {
    "sgd": optax.sgd(1e-3),
    "momentum": optax.sgd(1e-3, momentum=0.9),
    "adam": optax.adam(1e-3),
    "lion": optax.lion(1e-3),
    "adafactor": optax.adafactor(1e-3),
    "adafactor, factored": optax.adafactor(1e-3, min_dim_size_to_factor=4, momentum=0.9),
    "adamw, masked": optax.adamw(1e-3, mask=large),
    "masked": optax.masked(optax.adam(1e-3), large),
    "several": optax.multi_transform({"large": optax.adam(1e-3), "small": optax.sgd(1e-2)}, label),
    "a chain": optax.chain(optax.zero_nans(), optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
    "schedule": optax.adam(optax.cosine_decay_schedule(1e-3, 100)),
    "hyperparameters": optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    "several steps": optax.MultiSteps(optax.adam(1e-3), 3),
    "average": optax.chain(optax.adam(1e-3), optax.ema(0.9)),
    "if finite": optax.apply_if_finite(optax.adam(1e-3), 3),
    "lbfgs": optax.scale_by_lbfgs(),
}


@pytest.fixture(scope="module")
def folded():
    net = linjax.trace(apply, P, X[:1])
    stats = linjax.collect(net, P, [X], metric="identity")
    return net, *linjax.fold_and_report(P, stats, linjax.size(0.6))


@pytest.mark.quick(6)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_goes_on(name, folded):
    net, small, report = folded
    optimizer = OPTIMISERS[name]
    _, state = jax.jit(optimizer.update)(jax.tree.map(jnp.ones_like, P), optimizer.init(P), P)
    carried = linjax.carry_over(optimizer, state, P, small, report)
    want = optimizer.init(small)
    assert jax.tree.structure(carried) == jax.tree.structure(want)
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, want)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(net.apply(p, X) ** 2)))(small)
    updates, _ = jax.jit(optimizer.update)(gradient, carried, small)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", ["adam", "masked", "several", "several steps", "if finite"])
def test_moments_and_counts_are_kept(name, folded):
    _, small, report = folded
    optimizer = OPTIMISERS[name]
    _, state = jax.jit(optimizer.update)(jax.tree.map(jnp.ones_like, P), optimizer.init(P), P)
    carried = linjax.carry_over(optimizer, state, P, small, report)
    was, now = (
        {jax.tree_util.keystr(k): x for k, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (state, carried)
    )
    counts = [key for key in was if was[key].shape == ()]
    assert counts and all(now[key] == was[key] for key in counts)
    part = "acc_grads" if name == "several steps" else "mu"
    own = [key for key in now if part in key and key.endswith("['w']")]
    assert own and all(float(jnp.abs(now[key]).max()) > 0 for key in own)


def test_the_state_of_another_optimiser_is_refused(folded):
    _, small, report = folded
    with pytest.raises(linjax.StructureError, match="give the state of"):
        linjax.carry_over(optax.adam(1e-3), optax.sgd(1e-3).init(P), P, small, report)


FIXED = {
    "several": optax.multi_transform(
        {"large": optax.adam(1e-3), "small": optax.sgd(1e-2)}, label(P)
    ),
    "masked": optax.masked(optax.adam(1e-3), large(P)),
}


@pytest.mark.parametrize("name", FIXED)
def test_labels_of_the_originals_leaves_are_refused_with_the_way_out(name, folded):
    """They have no entry for leaves that a fold adds."""
    _, small, report = folded
    with pytest.raises(linjax.StructureError, match="as functions of a pytree"):
        linjax.carry_over(FIXED[name], FIXED[name].init(P), P, small, report)
