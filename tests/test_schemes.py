"""Every scheme in the table, none skipped: its standard deviation, its shape, its structure."""

import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.schemes import TRUNCATED_STD

# About 15000 entries each. Schemes are called eagerly throughout: jax then compiles one draw per
# shape and distribution, which all schemes share, where a jit per scheme would compile each anew.
SHAPES = {
    "dense wide": (96, 160),
    "dense tall": (160, 96),
    "1-d kernel": (3, 64, 80),
    "2-d kernel": (3, 3, 40, 48),
    "3-d kernel": (2, 3, 2, 32, 40),
}


def fans(shape):
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]


class Random(NamedTuple):
    """Independent entries: std by the fans, and the shape of the distribution."""

    std: Callable[[int, int], float]
    kind: str
    needs_fans: bool = True


class Structured(NamedTuple):
    """No independent entries: a check of the kernel, and shapes that have no meaning."""

    check: Callable[[np.ndarray], None]
    refuses: Callable[[tuple[int, ...]], bool] = lambda shape: False
    needs_fans: bool = True


def constant(value):
    return lambda w: np.testing.assert_array_equal(w, np.full_like(w, value))


def matrix(w):
    return w.reshape(-1, w.shape[-1]).astype(np.float64)


def singular_values(w):
    return np.linalg.svd(matrix(w), compute_uv=False)


EXACT = 5e-6  # float32 QR of matrices of a few hundred rows


def orthogonal(w):
    np.testing.assert_allclose(singular_values(w), 1.0, atol=EXACT)


def suo(w):
    rows, columns = matrix(w).shape
    root = math.sqrt(max(columns / rows, 1))
    np.testing.assert_allclose(singular_values(w), root, atol=EXACT)


