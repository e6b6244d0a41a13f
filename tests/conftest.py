"""Fixtures for all tests."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Folder of data sets and reference networks that are too large for the repository.

    It is named by ``LINJAX_SHARED``, or lies next to the repository under the name
    ``shared``. Tests that need it are skipped where it is absent.
    """
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared"
    folder = pathlib.Path(os.environ.get("LINJAX_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"needs reference data: {folder} is absent; name it by LINJAX_SHARED")
    return folder
