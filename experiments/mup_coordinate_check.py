"""Under muP a wide network learns as a narrow one does, and with the same learning rate.

ReLU networks of three layers, 64 -> n -> n -> 10, with He's start are trained on digits by Adam: as
they are (standard parametrisation, SP), and with the multipliers of `jinit.models.mup` from a base
of 32 units. Compared are the powers of the width by which changes of every layer grow, how the best
learning rate moves, and what the base's is worth in a wide network.

Source: Yang, Hu et al. 2022, "Tensor Programs V: Tuning large neural networks via zero-shot
hyperparameter transfer", table 3, figures 1, 3 and 5, sections 5 to 8 and appendix D.1.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from harness.checks import Check, average, claim, compare
from harness.experiment import Experiment
from harness.figures import BLUE, GREEN, ORANGE, PURPLE, Figure, label, panels
from rich.progress import track

import jinit

BASE = 32
LAYERS = ["layer 1", "layer 2", "logits"]
SP, MUP = "SP", "muP"
COLOURS = ("0.45", PURPLE, BLUE, GREEN, ORANGE)
COORDINATE_RATE, BATCH, COORDINATE_STEPS = 1e-3, 64, 4
TRAINING_STEPS = 100

# Slopes of log size: before training; and of the change in the first step of Adam, which moves
# every weight by the learning rate: between two powers (README.md says why).
START = {SP: (0.0, 0.0, 0.0), MUP: (0.0, 0.0, -0.5)}
POWERS = {SP: ((0.0, 0.0), (0.0, 1.0), (1.0, 1.5)), MUP: ((0.0, 0.0),) * 3}


def network(width: int) -> jinit.MLP:
    """Of three layers."""
    return jinit.MLP((64, width, width, 10), activation="relu")


def apply(width: int) -> Any:
    """`apply(params, x)` of one width."""
    return lambda params, x: jinit.forward(network(width), params, None, x, train=True)[0]


@cache
def multipliers(width: int) -> Any:
    """muP of one width from the base."""

    def shapes(width: int) -> Any:
        return jax.eval_shape(lambda: jinit.init(jax.random.key(0), network(width), "he")[0])

    x, base = jax.ShapeDtypeStruct((1, 64), jnp.float32), shapes(BASE)
    of = apply(width), shapes(width), x
    return jinit.models.mup(*of, base_variables=base, base_apply=apply(BASE))


def start(key: jax.Array, which: str, width: int, adam: Any) -> tuple[Any, Any]:
    """He's parameters and the optimizer in one parametrisation."""
    params, _ = jinit.init(key, network(width), "he")
    if which == SP:
        return params, adam
    found = multipliers(width)
    return found.variables(params), found.optimizer(adam, kind="adam")


def measure(
    checked: Sequence[int] = (128, 256, 512, 1024), networks: int = 24,
    widths: Sequence[int] = (BASE, 128, 256, 512, 1024), exponents: range = range(-13, -1),
    seeds: int = 4,
) -> xr.Dataset:  # fmt: skip
    """Sizes of coordinates against checked widths, and losses over widths and powers of 2."""
    both = track((SP, MUP), "coordinate checks")
    found = [coordinate_check(which, checked, networks) for which in both]
    sizes = xr.concat(found, "which").rename(width="checked", seed="network")
    return xr.merge([sizes, training(widths, exponents, seeds)])


def coordinate_check(which: str, widths: Sequence[int], seeds: int) -> xr.Dataset:
    """Sizes of what comes out of the layers, and their slopes against the width."""
    x, y = (jnp.asarray(each[:BATCH]) for each in jinit.data.digits()[:2])
    adam = optax.adam(COORDINATE_RATE)

    def loss(logits: jax.Array) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    def make(width: int) -> tuple[Any, ...]:
        optimizer = start(jax.random.key(0), which, width, adam)[1]
        draw = jax.jit(lambda key: start(key, which, width, adam)[0])
        return apply(width), draw, (x,), loss, optimizer

    how = {"key": jax.random.key(0), "steps": COORDINATE_STEPS, "seeds": seeds}
    found = jinit.models.coordinate_check(make, widths, **how)
    return found.assign_coords(layer=LAYERS, which=which)


def training(widths: Sequence[int], exponents: range, seeds: int) -> xr.Dataset:
    """Training losses after all steps, in which the rate falls to 0 linearly."""
    data = jinit.data.digits()[:2]  # without test samples, the loss is that of these

    def run(key: jax.Array, *, width: int, which: str, exponent: jax.Array) -> dict[str, jax.Array]:
        (init_key, train_key), rate = jax.random.split(key), jnp.ldexp(1.0, exponent)
        adam = optax.adam(optax.linear_schedule(rate, 0.0, TRAINING_STEPS))
        params, optimizer = start(init_key, which, width, adam)
        how = {"optimizer": optimizer, "steps": TRAINING_STEPS, "batch_size": BATCH}
        return {"loss": jinit.train(train_key, network(width), params, None, data, **how).loss}

    axes = {"static": {"which": [SP, MUP], "width": widths}, "traced": {"exponent": exponents}}
    return jinit.sweep(run, **axes, seeds=seeds).astype(float)


