"""Batch and layer normalisation as pure functions.

Batch norm follows Ioffe & Szegedy 2015: in training (algorithm 1) each unit is normalised by the
batch's mean and *biased* variance, and the gradient flows through both; for evaluation (algorithm
2) a running mean and a running *unbiased* variance are used.

| | jinit | PyTorch `BatchNorm1d` | Flax `nn.BatchNorm` |
|---|---|---|---|
| normalises by | biased batch variance | biased batch variance | biased batch variance |
| keeps for evaluation | unbiased | unbiased | biased |
| `running =` | `m * running + (1 - m) * batch` | `(1 - m) * running + m * batch` | as jinit |
| default momentum `m` | 0.9 | 0.1 (the same thing) | 0.99 |
| eps | 1e-5 | 1e-5 | 1e-5 |
| variance computed as | mean of (x - mean)² | Welford's | E[x²] - E[x]² by default |
| a batch of one in training | error | error | divides by √eps |
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["BatchStats", "batch_norm", "init_stats", "layer_norm"]


class BatchStats(NamedTuple):
    """Running statistics for evaluation: `mean` [features], unbiased variance `var` [features]."""

    mean: Float[Array, "*layers features"]
    var: Float[Array, "*layers features"]


def init_stats(shape: tuple[int, ...], dtype: Any = jnp.float32) -> BatchStats:
    """Mean 0 and variance 1, before any batch was seen; shape [*layers, features]."""
    return BatchStats(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def batch_norm(
    x: Float[Array, "batch features"],
    stats: BatchStats,
    gamma: Float[Array, " features"],
    beta: Float[Array, " features"],
    *,
    train: bool,
    momentum: float = 0.9,
    eps: float = 1e-5,
) -> tuple[Float[Array, "batch features"], BatchStats]:
    """Normalise every unit over the batch: `gamma (x - mean) / sqrt(var + eps) + beta`.

    Args:
        x: pre-activations.
        stats: running statistics, used when `train` is False, else updated.
        gamma: scale.
        beta: shift.
        train: batch statistics (and new running ones) or running statistics.
        momentum: `running = momentum * running + (1 - momentum) * batch`.
        eps: added to the variance.

    Returns:
        The normalised pre-activations and the (updated) statistics.

    Raises:
        ValueError: a training batch of one, whose variance says nothing.

    Source: Ioffe & Szegedy 2015, algorithms 1 and 2.
    """
    if not train:
        return _affine(x - stats.mean[None], stats.var[None], gamma, beta, eps), stats
    batch = x.shape[0]
    if batch < 2:
        raise ValueError(
            f"batch norm in training needs a batch of at least 2 samples, got {batch}; "
            f"use a larger batch or train=False."
        )
    mean, var = jnp.mean(x, axis=0), jnp.var(x, axis=0)
    y = _affine(x - mean[None], var[None], gamma, beta, eps)
    unbiased = var * (batch / (batch - 1))
    return y, BatchStats(
        momentum * stats.mean + (1 - momentum) * jax.lax.stop_gradient(mean),
        momentum * stats.var + (1 - momentum) * jax.lax.stop_gradient(unbiased),
    )


def layer_norm(
    x: Float[Array, "batch features"],
    gamma: Float[Array, " features"],
    beta: Float[Array, " features"],
    *,
    eps: float = 1e-5,
) -> Float[Array, "batch features"]:
    """Normalise every sample over its units (Ba, Kiros & Hinton 2016, eq. 4)."""
    mean = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.var(x, axis=-1, keepdims=True)
    return _affine(x - mean, var, gamma, beta, eps)


def _affine(
    centred: jax.Array, var: jax.Array, gamma: jax.Array, beta: jax.Array, eps: float
) -> jax.Array:
    return gamma[None] * (centred / jnp.sqrt(var + eps)) + beta[None]
