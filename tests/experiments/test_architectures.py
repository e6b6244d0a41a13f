import io
import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import linjax
from experiments import networks, train
from experiments.data import Dataset, MissingData, Split, load

KINDS = {
    "cnn": {"channels": (4, 6), "hidden": (8,)},
    "vgg": {"channels": (4, 6)},
    "resnet": {"channels": (4,), "blocks": 1},
}


def network(kind):
    fields = {"kind": kind, "image": (8, 8, 1), "seed": 0, "augment": True, **KINDS[kind]}
    return networks.build(ConfigDict({"network": fields, "weights": ""}), 64, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_all_channels_are_sites(kind):
    net_ = network(kind)
    x = np.ones((2, 64), np.float32)
    assert net_.apply(net_.params, x).shape == (2, 3)
    net = linjax.trace(net_.apply, net_.params, x)
    assert len(net.network.foldable) == {"cnn": 3, "vgg": 4, "resnet": 6}[kind]
    assert {r.reason for r in net.network.refusals} == {"it is the network's output"}


def test_training_updates_running_statistics(tmp_path):
    rng = np.random.default_rng(0)
    rows = Split(rng.uniform(size=(64, 64)).astype(np.float32), np.arange(64, dtype=np.int32) % 3)
    made = network("vgg")
    config = ConfigDict(
        {"optimiser": "adam", "learning_rate": 1e-2, "batch": 16, "epochs": 1, "patience": 3,
         "seed": 0, "schedule": "cosine"}
    )  # fmt: skip
    dataset = Dataset("noise", rows, rows, rows, 3)
    params = train.alone(made, dataset, config, pathlib.Path(tmp_path, "t.npz"), lambda _: None)
    assert not np.allclose(params["batch_stats"]["BatchNorm_0"]["mean"], 0)
    before, after = (p["params"]["Conv_0"]["kernel"] for p in (made.params, params))
    assert not np.allclose(after, before)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_an_archive_of_jpeg_files_is_read(tmp_path):
    def packed(count):
        files = []
        for level in range(count):
            buffer = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 10 * level, np.uint8)).save(buffer, "JPEG")
            files.append(np.frombuffer(buffer.getvalue(), np.uint8))
        ends = np.cumsum([0, *map(len, files)])
        return np.concatenate(files), ends, np.arange(count) % 10

    arrays = {}
    for part, count in (("train", 20), ("test", 5)):
        for name, value in zip(("jpeg", "start", "y"), packed(count), strict=True):
            arrays[f"{name}_{part}"] = value
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    config = ConfigDict({"name": "cifar10_jpeg", "seed": 0, "rows": 0, "drop": ()})
    found = load(config, str(tmp_path))
    assert found.train.x.shape == (18, 192) and found.valid.x.shape == (2, 192)
    assert abs(found.test.x[3].mean() * 255 - 30) < 3
    with pytest.raises(MissingData, match="--data_dir"):
        load(config, str(tmp_path / "elsewhere"))
