"""Losses by name, and the accuracy of a batch of outputs `[batch, ..., classes]`.

Outputs `[batch]` are those of one class.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jinit import checks
from jinit.networks.base import Loss


def _cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy; outputs [batch, ..., classes], y [batch, ...] integers."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, y))


def _binary_cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Mean sigmoid cross-entropy; outputs [batch, ..., 1], y [batch, ...] of 0 and 1."""
    targets = y.reshape(outputs.shape).astype(outputs.dtype)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(outputs, targets))


def _squared_error(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Mean of half the squared distance; y floats like the outputs, or [batch, ...] labels."""
    rows, classes = _split(outputs.shape)
    if jnp.issubdtype(y.dtype, jnp.integer) and y.shape == rows and classes > 1:
        y = jax.nn.one_hot(y, classes, dtype=outputs.dtype)
    outputs = outputs.reshape(*rows, classes)
    targets = y.reshape(outputs.shape).astype(outputs.dtype)
    return jnp.mean(jnp.sum(optax.l2_loss(outputs, targets), axis=-1))


def _mse(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared error, over all entries: PyTorch's and Keras'."""
    return _squared_error(outputs, y) * (2 / _split(outputs.shape)[1])


LOSSES: dict[str, Loss] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "squared_error": _squared_error,
    "mse": _mse,
}
_DISTANCES = ("squared_error", "mse")


def _split(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The shape of labels, and the number of classes, of outputs of that shape."""
    return (shape[:-1], shape[-1]) if len(shape) > 1 else (shape, 1)


def loss_function(loss: str | Loss | None, y: jax.Array, shape: tuple[int, ...]) -> Loss:
    """The loss of that name, a callable as it is, or the one that fits the labels.

    None means: squared error for float targets, binary cross-entropy for integer labels and one
    output, else softmax cross-entropy. `shape` is that of the outputs.
    """
    if callable(loss):
        checks.takes("loss", loss, "(outputs, targets) that returns a scalar", 2)
        return loss
    classes, labels = _split(shape)[1], jnp.issubdtype(y.dtype, jnp.integer)
    if loss is None:
        of_labels = "binary_cross_entropy" if classes == 1 else "cross_entropy"
        loss = of_labels if labels else "squared_error"
    checks.choice("loss", loss, LOSSES)
    if loss not in _DISTANCES and not labels:
        raise ValueError(
            f"{loss} needs integer labels, got {y.dtype} targets; use y.argmax(1) for one-hot "
            f"labels, or loss='squared_error'."
        )
    if loss == "binary_cross_entropy" and classes != 1:
        raise ValueError(
            f"binary_cross_entropy needs a network of one output, got {classes}; "
            f"use 'cross_entropy' or a last width of 1."
        )
    if loss == "cross_entropy" and classes < 2:
        raise ValueError(
            "cross_entropy needs one output per class, got a network of 1; "
            "use 'binary_cross_entropy' or widen the last layer."
        )
    return LOSSES[loss]


def as_targets(
    y: Any, shape: tuple[int, ...], loss: str | Loss | None = None, *, name: str = "y"
) -> jax.Array:
    """Class labels [batch, ...] (int32) or float targets like the outputs, checked where concrete.

    Labels may also have a last axis of 1. With a squared error, integers of the outputs' shape are
    targets and not labels. `shape` is that of the outputs.
    """
    checks.numeric(name, y)
    checks.finite(name, y)
    given, y = y, jnp.asarray(y)
    rows, classes = _split(shape)
    if y.dtype == jnp.bool_:
        y = y.astype(jnp.int32)
    if y.shape[:1] != shape[:1]:
        raise ValueError(
            f"{name} must have one entry per sample, {shape[0]} of them, got {list(y.shape)}."
        )
    integers = jnp.issubdtype(y.dtype, jnp.integer)
    like_outputs = y.shape == shape or (classes == 1 and y.size == math.prod(shape))
    if integers and not (loss in _DISTANCES and like_outputs):
        if y.size != math.prod(rows) or y.shape[: len(rows)] != rows:
            raise ValueError(
                f"integer labels {name} must have shape {list(rows)}, got {list(y.shape)}; "
                f"for one-hot labels use {name}.argmax({len(rows)}), for numbers to be met "
                f"loss='squared_error'."
            )
        if not callable(loss):
            checks.labels(name, given, max(classes, 2))
        return y.reshape(rows).astype(jnp.int32)
    if y.size != math.prod(shape):
        raise ValueError(
            f"float targets {name} must have shape {list(shape)} for {classes} outputs, got "
            f"{list(y.shape)}; class labels must be integers."
        )
    return (y.astype(jnp.float32) if integers else y).reshape(shape)


def accuracy(outputs: jax.Array, y: jax.Array) -> Float[Array, ""]:
    """The fraction classified rightly; NaN for float targets, which have no classes.

    With one output the class is `outputs > 0`, that is, a sigmoid above one half.
    """
    if not jnp.issubdtype(y.dtype, jnp.integer):
        return jnp.full((), jnp.nan, outputs.dtype)
    rows, classes = _split(outputs.shape)
    best = outputs.reshape(rows) > 0 if classes == 1 else jnp.argmax(outputs, axis=-1)
    return jnp.mean((best.astype(y.dtype) == y.reshape(rows)).astype(outputs.dtype))
