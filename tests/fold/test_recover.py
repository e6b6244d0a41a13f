"""recover: distillation never makes it worse on held-out rows."""

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.fold.recover import recover
from tests.fold.networks import traced


def test_recovers_part_of_the_error():
    net, params, batches, stats = traced((12, 40, 30, 5), count=1000)
    small = linjax.fold(params, stats, linjax.size(0.1))
    better = recover(net, params, small, batches, steps=200)
    errors = [
        linjax.compare(net, params, p, batches, metric="identity").error for p in (small, better)
    ]
    assert errors[1] < errors[0]
    assert jax.tree.structure(better) == jax.tree.structure(small)
    assert linjax.count(better) == linjax.count(small)


def test_is_never_worse_than_what_it_was_given():
    net, params, batches, _ = traced((6, 12, 3))
    same = recover(net, params, params, batches, learning_rate=1.0, steps=40)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keeps_dtypes():
    net, params, batches, stats = traced((6, 16, 3), dtype=jnp.bfloat16)
    small = linjax.fold(params, stats, linjax.size(0.5))
    better = recover(net, params, small, batches, steps=20)
    assert {x.dtype for x in jax.tree.leaves(better)} == {jnp.dtype(jnp.bfloat16)}
