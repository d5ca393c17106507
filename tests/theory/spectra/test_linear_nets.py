"""Deep linear networks: the curves against solvers, closed forms and gradient descent."""

import math
from itertools import accumulate, pairwise

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

import jinit
from jinit.theory.spectra import linear_nets as linear
from jinit.theory.spectra.linear_nets import (
    linear_dynamics,
    linear_dynamics_time,
    linear_singular_values,
)

DEPTHS = (1, 2, 3, 4, 7, 50, math.inf)
# Promised accuracy; the numbers come out to about 1e-14.
ACCURACY = 1e-9


# --- published numbers and closed forms -------------------------------------------------------


@pytest.mark.parametrize(("s", "time"), [(3.0, "1.334339"), (1.0, "3.453377")])
def test_published_times_to_half_the_strength(s, time):
    assert f"{linear_dynamics_time(s / 2, s, 1e-3):.6f}" == time


@pytest.mark.parametrize(("depth", "time"), [(2, "3.431854"), (4, "7.409672")])
def test_published_times_of_deeper_networks(depth, time):
    assert f"{depth * linear_dynamics_time(2.97, 3.0, 0.01, depth=depth):.6f}" == time


def test_two_layers_as_published():
    t, s, u0, tau = np.linspace(0, 4, 9), 1.7, 0.02, 0.8
    grown = np.exp(2 * s * t / tau)
    expected = s * grown / (grown - 1 + s / u0)
    np.testing.assert_allclose(linear_dynamics(t, s, u0, tau=tau), expected, rtol=1e-13)


@pytest.mark.parametrize(("s", "u0", "u"), [(3.0, 0.01, 2.97), (0.5, 4.0, 0.6)])
def test_infinite_depth_in_closed_form(s, u0, u):
    """By partial fractions of 1 / (u^2 (s - u))."""
    expected = math.log(u * (s - u0) / (u0 * (s - u))) / s**2 + 1 / (s * u0) - 1 / (s * u)
    assert linear_dynamics_time(u, s, u0, depth=math.inf) == pytest.approx(expected, rel=1e-12)
    deep = 10**6 * linear_dynamics_time(u, s, u0, depth=10**6)
    assert deep == pytest.approx(expected, rel=1e-4)


@given(x=st.floats(0, 60), log_u0=st.floats(-20, 5), s=st.floats(0.01, 100), tau=st.floats(0.1, 10))
def test_the_general_integrator_at_two_matrices(x, log_u0, s, tau):
    t, u0 = x * tau / s, s * math.exp(log_u0)
    if t == 0 or u0 == s:
        return
    arrays = (np.array([v]) for v in (t, s, u0))
    general = linear._inverted(*arrays, 1.0, 2 / tau)
    np.testing.assert_allclose(general, linear_dynamics([t], s, u0, tau=tau), rtol=1e-11)


# --- against a solver -------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("s", "u0"), [(3.0, 0.01), (1.0, 0.3), (0.5, 4.0), (1.0, 1e3), (0.0, 2.0)])
def test_the_curve_solves_its_equation(depth, s, u0):
    p, rate = 2 - 2 / depth, 1.0 if depth == math.inf else depth
    halfway = (s + u0) / 2
    t = np.linspace(0, 2.5 * linear_dynamics_time(halfway, s, u0, depth=depth), 8)
    solved = solve_ivp(
        lambda _, u: rate * u**p * (s - u), (0, t[-1]), [u0],
        t_eval=t, method="LSODA", rtol=1e-12, atol=1e-14,
    ).y[0]  # fmt: skip
    # The solver's own error grows by the time a mode waits, here a hundredfold.
    np.testing.assert_allclose(linear_dynamics(t, s, u0, depth=depth), solved, rtol=1e-8)


@given(
    depth=st.sampled_from(DEPTHS),
    log_s=st.floats(-3, 3),
    log_start=st.floats(-9, 9),
    way=st.floats(1e-6, 1 - 1e-6),
    tau=st.floats(0.01, 100),
)
@settings(max_examples=300)
def test_time_is_the_inverse_of_the_curve(depth, log_s, log_start, way, tau):
    s = math.exp(log_s)
    u0 = s * math.exp(log_start)
    u = u0 + way * (s - u0)
    if not min(s, u0) < u < max(s, u0):
        return
    t = linear_dynamics_time(u, s, u0, depth=depth, tau=tau)
    assert t > 0
    assert linear_dynamics(t, s, u0, depth=depth, tau=tau) == pytest.approx(u, rel=ACCURACY)


@given(
    depth=st.sampled_from(DEPTHS),
    s=st.floats(0, 10),
    u0=st.floats(0, 10).map(lambda x: 0.0 if x < 1e-3 else x),
    times=st.lists(st.floats(0, 1e300), min_size=2, max_size=5).map(sorted),
)
def test_a_mode_goes_from_its_start_towards_its_end(depth, s, u0, times):
    s = 0.0 if s < 1e-3 else s
    u = linear_dynamics([0.0, *times], s, u0, depth=depth)
    assert u[0] == u0
    low, high = min(s, u0), max(s, u0)
    assert (np.diff(u) * np.sign(s - u0) >= 0).all()
    assert ((low <= u) & (u <= high)).all()


