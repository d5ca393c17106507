"""Gaussian expectations over two pre-activations of equal variance q and correlation c.

The two are u, v = s ± d with s ~ N(0, q (1 + c) / 2) and d ~ N(0, q (1 - c) / 2) independent. For
fixed d the integrand is smooth in s but where s + d or s - d is a kink, so that the inner panels
follow the kinks exactly; and what is needed near c = 1, E (phi(u) - phi(v))^2, is a sum of squares
without cancellation.

Two other ways serve where that one does not. At variances so large that phi bends within rounding
of s ± d, panels are laid in u, and in v given u. And a smooth phi that oscillates often is a series
of Hermite polynomials, of which correlations are powers (Mehler).
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import legvander

from jinit.theory.moments.curve import Curve, TooRoughError
from jinit.theory.moments.quadrature import (
    ORDER,
    TO_LEGENDRE,
    density,
    nodes_and_weights,
    standard_grid,
)

_SAME = 1e-11  # relative; edges that are closer are one
_AT_ONCE = 2**15 // ORDER  # panels per evaluation, of s + d and s - d
_EDGES = 2**20  # at a time
_MOST_NODES = 20_000_000  # two seconds
_MANY_NODES = 4_000_000  # beyond which a series is tried first
_EXTREME = 1e12  # a variance, at which 1 is rounding of squares of pre-activations
_APART = 1e-6  # 1 - c^2, as near as inputs may be there
_ORDERS = 8192  # of Hermite polynomials
_MERGED = 1e-11  # how far phi may differ from one polynomial on two panels, relative
_CONVERGED = 1e-13  # of what they leave out of E phi^2 and E phi'^2, relative
_SAMPLED = 32  # rows from which their number is estimated


class Pair(NamedTuple):
    """Expectations over two pre-activations (u, v)."""

    product: float
    """E phi(u) phi(v)"""
    half_square_difference: float
    """E (phi(u) - phi(v))^2 / 2 = E phi^2 - E phi(u) phi(v), to relative precision"""
    slope_product: float
    """E phi'(u) phi'(v)"""
    custom_product: float
    """the same of the slope that gradients are given"""


def pair(phi: Curve, q: float, one_minus_c: float) -> Pair:
    """The expectations at variance q and correlation 1 - one_minus_c, which lies in [0, 2].

    Raises:
        MomentError: where E phi^2 or E phi'^2 diverges, which bound all three.
        TooRoughError: where phi bends so often within the reach of u and v that it would have to
            be looked at in more than twenty million points.
    """
    second, slope_second = phi.second(q), phi.slope_second(q)
    if one_minus_c <= 0 or q == 0:
        return Pair(second, 0.0, slope_second, phi.gradient_second(q))
    # As far as phi at variance q has to be followed; u and v need it no farther out.
    reach = math.ceil(np.abs(phi.at(q).z).max())
    farthest = reach * math.sqrt(q)
    bends = phi.pieces(farthest)
    kinks = np.array([kink for kink in phi.kinks if abs(kink) < farthest])
    if q > _EXTREME and one_minus_c * (2 - one_minus_c) > _APART:
        return _far_out(phi, q, one_minus_c, reach)
    if len(bends) * ORDER > math.sqrt(_MANY_NODES) and not len(kinks):
        series = hermite(phi, q)
        if series is not None:
            return series.pair(one_minus_c)
    _check_number(phi, q, float(ORDER * len(kinks) ** 2))  # a panel wherever two of them may meet
    bends = bends[(np.abs(bends) > _SAME * farthest) | np.isin(bends, kinks)]
    grid = standard_grid(reach)  # in standard deviations
    spread_s = math.sqrt(q * (2 - one_minus_c) / 2)
    spread_d = math.sqrt(q * one_minus_c / 2)
    d, weight_d = _half_line(spread_d, spread_s, grid, bends, kinks)
    line = _Line(spread_s, spread_s * grid, farthest, bends, kinks)
    _check_number(phi, q, line.number(d))
    total = np.zeros(4)
    for row, s, weight_s in line.nodes(d):
        both = phi.evaluate_all(np.stack([s + d[row], s - d[row]]))
        weight = weight_d[row] * weight_s
        total += _sums(weight, [each[0] for each in both], [each[1] for each in both])
    return Pair(*map(float, total))


def _sums(weight: np.ndarray, of_u: Sequence[np.ndarray], of_v: Sequence[np.ndarray]) -> np.ndarray:
    """The four expectations of a `Pair`, as far as these nodes go; of value, slope and custom."""
    (value_u, slope_u, custom_u), (value_v, slope_v, custom_v) = of_u, of_v
    terms = value_u * value_v, (value_u - value_v) ** 2 / 2, slope_u * slope_v, custom_u * custom_v
    return np.array([float(np.sum(weight * each)) for each in terms])


def _check_number(phi: Curve, q: float, needed: float) -> None:
    if needed > _MOST_NODES:
        raise TooRoughError(
            f"{phi.name} bends too often to be followed in two correlated pre-activations of "
            f"variance q = {q:.6g}, which would take {needed:.1e} points, more than "
            f"{_MOST_NODES:.0e}; give a smaller variance, or a smoother activation."
        )


# --- far out -------------------------------------------------------------------------------------


def _far_out(phi: Curve, q: float, one_minus_c: float, reach: int) -> Pair:
    """By nodes in u, and in v given u, that are exact where phi bends, however small that is."""
    root, c = math.sqrt(q), 1 - one_minus_c
    given = math.sqrt(one_minus_c * (2 - one_minus_c))  # the spread of v, in units of root
    grid = root * standard_grid(reach)
    bends = _coarse(phi, reach * root)
    # What is sharp in v is spread over so much in u.
    near = (bends[np.abs(bends) < root][:, None] + given * grid).ravel()
    _, one_of_a_crowd = np.unique(np.round(2 * near / (given * root)), return_index=True)
    edges = np.unique(np.concatenate([bends, grid, near[one_of_a_crowd]]))
    u, width = nodes_and_weights(edges[np.abs(edges) <= grid[-1]])
    weight_u = width * density(u, root)
    of_u = phi.evaluate_all(u)
    total = np.zeros(4)
    rows = max(1, _AT_ONCE // (len(bends) + len(grid)))
    for first in range(0, len(u), rows):
        some = slice(first, first + rows)
        middle = c * u[some, None]
        around = np.clip(middle + given * grid, -grid[-1], grid[-1])
        all_edges = np.concatenate([np.tile(bends, (len(middle), 1)), around], 1)
        v, width = nodes_and_weights(np.sort(all_edges, 1))
        weight = weight_u[some, None] * width * density(v - middle, given * root)
        total += _sums(weight, [each[some, None] for each in of_u], phi.evaluate_all(v))
    second = phi.second(q)  # to its own precision, which the product's need not be
    return Pair(second - float(total[1]), *map(float, total[1:]))


def _coarse(phi: Curve, reach: float) -> np.ndarray:
    """Edges of as few panels as phi is smooth on."""
    edges = np.concatenate([[-reach], phi.pieces(reach), [reach]])
    kinks = np.isin(edges, phi.kinks)
    while len(edges) > 2:
        left, middle, right = edges[:-2:2], edges[1:-1:2], edges[2::2]
        whole, _ = nodes_and_weights(np.stack([left, right], -1))
        parts, _ = nodes_and_weights(np.stack([left, middle, right], -1))
        of_whole, of_parts = (np.stack(phi.evaluate_all(x)) for x in (whole, parts))
        at = 2 * (parts - left[:, None]) / (right - left)[:, None] - 1
        there = np.einsum("rpk,pnk->rpn", of_whole @ TO_LEGENDRE.T, legvander(at, ORDER - 1))
        size = np.maximum(np.abs(of_parts).max((1, 2)), 1e-300)[:, None]
        same = (np.abs(there - of_parts).max(2) < _MERGED * size).all(0) & ~kinks[1:-1:2]
        keep = np.ones(len(edges), bool)
        keep[1:-1:2] = ~same
        if not same.any():
            break
        edges, kinks = edges[keep], kinks[keep]
    return edges


# --- by a series ---------------------------------------------------------------------------------


class _Series(NamedTuple):
    """Squared coefficients of phi and its slopes in Hermite polynomials He_n / sqrt(n!)."""

    value: np.ndarray
    slope: np.ndarray
    custom: np.ndarray

    def pair(self, one_minus_c: float) -> Pair:
        """E f(u) f(v) is the sum of squared coefficients times c^n."""
        n = np.arange(len(self.value))
        c = 1 - one_minus_c
        powers = np.abs(c) ** n * np.where(n % 2 == 1, np.sign(c), 1.0)
        less = -np.expm1(n * math.log1p(-one_minus_c)) if c > 0 else 1 - powers
        return Pair(*(float(np.sum(each)) for each in (
            self.value * powers, self.value * less, self.slope * powers, self.custom * powers,
        )))  # fmt: skip


@lru_cache(maxsize=256)
def hermite(phi: Curve, q: float) -> _Series | None:
    """The series at variance q; None where it converges too slowly."""
    at = phi.at(q)
    rows = [at.value, at.slope, *([at.custom] if phi.two_slopes else [])]
    weighted = at.weight * np.stack(rows)
    wanted = np.array([phi.second(q), phi.slope_second(q), phi.gradient_second(q)][: len(rows)])
    # h_n = He_n / sqrt(n!) times exp(-z^2 / 4), which stays of order 1.
    tame = np.exp(-(at.z**2) / 4)
    weighted = weighted / np.maximum(tame, 1e-300)
    before, now = np.zeros_like(at.z), tame
    found, left = [], wanted.copy()
    for n in range(_ORDERS):
        coefficients = weighted @ now
        found.append(coefficients**2)
        left = left - found[-1]
        if n % 64 == 63 and np.all(np.abs(left) <= _CONVERGED * n * wanted + 1e-300):
            squares = np.array(found).T
            if np.all(squares[:, -32:].sum(1) <= _CONVERGED * wanted):
                return _Series(squares[0], squares[1], squares[-1])
        before, now = now, (at.z * now - math.sqrt(n) * before) / math.sqrt(n + 1)
    return None


# --- the outer integral -------------------------------------------------------------------------


def _half_line(
    spread: float, other: float, grid: np.ndarray, bends: np.ndarray, kinks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes d > 0, and weights of the whole symmetric line, `[nodes]`."""
    # Where kinks of s + d and s - d meet, the inner integral is not smooth.
    meet = np.unique(np.abs(np.subtract.outer(kinks, kinks))) / 2
    here = np.zeros((1, 1))
    sources = [spread * grid[grid >= 0], bends[bends >= 0], -bends[bends <= 0][::-1]]
    edges = [meet, *_merged([(each, here) for each in sources], kinks)]
    if other < spread:  # there and at the kinks themselves it bends within the other's spread
        near = other * grid
        places = (np.concatenate([meet, np.abs(kinks)])[:, None] + near).ravel()
        _, one_of_a_crowd = np.unique(np.round(2 * places / (other or 1.0)), return_index=True)
        edges.append(places[one_of_a_crowd])
    flat = np.concatenate([each.ravel() for each in edges])
    reach = spread * grid[-1]
    flat = _apart(np.concatenate([[0.0], flat[(flat > 0) & (flat < reach)], [reach]])[None], reach)
    d, width = nodes_and_weights(flat[np.isfinite(flat)])
    return d, 2 * width * density(d, spread)


