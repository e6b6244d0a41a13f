"""Folding a decoder whose evidence doesn't fit the memory."""
