"""Chunks of a zarr array as files, encoded as the arrays of a store are: zstd, then a CRC-32C.

zarr makes the arrays and reads them too; a chunk at a time it takes ten times as long as the disk.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

LEVEL = 1
_CHECKSUM = 4  # bytes


class Chunks:
    """The chunks of one array, which is split along its first axis alone."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """An array's folder, and the shape and dtype of a chunk."""
        self.shape = shape
        self.dtype = dtype.newbyteorder("<")
        self._size = self.dtype.itemsize * int(np.prod(shape, dtype=int))
        self._begin, self._end = str(folder / "c"), "/0" * (len(shape) - 1)
        self._zstd: Any = None

    def write(self, number: int, values: np.ndarray) -> None:
        """A chunk, beside its place and renamed: it is there as a whole, or not."""
        if not self._size:
            return
        path = f"{self._begin}/{number}{self._end}"
        data = self.encoded(values)
        staging = f"{path}.{uuid4().hex}.partial"
        try:
            try:
                file = open(staging, "xb")  # noqa: SIM115
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                file = open(staging, "xb")  # noqa: SIM115
            with file:
                file.write(data)
            os.replace(staging, path)
        except BaseException:
            Path(staging).unlink(missing_ok=True)
            raise

    def read(self, number: int) -> np.ndarray | None:
        """A chunk; None where it is missing, torn or otherwise damaged."""
        if not self._size:
            return np.zeros(self.shape, self.dtype)
        data = self.bytes_of(number)
        return None if data is None else self.decoded(data)

    def bytes_of(self, number: int) -> bytes | None:
        """A chunk as it lies on disk; None where there is none."""
        try:
            with open(f"{self._begin}/{number}{self._end}", "rb", buffering=0) as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def encoded(self, values: np.ndarray) -> bytes:
        """What a file holds."""
        codec, checksum = self._codecs()
        plain = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8)
        data = bytes(codec.encode(plain))
        return data + checksum(data).to_bytes(_CHECKSUM, "little")

    def decoded(self, data: bytes) -> np.ndarray | None:
        """The array of a file's bytes; None if they are damaged."""
        codec, checksum = self._codecs()
        body, end = data[:-_CHECKSUM], data[-_CHECKSUM:]
        if len(end) < _CHECKSUM or checksum(body) != int.from_bytes(end, "little"):
            return None
        try:
            plain = bytes(codec.decode(body))
        except (RuntimeError, ValueError):
            return None
        if len(plain) != self._size:
            return None
        return np.frombuffer(plain, self.dtype).reshape(self.shape)

    def _codecs(self) -> tuple[Any, Callable[[bytes], int]]:
        import google_crc32c
        from numcodecs.zstd import Zstd

        if self._zstd is None:
            self._zstd = Zstd(level=LEVEL)
        return self._zstd, google_crc32c.value
