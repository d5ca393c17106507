"""Gains, susceptibilities, critical points and depth scales, against published numbers.

The numbers are those of Poole et al. 2016, Schoenholz et al. 2017, Xiao et al. 2018 and Roberts,
Yaida & Hanin 2022, computed from the papers' formulas in float64 and agreeing with what they print.
"""

import math
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit import theory
from jinit.activations import ACTIVATIONS
from jinit.theory.moments.curve import curve

NAMED = list(ACTIVATIONS)


def own(x):
    """What no table knows."""
    return x * jnp.tanh(x)


# --- gains ------------------------------------------------------------------------------------

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
    assert jinit.gain(name) == pytest.approx(by_length, abs=5.1e-7)
    assert jinit.gain(name, 1.0, "variance") == pytest.approx(by_spread, abs=5.1e-7)
    assert 1 / jinit.gain(name, kind="gradient") ** 2 == pytest.approx(slope, abs=5.1e-7)


@pytest.mark.parametrize("phi", [*NAMED, own])
def test_a_gain_keeps_what_it_says(phi):
    for q in (0.3, 2.0):
        length = theory.length_map(phi, q, weight_var=jinit.gain(phi, q) ** 2)
        assert length == pytest.approx(1.0, rel=1e-12)
        slope = theory.chi(phi, q, weight_var=jinit.gain(phi, q, "gradient") ** 2)
        assert slope.perpendicular == pytest.approx(1.0, rel=1e-12)


def test_a_gain_serves_every_scheme_that_takes_one(key):
    gain = jinit.gain("gelu")
    plain = jinit.init_params(key, [64, 64, 8], "lecun_normal")
    scaled = jinit.init_params(key, [64, 64, 8], "lecun_normal", gain=gain)
    np.testing.assert_allclose(scaled[0].w, gain * plain[0].w, rtol=2e-6)


@pytest.mark.bad_input
def test_bad_gains_are_refused():
    with pytest.raises(ValueError, match=r"unknown kind 'varianc'; did you mean 'variance'\?"):
        jinit.gain("relu", kind="varianc")
    with pytest.raises(ValueError, match="unknown activation 'rellu'; did you mean 'relu'"):
        jinit.gain("rellu")
    with pytest.raises(ValueError, match=r"tanh cannot be .* q = 1e\+300; .* most 1e\+297"):
        jinit.gain("tanh", 1e300)
    with pytest.raises(ValueError, match=r"has no gradient gain at q = 1: what it should keep"):
        jinit.gain(lambda x: 0.0 * x + 1.0, kind="gradient")
    with pytest.raises(ValueError, match="q is a variance and must be positive, got 0"):
        jinit.gain("relu", 0.0)


# --- depth scales -----------------------------------------------------------------------------

DEPTHS = [  # tanh, bias_var 0.05: weight_var, q*, chi_1, c*, xi_q, xi_c
    (1.3, "0.3153165", "0.8801635", "1", "1.785237", "7.834069"),
    (1.5, "0.4180372", "0.9386363", "1", "1.682828", "15.79099"),
    (2.0, "0.7217619", "1.047666", "0.7440824", "1.387976", "25.21341"),
    (4.0, "2.195494", "1.342402", "0.165065", "0.873293", "6.980274"),
]
POOLE = [  # sigma_b = 0.3
    (1.3, "0.6070468", "0.9398074", "1"),
    (4.0, "12.60415", "2.367261", "0.02969592"),
]


def printed(text):
    """Equal to all digits shown."""
    decimals = len(text.partition(".")[2])
    return pytest.approx(float(text), rel=0, abs=0.51 * 10.0**-decimals)


@pytest.mark.parametrize(("weight_var", "q", "chi", "c", "xi_q", "xi_c"), DEPTHS)
def test_depth_scales_of_schoenholz(weight_var, q, chi, c, xi_q, xi_c):
    found = theory.depth_scales("tanh", weight_var=weight_var, bias_var=0.05)
    assert found.q == printed(q)
    assert found.chi == printed(chi)
    assert found.c == printed(c)
    assert found.xi_q == printed(xi_q)
    assert found.xi_c == printed(xi_c)
    assert found.trainable_depth == 6 * found.xi_c


