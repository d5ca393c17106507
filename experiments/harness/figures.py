"""The look of every figure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import jinit
from harness.checks import STANDARD_ERRORS

# Told apart by colour-blind readers (Okabe & Ito 2008; the last is Tol's).
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA3377"

LABELS = {
    "identity": "linear", "relu": "ReLU", "leaky_relu": "leaky ReLU", "vlrelu": "VLReLU",
    "tanh": "tanh", "sigmoid": "sigmoid", "elu": "ELU", "gelu": "GELU", "silu": "SiLU",
    "mish": "Mish", "softplus": "softplus",
}  # fmt: skip
_STYLES = {
    "identity": (BLUE, "o"), "relu": (GREEN, "s"), "tanh": (ORANGE, "^"), "silu": (PURPLE, "D"),
    "gelu": ("#E69F00", "v"), "elu": ("#56B4E9", "P"), "leaky_relu": ("0.6", "X"),
}  # fmt: skip
STYLES = {name: {"color": colour, "marker": m} for name, (colour, m) in _STYLES.items()}
_LOOK: dict[str, Any] = {
    "axes.titlesize": 14, "axes.titlepad": 8, "axes.labelsize": 13, "savefig.dpi": 150,
    "legend.frameon": True, "legend.framealpha": 1, "legend.edgecolor": "0.85",
}  # fmt: skip
_POINTS: dict[str, Any] = {
    "markerfacecolor": "white", "markeredgewidth": 1.7, "markersize": 8, "linestyle": "none",
    "capsize": 4, "zorder": 3,
}  # fmt: skip


@contextmanager
def look() -> Iterator[None]:
    """That of jinit.plots, larger, and with legends that cover what is behind them."""
    with jinit.plots.style(), rc_context(_LOOK):
        yield


def panels(
    title: str, note: str, size: tuple[float, float], *, rows: int = 1, columns: int = 1, **of: Any
) -> tuple[Figure, np.ndarray]:
    """A figure under a headline, with its axes in reading order (none where rows is 0)."""
    width, height = size
    figure = Figure(figsize=size, layout="constrained")
    lines = 0.35 * (title.count("\n") + 1)
    left, below = 0.15 / width, 1 - (0.2 + lines) / height
    figure.text(left, 1 - 0.12 / height, title, fontsize=18, fontweight="bold", va="top")
    figure.text(left, below, note, fontsize=12.5, color="0.3", va="top")
    top = (lines + 0.55) / height
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - top), w_pad=0.12, h_pad=0.1)
    axes = figure.subplots(rows, columns, squeeze=False, **of) if rows else np.empty(0)
    return figure, axes.ravel()


def label(axes: Any, title: str, x: str, y: str, legend: str | None = None, **options: Any) -> None:
    """Title, names of the axes and where the legend goes; scales and limits."""
    axes.set(title=title, xlabel=x, ylabel=y, **options)
    if legend:
        axes.legend(loc=legend)


def points(
    axes: Any, x: Any, mean: Any, error: Any, *, errors: float = STANDARD_ERRORS, **options: Any
) -> None:
    """What is drawn of simulations: open markers and so many standard errors."""
    axes.errorbar(x, mean, yerr=errors * np.asarray(error), **_POINTS | options)


def named_ticks(axis: Any, values: Sequence[Any]) -> None:
    """Ticks at these values of a logarithmic axis, written out."""
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_minor_locator(NullLocator())
