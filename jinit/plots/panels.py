"""Panels of the tour: bands over runs, histograms, weights, a map of gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jinit import checks
from jinit.plots import figures
from jinit.plots.figures import Values, power_of_ten


def band(
    ax: Axes,
    x: Values,
    runs: Values,
    *,
    label: str,
    color: str,
    quantiles: tuple[float, float] = (0.1, 0.9),
    **line: Any,
) -> list[Any]:
    """The median over runs as a line, and between two quantiles a band.

    Args:
        ax: where.
        x: `[points]`.
        runs: `[runs, points]`; entries that are not finite count as +infinity (diverged).
        label: for the legend.
        color: of line and band.
        quantiles: the band's lower and upper edge.
        **line: passed on to `Axes.plot`.

    Raises:
        ValueError, TypeError: numbers of another shape, or what matplotlib cannot draw.
    """
    figures.panel(ax)
    figures.text("label", label)
    figures.color(color)
    edges = figures.array("quantiles", quantiles, "[2]", 2)
    if not 0 <= edges[0] <= edges[1] <= 1:
        raise ValueError(
            f"quantiles must ascend from 0 to 1 as in (0.1, 0.9), got {checks.shown(quantiles)}."
        )
    x = figures.array("x", x, "[points]", None)
    runs = figures.array("runs", runs, "[runs, points]", None, None, finite=False)
    if runs.shape[1] != len(x):
        raise ValueError(
            f"runs must have shape [runs, points] with a column for each of the {len(x)} x, got "
            f"{list(runs.shape)}."
        )
    values = np.where(np.isnan(runs), np.inf, runs)
    low, middle, high = np.quantile(values, [quantiles[0], 0.5, quantiles[1]], 0, method="nearest")
    # An infinite loss is drawn as far up as the axis reaches, not left out.
    cap = np.finfo(np.float32).max
    low, middle, high = (np.minimum(v, cap) for v in (low, middle, high))
    try:
        (median,) = ax.plot(x, middle, color=color, label=label, **line)
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(f"line cannot be drawn by matplotlib: {error}") from None
    return [median, ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)]


def histograms(
    ax: Axes,
    counts: Values,
    edges: Values,
    *,
    color: str,
    notes: Sequence[str] = (),
    overlap: float = 1.6,
) -> list[Any]:
    """One histogram per layer as a ridge, the first layer on top; each scaled to its own peak.

    Args:
        ax: where.
        counts: `[layers, bins]`.
        edges: `[bins + 1]`.
        color: of the ridges.
        notes: a text per layer, written at its right end.
        overlap: height of a ridge in units of the distance between two.

    Raises:
        ValueError, TypeError: numbers of another shape, or not a note for every layer.
    """
    figures.panel(ax)
    figures.color(color)
    overlap = figures.positive("overlap", overlap)
    counts = figures.array("counts", counts, "[layers, bins]", None, None)
    edges = figures.array("edges", edges, "[bins + 1]", counts.shape[1] + 1)
    if counts.min() < 0:
        raise ValueError(f"counts must be 0 or more, got {counts.min():g}.")
    if not (np.diff(edges) > 0).all():
        raise ValueError("edges must ascend from each bin to the next.")
    layers = len(counts)
    if isinstance(notes, str) or not isinstance(notes, Sequence) or len(notes) not in (0, layers):
        raise ValueError(
            f"notes must be a text for each of the {layers} layers, or (), got "
            f"{checks.shown(notes)}."
        )
    for note in notes:
        figures.text("every note", note)
    ridges = overlap * counts / np.maximum(counts.max(1, keepdims=True), 1)
    artists: list[Any] = []
    for i, ridge in enumerate(ridges):
        base = layers - 1 - i
        artists.append(ax.stairs(
            base + ridge, edges, baseline=base, fill=True, alpha=0.75, facecolor=color,
            edgecolor="white", linewidth=0.8, zorder=2 + i,
        ))  # fmt: skip
        if notes:
            ax.text(
                1.01, base + 0.15, notes[i], transform=ax.get_yaxis_transform(), fontsize=9,
                va="bottom", family="monospace",
            )  # fmt: skip
    ax.set_yticks(range(layers), [str(layers - i) for i in range(layers)])
    ax.set(xlim=edges[[0, -1]], ylim=(-0.1, layers - 1 + overlap + 0.1), ylabel="hidden layer")
    ax.grid(axis="y", visible=False)
    return artists


def weights(ax: Axes, w: Values, *, limit: float) -> Any:
    """A weight matrix [fan_in, fan_out] as an image, a column per unit; colours end at `limit`."""
    figures.panel(ax)
    limit = figures.positive("limit", limit)
    w = figures.array("w", w, "[fan_in, fan_out]", None, None, finite=False)
    image = ax.imshow(
        w, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="none"
    )
    ax.set(xlabel="unit of the next layer", ylabel="unit of the layer below")
    ax.grid(visible=False)
    return image


def gradient_map(
    ax: Axes,
    scale: Values,
    depth: Values,
    log_ratio: Values,
    *,
    limit: float,
    marks: Mapping[str, float] | None = None,
    theory: Values | None = None,
) -> Any:
    """A map of a ratio over weight scale x depth, with the line where it is one.

    Args:
        ax: where.
        scale: `[scales]`, increasing, drawn on a log axis.
        depth: `[depths]`, increasing, drawn on a log axis.
        log_ratio: natural logarithms `[depths, scales]`; blue below zero, red above, white at zero.
        limit: the power of ten where the colours end.
        marks: labels and the scales they stand for, drawn as dotted lines.
        theory: the scales at which it should be zero, `[depths]`, drawn as circles on the line.

    Returns:
        The filled contours, for a colour bar.

    Raises:
        ValueError, TypeError: numbers of another shape or order.
    """
    figures.panel(ax)
    limit = figures.positive("limit", limit)
    scale = figures.increasing("scale", scale, "[scales]")
    depth = figures.increasing("depth", depth, "[depths]")
    shape = (len(depth), len(scale))
    values = figures.array("log_ratio", log_ratio, "[depths, scales]", *shape, finite=False)
    values = np.ma.masked_invalid(values / np.log(10))
    if theory is not None:
        theory = figures.array("theory", theory, "[depths]", len(depth), finite=False)
    marks = figures.mapping("marks", marks, "scales, as in {'He': 2.0}")
    for label, at in marks.items():
        figures.positive(f"the mark {label!r}", at)
    levels = np.linspace(-limit, limit, 8 * max(1, min(int(limit), 100)) + 1)
    mesh = ax.contourf(scale, depth, values, levels=levels, cmap="RdBu_r", extend="both")
    low, high = (values.min(), values.max()) if values.count() else (0.0, 0.0)
    steps = [v for v in (-20, -10, -5, -2, 2, 5, 10, 20) if abs(v) <= limit and low < v < high]
    shades = ["white" if abs(v) > limit / 2 else "0.25" for v in steps]  # readable on its ground
    if steps:
        lines = ax.contour(scale, depth, values, levels=steps, colors=shades, linewidths=0.8)
        far = [v for v in lines.levels if abs(v) > 2]  # near zero there is no room for a label
        places = _label_places(scale, depth, values, far)
        ax.clabel(lines, far, fmt=power_of_ten, fontsize=9, manual=places)
    if low < 0 < high:
        ax.contour(scale, depth, values, levels=[0.0], colors="black", linewidths=2.5)
    if theory is not None:
        ax.plot(
            theory, depth, "o", color="white", markeredgecolor="black", markersize=7,
            label="theory, infinite width", zorder=3,
        )  # fmt: skip
    ax.set(xscale="log", yscale="log")
    ticks = [d for d in (2, 5, 10, 20, 50, 100, 200, 500) if depth[0] <= d <= depth[-1]]
    ax.set_yticks(ticks, [str(d) for d in ticks])
    ax.minorticks_off()
    for i, (label, at) in enumerate(marks.items()):
        ax.axvline(at, color="black", linestyle=":", linewidth=1.2)
        ax.text(
            at, 1.01 + 0.055 * (i % 2), label, transform=ax.get_xaxis_transform(), fontsize=9,
            ha="center", va="bottom",
        )  # fmt: skip
    ax.grid(visible=False)
    return mesh


def _label_places(
    scale: np.ndarray, depth: np.ndarray, values: np.ndarray, levels: Sequence[float]
) -> list[tuple[float, float]]:
    """Where contours cross the row in the middle, or the nearest one that they cross."""
    middle = len(depth) // 2
    rows = sorted(range(1, len(depth) - 1), key=lambda row: abs(row - middle))
    places = []
    for level in levels:
        for row in rows:
            crossed = np.flatnonzero(np.diff(np.sign(values[row] - level)))
            if len(crossed):
                places += [(float(np.sqrt(scale[i] * scale[i + 1])), float(depth[row]))
                           for i in crossed]  # fmt: skip
                break
    return places