# --- shapes and ends --------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_arguments_broadcast(depth):
    t, s, u0 = np.linspace(0, 3, 4), np.array([[3.0], [1.0], [0.5]]), np.array([[[1e-3]], [[2.0]]])
    u = linear_dynamics(t, s, u0, depth=depth)
    assert u.shape == (2, 3, 4)
    assert u.dtype == np.float64
    for i, j, k in np.ndindex(u.shape):
        one = linear_dynamics(t[k], s[j, 0], u0[i, 0, 0], depth=depth)
        assert one.shape == ()
        assert one == pytest.approx(u[i, j, k], rel=1e-14)


def test_no_times_are_no_strengths():
    assert linear_dynamics([], 1.0, 0.1, depth=3).shape == (0,)


@pytest.mark.parametrize("depth", [2, 4, math.inf])
def test_where_nothing_moves(depth):
    np.testing.assert_array_equal(linear_dynamics([0, 1, 1e9], 2.0, 2.0, depth=depth), 2.0)
    np.testing.assert_array_equal(linear_dynamics([0, 1, 1e9], 2.0, 0.0, depth=depth), 0.0)
    assert linear_dynamics_time(2.0, 2.0, 2.0, depth=depth) == 0
    # A single matrix needs no start.
    assert linear_dynamics(1.0, 2.0, 0.0, depth=1) == pytest.approx(2 * (1 - math.exp(-1)))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("s", "u0"), [(1e75, 1e-75), (1e-75, 1e75), (1e75, 1e75), (0.0, 1e75)])
@pytest.mark.parametrize("t", [5e-324, 1e-70, 1.0, 1e70, 1.7e308])
def test_extreme_strengths_give_numbers(depth, s, u0, t):
    u = float(linear_dynamics(t, s, u0, depth=depth))
    assert min(s, u0) <= u <= max(s, u0)


# --- gradient descent -------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("u0", [0.05, 3.0])
def test_gradient_descent_follows_the_curve(depth, u0):
    """Whole matrices, each aligned with its neighbours: W_i = Q_i (u0^(1/D) I) Q_{i+1}^T.

    Each layer's singular value a = u^(1/D) takes steps lr f(a), f = a^(D-1) (s - a^D), and comes
    (lr / 2) ln(f(a_1) / f(a_0)) late. That moves u by the same times du/dt; the next order is
    smaller by lr times the largest curvature of the loss, D s^(2 - 2/D), in order of magnitude:
    a factor of three is allowed.
    """
    lr, steps, strengths = 1e-3, 3000, np.array([2.0, 1.5, 0.8])
    rng = np.random.default_rng(3)
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(depth + 1)]
    target = turns[0] * strengths @ turns[-1].T
    weights = [u0 ** (1 / depth) * a @ b.T for a, b in pairwise(turns)]
    u = [np.full(3, u0)]
    for _ in range(steps):
        left = list(accumulate([np.eye(3), *weights], np.matmul))
        right = list(accumulate([np.eye(3), *weights[::-1]], lambda after, w: w @ after))[::-1]
        error = target - left[-1]
        weights = [w + lr * left[i].T @ error @ right[i + 1].T for i, w in enumerate(weights)]
        product = np.linalg.multi_dot([np.eye(3), *weights, np.eye(3)])
        u.append(np.diag(turns[0].T @ product @ turns[-1]))
    u = np.array(u)
    predicted = linear_dynamics(lr * np.arange(steps + 1)[:, None], strengths, u0, depth=depth)

    def slope(u):  # of one layer's singular value
        return np.maximum(u ** (1 - 1 / depth) * np.abs(strengths - u), 1e-300)

    lag = lr / 2 * np.log(slope(predicted) / slope(u[0]))
    late = lag * depth * predicted ** (2 - 2 / depth) * (strengths - predicted)
    curvature = depth * max(2.0, u0) ** (2 - 2 / depth)
    allowed = 3 * lr * curvature * np.abs(late).max(0)
    assert (allowed < np.abs(late).max(0) / 4).all()
    assert (np.abs(u - (predicted - late)).max(0) <= allowed).all()


# --- singular values --------------------------------------------------------------------------


def test_glorot_s_linear_regime():
    assert f"{linear_singular_values(1.0).mean:.6f}" == "0.848826"
    assert f"{linear_singular_values(1 / 3).mean:.6f}" == "0.490070"
    assert linear_singular_values(2.0).mean == pytest.approx(8 * math.sqrt(2) / (3 * math.pi))


