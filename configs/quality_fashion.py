"""Fashion-MNIST: linjax and its rivals at the same sizes, on the same calibration rows.

    python -m experiments.main --config=configs/quality_fashion.py --workdir=runs/quality_fashion \
        --data_dir=DIR

One table and one picture of all methods over sizes from 50% to 0.5%: one-shot folds (``size``),
layer by layer (``compress``), and magnitude and activation pruning, pruning with refit, SVD and
whitened SVD; then the better ones again, each with a short recovery.
``--config.weights=FILE`` takes trained weights, an npz file with kernel_i and bias_i, instead of
training by Adam.
"""

from configs import fashion_mlp

SIZES = (0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005)
RIVALS = ("refit", "whitened_svd", "svd", "magnitude", "activity")
RECOVERED = ("compress_recovered", "refit_recovered", "whitened_svd_recovered", "magnitude_recovered")


def compare(config):
    """Sets the rules of a config to all methods at all sizes."""
    config.rules.threshold = ()
    config.rules.published_size = (0.9, 0.75, 0.5, 0.25)
    for rule in ("size", "compress", *RIVALS, *RECOVERED):
        config.rules[rule] = SIZES
    return config


def get_config():
    """Returns the config."""
    return compare(fashion_mlp.get_config("adam"))
