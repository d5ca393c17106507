"""How deep a tanh network trains is decided by its depth scale xi_c, before it sees any data.

With biases N(0, 0.05), theory (`jinit.theory.depth_scales`) gives for every weight variance the
number of layers xi_q over which a deviation of a signal's length decays by a factor of e, and xi_c,
the same for the correlation of two inputs. xi_c diverges at criticality. The paper's claim:
networks train up to a depth of about 6 xi_c. Compared are

- q*, chi_1, c*, xi_q and xi_c of theory with the numbers of the paper's formulas, within half a
  unit of the last digit;
- the decay in networks of widths 100 and 400 drawn by `jinit.init`. Two lengths on either side of
  q*, and two correlations on either side of c* (in the ordered phase: identical inputs, and some a
  little apart), pass the same network; the logarithm of what is left of their difference is fitted
  by a line. The bias of the width is of order 1/width, and drops out of (4 xi(400) - xi(100)) / 3.
  It is compared with the same fit to theory's maps, started alike, within five standard errors
  over networks (jackknife, Student's t);
- that fit, of deviations so small that the maps are linear, with xi of theory: within LINEAR;
- in the ordered phase, the depth at which the training accuracy on digits falls half way from its
  best to chance, in units of xi_c, with 6.

"About 6" has no derived tolerance. It is read as 6 +- 1.5, a choice made after factors of 5 to 7
had been seen, which tells xi_c from 1.5 xi_c and xi_c / 1.5 and no better. It does not say how long
is trained either, and 6 is no constant of nature: in a deep ordered network the differences between
inputs, and with them the speed of learning, fall as exp(-depth / xi_c), so that longer training
reaches deeper. The paper trains networks of width 300 on MNIST by SGD at a learning rate of 1e-3;
here it is width 100, 200 steps and 1e-2. What a tenth of the steps reaches is drawn and printed,
and not checked: each of L layers learns at a rate of exp(-L / xi_c), which makes the depth grow by
ln 10 + ln(ratio of the depths), about 3 xi_c, as long as features stay what they are; how much
deeper features that learn reach, theory does not say.

Not checked are the chaotic phase, where gradients explode and the rate is too large for deep
networks (about 4 xi_c), and weight variances for which 6 xi_c is more than half the width: there
signals scatter so much between nets of finite width that even critical ones, whose xi_c is
infinite, stop training.

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
import numpy as np
import optax
from _common import (
    BLUE,
    GREEN,
    ORANGE,
    POINTS,
    Check,
    Estimate,
    arguments,
    console,
    extrapolate,
    finish,
    pass_layer,
    printed,
    progress,
    verdict,
    write_checks,
    write_csv,
)
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

import jinit

NAME = "schoenholz2017_depth_scales"
BIAS_VAR = 0.05
COLUMNS = ("q*", "chi_1", "c*", "xi_q", "xi_c")
PUBLISHED = {
    1.3: ("0.3153165", "0.8801635", "1", "1.785237", "7.834069"),
    1.5: ("0.4180372", "0.9386363", "1", "1.682828", "15.79099"),
    2.0: ("0.7217619", "1.047666", "0.7440824", "1.387976", "25.21341"),
    4.0: ("2.195494", "1.342402", "0.165065", "0.873293", "6.980274"),
}
TRAINABLE, ABOUT = 6.0, 1.5


class Decays(NamedTuple):
    """What the measurement of depth scales takes."""

    weight_vars: tuple[float, ...]
    layers: int
    seeds: int
    narrow_seeds: int


NARROW, WIDE, PAIRS = 100, 400, 48
DECAYS = Decays((1.0, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0), layers=25, seeds=96, narrow_seeds=400)
QUICK_DECAYS = Decays((1.3, 4.0), layers=8, seeds=48, narrow_seeds=150)
LENGTH_OFF, CORRELATION_OFF, APART = 0.05, 0.04, 0.005
SMALL = 1e-3  # times these offsets, the maps are linear
LINEAR = 1e-4  # relative: what is left at such offsets, of their order, and rounding


class Training(NamedTuple):
    """What the heat map takes."""

    weight_vars: tuple[float, ...]
    depths: tuple[int, ...]
    seeds: int


WIDTH, BATCH, STEPS, LEARNING_RATE = 100, 32, 200, 1e-2
EARLY = STEPS // 10
WINDOW = 10  # steps about EARLY over which the accuracy of a batch is averaged
CLASSES = 10
TRAINING = Training(
    (0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.76, 2.0, 2.5, 3.0, 3.5, 4.0),
    (4, 6, 9, 13, 18, 26, 36, 51, 72),
    5,
)
QUICK_TRAINING = Training((0.8, 1.0, 1.76, 4.0), (6, 13, 30), 4)


def main() -> int:
    """Measure, train, compare, write, and return the exit status."""
    options = arguments(
        NAME,
        __doc__,
        quick=f"depths {', '.join(map(str, QUICK_TRAINING.depths))} at "
        f"{len(QUICK_TRAINING.weight_vars)} weight variances, {QUICK_DECAYS.seeds} networks of "
        f"width {WIDE} instead of {DECAYS.seeds}",
    )
    decays, training = (QUICK_DECAYS, QUICK_TRAINING) if options.quick else (DECAYS, TRAINING)
    console.print(
        f"{decays.seeds} networks of {decays.layers} layers of {WIDE} units and "
        f"{decays.narrow_seeds} of {NARROW}. To train, of width {WIDTH}: {training.seeds} of each "
        f"depth and weight variance, {flops(training) / 1e12:.1f} TFLOP."
    )
    scales = measure_scales(decays)
    with progress() as bar:
        task = bar.add_task("depths trained", total=len(training.depths))
        accuracies = train(training, lambda: bar.advance(task))
    factors = trainable_depths(training, accuracies) / xi_c(training.weight_vars)
    checks = [*compare_theory(), *compare_scales(scales), *compare_factors(training, factors[1])]
    write_data(options.out, training, scales, accuracies, factors, checks)
    draw(options.out / f"{NAME}.png", training, scales, accuracies, factors)
    status = verdict(checks, left_out=left_out(training, factors[1]))
    if not options.quick:  # whose depths are too few for it
        note_shift(training, factors)
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
    """One depth scale, of theory and measured."""

    weight_var: float
    name: str
    xi: float
    """theory's"""
    linear: float
    """fitted to theory's maps, of small deviations"""
    fitted: float
    """fitted to theory's maps, of deviations as large as those measured"""
    narrow: Estimate
    """fitted to networks of width NARROW"""
    wide: Estimate

    @property
    def measured(self) -> Estimate:
        """Extrapolated to infinite width."""
        return extrapolate(self.narrow, self.wide, ratio=WIDE / NARROW)


