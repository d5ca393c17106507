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
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Num

from jinit import checks
from jinit.runtime import measured

Place = Literal["first", "hidden", "last", "only"]
Axes = int | tuple[int, ...]
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
    network, which `jinit.init` fills in. `decomposes`: it takes a QR decomposition. `dtypes`: the
    kind of numbers it can draw. `dense`: what draws a convolutional network's matrices, where it
    fills kernels alone.
    """

    make: Callable[..., Draw]
    formula: str
    source: str
    placed: bool = False
    decomposes: bool = False
    dtypes: Any = jnp.inexact
    dense: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options the scheme takes."""
        return tuple(inspect.signature(self.make).parameters)


# --- draws that do not look at the shape ------------------------------------------------------


def _constant(value: ArrayLike = 1.0) -> Draw:
    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        try:
            fits = np.broadcast_shapes(jnp.shape(value), shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"value must be a number, or an array that broadcasts to the shape {list(shape)}, "
                f"got the shape {list(jnp.shape(value))}."
            )
        return jnp.broadcast_to(_as(dtype, "value", value), shape)

    return draw


def _normal(scale: ArrayLike = 0.01, mean: ArrayLike = 0.0) -> Draw:
    return _moved(jax.nn.initializers.normal(scale), mean)


def _uniform(scale: ArrayLike = 0.01, mean: ArrayLike = 0.0) -> Draw:
    return _moved(
        lambda key, shape, dtype: _times(
            scale, jax.random.uniform(key, shape, dtype, minval=-1.0, maxval=1.0)
        ),
        mean,
    )


TRUNCATED_STD = 0.8796256610342398  # std of N(0, 1) cut at two standard deviations


def _truncated_normal(
    scale: ArrayLike = 0.01,
    corrected: bool = True,
    mean: ArrayLike = 0.0,
    lower: float = -2.0,
    upper: float = 2.0,
) -> Draw:
    if not isinstance(corrected, bool):
        raise TypeError(f"corrected must be True or False, got {checks.shown(corrected)}.")
    centre, std = _truncated_moments(lower, upper) if corrected else (0.0, 1.0)

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        units = jax.random.truncated_normal(key, float(lower), float(upper), shape, dtype)
        return _times(scale, (units - centre if centre else units) * (1 / std))

    return _moved(draw, mean)


def _truncated_moments(lower: float, upper: float) -> tuple[float, float]:
    """Mean and standard deviation of N(0, 1) cut at these."""
    for name, bound in (("lower", lower), ("upper", upper)):
        if isinstance(bound, bool) or not isinstance(bound, int | float | np.number):
            raise TypeError(
                f"{name} must be a number of standard deviations, got {checks.shown(bound)}."
            )
    lower, upper = float(lower), float(upper)
    if not lower < upper:
        raise ValueError(
            f"lower must lie below upper, got {lower!r} and {upper!r}; both count standard "
            f"deviations from the mean, as in lower=-2.0, upper=2.0."
        )
    if (lower, upper) == (-2.0, 2.0):
        return 0.0, TRUNCATED_STD
    from scipy import stats  # a tenth of a second

    mean, variance = stats.truncnorm.stats(lower, upper)
    return 0.0 if lower == -upper else float(mean), math.sqrt(variance)


