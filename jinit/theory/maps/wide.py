"""A layer of infinite width, and following signals from layer to layer."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from jinit import checks
from jinit.theory.moments.arguments import variance
from jinit.theory.moments.curve import ActivationLike, Curve, MomentError, curve

_MARGINAL = 1e-12  # so close to 1, a slope is neither stable nor unstable

State = TypeVar("State", bound=Hashable)
Row = TypeVar("Row")


@dataclass(frozen=True)
class WideLayer:
    """An activation and the variances of the parameters that feed it; checked once, here.

    All that depends on these two variances is written in terms of this class.
    """

    activation: ActivationLike
    weight_var: float = field(kw_only=True)
    bias_var: float = field(kw_only=True, default=0.0)
    phi: Curve = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Numbers become floats, and the activation the curve that is kept of it."""
        object.__setattr__(self, "phi", curve(self.activation))
        for name in ("weight_var", "bias_var"):
            object.__setattr__(self, name, variance(name, getattr(self, name)))

    def length(self, q: float) -> float:
        """V(q) = weight_var E phi^2 + bias_var, the variance of the next pre-activations."""
        return self.weight_var * self.phi.second(q) + self.bias_var

    def fed(self, second: float, *, stream: float = 0.0, scale: float = 1.0) -> float:
        """The variance of pre-activations, stream + scale^2 (weight_var second + bias_var).

        Raises:
            MomentError: where it leaves float64.
        """
        q = stream + scale * scale * (self.weight_var * second + self.bias_var)
        if not math.isfinite(q):
            raise MomentError(
                f"the pre-activations leave float64 where weight_var={self.weight_var:g} meets "
                f"signals of mean square {second:g}; give smaller variances."
            )
        return q

    def described(self) -> str:
        """For messages: whose network, with which variances."""
        return f"{self.phi.name} with weight_var={self.weight_var:g} and bias_var={self.bias_var:g}"


def is_stable(slope: float) -> bool:
    """Whether a map with that slope at a fixed point comes back to it; not if it lies at 1."""
    return abs(slope) < 1 - _MARGINAL


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
