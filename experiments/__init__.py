"""Experiments by config: train or load a network, make it smaller, show what that did."""
