"""MNIST: linjax and its rivals at the same sizes; the training seed follows the colon.

    python -m experiments.main --config=configs/quality_mnist.py:0 --workdir=runs/quality_mnist_0 \
        --data_dir=DIR

The methods are those of ``quality_fashion``, the network has the same shape.

Measured for seed 0 (97.75% right), without retraining, test accuracy at 25, 10, 5, 2.5 and 1%:
``size`` .977, .976, .975, .973, .959; ``compress`` .976, .975, .970 at 10, 2.5 and 1%; pruning
with refit .973, .967, .953, .923, .722.
"""

from configs import mnist_mlp
from configs.quality_fashion import compare


def get_config(seed: str = "0"):
    """Returns the config of a training seed."""
    config = compare(mnist_mlp.get_config("adam"))
    config.network.seed = config.training.seed = int(seed)
    return config
