"""How the length of a signal changes from layer to layer in an infinitely wide network.

For weights of variance weight_var / fan_in and biases of variance bias_var, the variance of the
pre-activations follows (Poole et al. 2016, eq. 3)

    q_{l+1} = V(q_l) = weight_var E[phi(sqrt(q_l) z)^2] + bias_var,    z ~ N(0, 1).

The same holds for a convolution, whose fan_in is the number of weights of one output channel
(`fan_in`): Xiao et al. 2018, section 2.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from jinit import checks
from jinit.theory.maps.wide import WideLayer, is_stable
from jinit.theory.moments.arguments import variance
from jinit.theory.moments.curve import MomentError, TooRoughError
from jinit.theory.moments.roots import zeros

_GRID = np.concatenate([np.logspace(-30, -5, 26), np.logspace(-4, 4, 33), np.logspace(5, 30, 26)])
_BELOW, _ABOVE = np.logspace(-31, -300, 270), np.logspace(31, 296, 266)  # looked at where needed
_TOO_FAR = 1e300  # where no expectation is followed
_EVEN = 1e-13  # a relative change of length below this is rounding
_MOST_STEPS = 2000  # of lengths that leap to and fro
_LEAP = 1e-9  # beyond a fixed point, relative
_CLOSE = 1e-3  # to a fixed point that lengths come back to, relative


class LengthFixedPoint(NamedTuple):
    """A variance that the length map keeps."""

    q: float
    slope: float
    """dV/dq there, the parallel susceptibility"""
    stable: bool
    """whether the slope lies in (-1, 1), by more than 1e-12"""


def length_map(layer: WideLayer, q: float) -> float:
    """The next layer's pre-activation variance (Poole et al. 2016, eq. 3).

    Args:
        q: variance of this layer's pre-activations.

    Raises:
        ValueError: a negative variance; moments that diverge.

    >>> from jinit.theory import length_map
    >>> round(length_map("relu", 1.0, weight_var=2.0), 12)
    1.0
    """
    return layer.length(variance("q", q))


def length_fixed_point(layer: WideLayer, q: float = 1.0) -> float:
    """Where the lengths settle: the limit of q_l for a deep network (Poole et al. 2016).

    Args:
        q: variance in the first layer. It matters where several fixed points are stable, and
            where every length is one (ReLU with weight_var 2): then it is the answer.

    Returns:
        The variance; 0 where the signal vanishes, infinity where it grows without end.

    Raises:
        ValueError: moments that diverge at q, or that cannot be followed as far as the lengths go.
    """
    return limit_length(layer, variance("q", q, positive=True))


def length_fixed_points(layer: WideLayer) -> tuple[LengthFixedPoint, ...]:
    """Every fixed point between 1e-300 and 1e296, and 0 where it is one, unstable ones too.

    Raises:
        ValueError: where every length is a fixed point.
    """
    search = _search(layer)
    if search.every:
        raise ValueError(
            f"every length is a fixed point of {layer.described()}, so that there are none to "
            f"list; leave out all_points, and the answer is q."
        )
    slopes = [(q, layer.weight_var * layer.phi.second_growth(q)) for q in search.points]
    return tuple(LengthFixedPoint(q, slope, is_stable(slope)) for q, slope in slopes)


def limit_length(layer: WideLayer, q: float = 1.0) -> float:
    """The limit of the lengths from q: by the fixed points, where no step leaps over one."""
    change = _change(layer, q)
    if abs(change) < _EVEN:
        return q
    search = _search(layer)
    for _ in range(_MOST_STEPS):
        goal = _goal(layer, search, q)
        if goal is not None:
            return goal
        try:
            q = layer.length(q)
        except MomentError:
            return math.inf
        if q == 0 or math.isinf(q):
            return q
    after = layer.length(q)
    raise ValueError(
        f"the lengths of {layer.described()} settle nowhere: after {_MOST_STEPS} layers they still "
        f"leap, from {q:.6g} to {after:.6g}; follow them with jinit.theory.trajectory, or give a "
        f"smaller weight_var."
    )


def _goal(layer: WideLayer, search: "_Search", q: float) -> float | None:
    """The fixed point that lengths go to from q by ever smaller steps; None if one may be leapt."""
    try:
        change = _change(layer, q)
    except MomentError:
        return math.inf
    if abs(change) < _EVEN:
        return q
    if change < 0:
        goal = max((p for p in search.points if p < q), default=0.0)
        on_the_way = (search.lengths > goal) & (search.lengths <= q)
        leaps = search.after[on_the_way] < goal * (1 - _LEAP)
    else:
        goal = min((p for p in search.points if p > q), default=math.inf)
        on_the_way = (search.lengths < goal) & (search.lengths >= q)
        leaps = search.after[on_the_way] > goal * (1 + _LEAP)
    if goal in search.returning and abs(q - goal) < _CLOSE * goal:
        return goal
    if not leaps.any() and not _leaps(q, q * (1 + change), goal):
        if math.isinf(goal) and search.unknown:
            layer.phi.second(
                search.unknown
            )  # says why lengths cannot be followed to where they end
        return goal
    return None


def _leaps(q: float, after: float, goal: float) -> bool:
    return (after - goal) * (q - goal) < -_LEAP * goal * abs(q - goal)


def _change(layer: WideLayer, q: float) -> float:
    """V(q) / q - 1."""
    return layer.length(q) / q - 1


class _Search(NamedTuple):
    """What was found on the line of lengths."""

    points: list[float]
    """the fixed points, increasing"""
    every: bool
    """whether every length is one"""
    unknown: float
    """the first length at which phi cannot be followed, if lengths may settle beyond; else 0"""
    lengths: np.ndarray
    """that were looked at `[lengths]`, increasing"""
    after: np.ndarray
    """those of the layers that follow them"""
    returning: list[float]
    """the fixed points at which V falls, and that lengths come back to all the same"""


def _search(layer: WideLayer) -> _Search:
    def change(log_q: float) -> float:
        """Of the length; where a moment diverges, upwards; NaN where phi cannot be followed."""
        try:
            return min(_change(layer, math.exp(log_q)), 1e300)
        except MomentError:
            return 1e300
        except TooRoughError:
            return math.nan

    least = layer.length(0.0)
    grid = np.log(_GRID)
    changes = np.array([change(x) for x in grid])
    above, changes_above = _ladder(change, np.log(_ABOVE), changes[-1], changes[-2])
    if 0 < least < _GRID[0]:  # V is flat down there, and no fixed point lies far below it
        below = np.log([max(least / 10, math.ulp(0.0))])
        changes_below = [change(below[0])]
    else:
        below, changes_below = _ladder(change, np.log(_BELOW), changes[0], changes[1])
        below, changes_below = below[::-1], changes_below[::-1]
    known = changes[np.isfinite(changes)]
    unknown = 0.0
    if len(known) < len(changes) and _falls(known[-1], known[-2], below=0.9):
        unknown = float(_GRID[len(known)])
    elif len(above) == len(_ABOVE):
        unknown = _TOO_FAR
    x = np.concatenate([below, grid, above])
    y = np.concatenate([changes_below, changes, changes_above])
    points = zeros(change, x, y, even=_EVEN)
    every = bool(np.all(np.abs(known) < _EVEN))
    found = ([0.0] if least == 0 else []) + [math.exp(at) for at in points]
    with np.errstate(over="ignore"):
        lengths, after = np.exp(x), np.exp(x) * (1 + y)
    falls = np.any(np.diff(after[np.isfinite(after)]) < 0)
    returning = [
        p for p in found if falls and p and -1 < layer.weight_var * layer.phi.second_growth(p) < 0
    ]
    seen = np.isfinite(y)
    return _Search(found, every, unknown, lengths[seen], after[seen], returning)


def _ladder(
    change: Callable[[float], float], rungs: np.ndarray, last: float, before: float
) -> tuple[np.ndarray, list[float]]:
    """The rungs climbed, and the changes there, for as long as these are on their way to 0."""
    changes: list[float] = []
    climbs = abs(last) < _EVEN <= abs(before) or _falls(last, before)
    while climbs and len(changes) < len(rungs):
        before, last = last, change(rungs[len(changes)])
        changes.append(last)
        on_zero = abs(last) < _EVEN <= abs(before)  # which is told by the rung beyond it
        climbs = on_zero or _falls(last, before)
    return rungs[: len(changes)], changes


def _falls(last: float, before: float, *, below: float = 1 - 1e-6) -> bool:
    """Whether a change is on its way to 0, to less than that part of it from point to point."""
    return bool(np.sign(last) == np.sign(before) and abs(last) < below * abs(before))


def fan_in(kernel: Iterable[int], channels_in: int) -> int:
    """Weights of one output channel of a convolution: k * k * c_in for a k x k kernel.

    A convolution whose weights have the variance weight_var / fan_in follows the same maps as a
    dense layer (Xiao et al. 2018, section 2; for strides of 1 and circular padding exactly).

    >>> fan_in((3, 3), 16)
    144
    """
    fix = "kernel must list the sizes of the kernel, as in (3, 3)"
    sizes = [checks.count("kernel", size) for size in checks.listed(fix, kernel)]
    return math.prod(sizes) * checks.count("channels_in", channels_in)
