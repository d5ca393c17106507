"""The networks that jinit simulates: descriptions, parameters, forward and backward, training."""

from jinit.networks.norms import BatchStats, batch_norm, init_stats, layer_norm

__all__ = ["BatchStats", "batch_norm", "init_stats", "layer_norm"]
