"""Fashion-MNIST: linjax and its rivals at the same sizes, on the same calibration rows.

    python -m experiments.main --config=configs/quality_fashion.py --workdir=runs/quality_fashion \
        --data_dir=DIR

One table and one picture of all methods over sizes from 50% to 0.5%: one-shot folds (``size``),
layer by layer (``compress``), and magnitude and activation pruning, pruning with refit, SVD and
whitened SVD; then the better ones again, each with a short recovery.
``--config.weights=FILE`` takes trained weights, an npz file with kernel_i and bias_i, instead of
training by Adam.

Measured on fixed weights (784-1024-1024-512-512-256-256-10, test accuracy 0.8727), 10,000
unlabelled rows, no retraining; test accuracy, and in brackets the share of test images with the
original's class:

    ==============  ===========  ===========  ===========  ===========  ===========  ===========
    share            25%          10%          5%           2.5%         1%           0.5%
    ==============  ===========  ===========  ===========  ===========  ===========  ===========
    compress        .873 (.998)  .872 (.996)  .871 (.992)  .870 (.982)  .865 (.966)  .852 (.935)
    size            .873 (.998)  .872 (.996)  .870 (.990)  .866 (.976)  .858 (.942)  .798 (.857)
    refit           .872 (.992)  .870 (.971)  .863 (.945)  .821 (.879)  .485 (.490)  .254 (.252)
    whitened SVD    .870 (.985)  .870 (.934)  .829 (.892)  .558 (.597)  .101 (.125)  .100 (.124)
    SVD             .200 (.193)  .200 (.193)  .199 (.192)  .150 (.142)  .102 (.095)  .100 (.093)
    magnitude       .672 (.723)  .362 (.385)  .263 (.285)  .132 (.157)  .100 (.124)  .100 (.124)
    activity        .705 (.760)  .223 (.227)  .100 (.101)  .100 (.101)  .100 (.124)  .100 (.124)
    with a recovery on the same rows (version 0.1)
    compress        .872 (.998)  .872 (.994)  .872 (.989)  .870 (.985)  .866 (.968)  .854 (.944)
    refit           .872 (.995)  .872 (.983)  .870 (.979)  .865 (.963)  .852 (.930)  .819 (.874)
    ==============  ===========  ===========  ===========  ===========  ===========  ===========

The error that the evidence predicts is the one measured on test images times 1.0 to 1.3 for
``compress`` at all sizes, and for ``size`` 1.0 to 1.5 down to 2.5%, 1.6 and 1.8 below;
``errors.png`` draws it.
"""

from configs import fashion_mlp

SIZES = (0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005)
RIVALS = ("refit", "whitened_svd", "svd", "magnitude", "activity")
RECOVERED = (
    "compress_recovered",
    "refit_recovered",
    "whitened_svd_recovered",
    "magnitude_recovered",
)


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
