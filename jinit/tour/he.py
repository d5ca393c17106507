"""Chapter 4: He makes up for the half that ReLU throws away."""

import math
from collections.abc import Callable

import jax
import numpy as np

import jinit
from jinit import plots
from jinit.pages.report import Chapter
from jinit.tour.histograms import beside_theory, hidden_net, measure, ridge_panel, theory_std
from jinit.tour.loss_curves import LABELS, STARTS, as_dataset, loss_panel, train_starts
from jinit.tour.setting import Setting


def chapter(key: jax.Array, setting: Setting, advance: Callable[[float], None]) -> Chapter:
    """Histograms for ReLU under He, and the loss curves of all starts together."""
    net = hidden_net("relu")
    ridges = measure(
        key, net, "he", seeds=setting.histogram_seeds, inputs=setting.histogram_inputs,
        edges=np.linspace(1e-6, 4, 61),
    )  # fmt: skip
    theory = theory_std(net, weight_var=2.0)
    advance(0.25)
    deep = jinit.MLP((64,) * (setting.hidden + 1) + (10,), activation="relu")
    curves = train_starts(
        key, deep, jinit.data.digits(), STARTS,
        seeds=setting.seeds, steps=setting.steps, learning_rate=0.05,
    )  # fmt: skip
    advance(0.75)
    accuracy = dict(zip(curves.starts, curves.accuracy.mean(1), strict=True))
    first = dict(zip(curves.starts, np.median(curves.loss[:, :, 0], 1), strict=True))
    last = dict(zip(curves.starts, np.median(curves.loss[:, :, -10:].mean(2), 1), strict=True))
    std = ridges.rms

    with plots.style():
        fig, axes = plots.figure(2, width=13.0, height=4.8)
        ridge_ax, loss_ax = axes[0]
        title = "He with ReLU: every layer speaks"
        ridge_panel(ridge_ax, ridges, title, color=plots.COLORS["he"], theory=theory)
        loss_panel(loss_ax, curves)
        loss_ax.set_ylim(1e-2, 1e3)
        loss_ax.set_title(f"Training {setting.hidden} ReLU layers, {setting.seeds} seeds", pad=18)
        loss_ax.annotate(
            f"off the chart: randn × 10 starts at {first['10 randn']:.0e}", (0.03, 0.93),
            xycoords="axes fraction", fontsize=10, color=plots.COLORS["10 randn"],
        )  # fmt: skip
        loss_ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.72))

    data = as_dataset(curves).assign(
        histogram_std=(("histogram_seed", "hidden_layer"), ridges.std),
        histogram_std_infinite_width=("hidden_layer", theory),
        histogram_counts=(("hidden_layer", "bin"), ridges.counts),
        histogram_bin_left=("bin", ridges.edges[:-1]),
    )
    words = [
        "ReLU keeps only the positive half of what arrives. He's answer is as simple as the "
        "problem: double the variance of the weights, 2/fan_in, and the half that is left has the "
        "power of the whole.",
        f"Measured here: the standard deviation of the activations is {std[0]:.3f} in the first "
        f"layer and {std[-1]:.3f} in the tenth (infinite width: √(1 - 1/π) = "
        f"{math.sqrt(1 - 1 / math.pi):.3f} in every layer). And it trains: after {setting.steps} "
        f"steps through {setting.hidden} layers the accuracy on unseen digits is "
        f"{accuracy['he']:.0%} with He and {accuracy['xavier']:.0%} with Xavier, and "
        f"{accuracy['0.01 randn']:.0%}, {accuracy['10 randn']:.0%} and {accuracy['zeros']:.0%} "
        f"with randn × 0.01, randn × 10 and zeros.",
    ]
    numbers = beside_theory("", std, theory)
    for n in curves.starts:
        measured = f"{first[n]:.3g}; {last[n]:.3g}; {accuracy[n]:.3f}"
        numbers.append((f"{LABELS[n]}: first loss; last loss; test accuracy", measured))
    return Chapter("he", "He", fig, data, words, numbers)
