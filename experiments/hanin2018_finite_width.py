"""Networks of one shape scatter by the sum of their reciprocal widths (Hanin 2018).

The squared gradient of a ReLU network with He weights changes, from layer to layer down, by
independent factors (2/n) chi^2_K with K ~ Bin(n, 1/2): of mean 1, second moment 1 + 5/n, and a
logarithm of variance 5/n to leading order. Over draws of the network, the variance of the log
squared gradient is therefore about 5 sum 1/n_l whatever the shape: a few narrow layers cost as
much as many wide ones. Signals on their way up follow the same law.

Networks of constant width, with a bottleneck, and growing are drawn thousands of times.

- What is published for one layer is compared with `jinit.theory.finite_width` to the last digit,
  and with networks within five standard errors. The law holds at any width, so that there is no
  bias to allow for. Networks in which a layer is off altogether (a chance of 2^-n) are left out.
- Second moments are compared where sum 1/n is small. The tails are heavy: with sum 1/n = 1/2 a
  second moment of about 10 hangs on so few networks that averages of thousands miss it. Logarithms
  do not suffer from that.
- Of all shapes, the slope of the variance against sum 1/n is compared with that of theory, within
  five standard errors. It is above 5, since layers this narrow are (those of 20 units scatter by
  6.2/n). That it is 5 for wide ones is a check of theory alone: at widths n and 2n, where the next
  order in 1/n drops out of the difference.
- Of one shape, the whole distribution is compared with that of a product of such factors.

Sources: Hanin, "Which neural net architectures give rise to exploding and vanishing gradients?",
2018; Hanin & Rolnick, "How to start training: the effect of initialization and architecture", 2018.
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import scipy.special
import scipy.stats
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
    printed,
    progress,
    verdict,
    write_checks,
    write_csv,
)
from matplotlib.figure import Figure

import jinit

NAME = "hanin2018_finite_width"
SEEDS, QUICK_SEEDS, SEEDS_PER_CALL = 3000, 300, 300
# Mean and variance of the log of one layer's factor, by width.
PUBLISHED = {30: ("-0.08839567", "0.19114818"), 1000: ("-0.00250410", "0.00501859")}
OUTPUTS = 4
VERY_WIDE = 1000
NEXT_ORDERS = 100.0  # of n times the variance, what goes as 1/n^2


class Shape(NamedTuple):
    """Widths of the layers that the gradient passes, input side first.

    The law does not know of the layers at both ends, the inputs and a last hidden layer at which
    gradients begin. They are like their neighbours, so that layers of one kind are compiled once.
    """

    widths: tuple[int, ...]
    colour: str = ""
    marker: str = ""
    ends: tuple[int, int] | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """Widths from the inputs to the outputs."""
        first, last = self.ends or (self.widths[0], self.widths[-1])
        return (first, *self.widths, last, OUTPUTS)


SHAPES = {
    "constant 100": Shape((100,) * 24, BLUE, "o"),
    "constant 30": Shape((30,) * 12, GREEN, "^"),
    "bottleneck 100, 20, 100": Shape((100,) * 6 + (20,) * 3 + (100,) * 6, ORANGE, "D"),
    "growing 30, 100": Shape((30,) * 8 + (100,) * 12, PURPLE, "s"),
}
WIDE = "one layer of 1000"
ALL = SHAPES | {WIDE: Shape((1000,), ends=(4, 16))}
HISTOGRAM = "growing 30, 100"
QUICK = ("constant 30", HISTOGRAM)


class Measured(NamedTuple):
    """Logarithms of squares relative to infinite width, of every net that is alive."""

    signal: np.ndarray
    """`[nets, layers]`, up to and with layer l"""
    gradient: np.ndarray
    """`[nets, layers]`, from the last layer down through layer l"""
    dead: int


def main() -> int:
    """Measure, compare, write, and return the exit status."""
    options = arguments(
        NAME, __doc__, quick=f"{QUICK_SEEDS} networks, not {SEEDS}, of {len(QUICK)} shapes"
    )
    seeds, names = (QUICK_SEEDS, QUICK) if options.quick else (SEEDS, tuple(ALL))
    console.print(f"{seeds} ReLU networks with He weights of each shape, one input.")
    measured = {}
    with progress() as bar:
        task = bar.add_task("networks", total=seeds * len(names))
        for name in names:
            measured[name] = measure(ALL[name], seeds, lambda done: bar.advance(task, done))
    checks = compare(measured)
    write_data(options.out, measured, checks)
    draw(options.out / f"{NAME}.png", measured)
    left_out = [f"{name}." for name in ALL if name not in names]
    status = verdict(checks, left_out=left_out)
    dead = sum(m.dead for m in measured.values())
    console.print(f"Left out: {dead} of {seeds * len(names)} networks with a layer that is off.")
    console.print(f"Figure and data are in {options.out}/.")
    return status


# --- measuring --------------------------------------------------------------------------------


def measure(shape: Shape, seeds: int, advance) -> Measured:
    """Signals and gradients of one network per seed."""
    net = jinit.MLP(shape.dims, activation="relu", bias=False)
    x = np.ones((1, shape.dims[0]), np.float32)

    @jax.jit
    def logs(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            init_key, probe_key = jax.random.split(key)
            params, state = jinit.init(init_key, net, "he")
            seen = jinit.layer_signals(net, params, state, x, key=probe_key)
            return seen.log_act[:-1], seen.log_grad[:-1]

        return jax.lax.map(one, keys)

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    parts = []
    for start in range(0, seeds, SEEDS_PER_CALL):
        parts.append(jax.device_get(logs(keys[start : start + SEEDS_PER_CALL])))
        advance(len(parts[-1][0]))
    act, grad = (2 * np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    alive = np.isfinite(act).all(1) & np.isfinite(grad).all(1)
    # Of inputs 1, He's infinite-width mean squares are 1, and his squared norms of gradients alike.
    norms = grad[alive] + np.log(shape.dims[1:-1])
    return Measured(act[alive, :-1], (norms - norms[:, -1:])[:, :-1], int(np.sum(~alive)))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over nets, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def var_and_error(values: np.ndarray) -> tuple[float, float]:
    """Variance over nets, and its standard error from the fourth moment."""
    var = float(values.var(ddof=1))
    fourth = float(np.mean((values - values.mean()) ** 4))
    return var, math.sqrt((fourth - var**2) / len(values))


# --- theory -----------------------------------------------------------------------------------


def through(widths: tuple[int, ...]) -> tuple[float, float]:
    """Mean and variance of the log squared gradient after layers of these widths."""
    net = jinit.theory.finite_width("relu", widths, weight_var=2.0)
    return net.jacobian_mean, net.jacobian_var


def density(widths: tuple[int, ...], y: np.ndarray) -> np.ndarray:
    """Of the log of a product of (2/n) chi^2_K, K ~ Bin(n, 1/2), K > 0, at evenly spaced y.

    The characteristic function of ln (2/n) chi^2_K is (4/n)^is Gamma(K/2 + is) / Gamma(K/2).
    """
    s = np.linspace(-12.0, 12.0, 1201)
    log_transform = np.zeros(len(s), np.complex128)
    for n in set(widths):
        on = np.arange(1, n + 1)
        chance = scipy.stats.binom.pmf(on, n, 0.5)
        log_gamma = scipy.special.loggamma(on / 2 + 1j * s[:, None])
        ratio = np.exp(log_gamma - scipy.special.gammaln(on / 2)) @ (chance / chance.sum())
        log_transform += widths.count(n) * (np.log(ratio) + 1j * s * math.log(4 / n))
    waves = np.exp(log_transform - 1j * y[:, None] * s)
    return waves.real.sum(1) * (s[1] - s[0]) / (2 * math.pi)


# --- comparing --------------------------------------------------------------------------------


def compare(measured: dict[str, Measured]) -> list[Check]:
    """Every published number against theory and against the networks."""
    return [
        *compare_one_layer(measured),
        *compare_second_moments(measured),
        *compare_shapes(measured),
        *compare_slopes(measured),
        compare_distribution(measured),
    ]


def compare_one_layer(measured: dict[str, Measured]) -> list[Check]:
    """Mean and variance of the log per layer, by theory and by networks."""
    checks = []
    for n, texts in PUBLISHED.items():
        group = f"log of one layer's factor, n = {n}: jinit.theory.finite_width"
        for what, text, value in zip(("mean", "variance"), texts, through((n,)), strict=True):
            checks.append(printed(group, what, text, value))
    for n, name in ((30, "constant 30"), (1000, WIDE)):
        if name not in measured:
            continue
        passed = measured[name].gradient[:, 0]
        layers = measured[name].gradient.shape[1]
        group = f"log of one layer's factor, n = {n}: {len(passed)} nets of {layers} layer(s)"
        estimates = (mean_and_error(passed), var_and_error(passed))
        for what, text, (value, error) in zip(
            ("mean", "variance"), PUBLISHED[n], estimates, strict=True
        ):
            tolerance = STANDARD_ERRORS * error / layers
            checks.append(Check(group, what, float(text), value / layers, tolerance, "formula"))
    return checks


def compare_second_moments(measured: dict[str, Measured]) -> list[Check]:
    """Mean 1 and second moment prod(1 + 5/n) of the squared gradient, for few or wide layers."""
    checks = []
    for name, layers in (("constant 30", 1), ("constant 100", 4), (WIDE, 1)):
        if name not in measured:
            continue
        squared = np.exp(measured[name].gradient[:, -layers])
        n = ALL[name].widths[-1]
        group = f"squared gradient after {layers} layer(s) of {n}, {len(squared)} nets"
        for what, power, published in (
            ("mean", 1, 1.0),
            ("second moment", 2, (1 + 5 / n) ** layers),
        ):
            value, error = mean_and_error(squared**power)
            tolerance = STANDARD_ERRORS * error
            checks.append(Check(group, what, published, value, tolerance, "formula"))
    return checks


def compare_shapes(measured: dict[str, Measured]) -> list[Check]:
    """Mean and variance of the log through whole networks: the law of chi^2 over all layers."""
    checks = []
    for name in _shapes(measured):
        mean, var = through(SHAPES[name].widths)
        for what, passed in (
            ("gradient", measured[name].gradient[:, 0]),
            ("signal", measured[name].signal[:, -1]),
        ):
            group = f"log squared {what}, {name}, {len(passed)} nets"
            for label, theory, (value, error) in (
                ("mean", mean, mean_and_error(passed)),
                ("variance", var, var_and_error(passed)),
            ):
                tolerance = STANDARD_ERRORS * error
                checks.append(Check(group, label, theory, value, tolerance, "theory"))
    return checks


def compare_slopes(measured: dict[str, Measured]) -> list[Check]:
    """Slopes of variance against sum 1/n: of all shapes, through the origin, and of wide layers."""
    names = _shapes(measured)
    x = np.array([inverse(SHAPES[name].widths) for name in names])
    theory = np.array([through(SHAPES[name].widths)[1] for name in names])
    var, error = np.transpose([var_and_error(measured[name].gradient[:, 0]) for name in names])
    weight = x / np.sum(x**2)
    narrow, wide = (n * through((n,))[1] for n in (VERY_WIDE, 2 * VERY_WIDE))
    group = "variance of the log squared gradient against sum 1/n"
    return [
        Check(
            group, f"slope of {len(names)} shapes", float(weight @ theory), float(weight @ var),
            STANDARD_ERRORS * float(np.linalg.norm(weight * error)), "theory",
        ),
        Check(group, "slope of wide layers, by theory", 5.0, 2 * wide - narrow,
              NEXT_ORDERS / VERY_WIDE**2, "formula"),
    ]  # fmt: skip


def compare_distribution(measured: dict[str, Measured]) -> Check:
    """Kolmogorov's distance; it exceeds c / sqrt(nets) with a chance of 2 exp(-2 c^2)."""
    passed = measured[HISTOGRAM].gradient[:, 0]
    y = np.linspace(-25.0, 15.0, 4001)
    cumulative = np.cumsum(density(SHAPES[HISTOGRAM].widths, y)) * (y[1] - y[0])
    distance = scipy.stats.kstest(passed, lambda at: np.interp(at, y, cumulative)).statistic
    # As unlikely as five standard errors.
    c = math.sqrt(-math.log(scipy.stats.norm.sf(STANDARD_ERRORS)) / 2)
    return Check(
        f"distribution of the log squared gradient, {HISTOGRAM}",
        "distance from the law", 0.0, float(distance), c / math.sqrt(len(passed)), "formula",
    )  # fmt: skip


