"""Fashion-MNIST, 784-1024-1024-512-512-256-256-10, the network of the published method.

    python -m experiments.main --config=configs/fashion_mlp.py --workdir=runs/fashion_mlp \
        --data_dir=DIR

trains as published: SGD 0.005 with momentum 0.9, batches of 32, up to 20 epochs, stopping
after three without a lower validation loss. ``--config=configs/fashion_mlp.py:adam`` trains
by Adam in batches of 256, several times faster. ``--config.weights=FILE`` takes trained
weights instead. ``DIR`` holds Fashion-MNIST as TFDS prepares it; ``TFDS_DATA_DIR`` does as
well.
"""

from configs.common import base


def get_config(variant: str = "published"):
    """Returns the config; ``variant`` is ``published`` or ``adam``."""
    config = base()
    config.dataset.name = "fashion_mnist"
    config.network.hidden = (1024, 1024, 512, 512, 256, 256)
    if variant == "published":
        config.training.optimiser = "sgd"
        config.training.learning_rate = 0.005
    elif variant == "adam":
        config.training.batch = 256
    else:
        raise ValueError(f"the variants are published and adam, not {variant}")
    return config
