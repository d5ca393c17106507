"""How deep a tanh network trains is decided by its depth scale xi_c, before it sees any data.

With biases N(0, 0.05) and any weight variance, a deviation of a signal's length decays by a factor
of e over xi_q layers, the correlation of two inputs over xi_c. Compared are `jinit.theory` with the
paper's numbers; the decay in networks of widths 100 and 400, extrapolated, with that of theory's
maps; and "about 6 xi_c" with the depth up to which networks train in the ordered phase.

Source: Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, "Deep information propagation".
"""

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import xarray as xr
from harness.checks import Check, compare, extrapolate, held, printed
from harness.experiment import Experiment
from harness.figures import BLUE, GREEN, ORANGE, Figure, label, named_ticks, panels, points

import jinit

BIAS_VAR = 0.05
COLUMNS = {"q*": "q", "chi_1": "chi", "c*": "c", "xi_q": "xi_q", "xi_c": "xi_c"}
PUBLISHED = {
    1.3: ("0.3153165", "0.8801635", "1", "1.785237", "7.834069"),
    1.5: ("0.4180372", "0.9386363", "1", "1.682828", "15.79099"),
    2.0: ("0.7217619", "1.047666", "0.7440824", "1.387976", "25.21341"),
    4.0: ("2.195494", "1.342402", "0.165065", "0.873293", "6.980274"),
}
TRAINABLE, ABOUT = 6.0, 1.5

# How decay is measured.
NARROW, WIDE, PAIRS = 100, 400, 48
LENGTH_OFF, CORRELATION_OFF, APART = 0.05, 0.04, 0.005
SMALL = 1e-3  # times these offsets, the maps are linear
LINEAR = 1e-4  # relative: what is left at such offsets, of their order, and rounding

# How networks are trained.
WIDTH, BATCH, STEPS, LEARNING_RATE, CLASSES = 100, 32, 200, 1e-2, 10
EARLY = STEPS // 10
WINDOW = 10  # steps about EARLY over which the accuracy of a batch is averaged


@cache
def theory(weight_var: float) -> Any:
    """q, c, chi and depth scales at infinite width."""
    return jinit.theory.depth_scales("tanh", weight_var=float(weight_var), bias_var=BIAS_VAR)


def measure(
    decay_vars: Sequence[float] = (1.0, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0),
    layers: int = 25, wide: int = 96, narrow: int = 400,
    weight_vars: Sequence[float] = (0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.76, 2.0, 2.5, 3.0, 3.5, 4.0),
    depths: Sequence[int] = (4, 6, 9, 13, 18, 26, 36, 51, 72), seeds: int = 5,
) -> xr.Dataset:  # fmt: skip
    """Depth scales in so many networks of either width, and accuracies of trained ones."""
    scales = measure_scales(decay_vars, layers, {NARROW: narrow, WIDE: wide})
    return xr.merge([scales, train(weight_vars, depths, seeds)])


def measure_scales(weight_vars: Sequence[float], layers: int, nets: dict[int, int]) -> xr.Dataset:
    """xi_q and xi_c of every weight variance: of theory, fitted to its maps, and to networks.

    Of the maps, `linear` is the fit to small deviations, `fitted` to as large ones as networks'.
    """
    runs = [decay(width, layers, seeds, weight_vars) for width, seeds in nets.items()]
    rows = []
    for i, weight_var in enumerate(weight_vars):
        for k, name in enumerate(("xi_q", "xi_c")):
            xi = getattr(theory(weight_var), name)
            # Over two e-folds or one: later, what is left is less than the noise.
            last = min(layers, max(2, round((2, 1)[k] * xi)))
            maps = (fit(predicted_decay(weight_var, last, offsets)[k]) for offsets in (SMALL, 1.0))
            fits = (fit_with_error(run[:, i, k, : last + 1]) for run in runs)
            rows.append([weight_var, name, xi, *maps, *(x for both in fits for x in both)])
    names = ["xi", "linear", "fitted", "narrow", "narrow_error", "wide", "wide_error"]
    table = pd.DataFrame(rows, columns=["decay_var", "scale", *names])
    table = table.set_index(["decay_var", "scale"]).to_xarray().sel(scale=["xi_q", "xi_c"])
    return table.assign_attrs(narrow_seeds=nets[NARROW], wide_seeds=nets[WIDE])


