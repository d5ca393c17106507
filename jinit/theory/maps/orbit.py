"""Lengths from layer to layer, however many: exact at first, and then by a table of moments."""

from collections.abc import Callable

import numpy as np

from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.table import Table

_EXACT = 256  # layers


def orbit(
    step: Callable[[float, Callable[[float], float]], float],
    q: float,
    depth: int,
    second: Callable[[float], float],
    table: Table,
) -> np.ndarray:
    """The lengths q_1 ... q_depth, `[depth]`; once one comes back, so does all that followed it.

    Args:
        step: to the next length, from one and a function that gives E phi^2.
        q: the first length.
        depth: how many.
        second: E phi^2, exactly.
        table: of moments, E phi^2 the first of them.
    """
    seen: dict[float, int] = {}
    lengths: list[float] = []
    for at in range(depth):
        if q in seen:
            cycle = lengths[seen[q] :]
            return np.resize(np.array(lengths + cycle * (depth // len(cycle))), depth)
        if at < _EXACT or at % 64 == 0:  # later ones come back within a few layers
            seen[q] = at
        lengths.append(q)
        exact = at < _EXACT or q == 0
        q = step(q, second if exact else table.first)
    return np.array(lengths)


def plain_orbit(layer: WideLayer, q: float, depth: int, table: Table) -> np.ndarray:
    """Those of a network without norms and skips."""
    return orbit(lambda q, second: layer.fed(second(q)), q, depth, layer.phi.second, table)