def centre(w):
    """The middle of the receptive field, with everything around it zero."""
    middle = tuple((n - 1) // 2 for n in w.shape[:-2])
    rest = w.copy()
    rest[middle] = 0
    assert not rest.any()
    return w[middle]


def delta_orthogonal(w):
    np.testing.assert_allclose(singular_values(centre(w)), 1.0, atol=EXACT)


def identity(w):
    np.testing.assert_array_equal(centre(w), np.eye(*w.shape[-2:]))


def looks_linear_hidden(w):
    half_in, half_out = w.shape[-2] // 2, w.shape[-1] // 2
    top, bottom = w[..., :half_in, :], w[..., half_in:, :]
    np.testing.assert_array_equal(top, -bottom)
    np.testing.assert_array_equal(top[..., :half_out], -top[..., half_out:])
    orthogonal(top[..., :half_out])


def glorot(fan_in, fan_out):
    return math.sqrt(2 / (fan_in + fan_out))


def he(fan_in, fan_out):
    return math.sqrt(2 / fan_in)


def lecun(fan_in, fan_out):
    return math.sqrt(1 / fan_in)


EXPECTED = {
    "zeros": Structured(constant(0.0), needs_fans=False),
    "ones": Structured(constant(1.0), needs_fans=False),
    "constant": Structured(constant(1.0), needs_fans=False),
    "normal": Random(lambda *_: 0.01, "normal", needs_fans=False),
    "uniform": Random(lambda *_: 0.01 / math.sqrt(3), "uniform", needs_fans=False),
    "truncated_normal": Random(lambda *_: 0.01, "truncated", needs_fans=False),
    "variance_scaling": Random(lecun, "truncated"),
    "xavier": Random(lecun, "normal"),
    "he": Random(he, "normal"),
    "glorot_normal": Random(glorot, "truncated"),
    "glorot_uniform": Random(glorot, "uniform"),
    "xavier_normal": Random(glorot, "truncated"),
    "xavier_uniform": Random(glorot, "uniform"),
    "he_normal": Random(he, "truncated"),
    "he_uniform": Random(he, "uniform"),
    "kaiming_normal": Random(he, "truncated"),
    "kaiming_uniform": Random(he, "uniform"),
    "lecun_normal": Random(lecun, "truncated"),
    "lecun_uniform": Random(lecun, "uniform"),
    "orthogonal": Structured(orthogonal),
    "delta_orthogonal": Structured(
        delta_orthogonal, refuses=lambda s: len(s) == 2 or s[-1] < s[-2]
    ),
    "identity": Structured(identity),
    "dirac": Structured(identity),
    "suo": Structured(suo),
    "looks_linear": Structured(looks_linear_hidden),
}

# Largest entry in standard deviations, and the kurtosis.
DISTRIBUTIONS = {
    "normal": (math.inf, 3.0),
    "uniform": (math.sqrt(3), 9 / 5),
    "truncated": (2 / TRUNCATED_STD, 2.3655),
}


def draw(name, shape, dtype=jnp.float32, **options):
    w = jinit.scheme(name, **options)(jax.random.key(7), shape, dtype)
    assert (w.shape, w.dtype) == (shape, dtype)
    return np.asarray(w.astype(jnp.float32))


def check(name, w):
    """What the table promises, for a kernel laid out [*field, in, out]."""
    expected = EXPECTED[name]
    if isinstance(expected, Random):
        check_random(w, expected, expected.std(*fans(w.shape)))
    else:
        expected.check(w)


def check_random(w, expected, std, extra=0.0):
    bound, kurtosis = DISTRIBUTIONS[expected.kind]
    n = w.size
    # The variance of n independent entries scatters by sqrt((kurtosis - 1) / n), the std by half.
    tolerance = 5 * math.sqrt((kurtosis - 1) / n) / 2 + extra
    assert abs(np.mean(w)) < 5 * std / math.sqrt(n) + extra * std
    assert abs(np.sqrt(np.mean(w.astype(float) ** 2)) / std - 1) < tolerance
    largest = np.abs(w).max() / std
    if math.isfinite(bound):
        assert 0.97 * bound < largest <= bound * (1 + 1e-5 + extra)
    else:  # of 15000 normal draws the largest lies beyond 3.2 but for a chance of 1e-9
        assert largest > 3.2


def test_the_constants_of_the_truncated_normal_here_are_right():
    from scipy import stats

    cut = stats.truncnorm(-2, 2)
    assert cut.std() == pytest.approx(0.8796256610342398, rel=1e-12)
    assert pytest.approx(0.8796256610342398, rel=1e-15) == TRUNCATED_STD
    assert cut.stats("k") + 3 == pytest.approx(DISTRIBUTIONS["truncated"][1], abs=1e-3)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_every_scheme_on_every_shape(name, kind):
    shape, expected = SHAPES[kind], EXPECTED[name]
    if isinstance(expected, Structured) and expected.refuses(shape):
        with pytest.raises(ValueError, match=rf"{name}.*use '(orthogonal|suo)'") as error:
            jinit.scheme(name)(jax.random.key(0), shape)
        assert str(shape) in str(error.value)
        return
    check(name, draw(name, shape))


@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_vectors_work_or_are_refused(name, key):
    expected = EXPECTED[name]
    if expected.needs_fans:
        with pytest.raises(ValueError, match=r"\(12,\)") as error:
            jinit.scheme(name)(key, (12,))
        assert "use 'normal'" in str(error.value) or "use 'orthogonal'" in str(error.value)
    elif isinstance(expected, Random):
        check_random(draw(name, (15000,)), expected, expected.std(1, 1))
    else:
        expected.check(draw(name, (12,)))


@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_too_many_axes_work_or_are_refused(name, key):
    expected, shape = EXPECTED[name], (2, 2, 2, 2, 4, 4)
    if isinstance(expected, Structured) and expected.needs_fans:
        with pytest.raises(ValueError, match="axes"):
            jinit.scheme(name)(key, shape)
    else:
        w = jax.eval_shape(lambda k: jinit.scheme(name)(k, shape), key)
        assert w.shape == shape


def test_the_expectations_cover_the_table():
    assert set(EXPECTED) == set(jinit.SCHEMES)


@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_the_table_says_formula_source_and_options(name):
    entry = jinit.SCHEMES[name]
    assert entry.formula
    assert entry.source
    if EXPECTED[name].needs_fans:
        assert {"gain", "in_axis", "out_axis"} <= set(entry.options)


# --- agreement with jax ---------------------------------------------------------------------


SHARED = sorted(
    set(jinit.SCHEMES) & set(dir(jax.nn.initializers)) - {"uniform", "truncated_normal"}
)


@pytest.mark.parametrize("name", SHARED)
def test_equals_the_jax_initializer_of_the_same_name(name, key):
    factory = getattr(jax.nn.initializers, name)
    theirs = {
        "zeros": factory,
        "ones": factory,
        "constant": lambda *a: factory(1.0)(*a),
        "variance_scaling": lambda *a: factory(1.0, "fan_in", "truncated_normal")(*a),
    }.get(name) or factory()
    shape = SHAPES["1-d kernel"]
    np.testing.assert_array_equal(
        jinit.scheme(name)(key, shape), theirs(key, shape, jnp.float32), strict=True
    )


def test_where_a_name_of_jax_means_something_else_the_option_gives_theirs(key):
    """truncated_normal corrects its std unless told not to; uniform is symmetric, jax's is not."""
    theirs = jax.nn.initializers.truncated_normal(stddev=0.3)(
        key, SHAPES["dense wide"], jnp.float32
    )
    ours = jinit.scheme("truncated_normal", scale=0.3, corrected=False)(key, SHAPES["dense wide"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    corrected = jinit.scheme("truncated_normal", scale=0.3)(key, SHAPES["dense wide"])
    np.testing.assert_allclose(corrected * TRUNCATED_STD, theirs, rtol=1e-6)
    assert jnp.min(jinit.scheme("uniform", scale=0.3)(key, SHAPES["dense wide"])) < -0.29


def test_the_names_compared_with_jax_are_those_the_table_claims():
    claimed = {n for n, entry in jinit.SCHEMES.items() if "as in jax.nn" in entry.source}
    assert claimed <= set(SHARED)


# --- options --------------------------------------------------------------------------------


def amplitude(name):
    """The option that multiplies the draw."""
    options = jinit.SCHEMES[name].options
    return next((o for o in ("gain", "scale", "value") if o in options), None)


@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_amplitudes_may_be_traced(name):
    """Under vmap and grad here; test_networks maps them under jit for every scheme."""
    option, shape = amplitude(name), SHAPES["1-d kernel"]
    if option is None:
        assert name in ("zeros", "ones")
        return
    values = jnp.asarray([0.0, 0.25, 1.0, 3.0])
    key = jax.random.key(7)
    mapped = jax.vmap(lambda v: jinit.scheme(name, **{option: v})(key, shape))(values)
    base = np.asarray(jinit.scheme(name, **{option: 1.0})(key, shape))
    expected = np.asarray(values)[:, None, None, None] * base
    np.testing.assert_allclose(mapped, expected, rtol=1e-6, atol=0)
    # The derivative by a traced amplitude is the unit draw itself.
    _, slope = jax.jvp(lambda v: jinit.scheme(name, **{option: v})(key, shape), (2.0,), (1.0,))
    np.testing.assert_allclose(slope, base, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "name", [n for n in jinit.SCHEMES if "in_axis" in jinit.SCHEMES[n].options]
)
def test_other_axes_hold_the_same_scheme(name):
    """Equinox's linear layers are (out, in), its convolutions (out, in, *field)."""
    w = draw(name, (48, 40, 3, 3), in_axis=1, out_axis=0)
    check(name, np.moveaxis(w, (1, 0), (-2, -1)))
    if name != "delta_orthogonal":
        check(name, draw(name, (160, 96), in_axis=-1, out_axis=-2).T)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_low_precision_is_drawn_wide_and_rounded(name, dtype):
    shape = SHAPES["1-d kernel"]
    rounded = jnp.asarray(draw(name, shape)).astype(dtype).astype(jnp.float32)
    np.testing.assert_array_equal(draw(name, shape, dtype), rounded)


def test_bfloat16_orthogonal_is_orthogonal_and_its_std_right():
    rows, columns = SHAPES["dense tall"]
    w = draw("orthogonal", (rows, columns), jnp.bfloat16, gain=2.0)
    # Rounding moves every entry by at most eps/2 of itself, hence WᵀW/4 by Σ|w||w| eps <= eps.
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    assert np.abs(w.T @ w / 4 - np.eye(columns)).max() < 1.2 * eps
    # Every column has norm 2, so the root mean square is 2/sqrt(rows) up to rounding.
    assert abs(np.sqrt(np.mean(w**2) * rows) / 2 - 1) < eps


@pytest.mark.parametrize("name", ["he", "he_normal", "he_uniform"])
def test_bfloat16_keeps_the_std(name):
    shape = SHAPES["dense wide"]
    w = draw(name, shape, jnp.bfloat16)
    check_random(w, EXPECTED[name], he(*fans(shape)), extra=float(jnp.finfo(jnp.bfloat16).eps))


def test_float64_is_drawn_in_float64(key):
    with jax.enable_x64(True):
        w = jinit.scheme("orthogonal")(key, (12, 12), jnp.float64)
        assert w.dtype == jnp.float64
        np.testing.assert_allclose(w @ w.T, np.eye(12), atol=1e-14)


# --- structure ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES)
def test_suo_preserves_lengths_per_unit(kind):
    """Martens et al. 2021: a widening layer multiplies the mean square by gain² exactly."""
    gain = 0.5
    w = matrix(draw("suo", SHAPES[kind], gain=gain))
    rows, columns = w.shape
    x = np.random.default_rng(0).normal(size=(5, rows))
    if columns >= rows:
        np.testing.assert_allclose(
            np.mean((x @ w) ** 2, axis=1), gain**2 * np.mean(x**2, axis=1), rtol=1e-5
        )
    else:  # narrowing ones project; their singular values are the gain
        np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), gain, atol=EXACT)


def test_delta_orthogonal_convolutions_are_isometries():
    """Xiao et al. 2018: stride 1, periodic or zero padding, every singular value is the gain."""
    w = draw("delta_orthogonal", (3, 3, 6, 6), gain=1.5)
    x = np.random.default_rng(1).normal(size=(2, 5, 5, 6)).astype(np.float32)
    y = jax.lax.conv_general_dilated(
        x, jnp.asarray(w), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        np.sum(np.square(y), axis=-1), 1.5**2 * np.sum(x**2, axis=-1), rtol=1e-5
    )


def test_orthogonal_is_haar_not_merely_orthogonal():
    """QR without the sign correction would leave a diagonal of R-signs: E[w_00] is 0 for Haar."""
    keys = jax.random.split(jax.random.key(0), 4000)
    w = jax.jit(jax.vmap(lambda k: jinit.scheme("orthogonal")(k, (3, 3))))(keys)
    # Each entry has mean 0 and variance 1/3.
    assert np.abs(np.mean(w, axis=0)).max() < 5 / math.sqrt(3 * 4000)
    assert np.abs(np.mean(np.square(w), axis=0) - 1 / 3).max() < 5 * 0.3 / math.sqrt(4000)


@pytest.mark.parametrize("place", ["first", "hidden", "last", "only"])
def test_looks_linear_mirrors_by_place(place):
    w = draw("looks_linear", (8, 12), place=place, gain=2.0) / 2
    if place in ("first", "hidden"):
        np.testing.assert_array_equal(w[:, :6], -w[:, 6:])
        w = w[:, :6]
    if place in ("hidden", "last"):
        np.testing.assert_array_equal(w[:4], -w[4:])
        w = w[:4]
    orthogonal(w)


def test_looks_linear_needs_pairs(key):
    with pytest.raises(ValueError, match=r"output width of a 'first' layer must be even, got 7"):
        jinit.scheme("looks_linear", place="first")(key, (5, 7))
    with pytest.raises(ValueError, match=r"input width of a 'last' layer must be even, got 5"):
        jinit.scheme("looks_linear", place="last")(key, (5, 7))
    assert jinit.scheme("looks_linear", place="only")(key, (5, 7)).shape == (5, 7)


def test_an_initializer_is_pure_and_named(key):
    he = jinit.scheme("he")
    assert he.__name__ == "he"
    np.testing.assert_array_equal(he(key, (4, 5)), he(key, (4, 5)))
    assert not np.array_equal(he(key, (4, 5)), he(jax.random.key(21), (4, 5)))
    assert he(key, (4, 5), None).dtype == jnp.float32


def test_a_legacy_key_draws_what_its_typed_key_draws():
    he = jinit.scheme("he")
    np.testing.assert_array_equal(he(jax.random.PRNGKey(4), (4, 5)), he(jax.random.key(4), (4, 5)))


# --- the forms that jax, PyTorch and dks have -------------------------------------------------


@pytest.mark.parametrize("distribution", ["truncated_normal", "normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
def test_variance_scaling_is_jaxs(mode, distribution, key):
    theirs = jax.nn.initializers.variance_scaling(1.7, mode, distribution)
    ours = jinit.scheme("variance_scaling", scale=1.7, mode=mode, distribution=distribution)
    np.testing.assert_array_equal(ours(key, (7, 12)), theirs(key, (7, 12)))


@pytest.mark.parametrize(
    ("options", "std"),
    [
        ({}, math.sqrt(2 / 400)),
        ({"a": math.sqrt(5)}, math.sqrt(1 / 1200)),  # torch.nn.Linear: U(+-1/sqrt(fan_in))
        ({"nonlinearity": "tanh", "mode": "fan_out"}, 5 / 3 / math.sqrt(300)),
        ({"nonlinearity": "selu"}, 0.75 / math.sqrt(400)),
        ({"nonlinearity": "relu", "gain": 0.5}, 0.5 * math.sqrt(2 / 400)),
    ],
)
def test_kaiming_has_pytorchs_gains(options, std):
    """torch.nn.init.kaiming_normal_ and kaiming_uniform_: std gain / sqrt(fan)."""
    for name in ("kaiming_normal", "kaiming_uniform"):
        check_random(draw(name, (400, 300), **options), EXPECTED[name], std)


def test_pytorchs_xavier_normal_is_not_cut():
    w = draw("variance_scaling", (400, 300), scale=1.0, mode="fan_avg", distribution="normal")
    check_random(w, EXPECTED["xavier"], glorot(400, 300))


@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (-1.0, 3.0), (0.0, 1.0), (2.0, math.inf)])
def test_a_truncated_normal_has_the_mean_and_std_it_is_asked_for(bounds):
    lower, upper = bounds
    w = draw("truncated_normal", (300, 300), scale=0.5, mean=3.0, lower=lower, upper=upper)
    # The std of a mean of n draws is std/sqrt(n); that of the std below std sqrt(kurtosis/n).
    assert abs(w.mean() - 3) < 5 * 0.5 / 300
    assert abs(w.std() / 0.5 - 1) < 5 * 3 / 300
    raw = draw("truncated_normal", (99, 99), scale=0.5, mean=3.0, lower=lower, upper=upper,
               corrected=False)  # fmt: skip
    assert raw.min() >= 3 + 0.5 * lower - 1e-6
    assert raw.max() <= 3 + 0.5 * upper + 1e-6


def test_means_move_normals_and_uniforms(key):
    for name in ("normal", "uniform"):
        moved, still = (jinit.scheme(name, mean=m)(key, (5, 6)) for m in (2.0, 0.0))
        np.testing.assert_array_equal(moved, 2 + still)


def test_a_constant_may_be_an_array_that_broadcasts(key):
    w = jinit.scheme("constant", value=[1, 2, 3])(key, (2, 3), jnp.int32)
    np.testing.assert_array_equal(w, [[1, 2, 3], [1, 2, 3]])


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_dirac_passes_every_groups_channels_on(groups, key):
    x = jax.random.normal(key, (1, 9, 4 * groups))
    kernel = jinit.scheme("dirac", groups=groups)(key, (3, 4, 4 * groups))
    out = jax.lax.conv_general_dilated(
        x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )  # fmt: skip
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 3, 24, 8)])
def test_suo_at_the_centre(shape):
    w = centre(draw("suo", shape, delta=True))
    root = math.sqrt(max(shape[-1] / shape[-2], 1))
    np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), root, atol=EXACT)