def fit(differences: np.ndarray) -> np.ndarray:
    """The number of layers over which the differences, `[..., layers]`, fall by a factor of e."""
    at = np.arange(differences.shape[-1])
    return -np.sum((at - at.mean()) ** 2) / (np.log(differences) @ (at - at.mean()))


def fit_with_error(runs: np.ndarray) -> tuple[float, float]:
    """Fit to the mean of `[seeds, layers]`, and its standard error by the jackknife."""
    left_out = fit((runs.sum(axis=0) - runs) / (len(runs) - 1))
    return float(fit(runs.mean(axis=0))), math.sqrt(len(runs) - 1) * float(np.std(left_out))


def starts(weight_var: float, offsets: float = 1.0) -> tuple[float, float, float]:
    """q*, and two values of 1 - c: on either side of 1 - c*, or 0 and a small one if that is 0."""
    apart, off = 1 - theory(weight_var).c, CORRELATION_OFF * offsets
    near, far = (apart - off, apart + off) if apart else (0.0, APART * offsets)
    return theory(weight_var).q, near, far


def predicted_decay(weight_var: float, layers: int, offsets: float = 1.0) -> np.ndarray:
    """Differences of lengths (in units of q*) and of correlations, `[2, layers + 1]`."""
    wide = jinit.theory.Ensemble("tanh", weight_var=weight_var, bias_var=BIAS_VAR)
    q, near, far = starts(weight_var, offsets)
    off, rows = LENGTH_OFF * offsets, []
    now = [q * (1 - off), q * (1 + off), 1 - far, 1 - near]
    for _ in range(layers + 1):
        short, long, less, more = now
        rows.append([(long - short) / q, more - less])
        now = [wide.length_map(short), wide.length_map(long)]
        now += [wide.correlation_map(c, q=q) for c in (less, more)]
    return np.transpose(rows)


def decay(width: int, layers: int, seeds: int, weight_vars: Sequence[float]) -> np.ndarray:
    """Those in networks, whose weights serve all starts: `[seeds, weight_vars, 2, layers + 1]`."""
    net = jinit.MLP((width,) * (layers + 1) + (1,), activation="tanh")
    begun = (np.array(x, np.float32) for x in zip(*map(starts, weight_vars), strict=True))
    each = np.sqrt(np.array(weight_vars, np.float32)), *begun

    def network(key: jax.Array) -> dict[str, jax.Array]:
        input_key, init_key = jax.random.split(key)
        one, two = jax.random.normal(input_key, (2, PAIRS, width))

        def differences(gain: jax.Array, q: jax.Array, *aparts: jax.Array) -> jax.Array:
            near, far = ((1 - a) * one + jnp.sqrt(a * (2 - a)) * two for a in aparts)
            short, long = (math.sqrt(1 + off) * one for off in (-LENGTH_OFF, LENGTH_OFF))
            x = jnp.sqrt(q) * jnp.concatenate([one, one, short])
            other = jnp.sqrt(q) * jnp.concatenate([near, far, long])
            params, state = jinit.init(init_key, net, "xavier", gain=gain, bias_var=BIAS_VAR)
            seen = jinit.correlations(net, params, state, jnp.tanh(x), jnp.tanh(other))

            def by_start(z: jax.Array, later: jax.Array) -> jax.Array:
                whole = jnp.concatenate([jnp.mean(z**2, 1, keepdims=True), later[:, :layers]], 1)
                return whole.reshape(3, PAIRS, -1).mean(1)

            # E (u - v)^2 / 2 = q (1 - c), in which nothing cancels where inputs are nearly alike.
            near_distance, far_distance, _ = by_start(x - other, seen.distance)
            lengths = by_start(other, seen.other_length)[2] - by_start(x, seen.length)[2]
            return jnp.stack([lengths, (far_distance - near_distance) / 2]) / q

        return {"differences": jax.vmap(differences)(*each)}

    return jinit.sweep(network, seeds=seeds).differences.values.astype(float)


