"""Data sets as arrays: ``load`` finds one by its config."""

from experiments.data.dataset import Dataset, MissingData, Split, batches
from experiments.data.loading import load

__all__ = ["Dataset", "MissingData", "Split", "batches", "load"]