# --- axes, shapes and dtypes ------------------------------------------------------------------


def test_orthogonal_over_tuples_of_axes_and_each_of_a_batch(key):
    w = jinit.scheme("orthogonal", in_axis=(0, 3), out_axis=2, batch_axis=1)(key, (3, 2, 5, 4))
    matrices = np.moveaxis(np.asarray(w), 1, 0).transpose(0, 1, 3, 2).reshape(2, 12, 5)
    np.testing.assert_allclose(
        matrices.transpose(0, 2, 1) @ matrices, np.broadcast_to(np.eye(5), (2, 5, 5)), atol=EXACT
    )
    assert not np.array_equal(*matrices)


def test_axes_may_be_numpys_and_count_from_either_end(key):
    ours = jinit.scheme("he", in_axis=np.int64(0), out_axis=np.int32(-1))(key, (4, 6))
    np.testing.assert_array_equal(ours, jinit.scheme("he")(key, (4, 6)))


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["orthogonal", "he", "suo", "dirac", "variance_scaling"])
@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"in_axis": -2, "out_axis": 0}, "axis 0 of 2 for both in_axis=-2 and out_axis=0"),
        ({"in_axis": (0, 1)}, "axis 1 of 2 for both in_axis=.0, 1. and out_axis=-1"),
        ({"batch_axis": 0}, "axis 0 of 2 for both in_axis=-2 and batch_axis=0"),
        ({"in_axis": (0, -2)}, "axis 0 of 2 for both"),
        ({"out_axis": 5}, "out_axis must lie between -2 and 1 for an array of 2 axes, got 5"),
    ],
)
def test_axes_that_are_one_axis_or_none_are_refused(name, axes, sentence, key):
    with pytest.raises(ValueError, match=sentence):
        jinit.scheme(name, **axes)(key, (4, 6))


