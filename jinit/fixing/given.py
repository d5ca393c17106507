"""A model, its data and its optimizer, in whatever form they were given."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from jinit import checks
from jinit.data import Data
from jinit.fixing.candidates import CLIP
from jinit.models.tracing.forms import holds_arrays, right_call
from jinit.models.tracing.model import TracedModel


class Names(NamedTuple):
    """What was given, as lines of code name it."""

    model: str
    """the first arguments of a tool behind its key"""
    drawn: str
    """what a draw gives new"""
    x: str
    """the batch that was looked at"""
    options: str
    """`, name=value` of a tool that reads the model"""


class Given(NamedTuple):
    """A model that can be trained."""

    model: TracedModel
    """on one batch, without a loss"""
    data: Data
    names: Names


def given(
    apply: Any, variables: Any, data: Any, *, batch_size: int, rules: Any, in_axes: Any
) -> Given:
    """A function, its variables and data, or a model that holds its arrays and data.

    Raises:
        TypeError, ValueError: a function and data alone; data of another form; as `jinit.Model`.
    """
    *weights, data = [part for part in (variables, data) if part is not None] or [None]
    is_module = holds_arrays(apply)
    if not weights and not is_module:
        raise TypeError(
            f"jinit.fix needs the parameters and data, apart from each other; call "
            f"{right_call(apply, 'jinit.fix', before='key, ', batch='data', after=_REST)}."
        )
    arrays = _data(data)
    batch_size = min(batch_size, len(jax.tree.leaves(arrays.x_train)[0]))
    x = jax.tree.map(lambda a: a[:batch_size], arrays.x_train)
    model = TracedModel(apply, *weights, x, rules=rules, in_axes=in_axes)
    of = 'data["x_train"]' if isinstance(data, Mapping) else "data[0]"
    cut = f"{of}[:{batch_size}]" if hasattr(x, "shape") else (
        f"jax.tree.map(lambda a: a[:{batch_size}], {of})"
    )  # fmt: skip
    options = "" if in_axes is None else f", in_axes={in_axes!r}"
    names = Names(
        "model" if is_module else "apply, variables",
        "model" if model.variables is apply else "variables",
        cut, options + (", rules=rules" if rules is not None else ""),
    )  # fmt: skip
    return Given(model, arrays, names)


_REST = ", loss=..., optimizer=..."
_PARTS = ("x_train", "y_train", "x_test", "y_test")


def _data(data: Any) -> Data:
    if isinstance(data, Mapping):
        checks.options("data", data, _PARTS)
        if missing := [name for name in _PARTS if name not in data]:
            raise ValueError(f"data must hold {', '.join(_PARTS)}, got none of {missing[0]}.")
        return Data(*(data[name] for name in _PARTS))
    if not isinstance(data, tuple | list) or len(data) not in (2, 4):
        raise TypeError(
            f"data must be a jinit.Data(x_train, y_train, x_test, y_test), a dict of these names "
            f"or a pair (x, y), got {type(data).__name__}."
        )
    return Data(*(*data, *data)[:4])


def optimizer_of(optimizer: Any, learning_rate: Any) -> Callable[..., Any]:
    """A function (scale, clip=False) -> transformation."""
    given = isinstance(optimizer, optax.GradientTransformation)
    if given == (learning_rate is not None) or not (given or callable(optimizer)):
        raise TypeError(
            f"optimizer must be an optax transformation, such as optax.adam(1e-3), or a function "
            f"of the learning rate with learning_rate= beside it, such as optax.adam; got "
            f"{checks.shown('a transformation' if given else optimizer)} and "
            f"learning_rate={checks.shown(learning_rate)}."
        )
    if learning_rate is not None:
        checks.number("learning_rate", learning_rate)

    def make(scale: Any = 1.0, clip: Any = False) -> optax.GradientTransformation:
        """With a scale and a threshold that may be traced."""
        if given:
            own = [optimizer] if _is(scale, 1.0) else [optimizer, optax.scale(scale)]
        else:
            own = [optimizer(learning_rate * scale)]
        if not _is(clip, False):
            own = [optax.clip_by_global_norm(CLIP if _is(clip, True) else clip), *own]
        return own[0] if len(own) == 1 else optax.chain(*own)

    return make


def _is(value: Any, number: Any) -> bool:
    return isinstance(value, bool | float) and value == number


def shape_of_outputs(model: TracedModel) -> tuple[int, ...]:
    """Of a batch.

    Raises:
        TypeError: outputs that are no single array.
    """
    out = model.trace.outputs([v.aval for v in model.trace.jaxpr.jaxpr.outvars])
    if not hasattr(out, "shape"):
        raise TypeError(
            f"apply must return outputs [batch, ...] alone, got {type(out).__name__}; write a "
            f"function that returns what the loss is computed from."
        )
    return tuple(out.shape)
