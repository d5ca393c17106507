"""Order and chaos in tanh networks of width 1000: the length and the correlation map.

Two inputs pass layers with weights N(0, sigma_w^2 / 1000) and biases N(0, 0.3^2). Theory
(`jinit.theory`) predicts the length of either, the mean square q of its pre-activations, and their
correlation c, layer by layer: lengths settle at q*, correlations at c*. With sigma_w = 1.3 all
inputs become alike (c* = 1, ordered); with 2.5 and 4 even neighbours part (c* < 1, chaotic).

Compared are

- q*, c* and the susceptibility chi_1 of `jinit.theory` with the numbers of the paper's formulas,
  within half a unit of the last digit;
- the maps of theory with single layers of `jinit.init`, over a grid of lengths and of correlations.
  Every point has networks of its own. No bias is allowed for: the inputs are Gaussian, and the
  means of one layer exact at any width;
- deep networks of `jinit.init` with the law of their width. Given the covariance of two inputs in
  one layer, the 1000 pairs of pre-activations of the next are independent draws from it, so that a
  chain of 2 x 2 matrices has exactly the law of two inputs in such a network, at a thousandth of
  the cost. All starts of a network or chain share its draws, so that they agree or disagree
  together;
- that law with theory. At width N its means are off infinite width by a / N + O(1 / N^2):
  chains of widths 1000 and 2000 give 2 m(2000) - m(1000), from which the first is gone, and which
  must be what theory says. So q* and c* are found without theory, from long chains.

Allowed are five standard errors everywhere (Student's t where runs are few), and for q* and c*
what LAYERS_BEFORE layers may leave of the start, LEFT.

Source: Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli 2016, "Exponential expressivity in deep
neural networks through transient chaos", figures 1 and 2.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _common import (
    BLUE,
    GREEN,
    ORANGE,
    POINTS,
    STANDARD_ERRORS,
    Check,
    Estimate,
    arguments,
    average,
    console,
    errors_allowed,
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

import jinit

NAME = "poole2016_order_to_chaos"
WIDTH = 1000
BIAS_VAR = 0.3**2
SIGMA_WS = (1.3, 2.5, 4.0)

# Where the inputs start: lengths, and correlations of pairs of length q*.
LENGTHS = np.geomspace(0.03, 30, 9)
CORRELATIONS = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.98])

PUBLISHED = {
    1.3: {"q*": "0.6070468", "c*": "1", "chi_1": "0.9398074"},
    4.0: {"q*": "12.60415", "c*": "0.02969592", "chi_1": "2.367261"},
}
COLOURS = {1.3: BLUE, 2.5: GREEN, 4.0: ORANGE}
MARKERS = {1.3: "o", 2.5: "s", 4.0: "^"}
PHASES = {1.3: "ordered", 2.5: "chaotic", 4.0: "deep in chaos"}

BATCH = 16  # pairs of inputs of a single layer; in the next they are all but independent
LAYERS_BEFORE = 100
LEFT = 1e-3  # of q* and c*, relative


class Setting(NamedTuple):
    """How much is drawn."""

    single: int
    """networks of one layer, for every point of the maps"""
    deep: int
    """networks of `depth` layers"""
    depth: int
    chains: int
    """of the trajectories, at both widths"""
    long_chains: int
    """of LAYERS_BEFORE and `layers` more, at both widths"""
    layers: int


FULL = Setting(single=40, deep=64, depth=30, chains=400, long_chains=128, layers=400)
QUICK = Setting(single=12, deep=16, depth=15, chains=100, long_chains=48, layers=150)


class Start(NamedTuple):
    """Pairs of inputs before the first layer, for every sigma_w: each field `[sigmas, pairs]`.

    The first pairs have the lengths of LENGTHS, the others length q* and those of CORRELATIONS.
    """

    q: np.ndarray
    c: np.ndarray


class Moments(NamedTuple):
    """Of two inputs' pre-activations, layer 0 (the inputs) to DEPTH; `[..., layers, pairs]`."""

    first: np.ndarray
    """mean square of the first input"""
    second: np.ndarray
    product: np.ndarray


class Measured(NamedTuple):
    """Lengths of the first input, and correlations, `[sigmas, layers, pairs]`."""

    q: Estimate
    c: Estimate


class Law(NamedTuple):
    """What chains of WIDTH and of twice that say of networks."""

    narrow: Measured
    wide: Measured


