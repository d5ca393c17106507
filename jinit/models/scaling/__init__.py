"""Widths and depths: what keeps learning rates while a model grows."""
