"""Training as pure functions: one step, and whole runs as one scan.

Everything maps: under `jax.vmap` over keys, gains and learning rates, a grid of runs is one traced
program. A learning rate given as a Python float is part of the program; to map over it, make it a
float32 array and build the optimizer inside the mapped function.
"""

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jinit import checks
from jinit.data import Data
from jinit.networks import apart
from jinit.networks.base import Bound, Loss, Network, Record, bind_network
from jinit.networks.description import Description
from jinit.networks.forms import by_platform, platforms
from jinit.networks.losses import accuracy, as_targets, loss_function
from jinit.networks.mlp import as_input, as_stacked, forward
from jinit.networks.signals import LayerSignals, layer_signals


class Metrics(NamedTuple):
    """Mean loss and fraction classified rightly (NaN for regression)."""

    loss: Float[Array, "*batch"]
    accuracy: Float[Array, "*batch"]


class TrainState(NamedTuple):
    """What one step hands to the next."""

    params: Any
    state: Any
    opt_state: Any


class History(NamedTuple):
    """What happened on the way: of every batch before its update, and at chosen steps.

    `eval_every=k` and `record_at=k` choose the steps 0, k, 2k, ... of the run, counted from its
    very beginning if it is a continued one; each looks at the network before that step's update.
    """

    loss: Float[Array, "*batch steps"]
    accuracy: Float[Array, "*batch steps"]
    signals: LayerSignals | None
    """`[chosen steps, layers]` each"""
    test: Metrics | None = None
    """as `TrainResult.loss` and `accuracy`, `[chosen steps]` each"""
    record: Any = None
    """what `record` returned, `[chosen steps, ...]`"""


class TrainResult(NamedTuple):
    """The trained network; its loss and accuracy after the last step; what happened on the way."""

    params: Any
    state: Any
    loss: Float[Array, "*batch"]
    accuracy: Float[Array, "*batch"]
    history: History
    opt_state: Any
    """with which the run can be continued"""


Step = Callable[..., tuple[TrainState, Metrics]]


