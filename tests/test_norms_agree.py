"""Networks and theory each have a table of norms, and neither knows the other: same keys."""

import math

import numpy as np
import pytest

from jinit import theory
from jinit.networks.norms import NORMS as SIMULATED
from jinit.theory.layers.norms import NORMS


def test_the_keys_are_the_same():
    assert list(NORMS) == list(SIMULATED)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_every_row_follows_layers_at_the_growth_that_it_states(norm, residual):
    """Where lengths have settled, a layer's factor is the one of the deep network."""
    net = theory.Ensemble("tanh", weight_var=1.5, bias_var=0.05)
    if not residual:
        found = net.trajectory(depth=200, norm=norm)
        slope = net.gradient_log_slope(norm=norm)
    else:
        found = net.trajectory(depth=3, norm=norm, residual=True, branch_scale=1e-6)
        slope = net.gradient_log_slope(norm=norm, residual=True, branch_scale=1e-6)
    assert 2 * (found.log_grad[-2] - found.log_grad[-1]) == pytest.approx(slope, rel=1e-5)


def test_one_row_is_a_norm(monkeypatch):
    """Root mean square norm: nothing but a row, and all that is asked of norms answers."""
    rms = NORMS["layer"]
    monkeypatch.setitem(NORMS, "rms", rms)
    net = theory.Ensemble("relu", weight_var=2.0)
    np.testing.assert_array_equal(
        net.trajectory(depth=5, norm="rms").log_grad, net.trajectory(depth=5, norm="layer").log_grad
    )
    assert net.gradient_log_slope(norm="rms") == pytest.approx(math.log(1.0), abs=1e-12)
