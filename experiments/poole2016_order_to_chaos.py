"""Order and chaos in tanh networks of width 1000: the length and the correlation map.

Two inputs pass layers with weights N(0, sigma_w^2 / 1000) and biases N(0, 0.3^2). Theory
(`jinit.theory`) predicts the length of either, the mean square q of its pre-activations, and their
correlation c, layer by layer: lengths settle at q*, correlations at c*. With sigma_w = 1.3 all
inputs become alike (c* = 1, ordered); with 2.5 and 4 even neighbours part (c* < 1, chaotic).

Compared are

- q*, c* and the susceptibility chi_1 of `jinit.theory` with the published numbers, within half a
  unit of the last printed digit;
- networks drawn by `jinit.init` with theory: one layer over a grid of lengths and of correlations
  (the maps), all layers (the trajectories), and the fixed points.

The tolerance of the second is derived, not tuned. Given the covariance of two inputs in one layer,
the 1000 pairs of pre-activations of the next are independent draws from it, so that a chain of
2 x 2 matrices has exactly the law of two inputs in a network of that width, at a thousandth of the
cost. From such chains come the standard deviation of one network, of which five standard errors
are allowed, and the distance of a mean at width 1000 from infinite width, which is added. The maps
of one layer have no such bias: the inputs are Gaussian, and the means exact at any width.

Source: Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli 2016, "Exponential expressivity in deep
neural networks through transient chaos", figures 1 and 2.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
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

NAME = "poole2016_order_to_chaos"
WIDTH = 1000
BIAS_VAR = 0.3**2
SIGMA_WS = (1.3, 2.5, 4.0)
SEEDS, QUICK_SEEDS = 16, 6
DEPTH, QUICK_DEPTH = 30, 15
LAYERS, QUICK_LAYERS = 100, 40  # seeds of single layers, for the maps
CHAINS = 100
STANDARD_ERRORS = 5

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

LAYER = jinit.MLP((WIDTH, WIDTH))  # networks are drawn layer by layer


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


class Estimate(NamedTuple):
    """Of a length or a correlation, over networks; each field `[sigmas, layers, pairs]`."""

    mean: np.ndarray
    error: np.ndarray
    """standard error, by the scatter of these networks"""
    expected_error: np.ndarray
    """standard error, by the law of networks of this width"""
    bias: np.ndarray
    """distance of that law's mean from infinite width"""

    @property
    def tolerance(self) -> np.ndarray:
        """What is allowed between the mean and infinite width."""
        return STANDARD_ERRORS * self.expected_error + np.abs(self.bias)


class Measured(NamedTuple):
    """Lengths of the first input, and correlations."""

    q: Estimate
    c: Estimate


def main() -> int:
    """Simulate, compare, write, and return the exit status."""
    options = arguments(
        NAME,
        __doc__,
        quick=f"{QUICK_SEEDS} networks of {QUICK_DEPTH} layers and {QUICK_LAYERS} single layers "
        f"instead of {SEEDS} of {DEPTH} and {LAYERS}",
    )
    seeds, depth, layers = (
        (QUICK_SEEDS, QUICK_DEPTH, QUICK_LAYERS) if options.quick else (SEEDS, DEPTH, LAYERS)
    )
    console.print(
        f"Seeds 0 to {seeds - 1}, {depth} layers of {WIDTH} units, sigma_b = 0.3; "
        f"seeds 0 to {layers - 1} of a single layer."
    )
    start = begin()
    theory = predict(start, depth)
    law = chains(start, depth)
    with progress() as bar:
        task = bar.add_task("layers drawn", total=layers + seeds * depth)
        one_layer = networks(start, layers, 1, lambda: bar.advance(task))
        nets = networks(start, seeds, depth, lambda: bar.advance(task))
    maps, trajectories = (estimate(runs, law, theory) for runs in (one_layer, nets))
    checks = [
        *compare_with_print(),
        *compare_maps(maps, theory),
        *compare_trajectories(trajectories, theory),
        *compare_fixed_points(nets, law, theory),
    ]
    write_data(options.out, maps, trajectories, theory, checks)
    draw(options.out / f"{NAME}.png", maps, trajectories, theory)
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


def networks(start: Start, seeds: int, depth: int, advance) -> Moments:
    """Moments of real networks, `[seeds, sigmas, layers, pairs]`."""
    runs = []
    for seed in range(seeds):
        input_key, layer_key = jax.random.split(jax.random.key(seed))
        z, seen = enter(input_key, *(x.astype(np.float32) for x in start))
        layers = [seen]
        for layer in range(depth):
            z, seen = pass_layer(jax.random.fold_in(layer_key, layer), z)
            layers.append(seen)
            advance()
        runs.append(Moments(*(np.stack(field, 1) for field in zip(*layers, strict=True))))
    return Moments(*(np.stack(field).astype(np.float64) for field in zip(*runs, strict=True)))