def measure_scales(setting: Decays) -> list[Scale]:
    """xi_q and xi_c of every weight variance."""
    narrow_key, wide_key = jax.random.split(jax.random.key(2017))
    narrow = decay(narrow_key, NARROW, setting, seeds=setting.narrow_seeds)
    wide = decay(wide_key, WIDE, setting, seeds=setting.seeds)
    scales = []
    for i, weight_var in enumerate(setting.weight_vars):
        exact = theory(weight_var)
        for k, (name, xi) in enumerate((("xi_q", exact.xi_q), ("xi_c", exact.xi_c))):
            # Over two e-folds or one: later, what is left is less than the noise.
            layers = min(setting.layers, max(2, round((2, 1)[k] * xi)))
            linear, fitted = (
                fit(predicted_decay(weight_var, layers, offsets=offsets)[k])
                for offsets in (SMALL, 1.0)
            )
            runs = (nets[k][:, i, : layers + 1] for nets in (narrow, wide))
            scales.append(Scale(weight_var, name, xi, linear, fitted, *map(fit_with_error, runs)))
    return scales


def fit_with_error(runs: np.ndarray) -> Estimate:
    """Fit to the mean of `[seeds, layers]`, and its standard error by the jackknife."""
    seeds = len(runs)
    left_out = [fit((runs.sum(axis=0) - run) / (seeds - 1)) for run in runs]
    return Estimate(np.array(fit(runs.mean(axis=0))), np.sqrt(seeds - 1) * np.std(left_out), seeds)


def fit(differences: np.ndarray) -> float:
    """The number of layers over which the differences, `[layers]`, fall by a factor of e."""
    slope = np.polyfit(np.arange(len(differences)), np.log(differences), 1)[0]
    return -1 / float(slope)


