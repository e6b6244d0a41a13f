"""What each of JAX's primitives does to dimensions: sites, refusals, and removing as hiding."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from linjax.dims.values import Role
from tests.arrays import placed

sys.path.insert(0, str(Path(__file__).parent))
from removing import analysed, check_wide

X = placed(np.random.default_rng(0).normal(size=(2, 4, 6)))
FACTORS = np.linspace(0.5, 1.5, 8, dtype=np.float32)


def between(middle, width=8, after=None):
    """A function that makes units, does something to them, and reads them."""
    rng = np.random.default_rng(1)
    read = jax.eval_shape(middle, jax.ShapeDtypeStruct((2, 4, width), jnp.float32)).shape[-1]
    params = {
        "make": jnp.asarray(rng.normal(size=(6, width)), jnp.float32),
        "read": jnp.asarray(rng.normal(size=(read, 3)), jnp.float32),
    }

    def apply(p, x):
        return middle(x @ p["make"]) @ p["read"]

    return apply, params


def windows(h):
    return lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")


FREE = {
    "arithmetic": lambda h: jnp.exp(-h) / (1 + h**2) - jnp.arctan2(h, 1.0),
    "compare and select": lambda h: jnp.where(h > 0, h, 0.1 * h),
    "clamp": lambda h: jnp.clip(h, -1, 1),
    "own factors": lambda h: h * FACTORS + FACTORS[::-1],
    "casts": lambda h: h.astype(jnp.float16).astype(jnp.float32),
    "bits": lambda h: (h.astype(jnp.int32) ^ 3).astype(jnp.float32),
    "largest over places": lambda h: h - h.max(axis=1, keepdims=True),
    "softmax over places": lambda h: jax.nn.softmax(h, axis=1),
    "mean over places": lambda h: h.mean(axis=1, keepdims=True) * h,
    "sums along places": lambda h: jnp.cumsum(h, axis=1) + lax.cumlogsumexp(h, axis=1),
    "sorted along places": lambda h: jnp.sort(h, axis=1),
    "windows of places": windows,
    "frequencies of places": lambda h: jnp.abs(jnp.fft.rfft(h, axis=1)),
    "complex": lambda h: (h + 1j * jnp.cos(h)).conj().imag,
    "reversed places": lambda h: h[:, ::-1],
    "padded places": lambda h: jnp.pad(h, ((0, 0), (1, 2), (0, 0))),
    "rolled places": lambda h: jnp.roll(h, 1, axis=1),
    "strided places": lambda h: h[:, ::2],
    "a place by index": lambda h: lax.dynamic_slice_in_dim(h, jnp.argmax(h[0, :, 0] * 0), 2, 1),
    "places by index": lambda h: jnp.take(h, jnp.asarray([2, 0, 1]), axis=1),
    "places put": lambda h: jnp.zeros_like(h).at[:, jnp.asarray([1, 1, 0, 3])].add(h),
    "places updated": lambda h: lax.dynamic_update_slice(h * 2, h[:, :2], (0, 1, 0)),
    "tiled places": lambda h: jnp.tile(h, (1, 2, 1)),
    "repeated places": lambda h: jnp.repeat(h, 2, axis=1),
    "transposed": lambda h: jnp.transpose(h, (2, 0, 1)).transpose(1, 2, 0),
    "flattened": lambda h: h.reshape(8, 8).reshape(2, 2, 2, 8).reshape(2, 4, 8),
    "flattened with places": lambda h: h.reshape(2, 1, 32),
    "places with coordinates in front": lambda h: h.swapaxes(1, 2).reshape(2, 1, 32),
    "padded": lambda h: jnp.pad(h, ((0, 0), (0, 0), (1, 2))),
    "beside itself": lambda h: jnp.concatenate([h, jnp.tanh(h)], axis=-1),
    "halves": lambda h: h[..., :4] * h[..., 4:],
    "tiled": lambda h: jnp.tile(h, (1, 1, 2)),
    "repeated": lambda h: jnp.repeat(h, 2, axis=-1),
    "stacked": lambda h: jnp.stack([h, 2 * h], axis=-1).reshape(2, 4, 16),
    "carried": lambda h: lax.fori_loop(0, 3, lambda _, c: jnp.tanh(c + h), h),
    "collected": lambda h: lax.scan(lambda c, x: (c + x, c * x), h[:, 0], h.swapaxes(0, 1))[1],
    "jit": jax.jit(jnp.tanh),
    "custom derivative": jax.nn.relu,
    "remat": jax.checkpoint(jnp.tanh),
    "vmap": jax.vmap(jax.vmap(jnp.tanh)),
}


@pytest.mark.parametrize("name", FREE)
def test_coordinates_pass(name):
    apply, params = between(FREE[name])
    assert check_wide(apply, params, (X,)) > 0


STUCK = {
    "reduce_max": (lambda h: h - h.max(axis=-1, keepdims=True), "reduce_max"),
    "softmax": (lambda h: jax.nn.softmax(h, axis=-1), "reduce_max"),
    "cumsum": (lambda h: jnp.cumsum(h, axis=-1), "cumsum"),
    "sort": (lambda h: jnp.sort(h, axis=-1), "sort"),
    "top_k": (lambda h: lax.top_k(h, 3)[0], "top_k"),
    "argmax": (lambda h: h * h.argmax(axis=-1, keepdims=True), "argmax"),
    "fft": (lambda h: jnp.abs(jnp.fft.fft(h, axis=-1)), "fft"),
    "rev": (lambda h: h[..., ::-1], "it is reversed"),
    "stride": (lambda h: h[..., ::2], "only some of its entries are taken"),
    "gather": (lambda h: h[..., jnp.asarray([3, 1])], "its entries are looked up"),
    "counted": (lambda h: h * lax.broadcasted_iota(h.dtype, h.shape, 2), ""),
    "cut across": (lambda h: h.reshape(2, 16, 2), ""),
    "triangular": (lambda h: jnp.linalg.cholesky(h[:, :, :4] + 9 * jnp.eye(4)), ""),
    "while": (
        lambda h: lax.while_loop(lambda c: c.sum() < 1, lambda c: c + 1, h),
        "a while loop",
    ),
    "cond": (
        lambda h: lax.cond(h.sum() > 0, jnp.tanh, jnp.cos, h),
        "a branch",
    ),
}


@pytest.mark.parametrize("name", STUCK)
def test_what_mixes_coordinates_is_refused_by_name(name):
    apply, params = between(STUCK[name][0])
    network = analysed(apply, params, (X,))
    reasons = {r.name: r.reason for r in network.refusals}
    if STUCK[name][1]:
        assert STUCK[name][1] in " ".join(reasons.values()), reasons
    check_wide(apply, params, (X,))


def kernel_of_unit_columns(p, x):
    norms = jnp.linalg.norm(p["read"], axis=0)
    return jnp.tanh(x @ p["make"]) @ (p["read"] / norms), p["read"]


def test_kernels_that_are_normalised_and_used_elsewhere_hold_their_dimension():
    _, params = between(jnp.tanh)
    network = analysed(kernel_of_unit_columns, params, (X,))
    assert not network.sites and network.computed is None


def test_norms_run_over_normed_dimensions_and_groups_are_blocks():
    def grouped(h):
        h = h.reshape(2, 4, 2, 4)
        return (h - h.mean((1, 3), keepdims=True)).reshape(2, 4, 8)

    apply, params = between(grouped)
    forms = {s.form.value: s.width for s in analysed(apply, params, (X,)).sites}
    assert forms == {"normed": 4, "blocks": 2}


def test_largest_values_over_places_are_noted():
    apply, params = between(lambda h: h.max(axis=1))
    layout = analysed(apply, params, (X,)).layout
    dim = layout.leaves[0][1].dim
    assert Role.POOLED in {mark.role for mark in layout.marks[dim]}


def test_a_recurrent_kernel_makes_and_reads_the_same_coordinates():
    params = {"w": jnp.eye(6, 5), "u": jnp.eye(5), "o": jnp.ones((5, 2))}

    def apply(p, x):
        step = lambda h, x: (jnp.tanh(x @ p["w"] + h @ p["u"]), None)  # noqa: E731
        return lax.scan(step, jnp.zeros((2, 5), x.dtype), x.swapaxes(0, 1))[0] @ p["o"]

    (site,) = analysed(apply, params, (X,)).sites
    assert site.width == 5 and site.fixed and not site.linear
    assert check_wide(apply, params, (X,)) == 1


def test_embeddings_make_coordinates():
    params = {"table": jnp.arange(40.0).reshape(10, 4) / 40, "o": jnp.ones((4, 2))}
    apply = lambda p, t: jnp.tanh(p["table"][t]) @ p["o"]  # noqa: E731
    assert check_wide(apply, params, (jnp.asarray([[1, 2, 9]]),)) == 1


def test_constants_of_the_trace_go_along_with_coordinates():
    apply, params = between(lambda h: jnp.tanh(h * FACTORS))
    network = analysed(apply, params, (X,))
    assert len(network.varying) == 1 and len(network.sites) == 1
