"""The activation statistics of CS231n 2016, lecture 5: ten layers of 500 units at initialisation.

1000 inputs from N(0, I_500) pass ten layers of 500 units without biases: tanh with weights
`0.01 * randn`, tanh with `randn / sqrt(fan_in)` (Xavier) and ReLU with `randn * sqrt(2 / fan_in)`
(He). The expected numbers are those of infinite width, by its formula. They are
compared with

- the mean over seeds of the squared standard deviations (of the squared means) of real networks.
  The tolerance is derived: five standard errors over the seeds, and 0.2 % for the bias of a
  width of 500;
- what `jinit.theory.trajectory` predicts, within half a unit of the last digit.

Source: Li, Karpathy & Johnson, CS231n 2016, lecture 5, "Weight initialization".
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from _common import (
    BLUE,
    GREEN,
    ORANGE,
    POINTS,
    STANDARD_ERRORS,
    Check,
    arguments,
    console,
    finish,
    printed,
    progress,
    verdict,
    write_checks,
    write_csv,
)
from matplotlib.figure import Figure

import jinit

NAME = "cs231n_activations"
WIDTH, DEPTH, SAMPLES = 500, 10, 1000
SEEDS, QUICK_SEEDS, SEEDS_PER_CALL = 20, 8, 4
FINITE_WIDTH_BIAS = 0.002  # of a squared average at width 500, relative

CEILING = 0.1  # of the histograms drawn; higher bins are cut, with their share written beside
SYMMETRIC_BINS = np.linspace(-1, 1, 52)  # an odd number of bins: one is centred on zero


class Setting(NamedTuple):
    """A network of the lecture, and its published infinite-width numbers layer by layer."""

    title: str
    finding: str
    colour: str
    marker: str
    activation: str
    scheme: str
    options: dict[str, float]
    weight_var: float
    published: dict[str, str]
    bins: np.ndarray


SETTINGS = {
    "tanh, 0.01 randn": Setting(
        "tanh, weights 0.01 randn",
        "collapses to zero",
        ORANGE,
        "s",
        "tanh",
        "normal",
        {"scale": 0.01},
        WIDTH * 0.01**2,
        {
            "std": "0.213546 0.0476421 0.0106519 0.00238182 5.32592e-4 "
            "1.19091e-4 2.66296e-5 5.95456e-6 1.33148e-6 2.97728e-7"
        },
        SYMMETRIC_BINS,
    ),
    "tanh, Xavier": Setting(
        "tanh, weights randn / sqrt(fan_in)  (Xavier)",
        "stays alive",
        BLUE,
        "o",
        "tanh",
        "xavier",
        {},
        1.0,
        {
            "std": "0.627929 0.486262 0.408236 0.357638 0.321622 "
            "0.294390 0.272911 0.255430 0.240856 0.228473"
        },
        SYMMETRIC_BINS,
    ),
    "ReLU, He": Setting(
        "ReLU, weights randn sqrt(2 / fan_in)  (He)",
        "the same in every layer",
        GREEN,
        "^",
        "relu",
        "he",
        {},
        2.0,
        {"mean": " ".join(["0.564190"] * DEPTH), "std": " ".join(["0.825645"] * DEPTH)},
        np.linspace(0, 4, 52),
    ),
}


class Measured(NamedTuple):
    """Activation statistics of one setting: `[seeds, DEPTH]`, and `[DEPTH, bins]` of one seed."""

    mean: np.ndarray
    std: np.ndarray
    histogram: np.ndarray


def main() -> int:
    """Measure, compare, write, and return the exit status."""
    options = arguments(NAME, __doc__, quick=f"{QUICK_SEEDS} seeds instead of {SEEDS}")
    seeds = QUICK_SEEDS if options.quick else SEEDS
    console.print(f"Seeds 0 to {seeds - 1}, {SAMPLES} inputs, {DEPTH} layers of {WIDTH} units.")
    measured = {}
    with progress() as bar:
        task = bar.add_task("networks", total=seeds * len(SETTINGS))
        for name, setting in SETTINGS.items():
            measured[name] = measure(setting, seeds, lambda done: bar.advance(task, done))
    checks = [
        check
        for name, setting in SETTINGS.items()
        for check in compare(name, setting, measured[name])
    ]
    write_data(options.out, measured, checks)
    draw(options.out / f"{NAME}.png", measured)
    status = verdict(checks)
    console.print(f"Figure and data are in {options.out}/.")
    return status


# --- measuring --------------------------------------------------------------------------------


def measure(setting: Setting, seeds: int, advance) -> Measured:
    """Activation statistics of one network per seed, a few at a time."""
    # The last layer is a linear readout, so ten hidden layers take one more.
    net = jinit.MLP((WIDTH,) * (DEPTH + 1) + (1,), activation=setting.activation, bias=False)

    def signals(key: jax.Array, bins: np.ndarray | None = None) -> jinit.LayerSignals:
        input_key, init_key, probe_key = jax.random.split(key, 3)
        x = jax.random.normal(input_key, (SAMPLES, WIDTH))
        params, state = jinit.init(init_key, net, setting.scheme, **setting.options)
        return jinit.layer_signals(net, params, state, x, key=probe_key, bins=bins)

    @jax.jit
    def statistics(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Returning two fields lets the compiler drop the backward pass.
        def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            seen = signals(key)
            return seen.act_mean[:DEPTH], seen.act_std[:DEPTH]

        return jax.lax.map(one, keys)

    @jax.jit
    def histogram(key: jax.Array) -> jax.Array:
        return signals(key, setting.bins).act_histogram[:DEPTH]

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    parts = []
    for start in range(0, seeds, SEEDS_PER_CALL):
        parts.append(jax.device_get(statistics(keys[start : start + SEEDS_PER_CALL])))
        advance(len(parts[-1][0]))
    mean, std = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    return Measured(mean, std, np.asarray(histogram(keys[0])))


def average(per_seed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root of the mean square over seeds, [DEPTH], and its standard error.

    Squares, because finite width biases their mean least: it is E[sqrt(q)] that falls short of
    sqrt(E[q]) when the variance q of a deep layer scatters from net to net.
    """
    squares = per_seed**2
    root = np.sqrt(squares.mean(axis=0))
    error = squares.std(axis=0, ddof=1) / math.sqrt(len(squares))
    return root, error / (2 * root)


