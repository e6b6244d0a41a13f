"""Fixtures for tests of folding."""

import jax
import numpy as np
import pytest


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    """Single precision, and double precision switched on."""
    with jax.enable_x64(request.param is np.float64):
        yield request.param
