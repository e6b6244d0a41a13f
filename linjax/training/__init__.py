"""Folding inside a training loop."""