# --- comparing --------------------------------------------------------------------------------


def compare(name: str, setting: Setting, measured: Measured) -> list[Check]:
    """Every published number of a setting against the networks and against theory."""
    predicted = predict(setting)
    checks = []
    for quantity, texts in setting.published.items():
        published = np.array(texts.split(), np.float64)
        root, error = average(getattr(measured, quantity))
        tolerance = STANDARD_ERRORS * error + FINITE_WIDTH_BIAS * published
        group = f"{name}: {quantity} of the activations, {len(measured.std)} nets of width {WIDTH}"
        checks += [
            Check(group, f"layer {i + 1}", *map(float, row), "formula")
            for i, row in enumerate(zip(published, root, tolerance, strict=True))
        ]
        group = f"{name}: {quantity} of the activations, jinit.theory.trajectory"
        checks += [
            printed(group, f"layer {i + 1}", text, theory)
            for i, (text, theory) in enumerate(zip(texts.split(), predicted[quantity], strict=True))
        ]
    return checks


def predict(setting: Setting) -> dict[str, np.ndarray]:
    """Mean and standard deviation of the activations at infinite width, each [DEPTH]."""
    theory = jinit.theory.trajectory(
        setting.activation, depth=DEPTH, weight_var=setting.weight_var, input_second_moment=1.0
    )
    return {"mean": theory.act_mean, "std": theory.act_std}


# --- writing ----------------------------------------------------------------------------------


def write_data(out: Path, measured: dict[str, Measured], checks: list[Check]) -> None:
    """The table, every seed's statistics, and the histograms of seed 0."""
    write_checks(out / "published_measured.csv", checks)
    write_csv(
        out / "seeds.csv",
        ("setting", "seed", "layer", "act_mean", "act_std"),
        (
            (name, seed, layer + 1, float(m.mean[seed, layer]), float(m.std[seed, layer]))
            for name, m in measured.items()
            for seed, layer in np.ndindex(m.std.shape)
        ),
    )
    write_csv(
        out / "layers.csv",
        ("setting", "quantity", "layer", "measured", "standard_error", "infinite_width"),
        (
            (name, quantity, layer + 1, float(root), float(error), float(theory))
            for name, m in measured.items()
            for quantity in ("mean", "std")
            # The mean of a tanh layer is zero but for noise; a root mean square says nothing.
            if quantity in SETTINGS[name].published
            for layer, (root, error, theory) in enumerate(
                zip(*average(getattr(m, quantity)), predict(SETTINGS[name])[quantity], strict=True)
            )
        ),
    )
    write_csv(
        out / "histograms_seed0.csv",
        ("setting", "layer", "left_edge", "right_edge", "count"),
        (
            (name, layer + 1, float(SETTINGS[name].bins[i]), float(SETTINGS[name].bins[i + 1]), n)
            for name, m in measured.items()
            for layer, counts in enumerate(m.histogram.tolist())
            for i, n in enumerate(counts)
        ),
    )