def starts(weight_var: float, offsets: float = 1.0) -> tuple[float, tuple[float, float]]:
    """q*, and two values of 1 - c: on either side of 1 - c*, or 0 and a small one if that is 0."""
    exact = theory(weight_var)
    apart = 1 - exact.c
    if apart == 0:
        return exact.q, (0.0, APART * offsets)
    off = CORRELATION_OFF * offsets
    return exact.q, (apart - off, apart + off)


def predicted_decay(
    weight_var: float, layers: int, *, offsets: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of lengths (in units of q*) and of correlations, `[layers + 1]` each."""
    variances = {"weight_var": weight_var, "bias_var": BIAS_VAR}
    q, aparts = starts(weight_var, offsets)
    off = LENGTH_OFF * offsets
    lengths = [[q * (1 - off)], [q * (1 + off)]]
    correlations = [[1 - apart] for apart in aparts]
    for _ in range(layers):
        for row in lengths:
            row.append(jinit.theory.length_map("tanh", row[-1], **variances))
        for row in correlations:
            row.append(jinit.theory.correlation_map("tanh", row[-1], q=q, **variances))
    return np.diff(lengths, axis=0)[0] / q, -np.diff(correlations, axis=0)[0]


def decay(
    key: jax.Array, width: int, setting: Decays, *, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Those differences in real networks, averaged over pairs: `[seeds, weight_vars, layers + 1]`.

    Both starts pass the same weights, and most of the noise is in both.
    """
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
        one, other = jax.random.normal(input_key, (2, PAIRS, width))

        def layer(z: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple]:
            after = pass_layer(key, z, gains, bias_var=BIAS_VAR)
            return after, jax.vmap(differences)(after, q)

        z = jax.vmap(enter, (0, 0, None, None))(q, aparts, one, other)
        keys = jax.random.split(layer_key, setting.layers)
        first, later = jax.vmap(differences)(z, q), jax.lax.scan(layer, z, keys)[1]
        return tuple(jnp.concatenate([a[None], b]).T for a, b in zip(first, later, strict=True))

    keys = jax.random.split(key, seeds)
    found = jax.device_get(jax.jit(lambda keys: jax.lax.map(network, keys))(keys))
    return tuple(np.asarray(each, np.float64) for each in found)


# --- training ---------------------------------------------------------------------------------


class Accuracies(NamedTuple):
    """Training accuracy, each field `[seeds, weight_vars, depths]`."""

    early: np.ndarray
    """about a tenth of the steps, of the batches"""
    end: np.ndarray
    """after all steps, of all training samples"""


def flops(setting: Training) -> float:
    """Of all training: 2 per weight and sample forwards, 4 backwards."""
    weights = sum((depth - 1) * WIDTH**2 + 74 * WIDTH for depth in setting.depths)
    return 6.0 * weights * BATCH * STEPS * setting.seeds * len(setting.weight_vars)


def train(setting: Training, advance) -> Accuracies:
    """Train every network; one program per depth, which takes one network after another."""
    data = jinit.data.digits()
    # Inputs of mean square 1 over samples and pixels; a few pixels never vary.
    samples = (data.x_train / np.sqrt(np.mean(data.x_train**2)), data.y_train)
    shape = (setting.seeds, len(setting.weight_vars))
    draw_keys, train_keys = (
        jax.random.split(key, math.prod(shape)) for key in jax.random.split(jax.random.key(17))
    )
    gains = np.tile(np.sqrt(np.array(setting.weight_vars, np.float32)), setting.seeds)
    deepest = network_of(max(setting.depths))

    @jax.jit
    def draw_all(keys: jax.Array, gains: jax.Array) -> jinit.Params:
        def one(of: tuple[jax.Array, jax.Array]) -> jinit.Params:
            return jinit.init(of[0], deepest, "xavier", gain=of[1], bias_var=BIAS_VAR)[0]

        return jax.lax.map(one, (keys, gains))

    drawn = draw_all(draw_keys, gains)

    def train_depth(depth: int) -> tuple[np.ndarray, np.ndarray]:
        net = network_of(depth)

        @jax.jit
        def train_all(keys: jax.Array, drawn: jinit.Params, samples: tuple) -> tuple:
            def one(of: tuple[jax.Array, jinit.Params]) -> tuple[jax.Array, jax.Array]:
                run = jinit.train(
                    of[0], net, of[1], None, samples,
                    optimizer=optax.sgd(LEARNING_RATE), steps=STEPS, batch_size=BATCH,
                )  # fmt: skip
                about = slice(EARLY - WINDOW // 2, EARLY + WINDOW // 2)
                return jnp.mean(run.history.accuracy[about]), run.accuracy

            return jax.lax.map(one, (keys, drawn))

        found = jax.device_get(train_all(train_keys, first_layers(drawn, depth), samples))
        advance()
        return tuple(np.asarray(each, np.float64).reshape(shape) for each in found)

    # A product of small matrices keeps one core busy: two depths go side by side.
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(train_depth, sorted(setting.depths, reverse=True)))[::-1]
    return Accuracies(*(np.stack(each, -1) for each in zip(*found, strict=True)))


def network_of(depth: int) -> jinit.MLP:
    """A network of that many hidden layers."""
    return jinit.MLP((64,) + (WIDTH,) * depth + (CLASSES,), activation="tanh")


def first_layers(params: jinit.Params, depth: int) -> jinit.Params:
    """A shallower network: the first layers of the deepest, and its readout.

    Drawing once saves a compilation per depth.
    """
    first, hidden, readout = params.runs
    kept = jax.tree.map(lambda leaf: leaf[:, : depth - 1], hidden)
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
    """The numbers of the paper's formulas beside `jinit.theory`."""
    checks = []
    for weight_var, texts in PUBLISHED.items():
        exact = theory(weight_var)
        found = (exact.q, exact.chi, exact.c, exact.xi_q, exact.xi_c)
        group = f"jinit.theory, weight variance {weight_var:g}"
        checks += [printed(group, *row) for row in zip(COLUMNS, texts, found, strict=True)]
    return checks


def compare_scales(scales: Sequence[Scale]) -> list[Check]:
    """Networks beside theory's maps, and those maps beside theory's depth scales."""
    return [
        *(
            Check(
                f"decay in networks of widths {NARROW} and {WIDE}, extrapolated, and in theory's "
                f"maps", f"{scale.name}, variance {scale.weight_var:g}", scale.fitted,
                float(scale.measured.mean), float(scale.measured.tolerance), "theory",
            )
            for scale in scales
        ),
        *(
            Check(
                "slope of theory's maps and depth scales of theory",
                f"{scale.name}, variance {scale.weight_var:g}", scale.xi, scale.linear,
                LINEAR * scale.linear, "theory",
            )
            for scale in scales
        ),
    ]  # fmt: skip


def compare_factors(setting: Training, factors: np.ndarray) -> list[Check]:
    """Depth that trains in units of xi_c, where xi_c and not the width decides it."""
    return [
        Check(
            "ordered phase: depth of half accuracy / xi_c, about 6 by the paper",
            f"variance {weight_var:g}", TRAINABLE, float(factor), ABOUT, "paper",
        )
        for weight_var, factor in zip(setting.weight_vars, factors, strict=True)
        if checked(weight_var)
    ]  # fmt: skip


def checked(weight_var: float) -> bool:
    """Whether the depth that trains is compared with 6 xi_c."""
    return theory(weight_var).c == 1 and decided_by_xi(weight_var)


def decided_by_xi(weight_var: float) -> bool:
    """Whether the depth that should train is small beside the width."""
    return TRAINABLE * theory(weight_var).xi_c <= WIDTH / 2


def left_out(setting: Training, factors: np.ndarray) -> list[str]:
    """What theory does not decide at the chosen widths and depths."""

    def sentence(why: str, chosen: Sequence[bool]) -> list[str]:
        found = [
            f"{w:g} ({'deeper than all' if math.isnan(factor) else f'{factor:.1f}'})"
            for w, factor, here in zip(setting.weight_vars, factors, chosen, strict=True)
            if here
        ]
        return [f"6 xi_c {why}: weight variance (measured) {', '.join(found)}."] if found else []

    decided = [decided_by_xi(w) for w in setting.weight_vars]
    return [
        *sentence(
            "in the chaotic phase",
            [here and not checked(w) for here, w in zip(decided, setting.weight_vars, strict=True)],
        ),
        *sentence("where it is more than half the width", [not here for here in decided]),
    ]


def note_shift(setting: Training, factors: np.ndarray) -> None:
    """How much deeper ten times the steps reach, beside what fixed features would give."""
    use = np.array([checked(weight_var) for weight_var in setting.weight_vars])
    early, end = factors[:, use]
    console.print(
        f"In the ordered phase {STEPS} steps reach {np.mean(end - early):.1f} xi_c deeper than "
        f"{EARLY}; features that do not learn would give ln 10 + ln(ratio of the depths) = "
        f"{np.mean(math.log(STEPS / EARLY) + np.log(end / early)):.1f} (not a check)."
    )


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
            (w, xi, *map(float, factors[:, i]), "yes" if checked(w) else "no")
            for i, (w, xi) in enumerate(
                zip(setting.weight_vars, map(float, xi_c(setting.weight_vars)), strict=True)
            )
        ),
    )  # fmt: skip
    write_csv(
        out / "depth_scales.csv",
        ("weight_var", "name", "xi", "fitted_small", "fitted", "measured", "standard_error",
         "tolerance", f"width_{NARROW}", f"width_{WIDE}"),
        (
            (*scale[:5], *(float(x) for x in (
                *scale.measured[:2], scale.measured.tolerance, scale.narrow.mean, scale.wide.mean,
            )))
            for scale in scales
        ),
    )  # fmt: skip


