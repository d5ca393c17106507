"""Theory beside measurement."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jinit import checks
from jinit.plots import figures
from jinit.plots.figures import COLORS, figure, need, power_of_ten, style


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
    need("measured", measured, ("log_act", "log_grad"), "jinit.layer_signals")
    need("theory", theory, ("q", "log_act", "log_grad_band"), "jinit.theory.trajectory")
    figures.text("title", title)
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
        for ax, runs, line, scatter, heading, ylabel in (
            (axes[0][0], log_act[:, :depth], theory.log_act, theory.log_act_band,
             "Forward: the signal", "root mean square of the activations"),
            (axes[0][1], log_grad, theory.log_grad, theory.log_grad_band,
             "Backward: the gradient", "gradient, relative to the last hidden layer"),
        ):  # fmt: skip
            _predicted(ax, line, scatter)
            _measured(ax, runs)
            ax.set(title=heading, ylabel=ylabel, xlabel="hidden layer")
            ax.margins(x=0.02)
            _powers_of_ten(ax)
        axes[0][0].legend(loc="best")
        if title:
            fig.suptitle(title, fontweight="bold")
    return fig


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
        low, high = ax.set_ylim(middle - 0.2, middle + 0.2)
    if high - low > 2.5:
        ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.yaxis.set_major_formatter(power_of_ten)
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
    need("theory", theory, ("log_chi", "line"), "jinit.theory.phase_diagram")
    figures.text("title", title)
    limit = limit if limit is None else figures.positive("limit", limit)
    marks = figures.mapping("marks", marks, "(weight_var, bias_var), as in {'He': (2.0, 0.0)}")
    for label, at in marks.items():
        figures.array(f"the mark {label!r}", at, "(weight_var, bias_var)", 2)
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
        _stars(ax, marks)
        ax.tick_params(pad=10)  # marks and circles may lie on the axes
        ax.set(xlabel="variance of the weights × fan_in", ylabel="variance of the biases")
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
    if not isinstance(measured, Mapping):
        raise TypeError(f"{fix}, got {checks.shown(measured)}.")
    missing = [name for name in fields if name not in measured]
    if missing:
        raise ValueError(f"{fix}, got none for {missing[0]!r}.")
    for name in fields:
        checks.numeric(f"measured[{name!r}]", measured[name])
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
