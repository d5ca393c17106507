"""What the experiments share: options, the table of published beside measured, CSV files."""

import argparse
import csv
import math
import os
import platform
import tempfile
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

console = Console(highlight=False)

# Told apart by colour-blind readers (Okabe & Ito 2008; the last is Tol's).
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA3377"


class Check(NamedTuple):
    """One published number beside the one measured here; `group` is the table it stands in."""

    group: str
    what: str
    published: float
    measured: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether measured lies within the tolerance of published (NaN never does)."""
        return abs(self.measured - self.published) <= self.tolerance


def half_unit(printed: str) -> float:
    """Half a unit of the last printed digit: all that rounding can have taken away.

    >>> half_unit("2.97728e-7")
    5e-13
    """
    exponent = Decimal(printed).as_tuple().exponent
    return float(Decimal(5).scaleb(int(exponent) - 1))


def verdict(checks: Sequence[Check], *, left_out: Sequence[str] = ()) -> int:
    """Print published | measured | tolerance | ok; 0 if every number is met, else 1.

    Args:
        checks: in the order of the tables; there must be at least one.
        left_out: sentences on what the chosen setting cannot check.
    """
    if not checks:
        raise ValueError("verdict needs at least one check, got none.")
    for group, rows in groupby(checks, key=lambda check: check.group):
        table = Table(title=group, title_justify="left", box=SIMPLE_HEAD, title_style="bold")
        table.add_column("", min_width=26)
        for column in ("published", "measured", "tolerance"):
            table.add_column(column, justify="right", min_width=12)
        table.add_column("ok")
        for row in rows:
            digits = _digits(row)
            numbers = (
                f"{row.published:#.{digits}g}",
                f"{row.measured:#.{digits}g}",
                f"{row.tolerance:.1e}",
            )
            table.add_row(row.what, *numbers, "yes" if row.ok else "[bold red]NO")
        console.print(table)
    for sentence in left_out:
        console.print(f"Not checked at this setting: {sentence}")
    missed = [check for check in checks if not check.ok]
    for check in missed:
        console.print(
            f"[bold red]Missed:[/] {check.group}, {check.what}: published {check.published:.9g}, "
            f"measured {check.measured:.9g}, apart by "
            f"{abs(check.measured - check.published):.2g} where {check.tolerance:.2g} is allowed."
        )
    console.print(f"{len(checks) - len(missed)} of {len(checks)} published numbers met.")
    return 1 if missed else 0


def _digits(check: Check) -> int:
    """Significant digits that show what the tolerance compares, six at least."""
    if not (check.published and check.tolerance):
        return 6
    return max(6, math.ceil(math.log10(abs(check.published) / (2 * check.tolerance))))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, and the exit status of bad usage."""
        self.exit(2, f"{message}; allowed are --out DIR, --quick, --overwrite and --help.\n")


def arguments(name: str, doc: str | None, *, quick: str) -> argparse.Namespace:
    """Parse `--out`, `--overwrite` and `--quick`, and make sure that results can be written.

    Exits with 2 and one sentence for an `--out` that cannot be written or already holds files.

    Args:
        name: of the experiment; results go to results/<name> by default.
        doc: the script's docstring.
        quick: what the small setting does.
    """
    parser = _Parser(description=(doc or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results") / name,
        help="directory for the figure and the data (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--overwrite", action="store_true", help="write over the files of an earlier run"
    )
    options = parser.parse_args()
    problem = _unusable(options.out, options.overwrite)
    if problem:
        parser.exit(2, problem + "\n")
    device = jax.devices()[0]
    kind = device.device_kind
    if device.platform == "cpu":
        kind = f"{platform.machine()}, {os.cpu_count()} cores"
    console.print(f"{name}: jax {jax.__version__} on {device.platform} ({kind})")
    return options


def _unusable(out: Path, overwrite: bool) -> str | None:
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


def progress() -> Progress:
    """A progress bar with time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows under a header; floats with nine significant digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow([f"{v:.9g}" if isinstance(v, float) else v for v in row])


def write_checks(path: Path, checks: Sequence[Check]) -> None:
    """The printed table as CSV."""
    write_csv(
        path,
        ("group", "what", "published", "measured", "tolerance", "ok"),
        ([*check, "yes" if check.ok else "no"] for check in checks),
    )
