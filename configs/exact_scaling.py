"""MNIST: time and verdicts of certificates from 2×100 to 2×400 and 5×100.

    python -m experiments.main --config=configs/exact_scaling.py --workdir=runs/exact_scaling \
        --data_dir=DIR

certifies lightly trained networks (2 epochs, L1 2e-4), verifies the certificates, and solves
the mixed-integer programs of 2020 by HiGHS for a minute (``linjax.certify(method="milp")``); the
ratio is their time for each unit behind the first layer, scaled from those that were decided,
over that of ``linjax.certify`` with compilation. ``--config=configs/exact_scaling.py:large``
adds 2×800; ``--config.training.epochs=0`` takes random weights.

Measured so far, on two busy cores: 2×100 in 2.2 s and 3×100 in 6.8 s, verified in 0.5 and
0.8 s, nothing undecided; a sample of programs, of 10 s at most each, was timed then: all met
that limit, so that the ratios, 468 and 296, are lower bounds. After so little training every unit
is unstable;
``--config.training.l1=5e-4 --config.training.epochs=30`` makes stable ones, which take proofs
instead of witnesses. The other shapes are still to be run.
"""

from configs import exact_mnist

SHAPES = ((100, 100), (200, 200), (400, 400), (100,) * 3, (100,) * 5)


def get_config(variant: str = "standard"):
    """Returns the config; ``variant`` is ``standard`` or ``large``."""
    config = exact_mnist.get_config()
    config.training.l1 = 2e-4
    config.training.epochs = 2
    config.training.stages = 1
    config.rules = {"exact": (1.0,)}
    config.certify_seconds = 300.0
    config.programs = True
    config.by = ("network.hidden",)
    shapes = (*SHAPES, (800, 800)) if variant == "large" else SHAPES
    config.sweep = (("network.hidden", shapes),)
    return config