def main() -> int:
    """Simulate, compare, write, and return the exit status."""
    options = arguments(
        NAME,
        __doc__,
        quick=f"{QUICK.single} single layers and {QUICK.deep} networks of {QUICK.depth} layers "
        f"instead of {FULL.single}, {FULL.deep} and {FULL.depth}; fewer chains",
    )
    setting = QUICK if options.quick else FULL
    console.print(
        f"{setting.deep} networks of {setting.depth} layers of {WIDTH} units, sigma_b = 0.3; "
        f"{setting.single} single layers for every point of the maps; {setting.chains} chains of "
        f"covariances, and {setting.long_chains} of {LAYERS_BEFORE + setting.layers} layers."
    )
    start = begin()
    theory = predict(start, setting.depth)
    single_key, deep_key, law_key, long_key = jax.random.split(jax.random.key(2016), 4)
    with progress() as bar:
        task = bar.add_task("networks and chains", total=setting.single + setting.deep + 4)

        def advance() -> None:
            bar.advance(task)

        maps = single_layers(single_key, start, setting.single, advance)
        nets = networks(deep_key, start, setting.deep, setting.depth, advance)
        law_runs, settled_runs = [], []
        for width in (WIDTH, 2 * WIDTH):
            key = jax.random.fold_in(law_key, width)
            law_runs.append(chains(key, start, setting.chains, setting.depth, width=width))
            advance()
            key = jax.random.fold_in(long_key, width)
            settled_runs.append(long_chains(key, setting.long_chains, setting.layers, width=width))
            advance()
    law, settled = (Law(*map(summary, runs)) for runs in (law_runs, settled_runs))
    measured = summary(nets)
    checks = [
        *compare_with_print(),
        *compare_maps(maps, theory),
        *compare_networks(measured, law.narrow),
        *compare_late(summary(late(nets)), summary(late(law_runs[0])), setting.depth),
        *compare_law(law, theory),
        *compare_fixed_points(settled, theory),
    ]
    write_data(options.out, maps, measured, law, theory, checks)
    draw(options.out / f"{NAME}.png", maps, measured, theory)
    status = verdict(checks)
    console.print(f"Figure and data are in {options.out}/.")
    return status


# --- theory -----------------------------------------------------------------------------------


Map = Callable[[np.ndarray], np.ndarray]


class Theory(NamedTuple):
    """At infinite width: trajectories `[sigmas, layers, pairs]`, and fixed points by sigma_w."""

    q: np.ndarray
    c: np.ndarray
    settled: dict[float, float]
    """q*"""
    alike: dict[float, float]
    """c*"""
    correlation_map: dict[float, Map]


def begin() -> Start:
    """The pairs that enter the first layer."""
    rows_q, rows_c = [], []
    for sigma_w in SIGMA_WS:
        q = jinit.theory.length_fixed_point("tanh", weight_var=sigma_w**2, bias_var=BIAS_VAR)
        rows_q.append(np.concatenate([LENGTHS, np.full(len(CORRELATIONS), q)]))
        rows_c.append(np.concatenate([np.zeros(len(LENGTHS)), CORRELATIONS]))
    return Start(np.array(rows_q), np.array(rows_c))


def predict(start: Start, depth: int) -> Theory:
    """Both maps iterated; correlations only where the length is q*, elsewhere NaN."""
    q, c = (np.full((len(SIGMA_WS), depth + 1, x.shape[1]), np.nan) for x in start)
    q[:, 0] = start.q
    c[:, 0, len(LENGTHS) :] = CORRELATIONS
    settled, alike, maps = {}, {}, {}
    for i, sigma_w in enumerate(SIGMA_WS):
        variances = {"weight_var": sigma_w**2, "bias_var": BIAS_VAR}
        settled[sigma_w] = jinit.theory.length_fixed_point("tanh", **variances)
        alike[sigma_w] = jinit.theory.correlation_fixed_point("tanh", **variances)
        maps[sigma_w] = _interpolated_correlation_map(settled[sigma_w], variances)
        q[i, 1:, len(LENGTHS) :] = settled[sigma_w]
        for layer in range(depth):
            c[i, layer + 1] = maps[sigma_w](c[i, layer])
            for j in range(len(LENGTHS)):
                q[i, layer + 1, j] = jinit.theory.length_map(
                    "tanh", float(q[i, layer, j]), **variances
                )
    return Theory(q, c, settled, alike, maps)


