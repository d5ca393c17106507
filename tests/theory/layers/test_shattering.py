"""Shattered gradients as published, dead networks, and depth that costs little."""

import math

import numpy as np
import pytest

from jinit import theory
from jinit.theory import dead_chance, shattering
from jinit.theory.maps import correlations, orbit


def test_gradients_shatter_as_published():
    """1 / 2^L plain, (3/4)^L with skips; a power with a norm, of twice the depth each octave."""
    he = {"weight_var": 2.0, "fixed": True}
    powers = np.arange(1, 11)
    np.testing.assert_allclose(shattering("relu", depth=10, **he).gradient, 0.5**powers)
    blocks = shattering("relu", depth=10, residual=True, **he)
    np.testing.assert_allclose(blocks.gradient, 0.75**powers)
    for norm, power in (("layer", 0.5), ("batch", math.pi / (math.pi - 1) / 2)):
        found = shattering("relu", depth=1600, residual=True, norm=norm, **he).gradient
        slope = math.log(found[399] / found[1599]) / math.log(4)
        assert slope == pytest.approx(power, abs=1 / 400)


def test_correlations_are_those_of_the_map():
    found = shattering("relu", depth=5, weight_var=2.0)
    mapped = theory.correlation_trajectory("relu", 0.0, weight_var=2.0, depth=5)
    np.testing.assert_allclose(found.c, mapped, atol=1e-12)
    angles = np.arccos(found.c)
    np.testing.assert_allclose(found.gradient, np.cumprod(1 - angles / math.pi), rtol=1e-9)


@pytest.mark.bad_input
def test_what_does_not_shatter_is_one_sentence():
    with pytest.raises(ValueError, match="two samples of a large batch have correlation 0"):
        shattering("relu", depth=5, weight_var=2.0, c=0.5, norm="batch")
    with pytest.raises(ValueError, match="vanish, and with them"):
        shattering("relu", depth=5, weight_var=0.0)


def test_the_chance_of_a_dead_network():
    assert dead_chance("relu", [2, 3]) == pytest.approx(1 - (1 - 1 / 4) * (1 - 1 / 8))
    assert dead_chance("gelu", [2, 3]) == 0.0
    outside = 0.31731050786291415  # of (-1, 1)
    assert dead_chance("hard_tanh", [2]) == pytest.approx(outside**2, rel=1e-9)
    assert dead_chance(lambda x: 0 * x, [2]) == 1.0


def test_deep_trajectories_equal_a_loop():
    """The recursion itself; near criticality lengths never settle."""
    for phi, variances in (("tanh", (1.0, 0.0)), ("gelu", (1.98305826, 0.17292239))):
        weight_var, bias_var = variances
        found = theory.trajectory(phi, depth=600, weight_var=weight_var, bias_var=bias_var)
        q = weight_var + bias_var
        for layer in range(600):
            if layer % 100 == 99:
                assert found.q[layer] == pytest.approx(q, rel=1e-9)
            q = theory.length_map(phi, q, weight_var=weight_var, bias_var=bias_var)


@pytest.mark.long
def test_strides_equal_layers(monkeypatch):
    ask = {"depth": 8_300, "weight_var": 1.0}
    strides = theory.trajectory("tanh", **ask)
    monkeypatch.setattr(orbit, "_ONE_BY_ONE", 10**6)
    layers = theory.trajectory("tanh", **ask)
    np.testing.assert_allclose(strides.q, layers.q, rtol=1e-11)


@pytest.mark.long
def test_deep_correlations_equal_a_loop(monkeypatch):
    cases = (("relu", {"weight_var": 2.0}), ("tanh", {"weight_var": 1.0}),
             ("tanh", {"weight_var": 1.42420529, "bias_var": 0.01}))  # fmt: skip
    deep = [theory.correlation_trajectory(phi, 0.0, depth=80, **at) for phi, at in cases]
    monkeypatch.setattr(correlations, "_EXACT", 10**6)
    for found, (phi, at) in zip(deep, cases, strict=True):
        looped = theory.correlation_trajectory(phi, 0.0, depth=80, **at)
        np.testing.assert_allclose(1 - found, 1 - looped, rtol=1e-9)