@pytest.mark.parametrize(("sigma_w", "q", "chi", "c"), POOLE)
def test_fixed_points_of_poole(sigma_w, q, chi, c):
    found = theory.depth_scales("tanh", weight_var=sigma_w**2, bias_var=0.09)
    assert found.q == printed(q)
    assert found.chi == printed(chi)
    assert found.c == printed(c)


def test_where_lengths_do_not_settle_they_decide_the_depth():
    for weight_var in (1.0, 3.0):
        found = theory.depth_scales("relu", weight_var=weight_var)
        assert found.q == (0 if weight_var < 2 else math.inf)
        assert found.xi_c == pytest.approx(1 / abs(math.log(weight_var / 2)), rel=1e-12)
    assert theory.depth_scales("relu", weight_var=2.0).xi_c == math.inf
    assert theory.depth_scales("tanh", weight_var=0.0).xi_c == 0.0


@pytest.mark.parametrize(("phi", "weight_var"), [
    ("tanh", 1.2), ("gelu", 1.2), ("elu", 1.1), (own, 0.7),
])  # fmt: skip
def test_depth_scales_are_the_decay_of_a_trajectory(phi, weight_var):
    """Deviations of lengths and correlations, layer after layer, fall by exp(-1 / xi)."""
    bias_var = 0.1
    found = theory.depth_scales(phi, weight_var=weight_var, bias_var=bias_var)
    q = found.q * 1.0001
    apart = []
    for _ in range(4):
        apart.append(q - found.q)
        q = theory.length_map(phi, q, weight_var=weight_var, bias_var=bias_var)
    for now, then in pairwise(apart):
        assert abs(then / now) == pytest.approx(math.exp(-1 / found.xi_q), rel=2e-3)
    assert found.c == 1  # ordered
    c = 1 - 1e-4
    then = theory.correlation_map(phi, c, weight_var=weight_var, bias_var=bias_var)
    assert (1 - then) / 1e-4 == pytest.approx(math.exp(-1 / found.xi_c), rel=2e-3)


# --- critical points --------------------------------------------------------------------------


@pytest.mark.parametrize(("bias_var", "q", "weight_var"), [
    (0.01, "0.27330091", "1.42420529"),
    (0.09, "0.76347477", "1.94765463"),
    (0.3, "1.46116945", "2.50512719"),
])  # fmt: skip
def test_the_critical_line_of_tanh(bias_var, q, weight_var):
    found = theory.critical("tanh", bias_var=bias_var)
    assert found.q == printed(q)
    assert found.weight_var == printed(weight_var)
    assert found.length_stable
    assert theory.critical("tanh", q=found.q).bias_var == pytest.approx(bias_var, rel=1e-10)


def test_critical_tanh_of_xiao():
    found = theory.critical("tanh", q=1 / 16)
    assert found.weight_var == printed("1.11538062")
    assert found.bias_var == pytest.approx(2.36876751e-4, abs=0.51e-12)


@pytest.mark.parametrize(("name", "q", "sigma_w"), [
    ("tanh", "0.5120785", "1.3041458"),
    ("gelu", "0.5756371", "1.5470095"),
])  # fmt: skip
def test_edge_of_chaos_at_a_bias_of_a_fifth(name, q, sigma_w):
    found = theory.critical(name, bias_var=0.2**2)
    assert found.q == printed(q)
    assert math.sqrt(found.weight_var) == printed(sigma_w)


@pytest.mark.parametrize("name", ["silu", "gelu", "mish"])
def test_length_unstable_critical_points_are_reported_as_such(name):
    found = theory.critical(name, bias_var=0.04)
    assert found.chi_parallel > 1
    assert not found.length_stable
    # and the length does run away, in both directions
    for factor in (0.99, 1.01):
        q = factor * found.q
        for _ in range(60):
            q = theory.length_map(name, q, weight_var=found.weight_var, bias_var=0.04)
        assert abs(q / found.q - 1) > 0.03


