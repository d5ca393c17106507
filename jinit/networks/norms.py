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

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jinit import checks

__all__ = ["BatchStats", "batch_norm", "init_stats", "layer_norm"]


class BatchStats(NamedTuple):
    """Running statistics for evaluation: `mean` [features], unbiased variance `var` [features]."""

    mean: Float[Array, "*layers features"]
    var: Float[Array, "*layers features"]


def init_stats(shape: tuple[int, ...], dtype: Any = jnp.float32) -> BatchStats:
    """Mean 0 and variance 1, before any batch was seen; shape [*layers, features]."""
    return BatchStats(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def batch_norm(
    x: Float[Array, "rows columns"],
    stats: BatchStats,
    gamma: Float[Array, " features"],
    beta: Float[Array, " features"],
    *,
    train: bool,
    momentum: float = 0.9,
    eps: float = 1e-5,
    batch_axis: int = 0,
) -> tuple[Float[Array, "rows columns"], BatchStats]:
    """Normalise every unit over the batch: `gamma (x - mean) / sqrt(var + eps) + beta`.

    Args:
        x: pre-activations [batch, features]; [features, batch] with `batch_axis=1`.
        stats: running statistics, used when `train` is False, else updated.
        gamma: scale.
        beta: shift.
        train: batch statistics (and new running ones) or running statistics.
        momentum: `running = momentum * running + (1 - momentum) * batch`.
        eps: added to the variance.
        batch_axis: 0, or 1 where samples are columns.

    Returns:
        The normalised pre-activations and the (updated) statistics.

    Raises:
        ValueError: a training batch of one, whose variance says nothing.

    Source: Ioffe & Szegedy 2015, algorithms 1 and 2.
    """
    checks.choice("batch_axis", batch_axis, [0, 1])

    def along(vector: jax.Array) -> jax.Array:
        return jnp.expand_dims(vector, batch_axis)

    if not train:
        standard = (x - along(stats.mean)) / jnp.sqrt(along(stats.var) + eps)
        return along(gamma) * standard + along(beta), stats
    batch = x.shape[batch_axis]
    if batch < 2:
        raise ValueError(
            f"batch norm in training needs a batch of at least 2 samples, got {batch}; "
            f"use a larger batch or train=False."
        )
    y, mean, var = _normalise(x, gamma, beta, eps, batch_axis)
    unbiased = var * (batch / (batch - 1))
    return y, BatchStats(
        momentum * stats.mean + (1 - momentum) * jax.lax.stop_gradient(mean),
        momentum * stats.var + (1 - momentum) * jax.lax.stop_gradient(unbiased),
    )


def layer_norm(
    x: Float[Array, "rows columns"],
    gamma: Float[Array, " features"],
    beta: Float[Array, " features"],
    *,
    eps: float = 1e-5,
    batch_axis: int = 0,
) -> Float[Array, "rows columns"]:
    """Normalise every sample over its units (Ba, Kiros & Hinton 2016, eq. 4).

    Args:
        x: pre-activations [batch, features]; [features, batch] with `batch_axis=1`.
        gamma: scale.
        beta: shift.
        eps: added to the variance.
        batch_axis: 0, or 1 where samples are columns.
    """
    checks.choice("batch_axis", batch_axis, [0, 1])
    features = 1 - batch_axis
    mean = jnp.mean(x, axis=features, keepdims=True)
    var = jnp.var(x, axis=features, keepdims=True)
    standard = (x - mean) / jnp.sqrt(var + eps)
    return jnp.expand_dims(gamma, batch_axis) * standard + jnp.expand_dims(beta, batch_axis)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normalise(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, eps: float, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(y, mean, var) of a training batch, differentiated by a rule that passes over it less."""
    standard, _, mean, var = _standardise(x, eps, axis)
    along = partial(jnp.expand_dims, axis=axis)
    return along(gamma) * standard + along(beta), mean, var


@_normalise.defjvp
def _normalise_jvp(eps: float, axis: int, primals: Any, tangents: Any) -> Any:
    """Algorithm 1's derivative, with u the standardised x and s = gamma / sqrt(var + eps).

    dy = s dx - s mean(dx) - u s mean(u dx) + u dgamma + dbeta. The factor s stands outside the
    means, so that the transposed rule needs two sums over the batch, sum(g) and sum(u g), which are
    the gradients of beta and gamma as well; automatic differentiation of the forward pass makes
    five. Measured at [64, 128]: a training step of a net of 100 such layers in 0.77 of its time.
    """
    x, gamma, beta = primals
    dx, dgamma, dbeta = tangents
    standard, inverse, mean, var = _standardise(x, eps, axis)
    along = partial(jnp.expand_dims, axis=axis)
    slope = gamma * inverse
    dmean, dscale = jnp.mean(dx, axis), jnp.mean(standard * dx, axis)
    dy = (
        along(slope) * dx
        - along(slope * dmean)
        - standard * along(slope * dscale)
        + standard * along(dgamma)
        + along(dbeta)
    )
    dvar = 2 * dscale / inverse
    y = along(gamma) * standard + along(beta)
    return (y, mean, var), (dy, dmean, dvar)


def _standardise(x: jax.Array, eps: float, axis: int) -> tuple[jax.Array, ...]:
    """`(x - mean) / sqrt(var + eps)`, `1 / sqrt(var + eps)`, mean and biased variance."""
    mean = jnp.mean(x, axis)
    centred = x - jnp.expand_dims(mean, axis)
    var = jnp.mean(jnp.square(centred), axis)
    inverse = 1 / jnp.sqrt(var + eps)
    return centred * jnp.expand_dims(inverse, axis), inverse, mean, var
