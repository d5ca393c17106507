"""Results on disk: one zarr chunk per block, and `done`, written strictly last.

A chunk that exists is not yet a block that is finished: only `done` says so. Chunks are written
beside their place and renamed, and carry a CRC-32C, so that whatever a killed process, a full disk
or a bad sector leaves behind is told from a result. Two writers on one store are safe: a block's
bytes depend on its configurations alone, so that both write the same.

A store grows by a group `grown-1`, `grown-2`, ... that describes the grid which is appended. It is
made under another name and renamed, as the store itself is, which succeeds for one process only: a
kill leaves the old extent or the new one, and of two that grow at once the second goes on from the
first.
"""

import glob
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jinit.sweeps.chunks import LEVEL, Chunks
from jinit.sweeps.compile import Output
from jinit.sweeps.extent import Extent, Grid
from jinit.sweeps.store import StoreError

# 1: jinit 0.1, whose programs computed other numbers under the same names.
_FORMAT = 2
_DONE, _GROWN = "done", "grown-"
_ABANDONED = 3600  # seconds


class ZarrStore:
    """An open store in a folder; see `jinit.sweeps.store.Store`."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open what `create` made.

        Raises:
            StoreError: for anything else.
        """
        zarr = _zarr()
        self.path, self.name = path, _named(path)
        if not path.exists():
            raise StoreError(f"{self.name} does not exist; give the folder that a sweep has made.")
        try:
            mode: Any = "r+" if write else "r"
            group = zarr.open_group(path, mode=mode, zarr_format=3)
            meta = json.loads(str(group.attrs["jinit_sweep"]))
            if meta["format"] != _FORMAT:
                raise StoreError(
                    f"{self.name} has format {meta['format']}, which another version of jinit made "
                    f"(1 is jinit 0.1's, {_FORMAT} this one's); run the sweep again into a new "
                    f"path, or use that version."
                )
            self._begun: Mapping[str, Any] = meta["made_for"]
            self.outputs = tuple(
                Output(o["name"], np.dtype(o["dtype"]), tuple(o["shape"]), tuple(o["dims"]))
                for o in meta["outputs"]
            )
            block = self._begun["block"]
            chunks = {o.name: ((block, *o.shape), o.dtype) for o in self.outputs}
            chunks[_DONE] = ((1,), np.dtype(np.uint8))
            self._chunks = {name: Chunks(path / name, *of) for name, of in chunks.items()}
            self._finished = self._chunks[_DONE].encoded(np.ones(1))
            self._look(group)
        except StoreError:
            raise
        except PermissionError as error:
            raise StoreError(f"{self.name} cannot be read ({error.strerror}).") from None
        except Exception as error:
            raise StoreError(
                f"{self.name} is not a sweep that jinit has stored, or its description is "
                f"damaged ({type(error).__name__}); give another path, or remove it and start anew."
            ) from None
        if write:
            self._fit(group)

    @staticmethod
    def create(
        path: Path, made_for: Mapping[str, Any], outputs: tuple[Output, ...], points: int
    ) -> None:
        """Make an empty store under a temporary name and rename it; one that is there stays.

        Shards may do so at the same moment: the first to rename wins, and all open what it made.
        """
        described = {
            "format": _FORMAT,
            "made_for": made_for,
            "outputs": [o._asdict() | {"dtype": o.dtype.str} for o in outputs],
        }
        block = made_for["block"]
        blocks = len(Extent([_first_grid(made_for)], points=points, block=block))

        def fill(group: Any) -> None:
            for output in outputs:
                _create(
                    group, output.name, (blocks * block, *output.shape), (block, *output.shape),
                    output.dtype, ("run", *output.dims),
                )  # fmt: skip
            _create(group, _DONE, (blocks,), (1,), np.dtype(np.uint8), ("block",))
            group.attrs["jinit_sweep"] = json.dumps(described)

        _renamed(path, path, path.parent, fill)

    # --- growth ---

    def grow(self, grid: Grid) -> None:
        """See `Store`."""
        number = len(self.extent.grids)

        def fill(group: Any) -> None:
            group.attrs["jinit_grid"] = json.dumps(grid._asdict())

        # Made inside the store, which may be a link to another file system.
        _renamed(self.path, self.path / f"{_GROWN}{number}", self.path, fill)
        group = _zarr().open_group(self.path, mode="r+", zarr_format=3)
        self._look(group)
        if len(self.extent.grids) == number:
            raise StoreError(
                f"{self.name} cannot grow: '{_GROWN}{number}' in it is no folder; remove that."
            )
        self._fit(group)

    def _look(self, group: Any) -> None:
        """Read the extent."""
        grids = [_first_grid(self._begun)]
        while (self.path / f"{_GROWN}{len(grids)}").is_dir():
            described = json.loads(group[f"{_GROWN}{len(grids)}"].attrs["jinit_grid"])
            grids.append(Grid(described["traced"], described["seeds"]))
        points = math.prod(map(len, self._begun["static"].values()))
        wide = bool(self._begun["numerics"]["x64"])
        self.extent = Extent(grids, points=points, block=self._begun["block"], wide=wide)
        union = self.extent.union()
        self.made_for: Mapping[str, Any] = {**self._begun, **union._asdict()}

    def _fit(self, group: Any) -> None:
        """Let the arrays be as long as the extent, for those who read them with zarr."""
        try:
            for name in self._chunks:
                array, needed = group[name], len(self.extent) * self._chunks[name].shape[0]
                if array.shape[0] < needed:
                    array.resize((needed, *array.shape[1:]))
        except OSError as error:
            _cannot_write(self.path, error)

    # --- blocks ---

    def is_done(self, block: int) -> bool:
        """Whether a block is finished, as far as `done` says."""
        chunks = self._chunks[_DONE]
        data = chunks.bytes_of(block)
        if data is None or data == self._finished:
            return data is not None
        entry = chunks.decoded(data)  # None where it is damaged: compute the block again
        return entry is not None and bool(entry[0])

    def done(self) -> np.ndarray:
        """Finished blocks, `[blocks]` bool."""
        return np.array([self.is_done(block) for block in range(len(self.extent))])

    def write(self, block: int, values: Mapping[str, np.ndarray]) -> None:
        """All arrays of a block, then its `done`.

        Raises:
            StoreError: a disk that is full or read-only; blocks written before stay.
        """
        try:
            for name, array in values.items():
                self._chunks[name].write(block, array)
            self._chunks[_DONE].write(block, np.ones(1))
        except OSError as error:
            _cannot_write(self.path, error)

    def read(self, output: Output, blocks: Sequence[int]) -> tuple[np.ndarray, list[int]]:
        """See `Store`."""
        size, chunks, damaged = self.extent.block, self._chunks[output.name], []
        rows = np.empty((len(blocks) * size, *output.shape), output.dtype)
        try:
            for i, block in enumerate(blocks):
                found = chunks.read(block)
                if found is None:
                    damaged.append(block)
                else:
                    rows[i * size : (i + 1) * size] = found
        except OSError as error:
            raise StoreError(f"{self.name} cannot be read ({error.strerror}).") from None
        return rows, damaged