def _moved(draw: Draw, mean: ArrayLike) -> Draw:
    """Around another mean; around 0 bit for bit what it was."""
    if isinstance(mean, int | float) and mean == 0:
        return draw

    def moved(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.asarray(mean, dtype) + draw(key, shape, dtype)

    return moved


# --- variance scaling -------------------------------------------------------------------------


def _scaling(variance: float, mode: str, distribution: str) -> Callable[..., Draw]:
    """`Var[w] = gain^2 variance / fan`."""

    def make(
        gain: ArrayLike = 1.0, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()
    ) -> Draw:
        return _scaled(variance, mode, distribution, gain, (in_axis, out_axis, batch_axis))

    return make


def _scaled(
    variance: ArrayLike, mode: Any, distribution: Any, gain: ArrayLike, axes: tuple[Axes, ...]
) -> Draw:
    """Through jax's one engine."""
    base = jax.nn.initializers.variance_scaling(variance, mode, distribution, *axes)

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        _require_rank(shape, 2, 32)
        return _times(gain, base(key, shape, dtype))

    return draw


_MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")


def _variance_scaling(
    scale: ArrayLike = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
    gain: ArrayLike = 1.0,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Draw:
    checks.choice("mode", mode, _MODES)
    checks.choice("distribution", distribution, ["truncated_normal", "normal", "uniform"])
    return _scaled(scale, mode, distribution, gain, (in_axis, out_axis, batch_axis))


# torch.nn.init.calculate_gain, squared; leaky_relu's has its slope `a`.
_TORCH_GAINS = {
    "linear": 1.0, "sigmoid": 1.0, "tanh": (5 / 3) ** 2, "relu": 2.0, "leaky_relu": None,
    "selu": (3 / 4) ** 2,
}  # fmt: skip


def _kaiming(distribution: str) -> Callable[..., Draw]:
    """`Var[w] = gain^2 g^2 / fan`, with PyTorch's g of a nonlinearity."""

    def make(
        a: ArrayLike = 0.0,
        mode: str = "fan_in",
        nonlinearity: str = "leaky_relu",
        gain: ArrayLike = 1.0,
        in_axis: Axes = -2,
        out_axis: Axes = -1,
        batch_axis: Axes = (),
    ) -> Draw:
        checks.choice("mode", mode, _MODES[:2])
        checks.choice("nonlinearity", nonlinearity, _TORCH_GAINS)
        square = _TORCH_GAINS[nonlinearity]
        variance = 2 / (1 + a * a) if square is None else square
        return _scaled(variance, mode, distribution, gain, (in_axis, out_axis, batch_axis))

    return make


# --- matrices with structure ------------------------------------------------------------------


def _structured(fill: Draw) -> Callable[..., Draw]:
    """`gain` times what `fill` makes of a shape `[*field, in, out]`, on any axes."""

    def make(
        gain: ArrayLike = 1.0, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()
    ) -> Draw:
        def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            if (in_axis, out_axis, batch_axis) == (-2, -1, ()):
                return _times(gain, fill(key, shape, dtype))
            _require_rank(shape, 2, 32)
            ins, outs, batch = (_positions(a, len(shape)) for a in (in_axis, out_axis, batch_axis))
            field = tuple(i for i in range(len(shape)) if i not in ins + outs + batch)
            sizes = tuple(shape[i] for i in (*batch, *field, *ins, *outs))
            flat = (math.prod(shape[i] for i in axes) for axes in (ins, outs))
            matrix = (*(shape[i] for i in field), *flat)
            if batch:
                keys = jax.random.split(key, math.prod(sizes[: len(batch)]))
                kernels = jax.vmap(lambda key: fill(key, matrix, dtype))(keys)
            else:
                kernels = fill(key, matrix, dtype)
            order = range(len(shape))
            return jnp.moveaxis(_times(gain, kernels.reshape(sizes)), order,
                                (*batch, *field, *ins, *outs))  # fmt: skip

        return draw

    return make


def _haar(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Uniformly distributed (semi-)orthogonal, as a [prod(shape[:-1]), shape[-1]] matrix."""
    _require_rank(shape, 2, 5)
    return jax.nn.initializers.orthogonal()(key, shape, dtype)


def _suo(
    gain: ArrayLike = 1.0,
    delta: bool = False,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Draw:
    if not isinstance(delta, bool):
        raise TypeError(
            f"delta must be True (at the kernel's centre) or False, got {checks.shown(delta)}."
        )

    def fill(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        _require_rank(shape, 2, 5)
        kernel = shape[-2:] if delta else shape
        q = _haar(key, kernel, dtype) * math.sqrt(max(shape[-1] / math.prod(kernel[:-1]), 1.0))
        return _at_centre(shape, q) if delta else q

    return _structured(fill)(gain, in_axis, out_axis, batch_axis)


def _haar_at_centre(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if not 3 <= len(shape) <= 5:
        raise ValueError(
            f"delta_orthogonal fills convolution kernels [*field, in, out] of 3 to 5 axes, "
            f"got shape {shape}; for a dense layer use 'orthogonal'."
        )
    if shape[-1] < shape[-2]:
        raise ValueError(
            f"delta_orthogonal needs at least as many output as input channels, got {shape[-2]}"
            f" in and {shape[-1]} out (shape {shape}); widen the layer, or use 'suo' with "
            f"delta=True, which then projects."
        )
    return jax.nn.initializers.delta_orthogonal()(key, shape, dtype)


def _identity(
    gain: ArrayLike = 1.0,
    groups: int = 1,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Draw:
    checks.count("groups", groups)

    def fill(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        _require_rank(shape, 2, 5)
        if shape[-1] % groups:
            raise ValueError(
                f"groups must divide the output channels, got {groups} groups and {shape[-1]} "
                f"channels (shape {shape})."
            )
        own = jnp.eye(shape[-2], shape[-1] // groups, dtype=dtype)
        return _at_centre(shape, jnp.tile(own, (1, groups)))

    return _structured(fill)(gain, in_axis, out_axis, batch_axis)


def _at_centre(shape: tuple[int, ...], matrix: jax.Array) -> jax.Array:
    """A kernel of zeros, with this matrix `[in, out]` in the middle of its field."""
    if len(shape) == 2:
        return matrix
    centre = tuple((n - 1) // 2 for n in shape[:-2])
    return jnp.zeros(shape, matrix.dtype).at[centre].set(matrix)


def _looks_linear(
    gain: ArrayLike = 1.0,
    place: Place = "hidden",
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
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

    return _structured(fill)(gain, in_axis, out_axis, batch_axis)


def _times(factor: ArrayLike, draws: jax.Array) -> jax.Array:
    return _as(draws.dtype, "gain", factor) * draws


def _as(dtype: Any, what: str, value: ArrayLike) -> jax.Array:
    """The value in a dtype that can hold it: 1.5 is no integer, 1j no real number."""
    if checks.is_concrete(value):
        given = np.asarray(value)
        real, whole = not np.iscomplexobj(given), jnp.issubdtype(dtype, jnp.integer)
        if not (real or jnp.issubdtype(dtype, jnp.complexfloating)) or (
            whole and not np.array_equal(np.round(given), given)
        ):
            raise ValueError(f"{what} must be a number of {jnp.dtype(dtype)}, got {value!r}.")
    return jnp.asarray(value, dtype)


def _require_rank(shape: tuple[int, ...], least: int, most: int) -> None:
    if not least <= len(shape) <= most:
        raise ValueError(
            f"this scheme needs an input and an output axis, a shape of {least} to {most} axes "
            f"[*field, in, out], got {shape}; for a vector or a number use 'normal', "
            f"'constant' or 'zeros'."
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
    "zeros": Scheme(lambda: _constant(0), "0", "the text's first mistake", dtypes=jnp.number),
    "ones": Scheme(lambda: _constant(1), "1", "as in jax.nn.initializers", dtypes=jnp.number),
    "constant": Scheme(_constant, "value", "the text's second mistake", dtypes=jnp.number),
    "normal": Scheme(_normal, "N(mean, scale²)", "the text's randn * scale"),
    "uniform": Scheme(
        _uniform,
        "mean + U(-scale, scale)",
        "symmetric; jax's own is U(0, scale)",
        dtypes=jnp.floating,
    ),
    "truncated_normal": Scheme(
        _truncated_normal,
        "N(0, s²) cut at lower s and upper s (±2s); mean and std exactly as asked, or s = scale "
        "with corrected=False",
        "std corrected unless corrected=False, which is jax.nn.initializers'",
        dtypes=jnp.floating,
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
    "kaiming_normal": Scheme(
        _kaiming("truncated_normal"),
        "N(0, gain² g²/fan), truncated; g² = 2/(1 + a²), or that of nonlinearity",
        "another name: he_normal, with PyTorch's options, whose own is not truncated: that is 'he'",
    ),
    "kaiming_uniform": Scheme(
        _kaiming("uniform"),
        "U(±gain g √(3/fan)); g² = 2/(1 + a²), or that of nonlinearity",
        "another name: he_uniform, with PyTorch's options; its Linear has a = √5",
    ),
    "lecun_normal": Scheme(
        _scaling(1.0, "fan_in", "truncated_normal"), "N(0, gain²/fan_in), truncated", _LECUN
    ),
    "lecun_uniform": Scheme(_scaling(1.0, "fan_in", "uniform"), "U(±gain √(3/fan_in))", _LECUN),
    "variance_scaling": Scheme(
        _variance_scaling,
        "variance gain² scale/fan; mode: the fan, distribution: the shape",
        "as in jax.nn.initializers; PyTorch's xavier_normal_ is scale=1, mode='fan_avg', "
        "distribution='normal'",
    ),
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
        dense="orthogonal",
    ),
    "identity": Scheme(
        _identity,
        "gain I, of each group (kernels: at the centre, 0 elsewhere)",
        "Le, Jaitly & Hinton 2015",
        dtypes=jnp.number,
    ),
    "dirac": Scheme(
        _identity,
        "gain I, of each group, at the kernel's centre",
        "PyTorch's dirac_; another name: identity",
        dtypes=jnp.number,
    ),
    "suo": Scheme(
        _suo,
        "gain √max(fan_out/fan_in, 1) Q; delta=True: at the kernel's centre",
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
            `uniform`, the variance over the fan of `variance_scaling`) are numbers or traced scalar
            arrays. `in_axis` and `out_axis` say where a kernel's input and output channels lie, by
            default -2 and -1 as in Flax and Haiku; Equinox stores (out, in): -1 and -2, and its
            convolutions (out, in, *field): 1 and 0. `batch_axis` counts kernels that are drawn
            each by itself. All three may be tuples.

    Returns:
        The initializer. Shapes have the axes `[*field, in, out]`; what takes no axes draws vectors
        and numbers too. An axis of no entries gives an empty array. bfloat16 and float16 are drawn
        (and decomposed) in float32 and then rounded. Complex dtypes have half of the variance in
        the imaginary part, and orthogonal matrices are unitary there; constants and the identity
        have integer dtypes as well. `out_sharding=` is taken as by `jax.nn.initializers`: a
        sharding, over whose devices the array is drawn; its numbers do not depend on it.

    Raises:
        ValueError: unknown name, a shape the scheme has no meaning for, a negative gain or scale,
            axes that are one axis, float64 where jax has no 64 bits.
        TypeError: an option the scheme does not have, or one that is not a number.

    >>> import jax, jinit
    >>> jinit.scheme("he", gain=0.5)(jax.random.key(0), (256, 128)).shape
    (256, 128)
    """
    checks.choice("scheme", name, SCHEMES)
    entry = SCHEMES[name]
    checks.options(f"scheme {name!r}", options, entry.options)
    for option in ("gain", "scale"):
        if option in options:
            checks.number(option, options[option], least=0)
    for option in ("mean", "a"):
        if option in options:
            checks.number(option, options[option])
    if "value" in options:
        checks.numeric("value", options["value"], complex=True)
        checks.finite("value", options["value"])
        if isinstance(options["value"], list | tuple):
            options = options | {"value": np.asarray(options["value"])}
    axes = {option: _axes(option, options[option]) for option in _AXES if option in options}
    draw = entry.make(**options | axes)
    if entry.decomposes:
        draw = measured(draw)

    def initializer(
        key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None
    ) -> Num[Array, "..."]:
        key = checks.key(key)
        if not isinstance(shape, Sequence | np.ndarray) or isinstance(shape, str):
            raise TypeError(f"shape must list the axes, as in (2, 3), got {checks.shown(shape)}.")
        shape = tuple(checks.count("every axis of shape", n, least=0) for n in shape)
        if "in_axis" in entry.options and len(shape) > 1:
            _check_axes(axes, len(shape))
        dtype = checks.dtype(f"dtype of scheme {name!r}", dtype, entry.dtypes)
        if 0 in shape:
            return jnp.zeros(shape, dtype)
        narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        wide = jnp.dtype(jnp.float32) if narrow else dtype

        def drawn(key: jax.Array) -> Num[Array, "..."]:
            return draw(key, shape, wide).astype(dtype)

        if out_sharding is None:
            return drawn(key)
        return jax.jit(drawn, out_shardings=out_sharding)(key)

    initializer.__name__ = initializer.__qualname__ = name
    return initializer


_AXES = {"in_axis": -2, "out_axis": -1, "batch_axis": ()}


def _axes(option: str, value: Any) -> Axes:
    """An axis, or several, as Python's integers."""
    several = isinstance(value, tuple | list)
    try:
        if any(isinstance(axis, bool | np.bool_) for axis in (value if several else [value])):
            raise TypeError
        return tuple(map(operator.index, value)) if several else operator.index(value)
    except TypeError:
        raise TypeError(
            f"{option} must be an integer or a tuple of them, got {checks.shown(value)}."
        ) from None


def _positions(axes: Axes, rank: int) -> tuple[int, ...]:
    return tuple(axis % rank for axis in (axes if isinstance(axes, tuple) else (axes,)))


def _check_axes(given: dict[str, Axes], rank: int) -> None:
    """Every axis is there, and none is meant twice."""
    of: dict[int, str] = {}
    for option, default in _AXES.items():
        axes = given.get(option, default)
        for axis in axes if isinstance(axes, tuple) else (axes,):
            if not -rank <= axis < rank:
                raise ValueError(
                    f"{option} must lie between {-rank} and {rank - 1} for an array of {rank} "
                    f"axes, got {axis}."
                )
            place = axis % rank
            if place in of:
                raise ValueError(
                    f"in_axis, out_axis and batch_axis must name different axes, got axis {place} "
                    f"of {rank} for both {of[place]} and {option}={axes!r}; say where the inputs "
                    f"and where the outputs lie."
                )
            of[place] = f"{option}={axes!r}"
