"""What is found in a traced model: uses of parameters, activations, sums of residual branches."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from jinit.models.tracing.made import WAYS, Part
from jinit.models.tracing.values import Loop, Path, View

Kind = Literal[
    "weight", "bias", "scale", "embedding", "tied", "statistic", "rate", "other", "unused"
]


class Use(NamedTuple):
    """One consumption of a parameter, or of a part of it."""

    kind: Kind
    order: int
    """place in call order"""
    times: int
    """how often, within loops that share the parameter; 0 in a branch that repeats another's"""
    view: View
    path: Path
    """of the equation"""
    loops: tuple[Loop, ...] = ()
    """around the equation, from outside"""
    fan_in: int | float | None = None
    fan_out: int | None = None
    receptive_field: int = 1
    groups: int = 1
    """of a grouped convolution, or the product of axes that are batched, as experts are"""
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())
    """of the view: batched, summed over, free"""
    thinned: float = 1.0
    """share of the fan-in that one output meets on average, where a stride skips taps unevenly"""
    normed: bool = False
    """of a factor: whether what it multiplies was normalised just before"""
    features: int | None = None
    """axis of the units in what comes out"""
    size: int = 0
    """entries of what comes out"""
    after: Path | None = None
    """the equation that made the signal it is applied to, changes of shape aside"""
    sure: bool = False
    """of "other": whether it is known what is done, and that no product reads it"""
    rescaled: Path | None = None
    """the equation that multiplies what comes out with a constant, which the view holds"""
    picked_by_data: bool = False
    """whether data picks the matrices that are applied, as it does experts"""
    gates: tuple[int, ...] | None = None
    """of every column, which of several equal parts that are split afterwards it belongs to"""
    parts: Mapping[int, Part] = MappingProxyType({})
    """parameter -> what it is in the view"""

    def __hash__(self) -> int:
        """By its place, as no two uses of a trace stand at one."""
        return hash((self.order, self.path))

    @property
    def part(self) -> int:
        """Entries that take part, of one layer."""
        return math.prod(self.view.shape)

    @property
    def leaf(self) -> int:
        """The parameter that is used, of several the one that the others change."""
        return min(self.parts, key=lambda i: (WAYS.index(self.parts[i].way), i))

    @property
    def layers(self) -> int:
        """Stacked layers that loops go through."""
        return math.prod(self.view.layers)


class ActivationUse(NamedTuple):
    """A pointwise function between weights."""

    name: str | None
    """of jinit's activations; None if it is none of them"""
    curve: np.ndarray | None
    """its values on `pointwise.GRID`; None of a function of several entries, as softmax is"""
    uses: frozenset[int]
    """of weights, that it follows; none of one that a weight reads after another activation"""
    entry: tuple[Path, int | None]
    """equation and operand that hold its argument; no operand for what the equation makes"""
    path: Path
    """the equation that its value comes out of"""
    loops: tuple[Loop, ...]
    features: int | None
    size: int
    """entries that it is applied to"""


class Softmax(NamedTuple):
    """A softmax of products of two signals, as queries and keys are."""

    path: Path
    """the equation that exponentiates"""
    axes: tuple[int, ...]
    """summed over"""
    loops: tuple[Loop, ...]
    uses: frozenset[int]
    """of weights, that the products read last"""


class ResidualSum(NamedTuple):
    """A sum of a signal and of a branch that started from it."""

    path: Path
    loops: tuple[Loop, ...]
    branch: frozenset[int]
    """uses of parameters on the branch"""
    last: frozenset[int]
    """those of weights that no other use of a weight on the branch follows"""
    depth: int
    """weights in a row, at most"""
    shortcut: frozenset[int] = frozenset()
    """uses beside the branch, where the skip is a projection"""
