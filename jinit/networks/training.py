"""Training as pure functions: one step, and whole runs as one scan.

Everything maps: under `jax.vmap` over keys, gains and learning rates, a grid of runs is one traced
program. A learning rate given as a Python float is part of the program; to map over it, make it a
float32 array and build the optimizer inside the mapped function.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float

from jinit import checks
from jinit.data import Data
from jinit.networks.losses import Loss, accuracy, as_targets, loss_function
from jinit.networks.mlp import MLP, as_input, as_stacked, forward
from jinit.networks.params import NormState, Params
from jinit.networks.signals import LayerSignals, layer_signals

__all__ = [
    "History",
    "Metrics",
    "TrainResult",
    "TrainState",
    "evaluate",
    "train",
    "train_state",
    "train_step",
]


class Metrics(NamedTuple):
    """Mean loss and fraction classified rightly (NaN for regression)."""

    loss: Float[Array, "*batch"]
    accuracy: Float[Array, "*batch"]


class TrainState(NamedTuple):
    """What one step hands to the next."""

    params: Params
    state: NormState
    opt_state: Any


class History(NamedTuple):
    """Batch loss and accuracy before each update, `[steps]`; signals `[chosen steps, layers]`."""

    loss: Float[Array, "*batch steps"]
    accuracy: Float[Array, "*batch steps"]
    signals: LayerSignals | None


class TrainResult(NamedTuple):
    """The trained network; its loss and accuracy after the last step; what happened on the way."""

    params: Params
    state: NormState
    loss: Float[Array, "*batch"]
    accuracy: Float[Array, "*batch"]
    history: History


Step = Callable[[TrainState, tuple[Any, Any]], tuple[TrainState, Metrics]]


def train_state(
    params: Params, state: NormState, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step."""
    _check_optimizer(optimizer)
    return TrainState(params, state, optimizer.init(params))


def train_step(
    net: MLP, optimizer: optax.GradientTransformation, *, loss: str | Loss | None = None
) -> Step:
    """A pure step `(TrainState, (x, y)) -> (TrainState, Metrics)`; jit it, scan it or vmap it.

    Args:
        net: the description.
        optimizer: any optax transformation.
        loss: "cross_entropy", "binary_cross_entropy", "squared_error" (batch mean of half the
            squared distance), a function `(outputs, y) -> scalar`, or None to choose by the labels.

    Returns:
        The step. Its metrics are of the batch before the update, in training mode.
    """
    _check_optimizer(optimizer)
    # Line searches and learning rates that follow the loss ask for its value.
    extended = optax.with_extra_args_support(optimizer)

    def step(carry: TrainState, batch: tuple[Any, Any]) -> tuple[TrainState, Metrics]:
        x, y = batch
        targets = as_targets(y, jnp.shape(x)[0], net.dims[-1], loss)
        function = loss_function(loss, targets, net.dims[-1])

        def objective(params: Params) -> tuple[jax.Array, tuple[jax.Array, NormState]]:
            outputs, state = forward(net, params, carry.state, x, train=True)
            return function(outputs, targets), (outputs, state)

        (value, (outputs, state)), gradient = jax.value_and_grad(objective, has_aux=True)(
            carry.params
        )
        # Most optax transformations mix dtypes, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = extended.update(
                gradient,
                carry.opt_state,
                carry.params,
                value=value,
                grad=gradient,
                value_fn=lambda params: objective(params)[0],
            )
            params = optax.apply_updates(carry.params, updates)
        metrics = Metrics(value, accuracy(outputs, targets))
        return TrainState(params, state, opt_state), metrics

    return step


def train(
    key: jax.Array,
    net: MLP,
    params: Any,
    state: Any,
    data: Data | tuple[Any, Any],
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int | None = None,
    loss: str | Loss | None = None,
    signals_at: Sequence[int] = (),
) -> TrainResult:
    """Train for a number of steps, as one scan.

    Every call compiles anew; to call it again and again, wrap it in a `jax.jit` of your own.

    Args:
        key: draws the minibatches: each epoch is a fresh permutation of the training samples, cut
            into batches; samples that do not fill a batch wait for the next epoch.
        net: the description.
        params: what `init` returned, or a sequence of `Layer`s.
        state: what `init` returned.
        data: a `Data`, or a pair (x, y).
        optimizer: any optax transformation, for example `optax.sgd(0.1)`.
        steps: the number of updates.
        batch_size: samples per step; None means all of them, in order.
        loss: as in `train_step`.
        signals_at: steps (from 0) before which `layer_signals` is recorded on the step's batch.

    Returns:
        `TrainResult`. Its scalars `loss` and `accuracy` are taken in evaluation mode after the
        last step: on the test half of a `Data`, on the pair itself for a pair. A run that diverges
        ends in inf or NaN.

    Raises:
        ValueError: data with NaN, labels out of range, a batch larger than the data, or parameters
            of another network.
    """
    key = checks.key(key)
    params, state = as_stacked(net, params, state)
    x, y, x_test, y_test = _arrays(net, data, params.runs[0].w.dtype, loss)
    samples = x.shape[0]
    steps = checks.count("steps", steps, least=0)
    chosen = _chosen(signals_at, steps)
    step = train_step(net, optimizer, loss=loss)
    next_batch, order = _batches(key, samples, batch_size)

    def body(carry: Any, xs: tuple[jax.Array, jax.Array]) -> Any:
        now, order, signals = carry
        index, slot = xs
        order, rows = next_batch(order, index)
        batch = (x, y) if rows is None else (x[rows], y[rows])

        def record(signals: LayerSignals) -> LayerSignals:
            seen = layer_signals(net, now.params, now.state, *batch, loss=loss)
            return jax.tree.map(lambda all_, one: all_.at[slot].set(one), signals, seen)

        if chosen:
            signals = jax.lax.cond(slot >= 0, record, lambda unchanged: unchanged, signals)
        now, metrics = step(now, batch)
        return (now, order, signals), metrics

    start = train_state(params, state, optimizer)
    signals = None
    if chosen:
        first = (x, y) if batch_size is None else (x[:batch_size], y[:batch_size])
        shapes = jax.eval_shape(
            lambda p, s: layer_signals(net, p, s, *first, loss=loss), params, state
        )
        signals = jax.tree.map(lambda a: jnp.zeros((len(chosen), *a.shape), a.dtype), shapes)
    slots = np.full(steps, -1, np.int32)
    slots[list(chosen)] = np.arange(len(chosen))
    xs = (jnp.arange(steps), jnp.asarray(slots))
    (end, _, signals), metrics = jax.lax.scan(body, (start, order, signals), xs)
    final = evaluate(net, end.params, end.state, x_test, y_test, loss=loss)
    history = History(metrics.loss, metrics.accuracy, signals)
    return TrainResult(end.params, end.state, final.loss, final.accuracy, history)