@pytest.mark.parametrize("phi", [*NAMED, own])
def test_a_critical_point_is_one(phi):
    """Both maps are asked: the length stays, and gradients keep their size."""
    line = theory.critical_line(phi, q=np.geomspace(0.01, 60, 12))
    if phi == "softplus":
        assert len(line.q) == 0
        return
    assert len(line.q) > 0
    assert np.all(line.bias_var >= 0)
    for weight_var, bias_var, q, parallel in zip(*line, strict=True):
        again = theory.length_map(phi, q, weight_var=weight_var, bias_var=bias_var)
        assert again == pytest.approx(q, rel=1e-10)
        found = theory.chi(phi, q, weight_var=weight_var)
        assert found.perpendicular == pytest.approx(1, rel=1e-12)
        assert found.parallel == pytest.approx(parallel, rel=1e-12)


def test_gelu_is_doubly_critical_where_the_book_says():
    found = theory.doubly_critical("gelu")
    assert found.q == printed("3.56155281")
    assert found.weight_var == printed("1.98305826")
    assert found.bias_var == printed("0.17292239")


def test_the_bias_variance_of_silu_that_is_often_copied_is_a_factor_of_ten_too_small():
    """Roberts, Yaida & Hanin print (C_b, C_W) = (0.05514317, 1.98800468), K* = 14.32017362."""
    found = theory.doubly_critical("silu")
    assert found.q == printed("14.32017362")
    assert found.weight_var == printed("1.98800468")
    assert found.bias_var == printed("0.55514317")
    with_the_copied = theory.length_map("silu", found.q, weight_var=found.weight_var,
                                        bias_var=0.05514317)  # fmt: skip
    assert abs(with_the_copied - found.q) > 0.49


@pytest.mark.parametrize("phi", [*NAMED, own])
def test_doubly_critical_points_are_so(phi):
    if phi in ("sigmoid", "hard_sigmoid", "softplus"):
        with pytest.raises(ValueError, match="has no point at which both susceptibilities are 1"):
            theory.doubly_critical(phi)
        return
    found = theory.doubly_critical(phi)
    both = theory.chi(phi, found.q, weight_var=found.weight_var)
    assert both.perpendicular == pytest.approx(1, rel=1e-12)
    assert both.parallel == pytest.approx(1, rel=1e-9)
    kept = theory.length_map(phi, found.q, weight_var=found.weight_var, bias_var=found.bias_var)
    assert kept == pytest.approx(found.q, rel=1e-9, abs=1e-300)


def test_relu_is_critical_at_he_and_nowhere_else():
    assert theory.critical("relu") == theory.Critical(2.0, 0.0, 1.0, 1.0, pytest.approx(1.0))
    assert theory.doubly_critical("relu") == theory.DoublyCritical(1.0, 2.0, 0.0)
    with pytest.raises(ValueError, match=r"relu .* only with bias_var 0 and weight_var 2"):
        theory.critical("relu", bias_var=0.1)


def bump(x):
    """Bends away from 0 and back: its edge of chaos turns round."""
    return x * jnp.exp(-(x**2) / 8) + 0.4 * x


def test_several_critical_points_with_the_same_biases():
    low, high = theory.critical_line(bump, q=[0.5, 30.0]).bias_var
    between = theory.critical(bump, bias_var=float(min(low, high)), all_points=True)
    assert between[0] == theory.critical(bump, bias_var=float(min(low, high)))
    for point in between:
        kept = theory.length_map(
            bump, point.q, weight_var=point.weight_var, bias_var=point.bias_var
        )
        assert kept == pytest.approx(point.q, rel=1e-9)


@pytest.mark.parametrize("bias_var", [5e-17, 1e-12, 1e-9])
def test_the_critical_length_of_tanh_with_small_biases(bias_var):
    """q^3 = 3 b / 4, from the expansions of tanh and its slope; the next order is of order q.

    Rounding moves b by 1e-16 q, and q thus by 2e-17 / q^2.
    """
    q = theory.critical("tanh", bias_var=bias_var).q
    expected = (0.75 * bias_var) ** (1 / 3)
    assert q == pytest.approx(expected, rel=2 * expected + 1e-16 / expected**2)


