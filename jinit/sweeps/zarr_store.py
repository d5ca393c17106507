"""Results on disk: one zarr chunk per block, and `done`, written strictly last.

A chunk that exists is not yet a block that is finished: only `done` says so. Chunks are written
beside their place and renamed, and carry a CRC-32C, so that whatever a killed process, a full disk
or a bad sector leaves behind is told from a result. Two writers on one store are safe: a block's
bytes depend on its configurations alone, so that both write the same.
"""

import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jinit.sweeps.compile import Output
from jinit.sweeps.store import StoreError

# 1: jinit 0.1, whose programs computed other numbers under the same names.
_FORMAT = 2
_DONE = "done"
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
            self.made_for: Mapping[str, Any] = meta["made_for"]
            self.outputs = tuple(
                Output(o["name"], np.dtype(o["dtype"]), tuple(o["shape"]), tuple(o["dims"]))
                for o in meta["outputs"]
            )
            # A block of NaN equals the fill value, and would else not be written; zarr does not
            # keep this with the array.
            self._arrays = {
                name: group[name].with_config({"write_empty_chunks": True})
                for name in (_DONE, *(o.name for o in self.outputs))
            }
        except StoreError:
            raise
        except PermissionError as error:
            raise StoreError(f"{self.name} cannot be read ({error.strerror}).") from None
        except Exception as error:
            raise StoreError(
                f"{self.name} is not a sweep that jinit has stored, or its description is "
                f"damaged ({type(error).__name__}); give another path, or remove it and start anew."
            ) from None

    @staticmethod
    def create(
        path: Path, made_for: Mapping[str, Any], outputs: tuple[Output, ...], blocks: int
    ) -> None:
        """Make an empty store under a temporary name and rename it; one that is there stays.

        Shards may do so at the same moment: the first to rename wins, and all open what it made.
        """
        zarr = _zarr()
        described = {
            "format": _FORMAT,
            "made_for": made_for,
            "outputs": [o._asdict() | {"dtype": o.dtype.str} for o in outputs],
        }
        staging = ""
        try:
            _remove_leftovers(path)
            staging = tempfile.mkdtemp(prefix=_staging(path), dir=path.parent)
            group = zarr.create_group(staging, zarr_format=3, overwrite=True)
            block = made_for["block"]
            for output in outputs:
                _create(
                    group, output.name, (blocks * block, *output.shape), (block, *output.shape),
                    output.dtype, ("run", *output.dims),
                )  # fmt: skip
            _create(group, _DONE, (blocks,), (1,), np.dtype(np.uint8), ("block",))
            group.attrs["jinit_sweep"] = json.dumps(described)
            os.chmod(staging, 0o755)
            os.rename(staging, path)
        except OSError as error:
            if not path.exists():
                _cannot_write(path, error)
        finally:
            if staging:
                shutil.rmtree(staging, ignore_errors=True)

    # --- blocks ---

    def is_done(self, block: int) -> bool:
        """Whether a block is finished, as far as `done` says."""
        try:
            return bool(self._arrays[_DONE][block])
        except Exception:  # a torn or damaged entry: compute the block again
            return False

    def done(self) -> np.ndarray:
        """Finished blocks, `[blocks]` bool."""
        return np.array([self.is_done(block) for block in range(self._arrays[_DONE].shape[0])])

    def _rows(self, block: int) -> slice:
        size = self.made_for["block"]
        return slice(block * size, (block + 1) * size)

    def write(self, block: int, values: Mapping[str, np.ndarray]) -> None:
        """All arrays of a block, then its `done`.

        Raises:
            StoreError: a disk that is full or read-only; blocks written before stay.
        """
        rows = self._rows(block)
        try:
            for name, array in values.items():
                self._arrays[name][rows] = array
            self._arrays[_DONE][block] = 1
        except OSError as error:
            _cannot_write(self.path, error)

    def read(self, block: int) -> dict[str, np.ndarray] | None:
        """All arrays of a finished block `[block, ...]`; None where they are damaged or missing."""
        rows = self._rows(block)
        try:
            found = {}
            for output in self.outputs:
                array = self._arrays[output.name]
                chunk = array.metadata.encode_chunk_key((block, *(0,) * len(output.shape)))
                if not (self.path / output.name / chunk).is_file():
                    return None  # zarr would answer with its fill value
                found[output.name] = np.asarray(array[rows])
            return found
        except OSError as error:
            raise StoreError(f"{self.name} cannot be read ({error.strerror}).") from None
        except Exception:  # a checksum or a codec's complaint
            return None


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


def _staging(path: Path) -> str:
    """How the names of folders begin in which the store is made."""
    return f".{path.name}.jinit-new-"


def _remove_leftovers(path: Path) -> None:
    """What processes left that were killed while they made the store.

    Making one takes milliseconds; an hour is time enough for the slowest disk.
    """
    for folder in path.parent.glob(f"{glob.escape(_staging(path))}*"):
        if time.time() - folder.stat().st_mtime > _ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)


def _create(
    group: Any, name: str, shape: Any, chunks: Any, dtype: np.dtype[Any], dims: Any
) -> None:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    group.create_array(
        name, shape=shape, chunks=tuple(max(1, size) for size in chunks), dtype=dtype,
        compressors=[ZstdCodec(level=1), Crc32cCodec()], dimension_names=dims,
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
