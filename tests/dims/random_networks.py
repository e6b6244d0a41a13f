"""Random networks of stages that make, cut, join, gate, repeat and carry dimensions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.arrays import placed

Array = Any
BATCH, TIME = 2, 6
ACTIVATIONS: tuple[Callable, ...] = (
    jax.nn.relu, jax.nn.gelu, jnp.tanh, jax.nn.sigmoid, jnp.exp, jnp.square, lambda x: x,
)  # fmt: skip


class Maker:
    """Draws parameters by name."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.params: dict[str, Array] = {}

    def leaf(self, *shape: int, mean: float = 0.0) -> str:
        name = f"p{len(self.params):03d}"
        fan = np.prod(shape[:-1]) ** 0.5 if len(shape) > 1 else 2.0
        drawn = np.float32(mean + self.rng.normal(size=shape) / fan)
        self.params[name] = placed(drawn)
        return name

    def width(self) -> int:
        return int(self.rng.choice((4, 6, 8)))

    def act(self) -> Callable:
        return ACTIVATIONS[int(self.rng.integers(len(ACTIVATIONS)))]

    def coin(self, odds: float = 0.5) -> bool:
        return bool(self.rng.random() < odds)


def dense(m: Maker, d: int, bias: bool | None = None) -> tuple[Callable, int]:
    """A dense layer with an activation, written in one of several ways."""
    q, act, way = m.width(), m.act(), int(m.rng.integers(4))
    w = m.leaf(*((q, d) if way == 1 else (1, d, q) if way == 2 else (d, q)))
    b = m.leaf(q) if m.coin() else None

    def run(p: dict, x: Array) -> Array:
        if way == 1:
            y = jnp.einsum("btd,qd->btq", x, p[w])
        elif way == 2:
            y = convolve(x, p[w])
        else:
            y = x @ p[w]
        return act(y if b is None else y + p[b])

    return run, q


def convolve(x: Array, kernel: Array, groups: int = 1) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )  # fmt: skip


def gated(m: Maker, d: int) -> tuple[Callable, int]:
    """Two halves of one kernel, one gates the other; cut by slicing, splitting or reshaping."""
    h, q, way, act = m.width(), m.width(), int(m.rng.integers(3)), m.act()
    w, down = m.leaf(d, 2 * h), m.leaf(h, q)

    def run(p: dict, x: Array) -> Array:
        y = x @ p[w]
        if way == 0:
            a, b = y[..., :h], y[..., h:]
        elif way == 1:
            a, b = jnp.split(y, 2, axis=-1)
        else:
            a, b = jnp.moveaxis(y.reshape(BATCH, TIME, 2, h), 2, 0)
        return (act(a) * b) @ p[down]

    return run, q


def attention(m: Maker, d: int) -> tuple[Callable, int]:
    """Heads in kernels of their own or fused; sometimes fewer keys than queries."""
    heads, k, v, q = 2, int(m.rng.choice((2, 4))), int(m.rng.choice((2, 4))), m.width()
    fused, few = m.coin(), m.coin(0.3)
    if fused:
        w = m.leaf(d, 3 * heads * k)
        out = m.leaf(heads * k, q)
    else:
        names = [m.leaf(d, heads, n) for n in (k, k, v)]
        if few:
            names[1:] = [m.leaf(d, 1, n) for n in (k, v)]
        out = m.leaf(heads, v, q)

    def run(p: dict, x: Array) -> Array:
        if fused:
            parts = jnp.split(x @ p[w], 3, axis=-1)
            a, b, c = (y.reshape(BATCH, TIME, heads, k) for y in parts)
        else:
            a, b, c = (jnp.einsum("btd,dhk->bthk", x, p[n]) for n in names)
            if few:
                b, c = (jnp.repeat(y, heads, axis=2) for y in (b, c))
        scores = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", a, b) / k**0.5, axis=-1)
        mixed = jnp.einsum("bhts,bshk->bthk", scores, c)
        if fused:
            return mixed.reshape(BATCH, TIME, heads * k) @ p[out]
        return jnp.einsum("bthk,hkq->btq", mixed, p[out])

    return run, q


def residual(m: Maker, d: int) -> tuple[Callable, int]:
    """The sum of an input and what is made of it, sometimes after a padding."""
    (inner, h), out = dense(m, d), None
    out = m.leaf(h, d)
    return lambda p, x: x + inner(p, x) @ p[out], d


def joined(m: Maker, d: int) -> tuple[Callable, int]:
    """An input beside what is made of it, some of the entries taken again."""
    inner, h = dense(m, d)
    first, cut = m.coin(), int(m.rng.integers(0, 3))

    def run(p: dict, x: Array) -> Array:
        parts = [inner(p, x), x] if first else [x, inner(p, x)]
        return jnp.concatenate(parts, axis=-1)[..., cut:]

    return run, d + h - cut


