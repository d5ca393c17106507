"""Where the blocks of a sweep are kept. One class makes a store; memory is the simplest."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jinit.sweeps.compile import Output


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

    def done(self) -> np.ndarray:
        """Finished blocks, `[blocks]` bool."""

    def is_done(self, block: int) -> bool:
        """Whether a block is finished by now: other processes may write to the same store."""

    def read(self, block: int) -> Mapping[str, np.ndarray] | None:
        """All arrays of a finished block `[block, ...]`; None where they are damaged or missing."""

    def write(self, block: int, values: Mapping[str, np.ndarray]) -> None:
        """All arrays of a block, which is finished then."""


class MemoryStore:
    """Blocks that live as long as the call."""

    name = "memory"

    def __init__(
        self, made_for: Mapping[str, Any], outputs: tuple[Output, ...], blocks: int
    ) -> None:
        """Begin with no block."""
        self.made_for, self.outputs = made_for, outputs
        self._blocks: list[Mapping[str, np.ndarray] | None] = [None] * blocks

    def done(self) -> np.ndarray:
        """See `Store`."""
        return np.array([each is not None for each in self._blocks])

    def is_done(self, block: int) -> bool:
        """See `Store`."""
        return self._blocks[block] is not None

    def read(self, block: int) -> Mapping[str, np.ndarray] | None:
        """See `Store`."""
        return self._blocks[block]

    def write(self, block: int, values: Mapping[str, np.ndarray]) -> None:
        """See `Store`."""
        self._blocks[block] = values
