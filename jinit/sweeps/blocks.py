"""Run the blocks of a plan in this process, on all devices that it has.

A *block* is a fixed number of rows of one point, the last one of a point padded; it is the unit
that is stored, handed to workers and counted. Rows never communicate.
"""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import numpy as np

from jinit import runtime
from jinit.sweeps.compile import (
    Program,
    Rows,
    abstract_row,
    identity,
    outputs_of,
    row_bytes,
    trace_point,
    usual_group,
)
from jinit.sweeps.extent import Block, Extent
from jinit.sweeps.grid import Sweep, traced_array

_SECONDS = 3.0  # a block of the default size takes at most about so long
# `Sizes.work` per second and device: on CPU 1.2 to 2.5e10 for every row of benchmarks/README.md on
# one core of 2025, on an H100 1.2e12 to 1.2e13. These are for slower ones.
_PACE, _PACE_ELSEWHERE = {"cpu": 1e10}, 5e11
_MOST_ROWS = 65_536  # per device call
_BLOCK_BYTES = 2**26
_SHARE = 0.125  # of the device's memory, for what rows hold between two programs of a call
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


class TooLarge(RuntimeError):
    """One group that does not fit into a device's memory."""


class _Call(NamedTuple):
    """A device call that is begun, and whose results nobody has read."""

    settings: Settings
    block: Block
    first: int
    end: int
    kept: np.ndarray
    """of its places, those of rows `first` to `end`, in order"""
    found: Mapping[str, Any]
    early: bool = False
    """whether it was begun beside the one before it"""


