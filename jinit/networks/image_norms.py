"""The norms of images, with one scale and one shift for each channel, and their table.

Images are `[channels, h, w, batch]` inside a network, and `[batch, h, w, channels]` where signals
are measured; `batch_axis` says what is not the channels'. Batch norm looks over batch and space
(Ioffe & Szegedy 2015, section 3.2), group norm over space and a group of channels of one sample
(Wu & He 2018, eq. 2), layer norm over space and all channels: a single group.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jinit.networks.norms import NORMS, Norm, batch_norm

_FIRST = (0, (0, 1, 2))  # where samples come first
IMAGE_NORMS: tuple[str | None, ...] = (None, "batch", "layer", "group")


def image_norm(name: str | None, groups: int) -> Norm:
    """The row of that name, as a network takes it; `groups` of group norm alone."""
    if name is None:
        return NORMS[None]
    if name == "batch":
        return Norm(_over_batch, _standardise_batch, over_batch=True)
    count = 1 if name == "layer" else groups
    return Norm(partial(_over_groups, count), partial(_standardise_groups, count))


def _flat(x: jax.Array, batch_axis: Any) -> tuple[jax.Array, int]:
    """As a matrix of channels and all the rest, and the axis of the rest."""
    if batch_axis in _FIRST:
        return x.reshape(-1, x.shape[-1]), 0
    return x.reshape(len(x), -1), 1


def _over_batch(
    x: jax.Array, stats: Any, gamma: Any, beta: Any, *, batch_axis: Any, **how: Any
) -> tuple[jax.Array, Any]:
    flat, axis = _flat(x, batch_axis)
    y, after = batch_norm(flat, stats, gamma, beta, batch_axis=axis, **how)
    return y.reshape(x.shape), after


def _standardise_batch(x: jax.Array, eps: Any, batch_axis: Any) -> jax.Array:
    flat, axis = _flat(x, batch_axis)
    standardise = NORMS["batch"].standardise
    assert standardise is not None
    return standardise(flat, eps, axis).reshape(x.shape)


def _over_groups(
    count: int, x: jax.Array, stats: Any, gamma: Any, beta: Any,
    *, train: bool, momentum: float, eps: float, batch_axis: Any,
) -> tuple[jax.Array, Any]:  # fmt: skip
    wide = jnp.promote_types(x.dtype, jnp.float32)
    standard = _standardise_groups(count, x.astype(wide), eps, batch_axis)
    around = tuple(range(x.ndim - 1)) if batch_axis in _FIRST else tuple(range(1, x.ndim))
    gamma, beta = (jnp.expand_dims(a.astype(wide), around) for a in (gamma, beta))
    return (gamma * standard + beta).astype(x.dtype), stats


def _standardise_groups(count: int, x: jax.Array, eps: Any, batch_axis: Any) -> jax.Array:
    if batch_axis in _FIRST:
        batch, high, wide, channels = x.shape
        grouped, over = x.reshape(batch, high, wide, count, channels // count), (1, 2, 4)
    else:
        channels, high, wide, batch = x.shape
        grouped, over = x.reshape(count, channels // count, high, wide, batch), (1, 2, 3)
    centred = grouped - jnp.mean(grouped, over, keepdims=True)
    var = jnp.mean(jnp.square(centred), over, keepdims=True)
    return (centred / jnp.sqrt(var + eps)).reshape(x.shape)
