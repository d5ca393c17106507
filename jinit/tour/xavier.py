"""Chapter 3: Xavier keeps tanh alive and lets ReLU collapse."""

from collections.abc import Callable

import jax
import numpy as np
import xarray as xr

from jinit import plots
from jinit.pages.report import Chapter
from jinit.tour import histograms
from jinit.tour.histograms import LAYERS, WIDTH
from jinit.tour.setting import Setting


def chapter(key: jax.Array, setting: Setting, advance: Callable[[float], None]) -> Chapter:
    """Histograms for tanh and ReLU under Xavier, beside the infinite-width std."""
    sizes = {"seeds": setting.histogram_seeds, "inputs": setting.histogram_inputs}
    edges = {"tanh": np.linspace(-1, 1, 61), "relu": np.linspace(1e-6, 2, 61)}
    measured, theory = {}, {}
    for activation, bins in edges.items():
        net = histograms.hidden_net(activation)
        measured[activation] = histograms.measure(key, net, "xavier", edges=bins, **sizes)
        theory[activation] = histograms.theory_std(net, weight_var=1.0)
        advance(0.5)
    std = {a: m.rms for a, m in measured.items()}
    worst = max(float(np.max(np.abs(std[a] / theory[a] - 1))) for a in std)

    with plots.style():
        fig, axes = plots.figure(2, width=13.0, height=4.8)
        for ax, a, title, name in (
            (axes[0][0], "tanh", "Xavier with tanh: every layer speaks", "xavier"),
            (axes[0][1], "relu", "Xavier with ReLU: the signal collapses", "10 randn"),
        ):
            color = plots.COLORS[name]
            histograms.ridge_panel(ax, measured[a], title, color=color, theory=theory[a])

    data = xr.Dataset(
        {
            "act_std": (
                ("activation", "seed", "layer"), np.stack([m.std for m in measured.values()]),
            ),
            "act_std_infinite_width": (("activation", "layer"), np.stack(list(theory.values()))),
            "counts": (
                ("activation", "layer", "bin"), np.stack([m.counts for m in measured.values()]),
            ),
            "bin_left": (("activation", "bin"), np.stack([e[:-1] for e in edges.values()])),
        },
        {"activation": list(edges), "layer": 1 + np.arange(LAYERS)},
    )  # fmt: skip
    words = [
        "A unit adds up fan_in inputs, so its variance is fan_in times that of a weight times the "
        "size of the signal. Xavier's idea: give the weights a variance of 1/fan_in, and a layer "
        "neither shrinks nor stretches what it hands on, as long as its activation is close to a "
        "straight line around zero, as tanh is. ReLU throws away the negative half, and with it "
        "half of the signal's power, at every layer.",
        f"Measured here on ten layers of {WIDTH} units: with tanh the standard deviation of the "
        f"activations is {std['tanh'][0]:.3f} in the first layer and still {std['tanh'][-1]:.3f} "
        f"in the tenth; with ReLU it falls from {std['relu'][0]:.3f} to {std['relu'][-1]:.3f}, "
        f"{(std['relu'][-1] / std['relu'][0]) ** (1 / (LAYERS - 1)):.2f} times per layer (theory: "
        f"1/√2 = 0.71). Infinitely wide networks, computed without drawing a weight, agree to "
        f"{worst:.1%} (the networks here are finite and scatter from seed to seed).",
    ]
    numbers = [row for a in edges for row in histograms.beside_theory(f"{a}, ", std[a], theory[a])]
    return Chapter("xavier", "Xavier", fig, data, words, numbers)
