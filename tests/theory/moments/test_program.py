"""What theory makes of callables: read anew, two slopes where there are two, narrow features."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jinit
from jinit import theory
from jinit.theory.moments.curve import curve
from jinit.theory.moments.pairs import pair


class PReLU:
    """A mutable activation."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, x):
        return jnp.where(x > 0, x, self.slope * x)


def test_a_callable_is_known_by_what_it_computes():
    steep = 1.0

    def closure(x):
        return jnp.tanh(steep * x)

    assert jinit.gain(closure) == pytest.approx(jinit.gain("tanh"), rel=1e-12)
    steep = 5.0
    assert jinit.gain(closure) == pytest.approx(1.0891709844776667, rel=1e-10)
    own = PReLU(0.1)
    theory.critical(own)
    own.slope = 0.5
    assert theory.critical(own).weight_var == pytest.approx(2 / (1 + 0.5**2), rel=1e-12)
    weights = np.array([1.0, 2.0])

    def by_array(x):
        return x * weights.sum()

    assert jinit.gain(by_array) == pytest.approx(1 / 3)
    weights[1] = 3.0
    assert jinit.gain(by_array) == pytest.approx(1 / 4)
    # The same computation is looked at once.
    assert curve(lambda x: 2 * x) is curve(lambda y: 2 * y)
    assert curve(lambda x: 2 * x) is not curve(lambda x: 3 * x)


@jax.custom_jvp
def straight_through(x):
    return jnp.clip(x, -1.0, 1.0)


straight_through.defjvp(lambda p, t: (straight_through(p[0]), t[0]))


@jax.custom_vjp
def by_vjp(x):
    return jnp.clip(x, -1.0, 1.0)


by_vjp.defvjp(lambda x: (by_vjp(x), None), lambda _, ct: (ct,))


def by_stop(x):
    return x + jax.lax.stop_gradient(jnp.clip(x, -1.0, 1.0) - x)


def in_a_loop(x):
    return jax.lax.fori_loop(0, 1, lambda _, y: straight_through(y), x)


@pytest.mark.parametrize("phi", [straight_through, by_vjp, by_stop, in_a_loop])
def test_signals_go_by_the_own_slope_and_gradients_by_the_custom_one(phi):
    at = {"weight_var": 1.5, "bias_var": 0.05}
    own, named = theory.depth_scales(phi, **at), theory.depth_scales("hard_tanh", **at)
    for field in ("q", "c", "chi_parallel", "xi_q", "xi_c", "distance"):
        assert getattr(own, field) == pytest.approx(getattr(named, field), rel=1e-9), field
    assert own.chi == pytest.approx(1.5, rel=1e-12)
    found = theory.chi(phi, 1.0)
    inside = 1 - 2 * norm.sf(1.0)
    assert found == pytest.approx((1.0, inside - 2 * norm.pdf(1.0), inside), rel=1e-10)
    assert jinit.gain(phi, 1.0, "gradient") == pytest.approx(1.0)
    assert theory.critical(phi, q=1.0).distance == pytest.approx(inside, rel=1e-10)
    assert theory.trajectory(phi, depth=3, **at).log_grad[0] == pytest.approx(math.log(1.5))
    assert theory.phase(phi, **at) == theory.phase("hard_tanh", **at) == "chaotic"


def test_a_rule_that_says_the_same_is_no_second_slope():
    for phi in (jax.nn.relu, jax.nn.silu, jax.nn.gelu, jax.nn.softplus):
        assert not curve(phi).two_slopes
    assert curve(straight_through).two_slopes


@pytest.mark.parametrize("width", [1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("place", [1.2345, -0.3])
def test_a_narrow_tent_is_seen(place, width):
    """E phi'^2 = 2 density / width, and what tanh adds."""

    def tent(x):
        return jnp.tanh(x) + jnp.maximum(0.0, 1 - jnp.abs(x - place) / width)

    found = jinit.gain(tent, 1.0, "gradient") ** -2
    alone = jinit.gain("tanh", 1.0, "gradient") ** -2
    assert found - alone == pytest.approx(2 * norm.pdf(place) / width, rel=1e-3 + width)


def test_a_narrow_bump_is_seen():
    def bump(x):
        return jnp.exp(-(((x - 0.777) / 1e-4) ** 2))

    exact = math.sqrt(math.pi / 2) / 1e-4 * norm.pdf(0.777)
    assert jinit.gain(bump, 1.0, "gradient") ** -2 == pytest.approx(exact, rel=1e-6)
    assert theory.expectation(lambda x: x**2) == pytest.approx(1.0)


@pytest.mark.parametrize(("own", "name"), [
    (jax.nn.soft_sign, "softsign"), (jax.nn.elu, "elu"), (jax.nn.selu, "selu"),
])  # fmt: skip
def test_kinks_of_the_second_derivative_are_found(own, name):
    """On a panel's edge, where both sides are smooth."""
    found, named = (theory.correlation_map(phi, 0.0, q=1.0, weight_var=1.0) for phi in (own, name))
    assert found == pytest.approx(named, abs=1e-12)
    growth = [theory.batch_norm_growth(phi, batch=4, allow_unstable=True) for phi in (own, name)]
    assert growth[0] == pytest.approx(growth[1], rel=1e-10)


@pytest.mark.parametrize("place", [0.0, 0.375, 1 / 3, 1.0, -math.e])
def test_kinks_of_the_second_derivative_are_found_wherever_they_are(place):
    phi = curve(lambda x: x + jnp.maximum(x - place, 0.0) ** 2)
    phi.second(1.0)
    assert phi.kinks == pytest.approx((place,), abs=1e-8)


def test_moments_that_are_finite_are_given():
    """E exp(2 x^2 / 5) = 5^(1/2), though its square has no mean."""
    assert jinit.gain(lambda x: jnp.exp(x**2 / 5)) == pytest.approx(5**-0.25, rel=1e-10)


def test_fast_oscillations_are_series():
    """E sin(k u) sin(k v) = e^(-k^2) sinh(k^2 c), at k = 50."""
    found = pair(curve(lambda x: jnp.sin(50 * x)), 1.0, 4e-4)
    product = (math.exp(-2500 * 4e-4) - math.exp(-2500 * (2 - 4e-4))) / 2
    assert found.product == pytest.approx(product, rel=1e-9)
    assert found.slope_product == pytest.approx(2500 * product, rel=1e-9)
    assert found.half_square_difference == pytest.approx(-math.expm1(-1.0) / 2, rel=1e-9)


@pytest.mark.parametrize("weight_var", [1e13, 1e20, 1e30, 1e100, 1e250])
@pytest.mark.parametrize("phi", ["hard_tanh", "tanh", "softsign"])
def test_saturated_layers_are_signs(phi, weight_var):
    """C(c) = (2 / pi) arcsin c, whose slope at 0 is 2 / pi; softsign comes as 1 / sqrt(q)."""
    found = theory.depth_scales(phi, weight_var=weight_var, bias_var=0.05)
    assert found.xi_c == pytest.approx(1 / math.log(math.pi / 2), rel=1e-10 + 200 / weight_var**0.5)
