"""Batch norm makes gradients explode (Yang et al. 2019): by how much per layer, at any batch size.

Linear, ReLU and tanh networks of width 600 with batch norm (eps = 0, in training mode) on batches
of random inputs. On its way back the squared gradient grows by a factor per layer that no choice
of weights can change; the smaller the batch, the larger it is. Compared are

- `jinit.theory.batch_norm_growth` with the published closed forms and digits; for linear networks
  the expectations of any activation, by quadrature, with the closed form (B - 2) / (B - 3);
- the growth in simulated networks with theory, for batches of 8 and more within the published
  1 %: the slope of the mean log squared gradient against the layer, three layers left out at each
  end.

Theory is for the mean of the squared gradient, the slope is that of the mean of its log. The log
falls behind by half the variance that each layer adds, of order 1 / width: about 0.2 % at a batch
of 8, less in larger ones (column half_variance of growth.csv). The mean itself cannot be fitted
instead: after 60 layers it is made by the few largest of very many networks. Larger batches have
corrections of order batch / width. At a batch of 4 the inverse variance over the batch has no
second moment, half the variance is about 3 %, and simulations of this width come out 4 to 6 % low;
they are drawn, and theory is compared with the closed form alone.

For tanh at a batch of 64 the published list says 1.1918. The formula gives 1.192264, by quadrature,
by expansion in orthogonal polynomials and by sampling alike, so that 1.1918 is compared with the
simulation.

In large batches of GELU, SiLU, softplus and Mish samples do not stay equally long, and the formula
does not hold (`jinit.theory.batch_norm_stability` above 1). In small ones they do: SiLU follows the
formula at batches of 8 and 16. Beyond, deep networks of GELU and SiLU are compared with the 1.39
of the published list, within its rounding and five standard errors, which the formula is not.

Source: Yang, Pennington, Rao, Sohl-Dickstein & Schoenholz 2019, "A Mean Field Theory of Batch
Normalization".
"""

import math
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from _common import (
    BLUE,
    GREEN,
    ORANGE,
    POINTS,
    PURPLE,
    STANDARD_ERRORS,
    Check,
    arguments,
    console,
    finish,
    half_unit,
    printed,
    progress,
    verdict,
    write_checks,
    write_csv,
)
from matplotlib.figure import Figure

import jinit

NAME = "yang2019_batchnorm_explosion"
WIDTH, ENDS = 600, 3
AGREEMENT = 0.01  # published, for batches of 8 and more at widths of 600 and more
EXPECTATION = 1e-9  # relative, of expectations by quadrature against a closed form
SETTLED = 20  # layers after which networks have left an unstable fixed point

LABELS = {
    "identity": "linear",
    "relu": "ReLU",
    "tanh": "tanh",
    "silu": "SiLU",
    "gelu": "GELU",
    "mish": "Mish",
}
COLOURS = {"identity": BLUE, "relu": GREEN, "tanh": ORANGE, "silu": PURPLE, "gelu": "0.45"}
MARKERS = {"identity": "o", "relu": "s", "tanh": "^", "silu": "D", "gelu": "v"}
SYMMETRIC = ("identity", "relu", "tanh")  # the formula holds for them in any batch

PUBLISHED_LIMIT = {"relu": "1.466942", "tanh": "1.177807"}
PUBLISHED_RELU = {4: "3.084061", 16: "1.589950", 64: "1.493063"}
PUBLISHED_STABILITY = {"gelu": "1.062", "silu": "1.101", "softplus": "1.056", "mish": "1.001"}
PUBLISHED_TANH_64 = 1.1918
PUBLISHED_UNSTABLE = "1.39"  # near which deep GELU and SiLU nets settle


class Setting(NamedTuple):
    """How many networks of how many layers, and which activations on which batches."""

    seeds: int
    depth: int
    batches: dict[str, tuple[int, ...]]


FULL = Setting(
    10,
    66,
    dict.fromkeys(SYMMETRIC, (4, 8, 16, 64)) | {"silu": (8, 16, 64, 128), "gelu": (128,)},
)
QUICK = Setting(3, 26, {"relu": (16,), "tanh": (8,)})


class Growth(NamedTuple):
    """The measured growth of the log squared gradient per layer at one batch size."""

    activation: str
    batch: int
    log: float
    """slope of the mean log"""
    error: float
    """its standard error"""
    half_variance: float
    """half the variance a layer adds to the log: by about so much the log of the mean is larger"""
    mean: np.ndarray
    """mean log squared gradient over the networks, [depth]"""

    @property
    def factor(self) -> float:
        """The growth as a factor."""
        return math.exp(self.log)


