"""Deep linear networks on digits: learning curves in closed form, and training time over depth.

A linear network learns the singular modes of the correlation of its inputs and targets, here those
of the digits' whitened principal components and their labels. Compared with
`jinit.theory.linear_dynamics` are networks whose layers start small and aligned with the modes; and
with the claim that orthogonal networks take as long at any depth, and Gaussian ones ever longer,
the number of steps to 1 % of the explainable loss, each net with the best of a grid of rates.

Source: Saxe, McClelland & Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in
deep linear neural networks".
"""

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import xarray as xr
from harness.checks import Check, compare, half_unit, printed
from harness.estimates import average
from harness.experiment import Experiment, steps
from harness.figures import BLUE, ORANGE, Figure, label, named_ticks, panels, points

import jinit

MODES_WIDTH = 10  # principal components, units and classes
EVERY = 10  # steps between two looks at the modes
CENTRED_RANK = 9  # targets of ten classes, less their mean

WIDTH = 32
# Learning rates times depth. At 2 the strongest mode, of s = 1, is not stable. Orthogonal nets
# do best just below: a fine grid.
RATES = {"orthogonal": 2.0 ** np.linspace(1, 0, 9), "xavier": 2.0 ** np.linspace(1, -4, 9)}
STEPS_PER_CALL, MOST_STEPS = 16, 2000
LEARNED = 0.01  # of the loss that a linear map can explain
DEEP = 16  # from here on the exponent of depth is taken
SCHEMES = {"orthogonal": ("orthogonal", BLUE, "o"), "xavier": ("Gaussian", ORANGE, "s")}


class Modes(NamedTuple):
    """A network that starts aligned, with (what, from u, to u, factor of the time, printed)."""

    depth: int
    u0: float
    strongest: float
    lr: float
    published: tuple[tuple[str, float, float, int, str], ...]


TIME = 4.0
MODES = (
    Modes(2, 1e-3, 3.0, 1e-3, (
        ("time to s/2, s = 3", 1e-3, 1.5, 1, "1.334339"),
        ("t * D from 0.01 to 2.97, s = 3", 0.01, 2.97, 2, "3.431854"),
    )),
    Modes(4, 1e-2, 3.0, 5e-4, (("t * D from 0.01 to 2.97, s = 3", 0.01, 2.97, 4, "7.409672"),)),
    Modes(2, 1e-3, 1.0, 1e-3, (("time to s/2, s = 1", 1e-3, 0.5, 1, "3.453377"),)),
)  # fmt: skip


@cache
def digits(components: int) -> tuple[np.ndarray, ...]:
    """Inputs, targets, and the SVD of their correlation E[x y^T], strongest mode 1.

    The digits' first principal components, whitened, and their centred one-hot labels.
    """
    data = jinit.data.digits(standardize=False)
    x, y = data.x_train.astype(np.float64), np.eye(10)[data.y_train]
    directions, *_ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    x, y = math.sqrt(len(x)) * directions[:, :components], y - y.mean(0)
    left, strengths, right = np.linalg.svd(x.T @ y / len(x), full_matrices=False)
    return x, y / strengths[0], left, strengths / strengths[0], right.T


def measure(larger: int, seeds: int, depths: dict[str, tuple[int, ...]]) -> xr.Dataset:
    """Modes over time, at so much larger rates than MODES', and training times over depth."""
    runs = steps([modes._replace(lr=modes.lr * larger) for modes in MODES], "aligned networks")
    curves = xr.concat([learn(modes) for modes in runs], "run", join="outer")
    times = {scheme: training_times(scheme, depths[scheme], seeds) for scheme in RATES}
    data = xr.merge([curves, xr.Dataset(times)], join="outer")
    return data.assign_attrs(weakest=float(digits(WIDTH)[3][CENTRED_RANK - 1]))


