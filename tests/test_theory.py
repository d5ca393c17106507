"""Theory against closed forms, against published numbers, against draws and against networks.

Closed forms and published numbers hold to the printed digits. Draws hold to five standard errors,
estimated from the draws themselves; networks to that and the bias of their finite width.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import jinit
from jinit.activations import ACTIVATIONS
from jinit.theory import expectation, length_map, trajectory
from jinit.theory.gaussian import double, kinks


def second_moment(name, q=1.0):
    return length_map(name, q, weight_var=1.0)


# --- quadrature -----------------------------------------------------------------------------


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
        # slope 0.01 of leaky_relu is a float32 constant in jax, good to 1e-8 of its square's 1e-4
        assert second_moment(name, q) == pytest.approx(value, rel=1e-11), name
    assert expectation(np.cos, q) == pytest.approx(math.exp(-q / 2), rel=1e-11)
    for power, moment in ((0, 1), (2, q), (4, 3 * q**2), (6, 15 * q**3)):
        assert expectation(lambda u, p=power: u**p, q) == pytest.approx(moment, rel=1e-11)


def test_a_variance_of_zero_is_the_value_at_zero():
    assert expectation(np.cos, 0.0) == 1.0
    assert second_moment("softplus", 0.0) == pytest.approx(math.log(2) ** 2, rel=1e-12)


@pytest.mark.parametrize("q", [0.02, 1.0, 25.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_against_a_dense_trapezoid(name, q):
    """Independent of panels and kinks: 2^19 points err by (24/2^19)² q at a kink, about 1e-8."""
    z = np.linspace(-12, 12, 2**19 + 1)
    f = double(name)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    expected = np.sum(density * f(math.sqrt(q) * z) ** 2) * (z[1] - z[0])
    assert second_moment(name, q) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_a_kink_in_a_function_of_ones_own():
    """0 is assumed, so that max(x, 0) of one's own is as good as the named ReLU."""
    assert kinks(lambda x: x) == (0.0,)
    own = length_map(lambda x: jnp.maximum(x, 0), 0.3, weight_var=2.0)
    assert own == pytest.approx(0.3, rel=1e-12)


def test_theory_is_float64_whatever_jax_is_set_to():
    values = double("tanh")(np.array([1e-3]))
    assert values.dtype == np.float64
    assert values[0] == pytest.approx(math.tanh(1e-3), rel=1e-15)
    assert not jax.config.jax_enable_x64


# --- published numbers ----------------------------------------------------------------------

# phi: 1/sqrt(E phi²), 1/std(phi), E[phi'²] at q = 1
GAINS = {
    "relu": (1.414214, 1.712859, 0.5),
    "tanh": (1.592537, 1.592537, 0.464403),
    "sigmoid": (1.846229, 4.801313, 0.044836),
    "silu": (1.676532, 1.787187, 0.379482),
    "gelu": (1.533530, 1.700926, 0.455851),
    "elu": (1.245198, 1.270843, 0.668102),
    "selu": (1, 1, 1.071575),
}


@pytest.mark.parametrize("name", GAINS)
def test_gains_at_variance_one(name):
    by_length, by_spread, slope = GAINS[name]
    f, breaks = double(name), kinks(name)
    mean = expectation(f, kinks=breaks)
    second = second_moment(name)
    assert 1 / math.sqrt(second) == pytest.approx(by_length, abs=1e-6)
    assert 1 / math.sqrt(second - mean**2) == pytest.approx(by_spread, abs=1e-6)
    derivative = double(jax.vmap(jax.vmap(jax.grad(ACTIVATIONS[name]))))
    assert expectation(lambda u: derivative(u) ** 2, kinks=breaks) == pytest.approx(slope, abs=1e-6)


def test_selu_has_its_fixed_point_at_mean_0_and_variance_1():
    layers = trajectory("selu", depth=5, weight_var=1.0)
    np.testing.assert_allclose(layers.act_mean, 0, atol=1e-7)
    np.testing.assert_allclose(layers.act_std, 1, atol=1e-7)


