"""Depth: what every layer of a network of given depth, norm and width does."""