def main() -> int:
    """Measure, compare, write, and return the exit status."""
    options = arguments(
        NAME,
        __doc__,
        quick=f"{QUICK.seeds} networks of {QUICK.depth} layers instead of {FULL.seeds} of "
        f"{FULL.depth}, ReLU and tanh on one batch size each",
    )
    setting = QUICK if options.quick else FULL
    console.print(
        f"Seeds 0 to {setting.seeds - 1}, {setting.depth} layers of {WIDTH} units; each batch size "
        f"and activation is a program of its own to compile."
    )
    measured = measure(setting)
    left_out = []
    if options.quick:
        left_out = [
            f"agreement within {AGREEMENT:.0%}: {STANDARD_ERRORS} standard errors of so few "
            f"networks come on top.",
            "linear networks, batches of other sizes, and what deep networks of GELU and SiLU do.",
        ]
    checks = compare_theory() + compare_networks(measured, quick=options.quick)
    write_data(options.out, measured, checks)
    draw(options.out / f"{NAME}.png", measured)
    status = verdict(checks, left_out=left_out)
    notes(measured)
    console.print(f"Figure and data are in {options.out}/.")
    return status


# --- measuring --------------------------------------------------------------------------------


def measure(setting: Setting) -> list[Growth]:
    """The growth for every activation and batch size, all on the same weights."""

    def network(activation: str) -> jinit.MLP:
        # As many outputs as units, so that random output gradients are spread as inside the net.
        dims = (WIDTH,) * (setting.depth + 2)
        return jinit.MLP(dims, activation=activation, norm="batch", bias=False, eps=0.0)

    @jax.jit
    def draw_weights(key: jax.Array):
        return jinit.init(key, network("identity"))

    def program(activation: str, batch: int):
        net = network(activation)

        @jax.jit
        def log_square_gradient(key: jax.Array, params, state) -> jax.Array:
            input_key, probe_key = jax.random.split(key)
            x = jax.random.normal(input_key, (batch, WIDTH))
            return 2 * jinit.layer_signals(net, params, state, x, key=probe_key).log_grad

        return log_square_gradient

    cells = {
        (activation, batch): program(activation, batch)
        for activation, batches in setting.batches.items()
        for batch in batches
    }
    logs = {cell: np.empty((setting.seeds, setting.depth)) for cell in cells}
    with progress() as bar:
        task = bar.add_task("networks", total=setting.seeds * len(cells))
        for seed in range(setting.seeds):
            init_key, data_key = jax.random.split(jax.random.key(seed))
            weights = draw_weights(init_key)
            for cell, log_square_gradient in cells.items():
                # The last of them is the linear readout.
                logs[cell][seed] = np.asarray(log_square_gradient(data_key, *weights))[:-1]
                bar.advance(task)
    return [fit(*cell, log) for cell, log in logs.items()]


def fit(activation: str, batch: int, logs: np.ndarray) -> Growth:
    """Slope of the mean log squared gradient `[seeds, depth]` against the layer, backwards."""
    start = SETTLED if unstable(activation, batch) else ENDS
    layers = np.arange(start, logs.shape[1] - ENDS)
    inner = logs[:, layers]
    slope = -np.polyfit(layers, inner.mean(axis=0), 1)[0]
    # Layers add independent terms, so that the log is a random walk about the line, whose fitted
    # slope has 6/5 of the variance of the mean step.
    steps = -np.diff(inner, axis=1)
    error = math.sqrt(1.2 * steps.var(ddof=1) / steps.size)
    return Growth(activation, batch, float(slope), error, steps.var() / 2, logs.mean(axis=0))


# --- comparing --------------------------------------------------------------------------------


@cache
def stability(activation: str, batch: int | None) -> float:
    """By what factor per layer samples of a batch depart from equal lengths."""
    return jinit.theory.batch_norm_stability(activation, batch=batch)


def unstable(activation: str, batch: int | None) -> bool:
    """Whether they do, beyond rounding."""
    return stability(activation, batch) > 1 + 1e-9


@cache
def formula(activation: str, batch: int | None) -> float:
    """What theory says of the symmetric fixed point, stable or not."""
    return jinit.theory.batch_norm_growth(activation, batch=batch, allow_unstable=True)


def compare_theory() -> list[Check]:
    """Published digits and closed forms beside jinit.theory."""
    group = "Growth of the squared gradient per layer, jinit.theory.batch_norm_growth"
    checks = [
        printed(group, f"{LABELS[name]}, large batch", text, formula(name, None))
        for name, text in PUBLISHED_LIMIT.items()
    ]
    for batch, text in PUBLISHED_RELU.items():
        checks.append(printed(group, f"ReLU, batch {batch}", text, formula("relu", batch)))
    for batch in (4, 8, 16, 64):
        closed = (batch - 2) / (batch - 3)
        # The library knows "identity" by the closed form itself, but not a function.
        found = jinit.theory.batch_norm_growth(lambda x: x, batch=batch)
        what = f"linear by quadrature, batch {batch}"
        checks.append(Check(group, what, closed, found, EXPECTATION * closed, "formula"))
    group = "d ln Var phi / d ln q: unstable above 1, jinit.theory.batch_norm_stability"
    for name, text in PUBLISHED_STABILITY.items():
        checks.append(printed(group, LABELS.get(name, name), text, stability(name, None)))
    return checks


