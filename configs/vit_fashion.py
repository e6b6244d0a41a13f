"""Fashion-MNIST, a vision transformer: 86.3% right, 85.6% with a quarter of its feed-forward part.

    python -m experiments.main --config=configs/vit_fashion.py --workdir=runs/vit_fashion \
        --data_dir=DIR

Patches of 7×7 pixels, three blocks of 64 features with feed-forward networks of 256 units
(GELU), 154,954 parameters, trained by Adam in eight epochs. Sizes are
shares of what can fold, the feed-forward networks; ``--config.rules_of=whole`` counts all
parameters. Accuracy, in brackets agreement with the original, one seed:

    share of what can fold    75%           50%           25%           10%           5%
    of the whole              84%           67%           52%           42%           39%
    size (one shot)           86.3 (99.7)   86.2 (98.1)   85.6 (95.4)   84.0 (91.7)   82.8 (90.0)
    sequential                86.2 (99.7)   86.1 (98.2)   85.7 (95.9)   84.4 (92.4)   82.8 (90.0)
    pruning and refit         86.2 (98.0)   86.0 (96.2)   84.6 (92.3)   81.1 (86.9)   77.3 (81.3)
    magnitude                 85.6 (94.9)   84.0 (91.2)   78.0 (83.1)   69.7 (73.2)   64.8 (68.0)

These figures are from before values of attention could fold. On a shortened run
(``--config.dataset.rows=8000 --config.training.epochs=4 --config.calibration.rows=2000
--config.rules_of=whole``, 77.5% right on the first 3,000 test images), accuracy and agreement at
shares of the whole, in one shot, and features left in each head of the three blocks, of 16:

    share of the whole          84%           67%           52%           42%           35%
    feed-forward parts alone    77.6 (99.6)   77.1 (99.0)   77.0 (97.6)   76.9 (95.2)   61.2 (67.3)
    with values of attention    77.5 (99.8)   77.4 (99.3)   77.2 (98.0)   76.8 (96.3)   76.8 (96.1)
    features of each head       16 16 10      16 12 7       15 8 5        14 7 4        12 5 3
"""

from configs.common import base

SIZES = (0.75, 0.5, 0.25, 0.1, 0.05)


def compare(config):
    """Sets the rules of a config to all methods for feed-forward networks, at all sizes."""
    config.rules = dict.fromkeys(("size", "sequential", "refit", "magnitude"), SIZES)
    config.rules_of = "foldable"
    return config


def get_config():
    """Returns the config."""
    config = compare(base())
    config.dataset.name = "fashion_mnist"
    config.network.kind = "vit"
    config.network.image = (28, 28, 1)
    config.network.patch = 7
    config.network.width = 64
    config.network.heads = 4
    config.network.ffn = 256
    config.network.blocks = 3
    config.training.batch = 128
    config.training.epochs = 8
    config.training.schedule = "cosine"
    config.calibration.rows = 4000
    config.calibration.batch = 500
    return config
