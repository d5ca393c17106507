"""Moments at very many lengths: exact at some, and polynomials of ln q between them."""

import math
from collections.abc import Callable

import numpy as np
from numpy.polynomial.legendre import leg2poly, legvander

from jinit.theory.moments.quadrature import ORDER, TO_LEGENDRE, nodes_and_weights

_RESOLVED = 1e-13  # of the last coefficients, relative; a panel with more is not interpolated
_NEGLIGIBLE = 1e-17
_FEW = 200  # lengths that are looked at one by one
_OFTEN = 8  # lengths within one panel, after which it pays


class Table:
    """A vector of moments as a function of q, kept panel by panel as they are met.

    Gaussian moments are analytic in ln q, also where the activation has kinks. The first few of a
    panel are exact, and later ones within 1e-13 of that: one table belongs to one question.
    """

    def __init__(
        self,
        moments: Callable[[float], np.ndarray],
        sizes: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
        width: float = 0.5,
    ) -> None:
        """Nothing is computed before it is asked for.

        Args:
            moments: from q to as many numbers, `[moments]`.
            sizes: what the errors of rows `[moments, lengths]` are compared with, if larger than
                they are; of the same shape.
            width: of a panel in ln q.
        """
        self._moments, self._sizes, self._width = moments, sizes, width
        self._panels: dict[int, tuple[np.ndarray, list[float]] | None] = {}
        self._met: dict[int, int] = {}

    def first(self, q: float) -> float:
        """The first of them at one length."""
        place = math.log(q) / self._width
        panel = math.floor(place)
        found = self._panel(panel, met=1)
        if found is None:
            return float(self._moments(q)[0])
        t, value = 2 * (place - panel) - 1, 0.0
        for coefficient in found[1]:
            value = value * t + coefficient
        return value

    def all(self, q: np.ndarray) -> np.ndarray:
        """All of them, `[moments, lengths]`."""
        distinct, back = np.unique(q, return_inverse=True)
        if len(distinct) <= _FEW:
            return np.array([self._moments(float(each)) for each in distinct]).T[:, back]
        place = np.full(len(distinct), -math.inf)
        place[distinct > 0] = np.log(distinct[distinct > 0]) / self._width
        rows = []
        panels = np.floor(place)
        for panel in np.unique(panels):
            here = panels == panel
            met = int(here.sum())
            found = self._panel(int(panel), met) if math.isfinite(panel) else None
            if found is None:
                rows.append(np.array([self._moments(float(each)) for each in distinct[here]]).T)
            else:
                basis = legvander(2 * (place[here] - panel) - 1, ORDER - 1)
                rows.append(found[0] @ basis.T)
        return np.concatenate(rows, 1)[:, back]

    def _panel(self, panel: int, met: int) -> tuple[np.ndarray, list[float]] | None:
        if panel not in self._panels:
            self._met[panel] = self._met.get(panel, 0) + met
            if self._met[panel] < _OFTEN:  # lengths may pass by once, and never come back
                return None
            self._panels[panel] = self._looked_at(panel)
        return self._panels[panel]

    def _looked_at(self, panel: int) -> tuple[np.ndarray, list[float]] | None:
        log_q, _ = nodes_and_weights(self._width * np.array([panel, panel + 1.0]))
        try:
            rows = np.array([self._moments(math.exp(x)) for x in log_q]).T
        except ValueError:  # beyond what can be followed, of which one q may be on this side
            return None
        if not np.isfinite(rows).all():
            return None
        series = rows @ TO_LEGENDRE.T
        size = np.maximum(np.abs(rows).max(1), np.abs(self._sizes(rows)).max(1))
        if np.any(np.abs(series[:, -4:]).max(1) > _RESOLVED * size):
            return None
        counts = np.flatnonzero(np.abs(series[0]) > _NEGLIGIBLE * np.abs(series[0]).max())
        return series, leg2poly(series[0, : counts[-1] + 1])[::-1].tolist() if len(counts) else [
            0.0
        ]