def learn(modes: Modes) -> xr.Dataset:
    """Train one aligned network and follow its modes."""
    x, y, left, strengths, right = digits(MODES_WIDTH)
    rng, square = np.random.default_rng(0), (MODES_WIDTH, MODES_WIDTH)
    inner = [np.linalg.qr(rng.normal(size=square))[0] for _ in range(modes.depth - 1)]
    layers = [
        jinit.Layer((modes.u0 ** (1 / modes.depth) * a @ b.T).astype(np.float32))
        for a, b in pairwise([left, *inner, right])
    ]
    data = x.astype(np.float32), (modes.strongest * y).astype(np.float32)
    left, right = (jnp.asarray(each, jnp.float32) for each in (left, right))
    net = jinit.MLP((MODES_WIDTH,) * (modes.depth + 1), activation="identity", bias=False)
    looks = round(TIME / (modes.lr * EVERY))

    def look(params: jinit.Params, state: Any, batch: Any) -> jax.Array:
        outputs, _ = jinit.forward(net, params, None, left.T, train=False)
        return jnp.diagonal(outputs @ right)[:CENTRED_RANK]

    key = jax.random.key(0)  # draws nothing: every batch is all the data
    how = {"optimizer": optax.sgd(modes.lr), "steps": looks * EVERY + 1}
    run = jinit.train(key, net, layers, None, data, record=look, record_at=EVERY, **how)
    u = np.asarray(run.history.record, float)
    return curve(modes, modes.lr * EVERY * np.arange(looks + 1), u, strengths[:CENTRED_RANK])


def curve(modes: Modes, t: np.ndarray, u: np.ndarray, strengths: np.ndarray) -> xr.Dataset:
    """Strengths at `t`, `[looks, modes]`, beside theory's."""
    s, both = modes.strongest * strengths, ("look", "mode")
    theory = jinit.theory.linear_dynamics(t[:, None], s, modes.u0, depth=modes.depth)
    values = {"t": ("look", t), "s": ("mode", s), "u": (both, u), "theory": (both, theory)}
    return xr.Dataset(values | {"lr": modes.lr}, {"look": np.arange(len(t))})


def runs_of(data: xr.Dataset) -> Iterator[tuple[Modes, xr.Dataset]]:
    """Every aligned network, with the learning rate that it had."""
    for i, modes in enumerate(MODES):
        one = data[["t", "s", "u", "theory", "lr"]].isel(run=i).dropna("look")
        yield modes._replace(lr=float(one.lr)), one


def lateness(modes: Modes, s: Any, start: Any, end: Any) -> Any:
    """By how much a step of gradient descent reaches `end` from `start` later than gradient flow.

    With f = a^(D-1) (s - a^D), a = u^(1/D) the singular value of one layer: (lr / 2) ln(f_end /
    f_start), and half a step.
    """

    def f(u: Any) -> Any:
        return np.maximum(u ** (1 - 1 / modes.depth) * np.abs(s - u), 1e-300)

    return np.abs(modes.lr / 2 * np.log(f(end) / f(start))) + modes.lr / 2


def reached(one: xr.Dataset, s: float, u: float) -> float:
    """When the strongest mode reaches u, between looks by its log-odds."""
    t, seen = one.t.values, one.u.values[:, 0]
    later = max(1, int(np.argmax(seen >= u)))
    odds = [math.log(v / (s - v)) for v in (seen[later - 1], u, seen[later])]
    part = (odds[1] - odds[0]) / (odds[2] - odds[0])
    return float(t[later - 1] + part * (t[later] - t[later - 1]))


def compare_modes(data: xr.Dataset) -> list[Check]:
    """Published times against gradient descent and theory, and whole curves against theory."""
    theory, trained, distances = [], [], []
    for modes, one in runs_of(data):
        depth, s = modes.depth, modes.strongest
        for what, start, end, factor, text in modes.published:
            time = jinit.theory.linear_dynamics_time(end, s, start, depth=depth)
            seen, what = reached(one, s, end) - reached(one, s, start), f"D = {depth}: {what}"
            allowed = half_unit(text) + factor * float(lateness(modes, s, start, end))
            theory.append(printed("Times, in theory", what, text, factor * time))
            trained.append(
                Check("Times, trained", what, float(text), factor * seen, allowed, "formula")
            )
        speed = depth * one.theory ** (2 - 2 / depth) * abs(one.s - one.theory)
        allowed = (lateness(modes, one.s, modes.u0, one.theory) * speed / one.s).max()
        distances += compare(
            "Largest distance from the curve of theory, u / s", f"D = {depth}, s = {s:g} and less",
            0.0, (abs(one.u - one.theory) / one.s).max(skipna=False), "theory", allowed,
        )  # fmt: skip
    return trained + theory + distances


