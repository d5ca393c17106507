"""SELU's parameters and TAT's slope: against integrals, published numbers and wide networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import erfcx

import jinit
from jinit.theory.maps.tailored import selu_parameters, tat_slope

STANDARD_ERRORS = 5


def moments(alpha, scale, mean, var):
    """Mean and variance of selu(z), z ~ N(mean, var), by adaptive quadrature."""

    def moment(k):
        def integrand(z):
            value = scale * (z if z > 0 else alpha * math.expm1(z))
            density = math.exp(-((z - mean) ** 2) / (2 * var)) / math.sqrt(2 * math.pi * var)
            return value**k * density

        reach = 12 * math.sqrt(var)
        parts = (
            quad(integrand, *ends, epsabs=0, epsrel=1e-12, limit=200)[0]
            for ends in ((mean - reach, 0), (0, mean + reach))
        )
        return sum(parts)

    first = moment(1)
    return first, moment(2) - first**2


# --- SELU -------------------------------------------------------------------------------------


def test_published_selu():
    found = selu_parameters()
    assert found.alpha == pytest.approx(
        1.6732632423543778, rel=4e-16
    )  # two units in the last place
    assert found.scale == pytest.approx(1.0507009873554805, rel=4e-16)
    assert [f"{x:.6f}" for x in found.jacobian.ravel()] == [
        "0.000000", "0.088835", "0.000000", "0.782648",
    ]  # fmt: skip
    assert found.spectral_norm == pytest.approx(0.7877, abs=5e-5)
    assert found.stable


@pytest.mark.parametrize(
    ("mean", "var"), [(0.0, 1.0), (0.3, 0.5), (-0.5, 0.5), (0.1, 2.0), (-1.0, 9.0), (0.01, 0.01)]
)
def test_the_fixed_point_and_its_jacobian(mean, var):
    alpha, scale, jacobian, norm, stable = selu_parameters(mean, var)
    assert alpha > 0
    assert scale > 0
    assert moments(alpha, scale, 0.0, var) == pytest.approx((mean, var), rel=1e-10, abs=1e-12)
    # With weights that sum to 0, pre-activations have mean 0 whatever the layer below has.
    step = 1e-4 * var
    after, before = (np.array(moments(alpha, scale, 0.0, var + d)) for d in (step, -step))
    np.testing.assert_allclose(jacobian[:, 1], (after - before) / (2 * step), rtol=1e-6)
    np.testing.assert_array_equal(jacobian[:, 0], 0)
    assert norm == pytest.approx(np.linalg.norm(jacobian, 2))
    assert stable == (np.abs(np.linalg.eigvals(jacobian)).max() < 1)


@given(log_var=st.floats(-6, 6), place=st.floats(0.001, 0.999))
def test_every_feasible_mean_is_kept(log_var, place):
    var = math.exp(log_var)
    x = math.sqrt(var / 2)
    # E[e^z - 1; z < 0] and its square, in closed form
    e1, e2 = (erfcx(x) - 1) / 2, (erfcx(2 * x) - 2 * erfcx(x) + 1) / 2
    low, high = e1 / math.sqrt(e2), 1 / math.sqrt(math.pi)
    ratio = low + place * (high - low)
    mean = math.sqrt(var) * ratio / math.sqrt(1 - ratio**2)
    alpha, scale, *_ = selu_parameters(mean, var)
    assert alpha > 0
    p1, p2 = math.sqrt(var / (2 * math.pi)), var / 2
    spread = math.sqrt(var + mean**2)
    # E2's closed form cancels at small variances, to 1e-16 / var of itself
    assert scale * (p1 + alpha * e1) == pytest.approx(mean, rel=1e-10, abs=1e-10 * spread)
    assert scale**2 * (p2 + alpha**2 * e2) == pytest.approx(spread**2, rel=1e-9)
    for beyond in (low - 0.01, high + 0.01):
        outside = math.sqrt(var) * beyond / math.sqrt(1 - beyond**2)
        with pytest.raises(ValueError, match="no SELU with positive alpha and scale"):
            selu_parameters(outside, var)


def test_parameters_in_the_limits_of_the_variance():
    """At small variances e^z - 1 is z, so that both slopes are 1; at large ones a step remains."""
    small = selu_parameters(0.0, 1e-12)
    assert small.alpha == pytest.approx(1, abs=1e-6)
    assert small.scale == pytest.approx(1, abs=1e-6)
    # E[z; z > 0] = alpha / 2, and scale^2 (var / 2 + alpha^2 / 2) = var
    large = selu_parameters(0.0, 1e12)
    assert large.alpha == pytest.approx(1e6 * math.sqrt(2 / math.pi), rel=1e-5)
    assert large.scale == pytest.approx(1 / math.sqrt(1 / 2 + 1 / math.pi), rel=1e-5)


def test_a_wide_network_keeps_mean_0_and_variance_1():
    """jinit's own selu; the bias of finite width is O(1/width) per layer, with a memory of five."""
    width, depth, seeds = 500, 12, 6
    net = jinit.MLP((width,) * (depth + 1) + (1,), activation="selu", bias=False)

    @jax.jit
    def statistics(keys):
        def one(key):
            x_key, init_key, probe_key = jax.random.split(key, 3)
            x = jax.random.normal(x_key, (200, width))
            params, state = jinit.init(init_key, net, "lecun_normal")
            seen = jinit.layer_signals(net, params, state, x, key=probe_key)
            return seen.act_mean[:depth], seen.act_std[:depth] ** 2

        return jax.lax.map(one, keys)

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    for values, kept in zip(statistics(keys), (0.0, 1.0), strict=True):
        values = np.asarray(values, np.float64)
        error = values.std(0, ddof=1) / math.sqrt(seeds)
        tolerance = STANDARD_ERRORS * error + 5 / width
        assert (np.abs(values.mean(0) - kept) <= tolerance).all()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("mean", "var", "sentence"),
    [
        (0.9, 1.0, "keeps a mean of 0.9 at a variance of 1; the mean must lie between -0.80"),
        (-2.0, 1.0, "keeps a mean of -2 "),
        (0.0, 0.0, "variance is a variance and must be positive"),
        (0.0, -1.0, "variance is a variance and must be positive"),
        (0.0, 1e200, "variance must lie between 1e-100 and 1e[+]100"),
        (math.nan, 1.0, "mean must be one finite real number"),
        (1e300, 1.0, "keeps a mean of 1e[+]300"),
    ],
)
def test_no_such_selu(mean, var, sentence):
    with pytest.raises(ValueError, match=sentence):
        selu_parameters(mean, var)


