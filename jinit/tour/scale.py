"""Chapter 2: random weights, too small and too large."""

import math
from collections.abc import Callable

import jax
import numpy as np

import jinit
from jinit import plots
from jinit.pages.report import Chapter
from jinit.tour.loss_curves import LABELS, STARTS, as_dataset, loss_panel, train_starts
from jinit.tour.setting import Setting


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
        (f"gradient times, per layer on its way back, {LABELS[n]}", f"{1 / factor:.3g}")
        for n, factor in per_layer.items()
    ]
    numbers += [(f"test accuracy, {LABELS[n]}", f"{a:.3f}") for n, a in accuracy.items()]
    return Chapter("random", "Random", fig, as_dataset(curves), words, numbers)
