"""The norms between a layer's linear map and its activation, as pure functions, and their table.

Batch norm follows Ioffe & Szegedy 2015: in training (algorithm 1) each unit is normalised by the
batch's mean and *biased* variance, and the gradient flows through both; for evaluation (algorithm
2) a running mean and a running *unbiased* variance are used. `docs/batch-norm.md` sets these
conventions beside those of PyTorch and Flax.
"""

from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jinit import checks


class BatchStats(NamedTuple):
    """Running statistics for evaluation: `mean` [features], unbiased variance `var` [features]."""

    mean: Float[Array, "*layers features"]
    var: Float[Array, "*layers features"]


def init_stats(shape: tuple[int, ...], dtype: Any = jnp.float32) -> BatchStats:
    """Mean 0 and variance 1, before any batch was seen; shape [*layers, features].

    Of narrower dtypes in float32, as a running mean of a bfloat16 stalls: what a batch adds to it
    is soon less than half of its last digit.
    """
    wide = _wide(checks.dtype("dtype", dtype))
    if not isinstance(shape, tuple | list):
        raise TypeError(f"shape must list the axes, as in (64,), got {checks.shown(shape)}.")
    shape = tuple(checks.count("every axis of shape", n, least=0) for n in shape)
    return BatchStats(jnp.zeros(shape, wide), jnp.ones(shape, wide))


def _wide(dtype: Any) -> Any:
    """In which statistics of such numbers are computed and kept."""
    return np.promote_types(dtype, np.float32)


def batch_norm(
    x: Float[Array, "*axes"],
    stats: BatchStats,
    gamma: Float[Array, " features"],
    beta: Float[Array, " features"],
    *,
    train: bool,
    momentum: float = 0.9,
    eps: float = 1e-5,
    batch_axis: int | tuple[int, ...] = 0,
) -> tuple[Float[Array, "*axes"], BatchStats]:
    """Normalise every unit over the batch: `gamma (x - mean) / sqrt(var + eps) + beta`.

    Args:
        x: pre-activations [batch, features]; [features, batch] with `batch_axis=1`; images
            [batch, height, width, features] with `batch_axis=(0, 1, 2)`. bfloat16 and float16 are
            normalised in float32.
        stats: running statistics, used when `train` is False, else updated.
        gamma: scale.
        beta: shift.
        train: batch statistics (and new running ones) or running statistics.
        momentum: `running = momentum * running + (1 - momentum) * batch`.
        eps: added to the variance.
        batch_axis: over what is normalised: every axis but that of the units.

    Returns:
        The normalised pre-activations, of x's dtype, and the (updated) statistics, of float32 at
        least.

    Raises:
        ValueError: a training batch of one, whose variance says nothing; axes that leave more than
            one, or none; statistics or parameters of other units.

    Source: Ioffe & Szegedy 2015, algorithms 1 and 2.
    """
    checks.flag("train", train)
    checks.number("momentum", momentum, least=0)
    if not isinstance(stats, BatchStats):
        raise TypeError(
            f"stats must be a jinit.networks.BatchStats(mean, var), as init_stats makes it, got "
            f"{checks.shown(stats)}."
        )
    x, axes, own = _over(x, batch_axis, eps)
    gamma, beta, mean, var = _units(x.shape[own], gamma=gamma, beta=beta, mean=stats.mean,
                                    var=stats.var)  # fmt: skip
    along = partial(jnp.expand_dims, axis=axes)
    wide = _wide(x.dtype)
    u, gamma, beta, mean, var = (a.astype(wide) for a in (x, gamma, beta, mean, var))
    if not train:
        standard = (u - along(mean)) / jnp.sqrt(along(var) + eps)
        return (along(gamma) * standard + along(beta)).astype(x.dtype), stats
    batch = x.size // x.shape[own]
    check_batch("batch", batch, train)
    y, batch_mean, biased = _normalise(u, gamma, beta, eps, axes)
    unbiased = biased * (batch / (batch - 1))
    return y.astype(x.dtype), BatchStats(
        momentum * mean + (1 - momentum) * jax.lax.stop_gradient(batch_mean),
        momentum * var + (1 - momentum) * jax.lax.stop_gradient(unbiased),
    )


def _over(
    x: Any, batch_axis: int | tuple[int, ...], eps: Any
) -> tuple[jax.Array, tuple[int, ...], int]:
    """What is normalised, the axes over which, and the one that is left."""
    checks.number("eps", eps, least=0)
    checks.numeric("x", x)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    given = batch_axis if isinstance(batch_axis, tuple) else (batch_axis,)
    if any(isinstance(a, bool) or not isinstance(a, Integral) for a in given):
        raise TypeError(
            f"batch_axis must be an axis, or a tuple of axes, got {checks.shown(batch_axis)}."
        )
    axes = tuple(sorted({a + x.ndim if a < 0 else a for a in given}))
    left = [a for a in range(x.ndim) if a not in axes]
    if len(left) != 1 or len(axes) != len(given) or len(axes) + 1 != x.ndim:
        every = tuple(range(x.ndim - 1))
        raise ValueError(
            f"batch_axis must name every axis of x but that of its units, got {batch_axis!r} for "
            f"the shape {list(x.shape)}; for units on the last axis it is batch_axis={every}."
        )
    return x, axes, left[0]


