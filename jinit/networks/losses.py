"""Losses by name, and the accuracy of a batch of outputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jinit import checks

__all__ = ["LOSSES", "Loss", "accuracy", "as_targets", "loss_function"]

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def _cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy; outputs [batch, classes], y [batch] integers."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, y))


def _binary_cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Mean sigmoid cross-entropy; outputs [batch, 1], y [batch] of 0 and 1."""
    targets = y.reshape(outputs.shape).astype(outputs.dtype)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(outputs, targets))


def _squared_error(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Batch mean of half the squared distance; y [batch, out] floats or [batch] class labels."""
    if jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == 1 and outputs.shape[1] > 1:
        y = jax.nn.one_hot(y, outputs.shape[1], dtype=outputs.dtype)
    targets = y.reshape(outputs.shape).astype(outputs.dtype)
    return jnp.mean(jnp.sum(optax.l2_loss(outputs, targets), axis=-1))


LOSSES: dict[str, Loss] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "squared_error": _squared_error,
}


def loss_function(loss: str | Loss | None, y: jax.Array, outputs: int) -> Loss:
    """The loss of that name, a callable as it is, or the one that fits the labels.

    None means: squared error for float targets, binary cross-entropy for integer labels and one
    output, else softmax cross-entropy.
    """
    if callable(loss):
        return loss
    if loss is None:
        if not jnp.issubdtype(y.dtype, jnp.integer):
            loss = "squared_error"
        else:
            loss = "binary_cross_entropy" if outputs == 1 else "cross_entropy"
    checks.choice("loss", loss, LOSSES)
    if loss != "squared_error" and not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"{loss} needs integer labels, got {y.dtype} targets; use y.argmax(1) for one-hot "
            f"labels, or loss='squared_error'."
        )
    if loss == "binary_cross_entropy" and outputs != 1:
        raise ValueError(
            f"binary_cross_entropy needs a network of one output, got {outputs}; "
            f"use 'cross_entropy' or a last width of 1."
        )
    if loss == "cross_entropy" and outputs < 2:
        raise ValueError(
            "cross_entropy needs one output per class, got a network of 1; "
            "use 'binary_cross_entropy' or widen the last layer."
        )
    return LOSSES[loss]


def as_targets(
    y: Any, batch: int, outputs: int, loss: str | Loss | None = None, *, name: str = "y"
) -> jax.Array:
    """Class labels [batch] (int32) or float targets [batch, outputs], checked where concrete.

    Labels may also come as [batch, 1]. With `loss="squared_error"` and one output, integers are
    targets and not labels.
    """
    checks.numeric(name, y)
    checks.finite(name, y)
    given, y = y, jnp.asarray(y)
    if y.dtype == jnp.bool_:
        y = y.astype(jnp.int32)
    if y.ndim == 0 or y.shape[0] != batch:
        raise ValueError(
            f"{name} must have one entry per sample, {batch} of them, got {list(y.shape)}."
        )
    integers = jnp.issubdtype(y.dtype, jnp.integer)
    if integers and not (loss == "squared_error" and outputs == 1):
        if y.size != batch:
            raise ValueError(
                f"integer labels {name} must have shape [{batch}], got {list(y.shape)}; "
                f"for one-hot labels use {name}.argmax(1)."
            )
        if not callable(loss):
            checks.labels(name, given, max(outputs, 2))
        return y.reshape(batch).astype(jnp.int32)
    if y.size != batch * outputs:
        raise ValueError(
            f"float targets {name} must have shape [{batch}, {outputs}] for {outputs} outputs, got "
            f"{list(y.shape)}; class labels must be integers."
        )
    return (y.astype(jnp.float32) if integers else y).reshape(batch, outputs)


def accuracy(outputs: jax.Array, y: jax.Array) -> Float[Array, ""]:
    """The fraction classified rightly; NaN for float targets, which have no classes.

    With one output the class is `outputs > 0`, that is, a sigmoid above one half.
    """
    if not jnp.issubdtype(y.dtype, jnp.integer):
        return jnp.full((), jnp.nan, outputs.dtype)
    if outputs.shape[1] == 1:
        predicted = (outputs[:, 0] > 0).astype(y.dtype)
        y = y.reshape(predicted.shape)
    else:
        predicted = jnp.argmax(outputs, axis=1).astype(y.dtype)
    return jnp.mean((predicted == y).astype(outputs.dtype))