@pytest.mark.parametrize("bias_var", [1e10, 1e20, 1e200])
def test_the_critical_length_of_tanh_with_great_biases(bias_var):
    found = theory.critical("tanh", bias_var=bias_var)
    chi = theory.chi("tanh", found.q, weight_var=found.weight_var)
    assert chi.perpendicular == pytest.approx(1, rel=1e-12)
    kept = theory.length_map("tanh", found.q, weight_var=found.weight_var, bias_var=bias_var)
    assert kept == pytest.approx(found.q, rel=1e-12)


def test_the_default_line_ends_where_moments_do():
    line = theory.critical_line(jnp.exp)
    assert 60 < line.q[-1] < 100  # E exp(2 u) = exp(2 q); its square is what leaves float64
    np.testing.assert_allclose(line.bias_var, line.q - 1, rtol=1e-7, atol=1e-12)
    assert np.all(line.bias_var >= 0)


@pytest.mark.bad_input
def test_where_there_is_no_critical_point():
    for bias_var in (1e-20, 1e-40, 1e-300):
        with pytest.raises(ValueError, match=r"is too small for .* tanh .* give 0, or at least 4"):
            theory.critical("tanh", bias_var=bias_var)
    with pytest.raises(ValueError, match=r"tanh cannot be .* q = 1e\+300; .* most 1e\+297"):
        theory.critical("tanh", q=1e300)
    for q in (3, np.array(3.0), "12", {1.0, 2.0}):
        with pytest.raises(TypeError, match="q must list increasing variances, as in"):
            theory.critical_line("tanh", q=q)
    with pytest.raises(ValueError, match=r"q must list increasing variances, got \[1, 0\.5\]"):
        theory.critical_line("tanh", q=[1, 0.5])
    with pytest.raises(ValueError, match="exp diverges, or leaves float64, at variance q = 400"):
        theory.critical_line(jnp.exp, q=[1.0, 400.0])
    with pytest.raises(ValueError, match="softplus has no critical point with bias_var=0; it has"):
        theory.critical("softplus")
    with pytest.raises(ValueError, match=r"gelu has no critical point .*bias_var from .* has one"):
        theory.critical("gelu", bias_var=1e9)
    with pytest.raises(ValueError, match="sigmoid is critical at q = 1 only with a bias_var of -"):
        theory.critical("sigmoid", q=1.0)
    with pytest.raises(ValueError, match=r"takes either bias_var or q, got bias_var=0\.1 and q=1"):
        theory.critical("tanh", bias_var=0.1, q=1.0)
    with pytest.raises(ValueError, match="bias_var is a variance and must not be negative"):
        theory.critical("tanh", bias_var=-0.1)


# --- phases -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "weight_var", "bias_var", "expected"), [
    ("tanh", 1.5, 0.05, "ordered"), ("tanh", 2.0, 0.05, "chaotic"), ("tanh", 1.0, 0.0, "critical"),
    ("tanh", 1.42420529, 0.01, "critical"), ("tanh", 0.5, 0.0, "ordered"),
    ("relu", 2.0, 0.0, "critical"), ("relu", 1.9, 0.3, "ordered"), ("relu", 2.1, 0.0, "chaotic"),
    ("sigmoid", 4.0, 0.0, "ordered"), ("sigmoid", 150.0, 0.0, "chaotic"),
    ("gelu", 2.0, 0.0, "ordered"), ("gelu", 3.0, 0.0, "chaotic"), ("sin", 2.0, 0.0, "chaotic"),
])  # fmt: skip
def test_phases(name, weight_var, bias_var, expected):
    assert theory.phase(name, weight_var=weight_var, bias_var=bias_var) == expected


@pytest.mark.parametrize("phi", ["tanh", "gelu", "relu", "sigmoid", own])
def test_a_phase_diagram_is_what_each_point_says(phi):
    weights, biases = np.linspace(0.5, 4, 4), [0.0, 0.1, 0.4]
    diagram = theory.phase_diagram(phi, weight_var=weights, bias_var=biases)
    for i, bias_var in enumerate(biases):
        for j, weight_var in enumerate(weights):
            exact = theory.depth_scales(phi, weight_var=weight_var, bias_var=bias_var)
            if exact.q > 1e6 or exact.q < 1e-6:  # where the table ends
                assert diagram.q[i, j] > 1e5 or diagram.q[i, j] < 1e-5
            else:
                assert diagram.q[i, j] == pytest.approx(exact.q, rel=1e-4)
            expected = math.log(exact.chi) if exact.chi else -700
            assert diagram.log_chi[i, j] == pytest.approx(expected, abs=1e-4)


