"""A decoder of 1.0 billion random parameters, folded within 16 GB of memory on a CPU.

    python -m experiments.large --config=configs/large_decoder.py --workdir=runs/large

``:small`` is one of 100 million, ``:toy`` one of 1 million: a test of the way there.
``docs/scaling.md`` has what it took.
"""

from ml_collections import ConfigDict

SIZES = {
    "": {"width": 2048, "layers": 41, "heads": 32, "head": 64, "hidden": 1024, "vocabulary": 32000},
    "small": {"width": 768, "layers": 20, "heads": 12, "head": 64, "hidden": 768,
              "vocabulary": 16384},
    "toy": {"width": 128, "layers": 6, "heads": 4, "head": 32, "hidden": 256, "vocabulary": 512},
}  # fmt: skip


def get_config(size: str = "") -> ConfigDict:
    """Returns the config.

    Args:
      size: of the decoder.
    """
    return ConfigDict({
        **SIZES[size],
        "seed": 0,
        "length": 32,  # tokens of a sequence
        "sequences": 192,
        "batch": 16,  # sequences
        "share": 0.9,  # of the parameters that stay
        "memory": 16.0,  # gigabytes that the process may take in all
        "evidence": {"": 0.8, "small": 0.1, "toy": 0.002}[size],  # that moments may take in a pass
    })  # fmt: skip
