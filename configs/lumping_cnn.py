"""MNIST, the convolutional network of 2022: dependent units, their removal, kernels of few bits.

    python -m experiments.exact --config=configs/lumping_cnn.py --workdir=runs/lumping_cnn \
        --data_dir=DIR
"""

from ml_collections import ConfigDict


def get_config():
    """Returns the config."""
    return ConfigDict(
        {
            "experiment": "lumping",
            "dataset": {"name": "mnist", "seed": 0, "rows": 0, "drop": ()},
            "terms": (1, 2, 3, 4),
            "removed": (16, 32, 64, 96),
            "seeds": 3,
            "bits": (1, 2, 3, 4),
            "calibration_rows": 10_000,
            "training": {"learning_rate": 1e-3, "batch": 128, "epochs": 2, "seed": 0},
            "retraining": {"learning_rate": 1e-3, "batch": 128, "epochs": 2, "seed": 0},
        }
    )
