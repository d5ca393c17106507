"""Under muP a wide network learns as a narrow one does, and with the same learning rate.

A ReLU network of three layers, 64 -> n -> n -> 10, with He's start (variance 2/fan_in) is trained
on digits by Adam, as it is (standard parametrisation, SP) and with the multipliers of
`jinit.models.mup` from a base of 32 units. Compared are the slopes of log size against log width
of what comes out of every layer, with powers of the width; and how the best learning rate moves,
and what the base's is worth in a wide network, with the paper's claims.

Source: Yang, Hu et al. 2022, "Tensor Programs V: Tuning large neural networks via zero-shot
hyperparameter transfer", table 3, figures 1, 3 and 5, sections 5 to 8 and appendix D.1.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from harness.checks import Check, average, compare
from harness.experiment import Experiment, console
from harness.figures import BLUE, GREEN, ORANGE, PURPLE, Figure, label, panels

import jinit

BASE = 32
LAYERS = ["layer 1", "layer 2", "logits"]
SP, MUP = "SP", "muP"
COLOURS = ("0.45", PURPLE, BLUE, GREEN, ORANGE)
COORDINATE_RATE, BATCH, COORDINATE_STEPS = 1e-3, 64, 4
TRAINING_STEPS = 100

# Slopes of log size: before training; and of the change in the first step of Adam, which moves
# every weight by the learning rate: between two powers, as the leading one does not stand alone.
# In layer 2 a sum of n aligned terms (1) beside what layer 1 changed through random weights (0); in
# the logits n aligned terms (1) beside what layer 2 changed, through n of size n^(-1/2) (to 3/2).
START = {SP: (0.0, 0.0, 0.0), MUP: (0.0, 0.0, -0.5)}
POWERS = {SP: ((0.0, 0.0), (0.0, 1.0), (1.0, 1.5)), MUP: ((0.0, 0.0),) * 3}


def network(width: int) -> jinit.MLP:
    """Of three layers."""
    return jinit.MLP((64, width, width, 10), activation="relu")


def start(key: jax.Array, width: int) -> Any:
    """He's parameters."""
    return jinit.init(key, network(width), "he")[0]


def apply(width: int) -> Any:
    """`apply(params, x)` of one width."""
    return lambda params, x: jinit.forward(network(width), params, None, x, train=True)[0]


@cache
def multipliers(width: int) -> Any:
    """muP of one width from the base."""
    target, base = (jax.eval_shape(lambda n=n: start(jax.random.key(0), n)) for n in (width, BASE))
    x = jax.ShapeDtypeStruct((1, 64), jnp.float32)
    return jinit.models.mup(apply(width), target, x, base_variables=base, base_apply=apply(BASE))


def parametrised(which: str, width: int, params: Any, adam: Any) -> tuple[Any, Any]:
    """Parameters and optimizer of one parametrisation."""
    if which == SP:
        return params, adam
    found = multipliers(width)
    return found.variables(params), found.optimizer(adam, kind="adam")


def measure(
    checked: tuple[int, ...], networks: int, widths: tuple[int, ...], exponents: range, seeds: int
) -> xr.Dataset:
    """Sizes of coordinates against checked widths, and losses over widths and powers of 2."""
    with console.status("coordinate check"):
        found = [coordinate_check(which, checked, networks) for which in (SP, MUP)]
    sizes = xr.concat(found, "which").rename(width="checked", seed="network")
    return xr.merge([sizes, training(widths, exponents, seeds)])


def coordinate_check(which: str, widths: tuple[int, ...], seeds: int) -> xr.Dataset:
    """Sizes of what comes out of the layers, and their slopes against the width."""
    data = jinit.data.digits()
    x, y = jnp.asarray(data.x_train[:BATCH]), jnp.asarray(data.y_train[:BATCH])

    def loss(logits: jax.Array) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    def make(width: int) -> tuple[Any, ...]:
        adam = optax.adam(COORDINATE_RATE)

        def draw(key: jax.Array) -> Any:
            return parametrised(which, width, start(key, width), adam)[0]

        optimizer = parametrised(which, width, draw(jax.random.key(0)), adam)[1]
        return apply(width), jax.jit(draw), (x,), loss, optimizer

    how = {"key": jax.random.key(0), "steps": COORDINATE_STEPS, "seeds": seeds}
    found = jinit.models.coordinate_check(make, widths, **how)
    return found.assign_coords(layer=LAYERS, which=which)


