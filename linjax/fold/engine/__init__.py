"""One fold engine: what dimensions of a network can be narrowed to, at what price, and how."""
