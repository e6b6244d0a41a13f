"""MNIST: linjax and its rivals at the same sizes; the training seed follows the colon.

    python -m experiments.main --config=configs/quality_mnist.py:0 --workdir=runs/quality_mnist_0 \
        --data_dir=DIR

The methods are those of ``quality_fashion``, the network has the same shape.

Measured for seeds 0 and 1 (97.75 and 97.53% right), test accuracy in percent:

    =================  ===========  ===========  ===========  ===========  ===========
    share              25%          10%          5%           2.5%         1%
    =================  ===========  ===========  ===========  ===========  ===========
    compress           97.7, 97.6   97.7, 97.5   97.6, 97.6   97.6, 97.5   97.2, 97.2
    size               97.7, 97.6   97.7, 97.5   97.6, 97.4   97.4, 97.1   95.8, 95.5
    refit              97.3, 97.4   96.7, 96.8   95.3, 95.7   92.3, 92.3   72.2, 65.1
    with a recovery on the same rows
    compress           97.7, 97.6   97.7, 97.5   97.7, 97.6   97.7, 97.5   97.4, 97.0
    refit              97.7, 97.6   97.6, 97.4   97.4, 97.3   97.1, 97.0   95.8, 95.5
    =================  ===========  ===========  ===========  ===========  ===========
"""

from configs import mnist_mlp
from configs.quality_fashion import compare


def get_config(seed: str = "0"):
    """Returns the config of a training seed."""
    config = compare(mnist_mlp.get_config("adam"))
    config.network.seed = config.training.seed = int(seed)
    return config