# --- the inner ones -----------------------------------------------------------------------------


class _Line(NamedTuple):
    """The inner integrals, over s."""

    spread: float
    grid: np.ndarray
    """edges of panels on which its density is smooth"""
    farthest: float
    """how far u and v are followed"""
    bends: np.ndarray
    """edges of panels on which phi is smooth"""
    kinks: np.ndarray

    def edges(self, d: np.ndarray) -> np.ndarray:
        """Edges of panels in s for each d, `[len(d), edges]`, increasing and then infinite."""
        away = d[:, None]
        sources = [(self.bends, -away), (self.bends, away), (self.grid, np.zeros_like(away))]
        edges = np.concatenate(_merged(sources, self.kinks), 1)
        reach = np.minimum(self.grid[-1], self.farthest - away)
        edges[~(np.abs(edges) < reach)] = math.inf
        return _apart(np.concatenate([-reach, edges, reach], 1), self.grid[-1])

    def number(self, d: np.ndarray) -> float:
        """How many nodes there are about, judged by some of the rows."""
        sampled = d[:: -(-len(d) // _SAMPLED)]
        panels = np.isfinite(self.edges(sampled)).sum() - len(sampled)
        return float(ORDER * panels / len(sampled) * len(d))

    def nodes(self, d: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Some panels at a time: the index of their d `[panels, 1]`, and nodes and weights."""
        if self.spread == 0:
            yield np.arange(len(d))[:, None], np.zeros((len(d), 1)), np.ones((len(d), 1))
            return
        rows = max(1, _EDGES // (2 * len(self.bends) + len(self.grid) + 1))
        for first in range(0, len(d), rows):
            edges = self.edges(d[first : first + rows])
            row, i = np.nonzero(np.isfinite(edges[:, 1:]))
            panels = np.stack([edges[row, i], edges[row, i + 1]], 1)
            for start in range(0, len(panels), _AT_ONCE):
                some = slice(start, start + _AT_ONCE)
                s, width = nodes_and_weights(panels[some])
                yield first + row[some, None], s, width * density(s, self.spread)


# --- panels -------------------------------------------------------------------------------------


def _merged(
    sources: Sequence[tuple[np.ndarray, np.ndarray]], always: np.ndarray
) -> list[np.ndarray]:
    """Of several grids, the edges that are needed; the others are infinite.

    A grid is `(edges, shift)`, moved by each of the shifts `[rows, 1]`. Where another grid is
    finer than the panels on both sides of an edge, that edge is left out, but for those listed.
    """
    found = []
    for i, (edges, shift) in enumerate(sources):
        at = edges + shift
        width = np.diff(edges)
        beside = np.minimum(np.append(width, math.inf), np.append(math.inf, width))
        needed = np.ones(at.shape, bool)
        for j, (other, by) in enumerate(sources):
            if j != i:
                panel = np.concatenate([[math.inf], np.diff(other), [math.inf]])
                there = panel[np.searchsorted(other, at - by)]
                needed &= beside <= there if i < j else beside < there
        found.append(np.where(needed | np.isin(np.abs(edges), np.abs(always)), at, math.inf))
    return found


def _apart(edges: np.ndarray, reach: float) -> np.ndarray:
    """Rows in increasing order, without edges that almost equal the one before."""
    edges = np.sort(edges, 1)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        new = np.diff(edges) > _SAME * reach
    return np.sort(np.where(np.insert(new, 0, True, 1), edges, math.inf), 1)
