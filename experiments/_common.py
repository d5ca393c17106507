"""What the experiments share: options, the table of expected beside measured, estimates, files."""

import argparse
import csv
import math
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import jinit

console = Console(highlight=False)

# Told apart by colour-blind readers (Okabe & Ito 2008; the last is Tol's).
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA3377"


# What is drawn of simulations.
POINTS: dict[str, Any] = {
    "markerfacecolor": "white", "markeredgewidth": 1.7, "markersize": 8, "linestyle": "none",
    "capsize": 4, "zorder": 3,
}  # fmt: skip

STANDARD_ERRORS = 5
EXACT = 1e-8  # of what is computed in float64 and known without rounding

SOURCES = {
    "paper": "printed by the source",
    "formula": "computed from the source's formula",
    "theory": "predicted by jinit.theory",
    "simulation": "simulated otherwise",
    "claim": "claimed in words",
}


class Check(NamedTuple):
    """One number that is expected beside the one measured here."""

    group: str
    """the table it stands in"""
    what: str
    expected: float
    measured: float
    tolerance: float
    source: str
    """where the expected number is from, a key of SOURCES"""

    @property
    def ok(self) -> bool:
        """Whether measured lies within the tolerance of expected (NaN never does)."""
        return abs(self.measured - self.expected) <= self.tolerance


def printed(group: str, what: str, text: str, measured: float, *, source: str = "formula") -> Check:
    """A number in print beside one computed here, within half a unit of the last digit.

    One printed without a decimal point is exact, as a correlation of 1 is.
    """
    tolerance = half_unit(text) if "." in text else EXACT
    return Check(group, what, float(text), float(measured), tolerance, source)


def half_unit(printed: str) -> float:
    """Half a unit of the last printed digit: all that rounding can have taken away.

    >>> half_unit("2.97728e-7")
    5e-13
    """
    exponent = Decimal(printed).as_tuple().exponent
    return float(Decimal(5).scaleb(int(exponent) - 1))


def verdict(checks: Sequence[Check], *, left_out: Sequence[str] = ()) -> int:
    """Print expected | measured | tolerance | source | ok; 0 if every number is met, else 1.

    Args:
        checks: in the order of the tables; there must be at least one.
        left_out: sentences on what the chosen setting cannot check.
    """
    if not checks:
        raise ValueError("verdict needs at least one check, got none.")
    for group, rows in groupby(checks, key=lambda check: check.group):
        table = Table(title=group, title_justify="left", box=SIMPLE_HEAD, title_style="bold")
        table.add_column("", min_width=18)
        for column in ("expected", "measured", "tolerance"):
            table.add_column(column, justify="right", min_width=10)
        table.add_column("source")
        table.add_column("ok")
        for row in rows:
            digits = _digits(row)
            numbers = (
                f"{row.expected:#.{digits}g}",
                f"{row.measured:#.{digits}g}",
                f"{row.tolerance:.1e}",
            )
            table.add_row(row.what, *numbers, row.source, "yes" if row.ok else "[bold red]NO")
        console.print(table)
    for sentence in left_out:
        console.print(f"Not checked at this setting: {sentence}")
    missed = [check for check in checks if not check.ok]
    for check in missed:
        console.print(
            f"[bold red]Missed:[/] {check.group}, {check.what}: expected {check.expected:.9g}, "
            f"measured {check.measured:.9g}, apart by "
            f"{abs(check.measured - check.expected):.2g} where {check.tolerance:.2g} is allowed."
        )
    total, met = (Counter(check.source for check in some) for some in (checks, checks))
    met.subtract(check.source for check in missed)
    by_source = (
        f"{met[s]} of {total[s]} {SOURCES[s]}" for s in sorted(total, key=list(SOURCES).index)
    )
    console.print(
        f"{len(checks) - len(missed)} of {len(checks)} numbers met: {', '.join(by_source)}."
    )
    return 1 if missed else 0


def _digits(check: Check) -> int:
    """Significant digits that show what the tolerance compares, six at least."""
    if not (check.expected and check.tolerance):
        return 6
    return max(6, math.ceil(math.log10(abs(check.expected) / (2 * check.tolerance))))


# --- estimates ----------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A mean over seeds, or an array of them, with its standard error."""

    mean: np.ndarray
    error: np.ndarray
    seeds: int

    @property
    def tolerance(self) -> np.ndarray:
        """What is allowed between the mean and what is expected."""
        return errors_allowed(self.seeds) * self.error


def average(values: np.ndarray) -> Estimate:
    """Over the first axis, the seeds."""
    error = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return Estimate(values.mean(axis=0), error, len(values))


def errors_allowed(seeds: int) -> float:
    """How many standard errors, where the error is taken from the scatter of so many seeds.

    Student's t, exceeded as rarely as STANDARD_ERRORS by a normal variable.

    >>> round(errors_allowed(10), 2), round(errors_allowed(1000), 2)
    (12.42, 5.03)
    """
    return float(scipy.stats.t.isf(scipy.stats.norm.sf(STANDARD_ERRORS), seeds - 1))


def extrapolate(narrow: Estimate, wide: Estimate, *, ratio: float = 2.0) -> Estimate:
    """To infinite width, from a width and one larger by a ratio: what goes as 1/width drops out.

    (ratio wide - narrow) / (ratio - 1); with it goes no assumption on where the limit lies.
    """
    error = np.hypot(ratio * wide.error, narrow.error) / (ratio - 1)
    mean = (ratio * wide.mean - narrow.mean) / (ratio - 1)
    return Estimate(mean, error, min(narrow.seeds, wide.seeds))


# --- networks -----------------------------------------------------------------------------------


def pass_layer(key: jax.Array, z: jax.Array, gains: jax.Array, *, bias_var: float) -> jax.Array:
    """Through a tanh layer of as many units drawn by jinit.init: pre-activations to the next.

    Args:
        key: of the layer.
        z: pre-activations `[gains, ..., units]`.
        gains: of the weights, `[gains]`; one draw serves all, since a gain multiplies the weights.
        bias_var: variance of the biases.
    """
    units = z.shape[-1]
    (drawn,), _ = jinit.init(key, jinit.MLP((units, units)), "xavier", bias_var=bias_var)
    after = (jnp.tanh(z).reshape(-1, units) @ drawn.w).reshape(z.shape)
    ones = (1,) * (z.ndim - 1)
    return gains.reshape(-1, *ones) * after + drawn.b.reshape(*ones, units)


# --- figures ------------------------------------------------------------------------------------


def finish(axes: Any, *, grid: bool = False, labels: float = 13) -> None:
    """The look of every panel."""
    axes.tick_params(labelsize=11)
    axes.xaxis.label.set_size(labels)
    axes.yaxis.label.set_size(labels)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(True, which="major", alpha=0.25)


# --- options and files --------------------------------------------------------------------------


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
        (*Check._fields, "ok"),
        ([*check, "yes" if check.ok else "no"] for check in checks),
    )