def compare_networks(measured: list[Growth], *, quick: bool) -> list[Check]:
    """Simulations beside theory, and beside the numbers published for simulations."""
    checks = []
    group = f"Growth of the squared gradient per layer, networks of width {WIDTH} against theory"
    for growth in measured:
        name, batch = growth.activation, growth.batch
        if batch < 8 or unstable(name, batch):
            continue
        expected = formula(name, batch)
        tolerance = AGREEMENT + (STANDARD_ERRORS * growth.error if quick else 0.0)
        what = f"{LABELS[name]}, batch {batch}"
        found = growth.factor
        checks.append(Check(group, what, expected, found, tolerance * expected, "theory"))
        if (name, batch) == ("tanh", 64):
            listed = PUBLISHED_TANH_64
            what = f"{what}, as published"
            checks.append(Check(group, what, listed, found, tolerance * listed, "simulation"))
    group = f"Where the formula does not hold, networks of width {WIDTH} as published"
    for growth in measured:
        name, batch = growth.activation, growth.batch
        if not unstable(name, batch) or batch < 128:
            continue
        listed = float(PUBLISHED_UNSTABLE)
        tolerance = half_unit(PUBLISHED_UNSTABLE) + STANDARD_ERRORS * growth.factor * growth.error
        what = f"{LABELS[name]}, batch {batch}"
        checks.append(Check(group, what, listed, growth.factor, tolerance, "simulation"))
    return checks


def notes(measured: list[Growth]) -> None:
    """What the table does not say."""
    for growth in measured:
        name, batch = growth.activation, growth.batch
        expected = formula(name, batch)
        if batch < 8:
            console.print(
                f"{LABELS[name]}, batch {batch}: simulated {growth.factor:.4f}, theory "
                f"{expected:.4f}; the log lies {math.log(expected) - growth.log:.1%} low, where "
                f"half its variance is {growth.half_variance:.1%} (heavy tails; not a check)."
            )
    names = ", ".join(LABELS.get(name, name) for name in PUBLISHED_STABILITY)
    console.print(f"In large batches the formula does not describe deep networks of {names}.")
    for growth in measured:
        name, batch = growth.activation, growth.batch
        if unstable(name, batch):
            console.print(
                f"{LABELS[name]}, batch {batch}: differences in length grow by "
                f"{stability(name, batch):.4f} per layer; the squared gradient grows by "
                f"{growth.factor:.4f} ± {growth.factor * growth.error:.4f}, the formula says "
                f"{formula(name, batch):.4f}."
            )


# --- writing ----------------------------------------------------------------------------------


def write_data(out: Path, measured: list[Growth], checks: list[Check]) -> None:
    """The table, the growth by batch size, and the gradients by layer."""
    write_checks(out / "published_measured.csv", checks)
    write_csv(
        out / "growth.csv",
        ("activation", "batch", "theory", "stability", "measured", "error", "half_variance"),
        (
            (
                growth.activation,
                growth.batch,
                formula(growth.activation, growth.batch),
                stability(growth.activation, growth.batch),
                growth.factor,
                growth.factor * growth.error,
                float(growth.half_variance),
            )
            for growth in measured
        ),
    )
    write_csv(
        out / "gradients.csv",
        ("activation", "batch", "layer", "mean_log_squared_gradient"),
        (
            (growth.activation, growth.batch, layer + 1, float(value))
            for growth in measured
            for layer, value in enumerate(growth.mean)
        ),
    )


# --- the figure -------------------------------------------------------------------------------


def draw(path: Path, measured: list[Growth]) -> None:
    """Growth against batch size; gradients against layers; where the formula ends."""
    beyond = [m for m in measured if m.activation not in SYMMETRIC]
    count = 3 if beyond else 2
    figure = Figure(figsize=(17 * count / 3, 5.6), layout="constrained")
    panels = figure.subplots(1, count)
    figure.suptitle(
        "Batch norm makes gradients explode: by a factor per layer, larger in small batches",
        fontsize=16, fontweight="bold",
    )  # fmt: skip
    draw_growth(panels[0], [m for m in measured if m.activation in SYMMETRIC])
    draw_layers(panels[1], [m for m in measured if m.activation in SYMMETRIC])
    if beyond:
        draw_unstable(panels[2], beyond)
    for axes in panels:
        finish(axes, grid=True)
    figure.savefig(path, dpi=150)


