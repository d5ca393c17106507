"""Lengths from layer to layer, however many: exact at first, and then by a table of moments."""

import math
from collections.abc import Callable

import numpy as np

from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.table import Table

_EXACT = 256  # layers
_ONE_BY_ONE = 4096  # layers; lengths that have not settled then change by little and smoothly
_STRIDE = 64
_WINDOW = 8  # lengths between which others are interpolated


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
        if at == _ONE_BY_ONE and depth - at > _ONE_BY_ONE and _creeps(lengths):
            return np.concatenate([lengths[:-1], _strides(step, q, depth - at, table)])
        exact = at < _EXACT or q == 0
        q = step(q, second if exact else table.first)
    return np.array(lengths)


def _creeps(lengths: list[float]) -> bool:
    changes = np.diff(np.log(lengths[-_STRIDE:]))
    return bool(np.all(changes * changes[0] > 0) and np.abs(changes).max() < 4 / _ONE_BY_ONE)


def _strides(
    step: Callable[[float, Callable[[float], float]], float], q: float, depth: int, table: Table
) -> np.ndarray:
    """So many lengths from q on: 64 layers at a time by a table of that, and between them by
    polynomials."""

    def jump(q: float) -> np.ndarray:
        after = q
        for _ in range(_STRIDE):
            after = step(after, table.first)
        return np.array([math.log(after / q)])

    jumps = Table(jump, sizes=np.ones_like)
    logs = [math.log(q)]
    for _ in range(depth // _STRIDE + _WINDOW):
        logs.append(logs[-1] + jumps.first(math.exp(logs[-1])))
    start = np.arange(depth // _STRIDE + 1)
    first = np.maximum(start - _WINDOW // 2 + 1, 0)
    near = np.array(logs)[first[:, None] + np.arange(_WINDOW)]
    # Lagrange's polynomials at the places between, for each place of the window.
    places = np.arange(_WINDOW)
    between = np.arange(_STRIDE) / _STRIDE
    found = np.empty((len(start), _STRIDE))
    for shift in np.unique(start - first):
        at = between + shift
        weights = np.stack([
            np.prod([(at - k) / (j - k) for k in places if k != j], 0) for j in places
        ])  # fmt: skip
        rows = start - first == shift
        found[rows] = near[rows] @ weights
    return np.exp(found.ravel()[:depth])


def plain_orbit(layer: WideLayer, q: float, depth: int, table: Table) -> np.ndarray:
    """Those of a network without norms and skips."""
    return orbit(lambda q, second: layer.fed(second(q)), q, depth, layer.phi.second, table)
