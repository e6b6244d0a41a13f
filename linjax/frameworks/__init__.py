"""Networks of Flax NNX in and out; every other framework comes as a function."""