def train_state(params: Any, state: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    _check_optimizer(optimizer)
    checks.trainable("params", params)
    return TrainState(params, state, optimizer.init(params))


def train_step(
    net: Description | Network,
    optimizer: optax.GradientTransformation,
    *,
    loss: str | Loss | None = None,
) -> Step:
    """A pure step `(TrainState, (x, y), key=None) -> (TrainState, Metrics)`, to jit, scan or vmap.

    Args:
        net: the description.
        optimizer: any optax transformation.
        loss: "cross_entropy", "binary_cross_entropy", "squared_error" (mean over samples of half
            the squared distance), a function `loss(outputs, targets)` that returns a scalar, or
            None to choose by the labels.

    Returns:
        The step. Its metrics are of the batch before the update, in training mode; its key is for
        a `Network` that draws noise.
    """
    _check_optimizer(optimizer)
    unchecked = _step(_measure(_bind(net), loss), optimizer)

    def step(
        carry: TrainState, batch: tuple[Any, Any], key: jax.Array | None = None
    ) -> tuple[TrainState, Metrics]:
        _check_step(carry, batch, optimizer)
        return unchecked(carry, batch, key)

    return step


def _step(
    metrics_of: Callable[..., tuple[Metrics, Any]], optimizer: optax.GradientTransformation
) -> Step:
    """The step itself, of parameters in whatever form `metrics_of` takes."""
    update = _update(optimizer)

    def step(
        carry: TrainState, batch: tuple[Any, Any], key: jax.Array | None = None
    ) -> tuple[TrainState, Metrics]:
        def objective(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
            metrics, state = metrics_of(params, carry.state, batch, True, key)
            return metrics.loss, (metrics, state)

        gradient_of = jax.value_and_grad(objective, has_aux=True)
        (value, (metrics, state)), gradient = gradient_of(carry.params)
        params, opt_state = update(
            gradient, carry.opt_state, carry.params, value, lambda params: objective(params)[0]
        )
        return TrainState(params, state, opt_state), metrics

    return step


def _update(optimizer: optax.GradientTransformation) -> Callable[..., tuple[Any, Any]]:
    """`(gradient, opt_state, params, value, value_fn) -> (params, opt_state)`."""
    # Line searches and learning rates that follow the loss ask for its value.
    extended = optax.with_extra_args_support(optimizer)

    def update(
        gradient: Any, opt_state: Any, params: Any, value: jax.Array, value_fn: Any
    ) -> tuple[Any, Any]:
        # Most optax transformations mix dtypes, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = extended.update(
                gradient, opt_state, params, value=value, grad=gradient, value_fn=value_fn
            )
            return optax.apply_updates(params, updates), opt_state

    return update


def train(
    key: jax.Array,
    net: Description | Network,
    params: Any,
    state: Any,
    data: Data | tuple[Any, Any],
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int | None = None,
    loss: str | Loss | None = None,
    opt_state: Any = None,
    first_step: int = 0,
    eval_every: int | None = None,
    record: Record | None = None,
    record_at: int | Sequence[int] | None = None,
    signals_at: int | Sequence[int] = (),
) -> TrainResult:
    """Train for a number of steps, as one scan.

    Every call compiles anew; to call it again and again, wrap it in a `jax.jit` of your own.

    A run of 100 steps is continued by the same call with its `params`, `state` and `opt_state` and
    with `first_step=100`: the key then goes on with the batches (and a net's noise) where it was.

    Args:
        key: draws the minibatches: each epoch is a fresh permutation of the training samples, cut
            into batches; samples that do not fill a batch wait for the next epoch. A `Network`
            gets a key of its own for every step.
        net, params, state: the description, and what `init` returned; or a sequence of `Layer`s.
        data: a `Data`, or a pair (x, y); for a `Network` x is any pytree of arrays [batch, ...],
            and y is labels [batch] or [batch, time], or floats of the outputs' shape.
        optimizer: any optax transformation, for example `optax.sgd(0.1)`.
        steps: the number of updates.
        batch_size: samples per step; None means all of them, in order.
        loss: as in `train_step`.
        opt_state: of an earlier run, to continue it; None starts the optimizer anew.
        first_step: how many steps earlier runs made.
        eval_every: so many steps apart `history.test` takes the final numbers as well.
        record: a function `(params, state, (x, y))` of the network before a step and the step's
            batch; `history.record` stacks what it returns, any pytree of arrays.
        record_at: before which steps: so many apart, from step 0, or a list.
        signals_at: likewise, before which steps `history.signals` takes `layer_signals`.

    Returns:
        `TrainResult`. Its scalars `loss` and `accuracy` are taken in evaluation mode after the
        last step: on the test half of a `Data`, on the pair itself for a pair. A run that diverges
        ends in inf or NaN.

    Raises:
        ValueError: data with NaN, labels out of range, a batch larger than the data, parameters of
            another network, the state of another optimizer, or steps that the run does not make.
    """
    key = checks.key(key)
    bound = _bind(net)
    params, state = bound.check(params, state)
    x, y, x_test, y_test = _arrays(bound, params, state, data, loss)
    steps = checks.count("steps", steps, least=0)
    first_step = checks.count("first_step", first_step, least=0)
    span = range(first_step, first_step + steps)
    metrics_of = _measure(bound, loss)
    start = train_state(params, state, optimizer)
    if opt_state is not None:
        start = start._replace(opt_state=_continued(opt_state, start.opt_state))
    next_batch, order = _batches(key, len(y), batch_size, first_step)
    # Apart from the keys of epochs, which count from 0.
    noise = jax.random.fold_in(key, np.uint32(2**32 - 1)) if bound.noisy else None

    def test(params: Any, state: Any, batch: tuple[Any, Any] | None = None) -> Metrics:
        return metrics_of(params, state, (x_test, y_test), False)[0]

    def signals(params: Any, state: Any, batch: tuple[Any, Any]) -> LayerSignals:
        if bound.signals is None:
            raise TypeError(
                "signals_at looks into the layers of a jinit.MLP or ConvNet; for a jinit.Network "
                "use record=lambda params, state, batch: ..., record_at=[0, 100]."
            )
        return bound.signals(params, state, *batch, loss=loss)

    if (record is None) != (record_at is None) or not (record is None or callable(record)):
        raise TypeError(
            f"record is a function (params, state, (x, y)) and comes with record_at, 25 or a list "
            f"of steps; got record={checks.shown(record)} and record_at={checks.shown(record_at)}."
        )
    if record is not None:
        checks.takes("record", record, "(params, state, (x, y))", 3)
    recorders: dict[str, tuple[Any, Any]] = {
        "signals": (signals, _chosen("signals_at", signals_at, span)),
        "test": (test, _chosen("eval_every", eval_every, span)),
        "record": (record, _chosen("record_at", record_at, span)),
    }
    recorders = {name: of for name, of in recorders.items() if of[1]}
    first = jax.tree.map(lambda a: a[:batch_size], (x, y))
    slots, kept = {}, {}
    for name, (fn, chosen) in recorders.items():
        slots[name] = np.full(steps, -1, np.int32)
        slots[name][np.asarray(chosen, int) - first_step] = np.arange(len(chosen))
        one = jax.eval_shape(fn, params, state, first)
        kept[name] = jax.tree.map(lambda a, n=len(chosen): jnp.zeros((n, *a.shape), a.dtype), one)

    xs = (jnp.arange(first_step, first_step + steps), jax.tree.map(jnp.asarray, slots))

    def run(form: apart.Form, start: TrainState, order: Any, kept: Any) -> Any:
        step = _step(_measure(form.bound, loss), optimizer)

        def body(carry: Any, xs: Any) -> Any:
            now, order, kept = carry
            index, slots = xs
            order, rows = next_batch(order, index)
            batch = (x, y) if rows is None else jax.tree.map(lambda a: a[rows], (x, y))

            def write(name: str, kept: Any) -> Any:
                of = form.joined((now.params, now.state), (start.params, start.state))
                seen = recorders[name][0](*of, batch)
                return jax.tree.map(lambda all_, one: all_.at[slots[name]].set(one), kept, seen)

            # The predicates are the same for every mapped run, so that only chosen steps cost.
            kept = {
                name: jax.lax.cond(slots[name] >= 0, partial(write, name), lambda same: same, old)
                for name, old in kept.items()
            }
            own = None if noise is None else jax.random.fold_in(noise, index)
            now, metrics = step(now, batch, own)
            return (now, order, kept), metrics

        (end, _, kept), metrics = jax.lax.scan(body, (form.split(start), order, kept), xs)
        return form.joined(end, start), kept, metrics

    forms = _forms(net, bound, optimizer, start, span.stop)
    end, kept, metrics = by_platform(*(partial(run, form) for form in forms), start, order, kept)
    final = test(end.params, end.state)
    history = History(metrics.loss, metrics.accuracy, *map(kept.get, History._fields[2:]))
    return TrainResult(end.params, end.state, *final, history, end.opt_state)


def _forms(
    net: Any, bound: Bound, optimizer: optax.GradientTransformation, start: TrainState, steps: int
) -> tuple[apart.Form, apart.Form]:
    if platforms() <= {"cpu"}:
        return apart.Form(bound), apart.Form(bound)

    def update(gradient: Any, opt_state: Any, params: Any, value: jax.Array) -> Any:
        return _update(optimizer)(gradient, opt_state, params, value, lambda params: value)

    value = jax.ShapeDtypeStruct((), jax.tree.leaves(start.params)[0].dtype)
    given = (start.params, start.opt_state, start.params, value)
    return apart.forms(net, bound, update, given, steps)


def evaluate(
    net: Description | Network,
    params: Any,
    state: Any,
    x: Any,
    y: Any,
    *,
    loss: str | Loss | None = None,
) -> Metrics:
    """Loss and accuracy in evaluation mode (running batch statistics).

    Args:
        net, params, state: the description, and what `init` returned or `train` trained.
        x: inputs [batch, in]; for a `Network` any pytree of arrays [batch, ...].
        y: labels [batch] (or [batch, time]), or float targets of the outputs' shape.
        loss: as in `train_step`.

    Returns:
        `Metrics(loss, accuracy)`, two scalars.

    Raises:
        ValueError: arrays that do not fit the network, or hold NaN.
    """
    bound = _bind(net)
    params, state = bound.check(params, state)
    x = bound.inputs(x, params, "x")
    return _measure(bound, loss)(params, state, (x, y), False)[0]


def _bind_layers(net: Description) -> Bound:
    return Bound(
        check=partial(as_stacked, net),
        inputs=lambda x, params, name: as_input(net, params, x, name),
        shape=lambda params, state, x: (x.shape[0], net.outputs),
        forward=lambda *of, train, key=None: forward(net, *of, train=train),
        signals=partial(layer_signals, net),
    )


KINDS: dict[type, Callable[[Any], Bound]] = {Description: _bind_layers, Network: bind_network}


def _bind(net: Any) -> Bound:
    for kind, bind in KINDS.items():
        if isinstance(net, kind):
            return bind(net)
    raise TypeError(
        f"net must be a jinit.MLP such as jinit.MLP([64, 128, 10]), a jinit.ConvNet or a "
        f"jinit.Network(init, apply), got {checks.shown(net)}."
    )


def _measure(bound: Bound, loss: str | Loss | None) -> Callable[..., tuple[Metrics, Any]]:
    """Loss and accuracy of a batch, and the state after it."""

    def metrics(
        params: Any, state: Any, batch: tuple[Any, Any], train: bool, key: jax.Array | None = None
    ) -> tuple[Metrics, Any]:
        outputs, state = bound.forward(params, state, batch[0], train=train, key=key)
        targets = as_targets(batch[1], outputs.shape, loss)
        value = loss_function(loss, targets, outputs.shape)(outputs, targets)
        checks.loss_value(value)
        return Metrics(value, accuracy(outputs, targets)), state

    return metrics


def _batches(
    key: jax.Array, samples: int, batch_size: int | None, first_step: int
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

    def epoch(number: Any) -> jax.Array:
        return jax.random.permutation(jax.random.fold_in(key, number), samples)

    def next_batch(order: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The predicate is the same for every mapped run, so that one sort per epoch is done.
        order = jax.lax.cond(
            index % per_epoch == 0, lambda: epoch(index // per_epoch), lambda: order
        )
        rows = jax.lax.dynamic_slice_in_dim(order, (index % per_epoch) * batch_size, batch_size)
        return order, rows

    begun = first_step % per_epoch > 0
    return next_batch, epoch(first_step // per_epoch) if begun else jnp.arange(samples)


def _arrays(
    bound: Bound, params: Any, state: Any, data: Any, loss: str | Loss | None
) -> tuple[Any, ...]:
    if not isinstance(data, tuple) or len(data) not in (2, 4):
        raise TypeError(
            f"data must be a jinit.Data(x_train, y_train, x_test, y_test) or a pair (x, y), "
            f"got {type(data).__name__}."
        )
    arrays: list[Any] = []
    halves = ("_train", "_test") if len(data) == 4 else ("", "")
    for half, x, y in zip(halves, (data[0], data[-2]), (data[1], data[-1]), strict=True):
        x = bound.inputs(x, params, f"x{half}")
        found = list(jax.tree.leaves(x)[0].shape)
        if not found[0]:
            raise ValueError(f"x{half} must hold at least one sample, got {found}.")
        shape = bound.shape(params, state, x)
        arrays += [x, as_targets(y, shape, loss, name=f"y{half}")]
    return tuple(arrays)


def _chosen(name: str, at: Any, span: range) -> tuple[int, ...] | None:
    """The steps of the run before which something is recorded."""
    if at is None:
        return None
    if isinstance(at, Integral):
        every = checks.count(name, at)
        return tuple(s for s in span if s % every == 0)
    if not isinstance(at, Sequence | np.ndarray) or isinstance(at, str):
        raise TypeError(f"{name} must list steps, as in [0, 100], got {checks.shown(at)}.")
    chosen = tuple(checks.count(f"every entry of {name}", s, least=0) for s in at)
    if len(set(chosen)) != len(chosen) or any(s not in span for s in chosen):
        raise ValueError(
            f"{name} must list different steps from {span.start} to {span.stop - 1}, "
            f"got {list(at)}."
        )
    return chosen


def _check_step(carry: Any, batch: Any, optimizer: optax.GradientTransformation) -> None:
    if not isinstance(carry, TrainState):
        raise TypeError(
            f"a step takes a jinit.TrainState first, as jinit.train_state(params, state, "
            f"optimizer) makes it, got {checks.shown(carry)}."
        )
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        found = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise TypeError(
            f"a step takes a batch that is a pair (x, y), got {checks.shown(batch)}{found}."
        )
    _continued(carry.opt_state, jax.eval_shape(optimizer.init, carry.params))


def _continued(given: Any, expected: Any) -> Any:
    """The optimizer's state of an earlier run, if it has the form of this one's."""
    one, other = (
        (jax.tree.structure(of), [np.shape(leaf) for leaf in jax.tree.leaves(of)])
        for of in (given, expected)
    )
    if one != other:
        raise ValueError(
            f"opt_state must be what this optimizer keeps for these params, got that of another "
            f"({type(given).__name__}); use the same optimizer, or leave opt_state out to start it."
        )
    return jax.tree.map(jnp.asarray, given)


def _check_optimizer(optimizer: Any) -> None:
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be an optax transformation such as optax.sgd(0.1), got "
            f"{checks.shown(optimizer)}."
        )