def padded(m: Maker, d: int) -> tuple[Callable, int]:
    """Zeros behind, and another sum on top of them."""
    extra, inner = int(m.rng.integers(1, 4)), dense(m, d)
    out = m.leaf(inner[1], d + extra)

    def run(p: dict, x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, extra))) + inner[0](p, x) @ p[out]

    return run, d + extra


def scanned(m: Maker, d: int) -> tuple[Callable, int]:
    """Layers of a scan, with a constant that all of them share."""
    layers, h, act = 3, m.width(), m.act()
    up, down = m.leaf(layers, d, h), m.leaf(layers, h, d)
    factor = jnp.asarray(m.rng.uniform(0.5, 1.5, h), jnp.float32) if m.coin() else 1.0

    def run(p: dict, x: Array) -> Array:
        def step(x: Array, own: tuple) -> tuple[Array, None]:
            return x + (act(x @ own[0]) * factor) @ own[1], None

        return lax.scan(step, x, (p[up], p[down]), reverse=m.params is None)[0]

    return run, d


def recurrent(m: Maker, d: int) -> tuple[Callable, int]:
    """A recurrence over time, its state gated."""
    h = m.width()
    w, u, g = m.leaf(d, h), m.leaf(h, h), m.leaf(d, h)
    gate = m.coin()

    def run(p: dict, x: Array) -> Array:
        def step(state: Array, x: Array) -> tuple[Array, Array]:
            new = jnp.tanh(x @ p[w] + state @ p[u])
            if gate:
                z = jax.nn.sigmoid(x @ p[g])
                new = z * state + (1 - z) * new
            return new, new

        start = jnp.zeros((x.shape[0], h), x.dtype)
        return jnp.moveaxis(lax.scan(step, start, jnp.moveaxis(x, 1, 0))[1], 0, 1)

    return run, h


def along_time(m: Maker, d: int) -> tuple[Callable, int]:
    """What a coordinate does by itself: a depthwise kernel, means, largest values, sums."""
    way, kernel = int(m.rng.integers(5)), m.leaf(3, 1, d)

    def run(p: dict, x: Array) -> Array:
        if way == 0:
            return convolve(x, p[kernel], groups=d)
        if way == 1:
            return x - x.mean(axis=1, keepdims=True)
        if way == 2:
            return x + x.max(axis=1, keepdims=True)
        if way == 3:
            return jnp.cumsum(x, axis=1)
        return jax.nn.softmax(x, axis=1)

    return run, d


def scaled(m: Maker, d: int) -> tuple[Callable, int]:
    """Parameters or constants of each coordinate's own; a gate that is made of a mean."""
    way, scale, shift = int(m.rng.integers(3)), m.leaf(d, mean=1.0), m.leaf(d)
    down, up = m.leaf(d, 3), m.leaf(3, d)
    own = jnp.asarray(m.rng.uniform(0.5, 1.5, d), jnp.float32)

    def run(p: dict, x: Array) -> Array:
        if way == 0:
            return x * p[scale] + p[shift]
        if way == 1:
            return x * own - own[::-1]
        gate = jax.nn.sigmoid(jax.nn.relu(x.mean(axis=1) @ p[down]) @ p[up])
        return x * gate[:, None]

    return run, d


def grouped(m: Maker, d: int) -> tuple[Callable, int]:
    """A convolution with groups between pointwise layers."""
    groups = 2
    first, kernel = m.leaf(d, 8), m.leaf(3, 8 // groups, 12)
    act = m.act()
    return lambda p, x: convolve(act(x @ p[first]), p[kernel], groups=groups), 12


def experts(m: Maker, d: int) -> tuple[Callable, int]:
    """Members of an ensemble, each with units of its own, weighed by a gate."""
    e, h, q, act = 3, m.width(), m.width(), m.act()
    up, down, gate = m.leaf(e, d, h), m.leaf(e, h, q), m.leaf(d, e)
    mapped = m.coin()

    def run(p: dict, x: Array) -> Array:
        if mapped:
            every = jax.vmap(lambda a, b: act(x @ a) @ b)(p[up], p[down])
        else:
            hidden = act(jnp.einsum("btd,edh->ebth", x, p[up]))
            every = jnp.einsum("ebth,ehq->ebtq", hidden, p[down])
        return jnp.einsum("bte,ebtq->btq", jax.nn.softmax(x @ p[gate], axis=-1), every)

    return run, q


def low_rank(m: Maker, d: int) -> tuple[Callable, int]:
    """A kernel that is a product, or one beside another."""
    r, q, way = 3, m.width(), m.coin()
    a, b, w = m.leaf(d, r), m.leaf(r, q), m.leaf(d, q)
    return lambda p, x: x @ p[a] @ p[b] if way else x @ (p[w] + p[a] @ p[b]), q


def normalised(m: Maker, d: int) -> tuple[Callable, int]:
    """Kernels that are normalised, norms over features, softmax over features."""
    way, w = int(m.rng.integers(4)), m.leaf(d, m.width())

    def run(p: dict, x: Array) -> Array:
        if way == 0:
            return x @ (p[w] / jnp.linalg.norm(p[w], axis=0))
        if way == 1:
            return x @ (p[w] - p[w].mean(axis=0))
        if way == 2:
            return (x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-3)) @ p[w]
        return jax.nn.softmax(x, axis=-1) @ p[w]

    return run, m.params[w].shape[1]