@jax.jit
def enter(key: jax.Array, q: jax.Array, c: jax.Array) -> tuple[jax.Array, Moments]:
    """Gaussian pairs of those lengths and correlations, `[sigmas, 2, pairs, WIDTH]`."""
    one, other = jax.random.normal(key, (2, 1, 1, WIDTH))
    partner = c[..., None] * one + jnp.sqrt(1 - c[..., None] ** 2) * other
    z = jnp.sqrt(q)[:, None, :, None] * jnp.stack(jnp.broadcast_arrays(one, partner), 1)
    return z, moments(z)


@jax.jit
def pass_layer(key: jax.Array, z: jax.Array) -> tuple[jax.Array, Moments]:
    """The next layer's pre-activations; one draw of the weights serves every sigma_w."""

    (drawn,), _ = jinit.init(key, LAYER, "xavier", bias_var=BIAS_VAR)
    after = (jnp.tanh(z).reshape(-1, WIDTH) @ drawn.w).reshape(z.shape)
    # A gain multiplies the weights.
    gains = np.array(SIGMA_WS, np.float32).reshape(-1, 1, 1, 1)
    after = gains * after + drawn.b.reshape(1, 1, 1, -1)
    return after, moments(after)


def chains(start: Start, depth: int) -> Moments:
    """The same in law, drawn as covariances of two inputs: `[CHAINS, sigmas, layers, pairs]`."""
    weight_var = np.array(SIGMA_WS, np.float32)[:, None] ** 2
    q, c = (x.astype(np.float32) for x in start)

    @jax.jit
    def chain(key: jax.Array) -> Moments:
        def pass_layer(now: Moments, key: jax.Array) -> tuple[Moments, Moments]:
            one, other = jax.random.normal(key, (2, 1, 1, WIDTH))
            root = jnp.sqrt(now.first)
            rest = jnp.sqrt(jnp.maximum(now.second - (now.product / root) ** 2, 0))
            u = root[..., None] * one
            v = (now.product / root)[..., None] * one + rest[..., None] * other
            seen = moments(jnp.stack([u, v], -3))
            passed = moments(jnp.tanh(jnp.stack([u, v], -3)))
            return jax.tree.map(lambda m: weight_var * m + BIAS_VAR, passed), seen

        return jax.lax.scan(pass_layer, Moments(q, q, c * q), jax.random.split(key, depth + 1))[1]

    keys = jax.random.split(jax.random.key(CHAINS), CHAINS)
    runs = jax.device_get(jax.lax.map(chain, keys))
    return Moments(*(np.moveaxis(np.asarray(field, np.float64), 2, 1) for field in runs))


def moments(z: jax.Array) -> Moments:
    """Of pre-activations `[..., 2, pairs, units]`, by pair."""
    u, v = z[..., 0, :, :], z[..., 1, :, :]
    return Moments(jnp.mean(u * u, -1), jnp.mean(v * v, -1), jnp.mean(u * v, -1))


def estimate(nets: Moments, law: Moments, theory: "Theory") -> Measured:
    """Averages over networks, what the law of their width says of them, and their bias.

    A correlation is one of averages over networks: its own bias is of second order in the error.
    """
    layers = nets.first.shape[2]
    seeds = len(nets.first)
    (q, q_std, c, c_std), (law_q, law_q_std, law_c, law_c_std) = (
        _average(nets), _average(Moments(*(field[:, :, :layers] for field in law)))
    )  # fmt: skip
    root = math.sqrt(seeds)
    return Measured(
        Estimate(q, q_std / root, law_q_std / root, law_q - theory.q[:, :layers]),
        Estimate(c, c_std / root, law_c_std / root, law_c - theory.c[:, :layers]),
    )


def _average(runs: Moments) -> tuple[np.ndarray, ...]:
    """Mean length, its deviation from run to run, and the same of the correlation."""
    first, second, product = (field.mean(axis=0) for field in runs)
    size = np.sqrt(first * second)
    c = product / size
    linearised = runs.product / size - c * (runs.first / first + runs.second / second) / 2
    return first, runs.first.std(axis=0, ddof=1), c, linearised.std(axis=0, ddof=1)


def late(moments: Moments) -> Moments:
    """The average over the second half of the layers, as a single one."""
    half = moments.first.shape[2] // 2
    return Moments(*(field[:, :, half:].mean(axis=2, keepdims=True) for field in moments))


# --- comparing --------------------------------------------------------------------------------


def compare_with_print() -> list[Check]:
    """The published numbers against `jinit.theory`."""
    checks = []
    for sigma_w, printed in PUBLISHED.items():
        found = jinit.theory.depth_scales("tanh", weight_var=sigma_w**2, bias_var=BIAS_VAR)
        values = {"q*": found.q, "c*": found.c, "chi_1": found.chi}
        checks += [
            # c* = 1 is not rounded: in the ordered phase it is exact.
            Check(
                "jinit.theory against the published numbers",
                f"{what}, sigma_w = {sigma_w:g}",
                float(text),
                values[what],
                1e-8 if text == "1" else half_unit(text),
            )
            for what, text in printed.items()
        ]
    return checks


