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
    compress        .872 (.998)  .872 (.994)  .871 (.988)  .870 (.984)  .862 (.963)  .853 (.936)
    size            .872 (.998)  .871 (.993)  .870 (.987)  .864 (.972)  .843 (.918)  .805 (.868)
    refit           .872 (.992)  .870 (.972)  .863 (.944)  .819 (.877)  .494 (.505)  .262 (.256)
    whitened SVD    .869 (.979)  .835 (.914)  .781 (.835)  .470 (.473)  .100 (.101)  .100 (.101)
    SVD             .200 (.193)  .200 (.193)  .199 (.192)  .150 (.142)  .102 (.095)  .100 (.093)
    magnitude       .672 (.723)  .362 (.385)  .263 (.285)  .132 (.157)  .100 (.124)  .100 (.124)
    activity        .705 (.760)  .223 (.223)  .100 (.101)  .100 (.101)  .100 (.124)  .100 (.124)
    with a recovery on the same rows
    compress        .872 (.998)  .872 (.994)  .872 (.989)  .870 (.985)  .866 (.968)  .854 (.944)
    refit           .872 (.995)  .872 (.983)  .870 (.979)  .865 (.963)  .852 (.930)  .819 (.874)
    ==============  ===========  ===========  ===========  ===========  ===========  ===========

The error that the evidence predicts tracks the one measured on test images, 1.2 to 2.4 times as
large for ``size`` and 1.1 to 1.7 times for ``compress`` from 50% to 0.5%, over two and a half
decades (correlation of the logarithms above 0.99); ``errors.png`` draws it.
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
