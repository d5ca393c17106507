"""Zeros on a grid, against functions whose zeros are known."""

import math

import numpy as np
import pytest

from jinit.theory.moments.roots import zeros

GRID = np.concatenate([np.linspace(-8, 0, 9), np.linspace(0.25, 4, 16), np.linspace(5, 9, 5)])


def on_grid(function, even=1e-13):
    return zeros(function, GRID, np.array([function(x) for x in GRID]), even=even)


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("gap", [1e-5, 1e-3, 0.1, 0.9])
@pytest.mark.parametrize("middle", np.linspace(-6.9, 7.4, 12))
def test_a_pair_inside_one_step_is_found(side, gap, middle):
    a, b = middle - gap / 2, middle + gap / 2
    found = on_grid(lambda x: side * (x - a) * (x - b))
    assert found == pytest.approx([a, b], abs=1e-9)


def test_a_touch_is_one_zero():
    """Located as well as a double zero can be: to the root of the rounding."""
    assert on_grid(lambda x: (x - 0.6) ** 2) == pytest.approx([0.6], abs=1e-6)


def test_a_dip_that_stays_above_is_none():
    assert on_grid(lambda x: (x - 0.6) ** 2 + 1e-6) == []
    assert on_grid(lambda x: 1.0) == []
    assert on_grid(lambda x: 1e-14) == []  # rounding


def test_what_is_not_known_is_passed_over():
    def function(x):
        return math.nan if x > 3 else math.inf if x < -5 else (x + 2.5) * (x - 1.1)

    assert on_grid(function) == pytest.approx([-2.5, 1.1], rel=1e-12)
    assert on_grid(lambda x: math.nan if abs(x) < 1.5 else x) == []
    assert on_grid(lambda x: math.nan) == []


def test_dips_and_changes_of_sign_together_in_order():
    def function(x):
        return (x + 3.3) * ((x - 0.6) ** 2 - 1e-4) * (x - 6.5)

    assert on_grid(function) == pytest.approx([-3.3, 0.59, 0.61, 6.5], rel=1e-12)
