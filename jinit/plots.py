"""Results into pictures. Every function takes results and an Axes, draws, and returns the artists.

Nothing is computed here beyond averages and quantiles over runs. Colours are Okabe and Ito's,
which stay apart for colour-blind readers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from jinit.types import AnyArray

__all__ = [
    "COLORS",
    "band",
    "coordinate_check",
    "diagnosis",
    "figure",
    "gradient_map",
    "grid",
    "histograms",
    "phase_diagram",
    "signals",
    "style",
    "weights",
]

Values = Sequence[Any] | AnyArray
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
    """
    values = np.where(np.isnan(runs), np.inf, np.asarray(runs, float))
    low, middle, high = np.quantile(values, [quantiles[0], 0.5, quantiles[1]], 0, method="nearest")
    # An infinite loss is drawn as far up as the axis reaches, not left out.
    cap = np.finfo(np.float32).max
    low, middle, high = (np.minimum(v, cap) for v in (low, middle, high))
    (median,) = ax.plot(x, middle, color=color, label=label, **line)
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
    """
    counts, edges = np.asarray(counts, float), np.asarray(edges, float)
    layers = len(counts)
    peaks = np.maximum(counts.max(1, keepdims=True), 1)
    ridges = overlap * counts / peaks
    artists: list[Any] = []
    for i, ridge in enumerate(ridges):
        base = layers - 1 - i
        artists.append(
            ax.stairs(
                base + ridge, edges, baseline=base, fill=True, alpha=0.75, facecolor=color,
                edgecolor="white", linewidth=0.8, zorder=2 + i,
            )
        )  # fmt: skip
        if notes:
            ax.text(
                1.01, base + 0.15, notes[i], transform=ax.get_yaxis_transform(), fontsize=9,
                va="bottom", family="monospace",
            )  # fmt: skip
    ax.set_yticks(range(layers), [str(layers - i) for i in range(layers)])
    ax.set_ylabel("hidden layer")
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(-0.1, layers - 1 + overlap + 0.1)
    ax.grid(axis="y", visible=False)
    return artists


def weights(ax: Axes, w: Values, *, limit: float) -> Any:
    """A weight matrix [fan_in, fan_out] as an image, one column per unit."""
    image = ax.imshow(
        np.asarray(w), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="none"
    )
    ax.set_xlabel("unit of the next layer")
    ax.set_ylabel("unit of the layer below")
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
    """A map over weight scale x depth, with the line where it is zero.

    Args:
        ax: where.
        scale: `[scales]`, increasing, drawn on a log axis.
        depth: `[depths]`, increasing, drawn on a log axis.
        log_ratio: `[depths, scales]`; blue below zero, red above, white at zero.
        limit: where the colours end.
        marks: labels and the scales they stand for, drawn as dotted lines.
        theory: the scales at which it should be zero, `[depths]`, drawn as circles on the line.

    Returns:
        The filled contours, for a colour bar.
    """
    scale, depth, values = np.asarray(scale), np.asarray(depth, float), np.asarray(log_ratio)
    levels = np.linspace(-limit, limit, 8 * int(limit) + 1)
    mesh = ax.contourf(scale, depth, values, levels=levels, cmap="RdBu_r", extend="both")
    steps = [v for v in (-20, -10, -5, -2, 2, 5, 10, 20) if abs(v) <= limit]
    shades = ["white" if abs(v) > limit / 2 else "0.25" for v in steps]  # readable on its ground
    lines = ax.contour(scale, depth, values, levels=steps, colors=shades, linewidths=0.8)
    far = [v for v in lines.levels if abs(v) > 2]  # near zero there is no room for a label
    ax.clabel(
        lines, far, fmt=lambda v: f"$10^{{{v:.0f}}}$", fontsize=9,
        manual=_label_places(np.asarray(scale), np.asarray(depth), values, far),
    )  # fmt: skip
    ax.contour(scale, depth, values, levels=[0.0], colors="black", linewidths=2.5)
    if theory is not None:
        ax.plot(
            np.asarray(theory), depth, "o", color="white", markeredgecolor="black", markersize=7,
            label="theory, infinite width", zorder=3,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = [d for d in (2, 5, 10, 20, 50, 100, 200, 500) if depth[0] <= d <= depth[-1]]
    ax.set_yticks(ticks, [str(d) for d in ticks])
    ax.minorticks_off()
    for i, (label, at) in enumerate((marks or {}).items()):
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


# --- theory beside measurement ---------------------------------------------------------------


def signals(measured: Any, theory: Any, *, title: str = "") -> Figure:
    """Activations and gradients layer by layer, predicted and measured, in one picture.

    Args:
        measured: `jinit.layer_signals` of one network, or of many under `jax.vmap` (arrays
            `[..., layers]`); the last layer is the readout.
        theory: `jinit.theory.trajectory` of as many hidden layers; with `width=`, its bands of
            one, two and three standard deviations over draws are shown.
        title: of the picture.

    Returns:
        The figure: points are means over networks, with bars of one standard deviation.

    Raises:
        ValueError: different numbers of layers.
    """
    _need("measured", measured, ("log_act", "log_grad"), "jinit.layer_signals")
    _need("theory", theory, ("q", "log_act", "log_grad_band"), "jinit.theory.trajectory")
    log_act, log_grad = _runs(measured.log_act), _runs(measured.log_grad)
    depth = len(theory.q)
    if log_act.shape[1] != depth + 1:
        raise ValueError(
            f"signals needs theory for every hidden layer, got {log_act.shape[1]} measured layers "
            f"(the last of them the readout) and theory for {depth}; use "
            f"depth={log_act.shape[1] - 1}."
        )
    with np.errstate(invalid="ignore"):  # a gradient of 0 has no ratio to another one of 0
        log_grad = log_grad[:, :depth] - log_grad[:, depth - 1 : depth]
    with style():
        fig, axes = figure(2, width=12.0, height=4.4)
        for ax, runs, line, scatter, words in (
            (axes[0][0], log_act[:, :depth], theory.log_act, theory.log_act_band,
             ("Forward: the signal", "root mean square of the activations")),
            (axes[0][1], log_grad, theory.log_grad, theory.log_grad_band,
             ("Backward: the gradient", "gradient, relative to the last hidden layer")),
        ):  # fmt: skip
            _predicted(ax, line, scatter)
            _measured(ax, runs)
            ax.set_title(words[0])
            ax.set_ylabel(words[1])
            ax.set_xlabel("hidden layer")
            ax.margins(x=0.02)
            _powers_of_ten(ax)
        axes[0][0].legend(loc="best")
        if title:
            fig.suptitle(title, fontweight="bold")
    return fig


def _need(what: str, value: Any, fields: Sequence[str], source: str) -> None:
    missing = [field for field in fields if not hasattr(value, field)]
    if missing:
        raise TypeError(
            f"{what} must be what {source} returns, got {type(value).__name__}, which has no "
            f"{missing[0]!r}."
        )


def _runs(logs: Any) -> np.ndarray:
    array = np.asarray(logs, float)
    return array.reshape(-1, array.shape[-1]) / np.log(10)


def _predicted(ax: Axes, line: Any, scatter: Any) -> None:
    layer = np.arange(1, len(line) + 1)
    ax.plot(
        layer, np.asarray(line) / np.log(10), color=COLORS["theory"],
        label="theory, infinite width", zorder=2,
    )  # fmt: skip
    if scatter is None:
        return
    middle, std = np.asarray(scatter.mean) / np.log(10), np.asarray(scatter.std) / np.log(10)
    for widths in (3, 2, 1):
        ax.fill_between(
            layer, middle - widths * std, middle + widths * std, color="0.5", alpha=0.18,
            linewidth=0, zorder=1, label="theory, this width: 1, 2, 3 std" if widths == 1 else None,
        )  # fmt: skip


def _measured(ax: Axes, runs: np.ndarray) -> None:
    layer = np.arange(1, runs.shape[1] + 1)
    count = len(runs)
    runs = np.where(np.isfinite(runs), runs, np.nan)  # what has vanished cannot be drawn
    label = "measured" if count == 1 else f"measured: mean and std of {count} networks"
    ax.errorbar(
        layer, runs.mean(0), yerr=runs.std(0, ddof=1) if count > 1 else None, fmt="o",
        markersize=4.5, color=COLORS["xavier"], elinewidth=1.2, capsize=0, label=label, zorder=3,
    )  # fmt: skip


def _powers_of_ten(ax: Axes) -> None:
    """Values are logarithms to base 10; numbers are read more easily than their logarithms."""
    low, high = ax.get_ylim()
    if high - low < 0.4:
        middle = (low + high) / 2
        low, high = middle - 0.2, middle + 0.2
        ax.set_ylim(low, high)
    if high - low > 2.5:
        ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.yaxis.set_major_formatter(lambda v, _: f"$10^{{{v:.0f}}}$")
        return
    steps = [m * 10.0**k for k in range(-9, 10) for m in (1, 1.5, 2, 3, 5, 7)]
    ticks = [t for t in steps if low <= np.log10(t) <= high]
    ax.set_yticks(np.log10(ticks), [f"{t:g}" for t in ticks])


def phase_diagram(
    theory: Any,
    measured: Mapping[str, Any] | None = None,
    *,
    marks: Mapping[str, tuple[float, float]] | None = None,
    limit: float | None = None,
    title: str = "",
) -> Figure:
    """Order and chaos over weight x bias variance, with the edge between them.

    Args:
        theory: `jinit.theory.phase_diagram`.
        measured: "weight_var", "bias_var" and "log_slope" (log growth per layer of the mean
            squared gradient) `[points]`, as a mapping or a Dataset; drawn as circles in the same
            colours, which vanish into the map where theory is right.
        marks: labels and the (weight_var, bias_var) they stand for.
        limit: growth per layer at which the colours end.
        title: of the picture.
    """
    _need("theory", theory, ("log_chi", "line"), "jinit.theory.phase_diagram")
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be a positive growth per layer, got {limit!r}.")
    points = None if measured is None else _points(measured)
    values = np.asarray(theory.log_chi)
    limit = float(np.clip(np.quantile(np.abs(values), 0.8), 0.1, 2.0)) if limit is None else limit
    with style():
        fig, axes = figure(1, width=8.2, height=5.6)
        ax = axes[0][0]
        mesh = ax.contourf(
            theory.weight_var, theory.bias_var, values, levels=np.linspace(-limit, limit, 33),
            cmap="RdBu_r", extend="both",
        )  # fmt: skip
        _edge(ax, theory.line)
        if points is not None:
            ax.scatter(
                points["weight_var"], points["bias_var"], c=points["log_slope"], cmap="RdBu_r",
                vmin=-limit, vmax=limit, s=90, edgecolors="black", linewidths=1.0, clip_on=False,
                zorder=5,
            )  # fmt: skip
            ax.scatter([], [], s=90, c="white", edgecolors="black", label="measured networks")
        ax.set_xlim(theory.weight_var[0], theory.weight_var[-1])
        ax.set_ylim(theory.bias_var[0], theory.bias_var[-1])
        _stars(ax, marks or {})
        ax.tick_params(pad=10)  # marks and circles may lie on the axes
        ax.set_xlabel("variance of the weights × fan_in")
        ax.set_ylabel("variance of the biases")
        ax.set_title(title or f"{theory.activation}: where gradients vanish and explode", pad=12)
        ax.grid(visible=False)
        bar = fig.colorbar(mesh, ax=ax, pad=0.02)
        bar.set_label("factor of the gradient per layer on its way back\n"
                      "blue: vanishes (ordered), red: explodes (chaotic)")  # fmt: skip
        factors = [f for f in _FACTORS if abs(2 * np.log(f)) <= limit]
        bar.set_ticks([2 * float(np.log(f)) for f in factors], labels=[f"× {f:g}" for f in factors])
        if ax.get_legend_handles_labels()[0]:
            fig.legend(loc="outside lower center", ncols=3)
    return fig


def _points(measured: Mapping[str, Any]) -> dict[str, np.ndarray]:
    fields = ("weight_var", "bias_var", "log_slope")
    fix = f"measured must hold {', '.join(map(repr, fields))}, each [points]"
    missing = [name for name in fields if name not in measured]
    if missing:
        raise ValueError(f"{fix}, got none for {missing[0]!r}.")
    points = {name: np.asarray(measured[name], float).ravel() for name in fields}
    if len({len(values) for values in points.values()}) > 1:
        raise ValueError(f"{fix}, got {', '.join(str(len(v)) for v in points.values())} of them.")
    return points


_FACTORS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5)


def _stars(ax: Axes, marks: Mapping[str, tuple[float, float]]) -> None:
    """Labelled stars; those that would lie on one another share a label."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    groups: list[tuple[float, float, list[str]]] = []
    for label, (x, y) in marks.items():
        for gx, gy, labels in groups:
            if abs(x - gx) < 0.03 * (right - left) and abs(y - gy) < 0.03 * (high - low):
                labels.append(label)
                break
        else:
            groups.append((x, y, [label]))
        ax.plot(
            x, y, "*", color="#F0E442", markeredgecolor="black", markersize=16, clip_on=False,
            zorder=6,
        )  # fmt: skip
    for x, y, labels in groups:
        near_right = x > left + 0.75 * (right - left)
        ax.annotate(
            ", ".join(labels), (x, y), xytext=(-7 if near_right else 7, 8),
            textcoords="offset points", fontsize=10, zorder=7, annotation_clip=False,
            ha="right" if near_right else "left",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.75,
                  "edgecolor": "none"},
        )  # fmt: skip


