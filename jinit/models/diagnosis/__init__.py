"""Where the signal of a model dies, measured."""