def draw(path: Path, measured: dict[str, Measured]) -> None:
    """Histograms by layer, one row per setting, above the standard deviation by layer."""
    figure = Figure(figsize=(14, 9.5))
    grid = figure.add_gridspec(
        7, DEPTH, height_ratios=[1, 0.62, 1, 0.62, 1, 0.62, 2.6],
        left=0.07, right=0.985, top=0.855, bottom=0.075, wspace=0.12, hspace=0.0,
    )  # fmt: skip
    figure.suptitle(
        "Ten layers deep, the signal lives or dies by the scale of the weights",
        fontsize=19, fontweight="bold", x=0.07, y=0.98, ha="left",
    )  # fmt: skip
    figure.text(
        0.07, 0.925, f"Above, the activations of one net (seed 0) layer by layer, {SAMPLES} inputs "
        f"from N(0, I); below, their standard deviation", fontsize=12.5, color="0.3", va="center",
    )  # fmt: skip
    for row, (name, setting) in enumerate(SETTINGS.items()):
        _draw_histograms(figure, grid, row, setting, measured[name])
    _draw_stds(figure.add_subplot(grid[6, :]), measured)
    figure.savefig(path, dpi=150)


def _draw_histograms(figure, grid, row: int, setting: Setting, measured: Measured) -> None:
    edges = setting.bins
    share = measured.histogram / (SAMPLES * WIDTH)
    for layer in range(DEPTH):
        axes = figure.add_subplot(grid[2 * row, layer])
        axes.stairs(share[layer], edges, fill=True, color=setting.colour)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, CEILING))
        axes.set_yticks([0, 0.05], ["0", "5%"] if layer == 0 else ["", ""])
        ticks = [edges[0], (edges[0] + edges[-1]) / 2, edges[-1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        for tick, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
            tick.set_ha(side)
        axes.tick_params(labelsize=9, length=2)
        axes.spines[["top", "right"]].set_visible(False)
        peak = share[layer].max()
        if peak > CEILING:
            axes.text(
                0.97, 0.93, f"{peak:.0%} in\none bin", transform=axes.transAxes,
                ha="right", va="top", fontsize=8.5, color="0.25",
            )  # fmt: skip
        if layer == 0:
            axes.set_ylabel("share of\nactivations", fontsize=10)
            axes.set_title(
                f"{setting.title}: {setting.finding}", loc="left",
                fontsize=13, color=setting.colour, fontweight="bold", pad=7,
            )  # fmt: skip


def _draw_stds(axes, measured: dict[str, Measured]) -> None:
    layers = np.arange(1, DEPTH + 1)
    for name, setting in SETTINGS.items():
        root, error = average(measured[name].std)
        axes.plot(layers, predict(setting)["std"], color=setting.colour, linewidth=1.8)
        axes.errorbar(
            layers, root, yerr=STANDARD_ERRORS * error, color=setting.colour, label=name,
            marker=setting.marker, **POINTS | {"markersize": 7},
        )  # fmt: skip
    seeds = len(next(iter(measured.values())).std)
    axes.plot([], [], color="0.3", linewidth=1.8, label="infinite width (theory)")
    axes.set(
        yscale="log", xlim=(0.5, DEPTH + 0.5), ylim=(1e-7, 4),
        xlabel="layer", ylabel="std of the activations",
    )  # fmt: skip
    axes.set_xticks(layers)
    finish(axes, grid=True)
    axes.legend(
        loc="lower left", fontsize=11, framealpha=1,
        title=f"{seeds} nets of width {WIDTH}, ± {STANDARD_ERRORS} standard errors",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
