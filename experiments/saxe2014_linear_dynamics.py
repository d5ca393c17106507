"""Deep linear networks on digits: learning curves in closed form, and training time over depth.

A linear network learns the singular modes of the correlation of its inputs and targets, here those
of the digits' whitened principal components and their labels: in closed form if its layers start
small and aligned with the modes. Orthogonal networks are claimed to take as long at any depth, and
Gaussian ones ever longer: in steps to 1 % of the explainable loss, at the best of a grid of rates.

Source: Saxe, McClelland & Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in
deep linear neural networks".
"""

import math
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import scipy.special
import xarray as xr
from harness.checks import Check, average, claim, compare, half_unit, printed
from harness.experiment import Experiment
from harness.figures import BLUE, ORANGE, Figure, label, named_ticks, panels, points
from rich.progress import track

import jinit

MODES_WIDTH = 10  # principal components, units and classes
CENTRED_RANK = 9  # targets of ten classes, less their mean
TIME, LOOK = 4.0, 0.005  # how long aligned networks are followed, how often: rate times steps

WIDTH, MOST_STEPS = 32, 2000
# Learning rates times depth. At 2 the strongest mode, of s = 1, is not stable. Orthogonal nets
# do best just below: a fine grid.
RATES = {"orthogonal": 2.0 ** np.linspace(1, 0, 9), "xavier": 2.0 ** np.linspace(1, -4, 9)}
DEPTHS = {"orthogonal": (2, 4, 8, 16, 32, 64, 128), "xavier": (2, 4, 8, 16)}
LEARNED = 0.01  # of the loss that a linear map can explain
DEEP = 16  # from here on the exponent of depth is taken
SCHEMES = {"orthogonal": ("orthogonal", BLUE, "o"), "xavier": ("Gaussian", ORANGE, "s")}


class Modes(NamedTuple):
    """A network that starts aligned, with (what, from u, to u, factor of the time, printed)."""

    layers: int
    u0: float
    strongest: float
    rate: float
    published: tuple[tuple[str, float, float, int, str], ...]


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


def measure(larger: int = 1, seeds: int = 64, depths: Any = DEPTHS) -> xr.Dataset:
    """Modes over time, at so much larger rates than MODES', and training times over depth."""
    curves = [learn(modes, larger) for modes in track(MODES, "aligned networks")]
    times = {scheme: training_times(scheme, depths[scheme], seeds) for scheme in RATES}
    return xr.merge([xr.concat(curves, "run"), xr.Dataset(times)], join="outer")


def learn(modes: Modes, larger: int) -> xr.Dataset:
    """Train one aligned network and follow its modes."""
    x, y, left, strengths, right = digits(MODES_WIDTH)
    rng, square = np.random.default_rng(0), (MODES_WIDTH, MODES_WIDTH)
    inner = [np.linalg.qr(rng.normal(size=square))[0] for _ in range(modes.layers - 1)]
    a = modes.u0 ** (1 / modes.layers)
    weights = (a * to @ back.T for to, back in pairwise([left, *inner, right]))
    layers = [jinit.Layer(w.astype(np.float32)) for w in weights]
    data = x.astype(np.float32), (modes.strongest * y).astype(np.float32)
    left, right = (jnp.asarray(each, jnp.float32) for each in (left, right))
    net = jinit.MLP((MODES_WIDTH,) * (modes.layers + 1), activation="identity", bias=False)

    def look(params: jinit.Params, state: Any, batch: Any) -> jax.Array:
        outputs, _ = jinit.forward(net, params, None, left.T, train=False)
        return jnp.diagonal(outputs @ right)[:CENTRED_RANK]

    modes, every = modes._replace(rate=larger * modes.rate), round(LOOK / modes.rate)
    t = np.arange(0, TIME, LOOK * larger)
    key = jax.random.key(0)  # draws nothing: every batch is all the data
    how = {"optimizer": optax.sgd(modes.rate), "steps": every * (len(t) - 1) + 1}
    run = jinit.train(key, net, layers, None, data, record=look, record_at=every, **how)
    return curve(modes, t, np.asarray(run.history.record, float), strengths[:CENTRED_RANK])


def curve(modes: Modes, t: np.ndarray, u: np.ndarray, strengths: np.ndarray) -> xr.Dataset:
    """Strengths at `t`, `[t, modes]`, beside theory's."""
    s = modes.strongest * strengths
    theory = jinit.theory.linear_dynamics(t[:, None], s, modes.u0, depth=modes.layers)
    values = {"u": (("t", "mode"), u), "theory": (("t", "mode"), theory), "s": ("mode", s)}
    of_run = {name: getattr(modes, name) for name in ("layers", "u0", "strongest", "rate")}
    return xr.Dataset(values | of_run, {"t": t})


