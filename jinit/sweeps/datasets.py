"""From rows along `run` to an xarray Dataset with named dimensions, in memory or as dask arrays."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from jinit.sweeps.compile import Output
from jinit.sweeps.extent import Grid
from jinit.sweeps.store import Store, StoreError


def assemble(kept: Store, grid: Grid, runs: np.ndarray, *, lazy: bool = False) -> xr.Dataset:
    """The dataset of a sweep.

    Args:
        kept: where its blocks are.
        grid: traced values and seeds in the order of the dataset.
        runs: where its rows lie, `[points, rows]`; -1 for what is not there yet, whose numbers are
            then NaN (integers become floats).
        lazy: dask arrays that read blocks when they are computed.

    Raises:
        StoreError: damaged blocks, if not `lazy`.
    """
    static = kept.made_for["static"]
    shape = (*map(len, static.values()), *grid.shape)
    names = (*static, *grid.axes)
    whole = bool((runs >= 0).all())
    variables = {}
    for output in kept.outputs:
        dtype = output.dtype if whole or output.dtype.kind == "f" else np.dtype(np.float64)
        found: Any = Rows(kept, output, runs.reshape(shape), dtype)
        found = _as_dask(found, kept.made_for["block"]) if lazy else found[()]
        variables[output.name] = ((*names, *output.dims), found)
    coords = {name: _coordinate(list(values)) for name, values in (static | grid.axes).items()}
    return xr.Dataset(variables, coords, attributes(kept.made_for, grid))


def attributes(made_for: Mapping[str, Any], grid: Grid) -> dict[str, str | int]:
    """What was swept, as files can hold it; nothing that differs between equal runs."""
    numerics = made_for.get("numerics", {})
    found = {
        "function": made_for.get("function", ""),
        "prepare": made_for.get("prepare", ""),
        "static_axes": ", ".join(made_for["static"]),
        "traced_axes": ", ".join(grid.traced),
        "group": made_for["group"],
        "platform": made_for.get("platform", ""),
        "jax": made_for.get("jax", ""),
        "matmul_precision": numerics.get("matmul_precision", ""),
    }
    return {name: value for name, value in found.items() if value != ""}


class Rows:
    """An output over the grid, read when it is indexed, by slices."""

    def __init__(self, kept: Store, output: Output, runs: np.ndarray, dtype: np.dtype[Any]) -> None:
        """`runs` has the shape of the grid; see `assemble`."""
        self._kept, self._output, self._runs, self.dtype = kept, output, runs, dtype
        self.shape = (*runs.shape, *output.shape)
        self.ndim = len(self.shape)

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        """Raises: StoreError: damaged blocks."""
        axes = self._runs.ndim
        runs, block = self._runs[key[:axes]], self._kept.made_for["block"]
        there = runs >= 0
        needed, inverse = np.unique(runs[there] // block, return_inverse=True)
        flat, damaged = self._kept.read(self._output, needed.tolist())
        if damaged:
            raise Damaged(self._kept, damaged)
        at = inverse * block + runs[there] % block
        if there.all():
            within = np.array_equal(at, np.arange(len(flat)))
            values = (flat if within else flat[at]).reshape(*runs.shape, *self._output.shape)
        else:
            shape = (*runs.shape, *self._output.shape)
            values = np.full(shape, np.nan, self.dtype)
            values[there] = flat[at]
        return values[(..., *key[axes:])].astype(self.dtype, copy=False)


class Damaged(StoreError):
    """Blocks that are finished and cannot be read."""

    def __init__(self, kept: Store, blocks: Sequence[int]) -> None:
        """Which."""
        self.blocks = tuple(blocks)
        super().__init__(
            f"{kept.name} is damaged in {len(blocks)} of {len(kept.extent)} blocks (the first is "
            f"{blocks[0]}); run the same sweep again, and they are computed anew."
        )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Workers of Dask send it as the sentence that it is."""
        return StoreError, self.args


def _as_dask(rows: Rows, block: int) -> Any:
    """Chunks of about a block: whole inner axes as far as they fit in it."""
    try:
        import dask.array as da
    except ImportError:
        raise StoreError(
            "lazy=True needs dask, which is not installed; install jinit[dask], or leave lazy= out "
            "to read everything into memory."
        ) from None
    axes = rows.ndim - len(rows._output.shape)
    chunks, room = list(rows.shape), block
    for i in reversed(range(axes)):
        chunks[i] = max(1, min(rows.shape[i], room))
        room //= chunks[i]
    if math.prod(rows.shape) == 0:
        return da.zeros(rows.shape, dtype=rows.dtype)
    return da.from_array(rows, chunks=tuple(chunks), name=False, meta=np.zeros(0, rows.dtype))


def _coordinate(values: list[Any]) -> np.ndarray:
    if len({type(v) for v in values}) == 1:
        return np.asarray(values)
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.asarray(values, float)
    mixed = np.empty(len(values), object)
    mixed[:] = values
    return mixed
