"""What others do, to compare with; each takes what :func:`linjax.fold` takes, or rows beside it."""

from linjax.baselines.factoring import energy_budgeted, error_bounded, whitened_svd
from linjax.baselines.merging import clustered
from linjax.baselines.modular import modular
from linjax.baselines.repair import recalibrated
from linjax.baselines.rounding import rounded, stored_bytes
from linjax.fold.rivals import (
    activity,
    magnitude,
    pruned_and_refitted,
    truncated,
    truncated_whitened,
)

__all__ = [
    "activity",
    "clustered",
    "energy_budgeted",
    "error_bounded",
    "magnitude",
    "modular",
    "pruned_and_refitted",
    "recalibrated",
    "rounded",
    "stored_bytes",
    "truncated",
    "truncated_whitened",
    "whitened_svd",
]
