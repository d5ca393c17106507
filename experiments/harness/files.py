"""Where results go: a folder that is complete or untouched, a dataset as NetCDF and as CSV."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from harness.checks import Check


def unusable(out: Path, overwrite: bool) -> str | None:
    """One sentence on why results cannot go to `out`, or None."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        held = sorted(os.listdir(out))
    except OSError as error:
        return (
            f"--out must be a directory that can be written, got '{out}' "
            f"({error.strerror or error}); choose another with --out DIR."
        )
    if held and not overwrite:
        files = "1 file" if len(held) == 1 else f"{len(held)} files"
        return (
            f"--out must be a new or empty directory, got '{out}', which holds {files} "
            f"({held[0]}{' ...' if len(held) > 1 else ''}); choose another with --out DIR, "
            f"or add --overwrite."
        )
    return None


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder whose files move to `out` once all are written, and not at all after an error."""
    stage = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=out))
    try:
        yield stage
        for path in sorted(stage.iterdir()):
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(stage)


def write_data(folder: Path, data: xr.Dataset) -> None:
    """The dataset as data.nc, and a CSV for every set of dimensions, named after them."""
    data.to_netcdf(folder / "data.nc", engine="scipy")
    tables: dict[tuple[Any, ...], list[Any]] = {}
    for name, variable in data.data_vars.items():
        tables.setdefault(variable.dims, []).append(name)
    for dims, names in tables.items():
        table = data[names].to_dataframe(dim_order=list(dims)).dropna(how="all", subset=names)
        path = folder / f"{'_'.join(map(str, dims))}.csv"
        table.to_csv(path, float_format="%.9g", lineterminator="\n")


def write_checks(path: Path, checks: Sequence[Check]) -> None:
    """The printed table as CSV."""
    table = pd.DataFrame(checks).assign(ok=["yes" if check.ok else "no" for check in checks])
    table.to_csv(path, index=False, float_format="%.9g", lineterminator="\n")