def _interpolated_correlation_map(q: float, variances: dict[str, float]) -> Map:
    """The map on [0, 1] by a polynomial of degree 24, to 2e-7 at sigma_w = 4, its worst."""

    def exact(cs: np.ndarray) -> np.ndarray:
        return np.array(
            [jinit.theory.correlation_map("tanh", float(c), q=q, **variances) for c in cs]
        )

    return np.polynomial.Chebyshev.interpolate(exact, 24, domain=[0, 1])


# --- simulation -------------------------------------------------------------------------------


def single_layers(key: jax.Array, start: Start, seeds: int, advance) -> Measured:
    """One layer of jinit.init on, `[sigmas, pairs]`; every entry by networks of its own."""
    q, c = (np.asarray(x, np.float32).reshape(-1) for x in start)
    gains = np.repeat(np.array(SIGMA_WS, np.float32), start.q.shape[1])

    @jax.jit
    def all_entries(key: jax.Array) -> Moments:
        def entry(at: tuple[jax.Array, ...]) -> Moments:
            key, gain, q, c = at
            input_key, layer_key = jax.random.split(key)
            z = enter(input_key, *(jnp.broadcast_to(x, (BATCH,)) for x in (q, c)))
            after = pass_layer(layer_key, z[None], gain[None], bias_var=BIAS_VAR)
            return jax.tree.map(jnp.mean, moments(after))

        return jax.lax.map(entry, (jax.random.split(key, len(q)), gains, q, c))

    runs = []
    for seed_key in jax.random.split(key, seeds):
        runs.append(jax.device_get(all_entries(seed_key)))
        advance()
    return summary(
        Moments(
            *(_stack(field).reshape(seeds, *start.q.shape) for field in zip(*runs, strict=True))
        )
    )


def networks(key: jax.Array, start: Start, seeds: int, depth: int, advance) -> Moments:
    """Moments of networks of jinit.init, `[seeds, sigmas, layers, pairs]`."""
    q, c = (np.asarray(x, np.float32) for x in start)
    gains = np.array(SIGMA_WS, np.float32)

    @jax.jit
    def network(key: jax.Array) -> Moments:
        def layer(z: jax.Array, key: jax.Array) -> tuple[jax.Array, Moments]:
            return pass_layer(key, z, gains, bias_var=BIAS_VAR), moments(z)

        input_key, layer_key = jax.random.split(key)
        keys = jax.random.split(layer_key, depth + 1)  # the last layer's are not looked at
        return jax.lax.scan(layer, enter(input_key, q, c), keys)[1]

    runs = []
    for seed_key in jax.random.split(key, seeds):
        runs.append(jax.device_get(network(seed_key)))
        advance()
    return Moments(*(np.moveaxis(_stack(field), 1, 2) for field in zip(*runs, strict=True)))


