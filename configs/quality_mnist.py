"""MNIST: linjax and its rivals at the same sizes; the training seed follows the colon.

    python -m experiments.main --config=configs/quality_mnist.py:0 --workdir=runs/quality_mnist_0 \
        --data_dir=DIR

The methods are those of ``quality_fashion``, the network has the same shape.

Measured for seed 0 (97.75% right), test accuracy at 25, 10, 5, 2.5 and 1%: ``size`` .977, .977,
.976, .974, .958; ``compress`` .977, .977, .976, .976, .972; pruning with refit .973, .967, .953,
.923, .722. With a recovery on the same rows ``compress`` .977, .977, .977, .977, .974, pruning with
refit .977, .976, .974, .971, .958. Seed 1 without recovery: ``size`` .971 and .955, pruning with
refit .968 at 10%, ``compress`` .976, .975 and .976 at 25, 10 and 5%.
"""

from configs import mnist_mlp
from configs.quality_fashion import compare


def get_config(seed: str = "0"):
    """Returns the config of a training seed."""
    config = compare(mnist_mlp.get_config("adam"))
    config.network.seed = config.training.seed = int(seed)
    return config
