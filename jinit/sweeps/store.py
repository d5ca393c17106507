"""Where the blocks of a sweep are kept. One class makes a store; memory is the simplest."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jinit.sweeps.compile import Output
from jinit.sweeps.extent import Extent, Grid


class StoreError(ValueError):
    """A store that cannot be used as it is; the message says why and what to do."""


@runtime_checkable
class Store(Protocol):
    """What a sweep asks of the place that keeps its blocks: each is there as a whole, or not."""

    name: str
    """in sentences"""
    made_for: Mapping[str, Any]
    """`Sweep.description` with "group" and "block", and what else tells its results apart"""
    outputs: tuple[Output, ...]
    extent: Extent
    """the blocks that there are or will be"""

    def grow(self, grid: Grid) -> None:
        """Append a grid, or whatever another process appends at this moment, as a whole."""

    def done(self) -> np.ndarray:
        """Finished blocks, `[blocks]` bool."""

    def is_done(self, block: int) -> bool:
        """Whether a block is finished by now: other processes may write to the same store."""

    def read(self, output: Output, blocks: Sequence[int]) -> tuple[np.ndarray, list[int]]:
        """Rows of finished blocks `[blocks * block, ...]`, and which blocks are damaged."""

    def write(self, block: int, values: Mapping[str, np.ndarray]) -> None:
        """All arrays of a block, which is finished then."""


class MemoryStore:
    """Blocks that live as long as the call."""

    name = "memory"

    def __init__(
        self, made_for: Mapping[str, Any], outputs: tuple[Output, ...], extent: Extent
    ) -> None:
        """Begin with no block."""
        self.made_for, self.outputs, self.extent = made_for, outputs, extent
        self._blocks: dict[int, Mapping[str, np.ndarray]] = {}

    def grow(self, grid: Grid) -> None:
        """See `Store`."""
        old = self.extent
        self.extent = Extent((*old.grids, grid), points=old.points, block=old.block, wide=old.wide)

    def done(self) -> np.ndarray:
        """See `Store`."""
        return np.array([self.is_done(i) for i in range(len(self.extent))])

    def is_done(self, block: int) -> bool:
        """See `Store`."""
        return block in self._blocks

    def read(self, output: Output, blocks: Sequence[int]) -> tuple[np.ndarray, list[int]]:
        """See `Store`."""
        none = np.zeros((0, *output.shape), output.dtype)
        return np.concatenate([none, *(self._blocks[i][output.name] for i in blocks)]), []

    def write(self, block: int, values: Mapping[str, np.ndarray]) -> None:
        """See `Store`."""
        self._blocks[block] = values
