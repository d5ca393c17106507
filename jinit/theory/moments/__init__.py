"""Gaussian expectations of any activation, in float64."""
