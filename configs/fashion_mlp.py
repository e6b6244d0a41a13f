"""Fashion-MNIST, 784-1024-1024-512-512-256-256-10: 88.6% right, the published method's network.

    python -m experiments.main --config=configs/fashion_mlp.py --workdir=runs/fashion_mlp \
        --data_dir=DIR

trains as published: SGD 0.005 with momentum 0.9, batches of 32, up to 20 epochs, stopping
after three without a lower validation loss (the thirteenth). The published rule then keeps
88.3% at 95% of the parameters, 87.0% at 81% and 73.9% at 25%; the rule ``size`` keeps 87.5% at
10% and 86.3% at 2.5%.

``--config=configs/fashion_mlp.py:adam`` trains by Adam in batches of 256, several times faster,
to 87.8% in nine epochs. ``--config.weights=FILE`` takes trained weights instead. ``DIR`` holds
Fashion-MNIST as TFDS prepares it; ``TFDS_DATA_DIR`` does as well.
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