# --- TAT --------------------------------------------------------------------------------------


def correlation(slope, depth, c=0.0):
    """The published map, iterated on c with the 64 bits of long doubles."""
    c, slope = np.longdouble(c), np.longdouble(slope)
    bend = (1 - slope) ** 2 / (np.pi * (1 + slope**2))
    for _ in range(depth):
        c = c + bend * (np.sqrt(1 - c**2) - c * np.arccos(c))
    return float(c)


@pytest.mark.parametrize(
    ("depth", "reached"), [(1, 0.31830989), (2, 0.49373109), (3, 0.60482572), (4, 0.68095353)]
)
def test_relu_is_as_far_as_it_goes(depth, reached):
    """The published ReLU correlations from 0."""
    # (1 - c)'s slope by the bend is finite, so a = 0 is met to the printed digits
    assert tat_slope(depth, eta=reached - 5e-9) == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match=f"at most {reached:.6g}"):
        tat_slope(depth, eta=reached + 1e-8)


@given(depth=st.integers(1, 60), slope=st.floats(0, 1))
def test_the_slope_is_found_again(depth, slope):
    eta = correlation(slope, depth)
    # eta is good to 1e-16, and depends on 1 - a through its square
    found = tat_slope(depth, eta=min(eta, 1 - 1e-15))
    assert correlation(found, depth) == pytest.approx(eta, abs=1e-14)
    assert found == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(("depth", "eta"), [(50, 0.9), (1000, 0.9), (1000, 0.9999), (100, 1e-9)])
def test_deep_networks_and_correlations_near_the_ends(depth, eta):
    slope = tat_slope(depth, eta=eta)
    assert 0 <= slope <= 1
    reached = correlation(slope, depth)
    assert reached == pytest.approx(eta, rel=1e-6)
    assert 1 - reached == pytest.approx(1 - eta, rel=1e-10)


def test_a_linear_network_keeps_orthogonal_inputs_orthogonal():
    assert tat_slope(10, eta=0.0) == 1.0
    assert tat_slope(10, eta=1e-300) == 1.0


def test_a_hundred_thousand_layers():
    assert 0.9 < tat_slope(100_000) < 1


def test_correlation_behind_a_wide_network():
    """A layer moves 1 - c by a factor of 1 + O(1/sqrt(width)), whence a bias of O(depth/width)."""
    width, depth, eta, seeds = 300, 15, 0.9, 40
    slope = tat_slope(depth, eta=eta)
    scale = math.sqrt(2 / (1 + slope**2))
    # The readout's outputs are the pre-activations behind `depth` nonlinear layers.
    net = jinit.MLP(
        (width,) * (depth + 2), bias=False,
        activation=lambda x: scale * jnp.maximum(x, slope * x),
    )  # fmt: skip
    x = np.kron(np.eye(2), np.ones(width // 2)).astype(np.float32)  # two orthogonal inputs

    @jax.jit
    def correlations(keys):
        def one(key):
            params, state = jinit.init(key, net, "xavier")
            y, _ = jinit.forward(net, params, state, x, train=False)
            return y[0] @ y[1] / jnp.sqrt((y[0] @ y[0]) * (y[1] @ y[1]))

        return jax.lax.map(one, keys)

    measured = np.asarray(correlations(jax.vmap(jax.random.key)(np.arange(seeds))), np.float64)
    error = measured.std(ddof=1) / math.sqrt(seeds)
    tolerance = STANDARD_ERRORS * error + (1 - eta) * depth / width
    assert measured.mean() == pytest.approx(eta, abs=tolerance)
    assert tolerance < 0.05  # so that a wrong eta would be seen


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("depth", "eta", "sentence"),
    [
        (2, 0.9, "eta must be at most 0.493731, which 2 layers of ReLU"),
        (5, 1.0, r"eta is a correlation and must lie in \[0, 1\), got 1.0"),
        (5, -0.1, r"must lie in \[0, 1\), got -0.1"),
        (5, math.nan, "eta must be one finite real number"),
        (0, 0.5, "depth must be an integer of at least 1, got 0"),
        (2.0, 0.5, "depth must be an integer of at least 1, got 2.0"),
        (10**6, 0.5, "depth must be at most 100000"),
    ],
)
def test_no_such_slope(depth, eta, sentence):
    with pytest.raises(ValueError, match=sentence):
        tat_slope(depth, eta=eta)
