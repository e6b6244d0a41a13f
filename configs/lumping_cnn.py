"""MNIST, the convolutional network of 2022: dependent units, their removal, kernels of few bits.

    python -m experiments.sweep --config=configs/lumping_cnn.py --workdir=runs/lumping_cnn \
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
of parameters keeps the accuracy of every one of these networks to 0.02 points. The kernel of
128 units has rank 16, nine tenths of its energy in 14 directions; that of the first convolution
rank 9. With kernels of 1, 2, 3 and 4 bits the network has 66.7%, 76.8%, 95.9% and 97.7%, and no
two units of its dense layers are proportional: with 16 inputs and a bias even signs rarely
agree. In eight minutes on two busy cores.

``lump_2022`` in the table is what was published, ``size_of_2022`` the fold to its size;
``ranks.md`` has the ranks.
"""

from ml_collections import ConfigDict


def get_config():
    """Returns the config."""
    training = {
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "batch": 128,
        "epochs": 2,
        "patience": 0,
        "seed": 0,
    }
    return ConfigDict(
        {
            "study": "lumping",
            "dataset": {"name": "mnist", "seed": 0, "rows": 0, "drop": ()},
            "terms": (1, 2, 3, 4),
            "removed": (16, 32, 64, 96),
            "seeds": 3,
            "bits": (1, 2, 3, 4),
            "by": ("bits", "terms", "removed"),
            "calibration": {"rows": 10_000, "batch": 2000},
            "training": training,
            "retraining": dict(training),
        }
    )
