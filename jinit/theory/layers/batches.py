"""Expectations over one and two entries of a batch that batch norm has normalised.

A unit's B pre-activations of covariance lambda P (P centres) leave batch norm as a point of a
sphere of B - 1 dimensions. One entry of it is sqrt(B - 1) sin(theta) with theta of density
cos(theta)^(B - 3), and a second likewise with one dimension less, given the first.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jinit.theory.moments.curve import Curve, MomentError, TooRoughError
from jinit.theory.moments.quadrature import BEYOND, ORDER, REACHES, nodes_and_weights, standard_grid

_NARROW = 0.2  # the narrowest panel of a named activation is 0.25 wide, but at kinks
_NEGLIGIBLE = 1e-18  # a density
_SMOOTH = 24  # in batches of so many, what kinks leave in an expectation is smooth enough
_AT_ONCE = 2**16  # nodes per evaluation
_MOST_NODES = 50_000_000  # about five seconds


class BatchNormMoments(NamedTuple):
    """Moments of an activation behind batch norm."""

    mean: float
    """E phi(u)"""
    second: float
    """E phi(u)^2"""


def moments_over(phi: Curve, batch: int) -> BatchNormMoments:
    """Of one entry."""
    if batch == 2:  # one of the two is 1 and the other -1
        value, _ = phi.evaluate(np.array([-1.0, 1.0]))
        return BatchNormMoments(float(value.mean()), float((value**2).mean()))
    one = _entry_within(phi, batch, _reach(phi, batch))
    return BatchNormMoments(
        float(np.sum(one.weight * one.value)), float(np.sum(one.weight * one.value**2))
    )


class _Entry(NamedTuple):
    """One entry u of a normalised batch at quadrature nodes, each field `[nodes]`."""

    weight: np.ndarray
    u: np.ndarray
    left: np.ndarray
    """sqrt(B - 1 - u^2), the radius that u leaves to the other entries"""
    value: np.ndarray
    slope: np.ndarray
    custom: np.ndarray
    """the derivative that gradients are given"""


class Entries(NamedTuple):
    """Two entries u, v of a normalised batch at quadrature nodes, `[rows, 1 or nodes]`."""

    weight: np.ndarray
    u: np.ndarray
    v: np.ndarray
    value_u: np.ndarray
    value_v: np.ndarray
    slope_u: np.ndarray
    slope_v: np.ndarray
    custom_u: np.ndarray
    custom_v: np.ndarray


def mean_over(
    phi: Curve, batch: int, integrands: Callable[[Entries], tuple[np.ndarray, ...]]
) -> tuple[float, ...]:
    """E of integrands given at the nodes of two entries; last, the variance over the batch.

    That is E (phi(u) - phi(v))^2 / 2.
    """
    sums = [
        [np.sum(two.weight * x) for x in (*integrands(two), (two.value_u - two.value_v) ** 2 / 2)]
        for two in _entries(phi, batch)
    ]
    return tuple(float(each) for each in np.sum(sums, 0))


def _entries(phi: Curve, batch: int) -> Iterator[Entries]:
    """Nodes that follow the kinks of phi(u), and row by row those of phi(v); some rows at a time.

    Raises:
        TooRoughError: for more than fifty million nodes.
    """
    radius, rho = math.sqrt(batch - 1), -1 / (batch - 1)
    reach = _reach(phi, batch)
    tangents = _tangents(_sharp(phi, reach), batch) if batch < _SMOOTH else None
    one = _entry_within(phi, batch, reach, tangents)
    # v = rho u + spread sin(theta), theta of density cos(theta)^(B - 4).
    # |v| is at most the radius, and where u stops before it, at most (1 + |rho|) times as far.
    bends = phi.pieces(min(radius * (1 + 1e-9), reach * (1 - rho)))
    grid = standard_grid(reach) / radius
    columns = (len(grid) + len(bends) - 1) * ORDER
    if len(one.u) * columns > _MOST_NODES:
        raise TooRoughError(
            f"{phi.name} bends too often to be followed in two entries of a normalised batch of "
            f"{batch}, which would take {len(one.u) * columns:.1e} points, more than "
            f"{_MOST_NODES:.0e}; give a smoother activation."
        )
    rows = max(1, _AT_ONCE // columns)
    for start in range(0, len(one.u), rows):
        some = _Entry(*(each[start : start + rows] for each in one))
        middle, spread = rho * some.u[:, None], math.sqrt(1 - rho**2) * some.left[:, None]
        even = np.broadcast_to(grid, (len(some.u), len(grid)))
        sines = np.concatenate([even, (bends - middle) / spread], 1)
        edges = np.arcsin(np.clip(sines, -reach / radius, reach / radius))
        theta, width = nodes_and_weights(np.sort(edges, 1))
        weight = width * _cos_power(theta, batch - 4)
        weight *= (some.weight / weight.sum(1))[:, None]
        v = middle + spread * np.sin(theta)
        value_v, slope_v, custom_v = phi.evaluate_all(v)
        u, value_u, slope_u, custom_u = (
            each[:, None] for each in (some.u, some.value, some.slope, some.custom)
        )
        yield Entries(weight, u, v, value_u, value_v, slope_u, slope_v, custom_u, custom_v)


def _entry_within(
    phi: Curve, batch: int, reach: float, tangents: Sequence[float] | None = None
) -> _Entry:
    """Nodes in (-reach, reach), on panels split at phi's bends.

    With the angles of `tangents`, split there too, and for half-integer powers at all edges.
    """
    radius = math.sqrt(batch - 1)
    places = np.concatenate([standard_grid(reach), phi.pieces(reach)])
    edges = np.unique(np.arcsin(places / radius))
    if tangents is None:
        theta, width = nodes_and_weights(edges)
    else:
        inside = [theta for theta in tangents if abs(theta) < edges.max()]
        theta, width = _nodes_smooth_at_edges(np.unique([*edges, *inside]))
    weight = width * _cos_power(theta, batch - 3)
    u = radius * np.sin(theta)
    return _Entry(weight / weight.sum(), u, radius * np.cos(theta), *phi.evaluate_all(u))


def _tangents(places: Sequence[float], batch: int) -> list[float]:
    """The theta of u at which v begins or ceases to reach a place, where u is not too rare.

    v lies between radius * sin(theta - alpha) and radius * sin(theta + alpha), cos(alpha) = rho.
    The expectation over v is not smooth in theta where one of these is a kink: it has a half-
    integer power there if B is even.
    """
    radius, alpha = math.sqrt(batch - 1), math.acos(-1 / (batch - 1))
    arcs = [math.asin(place / radius) for place in places if abs(place) < radius]
    ends = [arc + sign * alpha for k in arcs for arc in (k, math.pi - k) for sign in (-1, 1)]
    thetas = np.array([math.remainder(end, 2 * math.pi) for end in ends])
    return list(thetas[_cos_power(thetas, batch - 3) > _NEGLIGIBLE])


def _sharp(phi: Curve, reach: float) -> list[float]:
    """Kinks, and edges of narrow panels: bends so sharp that they count as kinks."""
    edges = phi.pieces(reach)
    narrow = np.diff(edges) < _NARROW
    beside = edges[np.append(narrow, False) | np.insert(narrow, 0, False)]
    return sorted({*phi.kinks, *map(float, beside)})


def _nodes_smooth_at_edges(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for integrands with half-integer powers at edges.

    On a panel from a to b the variable is s with theta = a + (b - a) sin^2(pi s / 2), in which
    sqrt(theta - a) and sqrt(b - theta) are smooth.
    """
    s, width = nodes_and_weights(np.array([0.0, 0.5, 1.0]))
    start, length = edges[:-1, None], np.diff(edges)[:, None]
    theta = start + length * np.sin(np.pi / 2 * s) ** 2
    return theta.ravel(), (width * length * (np.pi / 2) * np.sin(np.pi * s)).ravel()


def _reach(phi: Curve, batch: int) -> float:
    """How far out an entry is followed: to the sphere's end, or as far as squares of phi need."""
    radius = math.sqrt(batch - 1)
    for reach in REACHES:
        one = _entry_within(phi, batch, min(reach, radius))
        with np.errstate(over="ignore"):
            steepest = np.maximum(one.slope**2, one.custom**2)
            squares = one.weight * np.maximum(one.value**2, (1 + one.u**2) * steepest)
        outermost = squares[np.abs(one.u) > reach - 1].sum()
        if not np.isfinite(squares).all():
            break
        if reach >= radius or outermost <= BEYOND * squares.sum():
            return min(reach, radius)
    raise MomentError(
        f"the moments of {phi.name} over a normalised batch of {batch} lie beyond 37 standard "
        f"deviations, or leave float64; give a smaller batch or an activation that grows less."
    )


def _cos_power(theta: np.ndarray, power: int) -> np.ndarray:
    """cos(theta)^power, to full precision also for large powers of a cosine close to 1."""
    if power == 0:
        return np.ones_like(theta)
    with np.errstate(divide="ignore"):  # cos = 0
        return np.exp(power / 2 * np.log1p(-(np.sin(theta) ** 2)))
