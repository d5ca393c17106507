"""How the correlation of two inputs changes from layer to layer (Poole et al. 2016, eq. 5).

    c' = C(c) = (weight_var E[phi(u) phi(v)] + bias_var) / q',

where (u, v) are Gaussian with variance q and correlation c, and q' = V(q). Near c = 1 the map is
one of 1 - c,

    1 - c' = weight_var E[(phi(u) - phi(v))^2] / (2 q'),

in which nothing cancels: c itself would be rounded to 1 long before inputs have become alike.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from jinit.theory.maps.lengths import limit_length
from jinit.theory.maps.orbit import plain_orbit
from jinit.theory.maps.wide import WideLayer, deep, follow, is_stable
from jinit.theory.moments.arguments import correlation, is_settled, variance
from jinit.theory.moments.curve import TooRoughError
from jinit.theory.moments.pairs import Pair, hermite, pair
from jinit.theory.moments.roots import zeros
from jinit.theory.moments.table import Table

_ZERO = 1e-13  # a correlation below this is rounding
_EVEN = 1e-12  # a relative change of 1 - c below this is rounding
_ROUNDING = 2.0**-54  # 1 less half of it is 1
_DEEPEST = 10_000  # half a minute, where neither lengths settle nor phi is smooth
_EXACT = 32  # layers that are followed by an expectation each
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

    aparts = [first, *follow(step, (q, first), min(depth, _EXACT) - 1)]
    if depth > _EXACT:
        aparts += _further(layer, q, aparts, depth)
    return 1 - np.array(aparts)


def _further(layer: WideLayer, q: float, aparts: list[float], depth: int) -> list[float]:
    """1 - c of the layers that follow those, up to the depth."""
    phi = layer.phi
    table = Table(lambda q: np.array([phi.second(q)]))
    lengths = plain_orbit(layer, q, depth, table)[len(aparts) - 1 :]
    last, apart = float(lengths[0]), aparts[-1]
    found: list[float] = []
    settled = np.allclose(lengths, last, rtol=1e-12, atol=0) or _keeps_directions(layer, lengths)
    # Half a table's panel from c = -1, near which the map is not smooth in its logarithm.
    nearer = Table(lambda apart: np.array([_next(layer, last, apart) / apart]),
                   sizes=lambda rows: 10 + 0 * rows, width=2.0)  # fmt: skip
    series = None if settled or len(phi.kinks) else _series_of(layer, lengths[:-1])
    for i, at in enumerate(lengths[:-1].tolist()):
        if settled:
            tabled = _ROUNDING**2 < apart < 1
            after = apart * nearer.first(apart) if tabled else _next(layer, last, apart)
            if after < min(apart, _ROUNDING):  # they never part again
                after = apart = 0.0
            if after == apart:
                return found + [after] * (len(lengths) - 1 - i)
        elif series is not None:
            after = series(i, apart)
        else:
            after = _next(layer, at, apart)
        if after in found[-4:]:  # a cycle of rounding
            cycle = found[-4:][found[-4:].index(after) :]
            rest = len(lengths) - 1 - i
            return found + (cycle * (rest // len(cycle) + 1))[:rest]
        found.append(after)
        apart = after
    return found


def _keeps_directions(layer: WideLayer, lengths: np.ndarray) -> bool:
    """Whether the map of correlations is the same at every length, as ReLU's is."""
    ends = {float(lengths.min()), float(np.median(lengths)), float(lengths.max())}
    maps = [[_next(layer, q, apart) / apart for apart in (1e-3, 0.5)] for q in ends if q]
    return bool(np.allclose(maps, maps[0], rtol=1e-11, atol=0))


def _series_of(layer: WideLayer, lengths: np.ndarray) -> Callable[[int, float], float] | None:
    """1 - c after 1 - c in the i-th of some layers, by Hermite series; None where they converge
    slowly."""
    phi, orders = layer.phi, 320

    def coefficients(q: float) -> np.ndarray:
        found = hermite(phi, q)
        if found is None or found.value[orders:].sum() > 1e-15 * found.value.sum():
            raise TooRoughError("more orders than are kept")
        return np.resize(np.append(found.value[:orders], np.zeros(orders)), orders)

    try:
        squares = Table(coefficients, sizes=lambda rows: np.tile(rows.sum(0), (orders, 1))).all(
            lengths
        )
    except TooRoughError:
        return None
    n = np.arange(orders)
    after = layer.weight_var * squares.sum(0) + layer.bias_var
    terms = (layer.weight_var * squares / after).T

    def further(i: int, apart: float) -> float:
        if apart < 1:
            return float(terms[i] @ -np.expm1(n * math.log1p(-apart)))
        return float(terms[i] @ (1 - (1 - apart) ** n))

    return further


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
