"""What was found in a model."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from jinit import checks
from jinit.models.diagnosis.records import decades
from jinit.plots.figures import COLORS, figure, need, panel, style, text


def diagnosis(found: Any, *, title: str = "") -> Figure:
    """A model's signal and gradient layer by layer, and what its activations do.

    Args:
        found: what `jinit.diagnose` returns.
        title: of the picture; without one, the verdict.

    Returns:
        The figure: root mean squares of pre-activations and of the gradients by them, and the
        fractions of dead units and saturated entries, if there are any.

    Raises:
        ValueError: a diagnosis without layers.
    """
    need("found", found, ("layers", "activations", "verdict"), "jinit.diagnose")
    text("title", title)
    rows = found.layers
    if not rows:
        raise ValueError("a picture needs a layer, got a diagnosis in which no weight is applied.")
    x = np.arange(len(rows))
    odd = {layer for finding in found.findings for layer in finding.layers}
    shares = [(row.dead, row.saturated) for row in rows]
    drawn = np.nansum(shares) > 0
    with style():
        fig, axes = figure(
            1, rows=3 if drawn else 2, width=min(16.0, 4.5 + 0.3 * len(rows)),
            height=8.0 if drawn else 5.6, sharex=True,
        )  # fmt: skip
        for ax, field, color, words in (
            (axes[0][0], "log_pre", COLORS["xavier"], "Forward: root mean square of the signal"),
            (axes[1][0], "log_grad", COLORS["10 randn"], "Backward: that of the gradient"),
        ):  # fmt: skip
            values = decades(getattr(found.signals, field))
            ax.plot(x, np.where(np.isfinite(values), values, np.nan), "o-", color=color)
            lost = ~np.isfinite(values)
            if lost.any():
                floor = ax.get_ylim()[0]
                ax.plot(x[lost], np.full(lost.sum(), floor), "x", color="black",
                        label="none, or no number")  # fmt: skip
                ax.legend(loc="best")
            ax.set_title(words)
            ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.yaxis.set_major_formatter(lambda v, _: f"$10^{{{v:.0f}}}$")
            if (~lost).any() and np.ptp(values[~lost]) < 2:
                middle = float(np.round(np.median(values[~lost])))
                ax.set_ylim(middle - 1.5, middle + 1.5)
        if drawn:
            ax = axes[2][0]
            dead, saturated = np.transpose(shares)
            ax.bar(x - 0.2, 100 * np.nan_to_num(saturated), 0.4, color=COLORS["batch norm"],
                   label="saturated entries")  # fmt: skip
            ax.bar(x + 0.2, 100 * np.nan_to_num(dead), 0.4, color="0.2", label="dead units")
            ax.set_title("Activations")
            ax.set_ylim(0, 118)
            ax.set_yticks([0, 50, 100], ["0%", "50%", "100%"])
            ax.legend(loc="upper right", ncols=2)
        bottom = axes[-1][0]
        every = -(-len(rows) // 48)
        bottom.set_xticks(x[::every], [_short(row.layer) for row in rows][::every], rotation=60,
                          ha="right", rotation_mode="anchor", fontsize=8)  # fmt: skip
        for row, label in zip(rows[::every], bottom.get_xticklabels(), strict=True):
            if row.layer in odd and len(odd) < len(rows):
                label.set_color(COLORS["10 randn"])
                label.set_fontweight("bold")
        fig.suptitle(fill(title or found.verdict, 30 + 5 * len(rows) if len(rows) < 16 else 110),
                     fontweight="bold", fontsize=11)  # fmt: skip
    return fig


def coordinate_check(
    dataset: Any, axes: Sequence[Axes] | None = None, *, variable: str = "size", title: str = ""
) -> Figure:
    """Size of the coordinates against width, a line for each layer and a panel for each step.

    Level lines are what the maximal update parametrisation promises.

    Args:
        dataset: what `jinit.models.coordinate_check` returns; choose steps with
            `dataset.sel(step=[1, 4])`.
        axes: where, one for each step; None makes a figure.
        variable: "size" or "change". The change has no panel for step 0, where it is 0.
        title: of the figure that is made.

    Returns:
        The figure. Points are means over seeds that are finite; where none is, there is no point.

    Raises:
        ValueError: a variable that is not there, or another number of axes than of steps.
    """
    need("dataset", dataset, ("data_vars", "dims"), "jinit.models.coordinate_check")
    text("title", title)
    known = isinstance(variable, str) and variable in ("size", "change")
    if not known or variable not in dataset:
        raise ValueError(
            f"variable must be 'size' or 'change' of the Dataset, got {checks.shown(variable)}."
        )
    if axes is not None and not isinstance(axes, list | tuple | np.ndarray):
        raise TypeError(
            f"axes must be a list of Axes, one for each step, got {checks.shown(axes)}."
        )
    axes = axes if axes is None else list(axes)
    steps = [int(s) for s in dataset["step"].values if variable == "size" or s > 0]
    if not steps or (axes is not None and len(axes) != len(steps)):
        given = "none" if axes is None else len(axes)
        raise ValueError(
            f"axes must be one for each of the {len(steps)} steps with a {variable}, got {given}; "
            f"choose steps with dataset.sel(step=[...])."
        )
    values = dataset[variable].transpose("step", "layer", "width", "seed")
    finite = values.where(np.isfinite(values) & (values > 0)).mean("seed")
    layers = [str(layer) for layer in dataset["layer"].values]
    with style():
        panels: list[Axes]
        if axes is None:
            fig, made = figure(
                len(steps), width=1.5 + 3.2 * len(steps), height=4.4, sharex=True, sharey=True
            )
            panels = list(made[0])
        else:
            panels = axes
            for each in panels:
                panel(each)
            fig = panels[0].get_figure()  # type: ignore[assignment]
        for ax, step in zip(panels, steps, strict=True):
            for i, layer in enumerate(layers):
                ax.plot(
                    dataset["width"].values, finite.sel(step=step).values[i], "o-", markersize=4,
                    color=colormaps["viridis"](0.9 * i / max(len(layers) - 1, 1)),  # dark to light
                    label=_short(layer),
                )  # fmt: skip
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticks(dataset["width"].values)
            ax.set_xlabel("width")
            ax.set_title("before training" if step == 0 else f"after {step} step{'s'[: step > 1]}")
        panels[0].set_ylabel(f"mean |{'change' if variable == 'change' else 'coordinate'}|")
        if axes is None:
            handles, labels = panels[0].get_legend_handles_labels()
            if len(layers) <= 24:
                fig.legend(handles, labels, loc="outside lower center", ncols=min(len(layers), 6))
            fig.suptitle(title, fontweight="bold")
    return fig


def _short(layer: str) -> str:
    return layer if len(layer) <= 26 else f"...{layer[-24:]}"
