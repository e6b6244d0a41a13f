"""Files of earlier versions still load: those in golden/ are never written anew."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.store.manifest import SCHEMA
from tests.store import networks
from tests.store.test_hostile import sealed, taken_apart
from tests.store.test_round_trip import conv_net

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


def test_files_that_told_of_convolutions_in_the_graph_load(tmp_path):
    """Earlier versions had fields for them; what these said isn't needed any more."""
    params = {"conv": jnp.ones((3, 3, 2, 4)), "shift": jnp.zeros(4), "out": jnp.ones((64, 5))}
    x, path = jnp.ones((3, 6, 6, 2)), tmp_path / "net"
    net = linjax.trace(conv_net, params, x[:1])
    linjax.save(path, net, params)
    header, manifest, data = taken_apart(path.read_bytes())
    del manifest["sites"], manifest["chained"]
    told = {"name": "conv", "producer": "conv", "readings": [{"consumer": "out", "outer": 16}]}
    manifest["graph"] |= {"convolutions": [{"name": "conv"}], "channels": [told], "heads": []}
    path.write_bytes(sealed(header, manifest, data))
    for function in (None, conv_net):
        full, loaded = linjax.load(path, function)
        np.testing.assert_allclose(full.apply(loaded, x), net.apply(params, x), rtol=1e-6)
    assert not linjax.load(path)[0].manifest.chained


def test_what_runs_no_more_is_told(tmp_path):
    """Biases of linear channels were leaves of their own: only the stored program knows them."""
    params = {"conv": jnp.ones((3, 3, 2, 4)), "shift": jnp.zeros(4), "out": jnp.ones((64, 5))}
    linjax.save(tmp_path / "net", linjax.trace(conv_net, params, jnp.ones((1, 6, 6, 2))), params)
    header, manifest, data = taken_apart((tmp_path / "net").read_bytes())
    manifest["leaves"][0]["path"] = ["conv_linear_bias"]
    header["conv_linear_bias"] = header.pop("conv")
    (tmp_path / "net").write_bytes(sealed(header, manifest, data))
    with pytest.raises(linjax.StoreError, match="conv_linear_bias: an earlier linjax"):
        linjax.load(tmp_path / "net", conv_net)
