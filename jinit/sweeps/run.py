"""`sweep`: from a function and axes to a dataset, by way of a store if one is given."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import jax
import numpy as np
import xarray as xr

from jinit import checks
from jinit.sweeps.blocks import Runner, Settings, TooLarge, blocks_of
from jinit.sweeps.datasets import Damaged, assemble
from jinit.sweeps.extent import Block
from jinit.sweeps.fingerprint import differences, fingerprint, surroundings
from jinit.sweeps.grid import Sweep
from jinit.sweeps.progress import Reporter
from jinit.sweeps.store import MemoryStore, Store, StoreError
from jinit.sweeps.zarr_store import ZarrStore, check_place

_IN_FLIGHT = 32  # blocks handed to an executor and not yet computed
_UNWRITTEN = 2  # blocks that are computed and wait for the disk

Arrays = dict[str, np.ndarray]


def sweep(
    fn: Callable[..., Any] | Sweep,
    *,
    static: Mapping[str, Sequence[Any]] | None = None,
    traced: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 1,
    prepare: Callable[..., Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    store: str | os.PathLike[str] | None = None,
    block: int | None = None,
    shard: tuple[int, int] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Map a pure function over axes and seeds, on all devices, into a labelled dataset.

    Every combination of `static` values is compiled once for each function whose signature names
    them; `traced` values and seeds are arguments of that program. With a store, every finished
    block is kept, and the same call goes on where it was interrupted; the result is the same bit
    for bit. Rows do not depend on each other: a network that diverges is recorded as it is.

    Args:
        fn: `fn(key, **point) -> dict[str, array]`, or `fn(key, start, **point)` with `prepare`.
            Arguments without an axis need a default. Or a `Sweep`, which holds all that follows
            down to `dims`.
        static: axes that change shapes or the program, name -> hashable values.
        traced: axes that change numbers only, name -> numbers; they arrive as float32 or int32
            scalars (64 bits where jax is set so).
        seeds: a count, or different integers from 0; seed s stands for `jax.random.key(s)`. The
            same seeds serve every point of the grid (common random numbers).
        prepare: `prepare(key, **point) -> start`, compiled on its own: so five ways to initialise
            need not compile a training run five times.
        dims: names for dimensions of outputs, as in `{"log_grad": ("layer",)}`. A named one may
            vary over static axes; shorter ones are padded with NaN.
        store: a folder for the results, made if it is not there. It grows: with more seeds, or
            other values of traced axes, in any order, what it holds is not computed again. With
            fewer the answer is what it holds. Two processes may write to one store: both write the
            same.
        block: networks that are stored at once; None is what surely takes no more than a few
            seconds, from the sizes of what is computed.
        shard: (i, n): compute only every n-th block, from the i-th (from 0). All shards share one
            store, and the last to finish returns the whole dataset; the others' has NaN where
            blocks are missing. Under `jax.distributed` the default is this process's.
        executor: any `concurrent.futures.Executor` (a process pool, Dask's, submitit's, MPI's).
            Workers compute blocks and return arrays; only the caller writes.
        progress: whether to report networks done, their rate and the time left, on stderr.

    Returns:
        The dataset: a variable per output, with the axes and "seed" as dimensions and coordinates,
        then the output's own dimensions; its attributes say what was swept.

    Raises:
        ValueError, TypeError: axes, outputs or a store that do not fit; see `Sweep`. An error of
            `fn` itself is raised as it is, with the point as a note.
        RuntimeError: a device that is asked for and not there; networks that do not fit into its
            memory, one at a time.
    """
    beside = {"static": static, "traced": traced, "prepare": prepare, "dims": dims}
    given = [name for name, value in beside.items() if value is not None]
    if not isinstance(fn, Sweep):
        axes: Any = [{} if part is None else part for part in (static, traced, dims)]
        plan = Sweep(fn, axes[0], axes[1], seeds, prepare, axes[2])
    elif given or not (isinstance(seeds, int) and seeds == 1):
        raise TypeError(
            f"a Sweep holds its axes and seeds already, got {(given or ['seeds'])[0]}= beside it; "
            f"put it into the Sweep."
        )
    else:
        plan = fn
    progress, part = checks.flag("progress", progress), _shard(shard)
    if part != (0, 1) and store is None:
        raise ValueError(
            f"a shard writes to a store that all share, got shard={part} without one; give store=."
        )
    if store is not None:
        _check_place(store)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, such as a ProcessPoolExecutor or "
            f"Dask's, got {checks.shown(executor)}."
        )
    begun = store is not None and os.path.exists(store)
    block = _checked_block(block, None if begun else plan.rows)
    runner = Runner(plan)
    with closing(runner), Reporter(show=progress) as reporter:
        kept, first = _store(store, runner, block, part[0], executor, reporter)
        mine = kept.extent.numbers(plan.grid)[part[0] :: part[1]]
        done = kept.done()
        _fill(kept, runner, mine, mine[~done[mine]], executor, reporter, first)
    runs = kept.extent.runs_of(plan.grid)
    while True:
        done = kept.done()
        try:
            return assemble(kept, plan.grid, np.where(done[runs // kept.extent.block], runs, -1))
        except Damaged as error:
            again = np.intersect1d(error.blocks, mine)
            if not len(again):
                raise
            with closing(runner), Reporter(show=progress) as reporter:
                _fill(kept, runner, mine, again, executor, reporter, anew=True)


def load(store: str | os.PathLike[str], *, partial: bool = False, lazy: bool = False) -> xr.Dataset:
    """The dataset of a stored sweep, with all that it has grown to.

    Args:
        store: its folder.
        partial: give NaN for what is not finished, and for what nobody has asked for in a store
            that has grown along two axes in turn (integers become floats).
        lazy: open as dask arrays, which read blocks when they are computed, so that the dataset
            may be larger than memory. Damage is found then.

    Raises:
        ValueError: a folder that is no sweep; blocks that are damaged, or missing if not
            `partial`; `lazy` without dask; what does not fit into memory without `lazy`.
    """
    _check_place(store)
    partial, lazy = checks.flag("partial", partial), checks.flag("lazy", lazy)
    kept = ZarrStore(Path(store), write=False)
    done, grid = kept.done(), kept.extent.union()
    if not partial and not done.all():
        again = "the same sweep again"
        if not kept.extent.last_fills(done):
            again = "a sweep over all of its values and seeds"
        raise StoreError(
            f"{kept.name} holds {int(done.sum())} of {len(done)} blocks; run {again} to finish it, "
            f"or load(..., partial=True) for what is there."
        )
    runs = kept.extent.runs_of(grid)
    held = int((runs >= 0).sum())
    if not partial and held < runs.size:
        axes = " x ".join(f"{name} ({len(values)})" for name, values in grid.axes.items())
        raise StoreError(
            f"{kept.name} has grown to {held} of the {runs.size} networks of {axes}; sweep over "
            f"all of these to fill it, or load(..., partial=True), which has NaN for the others."
        )
    there = np.append(done, False)[runs // kept.extent.block]  # -1 // block is the last
    try:
        return assemble(kept, grid, np.where(there, runs, -1), lazy=lazy)
    except MemoryError:
        raise StoreError(
            f"{kept.name} does not fit into memory; load(..., lazy=True) reads blocks when they "
            f"are computed."
        ) from None


def _check_place(store: Any) -> None:
    if not isinstance(store, str | os.PathLike):
        raise TypeError(
            f"store must be the path of a folder, as in 'runs/mine.zarr', got "
            f"{checks.shown(store)}."
        )


class DryRun(NamedTuple):
    """What a sweep would cost."""

    networks: int
    blocks: int
    compiles: int
    """programs: one per function and combination of the static axes that it names"""
    bytes: int
    """on disk, before compression"""
    seconds: float
    """without compiling, at the pace of the costliest point: an upper estimate"""


def dry_run(plan: Sweep, *, block: int | None = None) -> DryRun:
    """Count networks, blocks, compilations and bytes, and time one group of the costliest point.

    The time is measured: the programs of that point are compiled and run, as `sweep` would.
    """
    if not isinstance(plan, Sweep):
        raise TypeError(
            f"plan must be a Sweep, as in jinit.dry_run(jinit.Sweep(fn, ...)), got "
            f"{checks.shown(plan)}."
        )
    block = _checked_block(block, plan.rows)
    with closing(Runner(plan)) as runner:
        settings = runner.choose(block, fitting=True)
        per_group = runner.seconds_per_group(settings.group)
    at_once = settings.group * len(runner.devices)
    row = sum(int(np.prod(o.shape, dtype=int)) * o.dtype.itemsize for o in runner.outputs)
    blocks = len(blocks_of(plan, settings.block))
    return DryRun(
        plan.runs, blocks, runner.programs, blocks * settings.block * row,
        per_group * plan.runs / at_once,
    )  # fmt: skip


def _store(
    place: str | os.PathLike[str] | None,
    runner: Runner,
    block: int | None,
    shard: int,
    executor: Executor | None,
    reporter: Reporter,
) -> tuple[Store, dict[int, Arrays]]:
    """Memory, or a store on disk: made if it is not there; compared, and grown, if it is.

    With the first block of what is made here, which is computed before: its group then fits.
    """
    first: dict[int, Arrays] = {}
    if place is None:
        settings, first = _begin(runner, block, shard, executor, reporter)
        made_for = runner.sweep.description | surroundings(runner) | settings._asdict()
        return MemoryStore(made_for, runner.outputs, blocks_of(runner.sweep, settings.block)), first
    path = Path(place)
    check_place(path)
    now = fingerprint(runner)
    if not path.exists():
        settings, first = _begin(runner, block, shard, executor, reporter)
        ZarrStore.create(path, now | settings._asdict(), runner.outputs, len(runner.sweep.points))
        now |= settings._asdict()
    kept = ZarrStore(path, write=True)
    if first and not _is_begun_alike(kept, runner.sweep, now):  # another process was faster
        first = {}
    now |= {"group": kept.made_for["group"], "block": block or kept.made_for["block"]}
    different = differences(kept.made_for, now)
    if different:
        raise StoreError(
            f"{kept.name} was made by another sweep: {'; '.join(different)}. Give another store, "
            f"or go on with the sweep that it was made for."
        )
    while not kept.extent.holds(runner.sweep.grid):
        kept.grow(runner.sweep.grid)
    return kept, first


def _is_begun_alike(kept: Store, plan: Sweep, made_for: Mapping[str, Any]) -> bool:
    """Whether a store's first blocks are those of a sweep, in the same groups."""
    return kept.extent.begins_with(plan.grid) and all(
        kept.made_for[name] == made_for[name] for name in ("group", "block")
    )


def _begin(
    runner: Runner, block: int | None, shard: int, executor: Executor | None, reporter: Reporter
) -> tuple[Settings, dict[int, Arrays]]:
    """Group and block of a sweep that is begun here, with the shard's first block.

    The group is halved until it fits into the memory that other programs leave. Workers of an
    executor compile, and have memory, of their own.
    """
    if executor is not None:
        return runner.choose(block), {}
    reporter.compiling(runner.programs, runner.side_by_side)
    settings = runner.choose(block, fitting=True)
    blocks = blocks_of(runner.sweep, settings.block)
    if shard >= len(blocks):
        return settings, {}
    runner.coming = range(blocks[shard].point, len(runner.sweep.points))
    while True:
        try:
            return settings, {shard: runner.run(blocks[shard], settings)}
        except TooLarge:
            if settings.group == 1:
                raise
            settings = settings._replace(group=settings.group // 2)


def _fill(
    kept: Store,
    runner: Runner,
    mine: np.ndarray,
    missing: np.ndarray,
    executor: Executor | None,
    reporter: Reporter,
    first: Mapping[int, Arrays] | None = None,
    *,
    anew: bool = False,
) -> None:
    """Compute what is missing of a shard and write it, `anew` also what is done.

    One thread writes, in order, while the next blocks are computed.
    """
    settings, blocks = Settings(kept.made_for["group"], kept.made_for["block"]), kept.extent
    total = int(blocks.sizes(mine)[1].sum())
    reporter.begin(total, total - int(blocks.sizes(missing)[1].sum()))
    runner.coming = blocks.points_of(missing)

    def waiting() -> Iterator[tuple[int, Block]]:
        for i in map(int, missing):
            if not anew and kept.is_done(i):  # by another process, in the meantime
                reporter.advance(blocks[i].rows)
            else:
                yield i, blocks[i]

    with ThreadPoolExecutor(1, "jinit-writer") as writer:
        unwritten: deque[tuple[int, Future[None]]] = deque()

        def until(most: int) -> None:
            """Hear of blocks that are written, and wait until no more than so many are not."""
            while unwritten and (len(unwritten) > most or unwritten[0][1].done()):
                rows, written = unwritten.popleft()
                written.result()
                reporter.advance(rows)

        for i, values in _results(runner, settings, waiting(), executor, first or {}):
            until(_UNWRITTEN - 1)
            unwritten.append((blocks[i].rows, writer.submit(kept.write, i, values)))
        until(0)


def _results(
    runner: Runner,
    settings: Settings,
    blocks: Iterator[tuple[int, Block]],
    executor: Executor | None,
    first: Mapping[int, Arrays],
) -> Iterator[tuple[int, Arrays]]:
    """(number, arrays) of blocks, as they are finished; `first` are those that are."""
    if executor is None:
        now = next(blocks, None)
        while now is not None:
            following = next(blocks, None)
            i, block = now
            if i in first:
                yield i, first[i]
            else:
                yield i, runner.run(block, settings, following[1] if following else None)
            now = following
        return
    name = uuid4().hex
    running: dict[Future[Arrays], int] = {}
    try:
        while True:
            while len(running) < _IN_FLIGHT and (following := next(blocks, None)) is not None:
                i, block = following
                running[executor.submit(_in_worker, name, runner.sweep, settings, block)] = i
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


_RUNNERS: dict[str, Runner] = {}  # one at most, in a worker's process


def _in_worker(name: str, plan: Sweep, settings: Settings, block: Block) -> Arrays:
    """A block in a worker's process, which keeps the sweep's programs from block to block."""
    runner = _RUNNERS.get(name)
    if runner is None:
        runner = Runner(plan)
        _RUNNERS.clear()
        _RUNNERS[name] = runner
    return runner.run(block, settings)


def _checked_block(block: Any, rows: int | None) -> int | None:
    """A block may be wider than a point's rows only in a store that is there."""
    if block is None:
        return None
    block = checks.count("block", block)
    if rows is not None and block > rows:
        raise ValueError(
            f"block must be at most the {rows} networks of one static point, got {block}; give a "
            f"smaller one, or None."
        )
    return block


def _shard(shard: Any) -> tuple[int, int]:
    if shard is None:
        count = jax.process_count()
        return (jax.process_index(), count) if count > 1 else (0, 1)
    fix = "shard must be (i, n), the i-th of n from 0"
    if not isinstance(shard, Sequence) or isinstance(shard, str) or len(shard) != 2:
        raise TypeError(f"{fix}, got {checks.shown(shard)}.")
    count = checks.count("n of shard=(i, n)", shard[1])
    index = checks.count("i of shard=(i, n)", shard[0], least=0)
    if index >= count:
        raise ValueError(f"{fix}, got {checks.shown(shard)}; i goes from 0 to {count - 1}.")
    return index, count
