"""Order, chaos and the line between, over a grid of weight and bias variances."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from jinit.theory.maps.criticality import CriticalLine, chi_at, critical_line
from jinit.theory.maps.lengths import limit_length
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import is_settled, variances
from jinit.theory.moments.curve import ActivationLike, Curve, MomentError, TooRoughError, curve
from jinit.theory.moments.roots import zeros

_TABLE = np.concatenate([np.logspace(-30, -9, 22), np.logspace(-8, 6, 141), np.logspace(7, 30, 24)])
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
    """log growth per layer of the mean squared gradient there, `[biases, weights]`; -700 where no
    gradient is left, 700 where all moments diverge"""
    line: CriticalLine
    """the edge of chaos"""


def phase_diagram(
    activation: ActivationLike,
    *,
    weight_var: Sequence[float] | np.ndarray | None = None,
    bias_var: Sequence[float] | np.ndarray | None = None,
) -> PhaseDiagram:
    """The phase diagram of Poole et al. 2016 (fig. 1) and Schoenholz et al. 2017, for any phi.

    The moments are interpolated between 187 lengths (to a few 1e-6, which no picture shows); the
    line is exact.

    Args:
        weight_var: increasing; None takes up to 4, or as far as the edge of chaos asks for.
        bias_var: increasing; None takes 0 to 0.5.
    """
    phi = curve(activation)
    biases = np.linspace(0, 0.5, 41)
    if bias_var is not None:
        biases = variances("bias_var", bias_var, least=2)
    line = _line(phi, float(biases[-1]))
    most = max(4.0, 1.6 * float(line.weight_var.min())) if len(line.q) else 4.0
    weights = np.linspace(most / 80, most, 80)
    if weight_var is not None:
        weights = variances("weight_var", weight_var, least=2)
    settle = _Settle(phi)
    found = np.array([[settle(w, b) for w in weights.tolist()] for b in biases.tolist()])
    log_chi = np.clip(found[..., 1], _NOTHING, -_NOTHING)
    return PhaseDiagram(phi.name, weights, biases, found[..., 0], log_chi, line)


def _line(phi: Curve, most: float) -> CriticalLine:
    """The edge of chaos as far as that bias variance, evenly covered."""
    rough = critical_line(phi)
    seen = np.flatnonzero(rough.bias_var <= most)
    if len(rough.q) == 0 or len(seen) > 60:
        return rough
    last = seen[-1] if len(seen) else 0
    low = rough.q[seen[0]] if len(seen) else rough.q[0]
    high = rough.q[min(last + 1, len(rough.q) - 1)]
    return critical_line(phi, q=np.geomspace(low / 1.15, high, 121))


class _Settle:
    """(q, ln chi) where the lengths settle from q = 1, by a table of moments."""

    def __init__(self, phi: Curve) -> None:
        phi.second(1.0)  # where lengths begin; raises where moments have ended before
        rows = []
        for q in map(float, _TABLE):
            try:
                rows.append((q, phi.second(q), phi.gradient_second(q)))
            except (MomentError, TooRoughError):
                break
        self.phi = phi
        lengths, second, slope_second = np.array(rows).T
        self.log_q, self.table = np.log(lengths), _log(second)
        self.least = phi.second(0.0)
        self.start = int(np.searchsorted(lengths, 1.0))
        self.log_second = CubicSpline(self.log_q, self.table)
        self.log_slope_second = CubicSpline(self.log_q, _log(slope_second))
        # Where lengths vanish, and where they grow without end:
        self.below, self.above = (
            float(_log(chi_at(WideLayer(phi, weight_var=1.0), q).perpendicular))
            for q in (0.0, math.inf)
        )

    def __call__(self, weight_var: float, bias_var: float) -> tuple[float, float]:
        log_weight_var, log_bias_var = (
            math.log(each) if each else _NOTHING for each in (weight_var, bias_var)
        )
        change = np.logaddexp(log_weight_var + self.table, log_bias_var) - self.log_q
        if abs(change[self.start]) < _EVEN:  # a fixed point, and often every length is one
            return 1.0, log_weight_var + float(self.log_slope_second(0.0))

        def off(log_q: float) -> float:
            a, b = log_weight_var + float(self.log_second(log_q)), log_bias_var
            return max(a, b) + math.log1p(math.exp(-abs(a - b))) - log_q  # logaddexp, but faster

        points = zeros(off, self.log_q, change, even=_EVEN, xtol=1e-8)
        rises = change[self.start] > 0
        if way := [x for x in points if (x > 0) == rises]:
            log_q = min(way, key=abs)  # the first on the way from ln q = 0
            return math.exp(log_q), log_weight_var + float(self.log_slope_second(log_q))
        q = math.inf if rises else 0.0
        least = weight_var * self.least + bias_var
        if (rises and change[-1] < 0.999 * change[-2]) or (not rises and least > 0):
            # Where they settle, if so, is beyond the table.
            layer = WideLayer(self.phi, weight_var=weight_var, bias_var=bias_var)
            q = limit_length(layer)
            if is_settled(q):
                return q, float(_log(chi_at(layer, q).perpendicular))
        return q, log_weight_var + (self.above if rises else self.below)


def _log(x: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(x), _NOTHING)
