"""The law of a squared slope, phi'(sqrt(q) z)^2 with z ~ N(0, 1), in units of its mean.

Where phi is piecewise linear the law is a few points; elsewhere it has a density, which is
singular at the maxima of the slope. It is kept as points and as cells of linear density, for which
expectations of 1 / (zeta - d) and ln(zeta - d) have closed forms.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

from jinit.theory.moments.curve import Curve
from jinit.theory.moments.quadrature import gaussian_nodes, nodes_and_weights

_REACH = 8.0  # in standard deviations; beyond lies 1e-15 of the units
_BEYOND = 1e-6  # of E d, as much may lie beyond the reach
_OCTAVES = 60  # over which slopes are looked at beyond it
_GROWS = 1.01  # by so much in the last ten of them, where it is without bound
_FINE, _CELLS = 8000, 160
_LEAST = 1e-280
_SMALL = 1e-9  # relative to the largest slope
_SERIES, _TERMS = 0.01, 8  # up to where logarithms are expanded, and how far
_EQUAL = 1e-14  # slopes closer than this, relatively, are one


class SlopeLaw(NamedTuple):
    """The distribution of phi'^2 / E phi'^2."""

    value: np.ndarray
    """at quadrature nodes"""
    weight: np.ndarray
    top: float
    """the largest value within reach"""
    bound: float
    """the least upper bound of all values, which may be rare beyond measure"""
    points: np.ndarray
    """values with a share of their own"""
    shares: np.ndarray
    low: np.ndarray
    """the others: cells between two values, of linear density"""
    high: np.ndarray
    cell: np.ndarray
    """their shares"""
    tilt: np.ndarray
    """slope of the density relative to its mean, so that a cell's mean is right too"""

    def generating(self, zeta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """M(zeta) = E[d / (zeta - d)], 1 + M and M', complex zeta `[n]` off the real line."""
        at = zeta[:, None]
        apart = at - self.points
        value = np.sum(self.shares * self.points / apart, 1)
        one_plus = np.sum(self.shares * at / apart, 1)
        slope = -np.sum(self.shares * self.points / apart**2, 1)
        if len(self.cell):
            # Means over a cell in closed form, as no cell is a pole, in x = width / (zeta - high).
            far, near = at - self.high, at - self.low
            log, bent, bent_growth = _logarithms((self.high - self.low) / far)
            tilted = self.cell * self.tilt
            bent_sum = np.sum(tilted * at * bent, 1)
            value = value + np.sum(self.cell * (self.high + at * log) / far, 1) + bent_sum
            one_plus = one_plus + np.sum(self.cell * at * (1 + log) / far, 1) + bent_sum
            straight = self.cell * (log - self.low / near) / far
            slope = slope + np.sum(straight + tilted * (bent - at / far * bent_growth), 1)
        return value, one_plus, slope

    def angle(self, zeta: np.ndarray) -> np.ndarray:
        """E arg(zeta - d) for zeta `[n]` above the real line."""
        at = zeta[:, None]
        value = np.sum(self.shares * np.angle(at - self.points), 1)
        if len(self.cell):
            far, near = at - self.high, at - self.low
            x = (self.high - self.low) / far
            log, _, _ = _logarithms(x)
            even = np.angle(far) + (log + x + x * log).imag
            value = value + np.sum(self.cell * (even + self.tilt * (near * log).imag / 2), 1)
        return value


def _logarithms(x: np.ndarray) -> np.ndarray:
    """g = ln(1 + x) / x - 1, h = (1 + x / 2) ln(1 + x) / x - 1, and x h'; also where x is small.

    (NumPy's complex log1p is ln(1 + x), rounded as that is.)
    """
    small = np.abs(x) < _SERIES
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log1p(x) / x
        found = np.stack([log - 1, (1 + x / 2) * log - 1, (1 + x / 2) / (1 + x) - log])
    y = x[small]
    terms = np.zeros((3, len(y)), complex)
    for n in range(_TERMS, 0, -1):
        of_h = (n - 1) / (2 * n * (n + 1))
        terms = y * (terms + (-1) ** n * np.array([[1 / (n + 1)], [of_h], [n * of_h]]))
    found[:, small] = terms
    return found


def slope_law(phi: Curve, q: float, slope_second: float) -> SlopeLaw:
    """The law of phi'(sqrt(q) z)^2 / slope_second, z ~ N(0, 1)."""
    root = math.sqrt(q)

    def squared(z: np.ndarray) -> np.ndarray:
        return phi.evaluate_all(root * z)[2] ** 2 / slope_second

    at = phi.at(q)
    steep = at.custom**2 / slope_second
    peak = float(at.z[np.argmax(steep)])
    near = minimize_scalar(
        lambda z: -float(squared(np.array([z]))[0]), bounds=(peak - 0.2, peak + 0.2),
        method="bounded", options={"xatol": 1e-12},
    )  # fmt: skip
    order = np.argsort(np.abs(at.z))
    within = np.cumsum((at.weight * steep)[order])
    reach = max(_REACH, abs(float(at.z[order][np.searchsorted(within, 1 - _BEYOND)])))
    inside = phi.pieces(reach * root) / root
    peaks = {float(near.x), peak, *(float(x) for x in inside if abs(x - peak) < 0.3)}
    graded = [p + sign * 2.0**-k for p in peaks for k in range(1, 40) for sign in (-1, 1)]
    whole = np.arange(-math.floor(reach), math.floor(reach) + 1)
    edges = np.unique(np.concatenate([[-reach, reach], whole, inside, list(peaks), graded]))
    z, weight = gaussian_nodes(edges[np.abs(edges) <= reach])
    value = squared(z)

    even = np.linspace(-reach, reach, _FINE + 1)
    bends = nodes_and_weights(np.concatenate([[-reach], inside, [reach]]))[0]
    grid = np.unique(np.concatenate([even, bends, inside, [near.x]]))
    grid = grid[np.abs(grid) <= reach]
    nudge = 1e-9  # both sides of a jump of phi'
    seen = np.array([squared(grid[:-1] + nudge), squared((grid[:-1] + grid[1:]) / 2),
                     squared(grid[1:] - nudge)])  # fmt: skip
    seen[seen < _LEAST] = 0.0
    share = np.where(grid[1:] > 0, -np.diff(ndtr(-grid)), np.diff(ndtr(grid)))
    share = share / share.sum()
    # A plain, not the top of a hill, is flat in the middle too.
    flat = seen.max(0) - seen.min(0) <= _EQUAL * seen.max(0)
    points, shares = _grouped(seen[0, flat], share[flat])
    ends = np.sort(seen[[0, 2]], axis=0)
    middle = ends.mean(0)
    rises = np.diff(middle) > 0
    turns = middle[1:-1][rises[1:] != rises[:-1]]  # around each the density is singular
    sloping = ends[1] > ends[0]
    low, high = ends[:, sloping & ~flat]
    top = float(max(value.max(), seen.max()))
    beyond = _steepest(phi, reach * root) / slope_second
    return SlopeLaw(
        value, weight / weight.sum(), top, beyond if beyond > top * (1 + _EQUAL) else top,
        points, shares, *_cells(low, high, share[sloping & ~flat], turns),
    )  # fmt: skip


def _steepest(phi: Curve, reach: float) -> float:
    """The least upper bound of phi'^2 beyond a reach; infinite where phi'^2 still grows far out."""
    x = reach * 2.0 ** np.linspace(0, _OCTAVES, 8 * _OCTAVES + 1)
    with np.errstate(over="ignore"):
        squares = phi.evaluate_all(np.stack([-x, x]))[2] ** 2
    squares = np.where(np.isnan(squares), 0.0, squares)  # where an exponential has overflowed
    inner = squares[:, : -10 * 8].max()
    if not np.isfinite(inner) or squares.max() > _GROWS * inner:
        return math.inf
    side, i = (int(k) for k in np.unravel_index(np.argmax(squares), squares.shape))
    around = (2 * side - 1) * x[[max(i - 1, 0), min(i + 1, len(x) - 1)]]
    found = minimize_scalar(
        lambda x: -float(phi.evaluate_all(np.array([x]))[2][0]) ** 2,
        bounds=(around.min(), around.max()), method="bounded",
    )  # fmt: skip
    return max(float(squares.max()), -float(found.fun))


def _cells(
    low: np.ndarray, high: np.ndarray, share: np.ndarray, also: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Many narrow cells gathered into some, each an interval or a share of all; also edges."""
    if not len(share):
        return low, high, share, share
    order = np.argsort(high)
    # Denser towards both ends, where the density may be singular, as at a maximum of the slope.
    levels = (1 - np.cos(np.linspace(0, np.pi, _CELLS // 2))) / 2
    quantiles = np.interp(levels, np.cumsum(share[order]) / share.sum(), high[order])
    bottom, top = low.min(), high.max()
    even = np.linspace(bottom, top, _CELLS // 4)
    # Where a few slopes are far larger than most, each order of magnitude counts.
    wide = np.geomspace(max(bottom, _SMALL * top), top, _CELLS * 3 // 8)
    also = also[(also > bottom) & (also < top)]
    edges = np.unique(np.concatenate([even, wide, quantiles, also[:_CELLS]]))
    held = share / (high - low)
    below = np.empty((2, len(edges)))
    for i, edge in enumerate(edges):
        inside = np.clip(edge, low, high)
        below[:, i] = (inside - low) @ held, (inside**2 - low**2) / 2 @ held
    shares, sums = np.diff(below)
    means = sums / np.maximum(shares, 1e-300)
    low, high = edges[:-1], edges[1:]
    width, middle = high - low, (low + high) / 2
    # Within these bounds the density is positive; the narrowest cells do not need it.
    off_centre = np.clip((means - middle) / width, -1 / 6, 1 / 6)
    tilt = np.where((width > 1e-6 * edges[-1]) & (shares > 0), 12 * off_centre / width, 0.0)
    return low, high, shares, tilt


def _grouped(values: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal values with their shares added up."""
    order = np.argsort(values)
    values, shares = values[order], shares[order]
    if not len(values):
        return values, shares
    start = np.concatenate([[True], np.diff(values) > 1e5 * _EQUAL * values[1:]])
    return values[start], np.add.reduceat(shares, np.flatnonzero(start))
