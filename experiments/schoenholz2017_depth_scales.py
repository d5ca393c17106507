"""How deep a tanh network trains is decided by its depth scale xi_c, before it sees any data.

With biases N(0, 0.05), theory (`jinit.theory.depth_scales`) gives for every weight variance the
number of layers xi_q over which a deviation of a signal's length decays by a factor of e, and xi_c,
the same for the correlation of two inputs. xi_c diverges at criticality. The paper's claim:
networks train up to a depth of about 6 xi_c. Compared are

- q*, chi_1, c*, xi_q and xi_c of theory with the published numbers, within half a unit of the last
  printed digit;
- the decay in networks of width 1000 drawn by `jinit.init`. Two lengths on either side of q*, and
  two correlations on either side of c* (in the ordered phase: identical inputs, and some a little
  apart), pass the same network; the logarithm of what is left of their difference is fitted by a
  line. Allowed are five standard errors over networks (jackknife); the bias of the width, which is
  of order 1/width, as a tenth of what networks of width 100 show; and what the fit of theory's own
  trajectory is off, since deviations are not infinitesimal;
- the depth at which the training accuracy on digits falls half way from its best to chance, in
  units of xi_c, with 6.

The paper trains networks of width 300 on MNIST by SGD at a learning rate of 1e-3. Two cores allow
width 100 and 200 steps, so ten times the rate stands in for ten times the steps. That matters,
because 6 is no constant of nature: in a deep ordered network the differences between inputs, and
with them the speed of learning, fall as exp(-depth / xi_c), so that ten times the training (rate x
steps) reaches ln 10 = 2.3 xi_c deeper. A claim of "about 6" that does not say how long is trained
is therefore checked within ln 10. The depth after a tenth of the steps is drawn and written too:
those factors are 2.8 to 4.4 where the full training gives 4.1 to 7.5. The smallest are those far in
the chaotic phase, where gradients explode and the rate is too large for deep networks.

It is checked where 6 xi_c is at most half the width: beyond, signals scatter so much between nets
of finite width that even critical ones, whose xi_c is infinite, stop training.

Source: Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, "Deep information propagation".
"""

import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from _common import (
    BLUE,
    GREEN,
    ORANGE,
    Check,
    arguments,
    console,
    half_unit,
    progress,
    verdict,
    write_checks,
    write_csv,
)

import jinit

matplotlib.use("Agg")  # no display is needed
import matplotlib.pyplot as plt

NAME = "schoenholz2017_depth_scales"
BIAS_VAR = 0.05
COLUMNS = ("q*", "chi_1", "c*", "xi_q", "xi_c")
PUBLISHED = {
    1.3: ("0.3153165", "0.8801635", "1", "1.785237", "7.834069"),
    1.5: ("0.4180372", "0.9386363", "1", "1.682828", "15.79099"),
    2.0: ("0.7217619", "1.047666", "0.7440824", "1.387976", "25.21341"),
    4.0: ("2.195494", "1.342402", "0.165065", "0.873293", "6.980274"),
}
TRAINABLE = 6.0
TRAINABLE_TOLERANCE = math.log(10)  # a decade of rate x steps; see above
STANDARD_ERRORS = 5


class Decays(NamedTuple):
    """What the measurement of depth scales takes."""

    weight_vars: tuple[float, ...]
    layers: int
    seeds: int
    pairs: int
    narrow_seeds: int


WIDE, NARROW = 1000, 100
DECAYS = Decays(
    (1.0, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0), layers=26, seeds=12, pairs=32, narrow_seeds=200
)
QUICK_DECAYS = Decays((1.3, 4.0), layers=12, seeds=6, pairs=16, narrow_seeds=50)
LENGTH_OFF, CORRELATION_OFF, APART = 0.05, 0.04, 0.005


class Training(NamedTuple):
    """What the heat map takes."""

    weight_vars: tuple[float, ...]
    depths: tuple[int, ...]
    seeds: int


