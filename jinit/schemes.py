"""Every initialisation scheme's formula, in one table.

`scheme(name, **options)` returns an initializer in the style of `jax.nn.initializers`: a pure
function `(key, shape, dtype) -> array`. Shapes follow jax: the last axis counts the outputs, the
one before it the inputs, and all others the receptive field of a convolution, so that for a kernel
of shape `[*field, in, out]`

    fan_in = prod(field) * in,        fan_out = prod(field) * out.

What `jax.nn.initializers` has is used from there. `gain` multiplies the standard deviation.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jinit import checks

Place = Literal["first", "hidden", "last", "only"]
Draw = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


@runtime_checkable
class Initializer(Protocol):
    """A pure function `(key, shape, dtype) -> array`, as in `jax.nn.initializers`."""

    def __call__(
        self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32, /
    ) -> jax.Array:
        """Draw an array of that shape and dtype."""
        ...


class Scheme(NamedTuple):
    """One row of the table: how to make it, its formula in plain text, and whose it is.

    `make(**options)` gives the draw. `placed`: the draw depends on the layer's place in the
    network, which `jinit.init` fills in. `decomposes`: it takes a QR decomposition.
    """

    make: Callable[..., Draw]
    formula: str
    source: str
    placed: bool = False
    decomposes: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options the scheme takes."""
        return tuple(inspect.signature(self.make).parameters)


# --- draws that do not look at the shape ------------------------------------------------------


def _constant(value: ArrayLike = 1.0) -> Draw:
    return lambda key, shape, dtype: jnp.full(shape, value, dtype)


def _normal(scale: ArrayLike = 0.01) -> Draw:
    return jax.nn.initializers.normal(scale)


def _uniform(scale: ArrayLike = 0.01) -> Draw:
    return lambda key, shape, dtype: _times(
        scale, jax.random.uniform(key, shape, dtype, minval=-1.0, maxval=1.0)
    )


TRUNCATED_STD = 0.8796256610342398  # std of N(0, 1) cut at two standard deviations


def _truncated_normal(scale: ArrayLike = 0.01, corrected: bool = True) -> Draw:
    if not isinstance(corrected, bool):
        raise TypeError(f"corrected must be True or False, got {corrected!r}.")
    correction = 1 / TRUNCATED_STD if corrected else 1.0
    return lambda key, shape, dtype: _times(
        scale, jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) * correction
    )


# --- variance scaling -------------------------------------------------------------------------


def _scaling(variance: float, mode: Any, distribution: Any) -> Callable[..., Draw]:
    """`Var[w] = gain^2 variance / fan`, through jax's one engine."""

    def make(
        gain: ArrayLike = 1.0,
        in_axis: int | tuple[int, ...] = -2,
        out_axis: int | tuple[int, ...] = -1,
        batch_axis: int | tuple[int, ...] = (),
    ) -> Draw:
        base = jax.nn.initializers.variance_scaling(
            variance, mode, distribution, in_axis, out_axis, batch_axis
        )

        def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            _require_rank(shape, 2, 32)
            return _times(gain, base(key, shape, dtype))

        return draw

    return make


# --- matrices with structure ------------------------------------------------------------------


def _structured(fill: Draw) -> Callable[..., Draw]:
    """`gain` times what `fill` makes of a shape `[*field, in, out]`, on any axes."""

    def make(gain: ArrayLike = 1.0, in_axis: int = -2, out_axis: int = -1) -> Draw:
        def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            if (in_axis, out_axis) == (-2, -1):
                return _times(gain, fill(key, shape, dtype))
            _require_rank(shape, 2, 5)
            axes = [in_axis % len(shape), out_axis % len(shape)]
            rest = [n for i, n in enumerate(shape) if i not in axes]
            kernel = fill(key, (*rest, shape[in_axis], shape[out_axis]), dtype)
            return jnp.moveaxis(_times(gain, kernel), (-2, -1), axes)

        return draw

    return make


