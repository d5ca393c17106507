"""From a script's four functions to printed tables, files and an exit status."""

import argparse
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import xarray as xr
from matplotlib.figure import Figure
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import jinit
from harness.checks import Check, console, verdict
from harness.figures import look
from harness.files import staged, unusable, write_checks, write_data

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for the models in tests/zoo
Item = TypeVar("Item")


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
    """`measure(**setting)`"""
    checks: Callable[[xr.Dataset], list[Check]]
    figure: Callable[[xr.Dataset], Figure]
    full: Mapping[str, Any]
    quick: Mapping[str, Any]
    """the small setting, which tests run"""
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

    def run(self) -> NoReturn:
        """As a program."""
        sys.exit(self.main())

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Measure, compare, write, and return the exit status: 0, or 1 if a number is missed.

        Exits with 2 and one sentence for options that cannot be used, before anything is measured.
        """
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            sys.stderr.write(
                f"{self.name} needs {', '.join(missing)}: install the extra with "
                f"pip install 'jinit[models]'.\n"
            )
            return 2
        options = self.parse(argv)
        jinit.configure(cpu_devices=self.cpu_devices)
        device = jax.devices()[0]
        cores = f"{platform.machine()}, {os.cpu_count()} cores"
        kind = cores if device.platform == "cpu" else device.device_kind
        machine = f"jax {jax.__version__} on {device.platform} ({kind})"
        console.print(f"{self.name}: {machine}")
        name, setting = ("quick", self.quick) if options.quick else ("full", self.full)
        data = self.measure(**setting)
        data = data.assign_attrs(experiment=self.name, setting=name, machine=machine)
        checks = self.checks(data)
        with staged(options.out) as folder:
            write_checks(folder / "published_measured.csv", checks)
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
        over = "write over the files of an earlier run"
        parser.add_argument("--overwrite", action="store_true", help=over)
        options = parser.parse_args(argv)
        problem = unusable(options.out, options.overwrite)
        if problem:
            parser.exit(2, problem + "\n")
        return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, and the exit status of bad usage."""
        self.exit(2, f"{message}; allowed are --out DIR, --quick, --overwrite and --help.\n")


def steps(items: Sequence[Item], what: str) -> Iterable[Item]:
    """The items, under a bar that says how many are done and how long the others take.

    For what no sweep does, which has its own.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        yield from bar.track(items, description=what)