def _shapes(measured: dict[str, Measured]) -> list[str]:
    return [name for name in SHAPES if name in measured]


def inverse(widths: tuple[int, ...]) -> float:
    """The sum of reciprocal widths."""
    return float(np.sum(1 / np.array(widths)))


# --- writing ----------------------------------------------------------------------------------


def write_data(out: Path, measured: dict[str, Measured], checks: list[Check]) -> None:
    """The table, mean and variance after every layer, and every net's logarithm."""
    write_checks(out / "published_measured.csv", checks)
    write_csv(
        out / "layers.csv",
        (
            "shape", "quantity", "layer", "width", "sum_of_inverse_widths",
            "mean", "mean_error", "mean_theory", "var", "var_error", "var_theory",
        ),
        (
            (
                name, quantity, layer + 1, widths[layer], inverse(passed),
                *mean_and_error(values[:, layer]), through(passed)[0],
                *var_and_error(values[:, layer]), through(passed)[1],
            )
            for name, widths in ((name, ALL[name].widths) for name in measured)
            for quantity, values in (
                ("signal", measured[name].signal), ("gradient", measured[name].gradient)
            )
            for layer in range(len(widths))
            for passed in [widths[: layer + 1] if quantity == "signal" else widths[layer:]]
        ),
    )  # fmt: skip
    write_csv(
        out / "networks.csv",
        ("shape", "log_squared_signal", "log_squared_gradient"),
        (
            (name, float(signal), float(gradient))
            for name, m in measured.items()
            for signal, gradient in zip(m.signal[:, -1], m.gradient[:, 0], strict=True)
        ),
    )


