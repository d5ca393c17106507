"""Activation functions by name.

Each is an elementwise function of one array. The dictionaries are literal: `KINKS` lists the
points at which a named one is not smooth, so that quadrature can split its panels there.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jinit import checks

__all__ = ["ACTIVATIONS", "KINKS", "SATURATION", "SLOPES", "Activation", "activation"]

Activation = Callable[[jax.Array], jax.Array]


def _identity(x: jax.Array) -> jax.Array:
    return x


def _gelu(x: jax.Array) -> jax.Array:
    """GELU in its exact form x Φ(x) (Hendrycks & Gimpel 2016); jax defaults to the tanh form."""
    return jax.nn.gelu(x, approximate=False)


def _gelu_tanh(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Activation] = {
    "identity": _identity,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "relu6": jax.nn.relu6,
    "tanh": jnp.tanh,
    "hard_tanh": jax.nn.hard_tanh,
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "elu": jax.nn.elu,
    "celu": jax.nn.celu,
    "selu": jax.nn.selu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "erf": jax.scipy.special.erf,
    "sin": jnp.sin,
}


def _tanh_slope(x: jax.Array) -> jax.Array:
    """sech(x)^2 without the cancellation of 1 - tanh(x)^2, which is 0 beyond |x| = 9."""
    decay = jnp.exp(-2 * jnp.abs(x))
    return 4 * decay / jnp.square(1 + decay)


def _sigmoid_slope(x: jax.Array) -> jax.Array:
    decay = jnp.exp(-jnp.abs(x))
    return decay / jnp.square(1 + decay)


SLOPES: dict[str, Activation] = {"tanh": _tanh_slope, "sigmoid": _sigmoid_slope}
"""Derivatives that automatic differentiation rounds to zero in the tails."""

SATURATION = 0.05
"""A unit counts as saturated where its slope is below this fraction of the steepest slope."""

KINKS: dict[str, tuple[float, ...]] = {
    "relu": (0.0,),
    "leaky_relu": (0.0,),
    "relu6": (0.0, 6.0),
    "hard_tanh": (-1.0, 1.0),
    "hard_sigmoid": (-3.0, 3.0),
    "elu": (0.0,),
    "celu": (0.0,),
    "selu": (0.0,),
    "softsign": (0.0,),
}


def activation(name_or_function: str | Activation) -> Activation:
    """The elementwise function of that name; a callable is returned as it is.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
        TypeError: for anything that is neither a name nor a callable.
    """
    if isinstance(name_or_function, str):
        checks.choice("activation", name_or_function, ACTIVATIONS)
        return ACTIVATIONS[name_or_function]
    if callable(name_or_function):
        return name_or_function
    raise TypeError(
        f"activation must be a name such as 'relu' or an elementwise function, "
        f"got {name_or_function!r}."
    )
