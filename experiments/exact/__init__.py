"""Exact rewriting, measured: how much of a trained network is provably superfluous."""
