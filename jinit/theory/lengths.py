"""How the length of a signal changes from layer to layer in an infinitely wide network.

For weights of variance weight_var / fan_in and biases of variance bias_var, the variance of the
pre-activations follows (Poole et al. 2016, eq. 3)

    q_{l+1} = V(q_l) = weight_var E[phi(sqrt(q_l) z)^2] + bias_var,    z ~ N(0, 1).

The same holds for a convolution, whose fan_in is the number of weights of one output channel
(`fan_in`): Xiao et al. 2018, section 2.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, NamedTuple, overload

import numpy as np
from scipy.optimize import brentq

from jinit import checks
from jinit.activations import Activation
from jinit.theory.arguments import variance
from jinit.theory.curve import Curve, MomentError, TooRoughError, curve

__all__ = ["LengthFixedPoint", "fan_in", "length_fixed_point", "length_map", "limit_length"]

_GRID = np.concatenate([np.logspace(-30, -5, 26), np.logspace(-4, 4, 33), np.logspace(5, 30, 26)])
_EVEN = 1e-13  # a relative change of length below this is rounding


class LengthFixedPoint(NamedTuple):
    """A variance that the length map keeps."""

    q: float
    slope: float
    """dV/dq there, the parallel susceptibility; the point is stable where it lies in (-1, 1)"""
    stable: bool


def length_map(
    activation: str | Activation, q: float, *, weight_var: float, bias_var: float = 0.0
) -> float:
    """The next layer's pre-activation variance (Poole et al. 2016, eq. 3).

    Args:
        activation: a name, or an elementwise jax.numpy function.
        q: variance of this layer's pre-activations.
        weight_var: fan_in times the variance of a weight (1 for Xavier, 2 for He).
        bias_var: variance of a bias.

    Raises:
        ValueError: negative variances; moments that diverge.

    >>> round(length_map("relu", 1.0, weight_var=2.0), 12)
    1.0
    """
    phi = curve(activation)
    weight_var, bias_var = variance("weight_var", weight_var), variance("bias_var", bias_var)
    return weight_var * phi.second(variance("q", q)) + bias_var


@overload
def length_fixed_point(
    activation: str | Activation,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float = 1.0,
    all_points: Literal[False] = False,
) -> float: ...


@overload
def length_fixed_point(
    activation: str | Activation,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float = 1.0,
    all_points: Literal[True],
) -> tuple[LengthFixedPoint, ...]: ...


def length_fixed_point(
    activation: str | Activation,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float = 1.0,
    all_points: bool = False,
) -> float | tuple[LengthFixedPoint, ...]:
    """Where the lengths settle: the limit of q_l for a deep network (Poole et al. 2016).

    Args:
        activation: a name, or an elementwise jax.numpy function.
        weight_var: fan_in times the variance of a weight.
        bias_var: variance of a bias.
        q: variance in the first layer. It matters where several fixed points are stable, and
            where every length is one (ReLU with weight_var 2): then it is the answer.
        all_points: return every fixed point between 1e-30 and 1e30, and 0 where it is one, as a
            tuple of `LengthFixedPoint`, unstable ones too.

    Returns:
        The variance; 0 where the signal vanishes, infinity where it grows without end.
    """
    phi = curve(activation)
    weight_var, bias_var = variance("weight_var", weight_var), variance("bias_var", bias_var)
    q = variance("q", q, positive=True)
    if all_points:
        return tuple(
            LengthFixedPoint(at, slope, abs(slope) < 1)
            for at, slope in (
                (at, weight_var * phi.second_growth(at))
                for at in _fixed_points(phi, weight_var, bias_var)
            )
        )
    return limit_length(phi, weight_var, bias_var, q)


def limit_length(phi: Curve, weight_var: float, bias_var: float, q: float = 1.0) -> float:
    """The limit of the lengths from q, by the sign of V(q) - q between fixed points."""
    change = _change(phi, weight_var, bias_var, q)
    if abs(change) < _EVEN:
        return q
    points = _fixed_points(phi, weight_var, bias_var)
    if change > 0:
        return min((p for p in points if p > q), default=math.inf)
    return max((p for p in points if p < q), default=0.0)


def _change(phi: Curve, weight_var: float, bias_var: float, q: float) -> float:
    """V(q) / q - 1."""
    return (weight_var * phi.second(q) + bias_var) / q - 1


def _fixed_points(phi: Curve, weight_var: float, bias_var: float) -> list[float]:
    points = [0.0] if weight_var * phi.second(0.0) + bias_var == 0 else []

    def change(log_q: float) -> float:
        """Of the length; where a moment diverges, upwards; NaN where phi cannot be followed."""
        try:
            return min(_change(phi, weight_var, bias_var, math.exp(log_q)), 1e300)
        except MomentError:
            return 1e300
        except TooRoughError:
            return math.nan

    logs = np.log(_GRID)
    changes = np.array([change(log_q) for log_q in logs])
    clear = np.flatnonzero(np.abs(changes) >= _EVEN)  # not NaN either
    for i, j in pairwise(clear):
        if np.sign(changes[i]) != np.sign(changes[j]):
            points.append(math.exp(brentq(change, logs[i], logs[j], xtol=1e-14, rtol=1e-14)))
    return points


def fan_in(kernel: Iterable[int], channels_in: int) -> int:
    """Weights of one output channel of a convolution: k * k * c_in for a k x k kernel.

    A convolution whose weights have the variance weight_var / fan_in follows the same maps as a
    dense layer (Xiao et al. 2018, section 2; for strides of 1 and circular padding exactly).

    >>> fan_in((3, 3), 16)
    144
    """
    sizes = [checks.count("kernel", size) for size in kernel]
    return math.prod(sizes) * checks.count("channels_in", channels_in)