def lateness(one: xr.Dataset, s: Any, start: Any, end: Any) -> Any:
    """By how much a step of gradient descent reaches `end` from `start` later than gradient flow.

    With f = a^(D-1) (s - a^D), a = u^(1/D) the singular value of one layer: (rate / 2) ln(f_end /
    f_start), and half a step.
    """

    def f(u: Any) -> Any:
        return np.maximum(u ** (1 - 1 / one.layers) * np.abs(s - u), 1e-300)

    return one.rate / 2 * (np.abs(np.log(f(end) / f(start))) + 1)


def reached(one: xr.Dataset, s: float, u: float) -> float:
    """When the strongest mode reaches u, between looks by its log-odds."""
    odds = scipy.special.logit(np.minimum(np.array([u, *one.u.values[:, 0]]) / s, 1 - 1e-9))
    return float(np.interp(odds[0], odds[1:], one.t.values))


def compare_modes(data: xr.Dataset) -> list[Check]:
    """Published times against gradient descent and theory, and whole curves against theory."""
    theory, trained = [], []
    for i, modes in enumerate(MODES):
        one, depth, s = data.isel(run=i), modes.layers, modes.strongest
        for what, start, end, factor, text in modes.published:
            time = jinit.theory.linear_dynamics_time(end, s, start, depth=depth)
            seen, what = reached(one, s, end) - reached(one, s, start), f"D = {depth}: {what}"
            allowed = half_unit(text) + factor * lateness(one, s, start, end)
            theory.append(printed("Times, in theory", what, text, factor * time))
            both = float(text), factor * seen
            trained += compare("Times, trained", what, *both, "formula", allowed)
    late = lateness(data, data.s, data.u0, data.theory)
    speed = data.layers * data.theory ** (2 - 2 / data.layers) * abs(data.s - data.theory)
    group, what = "Largest distance from the curve of theory, u / s", "s = {strongest:g} and less"
    off, allowed = abs(data.u - data.theory) / data.s, (late * speed / data.s).max(["t", "mode"])
    off = off.max(["t", "mode"], skipna=False).assign_coords(data[["layers", "strongest"]])
    return trained + theory + compare(group, f"D = {{layers}}, {what}", 0.0, off, "theory", allowed)


def training_times(scheme: str, depths: tuple[int, ...], seeds: int) -> xr.DataArray:
    """Steps to the loss that counts as learned, each net at its best learning rate."""
    # Gradient descent sees whitened samples through E[x y^T] only: WIDTH samples with the same
    # correlation take the place of all, without the loss that no linear map explains.
    x, y, *_ = digits(WIDTH)
    correlation = x.T @ y / len(x)
    data = tuple((math.sqrt(WIDTH) * a).astype(np.float32) for a in (np.eye(WIDTH), correlation))
    goal = LEARNED * float(np.sum(correlation**2)) / 2
    rates = jnp.asarray(RATES[scheme], jnp.float32)

    def run(key: jax.Array, *, depth: int) -> dict[str, jax.Array]:
        net = jinit.MLP((WIDTH,) * depth + (10,), activation="identity", bias=False)

        @jax.vmap
        def step(params: jinit.Params, rate: jax.Array) -> tuple[jinit.Params, jax.Array]:
            how = {"optimizer": optax.sgd(rate / depth), "steps": 1}
            run = jinit.train(jax.random.key(0), net, params, None, data, **how)
            return run.params, run.history.loss[0]

        def go_on(at: tuple[Any, ...]) -> jax.Array:
            return (at[1] < MOST_STEPS) & ~(at[3] < goal).any()  # a diverged one is not

        def more(at: tuple[Any, ...]) -> tuple[Any, ...]:
            params, taken, _, before = at
            params, loss = step(params, rates)
            return params, taken + 1, before, loss

        params = jax.vmap(lambda _: jinit.init(key, net, scheme)[0])(rates)  # the same for all
        high = jnp.full(len(rates), jnp.inf)
        at = jax.lax.while_loop(go_on, more, (params, jnp.float32(0), high, high))
        _, taken, before, loss = at
        # The loss is that before the step. Between two steps by its logarithm.
        share = jnp.log(before / goal) / jnp.log(before / loss)
        return {"steps": jnp.where(loss < goal, taken - 2 + share, jnp.inf)}

    found = jinit.sweep(run, static={"depth": depths}, seeds=seeds, dims={"steps": ("rate",)})
    return best(found.steps.astype(float))


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