def draw_growth(axes, measured: list[Growth]) -> None:
    """Growth minus 1 against batch size, both logarithmic."""
    sizes = [4, 5, 6, 7, 8, 9, 11, 13, 16, 22, 32, 64, 128, 256]
    for name in SYMMETRIC:
        above = [formula(name, size) - 1 for size in sizes]
        axes.plot(sizes, above, color="0.2", linewidth=1.6)
        # Above the end of a flat curve, beside a falling one.
        at, side, shift = (-2, "left", (8, 2)) if name == "identity" else (-1, "right", (0, 6))
        axes.annotate(
            LABELS[name], (sizes[at], above[at]), xytext=shift, textcoords="offset points",
            ha=side, fontsize=12, color=COLOURS[name], fontweight="bold",
        )  # fmt: skip
        points(axes, [m for m in measured if m.activation == name], label="", less=1)
    if any(m.batch < 8 for m in measured):
        axes.text(
            4.6, 2.25, "batch 4: heavy tails, the mean log lies low", fontsize=10.5, va="center"
        )
    axes.plot([], [], color="0.2", linewidth=1.6, label="theory (infinite width)")
    axes.errorbar(
        [], [], yerr=[], color="0.4", marker="o", **POINTS,
        label=f"networks {WIDTH} wide,\n± {STANDARD_ERRORS} standard errors",
    )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", ylim=(3e-3, 3),
        xlabel="batch size", ylabel="growth per layer - 1",
    )  # fmt: skip
    batch_ticks(axes, [4, 8, 16, 32, 64, 128, 256])
    ticks = [0.01, 0.03, 0.1, 0.3, 1, 2]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title("Squared gradient per layer: factor - 1", fontsize=13)
    axes.legend(fontsize=11, loc="lower left")


def draw_layers(axes, measured: list[Growth]) -> None:
    """The squared gradient by layer, each activation at its smallest batch from 8 up."""
    for name in SYMMETRIC:
        mine = [m for m in measured if m.activation == name and m.batch >= 8]
        if not mine:
            continue
        m = min(mine, key=lambda m: m.batch)
        layers = np.arange(1, len(m.mean) + 1)
        axes.plot(
            layers, np.exp(m.mean - m.mean[-ENDS]), MARKERS[name], color=COLOURS[name],
            markersize=6, markevery=3, markerfacecolor="white", markeredgewidth=1.4, zorder=3,
            label=f"{LABELS[name]}, batch {m.batch}",
        )  # fmt: skip
        axes.plot(
            layers, formula(name, m.batch) ** (layers[-ENDS] - layers.astype(float)),
            color="0.2", linewidth=1.2,
        )  # fmt: skip
    axes.plot([], [], color="0.2", linewidth=1.2, label="theory")
    axes.set(
        yscale="log", xlabel="layer (the output is on the right)",
        ylabel="squared gradient, relative to the last layers",
    )  # fmt: skip
    axes.set_title("On its way back the gradient grows exponentially", fontsize=13)
    axes.legend(fontsize=11, loc="upper right")


def draw_unstable(axes, measured: list[Growth]) -> None:
    """SiLU: the formula, solid where its fixed point is stable, and networks."""
    sizes = [8, 9, 10, 12, 14, 16, 21, 26, 32, 45, 64, 128, 256]
    growth = np.array([formula("silu", size) for size in sizes])
    stable = np.array([not unstable("silu", size) for size in sizes])
    last = int(np.flatnonzero(stable)[-1]) + 1
    axes.plot(sizes[:last], growth[:last], color="0.2", linewidth=1.6, label="SiLU, formula")
    axes.plot(
        sizes[last - 1 :], growth[last - 1 :], ":", color="0.2", linewidth=1.6,
        label="where its fixed point is unstable",
    )  # fmt: skip
    for name in ("silu", "gelu"):
        mine = [m for m in measured if m.activation == name]
        points(axes, mine, label=f"{LABELS[name]} networks", less=0)
    axes.set(xscale="log", xlabel="batch size", ylabel="growth per layer")
    batch_ticks(axes, [8, 16, 32, 64, 128, 256])
    axes.set_title("Large batches of SiLU leave the formula", fontsize=13)
    axes.legend(fontsize=10.5, loc="upper right")


def points(axes, measured: list[Growth], *, label: str, less: float) -> None:
    """Measured growth with error bars."""
    if not measured:
        return
    name = measured[0].activation
    axes.errorbar(
        [m.batch for m in measured], [m.factor - less for m in measured],
        yerr=[STANDARD_ERRORS * m.factor * m.error for m in measured],
        color=COLOURS[name], marker=MARKERS[name], label=label, **POINTS,
    )  # fmt: skip


def batch_ticks(axes, ticks: list[int]) -> None:
    """Powers of two, written out."""
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


if __name__ == "__main__":
    sys.exit(main())