CS231N = {
    ("tanh", 500 * 0.01**2): [
        0.213546, 0.0476421, 0.0106519, 0.00238182, 5.32592e-4,
        1.19091e-4, 2.66296e-5, 5.95456e-6, 1.33148e-6, 2.97728e-7,
    ],
    ("tanh", 1.0): [
        0.627929, 0.486262, 0.408236, 0.357638, 0.321622,
        0.294390, 0.272911, 0.255430, 0.240856, 0.228473,
    ],
    ("relu", 2.0): [math.sqrt(1 - 1 / math.pi)] * 10,
}  # fmt: skip


@pytest.mark.parametrize(("name", "weight_var"), CS231N)
def test_the_stds_of_cs231n(name, weight_var):
    found = trajectory(name, depth=10, weight_var=weight_var)
    np.testing.assert_allclose(found.act_std, CS231N[name, weight_var], rtol=3e-6)
    mean = 1 / math.sqrt(math.pi) if name == "relu" else 0
    np.testing.assert_allclose(found.act_mean, mean, atol=1e-9)


def test_the_standard_uniform_of_glorot_and_bengio():
    """U(±1/sqrt(n)) has variance 1/(3n)."""
    found = trajectory("tanh", depth=5, weight_var=1 / 3).act_std
    np.testing.assert_allclose(found, [0.460299, 0.249501, 0.141195, 0.080986, 0.046655], atol=1e-6)


@pytest.mark.parametrize(("layers", "ratio"), [(22, 4.8828e-4), (30, 3.0518e-5)])
def test_xavier_against_he_halves_the_variance_per_relu_layer(layers, ratio):
    """He et al. 2015: the readout of a net of `layers` weight matrices sees 2^(-L/2)."""
    xavier, he = (trajectory("relu", depth=layers, weight_var=v).act_std[-1] for v in (1.0, 2.0))
    assert xavier / he == pytest.approx(ratio, rel=2e-5)


FIXED_POINTS = [  # (bias_var, weight_var, q*)
    (0.01, 1.42420529, 0.27330091),
    (0.09, 1.94765463, 0.76347477),
    (0.3, 2.50512719, 1.46116945),
    (0.05, 1.3, 0.3153165),
    (0.05, 1.5, 0.4180372),
    (0.05, 2.0, 0.7217619),
    (0.05, 4.0, 2.195494),
    (0.3**2, 1.3**2, 0.6070468),
    (0.3**2, 4.0**2, 12.60415),
    (2.36876751e-4, 1.11538062, 1 / 16),
    (0.2**2, 1.3041458**2, 0.5120785),
]


@pytest.mark.parametrize(("bias_var", "weight_var", "q"), FIXED_POINTS)
def test_lengths_settle_where_poole_and_schoenholz_say(bias_var, weight_var, q):
    assert length_map("tanh", q, weight_var=weight_var, bias_var=bias_var) == pytest.approx(
        q, rel=2e-7
    )
    settled = trajectory("tanh", depth=400, weight_var=weight_var, bias_var=bias_var).q[-1]
    assert settled == pytest.approx(q, rel=2e-6)


def test_gelu_at_the_edge_of_chaos_keeps_its_length():
    q = 0.5756371
    assert length_map("gelu", q, weight_var=1.5470095**2, bias_var=0.04) == pytest.approx(
        q, rel=3e-7
    )


# --- properties -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
def test_a_trajectory_is_the_length_map_applied_again_and_again(name):
    layers = trajectory(name, depth=4, weight_var=1.7, bias_var=0.1, input_second_moment=2.0)
    assert layers.q[0] == pytest.approx(1.7 * 2.0 + 0.1, rel=1e-14)
    for now, then in zip(layers.q, layers.q[1:], strict=False):
        assert then == pytest.approx(length_map(name, now, weight_var=1.7, bias_var=0.1), rel=1e-12)


