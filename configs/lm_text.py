"""A language model of characters, on the documentation that Python carries: sizes and rivals.

    python -m experiments.main --config=configs/lm_text.py --workdir=runs/lm_text \
        --sweep=seed=0,1,2

Nothing is downloaded: the text is what ``help()`` shows. Three blocks of 64 features with
gated feed-forward networks of 192 units (SwiGLU), 177,569 parameters, rows of 64 characters,
trained by Adam. Sizes are shares of what can fold, the feed-forward networks, and values of
attention fold along; ``--config.rules_of=whole`` counts all parameters. Share of next characters
that are right, in brackets agreement with the original, three seeds of half the training
(``--config.training.epochs=5``, 59.3% right). FLOPs go down as parameters do.

    share of what can fold    75%           50%           25%           10%           5%
    of the whole              84%           69%           53%           44%           41%
    size (one shot)           58.0 (88.2)   55.3 (79.0)   50.5 (68.6)   46.1 (60.5)   44.6 (58.0)
    sequential                58.0 (88.7)   55.4 (79.4)   50.1 (68.8)   45.9 (60.6)   42.7 (56.7)
    pruning and refit         57.5 (86.0)   52.7 (73.9)   43.9 (57.6)   36.5 (45.6)   29.4 (36.5)
    magnitude                 51.2 (68.9)   38.6 (48.6)   29.3 (34.7)   25.1 (28.4)   22.8 (25.8)

The small model needs all of its units: without training none of the methods spares many.

The figures are of version 0.1; docs/results.md has those of 0.2.
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
