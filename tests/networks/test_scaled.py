"""Arrays with an exponent of their own stand for what they say, over ranges no float holds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jinit.networks.scaled import Scaled, add, log_rms, normalise, pow2, to_array

LOG2 = math.log(2)
finite = st.floats(min_value=-(2.0**100), max_value=2.0**100, width=32, allow_subnormal=False)
vectors = st.lists(finite, min_size=3, max_size=3)
exponents = st.integers(-(10**6), 10**6)

# One compiled program for all examples of a property.
normalised = jax.jit(normalise)
added = jax.jit(lambda x, ex, y, ey: add(normalise(x, ex), normalise(y, ey)))
logged = jax.jit(lambda x, ex: log_rms(normalise(x, ex)))
back = jax.jit(lambda x, e: to_array(normalise(x, e)))


def f32(values):
    return jnp.asarray(values, jnp.float32)


@settings(deadline=None, max_examples=60)
@given(vectors, exponents)
def test_normalise_moves_factors_of_two_and_rounds_nothing(values, exponent):
    array, total = normalised(f32(values), exponent)
    largest = float(np.abs(array).max())
    if not any(values):
        assert (largest, int(total)) == (0.0, 0)
        return
    assert 1 <= largest < 2
    shift = int(total) - exponent
    for value, moved in zip(np.float32(values), np.asarray(array), strict=True):
        exact = math.ldexp(float(value), -shift)
        # Entries 2^126 below the largest leave the range; nothing else is changed.
        assert float(moved) == (exact if abs(exact) >= 2.0**-126 else float(moved))
        assert abs(float(moved) - exact) < 2.0**-126


@settings(deadline=None, max_examples=60)
@given(vectors, vectors, exponents, st.integers(-200, 200))
def test_add_is_the_sum(x, y, exponent, apart):
    array, total = added(f32(x), exponent, f32(y), exponent + apart)
    # The exact sum in rational arithmetic of Python, on the scale of the larger term.
    fx = [math.ldexp(float(np.float32(v)), 0) for v in x]
    fy = [math.ldexp(float(np.float32(v)), apart) for v in y]
    bound = max(map(abs, fx + fy)) * 2.0**-23
    for a, b, got in zip(fx, fy, np.asarray(array), strict=True):
        value = math.ldexp(float(got), int(total) - exponent) if got else 0.0
        assert abs(value - (a + b)) <= bound


@settings(deadline=None, max_examples=60)
@given(vectors, exponents)
def test_log_rms_knows_no_range(values, exponent):
    rms = math.sqrt(sum(float(np.float32(v)) ** 2 for v in values) / 3)
    got = float(logged(f32(values), exponent))
    if rms == 0:
        assert got == -math.inf
    else:
        expected = math.log(rms) + exponent * LOG2
        assert got == pytest.approx(expected, rel=3e-7, abs=1e-6)


def test_to_array_gives_the_value_and_under_or_overflows_where_it_does():
    x = f32([1.0, -1.5, 0.25])
    for exponent in (-100, 0, 120):
        np.testing.assert_array_equal(back(x, exponent), np.ldexp(np.asarray(x), exponent))
    assert not np.any(back(x, -400))
    assert np.isinf(back(x, 400)).all()


def test_adding_zero_changes_nothing_whatever_its_exponent():
    zero, x = jnp.zeros(3), f32([1.0, 1.25, 0.5])
    for exponent in (-5000, 0, 5000):
        for array, total in (added(x, exponent, zero, 0), added(zero, 0, x, exponent)):
            np.testing.assert_array_equal(array, x)
            assert int(total) == exponent
    assert int(added(zero, 3, zero, 7)[1]) == 0


def test_what_is_not_finite_stays_so():
    for bad in (math.nan, math.inf):
        array, _ = normalised(f32([1.0, bad, 2.0]), 0)
        assert not np.isfinite(array).all()
        assert not np.isfinite(added(f32([1.0, bad, 2.0]), 0, f32([1.0, 1.0, 1.0]), 50)[0]).all()
        assert not math.isfinite(logged(f32([1.0, bad, 2.0]), -90))


def test_pow2_is_exact_and_clipped_to_normal_numbers():
    exponents = jnp.arange(-126, 128)
    np.testing.assert_array_equal(
        pow2(exponents, jnp.float32), np.ldexp(np.float32(1), np.arange(-126, 128))
    )
    info = jnp.finfo(jnp.float32)
    assert pow2(jnp.asarray(-9999), jnp.float32) == info.smallest_normal
    assert pow2(jnp.asarray(9999), jnp.float32) == 2.0**127


def test_a_scaled_array_is_a_pytree():
    leaves = jax.tree.leaves(Scaled(jnp.ones(2), jnp.asarray(3)))
    assert len(leaves) == 2
