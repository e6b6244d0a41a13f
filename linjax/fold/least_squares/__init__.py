"""Folding by least squares: selection, linear units, refits and budgets."""
