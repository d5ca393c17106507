"""Activation functions by name: one row of facts each.

Every function is elementwise on one array. To add one, add its row (and its formula to the test):
networks, theory, diagnosis and command line read everything they know of it from there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit import checks
from jinit.elementwise import check_elementwise

__all__ = [
    "ACTIVATIONS",
    "ALIASES",
    "SATURATION",
    "Activation",
    "ActivationFacts",
    "activation",
    "check_activation",
    "facts",
]

Activation = Callable[[jax.Array], jax.Array]


class ActivationFacts(NamedTuple):
    """What is known of an activation; called like the function itself."""

    function: Activation
    kinks: tuple[float, ...] = ()
    """points where it is not smooth, at which quadrature splits its panels"""
    slope: Activation | None = None
    """its derivative, where automatic differentiation rounds that to zero in the tails"""
    rectifies: bool = False
    """whether it keeps what is above 0 and drops what is below, so that half a signal is lost"""
    squashes: bool = False
    """whether it is steepest at 0 and flat on both sides, so that large signals saturate it"""

    def __call__(self, x: jax.Array) -> jax.Array:
        """The function's value, entry by entry."""
        return self.function(x)


def _identity(x: jax.Array) -> jax.Array:
    return x


def _tanh_slope(x: jax.Array) -> jax.Array:
    """sech(x)^2 without the cancellation of 1 - tanh(x)^2, which is 0 beyond |x| = 9."""
    decay = jnp.exp(-2 * jnp.abs(x))
    return 4 * decay / jnp.square(1 + decay)


def _sigmoid_slope(x: jax.Array) -> jax.Array:
    decay = jnp.exp(-jnp.abs(x))
    return decay / jnp.square(1 + decay)


_Row = ActivationFacts

ACTIVATIONS: dict[str, ActivationFacts] = {
    "identity": _Row(_identity),
    "relu": _Row(jax.nn.relu, kinks=(0.0,), rectifies=True),
    "leaky_relu": _Row(jax.nn.leaky_relu, kinks=(0.0,), rectifies=True),
    "relu6": _Row(jax.nn.relu6, kinks=(0.0, 6.0), rectifies=True),
    "tanh": _Row(jnp.tanh, slope=_tanh_slope, squashes=True),
    "hard_tanh": _Row(jax.nn.hard_tanh, kinks=(-1.0, 1.0), squashes=True),
    "sigmoid": _Row(jax.nn.sigmoid, slope=_sigmoid_slope, squashes=True),
    "hard_sigmoid": _Row(jax.nn.hard_sigmoid, kinks=(-3.0, 3.0), squashes=True),
    "elu": _Row(jax.nn.elu, kinks=(0.0,)),
    "celu": _Row(jax.nn.celu, kinks=(0.0,)),
    "selu": _Row(jax.nn.selu, kinks=(0.0,)),
    # The exact form x Φ(x) (Hendrycks & Gimpel 2016); jax defaults to the other one.
    "gelu": _Row(partial(jax.nn.gelu, approximate=False)),
    "gelu_tanh": _Row(partial(jax.nn.gelu, approximate=True)),
    "silu": _Row(jax.nn.silu),
    "mish": _Row(jax.nn.mish),
    "softplus": _Row(jax.nn.softplus),
    "softsign": _Row(jax.nn.soft_sign, kinks=(0.0,), squashes=True),
    "erf": _Row(jax.scipy.special.erf, squashes=True),
    "sin": _Row(jnp.sin),
}

ALIASES = {"swish": "silu"}
"""other names of a row"""

SATURATION = 0.05
"""A unit counts as saturated where its slope is below this fraction of the steepest slope."""


def facts(name_or_function: str | Activation) -> ActivationFacts:
    """The row of that name, or alias; of a function of one's own nothing but itself is known.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
        TypeError: for anything that is neither a name nor a callable.
    """
    if isinstance(name_or_function, str):
        name_or_function = ALIASES.get(name_or_function, name_or_function)
        checks.choice("activation", name_or_function, ACTIVATIONS)
        return ACTIVATIONS[name_or_function]
    if isinstance(name_or_function, ActivationFacts):
        return name_or_function
    if callable(name_or_function):
        return ActivationFacts(name_or_function)
    raise TypeError(
        f"activation must be a name such as 'relu' or an elementwise function, "
        f"got {checks.shown(name_or_function)}."
    )


def activation(name_or_function: str | Activation) -> Activation:
    """The elementwise function of that name; a callable is returned as it is (see `facts`)."""
    return facts(name_or_function).function


def check_activation(name_or_function: str | Activation) -> None:
    """A name of the table, or an elementwise function of one float32 array; else one sentence."""
    function = facts(name_or_function).function
    if isinstance(name_or_function, str | ActivationFacts):
        return

    def value(x: np.ndarray) -> Any:
        with jax.ensure_compile_time_eval():
            out = function(jnp.asarray(x))
            return np.asarray(out) if checks.is_concrete(out) else out

    name = getattr(name_or_function, "__name__", repr(name_or_function))
    vector = jax.ShapeDtypeStruct((8,), np.dtype("float32"))
    check_elementwise(
        f"activation {name} must be an elementwise jax.numpy function of one array",
        lambda: jax.eval_shape(function, vector), value, points=16, dtype=np.float32,
    )  # fmt: skip