def draw(path: Path, measured: dict[str, Measured]) -> None:
    """Variance against the sum of reciprocal widths, and the histogram of one shape."""
    figure = Figure(figsize=(14, 6.6))
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    figure.subplots_adjust(left=0.06, right=0.985, top=0.8, bottom=0.11, wspace=0.16)
    figure.suptitle(
        "How far networks scatter is set by the sum of their reciprocal widths",
        fontsize=19, fontweight="bold", x=0.06, y=0.975, ha="left",
    )  # fmt: skip
    seeds = max(len(m.gradient) for m in measured.values())
    figure.text(
        0.06, 0.885, f"ReLU networks with He weights, {seeds} draws of each shape, one input; "
        f"squares relative to infinite width", fontsize=12.5, color="0.3", va="center",
    )  # fmt: skip
    _draw_variances(left, measured)
    _draw_histogram(right, measured[HISTOGRAM])
    for axes in (left, right):
        finish(axes, grid=axes is left)
    figure.savefig(path, dpi=150)


def _draw_variances(axes, measured: dict[str, Measured]) -> None:
    names = _shapes(measured)
    most = max(inverse(SHAPES[name].widths) for name in names)
    axes.plot(
        [0, 1.08 * most], [0, 5.4 * most], color="0.6", linewidth=2.5, label="5 Σ 1/n, wide layers"
    )
    for i, name in enumerate(names):
        shape = SHAPES[name]
        tails = [shape.widths[layer:] for layer in range(len(shape.widths))]
        x = np.array([inverse(tail) for tail in tails])
        axes.plot(
            [0, *x[::-1]], [0, *(through(tail)[1] for tail in tails[::-1])],
            color="black", linewidth=1, label="exact law of each shape" if i == 0 else None,
        )  # fmt: skip
        shown = np.unique(np.linspace(0, len(x) - 1, 7).astype(int))
        var, error = np.transpose([var_and_error(measured[name].gradient[:, k]) for k in shown])
        axes.errorbar(
            x[shown], var, yerr=2 * error, color=shape.colour, label=name, marker=shape.marker,
            **POINTS,
        )  # fmt: skip
    axes.set(
        xlim=(0, 1.08 * most), ylim=(0, None),
        xlabel="Σ 1/n over the layers passed on the way down",
        ylabel="variance of ln |gradient|² over draws",
    )  # fmt: skip
    axes.set_title(
        f"{len(names)} shapes: nearly one line, a little above 5 Σ 1/n", loc="left", fontsize=14,
        fontweight="bold",
    )  # fmt: skip
    axes.legend(loc="upper left", fontsize=11, title="± 2 standard errors")