class Runner:
    """Compiled programs of a plan, made when a block first needs them."""

    def __init__(self, sweep: Sweep) -> None:
        """Trace every point; nothing is compiled yet.

        Raises:
            RuntimeError: a device that is asked for and not there.
        """
        self.sweep = sweep
        runtime.check_device()
        self.devices = tuple(jax.local_devices())
        self.platform = self.devices[0].platform
        self.rows: Rows = {}
        self.traced = [
            trace_point(sweep, point, self.rows, self.platform) for point in sweep.points
        ]
        self.outputs = outputs_of(sweep, self.traced)
        self.coming: Sequence[int] = ()
        """points in the order of their blocks: while one is computed, the next are compiled"""
        self._known = {
            (what, i): identity(sweep, what, point, self.traced[i].start)
            for i, point in enumerate(sweep.points)
            for what in sweep.functions
        }
        self._limit = runtime.memory_limit(self.devices[0])
        self._row_bytes = max(row_bytes(each) for each in self.traced)
        self._programs: dict[Any, Future[Program]] = {}
        self.side_by_side = max(1, runtime.cores() // 2)
        """programs that are compiled at the same time"""
        self._compilers: ThreadPoolExecutor | None = None
        self.settings = Settings(1, 1)
        self._groups_at_once = math.inf
        self._ahead: _Call | None = None
        self._alone = False

    def close(self) -> None:
        """Compile nothing that is not begun."""
        if self._compilers is not None:
            self._compilers.shutdown(wait=False, cancel_futures=True)
            self._compilers = None
            self._programs = {k: p for k, p in self._programs.items() if not p.cancelled()}

    # --- settings ---

    def choose(self, block: int | None, *, fitting: bool = False) -> Settings:
        """Group and block for a sweep that is begun here, from sizes; nothing runs.

        With `fitting` also from the memory that the compiled programs need.
        """
        sizes = self.traced[self.costliest].sizes
        devices = len(self.devices)
        group = usual_group(self.platform, sizes, rows=self.sweep.rows, devices=devices)
        if block is not None:
            group = group_for(group, block)
        if fitting:
            group = self._fitting(group)
        if block is not None:
            return Settings(group, block)
        work = 1.0 + max(each.sizes.work for each in self.traced)
        seconds = group * work / _PACE.get(self.platform, _PACE_ELSEWHERE)
        row = sum(math.prod(output.shape) * output.dtype.itemsize for output in self.outputs)
        held = max(1, row * group * devices)
        rounds = max(1, min(_SECONDS // seconds, _BLOCK_BYTES // held))
        most = math.ceil(self.sweep.rows / group)
        return Settings(group, group * min(most, int(rounds) * devices))

    @property
    def costliest(self) -> int:
        """The point whose rows make the largest arrays."""
        return max(range(len(self.traced)), key=lambda i: self.traced[i].sizes.largest)

    def seconds_per_group(self, group: int) -> float:
        """Measured on the costliest point, with its programs compiled."""
        settings = Settings(group, min(self.sweep.rows, group * len(self.devices)))
        first = blocks_of(self.sweep, settings.block)[0]._replace(point=self.costliest)
        self.run(first, settings)
        start = time.perf_counter()
        self.run(first, settings)
        return time.perf_counter() - start

    def _fitting(self, group: int) -> int:
        """The group, or a smaller one with which the costliest point fits into a device's memory.

        What the compiled programs say; where they fit, they are those that run.
        """
        while self._limit is not None:
            self.settings = Settings(group, group)
            share = self._bytes(self.costliest) / self._limit
            if share <= _FITS or (group == 1 and share <= 1):
                break
            if group == 1:
                raise self._too_large(self.costliest)
            self._programs.clear()
            shrunk = math.ceil(math.log2(share / _FITS)) if math.isfinite(share) else 1
            group = max(1, group >> max(1, shrunk))
        return group

    def _bytes(self, point: int) -> float:
        """Of a call on one device; infinite where the compiler itself runs out of memory."""
        try:
            return float(max(self.program(what, point).bytes for what in self.sweep.functions))
        except jax.errors.JaxRuntimeError as error:
            if not _is_full(error):
                raise
            return math.inf

    # --- blocks ---

    def run(
        self, block: Block, settings: Settings, following: Block | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs of a block, `[settings.block, ...]`, padded as the dataset is.

        The first call of the block that follows is begun before the last one's results are read.

        Raises:
            TooLarge: a group does not fit into a device's memory, alone in a call.
        """
        if settings.group != self.settings.group:
            self._groups_at_once = math.inf
        self.settings = settings
        self._compile_near(block.point)
        whole = {
            o.name: np.full(
                (settings.block, *o.shape), np.nan if o.dtype.kind == "f" else 0, o.dtype
            )
            for o in self.outputs
        }
        first = 0
        while first < block.rows:
            now = None
            try:
                now = self._begun(block, first)
                within = now.end < block.rows
                self._go_ahead(now, *((block, now.end) if within else (following, 0)))
                for name, values in now.found.items():
                    part = np.asarray(values)[now.kept]
                    whole[name][(slice(first, now.end), *map(slice, part.shape[1:]))] = part
                first = now.end
            except jax.errors.JaxRuntimeError as error:
                self._ahead = None
                if now is not None and now.early:  # without another beside it, it may do
                    self._alone = True
                elif _is_full(error):
                    self._fewer_groups(block.point, error)
                else:
                    raise
        return whole

    def _begun(self, block: Block, first: int) -> _Call:
        """The call of these rows, which may have been begun already."""
        call, self._ahead = self._ahead, None
        if call is None or call.block is not block:
            return self._begin(block, first)
        fits = (call.settings, call.first) == (self.settings, first)
        return call if fits else self._begin(block, first)

    def _go_ahead(self, now: _Call, block: Block | None, first: int) -> None:
        """Begin the next call, so that the device is at work while results are read and written.

        On CPU when this one is finished: two calls at once would share the cores and caches, and
        may hang (docs/troubles.md). Not if there is no program yet, for which results would wait.
        """
        if block is None or self._alone or not self._is_compiled(block.point):
            return
        if self.platform == "cpu":
            jax.block_until_ready(now.found)
        # What fails here fails again in its own turn, or does not when it is alone.
        with suppress(jax.errors.JaxRuntimeError):
            self._ahead = self._begin(block, first)._replace(early=True)

    def _begin(self, block: Block, first: int) -> _Call:
        group, devices, capacity = self.settings.group, len(self.devices), self._capacity()
        count = min(capacity * devices * group, block.rows - first)
        counts, slots = places(count, group, capacity, devices)
        found = self._call(block, counts, first + np.minimum(slots, count - 1))
        held = np.flatnonzero(slots < count)
        kept = held[np.argsort(slots[held])]
        return _Call(self.settings, block, first, first + count, kept, found)

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

    def _fewer_groups(self, point: int, error: Exception) -> None:
        """The same groups in more calls, so that the bits stay."""
        now = min(self._groups_at_once, self._capacity())
        if now <= 1:
            raise self._too_large(point) from error
        # Arguments are small beside what a group makes: it is soon one group that does not fit.
        self._groups_at_once = max(1, now // 16)
        self._programs.clear()

    def _too_large(self, point: int) -> TooLarge:
        group, device = self.settings.group, self.devices[0]
        at = f" at {self.sweep.points[point]}" if self.sweep.points[point] else ""
        keys = [self._key(what, point) for what in self.sweep.functions]
        done = [self._programs[key] for key in keys if self._is_done(key)]
        needed = max((each.result().bytes for each in done if not each.exception()), default=0)
        has = ""
        if self._limit is not None:
            has = f", which has {_in_words(self._limit)} for this process at most"
        return TooLarge(
            f"a group of {group} network{'s' if group > 1 else ''}{at} does not fit into the "
            f"memory of {device}{has}"
            + (f": it needs {_in_words(needed)}" if needed else "")
            + ("; give a smaller block= to begin with" if group > 1 else "; make it smaller")
            + ", or free what other programs hold."
        )

    def _capacity(self) -> int:
        """Groups that a device runs in one call, at every point: they may share programs."""
        group, devices = self.settings.group, len(self.devices)
        share = _CPU_BYTES if self._limit is None else self._limit * _SHARE
        by_memory = int(share // (self._row_bytes * group))
        wanted = math.ceil(min(self.sweep.rows, _MOST_ROWS) / (group * devices))
        return int(max(1, min(wanted, by_memory, self._groups_at_once)))

    # --- programs ---

    @property
    def programs(self) -> int:
        """How many programs the whole sweep compiles."""
        return len(self.rows)

    def program(self, what: str, point: int) -> Program:
        """The compiled "prepare" or "fn" of a point, under the present settings."""
        key = self._key(what, point)
        if key not in self._programs:
            self._begin_compiling(what, point)
        return self._programs[key].result()

    def _compile_near(self, point: int) -> None:
        """Begin with what a point needs, and with as many after it as are compiled side by side."""
        if self.side_by_side < 2 or point not in self.coming:
            return
        place = self.coming.index(point)
        for each in self.coming[place : place + self.side_by_side]:
            for what in self.sweep.functions:
                self._begin_compiling(what, each)

    def _key(self, what: str, point: int) -> Any:
        return self._known[what, point], self.settings.group, self._capacity()

    def _is_compiled(self, point: int) -> bool:
        keys = [self._key(what, point) for what in self.sweep.functions]
        return all(self._is_done(key) and not self._programs[key].exception() for key in keys)

    def _is_done(self, key: Any) -> bool:
        return key in self._programs and self._programs[key].done()

    def _begin_compiling(self, what: str, point: int) -> None:
        """In another thread where more than one is to be compiled and there are cores for it."""
        key = self._key(what, point)
        if key in self._programs:
            return
        known, group, groups = key
        row = abstract_row(self.sweep, what, self.sweep.points[point], self.traced[point].start)
        program = Program(
            row[0], self.rows[known], row[1], group=group, groups=groups, devices=self.devices
        )
        if self.side_by_side > 1 and self.programs > 1:
            if self._compilers is None:
                self._compilers = ThreadPoolExecutor(self.side_by_side, "jinit-compiler")
            self._programs[key] = self._compilers.submit(program.compile)
            return
        future: Future[Program] = Future()
        future.set_result(program.compile())
        self._programs[key] = future


def _is_full(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error)


def _in_words(size: int) -> str:
    for unit, least in (("GB", 1e9), ("MB", 1e6)):
        if size >= least:
            return f"{size / least:.3g} {unit}"
    return f"{size:.0f} bytes"


def group_for(group: int, block: int) -> int:
    """The widest power of two up to `group` that divides a block."""
    while block % group:
        group //= 2
    return group


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