WIDTH, BATCH, STEPS, LEARNING_RATE = 100, 32, 200, 1e-2
EARLY = STEPS // 10
WINDOW = 20  # steps over which the accuracy of a batch is averaged
CLASSES = 10
TRAINING = Training(
    (0.8, 1.0, 1.15, 1.3, 1.5, 1.76, 2.0, 2.5, 3.0, 3.5, 4.0), (6, 9, 13, 18, 26, 36, 51, 72), 2
)
QUICK_TRAINING = Training((0.8, 1.0, 4.0), (8, 18, 40), 1)


def main() -> int:
    """Measure, train, compare, write, and return the exit status."""
    options = arguments(
        NAME,
        __doc__,
        quick=f"depths {', '.join(map(str, QUICK_TRAINING.depths))} at "
        f"{len(QUICK_TRAINING.weight_vars)} weight variances, {QUICK_DECAYS.seeds} wide networks",
    )
    decays, training = (QUICK_DECAYS, QUICK_TRAINING) if options.quick else (DECAYS, TRAINING)
    console.print(
        f"{decays.seeds} networks of {decays.layers} layers of {WIDE} units. To train, of width "
        f"{WIDTH}: {training.seeds} of each depth and weight variance, "
        f"{flops(training) / 1e12:.1f} TFLOP."
    )
    scales = measure_scales(decays)
    with progress() as bar:
        task = bar.add_task("depths trained", total=len(training.depths))
        accuracies = train(training, lambda: bar.advance(task))
    factors = trainable_depths(training, accuracies) / xi_c(training.weight_vars)
    checks = [*compare_theory(), *compare_scales(scales), *compare_factors(training, factors)]
    write_data(options.out, training, scales, accuracies, factors, checks)
    draw(options.out / f"{NAME}.png", training, scales, accuracies, factors)
    status = verdict(checks, left_out=left_out(training, factors))
    console.print(f"Figure and data are in {options.out}/.")
    return status


@cache
def theory(weight_var: float):
    """q, c, chi and depth scales at infinite width."""
    return jinit.theory.depth_scales("tanh", weight_var=float(weight_var), bias_var=BIAS_VAR)


def xi_c(weight_vars: Sequence[float]) -> np.ndarray:
    """Theory's depth scale of correlations, `[weight_vars]`."""
    return np.array([theory(weight_var).xi_c for weight_var in weight_vars])


# --- depth scales of wide networks ------------------------------------------------------------


class Scale(NamedTuple):
    """One depth scale: theory, measured, and the parts of what is allowed between them."""

    weight_var: float
    name: str
    theory: float
    measured: float
    error: float
    """standard error, by the jackknife over networks"""
    width_bias: float
    fit_bias: float
    """of the same fit to theory's trajectory, whose deviations are not infinitesimal"""

    @property
    def tolerance(self) -> float:
        """Five standard errors and both biases."""
        return STANDARD_ERRORS * self.error + abs(self.width_bias) + abs(self.fit_bias)


def measure_scales(setting: Decays) -> list[Scale]:
    """xi_q and xi_c of every weight variance."""
    wide = decay(WIDE, setting, seeds=setting.seeds)
    narrow = decay(NARROW, setting, seeds=setting.narrow_seeds)
    scales = []
    for i, weight_var in enumerate(setting.weight_vars):
        exact = theory(weight_var)
        for k, (name, xi) in enumerate((("xi_q", exact.xi_q), ("xi_c", exact.xi_c))):
            # Over two e-folds or less: later, what is left is less than the noise.
            layers = min(setting.layers, max(2, round((2, 1.5)[k] * xi)))
            fitted = fit(predicted_decay(weight_var, layers)[k])
            runs = wide[k][:, i, : layers + 1]
            left_out = [
                fit(np.delete(runs, seed, axis=0).mean(axis=0)) for seed in range(setting.seeds)
            ]
            error = math.sqrt(setting.seeds - 1) * float(np.std(left_out))
            narrow_fit = fit(narrow[k][:, i, : layers + 1].mean(axis=0))
            scales.append(
                Scale(
                    weight_var,
                    name,
                    xi,
                    fit(runs.mean(axis=0)),
                    error,
                    (narrow_fit - fitted) * NARROW / WIDE,
                    fitted - xi,
                )
            )
    return scales