def train(weight_vars: Sequence[float], depths: Sequence[int], seeds: int) -> xr.Dataset:
    """Training accuracy at the end, and of the batches about a tenth of the steps."""
    data = jinit.data.digits()
    # Inputs of mean square 1 over samples and pixels; a few pixels never vary.
    samples = (data.x_train / np.sqrt(np.mean(data.x_train**2)), data.y_train)

    def run(key: jax.Array, *, depth: int, weight_var: jax.Array) -> dict[str, jax.Array]:
        init_key, train_key = jax.random.split(key)
        net = jinit.MLP((64,) + (WIDTH,) * depth + (CLASSES,), activation="tanh")
        gain = jnp.sqrt(weight_var)
        params, state = jinit.init(init_key, net, "xavier", gain=gain, bias_var=BIAS_VAR)
        how = {"optimizer": optax.sgd(LEARNING_RATE), "steps": STEPS, "batch_size": BATCH}
        found = jinit.train(train_key, net, params, state, samples, **how)
        about = slice(EARLY - WINDOW // 2, EARLY + WINDOW // 2)
        return {"early": jnp.mean(found.history.accuracy[about]), "end": found.accuracy}

    axes = {"static": {"depth": depths}, "traced": {"weight_var": weight_vars}}
    found = jinit.sweep(run, **axes, seeds=seeds).astype(float)
    return found.assign_coords(weight_var=list(weight_vars))


def factors(data: xr.Dataset, name: str) -> xr.DataArray:
    """Depths that train in units of xi_c, early or at the end: `[weight_vars]`."""
    depths, xi_c = data.depth.values, [theory(w).xi_c for w in data.weight_var.values]
    mean, how = data[name].mean("seed"), {"input_core_dims": [["depth"]], "vectorize": True}
    return xr.apply_ufunc(partial(half_way, depths), mean, **how) / np.array(xi_c)


def half_way(depths: Sequence[int], accuracy: np.ndarray) -> float:
    """Where it falls half way from its best to chance, by log(depth); NaN if past the deepest."""
    best = int(np.argmax(accuracy))
    half = (accuracy[best] + 1 / CLASSES) / 2
    below = best + np.flatnonzero(accuracy[best:] < half)
    if not len(below):
        return math.nan
    around = [below[0], below[0] - 1]
    return float(np.exp(np.interp(half, accuracy[around], np.log(depths)[around])))


def ordered(found: xr.DataArray) -> xr.DataArray:
    """What is compared with 6 xi_c: the ordered phase, where that is small beside the width."""
    exact = [theory(weight_var) for weight_var in found.weight_var.values]
    return found[[each.c == 1 and TRAINABLE * each.xi_c <= WIDTH / 2 for each in exact]]


def checks(data: xr.Dataset) -> list[Check]:
    """Theory, the decay in networks, and the depth that trains."""
    found = []
    for weight_var, texts in PUBLISHED.items():
        group, exact = f"jinit.theory, weight variance {weight_var:g}", theory(weight_var)
        for name, text in zip(COLUMNS, texts, strict=True):
            found.append(printed(group, name, text, getattr(exact, COLUMNS[name])))
    nets = extrapolate(held(data, "narrow"), held(data, "wide"), ratio=WIDE / NARROW)
    what = "{scale}, variance {decay_var:g}"
    decays = f"decay in networks of widths {NARROW} and {WIDE}, extrapolated, and in theory's maps"
    maps = "slope of theory's maps and depth scales of theory"
    trains = "ordered phase: depth of half accuracy / xi_c, about 6 by the paper"
    end, each = ordered(factors(data, "end")), "variance {weight_var:g}"
    found += compare(decays, what, data.fitted, nets, "theory")
    found += compare(maps, what, data.xi, data.linear, "theory", LINEAR * data.linear)
    return found + compare(trains, each, TRAINABLE, end, "paper", ABOUT)


def figure(data: xr.Dataset) -> Figure:
    """Where networks train, and the depth scales."""
    note = f"tanh networks of width {WIDTH} on 8 x 8 digits, {STEPS} steps of SGD at a learning "
    note += f"rate of {LEARNING_RATE:g}; biases of variance {BIAS_VAR}"
    title = "Networks train as deep as signals reach"
    fig, (heat, side) = panels(title, note, (15, 7.5), columns=2, width_ratios=[1.45, 1])
    accuracy = data.end.mean("seed").transpose("depth", "weight_var")
    mesh = heat.pcolormesh(data.weight_var, data.depth, accuracy, cmap="magma", vmin=0, vmax=1)
    fig.colorbar(mesh, ax=heat, pad=0.015, fraction=0.04, label="training accuracy")
    ends, limits = np.array(heat.get_xlim()), heat.get_ylim()

    critical = jinit.theory.critical("tanh", bias_var=BIAS_VAR).weight_var
    # Denser towards criticality, where xi_c diverges.
    off = np.linspace(0.1, 1, 40) ** 2 * (ends - critical)[:, None]
    weight_vars = np.sort(critical + off.ravel())
    curve = {n: np.array([getattr(theory(w), n) for w in weight_vars]) for n in ("xi_c", "xi_q")}
    heat.plot(weight_vars, TRAINABLE * curve["xi_c"], color="white", linewidth=5.5, alpha=0.65)
    heat.plot(weight_vars, TRAINABLE * curve["xi_c"], color="black", label="6 $\\xi_c$, theory")
    xi_c = np.array([theory(w).xi_c for w in data.weight_var.values])
    for name, taken, colour, marker in (("end", STEPS, BLUE, "o"), ("early", EARLY, GREEN, "v")):
        half, name = xi_c * factors(data, name), f"half way to chance, {taken} steps"
        points(heat, half.weight_var, half, 0 * half, color=colour, marker=marker, label=name)
    title, x = "Training accuracy is lost near 6 $\\xi_c$, in chaos sooner", "weight variance"
    label(heat, title, x, "hidden layers", "lower right", yscale="log", ylim=limits)
    named_ticks(heat.yaxis, data.depth.values)
    heat.grid(False)

    nets = extrapolate(held(data, "narrow"), held(data, "wide"), ratio=WIDE / NARROW)
    for name, colour, marker in (("xi_c", ORANGE, "o"), ("xi_q", GREEN, "s")):
        side.plot(weight_vars, curve[name], color="0.25", linewidth=1.6)
        found, allowed = (each.sel(scale=name) for each in (nets.mean, nets.tolerance))
        marks = {"color": colour, "marker": marker, "label": f"$\\{name}$ of networks, ± allowed"}
        points(side, data.decay_var, found, allowed, errors=1, **marks)
    side.plot([], [], color="0.25", linewidth=1.6, label="theory; dashed: critical")
    title = "Only $\\xi_c$ diverges at criticality"
    label(side, title, x, "layers", "upper right", yscale="log", ylim=(0.5, 500))
    for axes in (heat, side):
        axes.axvline(critical, color="0.5", linestyle="--", linewidth=1.4)
        axes.set_xlim(ends)
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, checks, figure,
    quick={
        "decay_vars": (1.3, 4.0), "layers": 8, "wide": 48, "narrow": 150,
        "weight_vars": (0.8, 1.0, 1.76, 4.0), "depths": (6, 13, 30), "seeds": 4,
    },
    lacks="5 of 7 weight variances in decay, 8 of 12 in training, depths of more than 30 layers",
)  # fmt: skip
EXPERIMENT.run(__name__)