def training_times(scheme: str, depths: tuple[int, ...], seeds: int) -> xr.DataArray:
    """Steps to the loss that counts as learned, each net at its best learning rate.

    Gradient descent sees whitened samples through E[x y^T] only, so WIDTH samples with the same
    correlation take the place of all; what they leave out of the loss is what no linear map
    explains.
    """
    x, y, *_ = digits(WIDTH)
    correlation = x.T @ y / len(x)
    data = tuple((math.sqrt(WIDTH) * a).astype(np.float32) for a in (np.eye(WIDTH), correlation))
    goal = LEARNED * float(np.sum(correlation**2)) / 2
    rates = jnp.asarray(RATES[scheme], jnp.float32)

    def run(key: jax.Array, *, depth: int) -> dict[str, jax.Array]:
        net = jinit.MLP((WIDTH,) * depth + (10,), activation="identity", bias=False)

        @jax.vmap
        def train(params: jinit.Params, rate: jax.Array) -> tuple[jinit.Params, jax.Array]:
            run = jinit.train(jax.random.key(0), net, params, None, data,
                              optimizer=optax.sgd(rate / depth), steps=STEPS_PER_CALL)  # fmt: skip
            return run.params, run.history.loss

        def go_on(at: tuple[Any, ...]) -> jax.Array:
            _, taken, _, crossed = at
            return (taken < MOST_STEPS) & ~jnp.isfinite(crossed).any()

        def more(at: tuple[Any, ...]) -> tuple[Any, ...]:
            params, taken, last, _ = at
            params, losses = train(params, rates)
            losses = jnp.concatenate([last[:, None], losses], 1)
            return params, taken + STEPS_PER_CALL, losses[:, -1], taken + crossing(losses, goal)

        never = jnp.full(len(rates), jnp.inf)
        params, _ = jinit.init(key, net, scheme)
        params = jax.tree.map(lambda w: jnp.broadcast_to(w, (len(rates), *w.shape)), params)
        start = (params, jnp.float32(0), never, never)
        return {"steps": jax.lax.while_loop(go_on, more, start)[-1]}

    found = jinit.sweep(run, static={"depth": depths}, seeds=seeds, dims={"steps": ("rate",)})
    return best(found.steps.astype(float))


def crossing(losses: jax.Array, goal: float) -> jax.Array:
    """Steps from the second of the losses `[rates, steps]` to the goal; infinity for never.

    Between two steps by the logarithm of the loss.
    """
    below = losses < goal  # a diverged run is not
    after = jnp.maximum(jnp.argmax(below, 1), 1)[:, None]
    old, new = (jnp.log(jnp.take_along_axis(losses, i, 1))[:, 0] for i in (after - 1, after))
    found = after[:, 0].astype(losses.dtype) - 2 + (old - math.log(goal)) / (old - new)
    return jnp.where(below.any(1), found, jnp.inf)


def best(steps: xr.DataArray) -> xr.DataArray:
    """The fewest steps over rates; those of an outermost rate need not be the best."""
    fewest = steps.min("rate")
    outermost = np.isfinite(fewest) & steps.argmin("rate").isin([0, steps.sizes["rate"] - 1])
    if outermost.any():
        raise RuntimeError(
            f"the best learning rate must lie inside the grid, but {int(outermost.sum())} of "
            f"{outermost.size} nets do best at an end of it; widen RATES."
        )
    return fewest


def weakest_mode(data: xr.Dataset, depths: Any) -> np.ndarray:
    """t * D until the weakest mode, started at 1 as in an orthogonal net, is within 10 % of s."""
    s, time = data.attrs["weakest"], jinit.theory.linear_dynamics_time
    return np.array([depth * time(1.1 * s, s, 1.0, depth=depth) for depth in map(int, depths)])


def times_of(data: xr.Dataset, scheme: str) -> xr.DataArray:
    """`[depth, seed]` of the depths that it was trained at."""
    return data[scheme].dropna("depth", how="all").transpose("depth", "seed")


