"""The look of every figure.

Colours are Okabe and Ito's, which stay apart for colour-blind readers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from matplotlib import rc_context
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
    """A figure with its axes `[rows, columns]`, without any global state."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False, **options)


def power_of_ten(exponent: float | np.integer, _: Any = None) -> str:
    """How ticks and labels write a logarithm to base 10, which no reader has to undo."""
    return f"$10^{{{exponent + 0.0:g}}}$"


def need(what: str, value: Any, fields: Sequence[str], source: str) -> None:
    """A TypeError for what has not the fields that `source` returns."""
    missing = [field for field in fields if not hasattr(value, field)]
    if missing:
        raise TypeError(
            f"{what} must be what {source} returns, got {checks.shown(value)}, which has no "
            f"{missing[0]!r}."
        )
