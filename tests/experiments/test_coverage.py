import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.coverage import __main__ as report
from experiments.coverage import zoo
from experiments.coverage.zoo import registry

BARE = [model for model in zoo.MODELS.values() if model.package is None]
PACKAGED = [model for model in zoo.MODELS.values() if model.package is not None]
# Compiled without optimising: each network runs once.
QUICK = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}


def check(model: zoo.Model) -> None:
    """A network runs, what it gives is finite, and no leaf of its parameters is constant."""
    apply, params, inputs = model.build()
    assert isinstance(inputs, tuple)
    outputs = jax.tree.leaves(jax.jit(apply, compiler_options=QUICK)(params, *inputs))
    assert outputs and all(bool(jnp.isfinite(y).all()) for y in outputs)
    assert any(np.ptp(np.asarray(y, np.float64)) > 0 for y in outputs)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size > 1:
            assert np.ptp(np.asarray(leaf)) > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("model", BARE, ids=lambda model: model.name)
def test_architectures_written_out_run(model):
    check(model)


@pytest.mark.parametrize("model", PACKAGED, ids=lambda model: model.name)
def test_architectures_of_packages_run(model):
    if not model.installed:
        pytest.skip(f"{model.package} isn't installed (pip install -e '.[zoo]')")
    check(model)


def test_the_zoo_is_large_and_knows_where_each_model_is_from():
    assert len(zoo.MODELS) >= 100 and len(BARE) >= 50
    sources = {module.__name__.rpartition(".")[2] for module in zoo.SOURCES}
    assert {model.source for model in zoo.MODELS.values()} == sources


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="two models are called 'resnet50'"):
        registry.model("resnet50")(lambda: None)


def test_parameters_are_spread_and_variances_positive():
    shapes = {
        "kernel": jax.ShapeDtypeStruct((400, 50), jnp.float32),
        "bias": jax.ShapeDtypeStruct((50,), jnp.float32),
        "norm/moving_variance": jax.ShapeDtypeStruct((3, 50), jnp.float32),
        "count": jax.ShapeDtypeStruct((), jnp.int32),
    }
    filled = registry.filled(shapes)
    assert np.std(filled["kernel"]) == pytest.approx(1 / 20, rel=0.05)
    assert 0.05 < np.std(filled["bias"]) < 0.2
    assert np.min(filled["norm/moving_variance"]) > 0.5
    assert filled["count"] == 1
    assert all(np.array_equal(filled[k], v) for k, v in registry.filled(shapes).items())


def test_the_report_names_packages_that_are_not_installed(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    report.main(["keras_vgg16", "haiku"])
    assert "Not installed: haiku, keras." in capsys.readouterr().out


def test_the_report_has_a_row_for_what_cannot_be_traced():
    def build():
        raise NotImplementedError("a primitive\nthat is new")

    found = report.row(zoo.Model("new", "tables", None, build))
    assert len(found) == len(report.COLUMNS)
    assert found[:4] == ("new", "tables", "NotImplementedError: a primitive", "–")


def test_the_report_counts_parameters(capsys):
    report.main(["mlp"])
    assert "| mlp | tables | 6,362 |" in capsys.readouterr().out


def test_the_report_refuses_names_that_it_does_not_know():
    with pytest.raises(SystemExit, match="not in the zoo: resnet51"):
        report.main(["resnet51"])


def test_the_report_needs_none_of_the_packages_of_the_other_experiments():
    code = (
        "import sys, runpy; sys.argv[1:] = ['mlp']\n"
        "sys.modules |= dict.fromkeys(('pandas', 'sklearn', 'matplotlib', 'ml_collections'))\n"
        "runpy.run_module('experiments.coverage', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "| mlp | tables | 6,362 |" in done.stdout, done.stderr