@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_numbers_and_axes_of_no_entries(name, key):
    assert jinit.scheme(name)(key, (3, 0, 4)).shape == (3, 0, 4)
    if EXPECTED[name].needs_fans:
        with pytest.raises(ValueError, match=r"for a (vector|dense layer)"):
            jinit.scheme(name)(key, ())
    else:
        assert jinit.scheme(name)(key, ()).shape == ()


INTEGER = {"zeros", "ones", "constant", "identity", "dirac"}
REAL = {"uniform", "truncated_normal"}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", jinit.SCHEMES)
def test_every_scheme_on_every_kind_of_number(name, key):
    shape = (3, 8, 8)
    for dtype, allowed in (
        (jnp.int32, name in INTEGER),
        (jnp.complex64, name not in REAL),
        (jnp.bool_, False),
    ):
        if allowed:
            assert jinit.scheme(name)(key, shape, dtype).dtype == dtype
        else:
            with pytest.raises(TypeError, match=f"dtype of scheme '{name}' must be"):
                jinit.scheme(name)(key, shape, dtype)


@pytest.mark.parametrize("name", ["he", "glorot_uniform", "he_normal", "kaiming_normal"])
def test_complex_draws_have_the_variance_over_both_parts(name, key):
    shape = SHAPES["dense wide"]
    w = np.asarray(jinit.scheme(name)(key, shape, jnp.complex64))
    std = EXPECTED[name].std(*fans(shape))
    # |w|^2 of a complex normal has kurtosis 2, and 15360 entries
    assert abs(np.sqrt(np.mean(np.abs(w) ** 2)) / std - 1) < 5 / 2 / math.sqrt(w.size)
    assert abs(np.mean(w.real**2) / np.mean(w.imag**2) - 1) < 5 * 2 / math.sqrt(w.size)


