"""How the correlation of two inputs changes from layer to layer (Poole et al. 2016, eq. 5).

    c' = C(c) = (weight_var E[phi(u) phi(v)] + bias_var) / q',

where (u, v) are Gaussian with variance q and correlation c, and q' = V(q). Near c = 1 the map is
one of 1 - c,

    1 - c' = weight_var E[(phi(u) - phi(v))^2] / (2 q'),

in which nothing cancels: c itself would be rounded to 1 long before inputs have become alike.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from jinit.theory.maps.lengths import limit_length
from jinit.theory.maps.wide import WideLayer, deep, follow, is_stable
from jinit.theory.moments.arguments import correlation, is_settled, variance
from jinit.theory.moments.pairs import Pair, pair
from jinit.theory.moments.roots import zeros

_ZERO = 1e-13  # a correlation below this is rounding
_EVEN = 1e-12  # a relative change of 1 - c below this is rounding
_ROUNDING = 2.0**-54  # 1 less half of it is 1
_DEEPEST = 10_000  # half a minute, where correlations do not settle
_CLOSEST = 1e-9  # 1 - c of the fixed points nearest to 1 that are told from it


class CorrelationFixedPoint(NamedTuple):
    """A correlation that the map keeps."""

    c: float
    slope: float
    """of the map there, weight_var E[phi'(u) phi'(v)] q / q'"""
    stable: bool
    """whether the slope lies in (-1, 1), by more than 1e-12"""


def correlation_map(layer: WideLayer, c: float, *, q: float | None = None) -> float:
    """The next layer's correlation of two inputs of equal length (Poole et al. 2016, eq. 5).

    Args:
        c: correlation of this layer's pre-activations, in [-1, 1].
        q: variance of this layer's pre-activations; None takes the one where lengths settle.

    Raises:
        ValueError: c or a variance out of range; lengths that settle nowhere, without q.

    >>> from jinit.theory import correlation_map
    >>> round(correlation_map("relu", 0.0, weight_var=2.0, q=1.0), 8)
    0.31830989
    """
    c = correlation("c", c)
    return 1 - _next(layer, _length(layer, q), 1 - c)


def correlation_trajectory(
    layer: WideLayer, c: float, *, depth: int, input_second_moment: float = 1.0
) -> np.ndarray:
    """Correlation of the pre-activations of two inputs in layers 1 to depth, `[depth]`.

    Args:
        c: cosine of the angle between the inputs.
        depth: the number of layers, at most 10000.
        input_second_moment: mean square of either input's entries.

    Raises:
        ValueError: c or a variance out of range; lengths or moments that leave float64.
    """
    c, depth = correlation("c", c), deep(depth, _DEEPEST)
    second = variance("input_second_moment", input_second_moment, positive=True)
    q = layer.fed(second)
    first = layer.weight_var * second * (1 - c) / q if q else 0.0

    def step(state: tuple[float, float]) -> tuple[float, tuple[float, float]]:
        q, apart = state
        closer = _next(layer, q, apart)
        after = layer.fed(layer.phi.second(q))
        # Where lengths have settled, inputs that still approach at rounding never part again.
        if closer < min(apart, _ROUNDING) and math.isclose(after, q, rel_tol=1e-12):
            closer = 0.0
        return closer, (after, closer)

    return 1 - np.array([first, *follow(step, (q, first), depth - 1)])


def correlation_fixed_point(layer: WideLayer, *, q: float | None = None) -> float:
    """The correlation that any two inputs end up with: 1 in the ordered phase, less in the chaotic.

    Args:
        q: variance of the pre-activations; None takes the one where lengths settle.

    Returns:
        The limit of the correlations from c = 0, which is stable: C is convex on [0, 1] and maps
        it into itself. A linear network keeps any correlation, and 0 is then returned.

    Raises:
        ValueError: where the lengths settle at no finite size, and q is not given.
    """
    return 1 - limit_correlation(layer, _length(layer, q))


def correlation_fixed_points(
    layer: WideLayer, *, q: float | None = None
) -> tuple[CorrelationFixedPoint, ...]:
    """Every fixed point in [-1, 1], unstable ones too, in increasing order.

    Args:
        q: variance of the pre-activations; None takes the one where lengths settle.

    Raises:
        ValueError: where the lengths settle at no finite size, and q is not given; where every
            correlation is a fixed point.
    """
    q = _length(layer, q)
    change = partial(_change, layer, q)
    grid = np.concatenate([np.logspace(-6, -1.2, 13), np.linspace(0.1, 2, 39)])
    changes = np.array([change(apart) for apart in grid])
    if np.all(np.abs(changes) < _EVEN):
        raise ValueError(
            f"every correlation is a fixed point of {layer.described()}, so that there are none "
            f"to list; leave out all_points, and the limit from c = 0 is returned."
        )
    found = zeros(change, grid, changes, even=_EVEN)
    aparts = [0.0, *(1.0 if abs(apart - 1) < _ZERO else apart for apart in found)]
    if abs(changes[-1]) < _EVEN:
        aparts.append(2.0)
    slopes = [(apart, _slope(layer, q, apart)) for apart in reversed(aparts)]
    return tuple(
        CorrelationFixedPoint(1 - apart, slope, is_stable(slope)) for apart, slope in slopes
    )


def limit_correlation(layer: WideLayer, q: float) -> float:
    """1 - c at the limit of the correlations from c = 0."""
    at_zero = _next(layer, q, 1.0)
    if at_zero >= 1 - _ZERO:
        return 1.0
    if _slope(layer, q, 0.0) <= 1:
        return 0.0  # C is convex: it does not cross the diagonal before 1

    def change(log_apart: float) -> float:
        return _change(layer, q, math.exp(log_apart))

    nearest = math.log(_CLOSEST)
    if change(nearest) <= 0:  # so close to critical that the two points are one
        return 0.0
    return math.exp(brentq(change, nearest, 0.0, xtol=1e-13, rtol=1e-13))


def _length(layer: WideLayer, q: float | None) -> float:
    if q is not None:
        return variance("q", q, positive=True)
    settled = limit_length(layer)
    if not is_settled(settled):
        raise ValueError(
            f"the lengths of {layer.described()} "
            f"{'vanish' if settled == 0 else 'grow without end'}; say with q= at which variance "
            f"of the pre-activations the correlations are wanted."
        )
    return settled


def _next(layer: WideLayer, q: float, apart: float) -> float:
    """1 - C(1 - apart)."""
    after = layer.length(q)
    if after == 0:
        return apart
    return layer.weight_var * _pair(layer, q, apart).half_square_difference / after


def _change(layer: WideLayer, q: float, apart: float) -> float:
    """Of 1 - c, relative to it."""
    return _next(layer, q, apart) / apart - 1


def _slope(layer: WideLayer, q: float, apart: float) -> float:
    after = layer.length(q)
    return layer.weight_var * _pair(layer, q, apart).slope_product * q / after if after else 1.0


def _pair(layer: WideLayer, q: float, apart: float) -> Pair:
    return pair(layer.phi, q, min(max(apart, 0.0), 2.0))