def log_loss(data: xr.Dataset) -> xr.DataArray:
    """Its logarithm; of what diverged it is infinite."""
    return np.log(data.loss.where(np.isfinite(data.loss), np.inf))


def best_exponent(data: xr.Dataset) -> xr.DataArray:
    """Of the learning rate of the least mean log loss, `[which, width]`."""
    return data.exponent[log_loss(data).mean("seed").argmin("exponent")].drop_vars("exponent")


def compare_coordinates(data: xr.Dataset) -> list[Check]:
    """Slopes beside powers of the width."""
    found, last = [], COORDINATE_STEPS
    for which in (SP, MUP):
        own = data.sel(which=which)
        start = average(own.size_slope.sel(step=0), "network")
        group = f"{which}: slope of log |coordinate|, {start.seeds} networks of each width"
        found += compare(group, "before training, {layer}", START[which], start, "formula")
        low, high = np.transpose(POWERS[which])
        names = zip(LAYERS, low, high, strict=True)
        between = [f"{name}: {a:g} to {b:g}" if b > a else name for name, a, b in names]
        # Later steps of SP leave the first order, in which powers are known.
        for step in (1,) if which == SP else (1, last):
            change = own.change_slope.sel(step=step).assign_coords(layer=between)
            slope = average(change, "network")
            group = f"{which}: slope of log |change|, {step} step{'s'[: step > 1]} of Adam"
            allowed = slope.tolerance + (high - low) / 2
            found += compare(group, "{layer}", (low + high) / 2, slope, "formula", allowed)
    first, later = data.sel(which=SP, step=1), data.sel(which=SP, step=last)
    for what, slopes in (
        ("change of layer 2, 1 step", first.change_slope.sel(layer="layer 2")),
        ("change of the logits, 1 step", first.change_slope.sel(layer="logits")),
        (f"logits, {last} steps", later.size_slope.sel(layer="logits")),
    ):
        slope = average(slopes, "network")
        found.append(claim(f"{SP}: blows up with width", what, slope.mean > slope.tolerance))
    return found


def compare_rates(data: xr.Dataset) -> list[Check]:
    """The best learning rate against the width, and what the base's is worth."""
    best, (narrow, wide) = best_exponent(data), data.width.values[[0, -1]]
    moves = abs(best - best.isel(width=0)).max("width")
    rate = int(best.sel(which=MUP, width=narrow))  # the base is the same network in both
    logs = log_loss(data).sel(exponent=rate)
    sp, mup = (logs.sel(which=which, width=wide) for which in (SP, MUP))
    base = logs.sel(which=MUP, width=narrow)
    group = f"best learning rate, widths {narrow} to {wide}"
    share = f"share of networks, at the best rate of the base, 2^{rate}"
    what, least = "muP: largest move in powers of 2", moves.sel(which=MUP, drop=True)
    return [
        *compare(group, what, 0.0, least, "claim", 1.0),
        claim(group, "SP: moves by more than one", moves.sel(which=SP) > 1),
        claim(share, f"muP: better at {wide} than at {narrow}", (mup < base).mean()),
        claim(share, f"at {wide}: muP better than SP", (mup < sp).mean()),
    ]


def figure(data: xr.Dataset) -> Figure:
    """SP beside muP: coordinates against width, and loss against learning rate."""
    note = f"ReLU networks 64 → n → n → 10 on digits, Adam; muP from a base of {BASE}"
    title, last = "Under muP every width learns alike, with one learning rate", COORDINATE_STEPS
    fig, axes = panels(title, note, (14, 10), rows=2, columns=2, sharey="row")
    sizes = data[["size", "change", "size_slope", "change_slope"]].sel(step=[last])
    y = ("mean |change since the start|", f"training loss after {TRAINING_STEPS} steps")
    for which, upper, lower in zip((SP, MUP), axes[:2], axes[2:], strict=True):
        found = sizes.sel(which=which).rename(checked="width", network="seed")
        jinit.plots.coordinate_check(found, [upper], variable="change")
        logs = log_loss(data.sel(which=which)).mean("seed")
        for colour, width in zip(COLOURS, data.width, strict=False):
            line = np.exp(logs.sel(width=width))
            best = line.isel(exponent=line.argmin("exponent"))
            lower.plot(2.0**data.exponent, line, color=colour, label=f"n = {int(width)}")
            lower.plot(2.0**best.exponent, best, "o", color=colour, markersize=11)
        moves = "grow with width" if which == SP else "do not"
        label(upper, f"{which}: after {last} steps of Adam logits {moves}", "width n", y[0])
        moves = "moves with the width" if which == SP else "stays within a factor of 2"
        title = f"{which}: the best rate (dots) {moves}"
        label(lower, title, "learning rate of Adam", y[1], "lower left", yscale="log")
        lower.set_xscale("log", base=2)
    axes[0].legend(loc="upper left")
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, figure=figure,
    checks=lambda data: compare_coordinates(data) + compare_rates(data),
    quick={"checked": (128, 256, 512), "networks": 12, "widths": (BASE, 512),
           "exponents": range(-10, -2), "seeds": 2},
    lacks="widths of 1024, and half of the networks",
)  # fmt: skip
EXPERIMENT.run(__name__)
