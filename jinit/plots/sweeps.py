"""Any variable of a sweep."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from jinit import checks
from jinit.plots.figures import COLORS, figure, need, power_of_ten, style, text

_MOST_PANELS = 12


def grid(
    dataset: Any, variable: str | None = None, *, title: str = "", boundary: float | None = None
) -> Figure:
    """A variable of a sweep over its two longest numeric axes, the median over seeds.

    A map where there are two such axes, lines where there is one; a panel for each combination of
    the other axes. Variables called `log_*`, natural logarithms, are shown as powers of ten.

    Args:
        dataset: what `jinit.sweep` or `jinit.load` returns.
        variable: which; None takes the first with one number per network.
        title: of the picture.
        boundary: a value of the variable, where a white line divides a map, a black one lines.

    Raises:
        ValueError: a variable that is not there or has dimensions of its own, or too many panels.
    """
    need("dataset", dataset, ("data_vars", "dims"), "jinit.sweep")
    text("title", title)
    if "seed" not in dataset.dims:
        raise ValueError(
            f"dataset must have the dimension 'seed', over which the median is taken, got "
            f"{', '.join(map(repr, dataset.dims)) or 'none'}; dataset.expand_dims('seed') adds it."
        )
    plain = [
        name for name, each in dataset.data_vars.items() if set(each.dims) <= set(dataset.coords)
    ]
    name = variable if variable is not None else (plain or [None])[0]
    if not isinstance(name, str) or name not in plain:
        raise ValueError(
            f"variable must have one number per network, got {checks.shown(name)}; choose among "
            f"{', '.join(map(repr, plain)) or 'none'}."
        )
    if boundary is not None:
        checks.number("boundary", boundary)
    values = dataset[name].astype(float).median("seed")
    form, shown = None, name
    if name.startswith("log_"):
        values, form, shown = values / np.log(10), power_of_ten, name.removeprefix("log_")
    numeric = sorted(
        (d for d in values.dims if values[d].dtype.kind in "fiu" and values.sizes[d] > 1),
        key=lambda d: -values.sizes[d],
    )
    if not numeric:
        raise ValueError(
            f"a picture needs a numeric axis of two values or more, got none in {name!r}."
        )
    across, upwards = numeric[0], (numeric[1] if len(numeric) > 1 else None)
    rest = [d for d in values.dims if d not in (across, upwards)]
    panels = values.stack(panel=rest) if rest else values.expand_dims("panel")
    count = panels.sizes["panel"]
    if count > _MOST_PANELS:
        raise ValueError(
            f"a picture has room for {_MOST_PANELS} panels, got {count} combinations of "
            f"{', '.join(map(repr, rest))}; select some with dataset.sel(...) first."
        )
    columns = min(count, 4)
    rows = -(-count // columns)
    finite = values.values[np.isfinite(values.values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    with style():
        fig, axes = figure(
            columns, rows=rows, width=1.5 + 4.0 * columns, height=0.8 + 3.4 * rows,
            sharex=True, sharey=True,
        )  # fmt: skip
        for ax in axes.flat[count:]:
            ax.set_visible(False)
        for i, ax in enumerate(axes.flat[:count]):
            panel = panels.isel(panel=i)
            mesh = _panel(ax, panel, across, upwards, low, high)
            if boundary is not None:
                _divide(ax, mesh, panel, across, upwards, boundary)
            if form and upwards is None:
                ax.yaxis.set_major_formatter(form)
            here = [f"{d} = {panel.coords[d].item()}" for d in rest if values.sizes[d] > 1]
            ax.set_title(", ".join(here), fontsize=10)
            if i >= count - columns:
                ax.set_xlabel(across)
            if i % columns == 0:
                ax.set_ylabel(upwards or shown)
        if upwards is not None:
            bar = fig.colorbar(mesh, ax=list(axes.flat), pad=0.015, format=form)
            line = f"\nwhite line: {boundary:.2f}" if boundary is not None else ""
            bar.set_label(f"{shown} (median over {dataset.sizes['seed']} seeds){line}")
        if title or not rest:
            fig.suptitle(title or shown, fontweight="bold")
    return fig


def _panel(ax: Axes, panel: Any, across: str, upwards: str | None, low: float, high: float) -> Any:
    x = panel[across].values
    if _is_geometric(x):
        ax.set_xscale("log")
    if upwards is None:
        return ax.plot(x, panel.values, "o-", color=COLORS["xavier"], markersize=4)[0]
    y = panel[upwards].values
    if _is_geometric(y):
        ax.set_yscale("log")
    ax.set_yticks(y[:: -(-len(y) // 8)])
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    signed = low < 0 < high
    if signed:  # white at zero
        low, high = min(low, -high), max(-low, high)
    cells = panel.transpose(upwards, across).values
    mesh = ax.pcolormesh(
        x, y, np.ma.masked_invalid(cells), shading="nearest", vmin=low, vmax=high,
        cmap="RdBu_r" if signed else "viridis",
    )  # fmt: skip
    ax.set_facecolor("0.8")  # what diverged
    ax.grid(visible=False)
    return mesh


def _divide(
    ax: Axes, mesh: Any, panel: Any, across: str, upwards: str | None, value: float
) -> None:
    """A line along the edges of the cells that reach the value."""
    if upwards is None:
        ax.axhline(value, color="black", linestyle=":")
        return
    cells = panel.transpose(upwards, across).values >= value
    corners = mesh.get_coordinates()  # [y edges, x edges, 2]
    beside, above = np.diff(cells, axis=1), np.diff(cells, axis=0)
    sides = [corners[i : i + 2, j + 1] for i, j in np.argwhere(beside)]
    tops = [corners[i + 1, j : j + 2] for i, j in np.argwhere(above)]
    ax.add_collection(LineCollection([*sides, *tops], colors="white", linewidths=2.5))


def _is_geometric(x: np.ndarray) -> bool:
    """Whether values spread over more than a factor of 10 and bunch at the lower end."""
    ordered = np.sort(x)
    return bool(ordered[0] > 0 and ordered[-1] / ordered[0] > 9 and
                np.median(ordered) < (ordered[0] + ordered[-1]) / 2.5)  # fmt: skip
