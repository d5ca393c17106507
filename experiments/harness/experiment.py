"""From a script's four functions to printed tables, files and an exit status."""

import argparse
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

import jinit
from harness.checks import Check, console, verdict
from harness.figures import look

CSV: dict[str, Any] = {"float_format": "%.9g", "lineterminator": "\n"}
sys.path.append(str(Path(__file__).resolve().parents[2]))  # for the models in tests/zoo


@dataclass(frozen=True)
class Experiment:
    """One published result: what is measured, what is expected of it, and a picture.

    All but `measure` are pure functions of its dataset, whose attribute `setting` says "full" or
    "quick": so a test plants an error in a dataset and sees the checks miss.
    """

    file: str
    """the script's `__file__`, after which it is named"""
    doc: str | None
    measure: Callable[..., xr.Dataset]
    """its arguments are a setting, their defaults the full one"""
    checks: Callable[[xr.Dataset], list[Check]]
    figure: Callable[[xr.Dataset], Figure]
    quick: Mapping[str, Any]
    """what else the small setting is, which tests run"""
    lacks: str
    """what the small setting leaves out"""
    notes: Callable[[xr.Dataset], Iterable[Any]] = lambda data: ()
    """what is printed after the table and is no check"""
    cpu_devices: int | None = None
    """None for as many as cores; 1 where LAPACK decomposes batches of matrices, which may hang side
    by side (docs/troubles.md)"""
    needs: tuple[str, ...] = ()
    """modules of the extra `models`"""

    @property
    def name(self) -> str:
        """Of the script."""
        return Path(self.file).stem

    def run(self, name: str) -> None:
        """As a program, if that is the name of the module."""
        if name == "__main__":
            sys.exit(self.main())

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Measure, compare, write, and return the exit status: 0, or 1 if a number is missed.

        Exits with 2 and one sentence for options that cannot be used, before anything is measured.
        """
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            needed = f"{self.name} needs {', '.join(missing)}: install the extra with"
            sys.stderr.write(f"{needed} pip install 'jinit[models]'.\n")
            return 2
        options = self.parse(argv)
        jinit.configure(cpu_devices=self.cpu_devices)
        device = jax.devices()[0]
        where = f"{device.device_kind} ({platform.machine()}, {os.cpu_count()} cores)"
        machine = f"jax {jax.__version__} on {where}"
        console.print(f"{self.name}: {machine}")
        name, setting = ("quick", self.quick) if options.quick else ("full", {})
        data = self.measure(**setting)
        data = data.assign_attrs(experiment=self.name, setting=name, machine=machine)
        checks = self.checks(data)
        with staged(options.out) as folder:
            rows = pd.DataFrame(checks).assign(ok=["yes" if c.ok else "no" for c in checks])
            rows.to_csv(folder / "published_measured.csv", index=False, **CSV)
            write_data(folder, data)
            with look():
                self.figure(data).savefig(folder / f"{self.name}.png")
        status = verdict(checks, left_out=self.lacks if options.quick else "")
        for note in self.notes(data):
            console.print(note)
        console.print(f"Figure and data are in {options.out}/.")
        return status

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Options; exits for those that cannot be used."""
        about = (self.doc or "").split("\n\n")[0]
        parser = _Parser(prog=f"{self.name}.py", description=about, allow_abbrev=False)
        where = "directory for the figure and the data (default: %(default)s)"
        parser.add_argument("--out", type=Path, default=Path("results") / self.name, help=where)
        parser.add_argument("--quick", action="store_true", help=f"less: without {self.lacks}")
        parser.add_argument("--overwrite", action="store_true", help="write over earlier files")
        options = parser.parse_args(argv)
        if problem := unusable(options.out, options.overwrite):
            parser.exit(2, problem + "\n")
        return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, and the exit status of bad usage."""
        self.exit(2, f"{message}; allowed are --out DIR, --quick, --overwrite and --help.\n")


# --- files: a folder that is complete or untouched, a dataset as NetCDF and as CSV


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
        table.to_csv(folder / f"{'_'.join(map(str, dims))}.csv", **CSV)
