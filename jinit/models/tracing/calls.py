"""One equation of a traced model as the rules meet it, and what the rule of a primitive is."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jinit.models.tracing.graph import Graph
from jinit.models.tracing.values import Parameters, Path, Signal, Value

Step = Callable[["Call"], list[Value] | None]
"""What comes out of an equation; None if the step says nothing of it, so that the next one may."""


class Rule(NamedTuple):
    """How one primitive treats what it is given."""

    parameters: tuple[Step, ...] = ()
    """tried in order if operands are made of parameters, and others are signals"""
    moves: tuple[Step, ...] = ()
    """tried in order if there is no signal among them, before a new leaf is made of them"""
    signals: tuple[Step, ...] = ()
    """tried in order if none is made of parameters"""
    pointwise: bool = False
    """a function of single entries, whose curve is followed"""
    same: bool = False
    """hands on what it is given, perhaps in another precision"""
    summed: bool = False
    """sums over entries, as a norm does"""
    root: bool = False
    """what a norm divides by, or multiplies with"""
    random: bool = False
    """other numbers at every call, from integers"""


class Call(NamedTuple):
    """One equation, what it is given, and the rule of its primitive."""

    graph: Graph
    equation: Any
    values: list[Value]
    at: Path
    rule: Rule

    @property
    def made(self) -> int:
        """How many values come out."""
        return len(self.equation.outvars)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first value that comes out."""
        return self.equation.outvars[0].aval.shape if self.made else ()

    def spread(self, i: int) -> frozenset[int]:
        """Axes of what comes out along which an operand is repeated, as far as is known."""
        shape = self.equation.invars[i].aval.shape
        own: frozenset[int] = getattr(self.values[i], "spread", frozenset())
        if len(shape) != len(self.shape):
            return frozenset(range(len(self.shape)))
        return own | {a for a, n in enumerate(self.shape) if n > 1 == shape[a]}

    @property
    def places(self) -> list[int]:
        """Which operands are made of parameters."""
        return [i for i, v in enumerate(self.values) if isinstance(v, Parameters)]

    @property
    def signals(self) -> bool:
        """Whether one of them is a signal."""
        return any(isinstance(v, Signal) for v in self.values)

    @property
    def rest(self) -> list[Value]:
        """The other operands."""
        return [v for v in self.values if not isinstance(v, Parameters)]

    @property
    def features(self) -> int | None:
        """Axis of the units in what comes out, if operands of its shape agree on it."""
        axes = {
            v.features for v, atom in zip(self.values, self.equation.invars, strict=True)
            if isinstance(v, Signal) and atom.aval.shape == self.shape and v.features is not None
        }  # fmt: skip
        return axes.pop() if len(axes) == 1 else None