def check_points(phi, weights, biases):
    """Lengths hold to the few 1e-6 of interpolated moments over their slope's distance from 1."""
    diagram = theory.phase_diagram(phi, weight_var=weights, bias_var=biases)
    for i, bias_var in enumerate(biases):
        for j, weight_var in enumerate(weights):
            exact = theory.depth_scales(phi, weight_var=weight_var, bias_var=bias_var)
            rel = 1e-5 / abs(exact.chi_parallel - 1) if exact.chi_parallel != 1 else 1e-5
            assert diagram.q[i, j] == pytest.approx(exact.q, rel=rel), (weight_var, bias_var)
            expected = math.log(exact.chi) if exact.chi else -700
            assert diagram.log_chi[i, j] == pytest.approx(expected, abs=1e-4 + rel)
    return diagram


def test_a_phase_diagram_sees_two_fixed_points_closer_than_its_table():
    """At a bias variance of 0.149575 they meet."""
    diagram = check_points("gelu", [1.9, 2.01], [0.1, 0.149, 0.1495, 0.14957, 0.15])
    assert np.isfinite(diagram.q[:-1]).all()
    assert np.isinf(diagram.q[-1, -1])


def test_a_phase_diagram_beyond_its_table():
    """Chaos far out is no order, nor are small lengths none."""
    assert np.all(check_points("tanh", [1e5, 2e6, 1e35, 1e40], [0.0, 1.0]).log_chi > 5)
    check_points("tanh", [1e-40, 0.5], [1e-40, 1e-35, 1e35])
    check_points("relu", [1.9, 2.0, 2.1], [0.0, 1e-40])