def _units(units: int, **arrays: Any) -> list[jax.Array]:
    """Arrays of one number for each unit."""
    for name, array in arrays.items():
        checks.numeric(name, array)
        if np.shape(array) != (units,):
            raise ValueError(
                f"{name} must hold one number for each of the {units} units, got the shape "
                f"{list(np.shape(array))}."
            )
    return [jnp.asarray(array) for array in arrays.values()]


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
        x: pre-activations [batch, features]; [features, batch] with `batch_axis=1`. bfloat16 and
            float16 are normalised in float32.
        gamma: scale.
        beta: shift.
        eps: added to the variance.
        batch_axis: 0, or 1 where samples are columns.
    """
    checks.choice("batch_axis", batch_axis, [0, 1])
    x, (batch_axis,), own = _over(x, batch_axis, eps)
    gamma, beta = _units(x.shape[own], gamma=gamma, beta=beta)
    along = partial(jnp.expand_dims, axis=batch_axis)
    wide = _wide(x.dtype)
    u, gamma, beta = (a.astype(wide) for a in (x, gamma, beta))
    return (along(gamma) * _standardise(u, eps, own)[0] + along(beta)).astype(x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normalise(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, eps: float, axis: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(y, mean, var) of a training batch, differentiated by a rule that passes over it less."""
    standard, _, mean, var = _standardise(x, eps, axis)
    along = partial(jnp.expand_dims, axis=axis)
    return along(gamma) * standard + along(beta), mean, var


@_normalise.defjvp
def _normalise_jvp(eps: float, axis: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    """Algorithm 1's derivative, with u the standardised x and s = gamma / sqrt(var + eps).

    dy = s dx + (dbeta - s mean(dx)) + u (dgamma - s mean(u dx)). The factor s stands outside the
    means, and what is a number for each unit is added up before it is spread over the batch: so the
    transposed rule needs two sums over the batch, sum(g) and sum(u g), which are the gradients of
    beta and gamma as well, where automatic differentiation of the forward pass makes five.
    """
    x, gamma, beta = primals
    dx, dgamma, dbeta = tangents
    standard, inverse, mean, var = _standardise(x, eps, axis)
    along = partial(jnp.expand_dims, axis=axis)
    slope = gamma * inverse
    dmean, dscale = jnp.mean(dx, axis), jnp.mean(standard * dx, axis)
    shift, scale = along(dbeta - slope * dmean), along(dgamma - slope * dscale)
    dy = along(slope) * dx + shift + standard * scale
    dvar = 2 * dscale / inverse
    return (along(gamma) * standard + along(beta), mean, var), (dy, dmean, dvar)


def _standardise(
    x: jax.Array, eps: float | jax.Array, axis: int | tuple[int, ...]
) -> tuple[jax.Array, ...]:
    """`(x - mean) / sqrt(var + eps)`, `1 / sqrt(var + eps)`, mean and biased variance."""
    mean = jnp.mean(x, axis)
    centred = x - jnp.expand_dims(mean, axis)
    var = jnp.mean(jnp.square(centred), axis)
    inverse = 1 / jnp.sqrt(var + eps)
    return centred * jnp.expand_dims(inverse, axis), inverse, mean, var


class Norm(NamedTuple):
    """What the networks need to know of a norm.

    `apply` takes and returns what `batch_norm` does; a norm without statistics passes None on.
    `standardise(x, eps, batch_axis)` is what it does in training before scale and shift, for an eps
    that may be traced; None: no norm, no scale, no shift. `over_batch`: its training looks at all
    samples, and needs two; its evaluation uses running statistics.
    """

    apply: Callable[..., tuple[Any, Any]]
    standardise: Callable[[jax.Array, Any, int], jax.Array] | None
    over_batch: bool = False


NORMS: dict[str | None, Norm] = {
    None: Norm(lambda x, stats, gamma, beta, **_: (x, stats), None),
    "batch": Norm(batch_norm, lambda x, eps, axis: _standardise(x, eps, axis)[0], over_batch=True),
    "layer": Norm(
        lambda x, stats, *affine, train, momentum, **at: (layer_norm(x, *affine, **at), stats),
        lambda x, eps, axis: _standardise(x, eps, 1 - axis)[0],
    ),
}


def check_batch(norm: str | None, batch: int, train: bool) -> None:
    """Refuse to train with a batch that norm cannot normalise."""
    if train and NORMS[norm].over_batch and batch < 2:
        raise ValueError(
            f"{norm} norm in training needs a batch of at least 2 samples, got {batch}; "
            f"use a larger batch or train=False."
        )
