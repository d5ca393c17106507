"""From rows of blocks to an xarray Dataset with named dimensions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from jinit.sweeps.compile import Output


def assemble(
    description: Mapping[str, Any],
    outputs: Sequence[Output],
    blocks: Sequence[Mapping[str, np.ndarray] | None],
    block: int,
) -> xr.Dataset:
    """The dataset of a sweep.

    Args:
        description: `Sweep.description`.
        outputs: what every row holds.
        blocks: arrays `[block, ...]` in order; None stands for one that is not there yet, whose
            numbers are then NaN (integers become floats).
        block: rows of a block.
    """
    static, traced, seeds = (description[part] for part in ("static", "traced", "seeds"))
    outer = tuple(len(values) for values in static.values())
    inner = (*(len(values) for values in traced.values()), len(seeds))
    points, rows = math.prod(outer), math.prod(inner)
    per_point = -(-rows // block)
    assert len(blocks) == points * per_point
    whole = all(each is not None for each in blocks)
    names = (*static, *traced, "seed")
    variables = {}
    for output in outputs:
        dtype = output.dtype
        if not whole and dtype.kind != "f":
            dtype = np.dtype(np.float64)
        data = np.full((points, rows, *output.shape), np.nan if dtype.kind == "f" else 0, dtype)
        for i, each in enumerate(blocks):
            if each is not None:
                point, first = i // per_point, (i % per_point) * block
                count = min(block, rows - first)
                data[point, first : first + count] = each[output.name][:count]
        shape = (*outer, *inner, *output.shape)
        variables[output.name] = ((*names, *output.dims), data.reshape(shape))
    coords = {name: _coordinate(values) for name, values in (*static.items(), *traced.items())}
    return xr.Dataset(variables, {**coords, "seed": np.asarray(seeds)})


def _coordinate(values: list[Any]) -> np.ndarray:
    if len({type(v) for v in values}) == 1:
        return np.asarray(values)
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.asarray(values, float)
    mixed = np.empty(len(values), object)
    mixed[:] = values
    return mixed
