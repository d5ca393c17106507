"""The look of every figure.

Colours are Okabe and Ito's, which stay apart for colour-blind readers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure

from jinit import checks

Values = Sequence[Any] | jax.Array | np.ndarray
"""Numbers in rows or an array."""

COLORS: dict[str, str] = {
    "zeros": "#7f7f7f",
    "equal": "#CC79A7",
    "0.01 randn": "#56B4E9",
    "10 randn": "#D55E00",
    "xavier": "#0072B2",
    "he": "#009E73",
    "batch norm": "#E69F00",
    "theory": "#000000",
}


_LARGEST = 200  # inches of a figure's side
_SUBPLOTS = ("sharex", "sharey", "width_ratios", "height_ratios", "subplot_kw", "gridspec_kw")


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure."""
    with rc_context(
        {
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "lines.linewidth": 2.0,
            "savefig.dpi": 130,
        }
    ):
        yield


def figure(
    columns: int, *, rows: int = 1, width: float = 12.0, height: float = 4.2, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure with its axes `[rows, columns]`, `width` x `height` inches, without global state.

    Options are those of matplotlib's `Figure.subplots`.
    """
    columns = checks.count("columns", columns, most=100)
    rows = checks.count("rows", rows, most=100)
    for what, value in (("width", width), ("height", height)):
        checks.number(what, value)
        if not 0 < value <= _LARGEST:
            raise ValueError(
                f"{what} must lie between 0 and {_LARGEST} inches, got {checks.shown(value)}."
            )
    checks.options("figure", options, _SUBPLOTS)
    fig = Figure(figsize=(float(width), float(height)), layout="constrained")
    try:
        return fig, fig.subplots(rows, columns, squeeze=False, **options)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{' or '.join(options)} cannot be drawn: {error}") from None


def power_of_ten(exponent: float | np.integer, _: Any = None) -> str:
    """How ticks and labels write a logarithm to base 10, which no reader has to undo."""
    checks.number("exponent", exponent)
    return f"$10^{{{exponent + 0.0:g}}}$"


def need(what: str, value: Any, fields: Sequence[str], source: str) -> None:
    """A TypeError for what has not the fields that `source` returns."""
    missing = [field for field in fields if not hasattr(value, field)]
    if missing:
        raise TypeError(
            f"{what} must be what {source} returns, got {checks.shown(value)}, which has no "
            f"{missing[0]!r}."
        )


def panel(ax: Any) -> None:
    """Axes to draw on."""
    if not isinstance(ax, Axes):
        raise TypeError(
            f"ax must be an Axes of matplotlib, as jinit.plots.figure makes, got "
            f"{checks.shown(ax)}."
        )


def text(what: str, value: Any) -> None:
    """A str."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a text, got {checks.shown(value)}.")


def color(value: Any) -> None:
    """What matplotlib knows as a colour."""
    if not is_color_like(value):
        raise ValueError(
            f"color must be one that matplotlib knows, such as 'black' or '#0072B2', got "
            f"{checks.shown(value)}."
        )


def positive(what: str, value: Any) -> float:
    """A finite number above 0."""
    checks.number(what, value)
    if value <= 0:
        raise ValueError(f"{what} must be above 0, got {checks.shown(value)}.")
    return float(value)


def array(what: str, value: Any, shape: str, *sizes: int | None, finite: bool = True) -> np.ndarray:
    """Numbers of a shape, as float64; None in `sizes` is any length but 0."""
    checks.numeric(what, value)
    if finite:
        checks.finite(what, value)
    found = np.asarray(value, float)
    fits = found.ndim == len(sizes) and found.size > 0
    if not fits or any(s not in (None, n) for s, n in zip(sizes, found.shape, strict=True)):
        known = "" if None in sizes else f" {list(sizes)}"
        raise ValueError(f"{what} must have shape {shape}{known}, got {list(found.shape)}.")
    return found


def increasing(what: str, value: Any, shape: str) -> np.ndarray:
    """Two numbers or more above 0, in ascending order."""
    found = array(what, value, shape, None)
    if len(found) < 2 or found[0] <= 0 or not (np.diff(found) > 0).all():
        raise ValueError(f"{what} must hold two numbers or more above 0, in ascending order.")
    return found


def mapping(what: str, value: Any, form: str) -> Mapping[str, Any]:
    """Labels and what they stand for; None is empty."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(label, str) for label in value):
        raise TypeError(f"{what} must map labels to {form}, got {checks.shown(value)}.")
    return value
