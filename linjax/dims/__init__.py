"""Dimensions: which axes of a network's values travel together, and what folds along them."""
