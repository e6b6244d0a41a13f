"""A LLaMA decoder of 260,000 parameters that writes stories, and what others do with it.

    python -m experiments.main --config=configs/real_llama.py --workdir=runs/real_llama \
        --config.weights=FILE

``FILE`` is an npz of the weights of llama2.c's ``stories260k`` (MIT) by paths, ``embedding``,
``layer_0/query/kernel`` and so on. Its own texts of 128 tokens calibrate (three draws of 128) and
test (256). ``--config.rules_of=flops`` compares at equal operations,
``--sweep=calibration.rows=32,128,1000`` few rows. ``docs/real_networks.md`` has the tables.
"""

from configs.real_networks import real


def get_config():
    """Returns the config."""
    config = real("stories260k", (0.9, 0.8, 0.7, 0.6, 0.5), rows=128, batch=32)
    config.dataset.name = "stories"
    config.dataset.length = 128
    config.dataset.test_rows = 128
    config.dataset.weights = config.get_ref("weights")
    return config
