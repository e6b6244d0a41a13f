"""Small networks over images, and what tests measure on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import linjax
from tests.arrays import placed
from tests.properties.convnets import Plan, Stage, build, convolve, normalise, pooled

FIRST = Stage(8, 3, 1, 1, "SAME", True, "none", "relu", False, "max")
SECOND = Stage(6, 3, 1, 1, "VALID", True, "none", "relu", False, "none")


def inputs(x, rows=240, seed=1):
    """Random inputs of the shape and dtype of an example."""
    return placed(np.random.default_rng(seed).normal(size=(rows, *x.shape[1:])), x.dtype)


def smooth(shape, rows=400, seed=1):
    """Images of a few degrees of freedom, with a little noise."""
    pattern = np.random.default_rng(0).normal(size=(4, *shape))
    rng = np.random.default_rng(seed)
    x = np.einsum("ni,i...->n...", rng.normal(size=(rows, 4)), pattern)
    return placed(x + 0.2 * rng.normal(size=x.shape))


def collected(apply, params, x):
    """The traced network and its evidence, from two batches."""
    net = linjax.trace(apply, params, x[:2])
    half = len(x) // 2
    return net, linjax.collect(net, params, [x[:half], x[half:]], metric="identity")


@functools.cache
def known(kind, rows=400):
    """A network of NETWORKS, parameters, inputs, trace and evidence: made once for all tests."""
    apply, params, x = NETWORKS[kind]()
    x = inputs(x, rows)
    return (apply, params, x, *collected(apply, params, x))


def relative(a, b):
    """Relative error, root mean square, as folds predict it."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean((b - b.mean(0)) ** 2)))


def carried_over(params, small, report):
    """An optimiser's state that numbers every parameter's entries, before a fold and after."""
    adam = optax.adam(1e-3)
    state = adam.init(params)
    marked = jax.tree.map(lambda p: jnp.arange(p.size, dtype=p.dtype).reshape(p.shape), params)
    state = (state[0]._replace(mu=marked), *state[1:])
    return marked, linjax.carry_over(adam, state, params, small, report)[0].mu


class Random:
    """Random kernels and biases, by one seed."""

    def __init__(self, seed=3):
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape, scale=1.0):
        return placed(scale * self.rng.normal(size=shape))

    def kernel(self, *shape):
        return self.normal(*shape, scale=np.sqrt(2 / np.prod(shape[:-1])))

    def layer(self, *shape):
        return {"kernel": self.kernel(*shape), "bias": self.normal(shape[-1], scale=0.3)}


def affine(x, p, window=3):
    """A convolution and its bias."""
    return convolve(x, p["kernel"], None, 1, window) + p["bias"]


def unet():
    """An image is coarsened and refined; channels of the first step skip to the last but one."""
    make = Random()
    norm = {
        "mean": make.normal(15), "scale": jnp.ones(15), "shift": make.normal(15),
        "var": jnp.asarray(make.rng.uniform(0.5, 2, 15), jnp.float32),
    }  # fmt: skip
    params = {
        "down": make.layer(3, 3, 2, 6), "deep": {"kernel": make.kernel(3, 3, 6, 7)}, "norm": norm,
        "last": make.layer(3, 3, 15, 8), "head": make.kernel(1, 1, 8, 3),
    }  # fmt: skip

    def apply(p, x):
        fine = jax.nn.relu(affine(x, p["down"]))
        deep = jax.nn.relu(convolve(pooled(fine, "max"), p["deep"]["kernel"], None, 1, 3))
        up = jax.image.resize(deep, (*fine.shape[:-1], deep.shape[-1]), "nearest")
        both = jnp.concatenate([up, x, fine], axis=-1)
        last = jax.nn.relu(affine(jax.nn.relu(normalise(both, p["norm"])), p["last"]))
        return convolve(last, p["head"], None, 1, 1)

    return apply, params, make.normal(6, 6, 6, 2)


def towers():
    """Two convolutions side by side, flattened, in front of a network of dense layers."""
    make = Random()
    params = {
        "left": make.layer(3, 3, 2, 6), "right": make.layer(1, 1, 2, 5),
        "hidden": make.layer(9 * 11, 12), "head": make.kernel(12, 3),
    }  # fmt: skip

    def apply(p, x):
        left, right = (jax.nn.relu(affine(x, p[n], w)) for n, w in (("left", 3), ("right", 1)))
        both = pooled(jnp.concatenate([left, right], axis=-1), "max").reshape(len(x), -1)
        return jax.nn.relu(both @ p["hidden"]["kernel"] + p["hidden"]["bias"]) @ p["head"]

    return apply, params, make.normal(6, 6, 6, 2)


