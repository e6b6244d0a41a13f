"""Whatever least squares folded of a network, it is certified, folded exactly and lumped then."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
relu = jax.nn.relu
SHAPES = {
    "a": (4, 16), "up": (16,), "b": (16, 16), "c": (16, 12), "d": (12, 6), "e": (6, 3),
    "g": (4, 16), "last": (12, 3),
}  # fmt: skip
LOW, HIGH = -1.0, 1.0


def chain(p, x):
    return relu(relu(x @ p["a"] + p["up"]) @ p["b"])


def branch_twice(p, x):
    """The second kernel is read by two functions of the same units: no chain has it."""
    h = chain(p, x)
    return (relu(h @ p["c"]) + jnp.tanh(h) @ p["c"]) @ p["d"] @ p["e"]


def straight(p, x):
    """What the chain ends in is a dimension of any basis itself."""
    return relu(chain(p, x) @ p["c"]) @ p["d"] * 2 @ p["e"]


def computed(p, x):
    """A kernel that is computed, in front of what can be certified beside it."""
    kernel = p["c"] / jnp.linalg.norm(p["c"], axis=0)
    return relu(chain(p, x) @ kernel) @ p["d"] @ p["e"]


def beside(p, x):
    """Units of another kind next to a chain."""
    return chain(p, x) @ p["c"] @ p["last"] + jax.nn.gelu(x @ p["g"]) @ p["c"] @ p["last"]


@pytest.mark.quick(4)
@pytest.mark.parametrize("apply", [branch_twice, straight, computed, beside])
@pytest.mark.parametrize("share", [0.85, 0.6])
def test_folds_of_leaves_that_no_chain_has_compose(apply, share):
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=s) / s[0] ** 0.5 for name, s in SHAPES.items()}
    used = jax.make_jaxpr(apply)(drawn, np.zeros((1, 4)))
    names = [n for n, v in zip(sorted(drawn), used.jaxpr.invars, strict=False)
             if any(v in eqn.invars for eqn in used.jaxpr.eqns)]  # fmt: skip
    params = {name: jnp.asarray(drawn[name], jnp.float32) for name in names}
    params["up"] = jnp.linspace(-3.0, 3.0, 16)
    x = jnp.asarray(rng.uniform(LOW, HIGH, (300, 4)), jnp.float32)
    net = linjax.trace(apply, params, x[:1])
    small = linjax.fold(params, linjax.collect(net, params, [x]), linjax.size(share))
    y = np.asarray(jax.jit(net.apply)(small, x))
    assert linjax.count(small) <= share * linjax.count(params)

    bounds = linjax.certify(net, small, LOW, HIGH, time_limit=5)
    assert linjax.check_certificate(net, small, bounds).ok
    for after in (linjax.fold(small, bounds), linjax.lump(net, small)):
        np.testing.assert_allclose(jax.jit(net.apply)(after, x), y, atol=2e-5 * np.abs(y).max())
        assert linjax.count(after) <= linjax.count(small)
    again = linjax.collect(net, small, [x])
    for rule in (linjax.threshold(0.95), linjax.published_size(0.9)):
        after = linjax.fold(small, again, rule)
        assert np.isfinite(np.asarray(jax.jit(net.apply)(after, x))).all()
