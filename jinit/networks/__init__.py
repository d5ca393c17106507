"""The networks that jinit simulates: descriptions, parameters, forward and backward, training."""

from jinit.networks.norms import NORMS, BatchStats, batch_norm, init_stats, layer_norm

__all__ = ["NORMS", "BatchStats", "batch_norm", "init_stats", "layer_norm"]
