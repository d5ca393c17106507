"""Chapter 2: random weights, too small and too large."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

import jinit
from jinit import plots
from jinit.pages.report import Chapter
from jinit.tour.loss_curves import STARTS, Curves, train_starts
from jinit.tour.setting import Setting

__all__ = ["as_dataset", "chapter", "loss_panel"]

LABELS = {
    "zeros": "zeros",
    "0.01 randn": "randn × 0.01",
    "10 randn": "randn × 10",
    "xavier": "Xavier",
    "he": "He",
}


def loss_panel(ax: Axes, curves: Curves) -> None:
    """Median loss and 10 to 90 % band over seeds, on a log axis."""
    for name, runs in zip(curves.starts, curves.loss, strict=True):
        # What does not learn lies on one line: the next one shows through the dashes of zeros.
        line: dict[str, Any] = {"linestyle": (0, (4, 4)), "zorder": 3} if name == "zeros" else {}
        plots.band(
            ax, np.arange(1, runs.shape[1] + 1), runs, label=LABELS[name],
            color=plots.COLORS[name], **line,
        )  # fmt: skip
    ax.set(xlabel="training step", ylabel="training loss", xlim=(1, curves.loss.shape[2]))
    ax.set_yscale("log")
    ax.axhline(math.log(10), color="black", linestyle=":", linewidth=1.2, zorder=1)


def as_dataset(curves: Curves) -> xr.Dataset:
    """The curves, and the signals where they were measured, with named dimensions."""
    data = xr.Dataset(
        {
            "loss": (("start", "seed", "step"), curves.loss),
            "accuracy": (("start", "seed"), curves.accuracy),
        },
        {"start": list(curves.starts)},
    )
    if curves.signals is None:
        return data
    layer = ("start", "seed", "layer")
    return data.assign(
        log_grad=(layer, curves.signals.log_grad),
        saturated=(layer, curves.signals.saturated),
        act_std=(layer, curves.signals.act_std),
    ).assign_coords(layer=1 + np.arange(curves.signals.log_grad.shape[-1]))


def chapter(key: jax.Array, setting: Setting, advance: Callable[[float], None]) -> Chapter:
    """`randn * 0.01` and `randn * 10` in a tanh net, beside Xavier."""
    net = jinit.MLP((64,) * (setting.hidden + 1) + (10,), activation="tanh")
    starts = {name: STARTS[name] for name in ("0.01 randn", "10 randn", "xavier")}
    curves = train_starts(
        key, net, jinit.data.digits(), starts,
        seeds=setting.seeds, steps=setting.steps, learning_rate=0.1, signals=True,
    )  # fmt: skip
    advance(1.0)
    decades = np.asarray(curves.signals.log_grad) / math.log(10)
    layers = 1 + np.arange(decades.shape[-1])
    grad = dict(zip(curves.starts, decades, strict=True))
    per_layer = {n: 10 ** np.polyfit(layers[:-1], g[:, :-1].mean(0), 1)[0] for n, g in grad.items()}
    accuracy = dict(zip(curves.starts, curves.accuracy.mean(1), strict=True))
    loss = dict(zip(curves.starts, curves.loss, strict=True))
    saturated = dict(zip(curves.starts, curves.signals.saturated.mean(1), strict=True))

    with plots.style():
        fig, axes = plots.figure(2)
        loss_ax, grad_ax = axes[0]
        loss_panel(loss_ax, curves)
        loss_ax.set_title(f"Training {setting.hidden} tanh layers, {setting.seeds} seeds")
        loss_ax.annotate(
            "ln 10: guessing", (1, math.log(10)), xytext=(6, 4), textcoords="offset points",
            fontsize=10,
        )  # fmt: skip
        loss_ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.62))
        for name, runs in grad.items():
            plots.band(
                grad_ax, layers, runs, label=LABELS[name], color=plots.COLORS[name], marker="o"
            )
        grad_ax.set(
            xlabel="layer (1 = next to the input)", ylabel="root mean square of the gradient"
        )
        grad_ax.yaxis.set_major_formatter(plots.power_of_ten)
        grad_ax.set_title("Gradient reaching each layer, before training")
        grad_ax.legend(loc="lower right")

    small = per_layer["0.01 randn"]
    shrink = 10 ** float((grad["0.01 randn"][:, 0] - grad["0.01 randn"][:, -2]).mean())
    words = [
        "Random numbers break the symmetry, but how large should they be? On its way back the "
        "error is multiplied by the weights and by the slope of tanh at every layer. Factors below "
        "one leave nothing for the first layers (the gradient vanishes); very large weights push "
        "tanh to its flat ends, where most units no longer listen, while the few that do pass on "
        "an exploding gradient.",
        f"Measured here: with randn × 0.01 the gradient shrinks by a factor of {small:.0f} per "
        f"layer on its way back, to {shrink:.0e} of its size at the first layer, and after "
        f"{setting.steps} steps the accuracy on unseen digits is {accuracy['0.01 randn']:.0%}. "
        f"With randn × 10, {saturated['10 randn'][1]:.0%} of the second layer's units are "
        f"saturated, the first loss is {np.median(loss['10 randn'][:, 0]):.0f} and the accuracy "
        f"ends at {accuracy['10 randn']:.0%}. Xavier, the next chapter, reaches "
        f"{accuracy['xavier']:.0%}.",
    ]
    numbers = [
        *(
            (f"gradient times, per layer on its way back, {LABELS[n]}", f"{1 / factor:.3g}")
            for n, factor in per_layer.items()
        ),
        *((f"test accuracy, {LABELS[n]}", f"{a:.3f}") for n, a in accuracy.items()),
    ]
    return Chapter("random", "Random", fig, as_dataset(curves), words, numbers)
