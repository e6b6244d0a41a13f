"""A traced function as a flat list of operations."""
