"""Gaussian expectations over two pre-activations of equal variance q and correlation c.

The two are u, v = s ± d with s ~ N(0, q (1 + c) / 2) and d ~ N(0, q (1 - c) / 2) independent. For
fixed d the integrand is smooth in s but where s + d or s - d is a kink, so that the inner panels
follow the kinks exactly; and what is needed near c = 1, E (phi(u) - phi(v))^2, is a sum of squares
without cancellation.
"""

import math
from typing import NamedTuple

import numpy as np

from jinit.theory.curve import Curve
from jinit.theory.quadrature import nodes_and_weights

__all__ = ["Pair", "pair"]

_REACH = 12.0  # in standard deviations
_HALF_GRID = np.array([0, 1, 2, 3.5, 5, 7, 9, _REACH])
_GRID = np.concatenate([-_HALF_GRID[:0:-1], _HALF_GRID])


class Pair(NamedTuple):
    """Expectations over two pre-activations (u, v)."""

    product: float
    """E phi(u) phi(v)"""
    half_square_difference: float
    """E (phi(u) - phi(v))^2 / 2 = E phi^2 - E phi(u) phi(v), to relative precision"""
    slope_product: float
    """E phi'(u) phi'(v)"""


def pair(phi: Curve, q: float, one_minus_c: float) -> Pair:
    """The expectations at variance q and correlation 1 - one_minus_c, which lies in [0, 2]."""
    if one_minus_c <= 0 or q == 0:
        return Pair(phi.second(q), 0.0, phi.slope_second(q))
    spread_s = math.sqrt(q * (2 - one_minus_c) / 2)
    spread_d = math.sqrt(q * one_minus_c / 2)
    bends = phi.pieces(_REACH * (spread_s + spread_d))
    d, weight_d = _half_line(spread_d, spread_s, bends, phi.kinks)
    s, weight_s = _line(spread_s, d, bends)
    value_u, slope_u = phi.evaluate(s + d[:, None])
    value_v, slope_v = phi.evaluate(s - d[:, None])
    weight = weight_d[:, None] * weight_s
    return Pair(
        float(np.sum(weight * value_u * value_v)),
        float(np.sum(weight * (value_u - value_v) ** 2)) / 2,
        float(np.sum(weight * slope_u * slope_v)),
    )


def _half_line(
    spread: float, other: float, bends: np.ndarray, kinks: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes d > 0, and weights of the whole symmetric line, `[nodes]`."""
    reach = _REACH * spread
    # Where kinks of s + d and s - d meet, the inner integral bends within the other's spread.
    meet = np.unique([(b - a) / 2 for a in kinks for b in kinks if b >= a])
    if other < spread:
        meet = (meet[:, None] + other * _GRID).ravel()
    edges = np.concatenate([spread * _HALF_GRID, meet, bends])
    d, width = nodes_and_weights(np.unique(edges[(edges >= 0) & (edges <= reach)]))
    return d, 2 * width * _density(d, spread)


def _line(spread: float, d: np.ndarray, bends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes s and weights for each d, `[len(d), nodes]`."""
    if spread == 0:
        return np.zeros((len(d), 1)), np.ones((len(d), 1))
    reach = _REACH * spread
    grid = np.broadcast_to(spread * _GRID, (len(d), len(_GRID)))
    shifted = [bends - d[:, None], bends + d[:, None]]
    edges = np.sort(np.clip(np.concatenate([grid, *shifted], 1), -reach, reach), 1)
    s, width = nodes_and_weights(edges)
    return s, width * _density(s, spread)


def _density(x: np.ndarray, spread: float) -> np.ndarray:
    return np.exp(-((x / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
