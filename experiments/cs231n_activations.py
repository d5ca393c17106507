"""The activation statistics of CS231n 2016, lecture 5: ten layers of 500 units at initialisation.

1000 inputs from N(0, I_500) pass ten layers without biases: tanh with weights `0.01 * randn`, tanh
with `randn / sqrt(fan_in)` (Xavier) and ReLU with `randn * sqrt(2 / fan_in)` (He). The expected
numbers are those of infinite width, by the lecture's formula. They are compared with the root mean
square over seeds of real networks, and with `jinit.theory.trajectory`.

Source: Li, Karpathy & Johnson, CS231n 2016, lecture 5, "Weight initialization".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from harness.checks import STANDARD_ERRORS, Check, compare, printed, root_mean_square
from harness.experiment import Experiment
from harness.figures import BLUE, GREEN, ORANGE, Figure, label, panels, points

import jinit

WIDTH, DEPTH, SAMPLES = 500, 10, 1000
LAYERS = np.arange(1, DEPTH + 1)
FINITE_WIDTH_BIAS = 0.002  # of a squared average at width 500, relative
CEILING = 0.1  # of the histograms drawn; higher bins are cut, with their share written beside


class Setting(NamedTuple):
    """A network of the lecture, and its published infinite-width numbers layer by layer."""

    title: str
    activation: str
    scheme: str
    options: dict[str, float]
    weight_var: float
    published: dict[str, str]
    bins: np.ndarray  # edges of an odd number: one is centred on zero
    style: dict[str, Any]


SETTINGS = {
    "tanh, 0.01 randn": Setting(
        "tanh, weights 0.01 randn: collapses to zero",
        "tanh", "normal", {"scale": 0.01}, WIDTH * 0.01**2,
        {"std": "0.213546 0.0476421 0.0106519 0.00238182 5.32592e-4 "
                "1.19091e-4 2.66296e-5 5.95456e-6 1.33148e-6 2.97728e-7"},
        np.linspace(-1, 1, 52), {"color": ORANGE, "marker": "s"},
    ),
    "tanh, Xavier": Setting(
        "tanh, weights randn / sqrt(fan_in)  (Xavier): stays alive",
        "tanh", "xavier", {}, 1.0,
        {"std": "0.627929 0.486262 0.408236 0.357638 0.321622 "
                "0.294390 0.272911 0.255430 0.240856 0.228473"},
        np.linspace(-1, 1, 52), {"color": BLUE, "marker": "o"},
    ),
    "ReLU, He": Setting(
        "ReLU, weights randn sqrt(2 / fan_in)  (He): the same in every layer",
        "relu", "he", {}, 2.0,
        {"mean": " ".join(["0.564190"] * DEPTH), "std": " ".join(["0.825645"] * DEPTH)},
        np.linspace(0, 4, 52), {"color": GREEN, "marker": "^"},
    ),
}  # fmt: skip


def measure(seeds: int = 20) -> xr.Dataset:
    """Mean and standard deviation of the activations by layer, and histograms of seed 0."""

    def run(key: jax.Array, *, setting: str) -> dict[str, jax.Array]:
        _, activation, scheme, options, *_, bins, _ = SETTINGS[setting]
        # The last layer is a linear readout, so ten hidden layers take one more.
        net = jinit.MLP((WIDTH,) * (DEPTH + 1) + (1,), activation=activation, bias=False)
        input_key, init_key, probe_key = jax.random.split(key, 3)
        x = jax.random.normal(input_key, (SAMPLES, WIDTH))
        params, state = jinit.init(init_key, net, scheme, **options)
        # What is not returned, all of the backward pass, is not computed.
        seen = jinit.layer_signals(net, params, state, x, key=probe_key, bins=bins)
        found = {"mean": seen.act_mean, "std": seen.act_std, "share": seen.act_histogram}
        return {name: value[:DEPTH].astype(jnp.float32) for name, value in found.items()}

    dims = {"mean": ("layer",), "std": ("layer",), "share": ("layer", "bin")}
    found = jinit.sweep(run, static={"setting": tuple(SETTINGS)}, seeds=seeds, dims=dims)
    share = found.share.isel(seed=0, drop=True) / (SAMPLES * WIDTH)
    return found.astype(float).assign(share=share, layer=LAYERS)


def predict(setting: Setting) -> dict[str, np.ndarray]:
    """Mean and standard deviation of the activations at infinite width, each [DEPTH]."""
    how = {"depth": DEPTH, "weight_var": setting.weight_var, "input_second_moment": 1.0}
    theory = jinit.theory.trajectory(setting.activation, **how)
    return {"mean": theory.act_mean, "std": theory.act_std}


def checks(data: xr.Dataset) -> list[Check]:
    """Every published number against the networks and against theory."""
    found, trajectory = [], "jinit.theory.trajectory"
    for name, setting in SETTINGS.items():
        for quantity, texts in setting.published.items():
            group, digits = f"{name}: {quantity} of the activations", texts.split()
            seen, published = root_mean_square(data[quantity].sel(setting=name)), np.float64(digits)
            tolerance = STANDARD_ERRORS * seen.error + FINITE_WIDTH_BIAS * published
            nets = f"{group}, {seen.seeds} nets of width {WIDTH}"
            found += compare(nets, "layer {layer}", published, seen, "formula", tolerance)
            for layer, *both in zip(LAYERS, digits, predict(setting)[quantity], strict=True):
                found.append(printed(f"{group}, {trajectory}", f"layer {layer}", *both))
    return found


def figure(data: xr.Dataset) -> Figure:
    """Histograms by layer, one row per setting, above the standard deviation by layer."""
    note = "Above, the activations of one net (seed 0) layer by layer, 1000 inputs from N(0, I); "
    note += "below, their standard deviation"
    title = "Ten layers deep, the signal lives or dies by the scale of the weights"
    fig, _ = panels(title, note, (14, 10), rows=0)
    *rows, last = fig.subfigures(4, height_ratios=[1, 1, 1, 2])
    axes = last.subplots()
    for row, (name, setting) in zip(rows, SETTINGS.items(), strict=True):
        colour = setting.style["color"]
        row.suptitle(setting.title, x=0.05, ha="left", color=colour, weight="bold")
        for layer, panel in zip(LAYERS, row.subplots(1, DEPTH, sharey=True), strict=True):
            share = data.share.sel(setting=name, layer=layer).values
            panel.stairs(share, setting.bins, fill=True, color=colour)
            panel.set(xlim=setting.bins[[0, -1]], ylim=(0, CEILING))
            panel.set_yticks([0, 0.05], ["0", "5%"])
            if share.max() > CEILING:
                where = {"ha": "right", "va": "top", "transform": panel.transAxes, "fontsize": 9}
                panel.text(0.97, 0.93, f"{share.max():.0%} in\none bin", **where)
        seen = root_mean_square(data["std"].sel(setting=name))
        axes.plot(LAYERS, predict(setting)["std"], color=colour)
        points(axes, LAYERS, seen.mean, seen.error, label=name, **setting.style)
    nets = f"{seen.seeds} nets of width {WIDTH}, ± {STANDARD_ERRORS} standard errors"
    axes.plot([], [], color="0.3", label=f"lines: infinite width; points: {nets}")
    axes.set_xticks(LAYERS)
    label(axes, "", "layer", "std of the activations", "lower left", yscale="log", ylim=(1e-7, 4))
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, checks, figure, quick={"seeds": 8}, lacks="12 of 20 seeds"
)
EXPERIMENT.run(__name__)