def _stack(runs: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.stack(runs).astype(np.float64)


def enter(key: jax.Array, q: jax.Array, c: jax.Array) -> jax.Array:
    """Gaussian pairs of lengths and correlations `[..., pairs]`, as `[..., 2, pairs, WIDTH]`."""
    one, other = jax.random.normal(key, (2, *q.shape, WIDTH))
    partner = c[..., None] * one + jnp.sqrt(1 - c[..., None] ** 2) * other
    return jnp.sqrt(q)[..., None, :, None] * jnp.stack([one, partner], -3)


def chains(key: jax.Array, start: Start, runs: int, depth: int, *, width: int) -> Moments:
    """Networks in law, drawn as covariances of two inputs: `[runs, sigmas, layers, pairs]`."""
    weight_var = np.array(SIGMA_WS, np.float32)[:, None] ** 2
    q, c = (np.asarray(x, np.float32) for x in start)

    @jax.jit
    def chain(key: jax.Array) -> Moments:
        def pass_layer(now: Moments, key: jax.Array) -> tuple[Moments, Moments]:
            one, other = jax.random.normal(key, (2, len(SIGMA_WS), 1, width))
            root = jnp.sqrt(now.first)
            rest = jnp.sqrt(jnp.maximum(now.second - (now.product / root) ** 2, 0))
            u = root[..., None] * one
            v = (now.product / root)[..., None] * one + rest[..., None] * other
            seen = moments(jnp.stack([u, v], -3))
            passed = moments(jnp.tanh(jnp.stack([u, v], -3)))
            return jax.tree.map(lambda m: weight_var * m + BIAS_VAR, passed), seen

        return jax.lax.scan(pass_layer, Moments(q, q, c * q), jax.random.split(key, depth + 1))[1]

    found = jax.device_get(jax.lax.map(chain, jax.random.split(key, runs)))
    return Moments(*(np.moveaxis(np.asarray(field, np.float64), 2, 1) for field in found))


def long_chains(key: jax.Array, runs: int, layers: int, *, width: int) -> Moments:
    """Chains that have settled, averaged over `layers`: `[runs, sigmas, 1, 1]`.

    Half of them start short and uncorrelated, the others long and nearly alike.
    """
    halves = [
        chains(
            half_key,
            Start(*(np.full((len(SIGMA_WS), 1), x[end]) for x in (LENGTHS, CORRELATIONS))),
            runs // 2,
            LAYERS_BEFORE + layers - 1,
            width=width,
        )
        for half_key, end in zip(jax.random.split(key), (0, -1), strict=True)
    ]
    return _mean_over_layers(
        Moments(*(np.concatenate(field) for field in zip(*halves, strict=True))), LAYERS_BEFORE
    )


def late(runs: Moments) -> Moments:
    """The average over the second half of the layers, as a single one."""
    return _mean_over_layers(runs, runs.first.shape[2] // 2)


def _mean_over_layers(runs: Moments, start: int) -> Moments:
    return Moments(*(field[:, :, start:].mean(axis=2, keepdims=True) for field in runs))


def moments(z: jax.Array) -> Moments:
    """Of pre-activations `[..., 2, pairs, units]`, by pair."""
    u, v = z[..., 0, :, :], z[..., 1, :, :]
    return Moments(jnp.mean(u * u, -1), jnp.mean(v * v, -1), jnp.mean(u * v, -1))


def summary(runs: Moments) -> Measured:
    """Mean length, and the correlation of mean products and lengths, over runs.

    The bias of a ratio of means is of second order in its error.
    """
    first, second, product = (field.mean(axis=0) for field in runs)
    size = np.sqrt(first * second)
    c = product / size
    linearised = runs.product / size - c * (runs.first / first + runs.second / second) / 2
    return Measured(average(runs.first), average(linearised)._replace(mean=c))


# --- comparing --------------------------------------------------------------------------------


def compare_with_print() -> list[Check]:
    """The numbers of the paper's formulas beside `jinit.theory`."""
    checks = []
    for sigma_w, texts in PUBLISHED.items():
        found = jinit.theory.depth_scales("tanh", weight_var=sigma_w**2, bias_var=BIAS_VAR)
        values = {"q*": found.q, "c*": found.c, "chi_1": found.chi}
        checks += [
            printed("jinit.theory", f"{what}, sigma_w = {sigma_w:g}", text, values[what])
            for what, text in texts.items()
        ]
    return checks


def compare_maps(maps: Measured, theory: Theory) -> list[Check]:
    """One layer beside theory, for every starting length and correlation."""
    return [
        Check(
            f"sigma_w = {sigma_w:g}: the maps of theory, and {found.seeds} single layers each",
            f"{what} = {predicted[i, 0, j]:.3g} becomes",
            float(predicted[i, 1, j]), float(found.mean[i, j]), float(found.tolerance[i, j]),
            "theory",
        )
        for i, sigma_w in enumerate(SIGMA_WS)
        for what, predicted, found, pairs in _both(theory, maps)
        for j in pairs
    ]  # fmt: skip


def compare_networks(nets: Measured, law: Measured) -> list[Check]:
    """Deep networks beside the law of their width: of all layers and starts, the farthest off."""
    # Of how far a network scatters its law says more than a few networks do.
    group = f"{nets.q.seeds} networks and the law of their width, farthest off of all layers"
    return _farthest(group, law, nets, [_apart(*both) for both in zip(nets, law, strict=True)],
                     "simulation")  # fmt: skip


def compare_late(nets: Measured, law: Measured, depth: int) -> list[Check]:
    """Averages over the second half of the layers of networks, beside the law of their width."""
    group = f"{nets.q.seeds} networks and the law of their width, layers {(depth + 1) // 2} up"
    return [
        Check(
            group, f"sigma_w = {sigma_w:g}: {what} from {begun[j]:.3g}",
            float(expected.mean[i, 0, j]), float(found.mean[i, 0, j]),
            float(_apart(found, expected)[i, 0, j]), "simulation",
        )
        for i, sigma_w in enumerate(SIGMA_WS)
        for (what, expected, found, pairs) in _both(law, nets)
        for begun in [np.concatenate([LENGTHS, CORRELATIONS])]
        for j in (pairs[0], pairs[-1])
    ]  # fmt: skip


def _apart(nets: Estimate, law: Estimate) -> np.ndarray:
    """What is allowed between means over networks and over chains, by the scatter of chains."""
    error = law.error * np.sqrt(1 + law.seeds / nets.seeds)
    return errors_allowed(law.seeds) * error


def compare_law(law: Law, theory: Theory) -> list[Check]:
    """The law, extrapolated to infinite width, beside theory: the farthest off."""
    found = Measured(*(extrapolate(*both) for both in zip(*law, strict=True)))
    group = f"widths {WIDTH} and {2 * WIDTH}, extrapolated, and theory: farthest off of all layers"
    expected = Measured(*(Estimate(x, 0 * x, 0) for x in (theory.q, theory.c)))
    return _farthest(group, expected, found, [x.tolerance for x in found], "theory")


def _farthest(
    group: str, expected: Measured, found: Measured, allowed: list[np.ndarray], source: str
) -> list[Check]:
    """For every sigma_w the layer and start at which what is found is farthest off."""
    checks = []
    begun = np.concatenate([LENGTHS, CORRELATIONS])
    for (what, wanted, seen, pairs), tolerance in zip(_both(expected, found), allowed, strict=True):
        off = np.abs(seen.mean - wanted.mean)[:, 1:, pairs] / tolerance[:, 1:, pairs]
        for i, sigma_w in enumerate(SIGMA_WS):
            layer, j = np.unravel_index(np.argmax(off[i]), off[i].shape)
            at = (i, layer + 1, pairs[j])
            checks.append(
                Check(
                    group, f"sigma_w = {sigma_w:g}: {what} from {begun[pairs[j]]:.3g}, layer "
                    f"{layer + 1}", float(wanted.mean[at]), float(seen.mean[at]),
                    float(tolerance[at]), source,
                )
            )  # fmt: skip
    return checks


def compare_fixed_points(settled: Law, theory: Theory) -> list[Check]:
    """q* and c* of long chains, extrapolated to infinite width, beside theory."""
    q, c = (extrapolate(*both) for both in zip(*settled, strict=True))
    group = f"fixed points: widths {WIDTH} and {2 * WIDTH}, extrapolated, and theory"
    return [
        Check(
            group, f"{what}, sigma_w = {sigma_w:g}", fixed[sigma_w], float(found.mean[i, 0, 0]),
            float(found.tolerance[i, 0, 0]) + LEFT * abs(float(found.mean[i, 0, 0])), "theory",
        )
        for what, fixed, found in (("q*", theory.settled, q), ("c*", theory.alike, c))
        for i, sigma_w in enumerate(SIGMA_WS)
    ]  # fmt: skip


def _both(expected, found: Measured):
    """(name, expected, found, pairs) of lengths and of correlations."""
    pairs = np.split(np.arange(len(LENGTHS) + len(CORRELATIONS)), [len(LENGTHS)])
    return zip("qc", (expected.q, expected.c), found, pairs, strict=True)


# --- writing ----------------------------------------------------------------------------------


def write_data(
    out: Path, maps: Measured, nets: Measured, law: Law, theory: Theory, checks: list[Check]
) -> None:
    """The table, both maps and every trajectory."""
    write_checks(out / "published_measured.csv", checks)
    write_csv(
        out / "maps.csv",
        ("quantity", "sigma_w", "from", "to_by_theory", "to_measured", "standard_error"),
        (
            (what, sigma_w, *(float(x[i, layer, j]) for layer in (0, 1)),
             *(float(y[i, j]) for y in found[:2]))
            for what, x, found, pairs in _both(theory, maps)
            for i, sigma_w in enumerate(SIGMA_WS)
            for j in pairs
        ),
    )  # fmt: skip
    begun = np.concatenate([LENGTHS, CORRELATIONS])
    write_csv(
        out / "trajectories.csv",
        ("quantity", "sigma_w", "start", "layer", "infinite_width",
         *(f"{of}{what}" for of in ("networks", "chains", "wide_chains")
           for what in ("", "_standard_error"))),
        (
            (what, sigma_w, float(begun[j]), layer, float(x[i, layer, j]),
             *(float(y[i, layer, j]) for of in (nets, *law) for y in of["qc".index(what)][:2]))
            for what, x, _, pairs in _both(theory, nets)
            for i, sigma_w in enumerate(SIGMA_WS)
            for j in pairs
            for layer in range(x.shape[1])
        ),
    )  # fmt: skip


def draw(path: Path, maps: Measured, trajectories: Measured, theory: Theory) -> None:
    """Both maps with their cobwebs above, both trajectories below."""
    figure = Figure(figsize=(13.5, 11.5))
    panels = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.07, right=0.975, top=0.84, bottom=0.06, wspace=0.2, hspace=0.3)
    figure.suptitle(
        "Lengths settle within a few layers; whether inputs stay apart\n"
        "is decided by the scale of the weights",
        fontsize=19, fontweight="bold", x=0.07, y=0.985, ha="left", va="top",
    )  # fmt: skip
    figure.text(
        0.07, 0.895, f"tanh, $\\sigma_b$ = 0.3. Lines: theory at infinite width. Points: nets of "
        f"width {WIDTH}, ± {STANDARD_ERRORS} standard errors. Stars: the fixed points.",
        fontsize=12.5, color="0.3", va="center",
    )  # fmt: skip
    (length_map, correlation_map), (lengths, correlations) = panels
    _draw_length_map(length_map, maps.q, theory)
    _draw_correlation_map(correlation_map, maps.c, theory)
    _draw_lengths(lengths, trajectories.q, theory)
    _draw_correlations(correlations, trajectories.c, theory)
    for axes in panels.flat:
        finish(axes)
    figure.savefig(path, dpi=150)


def _points(axes, sigma_w: float, x, y, error, size: float = 6.5) -> None:
    style = POINTS | {"markersize": size, "markeredgewidth": 1.5, "capsize": 2.5}
    axes.errorbar(
        x, y, yerr=STANDARD_ERRORS * error, color=COLOURS[sigma_w], marker=MARKERS[sigma_w], **style
    )


def _cobweb(axes, values, colour: str) -> None:
    """From the diagonal to the curve and back, as a signal goes."""
    x = np.repeat(values, 2)
    axes.plot(x[:-1], x[1:], color=colour, linewidth=1.1, alpha=0.55, zorder=1)


def _draw_length_map(axes, measured: Estimate, theory: Theory) -> None:
    low, high = 0.02, 45
    grid = np.geomspace(low, high, 60)
    axes.plot([low, high], [low, high], color="0.7", linewidth=1, linestyle=(0, (4, 3)))
    for i, sigma_w in enumerate(SIGMA_WS):
        line = [
            jinit.theory.length_map("tanh", float(q), weight_var=sigma_w**2, bias_var=BIAS_VAR)
            for q in grid
        ]
        axes.plot(grid, line, color="0.25", linewidth=1.6, zorder=2)
        for j in (0, len(LENGTHS) - 1):
            _cobweb(axes, theory.q[i, :, j], COLOURS[sigma_w])
        some = slice(0, len(LENGTHS))
        _points(axes, sigma_w, LENGTHS, measured.mean[i, some], measured.error[i, some])
        q = theory.settled[sigma_w]
        # On the side where no curve runs.
        side = (
            ((-8, 8), "right", "bottom") if sigma_w == max(SIGMA_WS) else ((10, -13), "left", "top")
        )
        axes.plot(q, q, marker="*", markersize=17, color=COLOURS[sigma_w],
                  markeredgecolor="white", zorder=4)  # fmt: skip
        axes.annotate(
            f"$\\sigma_w$ = {sigma_w:g}\n$q^*$ = {q:.3g}", (q, q), xytext=side[0],
            textcoords="offset points", color=COLOURS[sigma_w], fontsize=12, fontweight="bold",
            ha=side[1], va=side[2],
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlim=(low, high), ylim=(0.08, high),
        xlabel="length $q$ in one layer", ylabel="length in the next",
    )  # fmt: skip
    axes.set_title("Every length is drawn to one $q^*$", loc="left", fontsize=14.5,
                   fontweight="bold")  # fmt: skip


def _draw_correlation_map(axes, measured: Estimate, theory: Theory) -> None:
    grid = np.linspace(0, 1, 41)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=(0, (4, 3)))
    some = slice(len(LENGTHS), None)
    for i, sigma_w in enumerate(SIGMA_WS):
        line = theory.correlation_map[sigma_w](grid)
        axes.plot(grid, line, color="0.25", linewidth=1.6, zorder=2)
        start = 0 if theory.alike[sigma_w] == 1 else len(CORRELATIONS) - 1
        _cobweb(axes, theory.c[i, :, len(LENGTHS) + start], COLOURS[sigma_w])
        _points(axes, sigma_w, CORRELATIONS, measured.mean[i, some], measured.error[i, some])
        c = theory.alike[sigma_w]
        axes.plot(c, c, marker="*", markersize=17, color=COLOURS[sigma_w],
                  markeredgecolor="white", zorder=4, clip_on=False)  # fmt: skip
    labels = {1.3: (0.12, 0.57), 2.5: (0.47, 0.24), 4.0: (0.47, 0.1)}
    for sigma_w, place in labels.items():
        axes.text(
            *place, f"$\\sigma_w$ = {sigma_w:g}, {PHASES[sigma_w]}\n"
            f"$c^*$ = {theory.alike[sigma_w]:.3g}", color=COLOURS[sigma_w], fontsize=12,
            fontweight="bold", va="center",
        )  # fmt: skip
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
        xlabel="correlation $c$ of two inputs in one layer", ylabel="correlation in the next",
    )  # fmt: skip
    axes.set_title("Steeper than 1 at $c$ = 1, and neighbours part", loc="left", fontsize=14.5,
                   fontweight="bold")  # fmt: skip


