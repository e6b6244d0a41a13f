"""MNIST, the convolutional network of 2022: dependent units, their removal, kernels of few bits.

    python -m experiments.main --config=configs/lumping_cnn.py --workdir=runs/lumping_cnn \
        --data_dir=DIR

The network of Ressi et al. (2022): two convolutions of 32 channels with max pooling, dense 16,
128, 10, trained for two epochs to 98.3%. Units of the layer of 128 are overwritten by positive
combinations of 1 to 4 others and frozen, the dense layers are trained on for two epochs (the
convolutions stay as they are), and the dependent units go, as if ``σ(Σ ρ_i z_i)`` were
``Σ ρ_i σ(z_i)``. Accuracy, means of three networks, as trained and without the units:

    removed of 128      multiples     combinations of 2   of 3             of 4
    16               98.28%, 98.28%    98.25%, 97.83%   98.25%, 97.01%   98.29%, 95.32%
    32               98.31%, 98.31%    98.34%, 97.15%   98.26%, 95.04%   98.11%, 82.39%
    64               98.33%, 98.33%    98.19%, 94.58%   98.16%, 71.31%   98.02%, 48.78%
    96               98.00%, 98.00%    98.14%, 85.26%   97.81%, 49.49%   97.77%, 35.95%

``linjax.lump`` removes all the multiples, and nothing else; ``linjax.fold`` to the same number
of parameters keeps the accuracy of every one of these networks to 0.02 points. With kernels of 1,
2, 3 and 4 bits the network has 66.7%, 76.8%, 95.9% and 97.7%, and no two units of its dense
layers are proportional: with 16 inputs and a bias even signs rarely agree.

``planted_2`` in the table are networks with combinations of two, ``lumped_2022_2`` what was
published, ``size_of_2022_2`` the fold to its size, ``planted_2_lumped`` what is proven;
``quantised`` has kernels of few bits.
"""

from configs.common import base

REMOVED, BITS = (16, 32, 64, 96), (1, 2, 3, 4)


def get_config():
    """Returns the config."""
    config = base()
    config.dataset.name = "mnist"
    config.network = {"kind": "lumping", "seed": 0}
    config.training.update({"batch": 128, "epochs": 2, "patience": 0})
    config.retraining = config.training.to_dict()
    config.planting = {"seed": 0}
    config.calibration.batch = 2000
    config.rules = dict.fromkeys(("quantised", "quantised_lumped"), BITS)
    for terms in (1, 2, 3, 4):
        for rule in ("planted_{}", "lumped_2022_{}", "size_of_2022_{}", "planted_{}_lumped"):
            config.rules[rule.format(terms)] = REMOVED
    config.sweep = (("planting.seed", (0, 1, 2)),)
    return config
