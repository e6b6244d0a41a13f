"""Tables as vectors: numbers standardised, categories one-hot, gaps filled."""

import os
import pathlib
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import fetch_openml
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler

from experiments.data.dataset import Dataset, MissingData, Split, split_rows


def table(config: Any, data_dir: str | None) -> Dataset:
    """Returns a table as a classification task, split 60/20/20 by class.

    Args:
      config: ``name``, in OpenML or of a parquet file without its ending; ``drop``, columns to
        leave out; ``seed`` of the split.
      data_dir: folder of parquet files with the class in a last column ``target``; by
        default ``LINJAX_TABULAR``. Without either the table comes from OpenML.

    Raises:
      MissingData: if the table is in neither place.
    """
    features, target = read(config.name, data_dir)
    y = LabelEncoder().fit_transform(target.astype(str)).astype(np.int32)
    parts = split_rows(y, config.seed)
    encode = encoder().fit(features.drop(columns=list(config.drop)).iloc[parts[0]])
    x = np.asarray(encode.transform(features), np.float32)
    train, valid, test = (Split(x[rows], y[rows]) for rows in parts)
    return Dataset(config.name.capitalize(), train, valid, test, classes=int(y.max()) + 1)


def encoder():
    """Returns the transformation of columns to features; fit it on training rows only."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    categories = make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    return make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (categories, make_column_selector(dtype_exclude="number")),
    )


def read(name: str, data_dir: str | None) -> tuple[pd.DataFrame, pd.Series]:
    """Returns a table's features and target, from a parquet file or from OpenML."""
    folder = data_dir or os.environ.get("LINJAX_TABULAR")
    if folder is not None:
        file = pathlib.Path(folder).expanduser() / f"{name}.parquet"
        if not file.is_file():
            raise MissingData(f"there is no {file}; name another folder by --data_dir=DIR")
        frame = pd.read_parquet(file)
        return _plain(frame.drop(columns="target")), frame["target"]
    try:
        bunch = fetch_openml(name, version=1, as_frame=True)
    except (OSError, ValueError) as error:
        raise MissingData(
            f"{name} could not be fetched from OpenML ({error}).\n"
            "Without a network, name a folder of parquet files, one a table with the class "
            "in a column `target`, by --data_dir=DIR or LINJAX_TABULAR."
        ) from error
    return _plain(bunch.data), bunch.target


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Turns categories into objects and truth values into text, gaps into NaN."""
    categorical = frame.select_dtypes(exclude="number").columns
    return frame.astype(dict.fromkeys(categorical, object))
