"""Files of earlier versions still load: those in golden/ are never written anew."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.store.manifest import SCHEMA
from tests.store import networks

FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
@pytest.mark.parametrize("name", ["original", "folded"])
def test_an_old_file_loads(name, schema):
    path = FOLDER / f"{name}_{schema}.safetensors"
    with np.load(FOLDER / f"outputs_{schema}.npz") as file:
        x, want = jnp.asarray(file["x"]), file[name]
    net, params = linjax.load(path, networks.apply_fn)
    np.testing.assert_allclose(net.apply(params, x), want, rtol=1e-4, atol=1e-6)
    assert linjax.count(params) < 200
    smaller = linjax.fold(params, linjax.collect(net, params, [x]), linjax.size(0.9))
    assert linjax.count(smaller) < linjax.count(params)


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
@pytest.mark.parametrize("name", ["original", "folded"])
def test_an_old_program_runs(name, schema):
    """jax.export keeps programs readable by later versions for months, by earlier ones not."""
    path = FOLDER / f"{name}_{schema}.safetensors"
    with np.load(FOLDER / f"outputs_{schema}.npz") as file:
        x, want = jnp.asarray(file["x"]), file[name]
    try:
        net, params = linjax.load(path)
    except linjax.StoreError as error:
        assert "give the network's function" in str(error)
        pytest.skip(f"jax {jax.__version__} can't read the program; linjax says what to do")
    np.testing.assert_allclose(net.apply(params, x), want, rtol=1e-4, atol=1e-6)
    known = net.manifest.provenance
    assert (known.before, known.note) == (152, "golden" if name == "folded" else "")
    assert (known.measured is None) == (name == "original")


def test_every_version_of_the_format_has_files():
    made = {path.stem for path in FOLDER.glob("*.safetensors")}
    assert made == {f"{n}_{s}" for n in ("original", "folded") for s in range(1, SCHEMA + 1)}
