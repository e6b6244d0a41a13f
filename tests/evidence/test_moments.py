"""Products of rows with themselves are made by their lower blocks, and are whole on the host."""

import numpy as np
import pytest

from linjax.evidence import moments


@pytest.mark.parametrize("width", [1, 255, 257, 600, 1030])
def test_lower_blocks_mirrored_are_the_gram_matrix(width):
    x = np.random.default_rng(0).normal(size=(2, 9, width)).astype(np.float32)
    found = moments.mirrored(np.array(moments.lower_gram(x), np.float64))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(found, wide.swapaxes(1, 2) @ wide, atol=1e-4)