def fit(differences: np.ndarray) -> float:
    """The number of layers over which the differences, `[layers]`, fall by a factor of e."""
    slope = np.polyfit(np.arange(len(differences)), np.log(differences), 1)[0]
    return -1 / float(slope)


def starts(weight_var: float) -> tuple[float, tuple[float, float]]:
    """q*, and two values of 1 - c: on either side of 1 - c*, or 0 and a small one if that is 0."""
    exact = theory(weight_var)
    apart = 1 - exact.c
    if apart == 0:
        return exact.q, (0.0, APART)
    return exact.q, (apart - CORRELATION_OFF, apart + CORRELATION_OFF)


def predicted_decay(weight_var: float, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences of lengths (in units of q*) and of correlations, `[layers + 1]` each."""
    variances = {"weight_var": weight_var, "bias_var": BIAS_VAR}
    q, aparts = starts(weight_var)
    lengths = [[q * (1 - LENGTH_OFF)], [q * (1 + LENGTH_OFF)]]
    correlations = [[1 - apart] for apart in aparts]
    for _ in range(layers):
        for row in lengths:
            row.append(jinit.theory.length_map("tanh", row[-1], **variances))
        for row in correlations:
            row.append(jinit.theory.correlation_map("tanh", row[-1], q=q, **variances))
    return np.diff(lengths, axis=0)[0] / q, -np.diff(correlations, axis=0)[0]


def decay(width: int, setting: Decays, *, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Those differences in real networks, averaged over pairs: `[seeds, weight_vars, layers + 1]`.

    Both starts pass the same weights, and most of the noise is in both.
    """
    layer = jinit.MLP((width, width))  # networks are drawn layer by layer
    gains = np.sqrt(np.array(setting.weight_vars, np.float32))
    begun = [starts(weight_var) for weight_var in setting.weight_vars]
    q = np.array([q for q, _ in begun], np.float32)
    aparts = np.array([aparts for _, aparts in begun], np.float32)

    def differences(z: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
        one, near, far, short, long = z
        lengths = jnp.mean(long**2) - jnp.mean(short**2)
        # E (u - v)^2 / 2 = q (1 - c), in which nothing cancels where inputs are nearly alike.
        distances = (jnp.mean((one - far) ** 2) - jnp.mean((one - near) ** 2)) / 2
        return lengths / q, distances / q

    def enter(q: jax.Array, aparts: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
        partners = [(1 - a) * one + jnp.sqrt(a * (2 - a)) * other for a in aparts]
        lengths = [math.sqrt(1 + off) * one for off in (-LENGTH_OFF, LENGTH_OFF)]
        return jnp.sqrt(q) * jnp.stack([one, *partners, *lengths])

    def network(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        input_key, layer_key = jax.random.split(key)
        one, other = jax.random.normal(input_key, (2, setting.pairs, width))

        def pass_layer(z: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
            (drawn,), _ = jinit.init(key, layer, "xavier", bias_var=BIAS_VAR)
            # One draw serves every weight variance: a gain multiplies the weights.
            after = (jnp.tanh(z).reshape(-1, width) @ drawn.w).reshape(z.shape)
            after = gains.reshape(-1, 1, 1, 1) * after + drawn.b.reshape(1, 1, 1, -1)
            return after, jax.vmap(differences)(after, q)

        z = jax.vmap(enter, (0, 0, None, None))(q, aparts, one, other)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(layer_key, jnp.arange(setting.layers))
        first, later = jax.vmap(differences)(z, q), jax.lax.scan(pass_layer, z, keys)[1]
        return tuple(jnp.concatenate([a[None], b]).T for a, b in zip(first, later, strict=True))

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    found = jax.device_get(jax.jit(lambda keys: jax.lax.map(network, keys))(keys))
    return tuple(np.asarray(each, np.float64) for each in found)


# --- training ---------------------------------------------------------------------------------


class Accuracies(NamedTuple):
    """Training accuracy, each field `[seeds, weight_vars, depths]`."""

    early: np.ndarray
    """after a tenth of the steps, of the last batches"""
    end: np.ndarray
    """after all steps, of all training samples"""


def flops(setting: Training) -> float:
    """Of all training: 2 per weight and sample forwards, 4 backwards."""
    weights = sum((depth - 1) * WIDTH**2 + 74 * WIDTH for depth in setting.depths)
    return 6.0 * weights * BATCH * STEPS * setting.seeds * len(setting.weight_vars)


def train(setting: Training, advance) -> Accuracies:
    """Train every network; one program per depth, mapped over seeds and weight variances."""
    data = jinit.data.digits()
    # Inputs of mean square 1 over samples and pixels; a few pixels never vary.
    samples = (data.x_train / np.sqrt(np.mean(data.x_train**2)), data.y_train)
    keys = jax.vmap(jax.random.key)(np.arange(setting.seeds))
    gains = np.sqrt(np.array(setting.weight_vars, np.float32))
    deepest = network_of(max(setting.depths))

    @jax.jit
    def draw_all(keys: jax.Array, gains: jax.Array) -> jinit.Params:
        def one(key: jax.Array, gain: jax.Array) -> jinit.Params:
            return jinit.init(key, deepest, "xavier", gain=gain, bias_var=BIAS_VAR)[0]

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(keys, gains)

    drawn = draw_all(keys, gains)

    def train_depth(depth: int) -> tuple[np.ndarray, np.ndarray]:
        net = network_of(depth)

        def one(
            key: jax.Array, params: jinit.Params, samples: tuple
        ) -> tuple[jax.Array, jax.Array]:
            run = jinit.train(
                key, net, params, None, samples,
                optimizer=optax.sgd(LEARNING_RATE), steps=STEPS, batch_size=BATCH,
            )  # fmt: skip
            return jnp.mean(run.history.accuracy[EARLY - WINDOW : EARLY]), run.accuracy

        over_variances = jax.vmap(one, (None, 0, None))
        trainer = jax.jit(jax.vmap(over_variances, (0, 0, None)))
        found = jax.device_get(trainer(keys, first_layers(drawn, depth), samples))
        advance()
        return found

    # A product of small matrices keeps one core busy: two depths go side by side.
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(train_depth, sorted(setting.depths, reverse=True)))[::-1]
    return Accuracies(*(np.stack(each, -1).astype(np.float64) for each in zip(*found, strict=True)))


def network_of(depth: int) -> jinit.MLP:
    """A network of that many hidden layers."""
    return jinit.MLP((64,) + (WIDTH,) * depth + (CLASSES,), activation="tanh")


def first_layers(params: jinit.Params, depth: int) -> jinit.Params:
    """A shallower network: the first layers of the deepest, and its readout.

    Drawing once saves a compilation per depth.
    """
    first, hidden, readout = params.runs
    kept = jax.tree.map(lambda leaf: leaf[:, :, : depth - 1], hidden)
    return jinit.Params((first, kept, readout))


def trainable_depths(setting: Training, accuracies: Accuracies) -> np.ndarray:
    """Where the accuracy falls half way from its best to chance, `[early and end, weight_vars]`."""
    return np.array(
        [
            [half_way(setting.depths, accuracy[:, i].mean(axis=0))
             for i in range(len(setting.weight_vars))]
            for accuracy in accuracies
        ]
    )  # fmt: skip


def half_way(depths: Sequence[int], accuracy: np.ndarray) -> float:
    """The depth, between measured ones on a logarithmic scale; NaN if it is past the deepest."""
    best = int(np.argmax(accuracy))
    half = (accuracy[best] + 1 / CLASSES) / 2
    below = np.flatnonzero(accuracy[best:] < half)
    if not len(below):
        return math.nan
    after = best + int(below[0])
    logs = np.log(depths)
    share = (accuracy[after - 1] - half) / (accuracy[after - 1] - accuracy[after])
    return float(np.exp(logs[after - 1] + share * (logs[after] - logs[after - 1])))


# --- comparing --------------------------------------------------------------------------------


def compare_theory() -> list[Check]:
    """The published numbers against `jinit.theory`."""
    checks = []
    for weight_var, printed in PUBLISHED.items():
        exact = theory(weight_var)
        found = (exact.q, exact.chi, exact.c, exact.xi_q, exact.xi_c)
        checks += [
            Check(
                f"jinit.theory, weight variance {weight_var:g}",
                name,
                float(text),
                value,
                # c* = 1 is not rounded: in the ordered phase it is exact.
                1e-8 if text == "1" else half_unit(text),
            )
            for name, text, value in zip(COLUMNS, printed, found, strict=True)
        ]
    return checks


def compare_scales(scales: Sequence[Scale]) -> list[Check]:
    """Measured depth scales against theory, which meets the published ones to their digits."""
    return [
        Check(
            f"depth scales, networks of width {WIDE} against theory",
            f"{scale.name}, variance {scale.weight_var:g}",
            scale.theory,
            scale.measured,
            scale.tolerance,
        )
        for scale in scales
    ]


def compare_factors(setting: Training, factors: np.ndarray) -> list[Check]:
    """Depth that trains in units of xi_c, where xi_c and not the width decides it."""
    return [
        Check(
            "depth of half accuracy / xi_c; the claim is about 6",
            f"variance {weight_var:g}",
            TRAINABLE,
            float(factors[1, i]),
            TRAINABLE_TOLERANCE,
        )
        for i, weight_var in enumerate(setting.weight_vars)
        if decided_by_xi(weight_var)
    ]


def decided_by_xi(weight_var: float) -> bool:
    """Whether the depth that should train is small beside the width."""
    return TRAINABLE * theory(weight_var).xi_c <= WIDTH / 2


def left_out(setting: Training, factors: np.ndarray) -> list[str]:
    """What the chosen widths and depths cannot check."""
    depths = factors[1] * xi_c(setting.weight_vars)
    others = [
        f"{w:g} ({'deeper than all' if math.isnan(depth) else f'{depth:.0f} layers'})"
        for w, depth in zip(setting.weight_vars, depths, strict=True)
        if not decided_by_xi(w)
    ]
    if not others:
        return []
    return [
        f"6 xi_c where it is more than half the width: weight variance (depth of half accuracy) "
        f"{', '.join(others)}."
    ]


# --- writing ----------------------------------------------------------------------------------


def write_data(
    out: Path,
    setting: Training,
    scales: Sequence[Scale],
    accuracies: Accuracies,
    factors: np.ndarray,
    checks: list[Check],
) -> None:
    """The table, every accuracy, the depths of half accuracy, and the measured depth scales."""
    write_checks(out / "published_measured.csv", checks)
    write_csv(
        out / "accuracies.csv",
        ("weight_var", "depth", "seed", f"accuracy_after_{EARLY}", f"accuracy_after_{STEPS}"),
        (
            (weight_var, depth, seed, *(float(each[seed, i, j]) for each in accuracies))
            for i, weight_var in enumerate(setting.weight_vars)
            for j, depth in enumerate(setting.depths)
            for seed in range(setting.seeds)
        ),
    )
    write_csv(
        out / "trainable_depths.csv",
        ("weight_var", "xi_c", f"half_accuracy_depth_over_xi_c_after_{EARLY}",
         f"half_accuracy_depth_over_xi_c_after_{STEPS}", "checked"),
        (
            (w, xi, *map(float, factors[:, i]), "yes" if decided_by_xi(w) else "no")
            for i, (w, xi) in enumerate(
                zip(setting.weight_vars, map(float, xi_c(setting.weight_vars)), strict=True)
            )
        ),
    )  # fmt: skip
    write_csv(
        out / "depth_scales.csv",
        (*Scale._fields, "tolerance"),
        ((*scale, scale.tolerance) for scale in scales),
    )


def draw(
    path: Path,
    setting: Training,
    scales: Sequence[Scale],
    accuracies: Accuracies,
    factors: np.ndarray,
) -> None:
    """The heat map; beside it the depth scales, and the depth that trains in their units."""
    figure = plt.figure(figsize=(15, 9.2))
    grid = figure.add_gridspec(
        2, 2, width_ratios=[1.45, 1], left=0.06, right=0.985, top=0.8, bottom=0.075,
        wspace=0.2, hspace=0.42,
    )  # fmt: skip
    figure.suptitle(
        "Networks train as deep as signals reach",
        fontsize=20, fontweight="bold", x=0.06, y=0.975, ha="left",
    )  # fmt: skip
    figure.text(
        0.06, 0.905, f"tanh networks of width {WIDTH} on 8 x 8 digits, {STEPS} steps of SGD at a "
        f"learning rate of {LEARNING_RATE:g}; biases of variance {BIAS_VAR}", fontsize=13,
        color="0.3", va="center",
    )  # fmt: skip
    point = jinit.theory.critical("tanh", bias_var=BIAS_VAR)
    edges = _edges(setting.weight_vars)
    curves = [
        _curve(*sorted((edge, point.weight_var)), critical=point.weight_var)
        for edge in (edges[0], edges[-1])
    ]
    curve = Curve(*(np.concatenate(field) for field in zip(*curves, strict=True)))
    _draw_heat_map(
        figure, figure.add_subplot(grid[:, 0]), setting, accuracies, factors, curve,
        point.weight_var,
    )  # fmt: skip
    upper, lower = (figure.add_subplot(grid[row, 1]) for row in (0, 1))
    _draw_scales(upper, scales, curve, point.weight_var)
    _draw_factors(lower, setting, factors)
    for axes in (upper, lower):
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xlabel("weight variance $\\sigma_w^2$", fontsize=12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


class Curve(NamedTuple):
    """Theory's depth scales over weight variances; every field `[points]`."""

    weight_var: np.ndarray
    xi_q: np.ndarray
    xi_c: np.ndarray


def _curve(low: float, high: float, *, critical: float) -> Curve:
    """One side of criticality: there 1 / xi is smooth, and a polynomial of degree 9 fits it."""
    # Denser towards criticality, where xi_c diverges.
    far = low if high == critical else high
    weight_vars = critical + (far - critical) * np.linspace(0.01, 1, 80) ** 2
    names = ("xi_q", "xi_c")
    rates = [
        np.polynomial.Chebyshev.interpolate(
            lambda ws, name=name: np.array([1 / getattr(theory(w), name) for w in ws.tolist()]),
            9, domain=[low, high],
        )(weight_vars)
        for name in names
    ]  # fmt: skip
    order = np.argsort(weight_vars)
    return Curve(weight_vars[order], *(1 / rate[order] for rate in rates))


def _edges(values: Sequence[float]) -> np.ndarray:
    """Of cells around the values."""
    middle = (np.array(values[1:]) + np.array(values[:-1])) / 2
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])


def _draw_heat_map(
    figure, axes, setting: Training, accuracies: Accuracies, factors, curve: Curve, critical: float
) -> None:
    mesh = axes.pcolormesh(
        _edges(setting.weight_vars), np.exp(_edges(np.log(setting.depths))),
        accuracies.end.mean(axis=0).T, cmap="magma", vmin=0, vmax=1,
    )  # fmt: skip
    low, high = axes.get_ylim()
    axes.plot(
        curve.weight_var, TRAINABLE * curve.xi_c, color="white", linewidth=5.5, alpha=0.65,
    )  # fmt: skip
    axes.plot(
        curve.weight_var, TRAINABLE * curve.xi_c, color="black", linewidth=2.4,
        label="6 $\\xi_c$, theory",
    )  # fmt: skip
    axes.axvline(critical, color="black", linewidth=1, linestyle=(0, (3, 3)))
    axes.plot(
        setting.weight_vars, factors[1] * xi_c(setting.weight_vars), linestyle="none", marker="o",
        markersize=9, markerfacecolor="white", markeredgecolor=BLUE, markeredgewidth=2.2,
        label="half the best accuracy, measured",
    )  # fmt: skip
    edges = _edges(setting.weight_vars)
    axes.set(
        yscale="log", xlim=(edges[0], edges[-1]), ylim=(low, high),
        xlabel="weight variance $\\sigma_w^2$", ylabel="hidden layers",
    )  # fmt: skip
    axes.set_yticks(setting.depths, [str(depth) for depth in setting.depths])
    axes.minorticks_off()
    axes.tick_params(labelsize=11)
    axes.xaxis.label.set_size(13)
    axes.yaxis.label.set_size(13)
    axes.set_title(
        "Training accuracy: bright below the line, dark above", loc="left", fontsize=14,
        fontweight="bold", pad=30,
    )  # fmt: skip
    axes.annotate(
        f"critical: {critical:.3f}", (critical, high), xytext=(0, 3), textcoords="offset points",
        ha="center", fontsize=11, color="0.2",
    )  # fmt: skip
    axes.legend(loc="lower right", fontsize=11.5, framealpha=0.95)
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, fraction=0.04)
    bar.ax.axhline(1 / CLASSES, color="white", linewidth=1.2)
    bar.set_ticks([0, 1 / CLASSES, 0.25, 0.5, 0.75, 1], labels=["0", "chance", "25%", "50%", "75%",
                                                               "100%"])  # fmt: skip


def _draw_scales(axes, scales: Sequence[Scale], curve: Curve, critical: float) -> None:
    for name, colour, marker in (("xi_c", ORANGE, "o"), ("xi_q", GREEN, "s")):
        axes.plot(curve.weight_var, getattr(curve, name), color="0.25", linewidth=1.6)
        own = [scale for scale in scales if scale.name == name]
        axes.errorbar(
            [scale.weight_var for scale in own], [scale.measured for scale in own],
            yerr=[STANDARD_ERRORS * scale.error for scale in own], color=colour, marker=marker,
            markersize=7, markerfacecolor="white", markeredgewidth=1.7, linestyle="none", capsize=3,
            zorder=3, label=f"$\\{name[:2]}_{name[3]}$ of nets of width {WIDE}",
        )  # fmt: skip
    axes.axvline(critical, color="0.5", linewidth=1, linestyle=(0, (3, 3)))
    axes.plot([], [], color="0.25", linewidth=1.6, label="theory")
    axes.set(yscale="log", ylim=(0.5, 500), ylabel="layers")
    axes.yaxis.label.set_size(12)
    axes.set_title(
        "Only $\\xi_c$ diverges at criticality", loc="left", fontsize=14, fontweight="bold"
    )
    axes.legend(loc="upper right", fontsize=10.5, framealpha=1)


def _draw_factors(axes, setting: Training, factors: np.ndarray) -> None:
    axes.axhspan(
        TRAINABLE - TRAINABLE_TOLERANCE, TRAINABLE + TRAINABLE_TOLERANCE, color="0.92", zorder=0
    )
    axes.axhline(TRAINABLE, color="0.25", linewidth=1.6)
    checked = np.array([decided_by_xi(weight_var) for weight_var in setting.weight_vars])
    for row, steps, colour, marker in ((1, STEPS, BLUE, "o"), (0, EARLY, ORANGE, "v")):
        axes.plot(
            np.array(setting.weight_vars)[checked], factors[row][checked], color=colour,
            marker=marker, markersize=8, markerfacecolor="white", markeredgewidth=1.8,
            linestyle="none", label=f"after {steps} steps",
        )  # fmt: skip
    axes.set(ylim=(0, 10.5), ylabel="depth of half accuracy / $\\xi_c$")
    axes.yaxis.label.set_size(12)
    axes.set_title(
        "About 6 $\\xi_c$; longer training reaches deeper", loc="left", fontsize=14,
        fontweight="bold",
    )  # fmt: skip
    axes.legend(
        loc="upper center", fontsize=10.5, ncol=2, framealpha=1,
        title="line: 6; band: a decade of training, ± ln 10",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
