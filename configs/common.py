"""What the configs share; each says what it does differently."""

from ml_collections import ConfigDict

OTHERS = ("refit", "whitened_svd", "svd", "magnitude", "activity", "compress_recovered")


def base() -> ConfigDict:
    """Returns the fields that every config has."""
    return ConfigDict(
        {
            "dataset": {"name": "digits", "seed": 0, "rows": 0, "drop": ()},
            "network": {"kind": "mlp", "hidden": (128,), "activation": "relu", "seed": 0},
            "weights": "",  # an npz file with kernel_i and bias_i: taken instead of training
            "training": {
                "optimiser": "adam",
                "learning_rate": 1e-3,
                "momentum": 0.9,
                "batch": 32,
                "epochs": 20,
                "patience": 3,
                "seed": 0,
            },
            "calibration": {"rows": 10_000, "batch": 1000},
            "rules": {
                "threshold": tuple(i / 20 for i in range(19, -1, -1)),
                "published_size": (0.75, 0.5, 0.25),
                "tolerance": (),
                "size": (0.5, 0.25, 0.1, 0.05, 0.025, 0.01),
                "compress": (0.25, 0.1, 0.05, 0.025, 0.01),
                **dict.fromkeys(OTHERS, ()),
            },
        }
    )
