"""Chains of dense layers: a view of a network's sites, for what is algebra of plain chains."""
