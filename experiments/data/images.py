"""Images as flat vectors with pixels in [0, 1]."""

import io
import itertools
import json
import os
import pathlib
from typing import Any

import numpy as np
import sklearn.datasets
from PIL import Image

from experiments.data.dataset import Dataset, MissingData, Split, split_rows
from experiments.registry import DATASETS

TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10_jpeg": "CIFAR-10 (JPEG copy)",
}

PARTS = ["train", "test"]
VALIDATION = 0.1  # of the training images: the last ones, in TFDS's order


@DATASETS.add("digits")
def digits(config: Any, data_dir: str | None) -> Dataset:
    """Returns scikit-learn's bundled digits: 1,797 images of 8×8 pixels, no download."""
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    rows = Split(np.asarray(x / 16.0, np.float32), np.asarray(y, np.int32))
    train, valid, test = (rows.take(part) for part in split_rows(rows.y, config.seed))
    return Dataset("Digits", train, valid, test, classes=10)


@DATASETS.add("mnist")
@DATASETS.add("fashion_mnist")
def prepared(config: Any, data_dir: str | None) -> Dataset:
    """Returns an image set that TFDS has prepared, read without TensorFlow.

    Args:
      config: its ``name`` is TFDS's.
      data_dir: TFDS's folder; by default ``TFDS_DATA_DIR``, else TFDS's own default.

    Raises:
      MissingData: if it has not been prepared there, in a format that can be read.
    """
    name = config.name
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = str(pathlib.Path(folder).expanduser())
    # Asked for something absent, TFDS without TensorFlow blames a file format or a module.
    if not _readable(pathlib.Path(folder, name)):
        raise MissingData(_how_to_prepare(name, folder))

    import tensorflow_datasets as tfds  # slow to import, and only needed here

    train, test = (
        _decode(source) for source in tfds.data_source(name, split=PARTS, data_dir=folder)
    )
    return _parted(TITLES[name], train, test)


def _parted(title: str, train: Split, test: Split) -> Dataset:
    """The last of the training images validate."""
    cut = len(train.y) - int(VALIDATION * len(train.y))
    rest = train.take(slice(None, cut)), train.take(slice(cut, None))
    return Dataset(title, *rest, test, classes=int(train.y.max()) + 1)


@DATASETS.add("cifar10_jpeg")
def jpeg_archive(config: Any, data_dir: str | None) -> Dataset:
    """Returns an image set kept as JPEG files in one ``NAME.npz``.

    The file holds ``jpeg_train``, all files one after another as uint8, ``start_train``,
    where each begins, and ``y_train``; likewise ``_test``.

    Args:
      config: ``name``.
      data_dir: the folder that holds the file.

    Raises:
      MissingData: if it isn't there.
    """
    file = pathlib.Path(data_dir or ".", f"{config.name}.npz").expanduser()
    if not file.is_file():
        raise MissingData(f"there is no {file}; name its folder by --data_dir=DIR")
    with np.load(file) as found:
        train, test = (
            _undo_jpeg(*(found[f"{part}_{end}"] for part in ("jpeg", "start", "y")))
            for end in PARTS
        )
    return _parted(TITLES[config.name], train, test)


def _undo_jpeg(jpeg: np.ndarray, start: np.ndarray, y: np.ndarray) -> Split:
    ends = itertools.pairwise(start)
    return _rows([np.asarray(Image.open(io.BytesIO(jpeg[a:b].tobytes()))) for a, b in ends], y)


def _decode(source: Any) -> Split:
    """Reads all of a random-access source of ``{"image", "label"}``."""
    records = source.__getitems__(range(len(source)))
    return _rows([record["image"] for record in records], [record["label"] for record in records])


def _rows(images: list[np.ndarray], labels: Any) -> Split:
    pixels = np.stack([image.reshape(-1) for image in images])
    return Split(pixels.astype(np.float32) / np.float32(255), np.asarray(labels, np.int32))


def _readable(folder: pathlib.Path) -> bool:
    """Whether a version of the data set is there in the one format read without TensorFlow."""
    return any(
        json.loads(info.read_text()).get("fileFormat") == "array_record"
        for info in folder.glob("*/dataset_info.json")
    )


def _how_to_prepare(name: str, folder: str) -> str:
    return (
        f"{name} is not in {folder} (in array_record format).\n"
        "If it is elsewhere, name the folder by --data_dir=DIR or TFDS_DATA_DIR.\n"
        "To prepare it, once, with a network:\n"
        "  pip install tensorflow\n"
        '  python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{folder}')"
        ".download_and_prepare(file_format='array_record')\""
    )
