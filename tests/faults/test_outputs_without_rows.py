"""Networks whose output is one number for a whole batch: there is no scale for errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax


def test_a_loss_is_told():
    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)  # noqa: E731
    params = {"a": draw(6, 24), "o": draw(24, 3)}
    batches = [{"x": draw(100, 6), "y": draw(100, 3)} for _ in range(2)]

    def loss(p, batch):
        return jnp.mean((jax.nn.relu(batch["x"] @ p["a"]) @ p["o"] - batch["y"]) ** 2)

    net = linjax.trace(loss, params, batches[0])
    with pytest.warns(linjax.FoldWarning, match="same for all rows"):
        stats = linjax.collect(net, params, batches)
    with pytest.warns(linjax.FoldWarning, match="little is left"):
        small, report = linjax.fold_and_report(params, stats, linjax.size(0.5))
    assert report.predicted == np.inf
    assert linjax.count(small) <= 0.5 * linjax.count(params)
