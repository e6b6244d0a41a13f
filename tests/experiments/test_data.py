import json

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from experiments import data
from experiments.data import dataset, images, tabular


def described(name, **fields):
    return ConfigDict({"name": name, "seed": 0, "rows": 0, "drop": (), **fields})


def test_digits_are_split_by_class_without_overlap():
    digits = data.load(described("digits"))
    sizes = [len(part.y) for part in (digits.train, digits.valid, digits.test)]
    assert sizes == [1078, 359, 360]
    rows = np.concatenate([digits.train.x, digits.valid.x, digits.test.x])
    assert rows.dtype == np.float32
    assert rows.min() == 0 and rows.max() == 1
    shares = np.bincount(digits.test.y) / len(digits.test.y)
    np.testing.assert_allclose(shares, 0.1, atol=0.01)


def test_split_depends_on_the_seed_alone():
    y = np.arange(100) % 5
    first, again, other = (dataset.split_rows(y, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert sorted(np.concatenate(first)) == list(range(100))


def test_rows_limits_training_rows_only():
    few = data.load(described("digits", rows=50))
    assert (len(few.train.y), len(few.test.y)) == (50, 360)


def test_missing_images_say_how_to_prepare_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(data.MissingData) as error:
        data.load(described("mnist"))
    for part in (f"mnist is not in {tmp_path}", "--data_dir", "TFDS_DATA_DIR", "array_record"):
        assert part in str(error.value)
    assert "download_and_prepare" in str(error.value)


def test_images_in_another_format_count_as_missing(tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "tfrecord"}))
    with pytest.raises(data.MissingData, match="array_record"):
        data.load(described("mnist"), str(tmp_path))


@pytest.mark.parametrize(("name", "title"), list(images.TITLES.items())[:2])
def test_prepared_images_are_read_without_tensorflow(shared, name, title, monkeypatch):
    # The first records are enough; decoding all 70,000 takes a while.
    monkeypatch.setattr(images, "PARTS", ["train[:100]", "test[:50]"])
    images_read = data.load(described(name), str(shared / "data" / "tfds"))
    assert images_read.title == title
    assert images_read.train.x.shape == (90, 784)
    assert images_read.valid.x.shape == (10, 784)
    assert images_read.test.x.shape == (50, 784)
    assert 0.9 < images_read.test.x.max() <= 1


@pytest.fixture
def folder(tmp_path):
    """A folder with one table: a number with gaps, a category with gaps, a name."""
    rng = np.random.default_rng(0)
    number = rng.normal(5, 2, 200)
    frame = pd.DataFrame(
        {
            "number": np.where(rng.random(200) < 0.1, np.nan, number),
            "colour": pd.Categorical(np.where(number > 5, "red", "blue")),
            "name": pd.Categorical([f"n{i}" for i in range(200)]),
            "target": pd.Categorical(np.where(number > 5, "yes", "no")),
        }
    )
    frame.loc[:5, "colour"] = None
    frame.to_parquet(tmp_path / "small.parquet")
    return str(tmp_path)


def test_table_is_standardised_and_encoded(folder):
    table = data.load(described("small", drop=("name",)), folder)
    assert table.train.x.shape == (120, 3)  # the number, and two colours
    assert [len(table.valid.y), len(table.test.y), table.classes] == [40, 40, 2]
    assert np.isfinite(table.train.x).all()
    assert abs(table.train.x[:, 0].mean()) < 1e-6
    np.testing.assert_array_equal(table.train.x[:, 1:].sum(1), 1)


def test_table_encoding_comes_from_training_rows_only(folder):
    table = data.load(described("small"), folder)
    # Names of other rows are unknown to the encoding: all their columns are zero.
    assert (table.train.x[:, 3:].sum(1) == 1).all()
    assert (table.test.x[:, 3:] == 0).all()


def test_missing_table_names_the_file(tmp_path):
    with pytest.raises(data.MissingData, match=r"no .*nothing\.parquet"):
        data.load(described("nothing"), str(tmp_path))


def test_missing_network_says_what_to_do(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.delenv("LINJAX_TABULAR", raising=False)
    monkeypatch.setattr(tabular, "fetch_openml", unreachable)
    with pytest.raises(data.MissingData, match=r"(?s)no route to host.*LINJAX_TABULAR"):
        data.load(described("car"))


def test_titanic(shared):
    drop = ("PassengerId", "Name", "Ticket", "Cabin")
    folder = str(shared / "data" / "tabular")
    titanic = data.load(described("titanic", drop=drop), folder)
    assert titanic.train.x.shape == (534, 12)
    assert np.isfinite(titanic.train.x).all()
