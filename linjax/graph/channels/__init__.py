"""Channels: the units of convolutions, from the trace to their execution."""