def draw(
    path: Path,
    setting: Training,
    scales: Sequence[Scale],
    accuracies: Accuracies,
    factors: np.ndarray,
) -> None:
    """The heat map; beside it the depth scales, and the depth that trains in their units."""
    figure = Figure(figsize=(15, 9.2))
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
        axes.set_xlabel("weight variance $\\sigma_w^2$")
        finish(axes, labels=12)
    figure.savefig(path, dpi=150)


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
    axes.axvline(
        critical, color="black", linewidth=1.6, linestyle=(0, (3, 3)),
        path_effects=[withStroke(linewidth=3.6, foreground="white")],
    )  # fmt: skip
    axes.plot(
        setting.weight_vars, factors[1] * xi_c(setting.weight_vars), linestyle="none", marker="o",
        markersize=9, markerfacecolor="white", markeredgecolor=BLUE, markeredgewidth=2.2,
        label="half way from the best accuracy to chance",
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
        "Training accuracy is lost near 6 $\\xi_c$, in chaos sooner", loc="left", fontsize=14,
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
            [scale.weight_var for scale in own], [scale.measured.mean for scale in own],
            yerr=[scale.measured.tolerance for scale in own], color=colour, marker=marker,
            label=f"$\\{name[:2]}_{name[3]}$ of networks, ± what is allowed", **POINTS,
        )  # fmt: skip
    axes.axvline(critical, color="0.5", linewidth=1, linestyle=(0, (3, 3)))
    axes.plot([], [], color="0.25", linewidth=1.6, label="theory")
    axes.set(yscale="log", ylim=(0.5, 500), ylabel="layers")
    axes.set_title(
        "Only $\\xi_c$ diverges at criticality", loc="left", fontsize=14, fontweight="bold"
    )
    axes.legend(loc="upper right", fontsize=10.5, framealpha=1)


def _draw_factors(axes, setting: Training, factors: np.ndarray) -> None:
    axes.axhspan(TRAINABLE - ABOUT, TRAINABLE + ABOUT, color="0.92", zorder=0)
    axes.axhline(TRAINABLE, color="0.25", linewidth=1.6)
    decided = np.array([decided_by_xi(weight_var) for weight_var in setting.weight_vars])
    for row, steps, colour, marker in ((1, STEPS, BLUE, "o"), (0, EARLY, ORANGE, "v")):
        axes.plot(
            np.array(setting.weight_vars)[decided], factors[row][decided], color=colour,
            marker=marker, label=f"after {steps} steps",
            **{name: POINTS[name] for name in POINTS if name != "capsize"},
        )  # fmt: skip
    axes.set(ylim=(0, 10.5), ylabel="depth that trains / $\\xi_c$")
    axes.set_title(
        "About 6 $\\xi_c$; longer training reaches deeper", loc="left", fontsize=14,
        fontweight="bold",
    )  # fmt: skip
    axes.legend(
        loc="upper center", fontsize=10.5, ncol=2, framealpha=1,
        title=f"line: 6; band: ± {ABOUT:g}, checked in the ordered phase",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
