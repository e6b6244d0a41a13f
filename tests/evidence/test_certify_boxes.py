"""Boxes of tokens and images: which of them a certificate takes."""

import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.evidence.test_certify_sound import BOX, FRAME, UNITS, four, relu, sound

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")


def tokens(features=6, positions=4, order="btf,fu->btu"):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(features, 8)), "b": np.linspace(-6, 6, 8)}
    params |= {"v": rng.normal(size=(8, 2))}
    params = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}
    shape = (positions, features) if order[1] == "t" else (features, positions)

    def apply(p, x):
        return relu(jnp.einsum(order, x, p["w"]) + p["b"]) @ p["v"]

    return apply, params, shape


@pytest.mark.parametrize("order", ["btf,fu->btu", "bft,fu->btu"])
def test_boxes_broadcast_over_tokens(order):
    apply, params, shape = tokens(order=order)
    rng = np.random.default_rng(0)
    axis = order.index("f") - 1
    features = rng.uniform(-1, 0, 6).reshape([-1 if a == axis else 1 for a in range(2)])
    low = np.broadcast_to(features, shape)
    each = low + rng.uniform(0, 0.5, shape)
    wide = low + 1
    for lower, upper in ((-1.0, 1.0), (features, features + 1), (low, wide), (low.ravel(), 1.0),
                         (low, each), (each, each)):  # fmt: skip
        lower, upper = (np.broadcast_to(s if np.ndim(s) != 1 else s.reshape(shape), shape)
                        for s in (lower, upper))  # fmt: skip
        x = jnp.asarray(rng.uniform(lower, upper, (200, *shape)), jnp.float32)
        bounds = sound(apply, params, lower, upper, x)
        z = np.einsum(order, np.asarray(x, np.float64), params["w"]) + np.asarray(params["b"])
        assert (bounds.sites[0].lower - 1e-6 <= z.min(axis=(0, 1))).all()
        assert (bounds.sites[0].upper + 1e-6 >= z.max(axis=(0, 1))).all()
    data = rng.uniform(-1, 1, (5, *shape))
    net = linjax.trace(apply, params, jnp.ones((1, *shape)))
    assert linjax.certify(net, params, -1.0, 1.0, data=data).sites[0].points.shape[1] == 6


def test_places_of_images_behind_another_shape():
    apply, params, _ = tokens(features=3, positions=16)

    def images(p, x):
        return apply(p, x.reshape(x.shape[0], 16, 3))

    colours = np.array([0.1, 0.5, -0.25])
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(colours, colours + 0.1, (100, 4, 4, 3)), jnp.float32)
    bounds = sound(images, params, colours, colours + 0.1, x)
    assert len(bounds.lower) == 48


@pytest.mark.parametrize("shape", [(5,), (6, 4), (2, 4, 6), (23,)])
def test_other_boxes_are_refused_once_and_for_all(shape):
    apply, params, own = tokens()
    net = linjax.trace(apply, params, jnp.ones((1, *own)))
    message = r"lower: expected a number, or an array of the shape \(4, 6\) of one input"
    with pytest.raises(linjax.EvidenceError, match=message):
        linjax.certify(net, params, np.zeros(shape), 1.0)
    with pytest.raises(linjax.EvidenceError, match=r"data: expected inputs of shape \(4, 6\)"):
        linjax.certify(net, params, 0.0, 1.0, data=np.zeros((3, 6)))


def test_inputs_without_a_batch_take_numbers():
    apply, params = four(lambda x: x)
    net = linjax.trace(apply, params, FRAME[0])
    bounds = linjax.certify(net, params, -0.9, 0.95)
    assert linjax.check_certificate(net, params, bounds).ok
    np.testing.assert_allclose(
        net.apply(linjax.fold(params, bounds), FRAME[0]), apply(params, FRAME[0]), atol=1e-4
    )
    with pytest.raises(linjax.EvidenceError, match="expected a number"):
        linjax.certify(net, params, *BOX)


def test_two_chains_that_read_the_input_otherwise():
    apply, params, shape = tokens()
    flat, whole = four(lambda x: x.reshape(-1, 24))
    whole["w"] = jnp.concatenate([whole["w"]] * 6)

    def both(p, x):
        return apply(p["tokens"], x).sum(1) @ jnp.ones((2, 3)) + flat(p["whole"], x)

    x = jnp.asarray(np.random.default_rng(0).uniform(0, 0.1, (50, *shape)), jnp.float32)
    bounds = sound(both, {"tokens": params, "whole": whole}, 0.0, 0.1, x)
    assert [len(site.lower) for site in bounds.sites] == [8, UNITS]


def test_boxes_of_values_whose_products_no_float_holds_are_refused():
    apply, params, shape = tokens()
    net = linjax.trace(apply, params, jnp.ones((2, *shape)))
    big = 1e4 * float(np.finfo(np.float32).max)
    bounds = linjax.certify(net, params, -big, big)
    assert linjax.check_certificate(net, params, bounds).ok
    for side in (1e160, np.finfo(np.float64).max):
        with pytest.raises(linjax.EvidenceError, match="smaller box"):
            linjax.certify(net, params, -side, side)
