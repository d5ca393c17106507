"""Where an activation is flat: ranges of its argument, against its slope entry by entry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.activations import ACTIVATIONS, SATURATION
from jinit.models.diagnosis import flat
from jinit.models.tracing import curves, probe


@pytest.fixture(scope="module")
def u() -> np.ndarray:
    rng = np.random.default_rng(0)
    scattered = rng.normal(size=50_000) * rng.choice([0.1, 1, 5, 30, 1e4], 50_000)
    return np.append(scattered, [0.0, -0.0, 6.0, -1.0, 1.0, -3.0, 3.0, np.inf]).astype("f4")


@pytest.mark.parametrize("name", ["relu", "relu6", "tanh", "hard_sigmoid", "gelu_tanh", "sin"])
def test_ranges_hold_where_the_slope_is_small(name: str, u: np.ndarray) -> None:
    row = ACTIVATIONS[name]
    # Forward, as what is measured: backward some tails round to 0 that do not so forward.
    slope = row.slope or (lambda x: jax.jvp(row.function, (x,), (jnp.ones_like(x),))[1])
    slopes = np.abs(np.asarray(jax.jit(slope)(jnp.asarray(u))))
    bound = np.float32(SATURATION * np.max(curves.slopes(curves.known()[name])))
    dead, saturated = (np.asarray(inside(jnp.asarray(u))) for inside in flat._of_name(name))
    finite = np.isfinite(u)
    # Two ways to compute a slope round differently at the end of a range.
    clear = finite & ((slopes == 0) | (slopes > 1e-6))
    np.testing.assert_array_equal(dead[clear], slopes[clear] == 0)
    clear = finite & (np.abs(slopes - bound) > 1e-6)
    np.testing.assert_array_equal(saturated[clear], slopes[clear] < bound)


def test_what_is_no_number_is_not_flat() -> None:
    nothing = jnp.full((3, 4), jnp.nan)
    for inside in (*flat._of_name("tanh"), *flat._of_name("gelu")):
        assert not np.asarray(inside(nothing)).any()


def test_ranges_of_a_curve_without_a_name(u: np.ndarray) -> None:
    curve = np.where(np.abs(curves.GRID) < 2, curves.GRID**3, 8 * np.sign(curves.GRID))
    is_dead, is_saturated = flat._of_curve(curve)
    far, flat_too = np.abs(u) > 2.1, np.abs(u) < 0.3
    dead, saturated = np.asarray(is_dead(jnp.asarray(u))), np.asarray(is_saturated(jnp.asarray(u)))
    assert dead[far].all()
    assert not dead[(np.abs(u) < 1.9) & (np.abs(u) > 0.1)].any()
    assert saturated[far | flat_too].all()
    assert not saturated[(np.abs(u) < 1.9) & (np.abs(u) > 0.6)].any()


@pytest.mark.parametrize("size", [1e-33, 1.0, 1e36])
def test_moments_of_extreme_values(size: float) -> None:
    x = (np.random.default_rng(1).normal(0.5, size=(64, 128)) * size).astype("f4")
    found = probe.moments(jnp.asarray(x))
    wide = x.astype(np.float64)
    # 64 rows of 128: each sum rounds 128 + 64 times at most, to 2**-24.
    np.testing.assert_allclose(float(found.scale) * float(found.mean), wide.mean(), rtol=2e-5)
    log = probe.log_size(found.scale, found.square)
    np.testing.assert_allclose(log, 0.5 * np.log(np.mean(wide**2)), rtol=0, atol=2e-5)
