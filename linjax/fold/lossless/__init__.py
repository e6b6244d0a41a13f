"""Exact folds: by bounds on a box, by proportional weights everywhere."""