def laid_out(m: Maker, d: int) -> tuple[Callable, int]:
    """What changes nothing, or only where entries stand."""
    way = int(m.rng.integers(6))

    def run(p: dict, x: Array) -> Array:
        if way == 0:
            return jnp.swapaxes(jnp.swapaxes(x, 1, 2) * 1.5, 1, 2)
        if way == 1:
            return x.reshape(BATCH * TIME, d).reshape(BATCH, TIME, d)
        if way == 2:
            return jnp.roll(x, 1, axis=1)
        if way == 3:
            return jnp.stack([x, 2 * x], axis=2).reshape(BATCH, TIME, 2 * d)[..., :d]
        if way == 4:
            return x[..., ::-1]
        return jnp.concatenate([x[:, 1:], x[:, :1]], axis=1)

    return run, d


def shuffled(m: Maker, d: int) -> tuple[Callable, int]:
    """Two branches whose coordinates take turns, cut into halves again."""
    h, first, act = 4, m.leaf(d, 4), m.act()
    second, last = m.leaf(d, h), m.leaf(h, h)
    forms = m.coin()

    def run(p: dict, x: Array) -> Array:
        both = [act(x @ p[first]), x @ p[second]]
        if forms:
            y = jnp.stack(both, axis=-1).reshape(BATCH, TIME, 2 * h)
        else:
            y = jnp.concatenate(both, axis=-1).reshape(BATCH, TIME, 2, h)
            y = jnp.swapaxes(y, 2, 3).reshape(BATCH, TIME, 2 * h)
        a, b = jnp.split(y, 2, axis=-1)
        return jnp.concatenate([a, jnp.tanh(b @ p[last])], axis=-1)

    return run, 2 * h


def in_groups(m: Maker, d: int) -> tuple[Callable, int]:
    """A norm over groups of features, after a projection."""
    w, scale = m.leaf(d, 8), m.leaf(8, mean=1.0)

    def run(p: dict, x: Array) -> Array:
        y = (x @ p[w]).reshape(BATCH, TIME, 2, 4)
        y = (y - y.mean(axis=(1, 3), keepdims=True)) / (1 + y.var(axis=(1, 3), keepdims=True))
        return y.reshape(BATCH, TIME, 8) * p[scale]

    return run, 8


def unrolled(m: Maker, d: int) -> tuple[Callable, int]:
    """Coordinates flattened together with places, and read so."""
    q = m.width()
    w = m.leaf(3 * d, q)

    def run(p: dict, x: Array) -> Array:
        y = x.reshape(BATCH, 2, 3, d)
        y = y.reshape(BATCH, 2, 3 * d) @ p[w]
        return jnp.repeat(y, 3, axis=1)

    return run, q


STAGES: tuple[Callable, ...] = (
    dense, dense, gated, attention, residual, joined, padded, scanned, recurrent, along_time,
    scaled, grouped, experts, low_rank, normalised, laid_out, unrolled,
    shuffled, in_groups,
)  # fmt: skip
WRAPS: tuple[Callable, ...] = (lambda f: f, lambda f: f, jax.jit, jax.checkpoint)


def make(seed: int, depth: int = 4) -> tuple[Callable, dict[str, Array], Array, list[str]]:
    """A network of a seed: its function, parameters, an input, and its stages' names."""
    m = Maker(seed)
    count = int(m.rng.integers(1, depth + 1))
    d, stages, names = m.width(), [], []
    x = jnp.asarray(m.rng.normal(size=(BATCH, TIME, d)), jnp.float32)
    for n in range(count + 2):
        kind = dense if n in (0, count + 1) else STAGES[int(m.rng.integers(len(STAGES)))]
        stage, d = kind(m, d)
        stages.append(WRAPS[int(m.rng.integers(len(WRAPS)))](stage))
        names.append(kind.__name__)
    head = m.leaf(d, 3)

    def apply(params: dict, x: Array) -> Array:
        for stage in stages:
            x = stage(params, x)
        return x @ params[head]

    return apply, m.params, x, names
