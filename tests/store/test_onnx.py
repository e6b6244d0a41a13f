"""What onnxruntime computes from an exported file is what the network computes."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings

import linjax
from linjax.store import onnx
from tests.properties.networks import planted, relative
from tests.store import networks
from tests.store.test_round_trip import conv_net

pytest.importorskip("jax2onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(code, *inputs):
    session = onnxruntime.InferenceSession(code)
    names = [x.name for x in session.get_inputs()]
    return session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))


@given(planted(max_depth=3, max_width=16))
@settings(max_examples=3)
def test_random_architectures_original_and_folded(case):
    x = jnp.asarray(case.x)
    net = linjax.trace(case.apply_fn, case.params, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        stats = linjax.collect(net, case.params, [x])
        known = linjax.frontier(case.params, stats)
        small = linjax.fold(case.params, known, known.reachable(linjax.size(0.5)))
    sizes = []
    for params in (case.params, small):
        code = linjax.to_onnx(net, params)
        sizes.append(len(code))
        for n in (1, 7, len(x)):
            (found,) = run(code, x[:n])
            assert relative(found, net.apply(params, x[:n])) < 1e-4
    saved = 4 * (linjax.count(case.params) - linjax.count(small))
    assert sizes[1] <= sizes[0] - saved + 12000


FRESH = """
import jax, jax.numpy as jnp, linjax
modules = (jax, jax.lax, jax.nn, jax.numpy, jax.random)
before = [dict(vars(module)) for module in modules]
net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["w"]), {"w": jnp.ones((3, 2))}, jnp.ones((1, 3)))
for _ in range(2):
    linjax.to_onnx(net, {"w": jnp.ones((3, 2))})
for module, own in zip(modules, before):
    print([name for name, value in own.items() if vars(module)[name] is not value])
print(jnp.cumsum(jnp.ones((2, 3)), 0)[1, 0])
"""


def test_an_export_leaves_functions_of_jax_as_they_were():
    """The converter puts some of its own in their place when it is first used, and leaves them."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"] * 5 + ["2.0"]


def test_an_nnx_network_with_normalisation_and_several_inputs():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first, self.norm = nnx.Linear(6, 32, rngs=rngs), nnx.LayerNorm(32, rngs=rngs)
            self.second, self.last = nnx.Linear(32, 64, rngs=rngs), nnx.Linear(64, 3, rngs=rngs)

        def __call__(self, x, scale):
            h = self.norm(self.first(x)) * scale["by"]
            return {"logits": self.last(nnx.relu(self.second(h))), "features": h}

    graph, state = nnx.split(Network(nnx.Rngs(0)))
    params = nnx.to_pure_dict(state)
    x, scale = jax.random.normal(jax.random.key(0), (40, 6)), {"by": jnp.ones((40, 1)) * 2}
    net = linjax.trace(lambda p, x, s: nnx.merge(graph, p)(x, s), params, x, scale)
    small = linjax.fold(params, linjax.collect(net, params, [(x, scale)]), linjax.size(0.6))
    features, logits = run(linjax.to_onnx(net, small), x[:5], scale["by"][:5])
    want = net.apply(small, x[:5], {"by": scale["by"][:5]})
    assert relative(features, want["features"]) < 1e-4
    assert relative(logits, want["logits"]) < 1e-4


def test_a_convolutional_network():
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 2, 12), "shift": (12,), "out": (4 * 4 * 12, 5)}
    params = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    x = jnp.asarray(rng.normal(size=(100, 6, 6, 2)), jnp.float32)
    net = linjax.trace(conv_net, params, x[:1])
    small = linjax.fold(params, linjax.collect(net, params, [x]), linjax.size(0.5))
    (found,) = run(linjax.to_onnx(net, small), x[:7])
    assert relative(found, net.apply(small, x[:7])) < 1e-4


def test_a_batch_that_cannot_be_free_is_told():
    params = {"w": jnp.ones((4, 5)), "v": jnp.ones((5, 2))}

    def apply(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["v"] / float(x.shape[0])

    net = linjax.trace(apply, params, jnp.ones((3, 4)))
    with pytest.warns(UserWarning, match="only batches of 3"):
        code = linjax.to_onnx(net, params)
    (found,) = run(code, jnp.ones((3, 4)))
    assert relative(found, net.apply(params, jnp.ones((3, 4)))) < 1e-5


def test_a_wrong_program_is_not_handed_out(monkeypatch):
    net, params, _ = networks.network()
    wrong = jax.tree.map(lambda leaf: leaf * 1.01, params)
    converted = onnx._converted
    monkeypatch.setattr(onnx, "_converted", lambda n, _, *rest: converted(n, wrong, *rest))
    with pytest.raises(linjax.LinjaxError, match="ONNX and JAX differ by"):
        linjax.to_onnx(net, params)


def test_what_cannot_be_converted_is_refused(tmp_path):
    def apply(params, x):
        y = jax.nn.relu(x @ params["w"]) @ params["v"]
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    params = {"w": jnp.ones((4, 5)), "v": jnp.ones((5, 2))}
    net = linjax.trace(apply, params, jnp.ones((3, 4)))
    with pytest.raises(linjax.LinjaxError, match="can't be exported"):
        linjax.to_onnx(net, params)
    net, params, _ = networks.network()
    with pytest.raises(linjax.StructureError, match="fourth"):
        linjax.to_onnx(net, params | {"fourth": params["last"]})
    linjax.save(tmp_path / "net", net, params)
    with pytest.raises(linjax.LinjaxError, match="load it with its function"):
        linjax.to_onnx(*linjax.load(tmp_path / "net"))
