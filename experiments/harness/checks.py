"""Means over seeds, numbers that are expected beside those measured, and the verdict on them."""

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import xarray as xr
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

console = Console(highlight=False)

STANDARD_ERRORS = 5
EXACT = 1e-8  # of what is computed in float64 and known without rounding

SOURCES = {
    "paper": "printed by the source",
    "formula": "computed from the source's formula",
    "theory": "predicted by jinit.theory",
    "simulation": "simulated otherwise",
    "claim": "claimed in words",
}


class Estimate(NamedTuple):
    """A mean over seeds with its standard error: numbers, or arrays of one shape."""

    mean: Any
    error: Any
    seeds: float = math.inf
    """from whose scatter the error is taken; infinitely many where it is known"""

    @property
    def tolerance(self) -> Any:
        """What is allowed between the mean and what is expected."""
        return errors_allowed(self.seeds) * self.error


def average(values: xr.DataArray, over: str = "seed") -> Estimate:
    """Over one dimension, the seeds; one that is no number makes the mean none."""
    seeds = values.sizes[over]
    error = values.std(over, ddof=1, skipna=False) / math.sqrt(seeds)
    return Estimate(values.mean(over, skipna=False), error, seeds)


def root_mean_square(values: xr.DataArray) -> Estimate:
    """Of averages over seeds: of squares, whose mean finite width biases least."""
    square = average(values**2)
    root = np.sqrt(square.mean)
    return Estimate(root, square.error / (2 * root), square.seeds)


def held(data: xr.Dataset, name: str, **at: Any) -> Estimate:
    """What stands in a dataset under that name, its error beside it and the seeds in `attrs`."""
    return Estimate(data[name].sel(at), data[f"{name}_error"].sel(at), data.attrs[f"{name}_seeds"])


def errors_allowed(seeds: float) -> float:
    """How many standard errors: Student's t, as rare as STANDARD_ERRORS of a normal variable."""
    return float(scipy.stats.t.isf(scipy.stats.norm.sf(STANDARD_ERRORS), seeds - 1))


def extrapolate(narrow: Estimate, wide: Estimate, *, ratio: float = 2.0) -> Estimate:
    """To infinite width, from a width and one larger by a ratio: what goes as 1/width drops out."""
    error = np.hypot(ratio * wide.error, narrow.error) / (ratio - 1)
    mean = (ratio * wide.mean - narrow.mean) / (ratio - 1)
    return Estimate(mean, error, min(narrow.seeds, wide.seeds))


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


def compare(
    group: str, what: str, expected: Any, found: Any, source: str, tolerance: Any = None
) -> list[Check]:
    """One check for every entry of arrays, which are broadcast by the names of their dimensions.

    Args:
        group, what: names, in which `{coordinate}` stands for the value at the entry.
        expected: a number, a DataArray, or values in the shape of what is found.
        found: a number, a DataArray or an Estimate, which brings its tolerance.
        source: of all of them.
        tolerance: a number or a DataArray.
    """
    if isinstance(found, Estimate):
        tolerance = found.tolerance if tolerance is None else tolerance
        found = found.mean
    found = xr.DataArray(found)
    if not isinstance(expected, xr.DataArray):
        expected = found.copy(data=np.broadcast_to(expected, found.shape))
    arrays = xr.align(expected, found, xr.DataArray(tolerance), join="exact")
    names = {str(n): c for array in arrays[:2] for n, c in array.coords.items()}
    arrays = xr.broadcast(*(array.reset_coords(drop=True) for array in arrays))
    checks = []
    for index in np.ndindex(arrays[0].shape):
        at = dict(zip(arrays[0].dims, index, strict=True))
        here = {name: c.isel({d: at[d] for d in c.dims}).item() for name, c in names.items()}
        numbers = (float(array[index]) for array in arrays)
        checks.append(Check(group.format(**here), what.format(**here), *numbers, source))
    return checks


def printed(group: str, what: str, text: str, measured: Any, *, source: str = "formula") -> Check:
    """A number in print beside one computed: to half its last digit; exact if without a point."""
    tolerance = half_unit(text) if "." in text else EXACT
    return Check(group, what, float(text), float(measured), tolerance, source)


def claim(group: str, what: str, holds: Any) -> Check:
    """What the source says in words: 1 if it holds, or the share of cases in which it does."""
    return Check(group, what, 1.0, float(holds), 0.0, "claim")


def half_unit(printed: str) -> float:
    """Half a unit of the last printed digit: all that rounding can have taken away."""
    exponent = Decimal(printed).as_tuple().exponent
    return float(Decimal(5).scaleb(int(exponent) - 1))


def verdict(checks: Sequence[Check], *, left_out: str = "") -> int:
    """Print expected | measured | tolerance | source | ok; 0 if every number is met, else 1.

    Args:
        checks: in the order of the tables; there must be at least one.
        left_out: what the chosen setting does not check.
    """
    if not checks:
        raise ValueError("verdict needs at least one check, got none.")
    header = ("", ">expected", ">measured", ">tolerance", "source", "ok")
    for group, rows in groupby(checks, key=lambda check: check.group):
        console.print(table(group, header, map(_row, rows)))
    if left_out:
        console.print(f"Not checked at this setting: {left_out}.")
    for check in (check for check in checks if not check.ok):
        console.print(
            f"[bold red]Missed:[/] {check.group}, {check.what}: expected {check.expected:.9g}, "
            f"measured {check.measured:.9g}, apart by "
            f"{abs(check.measured - check.expected):.2g} where {check.tolerance:.2g} is allowed."
        )
    counts = []
    for source in sorted({check.source for check in checks}, key=list(SOURCES).index):
        met = [check.ok for check in checks if check.source == source]
        counts.append(f"{sum(met)} of {len(met)} {SOURCES[source]}")
    met = [check.ok for check in checks]
    console.print(f"{sum(met)} of {len(met)} numbers met: {', '.join(counts)}.")
    return 0 if all(met) else 1


def _row(check: Check) -> tuple[str, ...]:
    """In digits that show what the tolerance compares, six at least."""
    digits = 6
    if check.expected and check.tolerance:
        digits = max(6, math.ceil(math.log10(abs(check.expected) / (2 * check.tolerance))))
    numbers = (f"{each:#.{digits}g}" for each in (check.expected, check.measured))
    ok = "yes" if check.ok else "[bold red]NO"
    return check.what, *numbers, f"{check.tolerance:.1e}", check.source, ok


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Rows of text under a header; a column that is named with `>` is set to the right."""
    found = Table(title=title, title_justify="left", box=SIMPLE_HEAD, title_style="bold")
    for name in header:
        found.add_column(name.removeprefix(">"), justify="right" if name[:1] == ">" else "left")
    for row in rows:
        found.add_row(*row)
    return found
