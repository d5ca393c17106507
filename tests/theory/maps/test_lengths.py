"""Lengths layer by layer, against published numbers, against draws and against networks.

Published numbers hold to the printed digits. Draws hold to five standard errors,
estimated from the draws themselves; networks to that and the bias of their finite width.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.activations import ACTIVATIONS
from jinit.theory import fan_in, length_fixed_point, length_map, trajectory
from jinit.theory.moments.curve import MomentError, TooRoughError, curve

# --- published numbers ----------------------------------------------------------------------


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
    stds = CS231N[name, weight_var]
    half_units = [0.51 * 10.0 ** (math.floor(math.log10(std)) - 5) for std in stds]  # six digits
    assert np.all(np.abs(found.act_std - stds) < half_units)
    mean = 1 / math.sqrt(math.pi) if name == "relu" else 0
    np.testing.assert_allclose(found.act_mean, mean, atol=1e-9)


def test_the_standard_uniform_of_glorot_and_bengio():
    """U(±1/sqrt(n)) has variance 1/(3n)."""
    found = trajectory("tanh", depth=5, weight_var=1 / 3).act_std
    np.testing.assert_allclose(
        found, [0.460299, 0.249501, 0.141195, 0.080986, 0.046655], atol=5.1e-7
    )


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
    q, f = 1.3, curve(name)
    layer = trajectory(name, depth=1, weight_var=q)
    values, _ = f.evaluate(math.sqrt(q) * z)
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


# --- fixed points ---------------------------------------------------------------------------


@pytest.mark.parametrize(("bias_var", "weight_var", "q"), FIXED_POINTS)
def test_fixed_points_of_tanh(bias_var, weight_var, q):
    found = length_fixed_point("tanh", weight_var=weight_var, bias_var=bias_var)
    assert found == pytest.approx(q, rel=2e-7)
    (only,) = length_fixed_point("tanh", weight_var=weight_var, bias_var=bias_var, all_points=True)
    assert only.q == found
    assert only.stable
    # The slope is that of the map, by differences.
    h = 1e-5 * q
    up, down = (
        length_map("tanh", q + d, weight_var=weight_var, bias_var=bias_var) for d in (h, -h)
    )
    assert only.slope == pytest.approx((up - down) / (2 * h), rel=1e-7)


def test_a_vanishing_fixed_point_is_found_and_told_from_a_stable_one():
    points = length_fixed_point("tanh", weight_var=4.0, all_points=True)
    assert [p.stable for p in points] == [False, True]
    assert points[0].q == 0
    assert points[0].slope == pytest.approx(4.0, rel=1e-12)
    assert length_fixed_point("tanh", weight_var=0.9) == 0.0


def test_where_lengths_settle_depends_on_where_they_start():
    """GELU has an unstable fixed point: from above it, lengths grow without end."""
    stable, unstable = length_fixed_point("gelu", weight_var=2.1, bias_var=0.03, all_points=True)
    assert stable.stable
    assert not unstable.stable
    for q, end in ((0.9 * unstable.q, stable.q), (1.1 * unstable.q, math.inf), (1e-6, stable.q)):
        found = length_fixed_point("gelu", weight_var=2.1, bias_var=0.03, q=q)
        assert found == end
        iterated = q
        for _ in range(200):
            iterated = length_map("gelu", iterated, weight_var=2.1, bias_var=0.03)
        if math.isinf(end):
            assert iterated > 10 * unstable.q
        else:
            assert iterated == pytest.approx(end, rel=1e-9)


@pytest.mark.parametrize(("weight_var", "end"), [(1.9, 0.0), (2.0, 0.7), (2.1, math.inf)])
def test_relu_keeps_every_length_at_he_and_none_elsewhere(weight_var, end):
    assert length_fixed_point("relu", weight_var=weight_var, q=0.7) == end


def test_relu_with_biases():
    """q = w q / 2 + b has the solution b / (1 - w / 2)."""
    found = length_fixed_point("relu", weight_var=1.5, bias_var=0.3)
    assert found == pytest.approx(0.3 / 0.25, rel=1e-12)
    assert length_fixed_point("relu", weight_var=2.0, bias_var=0.3) == math.inf


def test_a_length_that_diverges_past_float64_has_no_fixed_point():
    assert length_fixed_point(jnp.exp, weight_var=1.0) == math.inf
    small = length_fixed_point(jnp.exp, weight_var=0.1, all_points=True)
    assert [p.stable for p in small] == [True, False]
    for point in small:  # q = w exp(2 q)
        assert point.q == pytest.approx(0.1 * math.exp(2 * point.q), rel=1e-12)


def dense(phi, weight_var, bias_var, low, high):
    """Where q changes to the other side of V(q), between 4000 lengths."""
    q = np.geomspace(low, high, 4000)
    change = np.array([
        length_map(phi, x, weight_var=weight_var, bias_var=bias_var) - x for x in q
    ])  # fmt: skip
    return q[:-1][np.diff(np.sign(change)) != 0]


@pytest.mark.parametrize("bias_var", [0.149, 0.1495, 0.14957])
def test_two_fixed_points_closer_than_a_step_of_the_grid_are_found(bias_var):
    """Of GELU; they meet at a bias variance of 0.149575, beyond which lengths grow without end."""
    given = {"weight_var": 2.01, "bias_var": bias_var}
    low, high = length_fixed_point("gelu", **given, all_points=True)
    assert [low.q, high.q] == pytest.approx(dense("gelu", 2.01, bias_var, 0.5, 5.0), rel=6e-4)
    assert (low.stable, high.stable) == (True, False)
    assert length_fixed_point("gelu", **given) == low.q
    q = 1.0
    for _ in range(40):  # iterated, lengths rise towards it and never pass it
        before, q = q, length_map("gelu", q, **given)
        assert before < q < low.q
    assert length_fixed_point("gelu", **given, q=1.001 * high.q) == math.inf


def test_past_where_two_fixed_points_meet_there_is_none():
    assert length_fixed_point("gelu", weight_var=2.01, bias_var=0.14958, all_points=True) == ()


def test_what_inherits_the_fixed_point_has_it_too():
    given = {"weight_var": 2.01, "bias_var": 0.149}
    q = length_fixed_point("gelu", **given)
    assert jinit.theory.depth_scales("gelu", **given).q == q
    assert jinit.theory.phase("gelu", **given) == "ordered"
    assert jinit.theory.chi("gelu", q, weight_var=2.01).perpendicular < 1


@pytest.mark.parametrize(("weight_var", "bias_var", "q"), [
    (1e40, 0.0, 1e40),  # tanh is a step from there: V = weight_var
    (0.5, 1e40, 1e40),
    (1e200, 0.0, 1e200),
    (0.5, 1e280, 1e280),
    (0.5, 1e-40, 2e-40),  # and linear from here: V = q / 2 + bias_var
    (0.5, 5e-31, 1e-30),
    (0.5, 1e-200, 2e-200),
    (0.5, 1e-310, 2e-310),
])  # fmt: skip
def test_fixed_points_of_extreme_variances(weight_var, bias_var, q):
    given = {"weight_var": weight_var, "bias_var": bias_var}
    assert length_fixed_point("tanh", **given) == pytest.approx(q, rel=1e-12)
    assert length_fixed_point("tanh", **given, all_points=True)[-1].q == pytest.approx(q, rel=1e-12)


def test_an_extreme_fixed_point_that_is_not_stable():
    """q = 3 w q^2 for the square."""
    zero, point = length_fixed_point(lambda x: x**2, weight_var=1e40, all_points=True)
    assert zero == (0.0, 0.0, True)
    assert point.q == pytest.approx(1e-40 / 3, rel=1e-12)
    assert not point.stable


@pytest.mark.parametrize(("name", "weight_var"), [("tanh", 1.0), ("tanh", 1 - 1e-14)])
def test_a_slope_of_one_is_neither_stable_nor_unstable(name, weight_var):
    (zero,) = length_fixed_point(name, weight_var=weight_var, all_points=True)
    assert zero.q == 0
    assert zero.slope == pytest.approx(1, rel=1e-12)
    assert not zero.stable


# --- convolutions ---------------------------------------------------------------------------


def test_a_convolution_follows_the_same_map():
    """Ten tanh layers of 3 x 3 kernels, 128 channels, on a ring of 8 x 8; six seeds.

    The units of a channel share weights, so that independent are only the channels: 5 standard
    errors over the seeds, and 1 % for the width.
    """
    channels, depth, weight_var, bias_var = 128, 10, 1.5, 0.05
    assert fan_in((3, 3), channels) == 1152
    draw = jinit.scheme("xavier")

    def lengths(key):
        x_key, w_key = jax.random.split(key)
        x = jax.random.normal(x_key, (1, 8, 8, channels))

        def layer(h, key):
            kernel_key, bias_key = jax.random.split(key)
            kernel = math.sqrt(weight_var) * draw(kernel_key, (3, 3, channels, channels))
            bias = math.sqrt(bias_var) * jax.random.normal(bias_key, (1, 1, 1, channels))
            ring = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
            z = jax.lax.conv_general_dilated(
                ring, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            z = z + bias
            return jnp.tanh(z), jnp.mean(z**2)

        return jax.lax.scan(layer, x, jax.random.split(w_key, depth))[1]

    measured = np.asarray(jax.jit(lambda k: jax.lax.map(lengths, k))(
        jax.random.split(jax.random.key(4), 6)
    ))  # fmt: skip
    predicted = trajectory("tanh", depth=depth, weight_var=weight_var, bias_var=bias_var).q
    error = measured.std(0, ddof=1) / math.sqrt(6)
    assert np.all(error < 0.05 * predicted)
    assert np.all(np.abs(measured.mean(0) - predicted) < 5 * error + 0.01 * predicted)


@pytest.mark.bad_input
def test_bad_kernels_are_refused():
    with pytest.raises(ValueError, match="kernel must be an integer of at least 1, got 0"):
        fan_in((0, 3), 4)
    with pytest.raises(ValueError, match="channels_in must be an integer"):
        fan_in((3, 3), 1.5)


@pytest.mark.bad_input
@pytest.mark.parametrize("kernel", [3, None, 2.5])
def test_a_kernel_that_is_one_number_is_refused(kernel):
    with pytest.raises(TypeError, match=rf"kernel must list .* as in \(3, 3\), got {kernel}\.$"):
        fan_in(kernel, 4)


@pytest.mark.parametrize(("name", "weight_var"), [("relu", 2.0), ("identity", 1.0)])
def test_where_every_length_is_a_fixed_point_none_is_listed(name, weight_var):
    with pytest.raises(ValueError, match=f"every length is a fixed point of {name} with weight_v"):
        length_fixed_point(name, weight_var=weight_var, all_points=True)
    assert length_fixed_point(name, weight_var=weight_var, q=0.3) == 0.3


def test_lengths_that_settle_where_float64_does_not_reach_are_refused():
    with pytest.raises(MomentError, match=r"tanh cannot be followed .* of at most 1e\+297"):
        length_fixed_point("tanh", weight_var=1e299)
    with pytest.raises(TooRoughError, match=r"sin must be differentiable .* or a smaller variance"):
        length_fixed_point("sin", weight_var=1e10)
    # What grows in proportion is not in doubt where it cannot be followed.
    assert length_fixed_point(lambda x: x + jnp.sin(x) ** 2, weight_var=2.0) == math.inf


@pytest.mark.bad_input
def test_numbers_that_are_no_variances_are_refused():
    for name, value, error, message in (
        ("weight_var", -1.0, ValueError, "weight_var is a variance and must not be negative"),
        ("bias_var", math.nan, ValueError, "bias_var must be one finite real number"),
        ("q", "1", TypeError, "q must be one finite real number"),
        ("q", 0.0, ValueError, "q is a variance and must be positive"),
    ):
        arguments = {"weight_var": 1.0, name: value}
        with pytest.raises(error, match=message):
            length_fixed_point("tanh", **arguments)
    with pytest.raises(TypeError, match="must be a known number, got a value traced by jax"):
        jax.jit(lambda w: length_map("tanh", 1.0, weight_var=w))(1.0)


@pytest.mark.bad_input
def test_negative_variances_are_refused():
    with pytest.raises(ValueError, match=r"q is a variance and must not be negative, got -1"):
        jinit.theory.length_map("tanh", -1.0, weight_var=1.0)