def test_a_phase_diagram_without_weights():
    diagram = check_points("tanh", [0.0, 1.0], [0.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(diagram.q[:, 0], diagram.bias_var, rtol=1e-8)
    assert np.all(diagram.log_chi[:, 0] == -700)


def test_a_phase_diagram_of_moments_that_end():
    diagram = theory.phase_diagram(jnp.exp)
    assert np.isinf(diagram.q).any()
    assert np.isfinite(diagram.q).any()
    assert np.all(diagram.log_chi[np.isinf(diagram.q)] == 700)
    check_points(jnp.exp, [0.05, 0.1], [0.0, 0.1])


@pytest.mark.bad_input
def test_a_grid_that_does_not_rise_is_refused():
    for name in ("weight_var", "bias_var"):
        for given in ([2.0, 1.0], [1.0], [1.0, 1.0], []):
            with pytest.raises(ValueError, match=f"{name} must list at least 2 increasing varianc"):
                theory.phase_diagram("tanh", **{name: given})
        with pytest.raises(TypeError, match=f"{name} must list at least 2 increasing .* got 3"):
            theory.phase_diagram("relu", **{name: 3})
    with pytest.raises(ValueError, match="diverges, or leaves float64, at variance q = 1;"):
        theory.phase_diagram(lambda x: jnp.exp(x**2 / 2))


# --- correlations -----------------------------------------------------------------------------


def test_correlations_of_relu_from_zero():
    layers = theory.correlation_trajectory("relu", 0.0, depth=5, weight_var=2.0)
    np.testing.assert_allclose(
        layers, [0, 0.31830989, 0.49373109, 0.60482572, 0.68095353], atol=5.1e-9
    )


def test_relu_closes_in_on_one_by_a_power_law_without_ever_rounding_to_it():
    """1 - c ~ 9 pi^2 / (2 l^2) for deep He-ReLU nets, from the arc-cosine map's expansion."""
    layers = theory.correlation_trajectory("relu", 0.0, depth=300, weight_var=2.0)
    assert np.all(np.diff(layers) > 0)
    assert (1 - layers[-1]) * 300**2 == pytest.approx(9 * math.pi**2 / 2, rel=0.1)


@pytest.mark.parametrize(("weight_var", "start"), [(1.3, -0.5), (2.5, 0.0), (4.0, 0.9)])
def test_a_correlation_trajectory_ends_at_the_fixed_point(weight_var, start):
    found = theory.depth_scales("tanh", weight_var=weight_var, bias_var=0.05)
    depth = math.ceil(7 * found.xi_c)
    layers = theory.correlation_trajectory(
        "tanh", start, depth=depth, weight_var=weight_var, bias_var=0.05
    )
    assert layers[-1] == pytest.approx(found.c, abs=10 * math.exp(-7))
    assert found.c == theory.correlation_fixed_point("tanh", weight_var=weight_var, bias_var=0.05)


def test_all_fixed_points_of_a_chaotic_network_without_biases():
    points = theory.correlation_fixed_point("tanh", weight_var=4.0, all_points=True)
    assert [p.c for p in points] == pytest.approx([-1, 0, 1], abs=1e-12)
    assert [p.stable for p in points] == [False, True, False]
    chi = theory.chi("tanh", theory.length_fixed_point("tanh", weight_var=4.0), weight_var=4.0)
    assert points[2].slope == pytest.approx(chi.perpendicular, rel=1e-9)
    assert theory.correlation_fixed_point("tanh", weight_var=4.0) == 0.0


def test_fixed_points_that_are_close_to_one_are_not_made_up():
    """Next to criticality the map moves 1 - c by less than the rounding of c."""
    points = theory.correlation_fixed_point(
        "tanh", weight_var=1.42420529, bias_var=0.01, all_points=True
    )
    assert [p.c for p in points] == [1.0]


def test_a_marginal_correlation_is_not_called_stable():
    (one,) = theory.correlation_fixed_point("relu", weight_var=2.0, q=1.0, all_points=True)
    assert (one.c, one.stable) == (1.0, False)
    assert one.slope == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("weight_var", [1.0, 0.3])
def test_where_every_correlation_is_a_fixed_point_none_is_listed(weight_var):
    with pytest.raises(ValueError, match="every correlation is a fixed point of identity with"):
        theory.correlation_fixed_point("identity", weight_var=weight_var, q=1.0, all_points=True)
    assert theory.correlation_fixed_point("identity", weight_var=weight_var, q=1.0) == 0
    with_biases = {"weight_var": 0.5, "bias_var": 0.1, "all_points": True}
    (one,) = theory.correlation_fixed_point("identity", **with_biases)
    assert (one.c, one.stable) == (1.0, True)


@pytest.mark.parametrize("phi", ["tanh", "relu", "hard_tanh", own])
def test_the_correlation_map_against_draws(phi):
    """Five standard errors of 400 000 draws."""
    q, c, weight_var, bias_var = 1.7, 0.4, 1.3, 0.2
    a, b = np.random.default_rng(8).normal(size=(2, 400_000))
    root = math.sqrt(q)
    u, _ = curve(phi).evaluate(root * a)
    v, _ = curve(phi).evaluate(root * (c * a + math.sqrt(1 - c**2) * b))
    product = weight_var * u * v + bias_var
    after = theory.length_map(phi, q, weight_var=weight_var, bias_var=bias_var)
    found = theory.correlation_map(phi, c, weight_var=weight_var, bias_var=bias_var, q=q)
    error = product.std() / math.sqrt(len(product)) / after
    assert abs(product.mean() / after - found) < 5 * error


@pytest.mark.bad_input
def test_correlations_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"c is a correlation and must lie in \[-1, 1\], got 1.5"):
        theory.correlation_map("tanh", 1.5, weight_var=1.0)
    with pytest.raises(ValueError, match=r"lengths of tanh .* vanish; say with q="):
        theory.correlation_fixed_point("tanh", weight_var=0.5)
    with pytest.raises(ValueError, match=r"lengths of relu .* grow without end; say with q="):
        theory.correlation_map("relu", 0.0, weight_var=3.0)
