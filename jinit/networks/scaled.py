"""Arrays with an exponent of their own, for signals that leave the range of float32.

`Scaled(array, exponent)` stands for `array * 2**exponent` with max |array| in [1, 2): scaling by
powers of two is exact, so nothing is rounded, and the exponent is an integer that can grow over any
number of layers. All-zero arrays have exponent 0.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Scaled(NamedTuple):
    """`array * 2**exponent`."""

    array: Float[Array, "..."]
    exponent: Int[Array, ""]


# The integer of the same width, the bits of the mantissa, and the bias of the exponent.
_LAYOUT = {"float32": (jnp.int32, 23, 127), "float64": (jnp.int64, 52, 1023)}


def pow2(exponent: jax.Array, dtype: Any) -> jax.Array:
    """2**exponent, exactly, for exponents clipped to the normal numbers of float32 or float64."""
    integer, mantissa, bias = _LAYOUT[jnp.dtype(dtype).name]
    field = jnp.clip(exponent, 1 - bias, bias).astype(integer) + bias
    # The bits of a power of two are its exponent field alone; jnp.ldexp compiles to far more.
    return jax.lax.bitcast_convert_type(field << mantissa, dtype)


def _exponent(x: jax.Array) -> jax.Array:
    """floor(log2(x)) for normal x > 0, from its bits."""
    integer, mantissa, bias = _LAYOUT[x.dtype.name]
    return ((jax.lax.bitcast_convert_type(x, integer) >> mantissa) - bias).astype(jnp.int32)


def normalise(array: jax.Array, exponent: jax.Array | int = 0) -> Scaled:
    """The same value with its largest entry in [1, 2); zeros and non-finite arrays stay."""
    largest = jnp.max(jnp.abs(array))
    usable = (largest > 0) & jnp.isfinite(largest)
    shift = jnp.where(usable, _exponent(largest), 0)
    total = jnp.where(largest > 0, jnp.asarray(exponent, jnp.int32) + shift, 0)
    # In two halves, so that neither factor leaves the normal range.
    half = shift // 2
    array = array * pow2(-half, array.dtype) * pow2(half - shift, array.dtype)
    return Scaled(array, total)


def add(x: Scaled, y: Scaled) -> Scaled:
    """The sum, aligned to the larger exponent of the two that is not all zero; shapes broadcast."""
    lowest = jnp.iinfo(jnp.int32).min // 2
    ex = jnp.where(jnp.any(x.array != 0), x.exponent, lowest)
    ey = jnp.where(jnp.any(y.array != 0), y.exponent, lowest)
    top = jnp.maximum(ex, ey)
    shifted_x, shifted_y = _shift(x.array, ex - top), _shift(y.array, ey - top)
    return normalise(shifted_x + shifted_y, jnp.where(top == lowest, 0, top))


def _shift(array: jax.Array, exponent: jax.Array) -> jax.Array:
    """array * 2**exponent for exponent <= 0; below the range of the dtype it is zero."""
    factor = pow2(exponent, array.dtype)
    return array * jnp.where(exponent < int(jnp.finfo(array.dtype).minexp), 0, factor)


def to_array(x: Scaled) -> jax.Array:
    """The plain array, which over- or underflows where the value does."""
    half = x.exponent // 2
    return x.array * pow2(half, x.array.dtype) * pow2(x.exponent - half, x.array.dtype)


def log_rms(x: Scaled) -> Float[Array, ""]:
    """Natural log of the root of the mean square; minus infinity for zeros."""
    mean_square = jnp.mean(jnp.square(x.array))
    return 0.5 * jnp.log(mean_square) + x.exponent.astype(mean_square.dtype) * math.log(2)