@pytest.mark.parametrize("aspect", [1e-6, 0.1, 0.5, 0.999, 1.0, 1.5, 40.0])
def test_mean_singular_value_by_quadrature(aspect):
    """Of the density sqrt((b^2 - x^2)(x^2 - a^2)) / (pi min(c, 1) x) on [a, b]."""
    values = linear_singular_values(1.0, aspect=aspect)
    a, b = values.smallest, values.largest

    def integrand(angle):
        x = (a + b) / 2 - (b - a) / 2 * math.cos(angle)
        return math.sqrt((b + x) * (x + a)) * ((b - a) / 2 * math.sin(angle)) ** 2

    area, _ = quad(integrand, 0, math.pi, epsabs=0, epsrel=1e-11)
    # at 1e-6 the difference of the ends costs six digits
    assert values.mean == pytest.approx(area / (math.pi * min(aspect, 1)), rel=1e-8)


@pytest.mark.parametrize(("fan_in", "fan_out"), [(1000, 1000), (1000, 400), (500, 900)])
def test_singular_values_of_a_draw(fan_in, fan_out):
    """Sums of singular values scatter by O(1), so means by O(1/n); edges by O(n^(-2/3))."""
    weight_var = 1.7
    draw = jax.jit(
        lambda key: jinit.scheme("xavier", gain=math.sqrt(weight_var))(key, (fan_in, fan_out))
    )
    drawn = np.linalg.svd(np.asarray(draw(jax.random.key(1)), np.float64), compute_uv=False)
    expected = linear_singular_values(weight_var, aspect=fan_out / fan_in)
    n = min(fan_in, fan_out)
    assert drawn.mean() == pytest.approx(expected.mean, rel=3 / n)
    assert drawn.max() == pytest.approx(expected.largest, rel=3 * n ** (-2 / 3))
    assert drawn.min() == pytest.approx(expected.smallest, abs=3 * n ** (-2 / 3))


def test_no_weights_no_singular_values():
    assert linear_singular_values(0.0, aspect=2.0) == (0, 0, 0)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ((-1.0, 1.0, 1.0), {}, "t must not be negative, got -1"),
        ((1.0, -1.0, 1.0), {}, "s must not be negative, got -1"),
        ((1.0, 1.0, [0.1, -2.0]), {}, "u0 must not be negative, got -2"),
        ((1.0, 1e80, 1.0), {}, "s must be 0 or lie between 1e-75 and 1e[+]75, got 1e[+]80"),
        ((math.nan, 1.0, 1.0), {}, "t must be finite, got nan; leave it out"),
        (
            (math.inf, 1.0, 1.0),
            {},
            r"t must be finite, got inf; leave it out \(a mode ends at u = s",
        ),
        ((1.0, 1.0, [0.1, -math.inf]), {}, "u0 must be finite, got -inf"),
        ((np.ones(2), np.ones(3), 1.0), {}, r"shapes that broadcast, got \(2,\), \(3,\), \(\);"),
        (([[1.0, 2.0], [3.0]], 1.0, 1.0), {}, "t must be an array .* got lists of unequal length"),
        (("late", 1.0, 1.0), {}, "t must be an array of real numbers"),
        ((1.0, 1.0, 0.1), {"depth": 0}, "depth .* must be an integer of at least 1, got 0"),
        ((1.0, 1.0, 0.1), {"depth": 2.5}, "depth .* got 2.5"),
        ((1.0, 1.0, 0.1), {"depth": math.nan}, "depth .* got nan"),
        ((1.0, 1.0, 0.1), {"depth": -math.inf}, "depth .* got -inf"),
        ((1.0, 1.0, 0.1), {"tau": 0.0}, "tau is a time constant and must be positive, got 0"),
    ],
)
def test_bad_dynamics(arguments, options, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        linear_dynamics(*arguments, **options)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((3.0, 3.0, 0.1), "got 3; a mode of 2 matrices that starts at u0 = 0.1 goes towards s = 3"),
        ((0.05, 3.0, 0.1), "got 0.05; .* goes towards s = 3"),
        ((5.0, 3.0, 4.0), "got 5; .* goes towards s = 3"),
        ((1.0, 3.0, 0.0), "u0 = 0 stays there"),
        ((1.0, 3.0, 3.0), "u0 = 3 stays there"),
        ((math.inf, 3.0, 1.0), "u must be one finite"),
    ],
)
def test_strengths_that_are_never_reached(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        linear_dynamics_time(*arguments)


@pytest.mark.bad_input
def test_inside_jit():
    with pytest.raises(TypeError, match=r"t must be .*traced by jax"):
        jax.jit(lambda t: linear_dynamics(t, 1.0, 0.1))(1.0)


@pytest.mark.bad_input
def test_bad_layers():
    with pytest.raises(ValueError, match="weight_var is a variance and must not be negative"):
        linear_singular_values(-1.0)
    with pytest.raises(ValueError, match="aspect is fan_out / fan_in and must be positive, got 0"):
        linear_singular_values(1.0, aspect=0.0)
