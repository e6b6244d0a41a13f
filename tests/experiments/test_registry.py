"""A network and a method are one function each, and a config names them."""

import jax
import jax.numpy as jnp
import pytest

from configs.common import base
from experiments import registry
from experiments.models import Network
from experiments.registry import METHODS, NETWORKS
from experiments.run import run


def residual(config, inputs, classes):
    """A dense network with a path around its only block."""
    width = config.network.width
    keys = jax.random.split(jax.random.key(config.network.seed), 3)
    shapes = {"in": (inputs, width), "block": (width, width), "out": (width, classes)}
    params = {
        name: jax.random.normal(key, shape) / shape[0] ** 0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

    def apply(params, x):
        h = jax.nn.relu(x @ params["in"])
        return (h + jax.nn.relu(h @ params["block"])) @ params["out"]

    return Network(apply, params, f"a block of {width} units")


def halved(subject, amount):
    """Kernels with all but a share of their weights at zero."""

    def sparse(leaf):
        limit = jnp.quantile(jnp.abs(leaf), 1 - amount)
        return jnp.where(jnp.abs(leaf) >= limit, leaf, 0)

    return jax.tree.map(sparse, subject.params)


@pytest.fixture
def registered(monkeypatch):
    for registered, name, function in ((NETWORKS, "residual", residual),
                                       (METHODS, "sparse", halved)):  # fmt: skip
        registered.add(name)(function)
    yield
    del NETWORKS["residual"], METHODS["sparse"]


def test_a_new_network_and_a_new_method_in_a_sweep(registered, tmp_path):
    config = base()
    config.dataset.rows, config.calibration.rows, config.training.epochs = 300, 200, 6
    config.training.learning_rate = 1e-2
    config.network.kind, config.network.width = "residual", 12
    config.rules = {"sparse": (0.9, 0.2), "size": (0.8,), "sparse_recovered": (0.9,)}
    rows = run(config, ["seed=0,1", "network.width=8,12"], tmp_path)
    assert len(rows) == 4 * 5 and not any("failure" in row for row in rows)
    by = {(r["task"]["seed"], r["task"]["network.width"], r["rule"], r["amount"]): r for r in rows}
    few, most = by[0, 12, "sparse", 0.2], by[0, 12, "sparse", 0.9]
    assert few["parameters"] == 12 * (64 + 12 + 10) and few["error"] > most["error"] > 0
    assert by[1, 8, "original", 1.0]["accuracy"] > 0.15
    table = (tmp_path / "results.md").read_text()
    assert "| sparse recovered | 0.9 | 4 |" in table and "| sparse | 0.2 | 4 |" in table
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000


def test_names_are_given_once_and_unknown_ones_are_told():
    own = registry.Registry("thing")
    own.add("a")(len)
    with pytest.raises(ValueError, match="thing: there are two called 'a'"):
        own.add("a")(len)
    with pytest.raises(ValueError, match="unknown thing 'b'; known: a"):
        own.find("b")
