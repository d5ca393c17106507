"""Expectations over two pre-activations: far out, at kinks of opposite signs, and what they cost.

`test_curve.py` holds the closed forms and the identities for every named activation.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.theory import MomentError, correlation_map
from jinit.theory.moments.curve import TooRoughError, curve
from jinit.theory.moments.pairs import pair


def triangle(x):
    return jnp.abs(jnp.mod(x, 2.0) - 1)


def late_softplus(x):
    """Bends at -3 only."""
    return jax.nn.softplus(5 * (x + 3)) / 5


def late_relu(x):
    return jax.nn.relu(x - 1)


@pytest.fixture
def looked_at(monkeypatch):
    """How many points an activation is evaluated in."""

    def count(phi, *arguments):
        points = []
        evaluate = phi.evaluate_all

        def counted(x):
            points.append(np.size(x))
            return evaluate(x)

        with monkeypatch.context() as patch:
            patch.setattr(phi, "evaluate_all", counted)
            pair(phi, *arguments)
        return sum(points)

    return count


@pytest.mark.parametrize("q", [1.0, 30.0, 60.0])
@pytest.mark.parametrize("apart", [1e-6, 0.3, 1.0, 1.9, 2.0])
def test_moments_that_lie_far_out(q, apart):
    """E e^u e^v = e^(q (1 + c)): as far out as twelve standard deviations and more."""
    found = pair(curve(jnp.exp), q, apart)
    assert found.product == pytest.approx(math.exp(q * (2 - apart)), rel=1e-12)
    assert found.slope_product == pytest.approx(found.product, rel=1e-12)
    difference = -math.exp(2 * q) * math.expm1(-q * apart)
    assert found.half_square_difference == pytest.approx(difference, rel=1e-11)


@pytest.mark.parametrize("apart", [0.5, 1.5, 1.99, 2 - 1e-6, 2.0])
@pytest.mark.parametrize("name", ["relu6", "hard_tanh", late_relu, late_softplus, triangle])
def test_difference_and_product_make_up_the_second_moment(name, apart):
    """Also where v is almost -u, and kinks of one are seen by the other."""
    phi = curve(name)
    for q in (0.5, 3.5):
        found = pair(phi, q, apart)
        total = found.product + found.half_square_difference
        assert total == pytest.approx(phi.second(q), rel=1e-11)


@pytest.mark.parametrize(("name", "q", "most"), [
    # Twenty points in each of d outer and s inner panels, for both pre-activations; all edges of
    # three grids would make it two to four times as many.
    ("tanh", 0.42, 200_000), ("gelu", 3.5, 300_000), (triangle, 1.0, 700_000), ("sin", 1e3, 8e6),
])  # fmt: skip
def test_panels_are_no_finer_than_the_finest_grid_asks(looked_at, name, q, most):
    assert looked_at(curve(name), q, 0.5) < most


def test_kinks_far_beyond_the_reach_cost_nothing(looked_at):
    phi = curve(triangle)
    near = looked_at(phi, 0.01, 0.5)
    phi.second(30.0)
    assert len(phi.kinks) > 100
    assert looked_at(phi, 0.01, 0.5) <= 2 * near


@pytest.mark.bad_input
@pytest.mark.parametrize(("phi", "q"), [(lambda x: jnp.sin(50 * x), 25.0), ("sin", 5e4)])
def test_what_would_take_minutes_is_one_sentence(phi, q):
    with pytest.raises(TooRoughError, match=r"bends too often .* q = .* more than 2e\+07; give a"):
        correlation_map(phi, 0.5, weight_var=50.0, q=q)


@pytest.mark.bad_input
def test_moments_that_diverge_are_refused():
    with pytest.raises(MomentError, match="exp diverges, or leaves float64, at variance q = 170"):
        correlation_map(jnp.exp, 0.5, weight_var=1.0, q=170.0)
