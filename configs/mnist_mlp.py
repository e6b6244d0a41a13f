"""MNIST with the network and the training that were published for Fashion-MNIST.

    python -m experiments.main --config=configs/mnist_mlp.py:adam --workdir=runs/mnist_mlp \
        --data_dir=DIR

Without ``:adam`` it trains as published, by SGD, which takes longer. ``DIR`` holds MNIST as
TFDS prepares it; ``TFDS_DATA_DIR`` does as well.
"""

from configs import fashion_mlp


def get_config(variant: str = "published"):
    """Returns the config; ``variant`` is ``published`` or ``adam``."""
    config = fashion_mlp.get_config(variant)
    config.dataset.name = "mnist"
    return config
