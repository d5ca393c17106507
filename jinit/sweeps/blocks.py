"""Run the blocks of a plan in this process, on all devices that it has.

A *block* is a fixed number of rows of one point, the last one of a point padded; it is the unit
that is stored, handed to workers and counted. Rows never communicate.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jinit.sweeps.compile import (
    Program,
    abstract_row,
    outputs_of,
    row_bytes,
    trace_point,
    usual_group,
)
from jinit.sweeps.extent import Block, Extent
from jinit.sweeps.grid import Sweep, traced_array

_SECONDS = 3.0  # a block of the default size takes about so long
_MOST_ROWS = 65_536  # per device call
_SHARE = 0.25  # of the device's memory, for what rows hold between two programs
_CPU_BYTES = 2 * 2**20  # the same on a CPU's core: XLA copies what a loop over groups reads
_FITS = 0.8  # of the device's memory


class Settings(NamedTuple):
    """What is fixed when a sweep is begun: both in rows."""

    group: int
    block: int


def blocks_of(sweep: Sweep, block: int) -> Extent:
    """Every block of a sweep that is begun, in the order of the rows."""
    wide = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    return Extent([sweep.grid], points=len(sweep.points), block=block, wide=wide)


class Runner:
    """Compiled programs of a plan, made when a block first needs them."""

    def __init__(self, sweep: Sweep) -> None:
        """Trace every point; nothing is compiled yet."""
        self.sweep = sweep
        self.devices = tuple(jax.local_devices())
        self.traced = [trace_point(sweep, point) for point in sweep.points]
        self.outputs = outputs_of(sweep, self.traced)
        self._row_bytes = max(row_bytes(each) for each in self.traced)
        self._programs: dict[Any, Program] = {}
        self._groups_at_once = math.inf

    # --- settings ---

    def choose(self, block: int | None) -> Settings:
        """Group and block for a sweep that is begun here."""
        cpu = self.devices[0].platform == "cpu"
        group = usual_group(self.sweep, self.traced, cpu=cpu, devices=len(self.devices))
        if block is not None:
            group = group_for(group, block)
        group = self._fitting(group)
        if block is not None:
            return Settings(group, block)
        seconds = self.seconds_per_group(group)
        rounds = max(1, min(round(_SECONDS / max(seconds, 1e-6)), self._capacity()))
        most = math.ceil(self.sweep.rows / group)
        return Settings(group, group * min(most, rounds * len(self.devices)))

    @property
    def costliest(self) -> int:
        """The point whose rows make the largest arrays."""
        return max(range(len(self.traced)), key=lambda i: self.traced[i].largest)

    def seconds_per_group(self, group: int) -> float:
        """Measured on the costliest point, with its programs compiled."""
        self.settings = Settings(group, group * len(self.devices))
        point = self.costliest
        first = blocks_of(self.sweep, min(self.sweep.rows, group * len(self.devices)))[0]
        self._rows(first._replace(point=point))
        start = time.perf_counter()
        self._rows(first._replace(point=point))
        return time.perf_counter() - start

    def _fitting(self, group: int) -> int:
        """The group, halved until the costliest point's programs fit in a device's memory.

        Bytes are a line in the group's width: two compilations tell it.
        """
        limit = (self.devices[0].memory_stats() or {}).get("bytes_limit")
        if limit is None or self.devices[0].platform == "cpu":
            return group
        one, two = (self._bytes(g) for g in (min(8, group), min(16, group)))
        per_row = (two - one) / max(1, min(16, group) - min(8, group))
        fixed = one - per_row * min(8, group)
        while group > 1 and fixed + per_row * group > _FITS * limit:
            group //= 2
        return group

    def _bytes(self, group: int) -> float:
        self.settings = Settings(group, group * len(self.devices))
        whats = self.sweep.functions
        return max(self.program(what, self.costliest, keep=False).bytes for what in whats)

    # --- blocks ---

    def run(self, block: Block, settings: Settings) -> dict[str, np.ndarray]:
        """Outputs of a block, `[settings.block, ...]`, padded as the dataset is."""
        self.settings = settings
        found = self._rows(block)
        result = {}
        for output in self.outputs:
            fill = np.nan if output.dtype.kind == "f" else 0
            whole = np.full((settings.block, *output.shape), fill, output.dtype)
            part = found[output.name]
            whole[(slice(block.rows), *map(slice, part.shape[1:]))] = part
            result[output.name] = whole
        return result

    def _rows(self, block: Block) -> dict[str, np.ndarray]:
        while True:
            try:
                return self._in_calls(block)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                self._fewer_groups(block.point, error)

    def _fewer_groups(self, point: int, error: Exception) -> None:
        """The same groups in more calls, so that the bits stay."""
        now = min(self._groups_at_once, self._capacity())
        if now <= 1:
            raise RuntimeError(
                f"a group of {self.settings.group} networks does not fit in the memory of "
                f"{self.devices[0]} at {self.sweep.points[point] or 'this point'}; give a smaller "
                f"block= to begin with."
            ) from error
        self._groups_at_once = now // 2
        self._programs.clear()

    def _in_calls(self, block: Block) -> dict[str, np.ndarray]:
        group, devices = self.settings.group, len(self.devices)
        capacity = self._capacity()
        per_call = capacity * devices * group
        parts: dict[str, list[np.ndarray]] = {output.name: [] for output in self.outputs}
        for first in range(0, block.rows, per_call):
            count = min(per_call, block.rows - first)
            counts, slots = places(count, group, capacity, devices)
            found = self._call(block, counts, first + np.minimum(slots, count - 1))
            held = np.flatnonzero(slots < count)
            kept = held[np.argsort(slots[held])]
            for name, values in found.items():
                parts[name].append(np.asarray(values)[kept])
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _call(self, block: Block, counts: np.ndarray, rows: np.ndarray) -> Mapping[str, Any]:
        seeds = block.seeds[rows].astype(np.uint32)
        out: Any = ()
        for what in self.sweep.functions:
            own = {
                name: block.traced[name][rows].astype(traced_array(self.sweep.traced[name]).dtype)
                for name in self.sweep.traced_of(what)
            }
            out = self.program(what, block.point)(counts, (seeds, out, own))
        return dict(out)

    @property
    def programs(self) -> int:
        """How many programs the whole sweep compiles."""
        points = range(len(self.traced))
        return len({self._known(what, p) for p in points for what in self.sweep.functions})

    def _known(self, what: str, point: int) -> Any:
        """What tells the programs of one sweep apart."""
        static = tuple(self.sweep.arguments_of(what, self.sweep.points[point]).items())
        return what, static, () if what == "prepare" else _signature(self.traced[point].start)

    def _capacity(self) -> int:
        """Groups that a device runs in one call, at every point: they may share programs."""
        group, devices = self.settings.group, len(self.devices)
        stats = self.devices[0].memory_stats() or {}
        limit = stats["bytes_limit"] * _SHARE if "bytes_limit" in stats else _CPU_BYTES
        by_memory = int(limit // (self._row_bytes * group))
        wanted = math.ceil(min(self.sweep.rows, _MOST_ROWS) / (group * devices))
        return int(max(1, min(wanted, by_memory, self._groups_at_once)))

    def program(self, what: str, point: int, *, keep: bool = True) -> Program:
        """The compiled "prepare" or "fn" of a point, under the present settings."""
        group, groups = self.settings.group, self._capacity()
        known = (self._known(what, point), group, groups)
        if known in self._programs:
            return self._programs[known]
        row = abstract_row(self.sweep, what, self.sweep.points[point], self.traced[point].start)
        program = Program(*row, group=group, groups=groups, devices=self.devices)
        if keep:
            self._programs[known] = program
        return program


def group_for(group: int, block: int) -> int:
    """The widest power of two up to `group` that divides a block."""
    while block % group:
        group //= 2
    return group


def _signature(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return (structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves))


def places(rows: int, group: int, capacity: int, devices: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups per device `[devices]`, and the row that each place of a call holds.

    Places are `[devices * capacity * group]`; those that no row needs hold a larger number.
    """
    groups = math.ceil(rows / group)
    share, more = divmod(groups, devices)
    counts = np.array([share + (d < more) for d in range(devices)], np.int32)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    within = np.arange(capacity)
    held = firsts[:, None] + within  # group number of each place
    idle = within[None, :] >= counts[:, None]
    held = np.where(idle, groups, held)  # beyond the last row
    slots = held[..., None] * group + np.arange(group)
    return counts, slots.reshape(-1)
