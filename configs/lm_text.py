"""A language model of characters, on the documentation that Python carries: sizes and rivals.

    python -m experiments.main --config=configs/lm_text.py --workdir=runs/lm_text

Nothing is downloaded: the text is what ``help()`` shows. Three blocks of 64 features with
gated feed-forward networks of 192 units (SwiGLU), 177,569 parameters, rows of 64 characters,
trained by Adam in ten epochs. Sizes are shares of what can fold, the
feed-forward networks; ``--config.rules_of=whole`` counts all parameters. Share of next characters
that are right (63.8% for the original), in brackets agreement with the original, one seed:

    share of what can fold    75%           50%           25%           10%           5%
    of the whole              84%           67%           53%           44%           41%
    size (one shot)           60.5 (81.0)   54.3 (68.4)   46.0 (55.3)   40.1 (47.1)   36.4 (42.5)
    sequential                60.6 (81.4)   55.2 (69.6)   46.4 (55.9)   39.7 (47.6)   35.8 (42.1)
    pruning and refit         59.9 (80.8)   52.4 (66.1)   40.9 (49.2)   33.0 (39.9)   25.7 (30.9)
    magnitude                 49.6 (60.5)   26.2 (29.7)   13.7 (14.6)    9.1 (10.0)    8.1 ( 9.2)

The small model needs all of its units: without training none of the methods spares many.
"""

from configs import vit_fashion
from configs.common import base


def get_config():
    """Returns the config."""
    config = vit_fashion.compare(base())
    config.dataset.name = "documentation"
    config.dataset.length = 64
    config.network.kind = "lm"
    config.network.width = 64
    config.network.heads = 4
    config.network.ffn = 192
    config.network.blocks = 3
    config.training.batch = 32
    config.training.epochs = 10
    config.training.learning_rate = 2e-3
    config.training.schedule = "cosine"
    config.calibration.rows = 1000
    config.calibration.batch = 250
    return config