def _draw_lengths(axes, measured: Estimate, theory: Theory) -> None:
    shown = min(12, measured.mean.shape[1] - 1)
    layers = np.arange(shown + 1)
    for i, sigma_w in enumerate(SIGMA_WS):
        for j in range(0, len(LENGTHS), 2):
            axes.plot(layers, theory.q[i, : shown + 1, j], color="0.4", linewidth=1, zorder=2)
            _points(
                axes, sigma_w, layers, measured.mean[i, : shown + 1, j],
                measured.error[i, : shown + 1, j], size=5,
            )  # fmt: skip
        axes.text(
            shown + 0.35, theory.settled[sigma_w], f"$\\sigma_w$ = {sigma_w:g}",
            color=COLOURS[sigma_w], fontsize=12, fontweight="bold", va="center",
        )  # fmt: skip
    axes.set(yscale="log", xlim=(-0.3, shown + 2), xlabel="layer", ylabel="length $q$")
    axes.set_xticks(layers[::2])
    axes.set_title("The length forgets where it started", loc="left", fontsize=14.5,
                   fontweight="bold")  # fmt: skip


def _draw_correlations(axes, measured: Estimate, theory: Theory) -> None:
    depth = measured.mean.shape[1] - 1
    layers = np.arange(depth + 1)
    starts = [len(LENGTHS) + j for j in (0, 3, 6)]
    for i, sigma_w in enumerate(SIGMA_WS):
        for j in starts:
            axes.plot(layers, theory.c[i, :, j], color="0.4", linewidth=1, zorder=2)
            _points(
                axes, sigma_w, layers, measured.mean[i, :, j], measured.error[i, :, j], size=4.5
            )
        at = theory.alike[sigma_w]
        axes.plot([0, depth], [at, at], color=COLOURS[sigma_w], linewidth=0.8, linestyle=":")
        end = float(np.mean([theory.c[i, -1, j] for j in starts]))
        axes.text(
            depth * 1.025, end, f"$\\sigma_w$ = {sigma_w:g}",
            color=COLOURS[sigma_w], fontsize=12, fontweight="bold", va="center",
        )  # fmt: skip
    axes.set(
        xlim=(-0.3, depth * 1.16), ylim=(-0.04, 1.04), xlabel="layer",
        ylabel="correlation $c$ of two inputs",
    )  # fmt: skip
    axes.set_xticks(np.arange(0, depth + 1, 5))
    axes.set_title("All inputs alike, or all apart: order and chaos", loc="left", fontsize=14.5,
                   fontweight="bold")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