def check_place(path: Path) -> None:
    """A store's path lies in a folder that can be written.

    Raises:
        StoreError: with what to do.
    """
    _zarr()
    if path.exists():
        if not path.is_dir():
            raise StoreError(f"{_named(path)} is a file; give the name of a folder to be made.")
        return
    if not path.parent.is_dir():
        raise StoreError(
            f"{_named(path)} lies in the folder '{path.parent}', which does not exist; make it "
            f"first."
        )
    if not os.access(path.parent, os.W_OK):
        raise StoreError(f"{_named(path)} lies in a folder that cannot be written; give another.")


def _first_grid(made_for: Mapping[str, Any]) -> Grid:
    return Grid(made_for["traced"], made_for["seeds"])


def _renamed(path: Path, place: Path, folder: Path, fill: Callable[[Any], None]) -> None:
    """A group that lies as a whole at its place in a store's path, or not; who is first wins.

    It is made in `folder`, on the file system of its place.
    """
    staging = ""
    try:
        _remove_leftovers(path, folder)
        staging = tempfile.mkdtemp(prefix=_staging(path), dir=folder)
        fill(_zarr().create_group(staging, zarr_format=3, overwrite=True))
        os.chmod(staging, 0o755)
        os.rename(staging, place)
    except OSError as error:
        if not place.exists():
            _cannot_write(path, error)
    finally:
        if staging:
            shutil.rmtree(staging, ignore_errors=True)


def _staging(path: Path) -> str:
    """How the names of folders begin in which the store is made."""
    return f".{path.name}.jinit-new-"


def _remove_leftovers(path: Path, within: Path) -> None:
    """What processes left that were killed while they made the store.

    Making one takes milliseconds; an hour is time enough for the slowest disk.
    """
    for folder in within.glob(f"{glob.escape(_staging(path))}*"):
        if time.time() - folder.stat().st_mtime > _ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)


def _create(
    group: Any, name: str, shape: Any, chunks: Any, dtype: np.dtype[Any], dims: Any
) -> None:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    group.create_array(
        name, shape=shape, chunks=tuple(max(1, size) for size in chunks), dtype=dtype,
        compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()], dimension_names=dims,
        fill_value=np.nan if dtype.kind == "f" else 0,
    )  # fmt: skip


def _cannot_write(path: Path, error: OSError) -> NoReturn:
    raise StoreError(
        f"{_named(path)} cannot be written ({error.strerror or error}); what it holds is kept: "
        f"make room or give it write permission, and run the same sweep again to go on."
    ) from None


def _named(path: Path) -> str:
    return f"store '{path}'"


def _zarr() -> Any:
    try:
        import zarr
    except ImportError:
        raise StoreError(
            "a store needs zarr, which is not installed; install jinit[store], or leave store= out "
            "to keep the results in memory."
        ) from None
    return zarr
