"""Expectations of any function: closed forms far out and near poles, and one sentence for the rest.

`test_curve.py` holds the plain closed forms.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jinit.theory import MomentError, expectation
from jinit.theory.moments.curve import curve


@pytest.mark.parametrize("q", [1.0, 30.0, 100.0])
def test_expectations_are_followed_as_far_out_as_they_lie(q):
    """E e^(sqrt(q) z) = e^(q / 2), whose integrand peaks at z = sqrt(q)."""
    assert expectation(np.exp, q) == pytest.approx(math.exp(q / 2), rel=1e-12)
    exact = 1 / math.sqrt(1 - 2 / 2.5)
    assert expectation(lambda x: np.exp(x**2 / 2.5 / q), q) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("least", [1.0, 8.0, 13.0])
def test_jumps_and_what_lies_beyond_them(least):
    tail = scipy.special.ndtr(-least)
    assert expectation(lambda x: x > least) == pytest.approx(tail, rel=1e-10)


@pytest.mark.parametrize("q", [1e-8, 1.0, 1e4, 1e24, 1e200])
def test_narrow_bends_at_any_variance(q):
    assert expectation(np.abs, q) == pytest.approx(math.sqrt(2 * q / math.pi), rel=1e-12)
    squares = curve("tanh").second(q)
    assert expectation(lambda x: np.tanh(x) ** 2, q) == pytest.approx(squares, rel=1e-10)


def test_mild_poles():
    """E ln|z| = -(gamma + ln 2) / 2, E |z|^(1/2) = 2^(1/4) Gamma(3/4) / sqrt(pi)."""
    exact = -(np.euler_gamma + math.log(2)) / 2
    assert expectation(lambda x: np.log(np.abs(x))) == pytest.approx(exact, rel=1e-10)
    exact = 2**0.25 * math.gamma(0.75) / math.sqrt(math.pi)
    assert expectation(lambda x: np.abs(x) ** 0.5) == pytest.approx(exact, rel=1e-10)


def test_jax_functions_are_asked_in_float64():
    """Whatever jax is set to, and inside a trace too."""
    assert not jax.config.jax_enable_x64
    assert expectation(jnp.tanh) == pytest.approx(0, abs=1e-14)
    squares = expectation(lambda x: jnp.tanh(x) ** 2)
    assert squares == pytest.approx(curve("tanh").second(1.0), rel=1e-12)
    inside = jax.jit(lambda x: x * expectation(lambda u: jnp.tanh(u) ** 2))(1.0)
    assert inside == pytest.approx(squares, rel=1e-6)


def test_activations_by_name():
    assert expectation("relu", 4.0) == pytest.approx(2 / math.sqrt(2 * math.pi), rel=1e-12)
    assert expectation("softplus") == pytest.approx(curve("softplus").mean(1.0), rel=1e-12)
    assert expectation("sigmoid", 0.0) == 0.5


@pytest.mark.bad_input
@pytest.mark.parametrize(("function", "error", "message"), [
    (lambda x: np.exp(x**2), MomentError, "diverges, or leaves float64, at variance q = 1; give a"),
    (lambda x: np.exp(x**2 / 2.02), MomentError, "diverges, or leaves float64"),
    (lambda x: 1 / x, ValueError, "got one that has a pole near x = 0; leave its singular part"),
    (lambda x: 1 / (x - 0.3), ValueError, "has a pole near x = 0.3;"),
    (lambda x: np.abs(x) ** -0.5, ValueError, "has a pole near x = 0;"),
    (np.tan, ValueError, r"has a pole near x = -?1\.5708;"),
    (np.sum, ValueError, r"an elementwise one, .* got one that turns shape \(8,\) into \(\)"),
    (lambda x: 1.0, ValueError, r"got one that turns shape \(8,\) into \(\)"),
    (np.cumsum, ValueError, "whose value at an entry depends on the other entries"),
    (jax.nn.softmax, ValueError, "whose value at an entry depends on the other entries"),
    (math.exp, TypeError, r"got one that raises TypeError \(.*\) on a float64 vector; write it"),
    (lambda x: x.astype("float32"), ValueError, "that returns float32; leave out its casts"),
    (lambda x: np.exp(1j * x), ValueError, "got one that returns complex128"),
    ("rellu", ValueError, "unknown activation 'rellu'; did you mean 'relu'"),
    (5, TypeError, "must be a name such as 'relu' or an elementwise function, got 5"),
])  # fmt: skip
def test_what_has_no_expectation_is_one_sentence(function, error, message):
    with pytest.raises(error, match=message) as caught:
        expectation(function)
    assert "\n" not in str(caught.value)