def _edge(ax: Axes, line: Any) -> None:
    """The edge of chaos: dashed where lengths run away from it, a dot where it is one point."""
    if not len(line.q):
        return
    w, b = np.asarray(line.weight_var), np.asarray(line.bias_var)
    if np.ptp(w) < 1e-9 and np.ptp(b) < 1e-9:
        ax.plot(w[0], b[0], "o", color="none", markeredgecolor="black", markeredgewidth=2.5,
                markersize=22, clip_on=False, zorder=4, label="edge of chaos: this point",
                linestyle="none")  # fmt: skip
        return
    stable = np.asarray(line.chi_parallel) <= 1 + 1e-9
    if stable.any():
        kept = np.where(stable, b, np.nan)
        ax.plot(w, kept, color="black", linewidth=2.5, label="edge of chaos", zorder=4)
    if not stable.all():
        kept = np.where(stable, np.nan, b)
        ax.plot(w, kept, "--", color="black", linewidth=2.0, zorder=4,
                label="edge of chaos, but lengths run away from it")  # fmt: skip


# --- sweeps ------------------------------------------------------------------------------------

_MOST_PANELS = 12


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
            (axes[0][0], "log_rms", COLORS["xavier"], "Forward: root mean square of the signal"),
            (axes[1][0], "log_grad", COLORS["10 randn"], "Backward: that of the gradient"),
        ):  # fmt: skip
            values = np.array([getattr(row, field) for row in rows])
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
    dataset: Any,
    axes: Sequence[Axes] | None = None,
    *,
    variable: str = "size",
    title: str = "",
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
    if variable not in ("size", "change") or variable not in dataset:
        raise ValueError(f"variable must be 'size' or 'change' of the Dataset, got {variable!r}.")
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
            panels = list(axes)
            fig = panels[0].get_figure()  # type: ignore[assignment]
        for ax, step in zip(panels, steps, strict=True):
            for i, layer in enumerate(layers):
                ax.plot(
                    dataset["width"].values, finite.sel(step=step).values[i], "o-", markersize=4,
                    color=_ramp(i, len(layers)), label=_short(layer),
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


def _ramp(i: int, count: int) -> Any:
    """From the first layer, dark, to the last, light."""
    return colormaps["viridis"](0.9 * i / max(count - 1, 1))


def _short(layer: str) -> str:
    return layer if len(layer) <= 26 else f"...{layer[-24:]}"


def grid(dataset: Any, variable: str | None = None, *, title: str = "") -> Figure:
    """A variable of a sweep over its two longest numeric axes, the median over seeds.

    A map where there are two such axes, lines where there is one; a panel for each combination of
    the other axes.

    Args:
        dataset: what `jinit.sweep` or `jinit.load` returns.
        variable: which; None takes the first with one number per network.
        title: of the picture.

    Raises:
        ValueError: a variable that is not there or has dimensions of its own, or too many panels.
    """
    plain = [
        name for name, each in dataset.data_vars.items() if set(each.dims) <= set(dataset.coords)
    ]
    name = variable if variable is not None else (plain or [None])[0]
    if name not in plain:
        raise ValueError(
            f"variable must have one number per network, got {name!r}; choose among "
            f"{', '.join(map(repr, plain)) or 'none'}."
        )
    values = dataset[name].astype(float).median("seed")
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
    crosses = low < 0 < high
    with style():
        fig, axes = figure(
            columns, rows=rows, width=1.5 + 4.0 * columns, height=0.8 + 3.4 * rows,
            sharex=True, sharey=True,
        )  # fmt: skip
        for i, ax in enumerate(axes.flat):
            if i >= count:
                ax.set_visible(False)
                continue
            panel = panels.isel(panel=i)
            mesh = _panel(ax, panel, across, upwards, low, high, crosses)
            here = [f"{d} = {panel.coords[d].item()}" for d in rest if values.sizes[d] > 1]
            ax.set_title(", ".join(here), fontsize=10)
            if i >= count - columns:
                ax.set_xlabel(across)
            if i % columns == 0:
                ax.set_ylabel(upwards or name)
        if upwards is not None:
            bar = fig.colorbar(mesh, ax=list(axes.flat), pad=0.015)
            bar.set_label(f"{name} (median over {dataset.sizes['seed']} seeds)")
        if title or not rest:
            fig.suptitle(title or name, fontweight="bold")
    return fig


def _panel(
    ax: Axes, panel: Any, across: str, upwards: str | None, low: float, high: float, crosses: bool
) -> Any:
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
    if crosses:
        high = max(abs(low), abs(high))
        low = -high
    cells = panel.transpose(upwards, across).values
    mesh = ax.pcolormesh(
        x, y, np.ma.masked_invalid(cells), shading="nearest", vmin=low, vmax=high,
        cmap="RdBu_r" if crosses else "viridis",
    )  # fmt: skip
    ax.set_facecolor("0.8")  # what diverged
    ax.grid(visible=False)
    return mesh


def _is_geometric(x: np.ndarray) -> bool:
    """Whether values spread over more than a factor of 10 and bunch at the lower end."""
    ordered = np.sort(x)
    return bool(ordered[0] > 0 and ordered[-1] / ordered[0] > 9 and
                np.median(ordered) < (ordered[0] + ordered[-1]) / 2.5)  # fmt: skip
