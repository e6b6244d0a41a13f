"""MNIST: linjax and its rivals at the same sizes; the training seed follows the colon.

    python -m experiments.main --config=configs/quality_mnist.py:0 --workdir=runs/quality_mnist_0 \
        --data_dir=DIR

The methods are those of ``quality_fashion``, the network has the same shape.
"""

from configs import mnist_mlp
from configs.quality_fashion import compare


def get_config(seed: str = "0"):
    """Returns the config of a training seed."""
    config = compare(mnist_mlp.get_config("adam"))
    config.network.seed = config.training.seed = int(seed)
    return config