def compare_maps(maps: Measured, theory: Theory) -> list[Check]:
    """One layer against theory, for every starting length and correlation."""
    checks = []
    for i, sigma_w in enumerate(SIGMA_WS):
        group = f"sigma_w = {sigma_w:g}: the maps of theory, and single layers of jinit.init"
        for what, predicted, measured, pairs in (
            ("q", theory.q, maps.q, range(len(LENGTHS))),
            ("c", theory.c, maps.c, range(len(LENGTHS), theory.c.shape[2])),
        ):
            # No bias: the means of one layer are exact at any width.
            allowed = STANDARD_ERRORS * measured.expected_error
            checks += [
                Check(
                    group,
                    f"{what} = {predicted[i, 0, j]:.3g} becomes",
                    *(float(x[i, 1, j]) for x in (predicted, measured.mean, allowed)),
                )
                for j in pairs
            ]
    return checks


def compare_trajectories(trajectories: Measured, theory: Theory) -> list[Check]:
    """The largest deviation over all layers and starts, in units of what is allowed there."""
    checks = []
    group = "trajectories: largest deviation from theory, as a fraction of what is allowed"
    for what, predicted, measured, pairs in (
        ("lengths", theory.q, trajectories.q, slice(0, len(LENGTHS))),
        ("correlations", theory.c, trajectories.c, slice(len(LENGTHS), None)),
    ):
        off = np.abs(measured.mean - predicted) / measured.tolerance
        worst = off[:, 1:, pairs].max((1, 2))
        checks += [
            Check(group, f"{what}, {sigma_w:g}", 0.0, float(worst[i]), 1.0)
            for i, sigma_w in enumerate(SIGMA_WS)
        ]
    return checks


def compare_fixed_points(nets: Moments, law: Moments, theory: Theory) -> list[Check]:
    """q* and c*, from averages over the second half of the layers.

    Lengths come from the smallest and the largest start, correlations from the start nearest to
    c*. What theory says is still left of the start is added to the tolerance.
    """
    half = nets.first.shape[2] // 2
    after = theory._replace(
        **{name: getattr(theory, name)[:, half:].mean(axis=1, keepdims=True) for name in ("q", "c")}
    )
    measured = estimate(late(nets), late(law), after)
    checks = []
    for i, sigma_w in enumerate(SIGMA_WS):
        group = (
            f"sigma_w = {sigma_w:g}: the fixed points of theory, and layers {half} to "
            f"{nets.first.shape[2] - 1} of {len(nets.first)} networks"
        )
        q, c = theory.settled[sigma_w], theory.alike[sigma_w]
        nearest = int(np.argmin(np.abs(CORRELATIONS - c)))
        for what, fixed, predicted, found, j in (
            ("q* from below", q, after.q, measured.q, 0),
            ("q* from above", q, after.q, measured.q, len(LENGTHS) - 1),
            (f"c* from {CORRELATIONS[nearest]:g}", c, after.c, measured.c, len(LENGTHS) + nearest),
        ):
            left = abs(float(predicted[i, 0, j]) - fixed)
            allowed = float(found.tolerance[i, 0, j]) + left
            checks.append(Check(group, what, fixed, float(found.mean[i, 0, j]), allowed))
    return checks


# --- writing ----------------------------------------------------------------------------------


def write_data(
    out: Path, maps: Measured, trajectories: Measured, theory: Theory, checks: list[Check]
) -> None:
    """The table, both maps and every trajectory."""
    write_checks(out / "published_measured.csv", checks)
    for name, measured in (("maps.csv", maps), ("trajectories.csv", trajectories)):
        layers = measured.q.mean.shape[1]
        write_csv(
            out / name,
            ("quantity", "sigma_w", "start", "layer", "infinite_width", "measured",
             "standard_error", "expected_standard_error", "width_bias"),
            (
                (what, sigma_w, float(predicted[i, 0, j]), layer, float(predicted[i, layer, j]),
                 *(float(field[i, layer, j]) for field in found))
                for what, predicted, found, pairs in (
                    ("q", theory.q, measured.q, range(len(LENGTHS))),
                    ("c", theory.c, measured.c, range(len(LENGTHS), theory.c.shape[2])),
                )
                for i, sigma_w in enumerate(SIGMA_WS)
                for j in pairs
                for layer in range(layers)
            ),
        )  # fmt: skip


def draw(path: Path, maps: Measured, trajectories: Measured, theory: Theory) -> None:
    """Both maps with their cobwebs above, both trajectories below."""
    figure, panels = plt.subplots(2, 2, figsize=(13.5, 11.5))
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
        axes.tick_params(labelsize=11)
        axes.xaxis.label.set_size(13)
        axes.yaxis.label.set_size(13)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _points(axes, sigma_w: float, x, y, error, size: float = 6.5) -> None:
    axes.errorbar(
        x, y, yerr=STANDARD_ERRORS * error, color=COLOURS[sigma_w],
        marker=MARKERS[sigma_w], markersize=size, markerfacecolor="white", markeredgewidth=1.5,
        linestyle="none", capsize=2.5, zorder=3,
    )  # fmt: skip


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
        _points(axes, sigma_w, LENGTHS, measured.mean[i, 1, some], measured.error[i, 1, some])
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
        _points(axes, sigma_w, CORRELATIONS, measured.mean[i, 1, some], measured.error[i, 1, some])
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
