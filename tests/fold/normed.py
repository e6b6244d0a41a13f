"""Networks with streams that norms run over, written in several ways, and their evidence."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import linjax
from linjax.dims.sites import Form
from tests.fold.images import collected

WIDTH, RANK, UNITS, BLOCKS, OUT, INPUTS = 12, 5, 16, 2, 4, 7
VOCABULARY, HEADS, LENGTH = 24, 2, 5


def rms(q, x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * q["g"]


def rms_divided(q, x):
    return q["g"] * (x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True) / WIDTH + 1e-6))


def layer(q, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-6) * q["g"] + q["b"]


def layer_fast(q, x):
    """Variance as a difference of moments, the scale in the factor."""
    mean = x.mean(-1)
    var = jnp.maximum(0.0, (x**2).mean(-1) - mean**2)
    factor = jax.lax.rsqrt(var + 1e-6)[..., None] * q["g"]
    return (x - mean[..., None]) * factor + q["b"]


def residual(norm):
    def apply(p, x):
        h = x @ p["e"] + p["eb"]
        for q in p["blocks"]:
            h = h + jnp.tanh(norm(q, h) @ q["u"] + q["c"]) @ q["d"] + q["db"]
        return norm(p, h) @ p["h"]

    return apply


class Residual(nn.Module):
    norm: type

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(WIDTH)(x)
        for _ in range(BLOCKS):
            h = h + nn.Dense(WIDTH)(jnp.tanh(nn.Dense(UNITS)(self.norm()(h))))
        return nn.Dense(OUT, use_bias=False)(self.norm()(h))


class Rebuilt(nnx.Module):
    def __init__(self, rngs):
        self.e = nnx.Linear(INPUTS, WIDTH, rngs=rngs)
        self.up = nnx.List([nnx.Linear(WIDTH, UNITS, rngs=rngs) for _ in range(BLOCKS)])
        self.down = nnx.List([nnx.Linear(UNITS, WIDTH, rngs=rngs) for _ in range(BLOCKS)])
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(BLOCKS + 1)])
        self.h = nnx.Linear(WIDTH, OUT, use_bias=False, rngs=rngs)

    def __call__(self, x):
        h = self.e(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            h = h + down(jnp.tanh(up(norm(h))))
        return self.h(self.norms[BLOCKS](h))


def span(seed=1):
    """A random projection on so many directions of the stream."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0][:, :RANK]
    return turn @ turn.T


def plain(seed=0, planted=True):
    """Parameters by hand, whose stream lies in a few directions, unlike its coordinates."""
    rng = np.random.default_rng(seed)
    onto = span() if planted else np.eye(WIDTH)
    make = lambda *s: rng.normal(size=s) / s[0] ** 0.5  # noqa: E731
    scales = lambda: {"g": 1 + 0.5 * rng.normal(size=WIDTH), "b": make(WIDTH)}  # noqa: E731
    blocks = [
        scales() | {"u": make(WIDTH, UNITS), "c": make(UNITS), "d": make(UNITS, WIDTH) @ onto,
                    "db": make(WIDTH) @ onto} for _ in range(BLOCKS)
    ]  # fmt: skip
    own = {"e": 2 * make(INPUTS, WIDTH) @ onto, "eb": make(WIDTH) @ onto, "h": make(WIDTH, OUT)}
    return scales() | own | {"blocks": blocks}


def by_hand(p, x, centred):
    """The residual network in NumPy."""

    def norm(q, h):
        if centred:
            h = h - h.mean(-1, keepdims=True)
        n = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * q["g"]
        return n + q["b"] if centred else n

    h = x @ p["e"] + p["eb"]
    for q in p["blocks"]:
        h = h + np.tanh(norm(q, h) @ q["u"] + q["c"]) @ q["d"] + q["db"]
    return norm(p, h) @ p["h"]


def in_linen(p, name):
    def norm(q):
        return {"scale": q["g"]} | ({"bias": q["b"]} if name == "LayerNorm" else {})

    dense = [(p["e"], p["eb"])]
    for q in p["blocks"]:
        dense += [(q["d"], q["db"]), (q["u"], q["c"])]  # named as they are constructed
    found = {f"Dense_{n}": {"kernel": k, "bias": b} for n, (k, b) in enumerate(dense)}
    found[f"Dense_{len(dense)}"] = {"kernel": p["h"]}
    found |= {f"{name}_{n}": norm(q) for n, q in enumerate([*p["blocks"], p])}
    return {"params": found}


def in_nnx(p):
    graph, state = nnx.split(Rebuilt(nnx.Rngs(0)))
    pure = nnx.to_pure_dict(state)
    pure["e"] = {"kernel": p["e"], "bias": p["eb"]}
    pure["h"] = {"kernel": p["h"]}
    for n, q in enumerate(p["blocks"]):
        pure["up"][n] = {"kernel": q["u"], "bias": q["c"]}
        pure["down"][n] = {"kernel": q["d"], "bias": q["db"]}
    for n, q in enumerate([*p["blocks"], p]):
        pure["norms"][n] = {"scale": q["g"], "bias": q["b"]}

    def apply(params, x):
        own = jax.tree.map(lambda a: a, state)
        nnx.replace_by_pure_dict(own, params)
        return nnx.merge(graph, own)(x)

    return apply, pure


def network(kind, planted=True):
    """A function, its parameters, and whether its norms subtract the mean."""
    p = plain(planted=planted)
    if kind in ("LayerNorm", "RMSNorm"):
        module = Residual(getattr(nn, kind))
        return module.apply, in_linen(p, kind), kind == "LayerNorm"
    if kind == "nnx":
        return *in_nnx(p), True
    norm = {"rms": rms, "rms_divided": rms_divided, "layer": layer, "layer_fast": layer_fast}[kind]
    if kind.startswith("rms"):
        p = {n: x for n, x in p.items() if n != "b"}
        p["blocks"] = [{n: x for n, x in q.items() if n != "b"} for q in p["blocks"]]
    return residual(norm), p, kind.startswith("layer")


KINDS = ("rms", "rms_divided", "layer", "layer_fast", "LayerNorm", "RMSNorm", "nnx")


def stream(net):
    (site,) = (site for site in net.network.sites if site.form is Form.NORMED)
    return site


def narrowed(params, stats, net, k):
    """The network of which the stream alone is folded, to k coordinates."""
    known = linjax.frontier(params, stats)
    n = known.problems.sites.index(stream(net))
    plan = known.plan(linjax.size(1.0))
    units = list(plan.state.units)
    units[n] = k
    plan = plan._replace(state=plan.state._replace(units=tuple(units)))
    surface = next(iter(known.errors_by_width.surfaces.values()))[n]
    return known.fold(params, plan)[0], float(surface.errors[k, 0] / stats.variation) ** 0.5


def typed(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def rows(seed, dtype=jnp.float32, count=600):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, INPUTS)), dtype)


class Seen(NamedTuple):
    """A network with evidence of it."""

    apply: Any
    params: Any
    centred: bool
    x: Any
    net: linjax.Net
    stats: linjax.Stats


def seen(kind, planted=False, count=600):
    apply, params, centred = network(kind, planted=planted)
    params, x = typed(params, jnp.float32), rows(7, count=count)
    return Seen(apply, params, centred, x, *collected(apply, params, x))
