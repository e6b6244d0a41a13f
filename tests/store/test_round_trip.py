"""What is saved comes back: the same function, counts and dtypes, with the code or without."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import linjax
from linjax.program import pytree
from linjax.training.checkpoint import restore_checkpoint, save_checkpoint
from tests.properties.networks import cast, planted, relative
from tests.store import networks

RULES = {"none": None, "threshold": linjax.threshold(0.9), "size": linjax.size(0.4)}

FRESH = """
import sys, json, jax, numpy as np, linjax
for folder in sys.argv[1:]:
    net, params = linjax.load(folder + "/net")
    with np.load(folder + "/x.npz") as file:
        x, dtype = file["x"], str(file["dtype"])
    y = {str(n): np.asarray(net.apply(params, jax.numpy.asarray(x[:n], dtype)), np.float32)
         for n in (1, 3, len(x))}
    np.savez(folder + "/y.npz", count=linjax.count(params), **y)
"""


@given(planted(max_depth=4, max_width=24), st.sampled_from(sorted(RULES)), st.booleans())
@settings(max_examples=5)
def test_random_architectures(tmp_path_factory, case, rule, half):
    dtype = jnp.bfloat16 if half else jnp.float32
    params, x = cast(case.params, dtype), jnp.asarray(case.x, dtype)
    net = linjax.trace(case.apply_fn, params, x)
    small = params
    if RULES[rule] is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", linjax.FoldWarning)
            small = linjax.fold(params, linjax.collect(net, params, [x]), RULES[rule])
    path = tmp_path_factory.mktemp("save") / "net"
    linjax.save(path, net, small)
    stored, loaded = linjax.load(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(small)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(small), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert linjax.count(loaded) == linjax.count(small)
    assert stored.graph == net.graph and "foldable sites" in repr(stored)
    full, again = linjax.load(path, case.apply_fn)
    for n in (1, 7):
        want = net.apply(small, x[:n])
        assert relative(stored.apply(loaded, x[:n]), want) < (2e-2 if half else 1e-5)
        assert relative(full.apply(again, x[:n]), want) == 0


def test_a_fresh_process_without_the_code(tmp_path):
    cases = {}
    for name, dtype in (("whole", jnp.float32), ("half", jnp.bfloat16)):
        net, params, x = networks.network(dtype=dtype)
        cases[name] = net, params, x
    net, small, x, _ = networks.folded()
    cases["small"] = net, small, x
    for name, (net, params, x) in cases.items():
        (tmp_path / name).mkdir()
        linjax.save(tmp_path / name / "net", net, params)
        np.savez(tmp_path / name / "x.npz", x=np.asarray(x, np.float32), dtype=str(x.dtype))
    folders = [str(tmp_path / name) for name in cases]
    subprocess.run(
        [sys.executable, "-c", FRESH, *folders], check=True, timeout=120,
        cwd=Path(linjax.__file__).parents[1],
    )  # fmt: skip
    for name, (net, params, x) in cases.items():
        with np.load(tmp_path / name / "y.npz") as got:
            assert got["count"] == linjax.count(params)
            for n in (1, 3, len(x)):
                limit = 2e-2 if name == "half" else 1e-5
                assert relative(got[str(n)], net.apply(params, x[:n])) < limit


def test_folds_further_and_differentiates_with_the_function(tmp_path):
    net, small, x, _ = networks.folded()
    linjax.save(tmp_path / "net", net, small)
    again, params = linjax.load(tmp_path / "net", networks.apply_fn)
    gradients = jax.grad(lambda p: (again.apply(p, x) ** 2).sum())(params)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    everything = linjax.threshold(0.0, layers=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        smaller = linjax.fold(params, linjax.collect(again, params, [x]), everything)
    assert linjax.count(smaller) <= linjax.count(params)


def test_the_file_is_smaller_by_the_ratio_claimed(tmp_path):
    net, params, _ = networks.network(width=400)
    small = networks.narrowed(params, 120)
    linjax.save(tmp_path / "whole", net, params)
    linjax.save(tmp_path / "small", net, small)
    sizes = [(tmp_path / name).stat().st_size for name in ("whole", "small")]
    claimed = linjax.count(small) / linjax.count(params)
    assert claimed < 0.1
    assert sizes[1] / sizes[0] < claimed + 0.02
    assert sizes[1] < 4 * linjax.count(small) + 12_000


def test_safetensors_reads_it(tmp_path):
    net, params, _ = networks.network(dtype=jnp.bfloat16)
    linjax.save(tmp_path / "net", net, params)
    with safe_open(tmp_path / "net", "flax") as file:
        kernel = file.get_tensor("first/w")
        assert kernel.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(kernel), np.asarray(params["first"]["w"]))
        assert json.loads(file.metadata()["manifest"])["schema"] == 1


def test_the_report_travels(tmp_path):
    net, small, _, report = networks.folded()
    linjax.save(tmp_path / "net", net, small, report=report)
    manifest = linjax.load(tmp_path / "net")[0].manifest
    assert (manifest.provenance.before, manifest.provenance.after) == (report.before, report.after)
    assert manifest.provenance.predicted == report.predicted
    assert [site.kept for site in manifest.provenance.sites] == [
        len(site.kept) for site in report.sites.values()
    ]
    assert manifest.provenance.rule == "size(0.3)"
    assert manifest.provenance.evidence == "statistics of 64 samples"
    with pytest.raises(linjax.StoreError, match="came with these"):
        linjax.save(tmp_path / "net", net, networks.network()[1], report=report)


def test_what_was_measured_travels(tmp_path):
    net, small, x, _ = networks.folded()
    _, params, _ = networks.network()
    measured = linjax.compare(net, params, small, [x])
    linjax.save(tmp_path / "net", net, small, measured=measured, note="for the tests")
    known = linjax.load(tmp_path / "net")[0].manifest.provenance
    assert known.measured._asdict() == {
        "rows": 64, "metric": "softmax", "error": measured.error, "agreement": measured.agreement,
    }  # fmt: skip
    assert known.note == "for the tests"
    with pytest.raises(linjax.StoreError, match="compare these"):
        linjax.save(tmp_path / "net", net, params, measured=measured)


@pytest.mark.parametrize("container", [list, tuple])
def test_original_containers_come_back(tmp_path, container):
    params = container([{"w": jnp.ones((2, 5))}, {"w": jnp.ones((5, 3)), "none": None}])

    def apply(params, x):
        return jax.nn.relu(x @ params[0]["w"]) @ params[1]["w"]

    net = linjax.trace(apply, params, jnp.ones((1, 2)))
    linjax.save(tmp_path / "net", net, params)
    stored, loaded = linjax.load(tmp_path / "net")
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert stored.apply(loaded, jnp.ones((4, 2))).shape == (4, 3)
    full, loaded = linjax.load(tmp_path / "net", apply)
    assert full.apply(loaded, jnp.ones((4, 2))).shape == (4, 3)


def test_integers_several_inputs_and_dict_outputs(tmp_path):
    params = {
        "table": jnp.arange(12.0).reshape(4, 3),
        "out": jnp.ones((3, 2)),
        "steps": jnp.int32(7),
    }

    def apply(params, tokens, scale):
        h = jax.nn.relu(params["table"][tokens] * scale["s"])
        return {"y": h @ params["out"], "steps": params["steps"]}

    inputs = jnp.array([0, 1]), {"s": jnp.ones((2, 1))}
    net = linjax.trace(apply, params, *inputs)
    linjax.save(tmp_path / "net", net, params)
    stored, loaded = linjax.load(tmp_path / "net")
    got = stored.apply(loaded, jnp.array([3, 2, 1]), {"s": jnp.ones((3, 1))})
    assert got["y"].shape == (3, 2) and got["steps"] == 7


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_random_keys(tmp_path, impl):
    """As dropout leaves them in the state of an NNX module."""
    params = {
        "w": jnp.ones((4, 5)),
        "v": jnp.ones((5, 2)),
        "rngs": {"key": jax.random.key(7, impl=impl), "many": jax.random.split(jax.random.key(1))},
    }
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"], params, jnp.ones((3, 4)))
    linjax.save(tmp_path / "net", net, params)
    stored, loaded = linjax.load(tmp_path / "net")
    for name in ("key", "many"):
        assert jnp.array_equal(loaded["rngs"][name], params["rngs"][name])
        assert loaded["rngs"][name].dtype == params["rngs"][name].dtype
    assert stored.apply(loaded, jnp.ones((2, 4))).shape == (2, 2)
    full, loaded = linjax.load(tmp_path / "net", net.apply_fn)
    assert full.apply(loaded, jnp.ones((2, 4))).shape == (2, 2)
    save_checkpoint(tmp_path / "run", 1, net, params)
    again = restore_checkpoint(tmp_path / "run", net).params
    assert jnp.array_equal(again["rngs"]["many"], params["rngs"]["many"])


def conv_net(params, x, activation=jax.nn.relu):
    axes = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "VALID", dimension_numbers=axes)
    h = activation(h + params["shift"])
    return h.reshape(x.shape[0], -1) @ params["out"]


def test_a_convolutional_network(tmp_path):
    rng = np.random.default_rng(0)

    def leaf(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {"conv": leaf(3, 3, 2, 12), "shift": leaf(12), "out": leaf(4 * 4 * 12, 5)}
    x = leaf(200, 6, 6, 2)
    net = linjax.trace(conv_net, params, x[:1])
    assert [site.name for site in net.network.sites] == ["conv"]
    small = linjax.fold(params, linjax.collect(net, params, [x]), linjax.size(0.5))
    assert linjax.count(small) <= 0.5 * linjax.count(params)
    linjax.save(tmp_path / "net", net, small)
    stored, loaded = linjax.load(tmp_path / "net")
    assert repr(stored).startswith("1 foldable sites") and stored.manifest.program.batch is None
    full, again = linjax.load(tmp_path / "net", conv_net)
    for n in (1, 5):
        want = net.apply(small, x[:n])
        assert relative(stored.apply(loaded, x[:n]), want) < 1e-5
        assert relative(full.apply(again, x[:n]), want) == 0
    with pytest.raises(linjax.StructureError, match=r"conv: expected 12 coordinates \(max\)"):
        linjax.load(tmp_path / "net", lambda p, x: conv_net(p, x, jax.nn.tanh))


def test_a_batch_that_cannot_be_symbolic_says_so(tmp_path):
    params = {"w": jnp.ones((4, 5)), "v": jnp.ones((5, 2))}

    def apply(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["v"] / float(x.shape[0])

    net = linjax.trace(apply, params, jnp.ones((3, 4)))
    linjax.save(tmp_path / "net", net, params)
    stored, loaded = linjax.load(tmp_path / "net")
    assert stored.manifest.program.batch == 3 and stored.manifest.program.reason
    assert stored.apply(loaded, jnp.ones((3, 4))).shape == (3, 2)
    with pytest.raises(linjax.StructureError, match="exactly"):
        stored.apply(loaded, jnp.ones((4, 4)))


def test_without_a_program_the_function_is_asked_for(tmp_path):
    params = {"w": jnp.ones((4, 5)), "v": jnp.ones((5, 2))}

    def apply(params, x):
        y = jax.nn.relu(x @ params["w"]) @ params["v"]
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    net = linjax.trace(apply, params, jnp.ones((3, 4)))
    linjax.save(tmp_path / "net", net, params)
    with pytest.raises(linjax.StoreError, match="give the network's function"):
        linjax.load(tmp_path / "net")
    full, loaded = linjax.load(tmp_path / "net", apply)
    assert full.apply(loaded, jnp.ones((3, 4))).shape == (3, 2)


def test_another_function_is_refused_by_path(tmp_path):
    net, params, _ = networks.network()
    linjax.save(tmp_path / "net", net, params)

    def other(params, x):
        h = jax.nn.tanh(x @ params["first"]["w"] + params["first"]["b"])
        return h @ params["second"]["w"]

    with pytest.raises(linjax.StructureError, match=r"first/w: expected 6 inputs, 24 units"):
        linjax.load(tmp_path / "net", other)
    with pytest.raises(linjax.StructureError, match=r"doesn't run.*first/b \(24,\)"):
        linjax.load(tmp_path / "net", lambda params, x: x @ params["third"])


def test_wrong_parameters_and_inputs_are_named(tmp_path):
    net, params, x = networks.network()
    linjax.save(tmp_path / "net", net, params)
    stored, loaded = linjax.load(tmp_path / "net")
    with pytest.raises(linjax.StructureError, match=r"last/w: bfloat16 .* expected float32"):
        stored.apply(loaded | {"last": {"w": loaded["last"]["w"].astype(jnp.bfloat16)}}, x)
    with pytest.raises(linjax.StructureError, match="last/w: missing"):
        stored.apply({k: v for k, v in loaded.items() if k != "last"}, x)
    with pytest.raises(linjax.StructureError, match="takes float32"):
        stored.apply(loaded, x[:, :5])


def test_every_leaf_has_a_name_of_its_own(tmp_path):
    def apply(params, x):
        leaves = jax.tree.leaves(params)
        return jax.nn.relu(x @ leaves[0]) @ leaves[1]

    kernels = jnp.ones((2, 2)), jnp.ones((2, 2))
    for keys in (("a/b", "c"), ("mlp/~/linear", "x")):
        params = dict(zip(keys, kernels, strict=True))
        linjax.save(tmp_path / "net", linjax.trace(apply, params, jnp.ones((1, 2))), params)
        assert pytree.leaves_of(linjax.load(tmp_path / "net")[1]) == pytree.leaves_of(params)
    for params in (
        {"a/b": kernels[0], "a": {"b": kernels[1]}},
        {"../up": kernels[0], "b": kernels[1]},
        {"/etc": kernels[0], "b": kernels[1]},
        {"": kernels[0], "b": kernels[1]},
    ):
        net = linjax.trace(apply, params, jnp.ones((1, 2)))
        with pytest.raises(linjax.StoreError, match="rename"):
            linjax.save(tmp_path / "other", net, params)
    assert not (tmp_path / "other").exists()