# --- draws ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_against_draws(name):
    z = np.random.default_rng(12).normal(size=200_000)
    q, f = 1.3, double(name)
    layer = trajectory(name, depth=1, weight_var=q)
    values = f(math.sqrt(q) * z)
    root = math.sqrt(len(z))
    assert abs(values.mean() - layer.act_mean[0]) < 5 * values.std() / root
    second = layer.act_std[0] ** 2 + layer.act_mean[0] ** 2
    assert abs(np.mean(values**2) - second) < 5 * np.std(values**2) / root


# --- networks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scheme", "options", "weight_var"),
    [
        ("tanh", "normal", {"scale": 0.01}, 500 * 0.01**2),
        ("tanh", "xavier", {}, 1.0),
        ("relu", "he", {}, 2.0),
    ],
)
def test_twenty_networks_of_cs231n_agree_with_infinite_width(name, scheme, options, weight_var):
    """1000 inputs from N(0, I_500), ten layers of 500 units; the seeds are 0 to 19.

    Squares are averaged, which for ReLU have no finite-width bias at all but in the mean; the
    tolerance is five standard errors of the twenty and the stated bias, 0.2 % of the std, thus
    0.4 % of its square.
    """
    net = jinit.MLP((500,) * 11 + (1,), activation=name, bias=False)

    def statistics(seed):
        init_key, x_key = jax.random.split(jax.random.key(seed))
        params, state = jinit.init(init_key, net, scheme, **options)
        x = jax.random.normal(x_key, (1000, 500))
        # Only the forward statistics leave the program, so that the backward pass is cut away.
        signals = jinit.layer_signals(net, params, state, x, key=init_key)
        return jnp.exp(2 * signals.log_act[:-1]), signals.act_mean[:-1], signals.act_std[:-1]

    second, mean, std = (
        np.asarray(a, np.float64)
        for a in jax.jit(lambda seeds: jax.lax.map(statistics, seeds))(jnp.arange(20))
    )
    theory = trajectory(name, depth=10, weight_var=weight_var)

    def agrees(squares, expected):
        error = squares.std(axis=0, ddof=1) / math.sqrt(20)
        assert np.all(np.abs(squares.mean(axis=0) - expected) < 5 * error + 0.004 * expected)
        assert np.all(error < 0.1 * expected)  # a tolerance that would let anything pass is none

    agrees(std**2, np.square(CS231N[name, weight_var]))
    agrees(second, theory.act_std**2 + theory.act_mean**2)
    if name == "relu":
        agrees(mean**2, np.full(10, 1 / math.pi))
    else:
        scatter = np.sqrt(np.mean(second, axis=0) / (20 * 500))  # units are independent, odd
        assert np.all(np.abs(mean.mean(axis=0)) < 6 * scatter)


@pytest.mark.parametrize("q", [1e2, 1e4, 5e4, 1e6])
def test_expectations_of_a_narrow_bend(q):
    """E[tanh^2] for large q against adaptive quadrature in the unscaled variable."""

    def integrand(u):
        return np.tanh(u) ** 2 * np.exp(-(u**2) / (2 * q))

    inner = 2 * scipy.integrate.quad(integrand, 0, 30, epsabs=1e-13)[0] / np.sqrt(2 * np.pi * q)
    tail = scipy.special.erfc(30 / np.sqrt(2 * q))  # beyond 30, tanh is 1 to 1e-26
    found = jinit.theory.length_map("tanh", q, weight_var=1.0)
    assert found == pytest.approx(inner + tail, rel=1e-10)


@pytest.mark.bad_input
def test_negative_variances_are_refused():
    with pytest.raises(ValueError, match=r"q is a variance and must not be negative, got -1"):
        jinit.theory.length_map("tanh", -1.0, weight_var=1.0)
