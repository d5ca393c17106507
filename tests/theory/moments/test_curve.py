"""Activations in float64 and their expectations, against closed forms and other quadratures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import jinit
from jinit.activations import ACTIVATIONS
from jinit.theory import expectation
from jinit.theory.moments.curve import MomentError, TooRoughError, curve
from jinit.theory.moments.pairs import pair


@pytest.mark.parametrize("q", [1e-6, 0.04, 1.0, 30.0])
def test_closed_forms(q):
    exact = {
        "identity": q,
        "relu": q / 2,
        "leaky_relu": (1 + 0.01**2) * q / 2,
        "erf": 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),
        "sin": -math.expm1(-2 * q) / 2,
    }
    for name, value in exact.items():
        assert curve(name).second(q) == pytest.approx(value, rel=1e-11), name
    assert curve("sin").slope_second(q) == pytest.approx((1 + math.exp(-2 * q)) / 2, rel=1e-11)
    assert expectation(np.cos, q) == pytest.approx(math.exp(-q / 2), rel=1e-11)
    for power, moment in ((0, 1), (2, q), (4, 3 * q**2), (6, 15 * q**3)):
        assert expectation(lambda u, p=power: u**p, q) == pytest.approx(moment, rel=1e-11)


def test_a_variance_of_zero_is_the_limit_of_small_ones():
    assert expectation(np.cos, 0.0) == 1.0
    assert curve("softplus").second(0.0) == pytest.approx(math.log(2) ** 2, rel=1e-12)
    assert curve("relu").slope_second(0.0) == 0.5  # a kink at 0 is seen from both sides
    for name in ACTIVATIONS:
        phi = curve(name)
        assert phi.second_growth(0.0) == pytest.approx(phi.second_growth(1e-10), rel=5e-5)


@pytest.mark.parametrize("q", [0.02, 1.0, 25.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_against_a_dense_trapezoid(name, q):
    """Independent of panels and kinks: 2^19 points err by (24/2^19)² q at a kink, about 1e-8.

    At a jump of phi' the trapezoid errs by half a step, 2.3e-5, times the density there.
    """
    z = np.linspace(-12, 12, 2**19 + 1)
    phi = curve(name)
    value, slope = phi.evaluate(math.sqrt(q) * z)
    weight = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    assert phi.second(q) == pytest.approx(np.sum(weight * value**2), rel=1e-8, abs=1e-12)
    assert phi.mean(q) == pytest.approx(np.sum(weight * value), rel=1e-8, abs=1e-8)
    jumps = 4e-5 if ACTIVATIONS[name].kinks else 1e-12
    assert phi.slope_second(q) == pytest.approx(np.sum(weight * slope**2), rel=1e-8, abs=jumps)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_growth_of_the_second_moment_is_its_derivative(name):
    """Five-point differences, whose error at h = 1e-3 q is 1e-12; no derivative of phi is used."""
    phi = curve(name)
    for q in (0.1, 1.0, 7.0):
        h = 1e-3 * q
        by_steps = (
            8 * (phi.second(q + h) - phi.second(q - h))
            - (phi.second(q + 2 * h) - phi.second(q - 2 * h))
        ) / (12 * h)
        assert phi.second_growth(q) == pytest.approx(by_steps, rel=1e-8)


@pytest.mark.parametrize("q", [1e2, 1e4, 5e4, 1e6])
def test_expectations_of_a_narrow_bend(q):
    """E[tanh^2] for large q against adaptive quadrature in the unscaled variable."""

    def integrand(u):
        return np.tanh(u) ** 2 * np.exp(-(u**2) / (2 * q))

    inner = 2 * scipy.integrate.quad(integrand, 0, 30, epsabs=1e-13)[0] / np.sqrt(2 * np.pi * q)
    tail = scipy.special.erfc(30 / np.sqrt(2 * q))  # beyond 30, tanh is 1 to 1e-26
    assert curve("tanh").second(q) == pytest.approx(inner + tail, rel=1e-10)


def test_scale_invariance_over_four_hundred_decades():
    for q in (1e-200, 1e-30, 1e30, 1e200):
        assert curve("relu").second(q) == pytest.approx(q / 2, rel=1e-13)


# --- functions of one's own -------------------------------------------------------------------


def shifted_relu(x):
    return jnp.maximum(x - 1.3, 0)


def test_kinks_are_found_wherever_they_are():
    phi = curve(lambda x: jnp.abs(x - 0.1) + jnp.clip(x, -2, math.pi))
    phi.second(1.0)
    assert phi.kinks == pytest.approx((-2, 0.1, math.pi), abs=1e-11)
    # E (z - t)^2 for z > t is (1 + t^2) Phi(-t) - t density(t)
    t = 1.3
    tail = scipy.special.ndtr(-t)
    density = math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    shifted = curve(shifted_relu)
    assert shifted.second(1.0) == pytest.approx((1 + t**2) * tail - t * density, rel=1e-10)
    assert shifted.slope_second(1.0) == pytest.approx(tail, rel=1e-10)


@pytest.mark.parametrize(("name", "own"), [
    ("relu", lambda x: jnp.maximum(x, 0)),
    ("gelu", lambda x: x * jax.scipy.stats.norm.cdf(x)),
    ("softplus", lambda x: jnp.logaddexp(x, 0.0)),
    ("hard_tanh", lambda x: jnp.clip(x, -1.0, 1.0)),
    ("elu", lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))),
])  # fmt: skip
def test_a_function_of_ones_own_is_served_like_the_named_one(name, own):
    for q in (1e-4, 1.0, 50.0):
        named, mine = curve(name), curve(own)
        for moment in ("mean", "second", "slope_second", "second_growth"):
            assert getattr(mine, moment)(q) == pytest.approx(getattr(named, moment)(q), rel=1e-9)


def test_moments_that_reach_far_out_are_followed_there():
    """E exp(2 sqrt(q) z) = exp(2 q), whose integrand peaks at z = 2 sqrt(q)."""
    for q in (1.0, 30.0, 60.0):
        assert curve(jnp.exp).second(q) == pytest.approx(math.exp(2 * q), rel=1e-9)


@pytest.mark.parametrize("q", [0.1, 0.03])
def test_moments_that_begin_far_out_are_found_there(q):
    """Sixteen and 29 standard deviations off; beyond 37, float64 has no such probability."""

    def far(x):
        return jax.nn.relu(x - 5)

    assert curve(far).slope_second(q) == pytest.approx(
        scipy.special.ndtr(-5 / math.sqrt(q)), rel=1e-9
    )
    assert curve(far).second_growth(q) == pytest.approx(curve(far).slope_second(q), rel=1e-9)


def test_theory_is_float64_whatever_jax_is_set_to():
    value, slope = curve("tanh").evaluate(np.array([1e-3]))
    assert value.dtype == slope.dtype == np.float64
    assert value[0] == pytest.approx(math.tanh(1e-3), rel=1e-15)
    assert not jax.config.jax_enable_x64


def test_theory_answers_inside_a_trace():
    """So that a gain can be asked for inside a function that jax compiles or maps."""

    def scaled(x):
        return jinit.gain(lambda u: u * jnp.tanh(u)) * x

    inside = jax.jit(jax.vmap(scaled))(jnp.ones(3))
    np.testing.assert_allclose(inside, jinit.gain(lambda u: u * jnp.tanh(u)), rtol=1e-6)


# --- pairs ------------------------------------------------------------------------------------


def arc_cosine(c):
    """E relu(u) relu(v) and E relu'(u) relu'(v) at q = 1 (Cho & Saul 2009, degree 1 and 0)."""
    angle = math.acos(c)
    product = (math.sin(angle) + (math.pi - angle) * c) / (2 * math.pi)
    return product, (math.pi - angle) / (2 * math.pi)


@pytest.mark.parametrize("apart", [1e-6, 0.01, 0.5, 1.0, 1.7, 1.999])
def test_pairs_against_closed_forms(apart):
    c = 1 - apart
    for q in (0.3, 4.0):
        found = pair(curve("relu"), q, apart)
        product, slope = arc_cosine(c)
        assert found.product == pytest.approx(
            q * product, rel=1e-9, abs=1e-12
        )  # arc cosine cancels
        assert found.slope_product == pytest.approx(slope, rel=1e-7, abs=1e-9)
        found = pair(curve("erf"), q, apart)
        assert found.product == pytest.approx(
            2 / math.pi * math.asin(2 * q * c / (1 + 2 * q)), abs=1e-14
        )
        assert found.slope_product == pytest.approx(
            4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2), rel=1e-10
        )
        found = pair(curve("sin"), q, apart)
        assert found.product == pytest.approx(math.exp(-q) * math.sinh(q * c), abs=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_difference_and_product_make_up_the_second_moment(name):
    phi = curve(name)
    for q in (0.1, 5.0):
        for apart in (1e-9, 0.3, 1.5):
            found = pair(phi, q, apart)
            total = found.product + found.half_square_difference
            assert total == pytest.approx(phi.second(q), rel=1e-10)
        # Price's theorem: the derivative of the product by c is q E phi'(u) phi'(v).
        h = 1e-4
        rise = pair(phi, q, 0.5 - h).product - pair(phi, q, 0.5 + h).product
        slope = pair(phi, q, 0.5).slope_product
        assert rise / (2 * h) == pytest.approx(q * slope, rel=1e-6)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(("function", "error", "message"), [
    (jax.nn.softmax, ValueError, "an elementwise .* got one whose value at an entry depends on"),
    (jnp.cumsum, ValueError, "an elementwise .* got one whose value at an entry depends on"),
    (lambda x: jnp.roll(x, 1), ValueError, "got one whose value at an entry depends on"),
    (lambda x: x - jnp.mean(x), ValueError, "got one whose value at an entry depends on"),
    (jnp.sum, ValueError, r"an elementwise .* turns shape \(8,\) into \(\)"),
    (lambda x: x.astype("float32"), ValueError, "keeps float64, got one that returns float32"),
    (np.tanh, TypeError, "an elementwise jax.numpy function"),
    (jnp.sign, ValueError, "got one that jumps at x = 0"),
    (jnp.floor, ValueError, "got one that jumps at x = "),
    (lambda x: jnp.sqrt(jnp.abs(x)), ValueError, "has no bounded derivative at x = "),
    (lambda x: jnp.sin(1e6 * x), TooRoughError, "differentiable but for isolated points"),
    (jnp.sqrt, MomentError, "sqrt or its derivative is not finite at x = -"),
    (lambda x: jnp.exp(x**2), MomentError, "diverges, or leaves float64, at variance q = 1;"),
])  # fmt: skip
def test_what_theory_cannot_follow_is_one_sentence(function, error, message):
    with pytest.raises(error, match=message) as caught:
        curve(function).second(1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_moments_that_diverge_are_one_sentence():
    with pytest.raises(MomentError, match=r"exp diverges, or leaves float64, at variance q = 400"):
        curve(jnp.exp).second(400.0)
    for name in ("relu", "tanh"):
        curve(name).second(1e297)
        with pytest.raises(MomentError, match=rf"{name} cannot be .* q = 1e\+308; .* most 1e\+297"):
            curve(name).second(1e308)


@pytest.mark.bad_input
def test_expectations_that_cannot_be_followed_are_one_sentence():
    with pytest.raises(ValueError, match="finite within twelve standard deviations"):
        expectation(lambda x: np.where(x > 1, np.nan, x))
    with pytest.raises(ValueError, match="smooth but for isolated points"):
        expectation(lambda x: np.sin(1e6 * x))
    with pytest.raises(ValueError, match="q is a variance and must not be negative"):
        expectation(np.cos, -1.0)
