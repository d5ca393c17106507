"""What a value of a traced model is, as far as its parameters go.

A `View` is a parameter in another shape, `Joined` several of them side by side, `Factors` what a
value is multiplied by. `Signal` is data: what the inputs and the weights made.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

Path = tuple[int, ...]
"""Where an equation stands: its number, and within nested programs the branch and number there."""


class Loop(NamedTuple):
    """A scan around an equation."""

    path: Path
    """its own"""
    length: int
    reverse: bool


class RoleError(ValueError):
    """A parameter whose use says nothing certain; the message names it and offers a rule."""


class View(NamedTuple):
    """A parameter, or a part of it, in another shape."""

    leaf: int
    shape: tuple[int, ...]
    steps: tuple[Callable[[Any], Any] | None, ...] = ()
    """how it came from the leaf; None takes one layer of a loop over stacked ones"""
    layers: tuple[int, ...] = ()
    """how many, of every loop that goes through them"""
    stacked: tuple[int, ...] = ()
    """which of the loops around, from outside, these are"""
    narrowed: tuple[tuple[int, int], ...] = ()
    """axes that the last step has cut down to one entry, and how many there were"""
    picked: int = 1
    """how many there are of which this is one, picked by its number, as `w[3]` is"""

    def then(self, step: Callable[[Any], Any] | None, shape: Sequence[int]) -> "View":
        """The view after one more step."""
        return self._replace(shape=tuple(shape), steps=(*self.steps, step), narrowed=())

    def indices(self, shape: tuple[int, ...], layer: tuple[int, ...]) -> np.ndarray:
        """Where in the flat leaf every entry of the view of one layer lies."""
        found: Any = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
        left = list(layer)
        with jax.ensure_compile_time_eval():
            for step in self.steps:
                found = found[left.pop(0)] if step is None else step(found)
            return np.asarray(found)


class Joined(NamedTuple):
    """Several views side by side along an axis, as fused gates are."""

    views: tuple[View, ...]
    axis: int


class Factors(NamedTuple):
    """Parameters that are multiplied into one, each perhaps changed by a function."""

    parts: tuple[tuple[View, str], ...]
    """the view, and what it is if the product multiplies a signal"""

    @property
    def views(self) -> tuple[View, ...]:
        """The parameters."""
        return tuple(view for view, _ in self.parts)


class Constant(NamedTuple):
    """The same number everywhere, written in the program."""

    number: np.ndarray


class Pointwise(NamedTuple):
    """A function of single entries, which a signal has gone through since it was made."""

    curve: np.ndarray
    """its values on the grid"""
    source: int
    """of what it is a function; two functions of one source make a third"""
    entry: tuple[Path, int]
    """the first equation, and which of its operands is the argument"""


@dataclass(frozen=True, eq=False)
class Signal:
    """Data: what inputs and weights have made.

    `uses` are those uses of weights that no activation has met yet.
    """

    node: int
    """its number in the graph of values"""
    data: bool
    """whether inputs lead to it, or lookups; else it is numbers that a parameter may be made of"""
    uses: frozenset[int] = frozenset()
    pointwise: Pointwise | None = None
    path: Path = ()
    """the equation it came out of"""
    features: int | None = None
    """axis of the units, where known"""
    size: int = 0
    """entries"""
    normed: bool = False
    """divided by a root of what it holds, and not multiplied by a parameter since"""

    @property
    def source(self) -> int:
        """The node of what it is a function of, entry by entry: its own if nothing is known."""
        return self.node if self.pointwise is None else self.pointwise.source


Parameters = View | Joined | Factors
Value = Parameters | Constant | Signal | None
