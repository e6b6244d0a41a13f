"""Removing coordinates equals hiding them in every architecture of the zoo, all sites at once."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.coverage import zoo
from linjax.dims.run import execute
from linjax.program.pytree import flatten

sys.path.insert(0, str(Path(__file__).parent))
from removing import analysed, assert_near, check, check_wide, quick

FIRST = {
    "albert_shared", "cbam", "conv3d", "convmixer", "deep_equilibrium", "deep_sets", "deeponet",
    "diffusion_unet", "dqn_dueling", "film", "fno", "gcn", "gpt2_fused", "graph_network",
    "highway", "hypernetwork", "lenet_tanh", "lora_mlp", "lstm_seq2seq", "lstm_text", "maf",
    "mamba", "maxout", "mixture_of_experts", "mlp", "mlp_ensemble", "mobilenet_v2_se",
    "nasnet_cell", "nerf", "nnx_mlp", "nnx_resnet", "ppo_continuous", "realnvp", "resnet20_cifar",
    "resnext", "s4d", "scanned_llama", "shufflenet", "squeezenet", "swin", "tcn", "unet", "vgg",
    "vit_hybrid", "vqvae", "wavenet",
}  # fmt: skip
"""One of each family; the others take as long again."""
SINGLE = {
    "llama_cached_step", "nnx_scanned_transformer", "lstm_text", "gru_text_bidirectional",
    "lstm_seq2seq",
}  # fmt: skip
"""Architectures that can't be traced in double precision: they carry single precision along."""


def marks(model):
    first = model.name in FIRST and model.package is None
    return () if first else pytest.mark.slow


MODELS = [pytest.param(m, id=m.name, marks=marks(m)) for m in zoo.MODELS.values()]


@pytest.mark.parametrize("model", MODELS)
def test_removing_is_hiding(model):
    if not model.installed:
        pytest.skip(f"{model.package} isn't installed (pip install -e '.[zoo]')")
    apply, params, inputs = model.build()
    if model.package is not None or model.name in SINGLE:
        check(apply, params, inputs)
    else:
        check_wide(apply, params, inputs)


@pytest.mark.parametrize("name", ["resnet20_cifar", "resnext", "swin", "scanned_llama", "unet"])
def test_networks_run_on_batches_of_another_size(name):
    apply, params, inputs = zoo.MODELS[name].build()
    larger = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1], x[:1]]), inputs)
    network = analysed(apply, params, inputs)
    expected = quick(apply, params, *larger)
    given = jax.tree.leaves(larger)
    found = quick(lambda p, x: execute(network, p, x).outputs, dict(flatten(params)), given)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_near(np.asarray(mine), np.asarray(theirs), 2e-5)
