"""Kernels that are computed entry by entry: another basis doesn't pass through, coordinates do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.dims.sites import Form
from tests.arrays import normal

MASK = np.tril(np.ones((12, 12), np.float32))
PARAMS = {
    "in": normal(0, 6, 12) * 3,
    "bias": normal(1, 12),
    "mid": normal(2, 12, 12),
    "out": normal(3, 12, 4),
}
X = normal(4, 300, 6) * 3
BY_ENTRY = {
    "lower": jnp.tril,
    "upper": lambda s: jnp.triu(s, 1),
    "times a mask": lambda s: s * MASK,
    "chosen by a mask": lambda s: jnp.where(MASK > 0, s, 0.0),
    "of blocks": lambda s: s * np.kron(np.eye(3), np.ones((4, 4), np.float32)),
    "beside the identity": lambda s: jnp.eye(12) + 0.3 * s,
    "clipped": lambda s: jnp.clip(s, -0.2, 0.2),
    "rows masked": lambda s: s * MASK[:, 5:6],
    "positive": jax.nn.softplus,
    "squared": lambda s: s * s,
}
LINEAR = {
    "scaled": lambda s: -2.0 * s,
    "transposed twice": lambda s: s.T.reshape(12, 12).T,
    "in another precision": lambda s: s.astype(jnp.bfloat16).astype(jnp.float32),
}


def straight(kernel):
    """What the kernel makes is read as it is: rows of rank 6 lie in fewer directions than 12."""

    def apply(p, x):
        return x @ p["in"] @ kernel(p["mid"]) @ p["out"]

    return apply


def bent(kernel):
    def apply(p, x):
        return jax.nn.relu(x @ p["in"] + p["bias"]) @ kernel(p["mid"]) @ p["out"]

    return apply


@pytest.mark.parametrize("network", [straight, bent])
@pytest.mark.parametrize("name", BY_ENTRY)
def test_what_is_predicted_is_measured(name, network):
    apply = network(BY_ENTRY[name])
    net = linjax.trace(apply, PARAMS, X[:1])
    stats = linjax.collect(net, PARAMS, [X[:200]], metric="identity")
    for share in (0.9, 0.7):
        small, report = linjax.fold_and_report(PARAMS, stats, linjax.size(share))
        error = linjax.compare(net, PARAMS, small, [X], metric="identity").error
        assert error < 2 * report.predicted + 1e-4
        assert linjax.count(small) <= share * linjax.count(PARAMS)


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_lets_any_basis_pass(name):
    """Rows of rank 6: a fold to as many directions is exact."""
    net = linjax.trace(straight(LINEAR[name]), PARAMS, X[:1])
    made = [site for site in net.network.foldable if site.width == 12]
    assert [site.form for site in made] == [Form.STRAIGHT] * len(made)
    stats = linjax.collect(net, PARAMS, [X[:200]], metric="identity")
    small, report = linjax.fold_and_report(PARAMS, stats, linjax.size(0.6))
    assert report.predicted < 1e-3
    assert linjax.compare(net, PARAMS, small, [X], metric="identity").error < 5e-3


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_attention_whose_kernels_are_positive(which):
    """Queries, keys and values of positive kernels keep their coordinates."""
    p = {name: normal(n, 8, 8) for n, name in enumerate(("q", "k", "v", "o"))}
    x = normal(9, 64, 5, 8) * 3

    def apply(p, x):
        def made(name):
            return x @ (jax.nn.softplus(p[name]) if name == which else p[name])

        scores = jax.nn.softmax(made("q") @ made("k").swapaxes(1, 2), axis=-1)
        return scores @ made("v") @ p["o"]

    net = linjax.trace(apply, p, x[:1])
    stats = linjax.collect(net, p, [x[:48]], metric="identity")
    for share in (0.8, 0.6):
        small, report = linjax.fold_and_report(p, stats, linjax.size(share))
        error = linjax.compare(net, p, small, [x], metric="identity").error
        assert error < 2 * report.predicted + 1e-3


@pytest.mark.parametrize(
    "at", [np.s_[:, 1::2], np.s_[:, np.array([3, 1, 2, 0, 5, 4, 7, 6, 9, 8, 11, 10])]]
)
def test_units_that_are_put_where_indices_say(at):
    """Indices were cut with the units: these went to places of others."""
    p = {**PARAMS, "wide": normal(5, 24, 4), "beside": normal(6, 12, 4)}

    def apply(p, x):
        h = jax.nn.relu(x @ p["in"] + p["bias"])
        return jnp.zeros((h.shape[0], 24)).at[at].set(h) @ p["wide"] + jnp.tanh(h) @ p["beside"]

    net = linjax.trace(apply, p, X[:1])
    assert "its entries are looked up" in repr(net)
    assert not [site for site in net.network.foldable if site.width == 12]


def moved(h):
    """Every unit is read beside its neighbours, as places of an image are."""
    kernel, dims = jnp.array([0.5, 1.0, 0.5]).reshape(3, 1, 1), ("NWC", "WIO", "NWC")
    found = jax.lax.conv_general_dilated(h[..., None], kernel, (1,), "SAME", dimension_numbers=dims)
    return found[..., 0]


@pytest.mark.parametrize("way", [moved, jax.vmap(lambda v: jnp.convolve(v, jnp.ones(3), "same"))])
def test_convolutions_along_units_keep_them(way):
    """A second reader was taken for the only one."""
    p = {**PARAMS, "beside": normal(6, 12, 4)}

    def apply(p, x):
        h = jax.nn.relu(x @ p["in"] + p["bias"])
        return way(h) @ p["out"] + 0.1 * jnp.tanh(h) @ p["beside"]

    net = linjax.trace(apply, p, X[:1])
    assert not net.network.foldable and "a place in space" in repr(net)


@pytest.mark.parametrize("name", BY_ENTRY)
@pytest.mark.parametrize("at", ["in", "mid"])
def test_streams_that_such_kernels_make_or_read_are_refused(name, at):
    """A norm runs over them: they could be turned, but for such a kernel."""
    p = {**PARAMS, "in": normal(7, 12, 12), "up": normal(8, 12, 12)}
    kernel = BY_ENTRY[name]

    def apply(p, x):
        h = x @ (kernel(p["in"]) if at == "in" else p["in"])
        n = h / jnp.sqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6)
        h = h + jax.nn.relu(n @ p["up"]) @ (kernel(p["mid"]) if at == "mid" else p["mid"])
        n = h / jnp.sqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6)
        return n @ p["out"]

    net = linjax.trace(apply, p, normal(9, 4, 12))
    (stream,) = [site for site in net.network.sites if site.form is Form.NORMED]
    assert stream.norms is None
    assert "computes parameters" in repr(net)
