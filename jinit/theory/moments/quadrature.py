"""Gauss-Legendre quadrature on panels, and which panels a function needs.

NumPy's Gauss-Hermite nodes fail silently at high order, and converge slowly at a kink. Panels are
instead halved until the function on each of them is a polynomial to ten digits; where that never
happens, or comes as slowly as at a kink of a derivative, there is a kink, and the panels are split
at it. What is too narrow for the nodes of a panel is seen by probes, points at which the function
is looked at beside them.
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
TO_LEGENDRE = (_LEGENDRE * _WEIGHTS[:, None] * (np.arange(ORDER) + 0.5)).T

_HALF_GRID = np.array([0, 1, 2, 3.5, 5, 7, 9, 12, 15, 18, 21, 24, 28, 32, 37])

_RESOLVED = 1e-10  # the last coefficients, relative to the function's size
_NARROW = 2.0**-40  # a panel that is not resolved at this width holds a kink
_MOST_PANELS = 4096
_MOST_KINKS = 64
_SLOW = 32  # a halving makes the last coefficients of a smooth function smaller by far more
_BENT = 2.0**-8  # panels narrower than that are looked at for it
_ROUNDING = 2.0**-46  # of x, with what a polynomial makes of it
_NOISE = 1e-14  # of coefficients, relative
_ACROSS = 1e-12  # what the last coefficients of a panel around a kink come to, at least
_MISSED = 1e-8  # by so much a probe may differ from the polynomial, relative to the function's size


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


class Probes(NamedTuple):
    """Points at which panels are looked at beside their nodes."""

    x: np.ndarray
    """increasing `[points]`"""
    rows: np.ndarray
    """the function there, `[rows, points]`"""

    def missed(
        self, left: np.ndarray, right: np.ndarray, coefficients: np.ndarray, size: np.ndarray
    ) -> np.ndarray:
        """Whether a panel's polynomial differs from the function at one of them, `[panels]`."""
        width = right - left
        margin = np.minimum(width / 4, 8 * _NARROW * np.maximum(1.0, np.abs(left) + width))
        first, last = (
            np.searchsorted(self.x, left + margin),
            np.searchsorted(self.x, right - margin),
        )
        panel = np.repeat(np.arange(len(left)), np.maximum(last - first, 0))
        if not len(panel):
            return np.zeros(len(left), bool)
        start = np.cumsum(np.maximum(last - first, 0)) - np.maximum(last - first, 0)
        at = first[panel] + np.arange(len(panel)) - start[panel]
        t = 2 * (self.x[at] - left[panel]) / width[panel] - 1
        basis = np.polynomial.legendre.legvander(t, ORDER - 1)
        off = np.zeros(len(panel), bool)
        for row, coefficient, of in zip(self.rows, coefficients, size, strict=True):
            there = np.einsum("ij,ij->i", basis, coefficient[panel])
            off |= np.abs(row[at] - there) > _MISSED * of
        return np.bincount(panel[off], minlength=len(left)) > 0


def pieces(
    function: Callable[[np.ndarray], np.ndarray],
    edges: np.ndarray,
    *,
    size: np.ndarray | None = None,
    probes: Probes | None = None,
) -> Pieces | None:
    """Halve panels until the function is smooth on each; None where it never is.

    Args:
        function: from x `[points]` to rows `[rows, points]`.
        edges: panels to begin with.
        size: what the rows' errors are compared with, at least; `[rows]`.
        probes: where else to look.

    Raises:
        FloatingPointError: where a value is not finite; its argument is the x.
    """
    kinks: list[float] = []
    for _ in range(_MOST_KINKS):
        found = _halve(function, edges, np.array(kinks), size, probes)
        if found is None:
            return None
        resolved, narrow, largest = found
        new = [x for x, width in narrow if all(abs(x - k) > max(_near(x), width) for k in kinks)]
        if not new:
            return Pieces(resolved, np.array(sorted(kinks)), largest)
        kinks.extend(_apart(new))
        if len(kinks) > _MOST_KINKS:
            return None
    return None