def _haar(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Uniformly distributed (semi-)orthogonal, as a [prod(shape[:-1]), shape[-1]] matrix."""
    _require_rank(shape, 2, 5)
    return jax.nn.initializers.orthogonal()(key, shape, dtype)


def _scaled_haar(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
    return _haar(key, shape, dtype) * math.sqrt(max(fan_out / fan_in, 1.0))


def _haar_at_centre(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if not 3 <= len(shape) <= 5:
        raise ValueError(
            f"delta_orthogonal fills convolution kernels [*field, in, out] of 3 to 5 axes, "
            f"got shape {shape}; for a dense layer use 'orthogonal'."
        )
    if shape[-1] < shape[-2]:
        raise ValueError(
            f"delta_orthogonal needs at least as many output as input channels, got {shape[-2]}"
            f" in and {shape[-1]} out (shape {shape}); use 'orthogonal' or widen the layer."
        )
    return jax.nn.initializers.delta_orthogonal()(key, shape, dtype)


def _identity(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    _require_rank(shape, 2, 5)
    centre = tuple((n - 1) // 2 for n in shape[:-2])
    return jnp.zeros(shape, dtype).at[centre].set(jnp.eye(shape[-2], shape[-1], dtype=dtype))


def _looks_linear(
    gain: ArrayLike = 1.0, place: Place = "hidden", in_axis: int = -2, out_axis: int = -1
) -> Draw:
    checks.choice("place", place, ["first", "hidden", "last", "only"])
    mirror_in, mirror_out = place in ("hidden", "last"), place in ("hidden", "first")

    def fill(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        _require_rank(shape, 2, 5)
        *field, fan_in, fan_out = shape
        widths = (mirror_in, "input", fan_in), (mirror_out, "output", fan_out)
        for mirrored, name, width in widths:
            if mirrored and width % 2:
                raise ValueError(
                    f"looks_linear mirrors units in pairs, so the {name} width of a {place!r} "
                    f"layer must be even, got {width} (shape {shape})."
                )
        half = (*field, fan_in // (1 + mirror_in), fan_out // (1 + mirror_out))
        kernel = _haar(key, half, dtype)
        if mirror_out:
            kernel = jnp.concatenate([kernel, -kernel], axis=-1)
        if mirror_in:
            kernel = jnp.concatenate([kernel, -kernel], axis=-2)
        return kernel

    return _structured(fill)(gain, in_axis, out_axis)


def _times(factor: ArrayLike, draws: jax.Array) -> jax.Array:
    return jnp.asarray(factor, draws.dtype) * draws


def _require_rank(shape: tuple[int, ...], least: int, most: int) -> None:
    if not least <= len(shape) <= most:
        raise ValueError(
            f"this scheme needs an input and an output axis, a shape of {least} to {most} axes "
            f"[*field, in, out], got {shape}; for a vector use 'normal', 'constant' or 'zeros'."
        )


# --- the table --------------------------------------------------------------------------------

_HE = "He et al. 2015, eq. 10"
_IN_JAX = "; as in jax.nn.initializers"
_LECUN = f"LeCun et al. 1998, section 4.6{_IN_JAX}"
_GLOROT = f"Glorot & Bengio 2010, eq. 12 and 16{_IN_JAX}"
_GLOROT_NORMAL = Scheme(
    _scaling(1.0, "fan_avg", "truncated_normal"),
    "N(0, 2 gain²/(fan_in + fan_out)), truncated",
    _GLOROT,
)
_GLOROT_UNIFORM = Scheme(
    _scaling(1.0, "fan_avg", "uniform"), "U(±gain √(6/(fan_in + fan_out)))", _GLOROT
)

SCHEMES: dict[str, Scheme] = {
    "zeros": Scheme(lambda: jax.nn.initializers.zeros, "0", "the text's first mistake"),
    "constant": Scheme(_constant, "value", "the text's second mistake"),
    "normal": Scheme(_normal, "N(0, scale²)", "the text's randn * scale"),
    "uniform": Scheme(_uniform, "U(-scale, scale)", "symmetric; jax's own is U(0, scale)"),
    "truncated_normal": Scheme(
        _truncated_normal,
        "N(0, s²) cut at ±2s; std = scale exactly, or s = scale with corrected=False",
        "std corrected unless corrected=False, which is jax.nn.initializers'",
    ),
    "xavier": Scheme(
        _scaling(1.0, "fan_in", "normal"),
        "N(0, gain²/fan_in)",
        "the text's and CS231n's Xavier; Glorot's on square layers",
    ),
    "he": Scheme(_scaling(2.0, "fan_in", "normal"), "N(0, 2 gain²/fan_in)", _HE),
    "glorot_normal": _GLOROT_NORMAL,
    "glorot_uniform": _GLOROT_UNIFORM,
    "xavier_normal": _GLOROT_NORMAL._replace(source="another name: glorot_normal"),
    "xavier_uniform": _GLOROT_UNIFORM._replace(source="another name: glorot_uniform"),
    "he_normal": Scheme(
        _scaling(2.0, "fan_in", "truncated_normal"),
        "N(0, 2 gain²/fan_in), truncated",
        _HE + _IN_JAX,
    ),
    "he_uniform": Scheme(_scaling(2.0, "fan_in", "uniform"), "U(±gain √(6/fan_in))", _HE + _IN_JAX),
    "lecun_normal": Scheme(
        _scaling(1.0, "fan_in", "truncated_normal"), "N(0, gain²/fan_in), truncated", _LECUN
    ),
    "lecun_uniform": Scheme(_scaling(1.0, "fan_in", "uniform"), "U(±gain √(3/fan_in))", _LECUN),
    "orthogonal": Scheme(
        _structured(_haar),
        "gain Q, Q (semi-)orthogonal, Haar",
        "Saxe et al. 2014; as in jax.nn",
        decomposes=True,
    ),
    "delta_orthogonal": Scheme(
        _structured(_haar_at_centre),
        "gain Q at the kernel's centre, 0 elsewhere",
        "Xiao et al. 2018, algorithm 1; as in jax.nn",
        decomposes=True,
    ),
    "identity": Scheme(
        _structured(_identity),
        "gain I (kernels: at the centre, 0 elsewhere)",
        "Le, Jaitly & Hinton 2015",
    ),
    "suo": Scheme(
        _structured(_scaled_haar),
        "gain √max(fan_out/fan_in, 1) Q",
        "scale-corrected uniform orthogonal, Martens et al. 2021",
        decomposes=True,
    ),
    "looks_linear": Scheme(
        _looks_linear,
        "mirrored orthogonal: [Q -Q] first, [[Q -Q] [-Q Q]] hidden, [Q; -Q] last",
        "Balduzzi et al. 2017, section 4",
        placed=True,
        decomposes=True,
    ),
}


def scheme(name: str, **options: Any) -> Initializer:
    """The initializer of that name: a pure function `(key, shape, dtype=float32) -> array`.

    Args:
        name: a key of `jinit.SCHEMES`.
        **options: what the scheme takes. `gain` (multiplies the standard deviation) and `scale`
            (the standard deviation of `normal` and `truncated_normal`, the half-width of
            `uniform`) are numbers or traced scalar arrays. `in_axis` and `out_axis` say where a
            kernel's input and output channels lie, by default -2 and -1 as in Flax and Haiku;
            Equinox stores (out, in): -1 and -2, and its convolutions (out, in, *field): 1 and 0.

    Returns:
        The initializer. Shapes have the axes `[*field, in, out]`. bfloat16 and float16 are drawn
        (and decomposed) in float32 and then rounded.

    Raises:
        ValueError: unknown name, or a shape the scheme has no meaning for.
        TypeError: an option the scheme does not have, or one that is not a number.

    >>> import jax, jinit
    >>> jinit.scheme("he", gain=0.5)(jax.random.key(0), (256, 128)).shape
    (256, 128)
    """
    checks.choice("scheme", name, SCHEMES)
    entry = SCHEMES[name]
    checks.options(f"scheme {name!r}", options, entry.options)
    for option in ("gain", "scale", "value"):
        if option in options:
            checks.number(option, options[option])
    for option in ("in_axis", "out_axis", "batch_axis"):
        value = options.get(option, 0)
        axes = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(axis, int) and not isinstance(axis, bool) for axis in axes):
            raise TypeError(f"{option} must be an integer or a tuple of them, got {value!r}.")
    if options.get("in_axis", -2) == options.get("out_axis", -1):
        raise ValueError(
            f"in_axis and out_axis must differ, got {options.get('in_axis', -2)} for both; "
            f"say where the inputs and where the outputs lie."
        )
    draw = entry.make(**options)

    def initializer(
        key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
    ) -> Float[Array, "..."]:
        key = checks.key(key)
        if not isinstance(shape, Sequence) or isinstance(shape, str):
            raise TypeError(f"shape must list the axes, as in (256, 128), got {shape!r}.")
        shape = tuple(checks.count("every axis of shape", n) for n in shape)
        axes = [a for o in ("in_axis", "out_axis") for a in np.atleast_1d(options.get(o, -1))]
        if any(not -len(shape) <= axis < len(shape) for axis in axes):
            raise ValueError(f"in_axis and out_axis must be axes of {shape}, got {axes}.")
        dtype = jax.dtypes.canonicalize_dtype(jnp.float32 if dtype is None else dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"dtype must be a floating-point type, got {dtype}.")
        wide = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
        return draw(key, shape, wide).astype(dtype)

    initializer.__name__ = initializer.__qualname__ = name
    return initializer
