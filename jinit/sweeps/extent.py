"""Which runs a store holds: grids of traced values and seeds, each appended to those before it.

A store is begun with one grid. A grid that is appended adds, at every point, those of its rows that
no earlier one holds, in its own order and in blocks of its own: nothing that is there moves.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Values of the traced axes, and seeds, as JSON holds them."""

    traced: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows of a point; seeds are innermost."""
        return (*map(len, self.traced.values()), len(self.seeds))

    @property
    def axes(self) -> dict[str, Sequence[Any]]:
        """The traced axes and "seed"."""
        return {**self.traced, "seed": self.seeds}


class Block(NamedTuple):
    """Rows of one point that are stored together."""

    point: int
    first: int
    """its first row's place among those that its grid has added"""
    seeds: np.ndarray
    """`[rows]`"""
    traced: Mapping[str, np.ndarray]
    """`[rows]` each"""

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.seeds)


class Extent(Sequence[Block]):
    """The blocks of a store, in the order in which they were appended."""

    def __init__(
        self, grids: Sequence[Grid], *, points: int, block: int, wide: bool = True
    ) -> None:
        """Lay out.

        Args:
            grids: in the order of their appending.
            points: combinations of the static axes.
            block: rows of a block, the last of a grid at a point being padded.
            wide: whether traced values are told apart as float64; else as float32, as jax does.
        """
        self.grids, self.points, self.block, self.wide = tuple(grids), points, block, wide
        # Of each grid the flat places of its own rows; of the first, which may be huge, all.
        self._added: list[Sequence[int] | np.ndarray] = []
        for i, grid in enumerate(self.grids):
            if not i:
                self._added.append(range(math.prod(grid.shape)))
                continue
            held = np.zeros(math.prod(grid.shape), bool)
            for earlier in self.grids[:i]:
                held |= self._places(grid, earlier) >= 0
            self._added.append(np.flatnonzero(~held))
        self._per_point = [-(-len(added) // block) for added in self._added]
        self._firsts = np.concatenate([[0], np.cumsum(self._per_point, dtype=int) * points])
        self._values = [
            {name: np.asarray(values) for name, values in grid.axes.items()} for grid in self.grids
        ]

    def __len__(self) -> int:
        """Blocks in all."""
        return int(self._firsts[-1])

    def last_fills(self, done: np.ndarray) -> bool:
        """Whether the sweep of the last grid computes all blocks that are not done."""
        return bool(done[: int(self._firsts[-2])].all())

    def sizes(self, numbers: Any) -> tuple[np.ndarray, np.ndarray]:
        """Point and rows of each of these blocks."""
        i = np.searchsorted(self._firsts, numbers, side="right") - 1
        points, within = np.divmod(numbers - self._firsts[i], np.asarray(self._per_point)[i])
        added = np.asarray([len(each) for each in self._added])[i]
        return points, np.minimum(self.block, added - within * self.block)

    def __getitem__(self, number: Any) -> Any:
        """A block; it may hold rows that nobody asks for now."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        i = int(np.searchsorted(self._firsts, number, side="right")) - 1
        point, within = divmod(int(number - self._firsts[i]), self._per_point[i])
        first, grid = within * self.block, self.grids[i]
        own = np.asarray(self._added[i][first : first + self.block])
        at = np.unravel_index(own, grid.shape)
        rows = {
            name: values[place]
            for (name, values), place in zip(self._values[i].items(), at, strict=True)
        }
        return Block(point, first, rows.pop("seed"), rows)

    def begins_with(self, grid: Grid) -> bool:
        """Whether the first grid has its rows, in the same order."""
        return [*grid.axes.items()] == [*self.grids[0].axes.items()]

    def holds(self, grid: Grid) -> bool:
        """Whether every row of a grid is there."""
        return self.begins_with(grid) or bool((self.runs_of(grid) >= 0).all())

    def points_of(self, numbers: Sequence[int] | np.ndarray) -> list[int]:
        """The points of blocks, each once, in that order."""
        return list(dict.fromkeys(self.sizes(np.asarray(numbers, int))[0].tolist()))

    def numbers(self, grid: Grid) -> np.ndarray:
        """The blocks that hold rows of a grid, in ascending order."""
        if self.begins_with(grid):
            return np.arange(self._firsts[1])
        return np.unique(self.runs_of(grid) // self.block)

    def runs_of(self, grid: Grid) -> np.ndarray:
        """Where the rows of a grid lie along `run`, `[points, rows]`; -1 for those nobody added."""
        rows = math.prod(grid.shape)
        if self.begins_with(grid):
            starts = np.arange(self.points)[:, None] * (self._per_point[0] * self.block)
            return starts + np.arange(rows)
        runs = np.full((self.points, rows), -1)
        for i, earlier in enumerate(self.grids):
            number = np.full(math.prod(earlier.shape), -1)
            number[self._added[i]] = np.arange(len(self._added[i]))
            place = self._places(grid, earlier)
            place = np.where(place >= 0, number[place], -1)
            starts = self._firsts[i] + np.arange(self.points) * self._per_point[i]
            runs = np.where(place >= 0, starts[:, None] * self.block + place, runs)
        return runs

    def union(self) -> Grid:
        """All values of every axis.

        In the order of the last grid that has them all; where none does, in ascending order.
        """
        axes = {}
        for name in self.grids[-1].axes:
            lists = [grid.axes[name] for grid in reversed(self.grids)]
            known: dict[Any, Any] = {}
            for each in lists:
                known |= zip(self._keys(each).tolist(), each, strict=True)
            whole = (each for each in lists if len(set(self._keys(each))) == len(known))
            axes[name] = list(next(whole, [known[key] for key in sorted(known)]))
        seeds = axes.pop("seed")
        return Grid(axes, seeds)

    def _places(self, grid: Grid, other: Grid) -> np.ndarray:
        """For each row of a grid its flat place in another, -1 where it has none; `[rows]`."""
        strides = dict(zip(other.axes, np.cumprod([1, *other.shape[:0:-1]])[::-1], strict=True))
        flat, held = np.zeros((), int), np.ones((), bool)
        for name, values in grid.axes.items():
            keys, theirs = self._keys(values), self._keys(other.axes[name])
            order = np.argsort(theirs, kind="stable")
            near = order[np.minimum(np.searchsorted(theirs[order], keys), len(theirs) - 1)]
            flat = flat[..., None] + near * strides[name]
            held = held[..., None] & (theirs[near] == keys)
        return np.where(held, flat, -1).ravel()

    def _keys(self, values: Sequence[Any]) -> np.ndarray:
        array = np.asarray(values)
        if array.dtype.kind != "f":
            return array.astype(np.int64)
        return array.astype(np.float64 if self.wide else np.float32)