def compare_depths(data: xr.Dataset) -> list[Check]:
    """That orthogonal nets take as long at any depth, and Gaussian ones ever longer."""
    gaussian, orthogonal = times_of(data, "xavier"), times_of(data, "orthogonal")
    deep = orthogonal.sel(depth=slice(DEEP, None))
    depths, centred = deep.depth.values, np.log(deep.depth) - np.log(deep.depth).mean()
    weights = centred / (centred**2).sum()  # of a fitted slope
    slope = average((np.log(deep) * weights).sum("depth", skipna=False))
    # At worst all the deeper nets, and none of the others, miss the best rate by one spacing.
    spacing = math.log(RATES["orthogonal"][0] / RATES["orthogonal"][1])
    allowed = slope.tolerance + spacing * float(np.maximum(weights, 0).sum())
    theory = float(np.log(weakest_mode(data, depths)) @ weights.values)
    last = gaussian.depth.values[-1]
    slower = (gaussian[-1] > orthogonal.sel(depth=last)).mean()
    longer = (np.diff(gaussian, axis=0) > 0).mean()
    group = f"Training time over depth, {slope.seeds} nets"
    what = f"orthogonal, exponent of depth, {depths[0]} to {depths[-1]}"
    return [
        *compare(group, what, 0.0, slope, "claim", allowed),
        *compare(group, f"{what}, aligned modes", theory, slope, "theory", allowed),
        *compare(group, f"Gaussian slower, depth {last}, share", 1.0, slower, "claim", 0.0),
        *compare(group, "Gaussian slower when deeper, share", 1.0, longer, "claim", 0.0),
    ]


def notes(data: xr.Dataset) -> Iterator[str]:
    """What no law gives."""
    middle = times_of(data, "xavier").median("seed")[[0, -1]]
    rise = np.diff(np.log(middle))[0] / np.diff(np.log(middle.depth))[0]
    first, last = middle.depth.values
    yield f"Gaussian, exponent of depth, {first} to {last}: {rise:.2f} (not a check)."


def figure(data: xr.Dataset) -> Figure:
    """Two panels of learning curves, and training time over depth."""
    title = (
        "Deep linear networks learn mode by mode; if orthogonal, their time levels off with depth"
    )
    note = "Points: gradient descent on digits, and medians and ranges over nets. Lines: theory"
    fig, axes = panels(title, note, (17, 6.4), columns=3)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, CENTRED_RANK))
    for panel, (modes, one) in zip(axes[:2], runs_of(data), strict=False):
        every = max(1, one.sizes["look"] // 40)
        for j, colour in enumerate(colours):
            panel.plot(one.t, one.theory[:, j], color="black", linewidth=1.2, zorder=3)
            marks = {"color": colour, "markersize": 6, "label": f"s = {one.s.values[j]:.2f}"}
            panel.plot(one.t[::every], one.u[::every, j], "o", **marks)
        title = f"{modes.depth} matrices, aligned, from {modes.u0:g}"
        label(panel, title, "t = learning rate × steps", "strength u of the mode", ylim=(0, 4.2))
        panel.legend(ncols=3, loc="upper left")
    last, x = axes[2], "depth D (weight matrices)"
    for scheme, (name, colour, marker) in SCHEMES.items():
        taken = times_of(data, scheme).clip(max=MOST_STEPS)
        middle = taken.median("seed")
        ends = np.stack([middle - taken.min("seed"), taken.max("seed") - middle])
        marks = {"color": colour, "marker": marker, "label": f"{name}, {taken.sizes['seed']} nets"}
        points(last, taken.depth, middle, ends, errors=1, **marks)
    median = times_of(data, "orthogonal").median("seed")
    fine = np.geomspace(2, int(median.depth[-1]), 60).round()
    line = float(median[-1]) / weakest_mode(data, fine)[-1] * weakest_mode(data, fine)
    name = "t × D of the weakest mode if aligned,\nscaled to the deepest"
    last.plot(fine, line, color="0.35", zorder=1, label=name)
    y, log = f"steps to {LEARNED:.0%} of the loss", {"xscale": "log", "yscale": "log"}
    label(last, "Orthogonal nets level off with depth", x, y, "upper right", **log)
    last.set_ylim(top=last.get_ylim()[1] * 6)
    named_ticks(last.xaxis, median.depth.values)
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, figure=figure, notes=notes, cpu_devices=1,
    checks=lambda data: compare_modes(data) + compare_depths(data),
    full={"larger": 1, "seeds": 64,
          "depths": {"orthogonal": (2, 4, 8, 16, 32, 64, 128), "xavier": (2, 4, 8, 16)}},
    quick={"larger": 4, "seeds": 64, "depths": {"orthogonal": (2, 8, 16, 64), "xavier": (2, 8)}},
    lacks="some depths, nets of 128 layers; steps are 4 times larger",
)  # fmt: skip

if __name__ == "__main__":
    EXPERIMENT.run()
