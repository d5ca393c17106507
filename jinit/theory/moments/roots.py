"""Zeros of a function whose values on a grid are known, pairs inside one step included."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq, minimize_scalar


def zeros(
    function: Callable[[float], float],
    x: np.ndarray,
    y: np.ndarray,
    *,
    even: float,
    xtol: float = 1e-14,
) -> list[float]:
    """Where a function is 0 between the points of a grid, in increasing order.

    Args:
        function: smooth, and about parabolic over three neighbouring points.
        x: increasing `[points]`.
        y: the function there `[points]`; NaN or infinite where it is not known.
        even: values no larger than this are rounding.
        xtol: of the zeros, absolute and relative.
    """
    known = np.isfinite(y)
    if not known.all():  # a stretch that is not known is not looked across
        parts = np.split(np.arange(len(y)), np.flatnonzero(~known))
        return [
            zero
            for part in (part[known[part]] for part in parts)
            for zero in zeros(function, x[part], y[part], even=even, xtol=xtol)
        ]
    clear = np.abs(y) > even
    x, y = x[clear], y[clear]
    found = []
    for i in _dips(y):
        side = np.sign(y[i])
        least = minimize_scalar(
            lambda at, side=side: side * function(at),
            bounds=(x[i - 1], x[i + 1]),
            method="bounded",
            options={"xatol": 1e-9},
        )
        if least.fun < -even:
            x, y = np.append(x, least.x), np.append(y, side * least.fun)
        elif least.fun <= even:  # touches 0
            found.append(float(least.x))
    order = np.argsort(x)
    x, positive = x[order], y[order] > 0
    for i in np.flatnonzero(positive[:-1] != positive[1:]):
        found.append(float(brentq(function, x[i], x[i + 1], xtol=xtol, rtol=max(xtol, 1e-14))))
    return sorted(found)


def _dips(y: np.ndarray) -> np.ndarray:
    """Indices at which |y| has a minimum below which, between the points, it could reach 0.

    A parabola falls below the least of three points by up to 0.8 of their second difference (where
    one step is four times the other; an eighth of it where they are equal).
    """
    size = np.abs(y)
    left, here, right = size[:-2], size[1:-1], size[2:]
    deep = (here <= left) & (here < right) & (left + right >= 3 * here)
    at = 1 + np.flatnonzero(deep)
    positive = y > 0
    return at[(positive[at - 1] == positive[at]) & (positive[at + 1] == positive[at])]