@pytest.mark.parametrize("name", ["orthogonal", "suo", "delta_orthogonal"])
def test_complex_orthogonal_matrices_are_unitary(name, key):
    w = jinit.scheme(name)(key, (3, 12, 12), jnp.complex64)
    w = np.asarray(w[1] if name == "delta_orthogonal" else w.reshape(36, 12))
    np.testing.assert_allclose(w.conj().T @ w, np.eye(12), atol=EXACT)
    assert np.abs(w.imag).max() > 0.1


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda k: jinit.scheme("he")(k, (3, 3), jnp.float64), ValueError, "cannot be float64"),
        (lambda k: jinit.scheme("he")(k, (3, 3), "floot"), TypeError, "got 'floot'"),
        (lambda k: jinit.init_params(k, [4, 2], dtype="float64"), ValueError, "jax_enable_x64"),
        (lambda k: jinit.init_params(k, [4, 2], dtype=int), TypeError, "floating-point dtype"),
        (lambda k: jinit.scheme("he", gain=-1), ValueError, "gain must be at least 0, got -1"),
        (lambda k: jinit.scheme("normal", scale=-1.0), ValueError, "scale must be at least 0"),
        (lambda k: jinit.scheme("he", in_axis=True), TypeError, "in_axis must be an integer"),
        (lambda k: jinit.scheme("constant", value="a"), TypeError, "value must be an array of"),
        (lambda k: jinit.scheme("constant", value=1.5)(k, (2,), jnp.int32), ValueError, "got 1.5"),
        (lambda k: jinit.scheme("constant", value=1j)(k, (2,)), ValueError, "float32, got 1j"),
        (lambda k: jinit.scheme("constant", value=[1, 2])(k, (3,)), ValueError, "broadcasts to"),
        (lambda k: jinit.scheme("dirac", groups=3)(k, (4, 8)), ValueError, "groups must divide"),
        (lambda k: jinit.scheme("suo", delta=1), TypeError, "delta must be True"),
        (lambda k: jinit.scheme("truncated_normal", lower=2.0), ValueError, "lower must lie below"),
        (lambda k: jinit.scheme("truncated_normal", upper="2"), TypeError, "upper must be a num"),
        (lambda k: jinit.scheme("variance_scaling", mode="in"), ValueError, "unknown mode 'in'"),
        (lambda k: jinit.scheme("kaiming_normal", nonlinearity="gelu"), ValueError, "'selu'"),
        (lambda k: jinit.scheme("kaiming_norms"), ValueError, "did you mean 'kaiming_normal'"),
        (lambda k: jinit.scheme("swish"), ValueError, "unknown scheme 'swish'. Allowed"),
        (lambda k: jinit.MLP((4, 2), activation="swosh"), ValueError, "unknown .*'swosh'. Allowed"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(call, kind, sentence, key):
    with pytest.raises(kind, match=sentence):
        call(key)


def test_python_types_are_jaxs_own(key):
    assert jinit.scheme("he")(key, (3, 3), float).dtype == jnp.float32


# --- over devices -----------------------------------------------------------------------------


@pytest.mark.script
@pytest.mark.parametrize(
    ("names", "counts"),
    [
        ("he he_uniform orthogonal", "1 8"),
        pytest.param(" ".join(jinit.SCHEMES), "1 2 4 8", marks=pytest.mark.long),
    ],
)
def test_draws_do_not_depend_on_the_number_of_devices(names, counts):
    """Drawn where they are to lie, by `out_sharding=`."""
    program = textwrap.dedent(
        """
        import sys, jax, jinit, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec
        key = jax.random.key(0)
        names, counts = sys.argv[1].split(), [int(n) for n in sys.argv[2].split()]
        for name in names:
            shape = (3, 16, 16) if name == "delta_orthogonal" else (16, 16)
            draw = jinit.scheme(name)
            alone = None
            for count in counts:
                mesh = jax.make_mesh((count,), ("x",), devices=jax.devices()[:count])
                own = NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), "x"))
                w = draw(key, shape, out_sharding=own)
                assert w.sharding == own, (name, w.sharding)
                alone = np.asarray(w) if alone is None else alone
                np.testing.assert_array_equal(w, alone, err_msg=f"{name} on {count}")
            np.testing.assert_allclose(alone, draw(key, shape), rtol=1e-6, atol=1e-7)
        """
    )
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", program, names, counts], env=os.environ | flags, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
