"""Folding in the order of execution, on what the folded network computes itself."""
