"""What a value of a traced model is, as far as its parameters go.

A `View` is a parameter, or something made of parameters alone, in another shape; `Joined` several
of them side by side; `Known` numbers that the program holds. `Signal` is data: what the inputs and
the weights made.
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
    """a parameter, or counted on from them what is made of some (`made.Made`)"""
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
    spread: frozenset[int] = frozenset()
    """axes along which it is repeated, as far as is known"""
    looked_up: bool = False
    """whether it is rows that the program picks by number, as those of positions"""

    def then(self, step: Callable[[Any], Any] | None, shape: Sequence[int]) -> "View":
        """The view after one more step."""
        steps = (*self.steps, step)
        return self._replace(shape=tuple(shape), steps=steps, narrowed=(), spread=frozenset())

    def of(self, leaf: Any, layer: Sequence[Any]) -> Any:
        """The view of one layer, of an array like the leaf."""
        left = list(layer)
        for step in self.steps:
            leaf = leaf[left.pop(0)] if step is None else step(leaf)
        return leaf

    def indices(self, shape: tuple[int, ...], layer: tuple[int, ...]) -> np.ndarray:
        """Where in the flat leaf every entry of the view of one layer lies."""
        flat = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
        with jax.ensure_compile_time_eval():
            return np.asarray(self.of(flat, layer))


class Joined(NamedTuple):
    """Several views side by side along an axis, as fused gates are."""

    views: tuple[View, ...]
    axis: int
    leading: tuple[int, ...] = ()
    """axes before the views' own, along which all are repeated"""


class Constant(NamedTuple):
    """The same number everywhere, written in the program."""

    number: np.ndarray


@dataclass(frozen=True, eq=False)
class Known:
    """An array of numbers that the program holds or makes of such; computed when it is needed."""

    numbers: Callable[[], Any]


class Pointwise(NamedTuple):
    """A function of single entries, which a signal has gone through since it was made."""

    curve: np.ndarray
    """its values on the grid"""
    source: int
    """of what it is a function; two functions of one source make a third"""
    entry: tuple[Path, int]
    """the first equation, and which of its operands is the argument"""


class Rescaled(NamedTuple):
    """A constant factor on what came out of weights."""

    factor: float
    path: Path
    """the equation that multiplied"""


class Rows(NamedTuple):
    """Parts of a parameter that data has picked: an expert's matrices."""

    use: int
    axes: tuple[int, ...]
    """of the signal, where the axes of one part lie"""


@dataclass(frozen=True, eq=False)
class Signal:
    """Data: what inputs and weights have made.

    `uses` are those uses of weights that no activation has met yet.
    """

    node: int
    """its number in the graph of values"""
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
    spread: frozenset[int] = frozenset()
    """axes along which it is repeated, as far as is known"""
    columns: tuple[int, ...] = ()
    """axes that the units of the waiting weights are laid out on, row by row"""
    rescaled: tuple[Rescaled, ...] = ()
    """the constant factors since the waiting weights, each with those before"""
    multiplied: "tuple[int, Signal] | None" = None
    """a product entry by entry with a parameter, that use, and what was multiplied: a sum over it
    is a matrix product"""
    one_hot: int | None = None
    """the axis along which one entry is 1 and the others are 0"""
    rows: Rows | None = None
    terms: frozenset[int] = frozenset()
    """uses of parameters that were added to it or multiplied with it since the last weights"""
    raised: frozenset[int] = frozenset()
    """such uses that went into an exponential"""
    accumulated: frozenset[int] = frozenset()
    """such uses that were summed up over time"""
    state: bool = False
    """what a loop carries"""
    scores: frozenset[int] = frozenset()
    """uses of weights that a product of two signals has read, no weights since; else none"""
    exponential: bool = False
    """the value of an exponential"""
    cut: frozenset[tuple[int, int]] = frozenset()
    """uses of weights of whose units it is a part, no activation since, and where that begins"""

    @property
    def source(self) -> int:
        """The node of what it is a function of, entry by entry: its own if nothing is known."""
        return self.node if self.pointwise is None else self.pointwise.source


Parameters = View | Joined
Fixed = Constant | Known
Value = Parameters | Fixed | Signal | None