def _draw_histogram(axes, measured: Measured) -> None:
    shape = SHAPES[HISTOGRAM]
    mean, var = through(shape.widths)
    spread = math.sqrt(var)
    passed = measured.gradient[:, 0]
    bins = np.linspace(mean - 4.5 * spread, mean + 4 * spread, 46)
    axes.hist(
        passed, bins, density=True, color=shape.colour, alpha=0.45, label=f"{len(passed)} networks"
    )
    y = np.linspace(bins[0], bins[-1], 600)
    axes.plot(y, density(shape.widths, y), color="black", linewidth=1.8, label="exact law")
    axes.plot(
        y, scipy.stats.norm.pdf(y, mean, spread), color="0.5", linewidth=1.8, linestyle="--",
        label="normal, mean and variance from theory",
    )  # fmt: skip
    axes.axvline(0, color="0.4", linewidth=1, linestyle=":")
    axes.set(xlim=(bins[0], bins[-1]), xlabel="ln |gradient|² of a network", ylabel="density")
    top = 1.42 * axes.get_ylim()[1]
    axes.set_ylim(0, top)
    axes.text(0.1, 0.6 * top, "infinite\nwidth", fontsize=11, color="0.35", va="top")
    axes.set_title(
        f"{HISTOGRAM}: most lie below infinite width", loc="left", fontsize=14,
        fontweight="bold", color=shape.colour,
    )  # fmt: skip
    axes.legend(loc="upper left", fontsize=11)


if __name__ == "__main__":
    sys.exit(main())
