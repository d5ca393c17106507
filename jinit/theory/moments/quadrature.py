"""Gauss-Legendre quadrature on panels, and which panels a function needs.

NumPy's Gauss-Hermite nodes fail silently at high order, and converge slowly at a kink. Panels are
instead halved until the function on each of them is a polynomial to ten digits; where that never
happens, there is a kink, and the panels are split at it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ORDER = 20
REACHES = (12.0, 24.0, 37.0)  # in standard deviations, of which 4e-33 lie beyond the first, and
# exp(-37**2 / 2) is almost the least float64
BEYOND = 1e-13  # what may lie in the outermost panels, relative
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(ORDER)
# From values at the nodes to Legendre coefficients.
_LEGENDRE = np.polynomial.legendre.legvander(_NODES, ORDER - 1)
_TRANSFORM = (_LEGENDRE * _WEIGHTS[:, None] * (np.arange(ORDER) + 0.5)).T

_HALF_GRID = np.array([0, 1, 2, 3.5, 5, 7, 9, 12, 15, 18, 21, 24, 28, 32, 37])

_RESOLVED = 1e-10  # the last coefficients, relative to the function's size
_NARROW = 2.0**-40  # a panel that is not resolved at this width holds a kink
_MOST_PANELS = 4096
_MOST_KINKS = 64


class Pieces(NamedTuple):
    """Panels on each of which every row of a function is smooth."""

    edges: np.ndarray
    """increasing `[panels + 1]`"""
    kinks: np.ndarray
    """the points among them at which a row or its derivatives jump, as far as found"""
    size: np.ndarray
    """largest absolute value of each row, `[rows]`"""


def nodes_and_weights(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights `[..., panels * ORDER]` on the panels between edges `[..., panels + 1]`."""
    half = np.diff(edges)[..., None] / 2
    x = edges[..., :-1, None] + half * (_NODES + 1)
    shape = (*edges.shape[:-1], -1)
    return x.reshape(shape), (half * _WEIGHTS).reshape(shape)


def gaussian_nodes(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes on these panels, and their weights in an expectation over N(0, 1)."""
    z, weight = nodes_and_weights(edges)
    return z, weight * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def density(x: np.ndarray, spread: float = 1.0) -> np.ndarray:
    """Of N(0, spread^2)."""
    return np.exp(-((x / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))


def standard_grid(reach: float | int) -> np.ndarray:
    """Edges of panels on which N(0, 1) is smooth, from -reach to reach."""
    half = np.append(_HALF_GRID[reach > _HALF_GRID], reach)
    return np.concatenate([-half[:0:-1], half])


def pieces(
    function: Callable[[np.ndarray], np.ndarray],
    edges: np.ndarray,
    *,
    size: np.ndarray | None = None,
) -> Pieces | None:
    """Halve panels until the function is smooth on each; None where it never is.

    Args:
        function: from x `[points]` to rows `[rows, points]`.
        edges: panels to begin with.
        size: what the rows' errors are compared with, at least; `[rows]`.

    Raises:
        FloatingPointError: where a value is not finite; its argument is the x.
    """
    kinks: list[float] = []
    for _ in range(_MOST_KINKS):
        found = _halve(function, np.unique(np.concatenate([edges, kinks])), size)
        if found is None:
            return None
        resolved, narrow, largest = found
        new = [float(x) for x in narrow if not any(_same(x, k) for k in kinks)]
        if not new:
            return Pieces(resolved, np.array(sorted(kinks)), largest)
        kinks.extend(_apart(new))
        if len(kinks) > _MOST_KINKS:
            return None
    return None


def _halve(
    function: Callable[[np.ndarray], np.ndarray], edges: np.ndarray, size: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Edges of resolved panels, the middles of those that never were, and the rows' sizes."""
    left, right = edges[:-1], edges[1:]
    done = [edges]
    narrow: list[np.ndarray] = []
    largest = 0.0 if size is None else size
    while len(left):
        if len(left) > _MOST_PANELS:
            return None
        x, _ = nodes_and_weights(np.stack([left, right], -1))
        rows = function(x.ravel()).reshape(-1, len(left), ORDER)
        finite = np.isfinite(rows).all(0)
        if not finite.all():
            raise FloatingPointError(float(x[~finite][0]))
        largest = np.maximum(largest, np.abs(rows).max((1, 2)))
        tails = np.abs(rows @ _TRANSFORM[-4:].T).max(2)
        rough = (tails > _RESOLVED * largest[:, None]).any(0)
        middle = (left + right) / 2
        scale = np.maximum(1.0, np.abs(middle))
        too_narrow = rough & (right - left < _NARROW * scale)
        narrow.append(middle[too_narrow])
        rough &= ~too_narrow
        done.append(middle[rough])
        left, right = (
            np.concatenate([left[rough], middle[rough]]),
            np.concatenate([middle[rough], right[rough]]),
        )
    return np.unique(np.concatenate(done)), np.concatenate(narrow), np.asarray(largest)


def _same(a: float, b: float) -> bool:
    return bool(abs(a - b) <= 8 * _NARROW * max(1.0, abs(a)))


def _apart(points: list[float]) -> list[float]:
    """One of each cluster: a kink near the edge of two panels is seen from both."""
    kept: list[float] = []
    for x in sorted(points):
        if not kept or not _same(x, kept[-1]):
            kept.append(x)
    return kept