def training(widths: tuple[int, ...], exponents: range, seeds: int) -> xr.Dataset:
    """Training losses after all steps, in which the rate falls to 0 linearly."""
    data = jinit.data.digits()[:2]  # without test samples, the loss is that of these

    def run(key: jax.Array, *, width: int, which: str, rate: jax.Array) -> dict[str, jax.Array]:
        init_key, train_key = jax.random.split(key)
        adam = optax.adam(optax.linear_schedule(rate, 0.0, TRAINING_STEPS))
        params, optimizer = parametrised(which, width, start(init_key, width), adam)
        how = {"optimizer": optimizer, "steps": TRAINING_STEPS, "batch_size": BATCH}
        return {"loss": jinit.train(train_key, network(width), params, None, data, **how).loss}

    axes = {"which": [SP, MUP], "width": widths}
    rates = [2.0**exponent for exponent in exponents]
    found = jinit.sweep(run, static=axes, traced={"rate": rates}, seeds=seeds)
    return found.rename(rate="exponent").assign_coords(exponent=list(exponents)).astype(float)


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
    own = data.sel(which=SP)
    for what, slopes in (
        ("change of layer 2, 1 step", own.change_slope.sel(step=1, layer="layer 2")),
        ("change of the logits, 1 step", own.change_slope.sel(step=1, layer="logits")),
        (f"logits, {last} steps", own.size_slope.sel(step=last, layer="logits")),
    ):
        slope = average(slopes, "network")
        grows = float(slope.mean > slope.tolerance)
        found.append(Check(f"{SP}: blows up with width", what, 1.0, grows, 0.0, "claim"))
    return found


def compare_rates(data: xr.Dataset) -> list[Check]:
    """The best learning rate against the width, and what the base's is worth."""
    best = best_exponent(data)
    moves = abs(best - best.isel(width=0)).max("width")
    narrow, wide = (int(data.width[i]) for i in (0, -1))
    rate = int(best.sel(which=MUP, width=narrow))  # the base is the same network in both
    logs = log_loss(data).sel(exponent=rate)
    sp, mup, base = (
        logs.sel(which=w, width=n) for w, n in ((SP, wide), (MUP, wide), (MUP, narrow))
    )
    group = f"best learning rate, widths {narrow} to {wide}"
    share = f"share of networks, at the best rate of the base, 2^{rate}"
    rows = (
        (group, "muP: largest move in powers of 2", 0.0, moves.sel(which=MUP), 1.0),
        (group, "SP: moves by more than one", 1.0, moves.sel(which=SP) > 1, 0.0),
        (share, f"muP: better at {wide} than at {narrow}", 1.0, (mup < base).mean(), 0.0),
        (share, f"at {wide}: muP better than SP", 1.0, (mup < sp).mean(), 0.0),
    )
    return [Check(*row[:3], float(row[3]), row[4], "claim") for row in rows]


def notes(data: xr.Dataset) -> Iterator[str]:
    """The best rates themselves."""
    for which in (SP, MUP):
        best = best_exponent(data).sel(which=which).to_series()
        rates = ", ".join(f"{width}: 2^{exponent}" for width, exponent in best.items())
        yield f"Best learning rate by width, {which}: {rates}."


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
    __file__, __doc__, measure, figure=figure, notes=notes,
    checks=lambda data: compare_coordinates(data) + compare_rates(data),
    full={"checked": (128, 256, 512, 1024), "networks": 24,
          "widths": (BASE, 128, 256, 512, 1024), "exponents": range(-13, -1), "seeds": 4},
    quick={"checked": (128, 256, 512), "networks": 12, "widths": (BASE, 512),
           "exponents": range(-10, -2), "seeds": 2},
    lacks="widths of 1024, and half of the networks",
)  # fmt: skip

if __name__ == "__main__":
    EXPERIMENT.run()
