"""Singular values: of the Jacobian of a deep network, and of deep linear nets."""
