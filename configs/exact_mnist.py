"""MNIST, 784-w-w-10: what proofs remove on the box [0, 1]^784, beside the table of 2020.

    python -m experiments.main --config=configs/exact_mnist.py --workdir=runs/exact_mnist \
        --data_dir=DIR

trains as Serra, Kumar & Ramalingam did (arXiv 2001.00218): SGD at 0.01 with momentum 0.9,
halved every 30 of 120 epochs, with the sum of |w| over all kernels. All networks of a width
are trained at once. ``--config=configs/exact_mnist.py:stability`` and ``:polarised`` put a
second penalty beside L1, so that units removed can be compared at the same accuracy.

Measured with all 120 epochs and three seeds, ``--sweep=network.seed=0,1,2``, batches of 64, 54,000
training images, from other draws of the first weights; twenty minutes on two busy cores:

    width, L1    accuracy  2020: acc., units   units: their rules, ours   parameters: the same
    100, 5e-4      97.00%      97.14%  30.8%              27.0%   74.5%          34.4%   53.8%
    100, 1e-4      98.02%      98.14%  14.9%              14.3%   28.3%          19.2%   21.2%
     50, 1e-3      95.76%      96.05%  29.4%              26.0%   53.3%          29.6%   34.2%
     50, 2e-4      97.53%      97.81%  15.1%              14.3%   26.7%          19.0%   19.6%
     25, 1e-3      95.73%      95.76%    22%              20.0%   41.3%          25.5%   26.2%
     25, 2e-4      97.20%      97.24%   8.3%               6.0%    6.0%           3.0%    3.0%
    any, 0    96.48-97.97%                0%                 0%      0%             0%      0%

Shares removed; theirs are means of 31 networks. Every unit was decided, in 0.1 to 4 s a
network, every verdict verified, and every folded network gave all test images the class they
had before. A linear unit that stands for others counts against the units removed. In the table
``exact_2020`` folds by the rules of 2020 and ``exact`` by ours; ``widths.png`` has the units.

The second penalties, with half of the training and two seeds (``--sweep=network.seed=0,1
--config.training.epochs=60``), 100 units, at L1 5e-4 and 1e-4; units removed are ours:

    penalty               accuracy   units  parameters    accuracy   units  parameters
    none                    97.04%   65.8%       44.2%      97.99%    9.2%        9.0%
    stability, 0.01         97.02%   75.2%       46.6%      98.00%   18.2%       11.9%
    stability, 0.1          97.04%   77.0%       49.8%      98.00%   25.2%       17.7%
    polarised, 0.03         97.08%   74.8%       45.7%      98.05%   11.8%       10.1%
    polarised, 0.3          96.53%   85.8%       65.7%      97.66%   31.2%       14.8%

At the same accuracy the ReLU-stability loss removes most.
"""

from configs.common import base

WIDE = (100, 100)
CASES = {
    "none": tuple(
        ((width, width), l1, 0.0)
        for width, strengths in (
            (25, (1e-3, 2e-4, 0.0)),
            (50, (1e-3, 2e-4, 0.0)),
            (100, (5e-4, 1e-4, 0.0)),
        )
        for l1 in strengths
    ),
    # Without L1 the intervals are so wide that the stability loss has no gradient.
    "stability": tuple(
        ((100, 100), l1, extra) for l1 in (5e-4, 1e-4) for extra in (0.0, 0.01, 0.1)
    ),
    "polarised": tuple(
        ((100, 100), l1, extra) for l1 in (5e-4, 1e-4) for extra in (0.0, 0.03, 0.3)
    ),
}
"""Hidden widths, strengths of L1 and of the second penalty of what is trained, by the latter."""


def get_config(penalty: str = "none"):
    """Returns the config; ``penalty`` is ``none``, ``stability`` or ``polarised``."""
    config = base()
    config.dataset.name = "mnist"
    config.network.hidden = WIDE
    config.training = {
        "penalty": penalty,
        "l1": 0.0,
        "extra": 0.0,
        "optimiser": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "schedule": "halving",
        "stages": 4,
        "batch": 64,
        "epochs": 120,
        "patience": 0,  # the last parameters are taken
        "seed": 0,
    }
    config.rules = {"exact_2020": (1.0,), "exact": (1.0,)}
    config.box = "unit"
    config.certify_seconds = 120.0
    config.by = ("network.hidden", "training.l1", "training.extra")
    config.sweep = (("+".join(config.by), CASES[penalty]), ("network.seed", tuple(range(5))))
    return config
