"""Activations by name: each is elementwise, differentiable, and what its name says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special as sp

import jinit
from jinit import theory
from jinit.activations import ACTIVATIONS, ActivationFacts, activation, facts


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


# Written from the papers' formulas in NumPy, independently of jax.
FORMULAS = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "tanh": np.tanh,
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "sigmoid": _sigmoid,
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "elu": _elu,
    "celu": _elu,  # at alpha = 1 the two are one
    "selu": lambda x: 1.0507009873554805 * _elu(x, 1.6732632423543778),
    "gelu": lambda x: x * sp.ndtr(x),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "erf": sp.erf,
    "sin": np.sin,
}

GRID = np.linspace(-7.3, 7.1, 41)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes_follow_the_formula(name):
    phi, formula, h = activation(name), FORMULAS[name], 1e-6
    with jax.enable_x64(True):
        values, slopes = jax.jit(lambda x: jax.jvp(phi, (x,), (jnp.ones_like(x),)))(GRID)
    np.testing.assert_allclose(values, formula(GRID), rtol=1e-12, atol=1e-13)
    # Central differences in float64 are good to h^2 + 1e-16/h, about 1e-9.
    expected = (formula(GRID + h) - formula(GRID - h)) / (2 * h)
    np.testing.assert_allclose(slopes, expected, atol=2e-8)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_keeps_shape_and_dtype_under_strict_promotion(name):
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jax.ShapeDtypeStruct((2, 3), dtype)
        out = jax.eval_shape(activation(name), x)
        assert (out.shape, out.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_kinks_are_where_a_derivative_jumps_and_nowhere_else(name):
    """One-sided Taylor coefficients up to order 3 agree where the function is smooth."""
    formula, h = FORMULAS[name], 1e-3
    for point in (-3.0, -1.0, 0.0, 1.0, 3.0, 6.0):
        ahead = np.polyfit(np.arange(9) * h, formula(point + np.arange(9) * h), 4)[:-1]
        behind = np.polyfit(-np.arange(9) * h, formula(point - np.arange(9) * h), 4)[:-1]
        # Slopes are good to 1e-9 and curvatures to 1e-5 at this step.
        jump = max(abs(ahead[-1] - behind[-1]) / 1e-6, abs(ahead[-2] - behind[-2]) / 1e-3)
        assert (jump > 1) == (point in ACTIVATIONS[name].kinks), (name, point, jump)


def test_relu_has_slope_zero_at_zero():
    """jnp.maximum(x, 0) would have one half, and a dead unit would learn."""
    assert jax.grad(activation("relu"))(0.0) == 0.0


@pytest.mark.parametrize("name", [n for n, row in ACTIVATIONS.items() if row.slope])
def test_slopes_of_their_own_are_the_derivative_and_keep_their_tails(name):
    """Compared with float64, in float32, out to where float32 itself ends."""
    x = np.linspace(-40, 40, 81)
    exact = {
        "tanh": 4 * np.exp(-2 * np.abs(x)) / (1 + np.exp(-2 * np.abs(x))) ** 2,
        "sigmoid": np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2,
    }[name]
    got = ACTIVATIONS[name].slope(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, exact, rtol=1e-5)
    assert np.all(np.asarray(got) > 0)
    # Near the middle automatic differentiation agrees.
    by_jax = jax.vmap(jax.grad(activation(name)))(jnp.asarray(x[38:43], jnp.float32))
    np.testing.assert_allclose(got[38:43], by_jax, rtol=1e-5)


def test_a_callable_is_returned_as_it_is():
    assert activation(jnp.sin) is jnp.sin


def test_every_table_entry_has_a_formula_here():
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_rectifies_and_what_squashes(name):
    formula, x = FORMULAS[name], np.linspace(0.1, 5, 50)
    keeps = np.allclose(formula(x), x, rtol=1e-12)
    drops = np.all(np.abs(formula(-x)) <= 0.01 * x)
    assert ACTIVATIONS[name].rectifies == (keeps and drops)
    slope = np.gradient(formula(GRID), GRID)
    steepest_at_0 = np.abs(slope[20]) >= np.abs(slope).max() * (1 - 1e-9)
    ends = np.array([-600.0, -300.0, 300.0, 600.0])
    with np.errstate(over="ignore"):
        far = formula(ends)
    flat = np.ptp(far[:2]) < 2e-3 and np.ptp(far[2:]) < 2e-3
    assert ACTIVATIONS[name].squashes == (steepest_at_0 and flat)


def test_a_row_is_called_like_its_function_and_one_of_your_own_has_no_facts():
    half = jnp.float32(0.5)
    assert ACTIVATIONS["tanh"](half) == jnp.tanh(half)
    assert facts(ACTIVATIONS["tanh"]) is facts("tanh")
    assert facts(jnp.cos) == (jnp.cos, (), None, False, False)
    assert activation(ACTIVATIONS["tanh"]) is jnp.tanh


def test_an_activation_is_one_row(monkeypatch):
    """Hardtanh of half the width, by nothing but its row: theory and networks know it."""
    with pytest.raises(ValueError, match="unknown activation 'half'"):
        jinit.MLP((8, 8, 2), activation="half")
    row = ActivationFacts(lambda x: jnp.clip(x, -0.5, 0.5), kinks=(-0.5, 0.5), squashes=True)
    monkeypatch.setitem(ACTIVATIONS, "half", row)
    # E[clip(z)^2] in closed form: inside (-a, a) the variance, outside a^2.
    a, density = 0.5, np.exp(-0.125) / np.sqrt(2 * np.pi)
    second = 1 - 2 * sp.ndtr(-a) - 2 * a * density + 2 * a * a * sp.ndtr(-a)
    assert jinit.gain("half") == pytest.approx(second**-0.5, rel=1e-9)
    assert theory.critical("half", bias_var=0.01).weight_var > 1
    net = jinit.MLP((64, 64, 64, 2), activation="half")
    params, state = jinit.init(jax.random.key(0), net, "he")
    x = 100 * jax.random.normal(jax.random.key(1), (32, 64))
    signals = jinit.layer_signals(net, params, state, x, key=jax.random.key(2))
    assert signals.saturated[0] > 0.9  # it says that it is flat on both sides
    assert theory.recommend("half").scheme == "xavier"  # it does not rectify
