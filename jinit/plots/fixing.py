"""What was tried on a model that does not train."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from jinit.plots.figures import COLORS, figure, need, panel, style, text
from jinit.plots.panels import band


def fixed(found: Any, ax: Axes | None = None, *, title: str = "") -> list[Any]:
    """Loss against steps, of the model as it is, of every candidate, and of the winner.

    Args:
        found: what `jinit.fix` returns.
        ax: where; None makes a figure, `artists[0].get_figure()`.
        title: of the panel.

    Returns:
        The lines, in the order of the table; each is the median over seeds of means of a few
        steps. Bands around the model
        as it is and the winner are from the lowest to the highest seed.
    """
    need("found", found, ("curves", "table"), "jinit.fix")
    text("title", title)
    if ax is not None:
        panel(ax)
    with style():
        if ax is None:
            ax = figure(1, width=8.0, height=4.6)[1][0][0]
        steps = found.curves.sizes["step"]
        window = max(1, steps // 30)
        middles = np.arange(steps - window + 1) + (window - 1) / 2
        others = [r.candidate for r in found.table if r.candidate not in ("before", found.winner)]
        lines = []
        for row in found.table:
            name, runs = row.candidate, found.curves.loss.sel(candidate=row.candidate).values
            runs = np.lib.stride_tricks.sliding_window_view(runs, window, axis=-1).mean(-1)
            if name in others:
                shade = to_hex(colormaps["plasma"](others.index(name) / len(others)))
                look: dict[str, Any] = {"color": shade, "quantiles": (0.5, 0.5)}
                look |= {"linewidth": 1.0, "zorder": 1.5}
            else:
                color = COLORS["theory"] if name == "before" else COLORS["he"]
                look = {"color": color, "quantiles": (0.0, 1.0), "zorder": 3.0}
            lines.append(band(ax, middles, runs, label=name, **look)[0])
        ax.set_yscale("log")
        ends = [row.loss for row in found.table]
        first = [c for c in found.curves.loss.isel(step=0).values.ravel() if 0 < c < float("inf")]
        low, high = min(ends), max(10.0, *(10 * c for c in sorted(first)[:1]))
        if 0 < low < high:  # what explodes would flatten all others
            ax.set_ylim(0.3 * low, high)
        ax.set_xlabel("step")
        ax.set_ylabel(f"training loss, mean of {window} steps" if window > 1 else "training loss")
        ax.set_title(title)
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return lines