def residual():
    """A stem, two blocks that are added to what they read, and a head; the stage folds, too."""
    make = Random(0)
    params = {
        "stem": make.kernel(3, 3, 2, 6),
        "a": make.layer(3, 3, 6, 12), "b": make.kernel(3, 3, 12, 6),
        "c": make.layer(3, 3, 6, 12), "d": make.kernel(3, 3, 12, 6), "head": make.kernel(6, 4),
    }  # fmt: skip

    def apply(p, x):
        x = jax.nn.relu(convolve(x, p["stem"], None, 1, 3))
        for first, second in ("ab", "cd"):
            inside = jax.nn.relu(affine(x, p[first]))
            x = jax.nn.relu(x + convolve(inside, p[second], None, 1, 3))
        return x.mean((1, 2)) @ p["head"]

    return apply, params, make.normal(6, 4, 4, 2)


def groups():
    """A pointwise convolution, one with three groups, a pointwise one and one with two groups."""
    return build(Plan(2, 2, (FIRST,), "groups", "flatten", 5))


def mobile():
    """An inverted bottleneck: wide, depthwise, weighed by a gate of its own mean, narrow."""
    make = Random(2)
    params = {
        "wide": make.layer(1, 1, 3, 12), "each": make.layer(3, 3, 1, 12),
        "squeeze": make.layer(12, 5), "excite": make.layer(5, 12),
        "narrow": make.layer(1, 1, 12, 6), "head": make.kernel(6, 3),
    }  # fmt: skip

    def apply(p, x):
        h = jax.nn.silu(affine(x, p["wide"], 1))
        h = jax.nn.silu(convolve(h, p["each"]["kernel"], None, 12, 3) + p["each"]["bias"])
        s = jax.nn.relu(h.mean((1, 2)) @ p["squeeze"]["kernel"] + p["squeeze"]["bias"])
        gate = jax.nn.sigmoid(s @ p["excite"]["kernel"] + p["excite"]["bias"])
        h = affine(h * gate[:, None, None], p["narrow"], 1)
        return jax.nn.relu(h).mean((1, 2)) @ p["head"]

    return apply, params, make.normal(6, 5, 5, 3)


def scanned():
    """Layers of one shape, in a scan, in front of a head."""
    make = Random(4)
    params = {
        "up": 0.7 * jnp.stack([make.kernel(6, 10) for _ in range(3)]),
        "shift": make.normal(3, 10, scale=0.3),
        "down": jnp.stack([make.kernel(10, 6) for _ in range(3)]), "head": make.kernel(6, 3),
    }  # fmt: skip

    def apply(p, x):
        def step(x, own):
            up, shift, down = own
            return x + jax.nn.gelu(x @ up + shift) @ down, None

        x, _ = jax.lax.scan(step, x, (p["up"], p["shift"], p["down"]))
        return x @ p["head"]

    return apply, params, make.normal(6, 6)


def ensemble():
    """Four members of one shape, side by side; their outputs are averaged."""
    make = Random(5)
    params = {
        "a": jnp.stack([make.kernel(5, 12) for _ in range(4)]), "shift": make.normal(4, 12),
        "b": jnp.stack([make.kernel(12, 3) for _ in range(4)]),
    }  # fmt: skip

    def member(p, x):
        return jax.nn.relu(x @ p["a"] + p["shift"]) @ p["b"]

    def apply(p, x):
        return jax.vmap(member, (0, None))(p, x).mean(0)

    return apply, params, make.normal(6, 5)


def channels_first():
    """Convolutions whose kernels are (out, in, …), as Equinox has them, behind a gated stage."""
    make = Random(6)
    params = {
        "a": make.kernel(3, 3, 2, 8).transpose(3, 2, 0, 1), "shift": make.normal(8, 1, 1),
        "gate": make.kernel(1, 1, 2, 8).transpose(3, 2, 0, 1),
        "b": make.kernel(3, 3, 8, 6).transpose(3, 2, 0, 1), "head": make.kernel(6, 3).T,
    }  # fmt: skip

    def own(x, kernel):
        numbers = ("NCHW", "OIHW", "NCHW")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    def apply(p, x):
        h = (own(x, p["a"]) + p["shift"]) * jax.nn.sigmoid(own(x, p["gate"]))
        return jax.nn.relu(own(h, p["b"])).mean((2, 3)) @ p["head"].T

    return apply, params, make.normal(6, 2, 5, 5)


NETWORKS = {
    f.__name__: f
    for f in (unet, towers, residual, groups, mobile, scanned, ensemble, channels_first)
}
