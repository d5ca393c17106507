"""Shaped activations, dropout: against published numbers, dks's own, and closed forms."""

import math

import jax
import jax.numpy as jnp
import pytest

import jinit
from jinit import theory
from jinit.theory import dks, dropout, gaussian_poincare, tat
from jinit.theory.moments.curve import curve
from jinit.theory.moments.pairs import pair


@pytest.mark.parametrize(("phi", "a", "b"), [
    ("tanh", 1.467414, 0.388542), ("elu", 1.223429, 0.074220), ("selu", 0.966026, 0.258446),
])  # fmt: skip
def test_gaussian_poincare_as_published(phi, a, b):
    shaped = gaussian_poincare(phi)
    assert shaped.output_scale == pytest.approx(a, abs=6e-7)
    assert shaped.output_scale * shaped.output_shift == pytest.approx(b, abs=6e-7)
    assert jinit.gain(shaped) == pytest.approx(1, rel=1e-9)
    assert jinit.gain(shaped, 1.0, "gradient") == pytest.approx(1, rel=1e-9)


# Printed by dks 0.1.2 for a plain network: depth, input scale and shift, output scale and shift.
DKS = [
    ("tanh", 10, 0.2966500987, 0.6528036088, 4.964600168, -0.5424961622),
    ("softplus", 10, 0.8102795426, 0.4190004084, 2.046517222, -0.9981736049),
    ("silu", 10, 0.4369165889, 0.3413047254, 3.428074470, -0.2427555778),
    ("erf", 100, 0.0782941380, 0.5834801087, 15.90899560, -0.5878712692),
]
TAT = [
    ("tanh", 10, 0.1846384037, -0.5573665827, 7.234956477, 0.5105445077),
    ("softplus", 100, 0.1491247398, 0.5374255841, 10.61903876, -0.9964733448),
    ("silu", 10, 0.2830136675, 0.4507897059, 4.900317960, -0.2682384712),
]


@pytest.mark.parametrize(("shape", "phi", "depth", "constants"), [
    *((dks, *row[:2], row[2:]) for row in DKS), *((tat, *row[:2], row[2:]) for row in TAT),
])  # fmt: skip
def test_the_constants_are_those_of_dks(shape, phi, depth, constants):
    """Its quadrature and its solver leave 1e-8 of the conditions, and these amplify it."""
    assert shape(phi, depth)[1:] == pytest.approx(constants, rel=2e-7)


@pytest.mark.parametrize("shape", [dks, tat])
def test_a_shaped_activation_meets_its_conditions(shape):
    shaped = shape(lambda x: x * jax.nn.sigmoid(2 * x), 20)
    phi = curve(shaped)
    steep = 1.5 ** (1 / 20) if shape is dks else 1.0
    assert shaped.input_scale > 0
    assert phi.second(1.0) == pytest.approx(1, rel=1e-8)
    assert phi.second_growth(1.0) == pytest.approx(1, rel=1e-8)
    assert phi.slope_second(1.0) == pytest.approx(steep, rel=1e-8)
    if shape is dks:
        assert phi.mean(1.0) == pytest.approx(0, abs=1e-9)
    else:  # C(1 - h) = 1 - h C' + h^2 C'' / 2
        h = 1e-3
        bend = 2 * (h - pair(phi, 1.0, h).half_square_difference) / h**2
        assert bend == pytest.approx(0.3 / 20, rel=1e-2)


@pytest.mark.bad_input
@pytest.mark.parametrize(("ask", "message"), [
    (lambda: dks("tanh", 10, slope=1.0), "slope must be above 1"),
    (lambda: tat("tanh", 10, curvature=0.0), "curvature must be positive"),
    (lambda: tat("relu", 10), "slope of relu jumps at x = 0"),
    (lambda: dks("relu", 10), "no constants were found that make relu what DKS"),
    (lambda: gaussian_poincare(lambda x: 0 * x + 1), "slope 0 everywhere"),
    (lambda: dropout("relu", keep=0.0), r"must lie in \(0, 1\], got 0.0"),
])  # fmt: skip
def test_what_cannot_be_shaped_is_one_sentence(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_dropout_of_relu(keep):
    """Its critical weight variance is 2 p, and then c' = p C(c) with C the arc cosine map."""
    found = dropout("relu", keep=keep)
    assert found.weight_var == pytest.approx(2 * keep, rel=1e-12)
    assert found.chi == pytest.approx(1, rel=1e-12)
    angle = math.acos(found.c)
    mapped = (math.sin(angle) + (math.pi - angle) * found.c) / math.pi
    assert keep * mapped == pytest.approx(found.c, rel=1e-9)
    slope = keep * (math.pi - angle) / math.pi
    assert found.xi_c == pytest.approx(-1 / math.log(slope), rel=1e-8)


def test_dropout_that_keeps_all_is_none():
    at = {"weight_var": 2.0, "bias_var": 0.05}
    found, without = dropout("tanh", keep=1.0, **at), theory.depth_scales("tanh", **at)
    for field in ("q", "c", "chi", "xi_c"):
        assert getattr(found, field) == pytest.approx(getattr(without, field), rel=1e-9), field


@pytest.mark.long
def test_lengths_are_followed_from_one():
    """Linear near 0, with a kink further out."""
    found = theory.recommend(lambda x: x + jax.nn.relu(x - 1))
    assert (found.weight_var, found.length_stable) == (pytest.approx(1.0), False)
    assert found.depth < 10
    point = theory.doubly_critical(lambda x: jax.nn.relu(x) + jax.nn.relu(x - 1))
    assert (point.weight_var, point.reached) == (pytest.approx(2.0), False)


def test_a_length_that_leaps_over_an_unstable_point():
    def leaps(x):
        return jnp.sqrt(10 * jnp.exp(-2 * x * x) + 50 * jax.nn.relu(jnp.abs(x) - 5) ** 2)

    assert theory.length_fixed_point(leaps, weight_var=1.0, q=0.01) == math.inf
    assert theory.length_fixed_point(leaps, weight_var=1.0) == pytest.approx(2.8938057104184667)


def test_lengths_without_end_have_no_chi():
    """V = 3 w q^2: both susceptibilities grow with q."""
    found = theory.depth_scales(lambda x: x**2, weight_var=3.0)
    assert (found.q, found.chi, found.xi_q, found.xi_c) == (math.inf, math.inf, 0.0, 0.0)
    assert theory.depth_scales("relu", weight_var=3.0).chi == pytest.approx(1.5)
