"""Order, chaos and the line between, over a grid of weight and bias variances."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

from jinit.activations import Activation
from jinit.theory.arguments import variance
from jinit.theory.criticality import CriticalLine, chi_at, critical_line
from jinit.theory.curve import Curve, MomentError, TooRoughError, curve

__all__ = ["PhaseDiagram", "phase_diagram"]

_TABLE = np.logspace(-8, 6, 141)
_NOTHING = -700.0  # ln of about the least float64, drawn where no gradient is left
_EVEN = 1e-11  # a relative change of length below this is rounding


class PhaseDiagram(NamedTuple):
    """Where lengths settle and how gradients grow, over weight x bias variance."""

    activation: str
    weight_var: np.ndarray
    """`[weights]`"""
    bias_var: np.ndarray
    """`[biases]`"""
    q: np.ndarray
    """where the lengths settle, `[biases, weights]`; 0 or infinity where they do not"""
    log_chi: np.ndarray
    """log growth per layer of the mean squared gradient there, `[biases, weights]`; -700 or more"""
    line: CriticalLine
    """the edge of chaos"""


def phase_diagram(
    activation: str | Activation,
    *,
    weight_var: Sequence[float] | np.ndarray | None = None,
    bias_var: Sequence[float] | np.ndarray | None = None,
) -> PhaseDiagram:
    """The phase diagram of Poole et al. 2016 (fig. 1) and Schoenholz et al. 2017, for any phi.

    The moments are interpolated between 141 lengths (to about 1e-6, which no picture shows); the
    line is exact.

    Args:
        activation: a name, or an elementwise jax.numpy function.
        weight_var: increasing; None takes up to 4, or as far as the edge of chaos asks for.
        bias_var: increasing; None takes 0 to 0.5.
    """
    phi = curve(activation)
    biases = _grid("bias_var", bias_var, np.linspace(0, 0.5, 41))
    line = _line(activation, float(biases[-1]))
    most = max(4.0, 1.6 * float(line.weight_var.min())) if len(line.q) else 4.0
    weights = _grid("weight_var", weight_var, np.linspace(most / 80, most, 80))
    settle = _Settle(phi)
    found = np.array([[settle(w, b) for w in weights] for b in biases])
    log_chi = np.maximum(found[..., 1], _NOTHING)
    return PhaseDiagram(phi.name, weights, biases, found[..., 0], log_chi, line)


def _grid(name: str, given: Sequence[float] | np.ndarray | None, default: np.ndarray) -> np.ndarray:
    if given is None:
        return default
    values = np.array([variance(name, each) for each in given])
    if len(values) < 2 or not np.all(np.diff(values) > 0):
        raise ValueError(
            f"{name} must list at least two increasing variances, got {list(given)!r}."
        )
    return values


def _line(activation: str | Activation, most: float) -> CriticalLine:
    """The edge of chaos as far as that bias variance, evenly covered."""
    rough = critical_line(activation)
    seen = np.flatnonzero(rough.bias_var <= most)
    if len(rough.q) == 0 or len(seen) > 60:
        return rough
    last = seen[-1] if len(seen) else 0
    low = rough.q[seen[0]] if len(seen) else rough.q[0]
    high = rough.q[min(last + 1, len(rough.q) - 1)]
    return critical_line(activation, q=np.geomspace(low / 1.15, high, 121))


class _Settle:
    """(q, ln chi) where the lengths settle from q = 1, by a table of moments."""

    def __init__(self, phi: Curve) -> None:
        rows = []
        for q in map(float, _TABLE):
            try:
                rows.append((q, phi.second(q), phi.slope_second(q)))
            except (MomentError, TooRoughError):
                break
        self.phi = phi
        self.q, self.second, slope_second = np.array(rows).T
        self.log_q = np.log(self.q)
        self.log_second = CubicSpline(self.log_q, _log(self.second))
        self.log_slope_second = CubicSpline(self.log_q, _log(slope_second))
        # Where lengths vanish, and where they grow without end:
        self.below, self.above = (
            float(_log(chi_at(phi, q, 1.0).perpendicular)) for q in (0.0, math.inf)
        )

    def __call__(self, weight_var: float, bias_var: float) -> tuple[float, float]:
        change = (weight_var * self.second + bias_var) / self.q - 1
        start = int(np.searchsorted(self.q, 1.0))
        rises = change[start] > 0
        # The first change of sign on the way from q = 1.
        way = range(start, len(change)) if rises else range(start, -1, -1)
        i = next((i for i in way if (change[i] > 0) != rises), None)
        if abs(change[start]) < _EVEN:  # every length is a fixed point
            return 1.0, math.log(weight_var) + float(self.log_slope_second(0.0))
        if i is None:
            end = self.above if rises else self.below
            q = math.inf if rises else 0.0
            return q, float(_log(weight_var)) + end

        def off(log_q: float) -> float:
            second = math.exp(self.log_second(log_q))
            return math.log(weight_var * second + bias_var) - log_q

        a, b = sorted((i, i - 1 if rises else i + 1))
        log_q = brentq(off, self.log_q[a], self.log_q[b], xtol=1e-9)
        return math.exp(log_q), math.log(weight_var) + float(self.log_slope_second(log_q))


def _log(x: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(x), _NOTHING)
