"""What others do, to compare with, at the sizes of :func:`linjax.fold` and on its evidence."""

from linjax.baselines.factoring import (
    energy_budgeted,
    error_bounded,
    truncated,
    truncated_whitened,
)
from linjax.baselines.merging import clustered
from linjax.baselines.modular import modular
from linjax.baselines.pruning import activity, magnitude, pruned_and_refitted
from linjax.baselines.repair import recalibrated
from linjax.baselines.replacing import replaced
from linjax.baselines.rounding import rounded, stored_bytes
from linjax.baselines.slicing import sliced

__all__ = [
    "activity",
    "clustered",
    "energy_budgeted",
    "error_bounded",
    "magnitude",
    "modular",
    "pruned_and_refitted",
    "recalibrated",
    "replaced",
    "rounded",
    "sliced",
    "stored_bytes",
    "truncated",
    "truncated_whitened",
]
