"""Two sites that one kernel reads together: when one is folded, the other has fewer samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.dims.span import companions
from linjax.evidence.points import point_spans

GROUPS, SHARED, FEATURES, WIDTH = 2, 4, 6, 10


def attention(p, x):
    """Heads of queries share keys and values in groups; both heads and features are read by one."""
    query = jnp.einsum("blp,pgsd->blgsd", x, p["q"])
    key, value = (jnp.einsum("blp,pgd->blgd", x, p[name]) for name in "kv")
    scores = jax.nn.softmax(jnp.einsum("blgsd,bmgd->bgslm", query, key) / FEATURES**0.5)
    mixed = jnp.einsum("bgslm,bmgd->blgsd", scores, value)
    return (x + jnp.einsum("blgsd,gsdq->blq", mixed, p["o"])) @ p["head"]


def products(p, x):
    """A table of features: both of its axes are made by kernels, and read by one."""
    table = jax.nn.relu(jnp.einsum("np,pa->na", x, p["a"])[:, :, None] * (x @ p["b"])[:, None])
    table = jnp.einsum("nab,bc->nac", table, p["mix"])
    return jax.nn.relu(jnp.einsum("nac,acq->nq", table, p["read"])) @ p["last"]


def network(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "attention":
        heads = (GROUPS, SHARED, FEATURES)
        shapes = {
            "q": (WIDTH, *heads), "k": (WIDTH, GROUPS, FEATURES), "v": (WIDTH, GROUPS, FEATURES),
            "o": (*heads, WIDTH), "head": (WIDTH, 3),
        }  # fmt: skip
        apply, shape = attention, (300, 5, WIDTH)
    else:
        shapes = {
            "a": (8, 6), "b": (8, 7), "mix": (7, 9), "read": (6, 9, 12), "last": (12, 3),
        }  # fmt: skip
        apply, shape = products, (800, 8)
    params = {
        n: jnp.asarray(rng.normal(size=s) / s[0] ** 0.5, jnp.float32) for n, s in shapes.items()
    }
    return apply, params, jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.quick(3)
@pytest.mark.parametrize("size", [0.7, 0.5, 0.35])
@pytest.mark.parametrize("kind", ["attention", "products"])
def test_folds_in_order_beside_one_another(kind, size):
    apply, params, x = network(kind, 0)
    net = linjax.trace(apply, params, x[:1])
    sites = {site.dim for site in net.network.foldable}
    together = [
        companions(point_spans(net.network.layout, point)).get(site.dim, set()) & sites
        for site in net.network.foldable
        for point in site.points
    ]
    assert any(together)
    batches = [x[: len(x) // 2], x[len(x) // 2 :]]
    stats = linjax.collect(net, params, batches, metric="identity")
    rule = linjax.size(size)
    small = linjax.compress(net, params, batches, rule, evidence=stats, progress=False)
    folded = linjax.fold(params, stats, rule)
    assert linjax.count(small) <= size * linjax.count(params)
    _, _, held = network(kind, 0)
    errors = [
        linjax.compare(net, params, p, [held], metric="identity").error for p in (small, folded)
    ]
    assert errors[0] <= 1.05 * errors[1]