def bent(
    function: Callable[[np.ndarray], np.ndarray], edges: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """Those of the inner edges of resolved panels at which a row, or a derivative of it, jumps.

    A panel around such an edge is not resolved as the panels of that width beside it are.
    """
    width = np.minimum(np.diff(edges)[:-1], np.diff(edges)[1:])
    inner = edges[1:-1]
    if not len(inner):
        return inner
    middles = inner + np.array([[-0.5], [0.0], [0.5]]) * width
    x, _ = nodes_and_weights(np.stack([middles - width / 2, middles + width / 2], -1))
    rows = function(x.ravel()).reshape(-1, 3, len(inner), ORDER)
    with np.errstate(invalid="ignore", divide="ignore"):
        tails = np.abs(rows @ TO_LEGENDRE[-4:].T).max(3) / size[:, None, None]
    beside = np.maximum(tails[:, 0], tails[:, 2])
    return inner[((tails[:, 1] > _ACROSS) & (tails[:, 1] > _SLOW * beside)).any(0)]


def _halve(
    function: Callable[[np.ndarray], np.ndarray],
    edges: np.ndarray,
    kinks: np.ndarray,
    size: np.ndarray | None,
    probes: Probes | None,
) -> tuple[np.ndarray, list[tuple[float, float]], np.ndarray] | None:
    """Edges of resolved panels, those that never were, by middle and width, and the rows' sizes."""
    edges = np.unique(np.concatenate([edges, kinks]))
    left, right = edges[:-1], edges[1:]
    before: np.ndarray | float = math.inf  # the last coefficients of the panel that was halved
    done = [edges]
    narrow: list[tuple[float, float]] = []
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
        coefficients = rows @ TO_LEGENDRE.T
        tails, size = np.abs(coefficients[..., -4:]).max(2), largest[:, None]
        rough = (tails > _RESOLVED * size).any(0)
        middle = (left + right) / 2
        scale = np.maximum(1.0, np.abs(middle))
        width = right - left
        # What x's own rounding makes of a steep row is no kink.
        rounding = np.ptp(rows, 2) * (_ROUNDING * scale / width)
        slowly = (_SLOW * tails > before) & (tails > _NOISE * size) & (tails > rounding)
        slow = ~rough & (width < _BENT * scale) & slowly.any(0)
        slow &= ~(np.isin(left, kinks) | np.isin(right, kinks))  # which are off by rounding
        slow &= slow.sum() <= 2 * _MOST_KINKS  # more are rounding
        located = slow & (tails <= _SLOW * _NOISE * size).all(0)
        halve = (rough | slow) & ~located
        if probes is not None and not halve.all():
            kept = np.flatnonzero(~(halve | located))
            missed = probes.missed(left[kept], right[kept], coefficients[:, kept], largest)
            halve[kept[missed]] = True
            tails[:, kept[missed]] = math.inf  # of which no more is known
        too_narrow = halve & (width < _NARROW * scale)
        kink = too_narrow | located
        narrow += zip(middle[kink].tolist(), (4 * width[kink]).tolist(), strict=True)
        halve &= ~too_narrow
        done.append(middle[halve])
        before = np.tile(tails[:, halve], 2)
        left, right = (
            np.concatenate([left[halve], middle[halve]]),
            np.concatenate([middle[halve], right[halve]]),
        )
    return np.unique(np.concatenate(done)), narrow, np.asarray(largest)


def _near(x: float) -> float:
    return 8 * _NARROW * max(1.0, abs(x))


def _apart(points: list[float]) -> list[float]:
    """One of each cluster: a kink near the edge of two panels is seen from both."""
    kept: list[float] = []
    for x in sorted(points):
        if not kept or x - kept[-1] > _near(x):
            kept.append(x)
    return kept
