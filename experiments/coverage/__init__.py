"""How much of public architectures can be folded: `python -m experiments.coverage`."""
