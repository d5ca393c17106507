"""Chapter 5: batch norm mends a bad start."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr

import jinit
from jinit import plots
from jinit.pages.report import Chapter
from jinit.runtime import jit_once
from jinit.tour.histograms import LAYERS, hidden_net, measure, ridge_panel
from jinit.tour.setting import Setting


def _accuracies(
    net: jinit.MLP, data: jinit.Data, steps: int, seeds: int, key: jax.Array
) -> np.ndarray:
    """Test accuracy after each step, `[seeds, steps, (batch statistics, running statistics)]`."""
    y_test = jax.numpy.asarray(data.y_test)

    def accuracies(params: Any, state: Any, _: Any) -> jax.Array:
        outputs = (
            jinit.forward(net, params, state, data.x_test, train=t)[0] for t in (True, False)
        )
        return jax.numpy.stack([(each.argmax(1) == y_test).mean() for each in outputs])

    def one(key: jax.Array) -> jax.Array:
        init_key, train_key = jax.random.split(key)
        run = jinit.train(
            train_key, net, *jinit.init(init_key, net, "normal", scale=0.01), data,
            optimizer=optax.sgd(0.05), steps=steps + 1, batch_size=128,
            record=accuracies, record_at=range(1, steps + 1),
        )  # fmt: skip
        return run.history.record

    return np.asarray(jit_once(jax.vmap(one))(jax.random.split(key, seeds)))


def _first_step(runs: np.ndarray, goal: float) -> str:
    """When the median of `[seeds, steps]` first reaches the goal, in words."""
    reached = np.flatnonzero(np.median(runs, 0) >= goal)
    return f"at step {reached[0] + 1}" if len(reached) else "not within this training"


def chapter(key: jax.Array, setting: Setting, advance: Callable[[float], None]) -> Chapter:
    """A ReLU net started from `randn * 0.01`, without and with batch norm."""
    edges = np.linspace(0, 3, 61)
    edges[0] = 1e-30  # what ReLU has switched off is left out
    sizes: dict[str, Any] = {"seeds": 1, "inputs": setting.histogram_inputs, "scale": 0.01}
    ridges = {
        norm: measure(key, hidden_net("relu", norm=norm), "normal", edges=edges, **sizes)
        for norm in (None, "batch")
    }
    advance(0.3)
    seeds = max(2, setting.seeds // 2)
    digits = jinit.data.digits()
    curves = {}
    for norm in (None, "batch"):
        net = jinit.MLP((64,) * (setting.hidden + 1) + (10,), activation="relu", norm=norm)
        curves[norm] = _accuracies(net, digits, setting.steps, seeds, key)
        advance(0.35)
    std = {norm: r.rms for norm, r in ridges.items()}
    plain, batch, running = curves[None][..., 1], curves["batch"][..., 0], curves["batch"][..., 1]
    goal = 0.9 * float(np.median(batch, 0)[-1])
    lead, lag = _first_step(batch, goal), _first_step(running, goal)

    with plots.style():
        fig, axes = plots.figure(3, width=15.5, height=4.8, width_ratios=[1, 1, 1.2])
        plain_ax, batch_ax, train_ax = axes[0]
        blue, orange = plots.COLORS["0.01 randn"], plots.COLORS["batch norm"]
        ridge_panel(plain_ax, ridges[None], "ReLU, randn × 0.01", color=blue)
        ridge_panel(batch_ax, ridges["batch"], "The same with batch norm", color=orange)
        steps = np.arange(1, setting.steps + 1)
        plots.band(train_ax, steps, batch, label="batch norm, batch statistics",
                   color=plots.COLORS["batch norm"])  # fmt: skip
        plots.band(train_ax, steps, running, label="batch norm, running statistics",
                   color=plots.COLORS["he"], linestyle="--")  # fmt: skip
        plots.band(train_ax, steps, plain, label="no batch norm", color=plots.COLORS["0.01 randn"])
        train_ax.set(xlabel="training step", ylabel="accuracy on unseen digits", ylim=(0, 1.02))
        train_ax.set_title(f"Training {setting.hidden} such layers, {seeds} seeds", pad=18)
        train_ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.4))

    data = xr.Dataset(
        {
            "accuracy": (
                ("norm", "seed", "step", "statistics"), np.stack(list(curves.values())),
            ),
            "act_std": (("norm", "hidden_layer"), np.stack(list(std.values()))),
            "counts": (
                ("norm", "hidden_layer", "bin"), np.stack([r.counts for r in ridges.values()]),
            ),
            "bin_left": ("bin", edges[:-1]),
        },
        {
            "norm": ["none", "batch"], "statistics": ["batch", "running"],
            "hidden_layer": 1 + np.arange(LAYERS),
        },
    )  # fmt: skip
    shrink = (std[None][-1] / std[None][0]) ** (1 / (LAYERS - 1))
    words = [
        "Batch norm does not trust the weights. In every layer it subtracts each unit's mean over "
        "the batch and divides by its standard deviation, so that the next layer always receives "
        "a signal of unit size, whatever the scale of the weights. A single example has no batch; "
        "so the layer keeps running averages while it trains and uses those when it is asked.",
        f"Measured here from the same bad start, randn × 0.01: without batch norm the standard "
        f"deviation of the activations shrinks {1 / shrink:.1f} times per layer, to "
        f"{std[None][-1]:.1e} in the tenth; with it, it is {std['batch'][-1]:.2f} there. After "
        f"{setting.steps} steps through {setting.hidden} layers the accuracy on unseen digits is "
        f"{plain[:, -1].mean():.0%} without and {running[:, -1].mean():.0%} with batch norm. "
        f"With the statistics of the batch the net first comes within a tenth of its final "
        f"accuracy {lead}; with the running ones, which still remember their start, {lag}.",
    ]
    numbers = [
        ("std of the activations, layer 10, without", f"{std[None][-1]:.2e}"),
        ("std of the activations, layer 10, with", f"{std['batch'][-1]:.3f}"),
        ("infinite-width std of a normalised ReLU, √(1/2 - 1/(2π))",
         f"{math.sqrt(0.5 - 0.5 / math.pi):.3f}"),
        ("test accuracy without", f"{plain[:, -1].mean():.3f}"),
        ("test accuracy with, batch statistics", f"{batch[:, -1].mean():.3f}"),
        ("test accuracy with, running statistics", f"{running[:, -1].mean():.3f}"),
    ]  # fmt: skip
    return Chapter("batch-norm", "Batch norm", fig, data, words, numbers)