def evaluate(
    net: MLP,
    params: Any,
    state: Any,
    x: Float[ArrayLike, "batch in"],
    y: Any,
    *,
    loss: str | Loss | None = None,
) -> Metrics:
    """Loss and accuracy in evaluation mode (running batch statistics).

    Args:
        net: the description.
        params: what `init` returned or `train` trained.
        state: the batch-norm state that belongs to them.
        x: inputs.
        y: labels [batch] or float targets [batch, out].
        loss: as in `train_step`.

    Returns:
        `Metrics(loss, accuracy)`, two scalars.

    Raises:
        ValueError: arrays that do not fit the network, or hold NaN.
    """
    checks.finite("x", x)
    outputs, _ = forward(net, params, state, x, train=False)
    targets = as_targets(y, outputs.shape[0], net.dims[-1], loss)
    function = loss_function(loss, targets, net.dims[-1])
    return Metrics(function(outputs, targets), accuracy(outputs, targets))


# --- helpers ----------------------------------------------------------------------------------


def _batches(
    key: jax.Array, samples: int, batch_size: int | None
) -> tuple[Callable[[Any, jax.Array], tuple[Any, jax.Array | None]], Any]:
    """A function (order, step) -> (order, rows of the step's batch), and the first order."""
    if batch_size is None:
        return lambda order, index: (order, None), None
    batch_size = checks.count("batch_size", batch_size)
    if batch_size > samples:
        raise ValueError(
            f"batch_size must be at most the number of training samples, {samples}, "
            f"got {batch_size}; use batch_size=None for all of them."
        )
    per_epoch = samples // batch_size

    def next_batch(order: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The predicate is the same for every mapped run, so that one sort per epoch is done.
        order = jax.lax.cond(
            index % per_epoch == 0,
            lambda: jax.random.permutation(jax.random.fold_in(key, index // per_epoch), samples),
            lambda: order,
        )
        rows = jax.lax.dynamic_slice_in_dim(order, (index % per_epoch) * batch_size, batch_size)
        return order, rows

    return next_batch, jnp.arange(samples)


def _arrays(net: MLP, data: Any, dtype: Any, loss: str | Loss | None) -> tuple[jax.Array, ...]:
    if not isinstance(data, tuple) or len(data) not in (2, 4):
        raise TypeError(
            f"data must be a jinit.Data(x_train, y_train, x_test, y_test) or a pair (x, y), "
            f"got {type(data).__name__}."
        )
    arrays: list[jax.Array] = []
    halves = ("_train", "_test") if len(data) == 4 else ("", "")
    for half, x, y in zip(halves, (data[0], data[-2]), (data[1], data[-1]), strict=True):
        checks.finite(f"x{half}", x)
        x = as_input(net, x, dtype, name=f"x{half}")
        if not x.shape[0]:
            raise ValueError(f"x{half} must hold at least one sample, got {list(x.shape)}.")
        arrays += [x, as_targets(y, x.shape[0], net.dims[-1], loss, name=f"y{half}")]
    return tuple(arrays)


def _chosen(signals_at: Sequence[int], steps: int) -> tuple[int, ...]:
    if not isinstance(signals_at, Sequence | np.ndarray) or isinstance(signals_at, str):
        raise TypeError(f"signals_at must list steps, as in [0, 100], got {signals_at!r}.")
    chosen = tuple(checks.count("every entry of signals_at", s, least=0) for s in signals_at)
    if len(set(chosen)) != len(chosen) or any(s >= steps for s in chosen):
        raise ValueError(
            f"signals_at must list different steps from 0 to {steps - 1}, got {list(signals_at)}."
        )
    return chosen


def _check_optimizer(optimizer: Any) -> None:
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an optax transformation such as optax.sgd(0.1), got {optimizer!r}."
        )