def weakest_mode(depths: Any) -> np.ndarray:
    """t * D until the weakest mode, started at 1 as in an orthogonal net, is within 10 % of s."""
    s, time = digits(WIDTH)[3][CENTRED_RANK - 1], jinit.theory.linear_dynamics_time
    return np.array([depth * time(1.1 * s, s, 1.0, depth=depth) for depth in map(int, depths)])


def compare_depths(data: xr.Dataset) -> list[Check]:
    """That orthogonal nets take as long at any depth, and Gaussian ones ever longer."""
    gaussian, orthogonal = (data[s].dropna("depth", how="all") for s in ("xavier", "orthogonal"))
    deep = orthogonal.sel(depth=slice(DEEP, None))
    depths, centred = deep.depth.values, np.log(deep.depth) - np.log(deep.depth).mean()
    weights = centred / (centred**2).sum()  # of a fitted slope
    slope = average((np.log(deep) * weights).sum("depth", skipna=False))
    # At worst all the deeper nets, and none of the others, miss the best rate by one spacing.
    spacing = math.log(RATES["orthogonal"][0] / RATES["orthogonal"][1])
    allowed = slope.tolerance + spacing * float(np.maximum(weights, 0).sum())
    theory = float(np.log(weakest_mode(depths)) @ weights.values)
    last = gaussian.depth.values[-1]
    slower = (gaussian[-1] > orthogonal.sel(depth=last)).mean()
    longer = (np.diff(gaussian, axis=0) > 0).mean()
    group = f"Training time over depth, {slope.seeds} nets"
    what = f"orthogonal, exponent of depth, {depths[0]} to {depths[-1]}"
    return [
        *compare(group, what, 0.0, slope, "claim", allowed),
        *compare(group, f"{what}, aligned modes", theory, slope, "theory", allowed),
        claim(group, f"Gaussian slower, depth {last}, share", slower),
        claim(group, "Gaussian slower when deeper, share", longer),
    ]


def figure(data: xr.Dataset) -> Figure:
    """Two panels of learning curves, and training time over depth."""
    title = "Deep linear networks learn mode by mode; if orthogonal, in a time that levels off"
    note = "Points: gradient descent on digits, and medians and ranges over nets. Lines: theory"
    fig, axes = panels(title, note, (17, 6.4), columns=3)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, CENTRED_RANK))
    for i, panel in enumerate(axes[:2]):
        one, some = data.isel(run=i), slice(None, None, data.sizes["t"] // 40)
        panel.set_prop_cycle(color=colours)
        names = [f"s = {s:.2f}" for s in one.s.values]
        panel.plot(one.t[some], one.u[some], "o", markersize=6, label=names)
        panel.plot(one.t, one.theory, color="black", linewidth=1.2, zorder=3)
        title = f"{MODES[i].layers} matrices, aligned, from {MODES[i].u0:g}"
        label(panel, title, "t = learning rate × steps", "strength u of the mode", ylim=(0, 4.2))
        panel.legend(ncols=3, loc="upper left")
    last, x = axes[2], "depth D (weight matrices)"
    for scheme, (name, colour, marker) in SCHEMES.items():
        taken = data[scheme].dropna("depth", how="all").clip(max=MOST_STEPS)
        middle = taken.median("seed")
        ends = np.stack([middle - taken.min("seed"), taken.max("seed") - middle])
        marks = {"color": colour, "marker": marker, "label": f"{name}, {taken.sizes['seed']} nets"}
        points(last, taken.depth, middle, ends, errors=1, **marks)
    median = data.orthogonal.median("seed").dropna("depth")
    fine = np.geomspace(2, int(median.depth[-1]), 60).round()
    line = float(median[-1]) / weakest_mode(fine)[-1] * weakest_mode(fine)
    name = "t × D of the weakest mode if aligned,\nscaled to the deepest"
    last.plot(fine, line, color="0.35", zorder=1, label=name)
    y, log = f"steps to {LEARNED:.0%} of the loss", {"xscale": "log", "yscale": "log"}
    label(last, "Orthogonal nets level off with depth", x, y, "upper right", **log)
    last.set_ylim(top=last.get_ylim()[1] * 6)
    named_ticks(last.xaxis, median.depth.values)
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, figure=figure, cpu_devices=1,
    checks=lambda data: compare_modes(data) + compare_depths(data),
    quick={"larger": 4, "depths": {"orthogonal": (2, 8, 16, 64), "xavier": (2, 8)}},
    lacks="some depths, nets of 128 layers; steps are 4 times larger",
)  # fmt: skip
EXPERIMENT.run(__name__)
