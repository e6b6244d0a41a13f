"""MNIST, 784-w-w-10: what proofs remove on the box [0, 1]^784, beside the table of 2020.

    python -m experiments.exact --config=configs/exact_mnist.py --workdir=runs/exact_mnist \
        --data_dir=DIR

trains as Serra, Kumar & Ramalingam did (arXiv 2001.00218): SGD at 0.01 with momentum 0.9,
halved every 30 of 120 epochs, with the sum of |w| over all kernels. All networks of a width
are trained at once. ``--config=configs/exact_mnist.py:stability`` and ``:polarised`` put a
second penalty beside L1, so that units removed can be compared at the same accuracy.
"""

from ml_collections import ConfigDict

CASES = {
    "none": tuple(
        (width, l1, 0.0)
        for width, strengths in (
            (25, (1e-3, 2e-4, 0.0)),
            (50, (1e-3, 2e-4, 0.0)),
            (100, (5e-4, 1e-4, 0.0)),
        )
        for l1 in strengths
    ),
    # Without L1 the intervals are so wide that the stability loss has no gradient.
    "stability": tuple((100, l1, extra) for l1 in (5e-4, 1e-4) for extra in (0.0, 0.01, 0.1)),
    "polarised": tuple((100, l1, extra) for l1 in (5e-4, 1e-4) for extra in (0.0, 0.03, 0.3)),
}
"""Width, strength of L1 and of the second penalty of the networks to train, by the latter."""


def get_config(penalty: str = "none"):
    """Returns the config; ``penalty`` is ``none``, ``stability`` or ``polarised``."""
    return ConfigDict(
        {
            "experiment": "removal",
            "dataset": {"name": "mnist", "seed": 0, "rows": 0, "drop": ()},
            "hidden_layers": 2,
            "cases": CASES[penalty],
            "seeds": 5,
            "time_limit": 120.0,
            "training": {
                "penalty": penalty,
                "learning_rate": 0.01,
                "momentum": 0.9,
                "batch": 64,
                "epochs": 120,
                "stages": 4,
                "seed": 0,
            },
        }
    )
