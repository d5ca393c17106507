"""Following signals from layer to layer."""

import math
from collections.abc import Callable, Hashable
from typing import TypeVar

from jinit import checks
from jinit.theory.moments.curve import MomentError

__all__ = ["deep", "follow", "length"]

State = TypeVar("State", bound=Hashable)
Row = TypeVar("Row")


def deep(depth: int, most: int) -> int:
    """A depth, up to the most layers that can be followed."""
    depth = checks.count("depth", depth)
    if depth > most:
        raise ValueError(
            f"depth must be at most {most}, got {depth!r}: layers are followed one by one; "
            f"jinit.theory.depth_scales tells where they settle, and how fast."
        )
    return depth


def follow(step: Callable[[State], tuple[Row, State]], state: State, depth: int) -> list[Row]:
    """What each layer reports; once a state comes back, so does all that has followed it."""
    seen: dict[State, int] = {}
    rows: list[Row] = []
    while len(rows) < depth:
        if state in seen:
            cycle = rows[seen[state] :]
            return (rows + cycle * (depth // len(cycle)))[:depth]
        seen[state] = len(rows)
        row, state = step(state)
        rows.append(row)
    return rows


def length(
    second: float, weight_var: float, bias_var: float, *, stream: float = 0.0, scale: float = 1.0
) -> float:
    """The variance of pre-activations, stream + scale^2 (weight_var E phi^2 + bias_var).

    Raises:
        MomentError: where it leaves float64.
    """
    q = stream + scale * scale * (weight_var * second + bias_var)
    if not math.isfinite(q):
        raise MomentError(
            f"the pre-activations leave float64 where weight_var={weight_var:g} meets signals of "
            f"mean square {second:g}; give smaller variances."
        )
    return q
