"""Under muP a wide network learns as a narrow one does, and with the same learning rate.

A ReLU network of three layers, 64 -> n -> n -> 10, with He's start (variance 2/fan_in) is trained
on digits by Adam, as it is (standard parametrisation, SP) and with the multipliers of
`jinit.models.mup` from a base of 32 units.

The coordinate check (`jinit.models.coordinate_check`) fits the slope of log size against log width,
of what comes out of every layer. For SP the first step of Adam, which moves every weight by the
learning rate, gives these powers of the width n:

    layer 1    a sum of 64 terms of one size                                  n^0
    layer 2    its own weights: a sum of n aligned terms                      n^1
               what layer 1 changed, through random weights                   n^0
    logits     their own weights: n aligned terms                             n^1
               what layer 2 changed, through n weights of size n^(-1/2)       n^(1/2) to n^(3/2)

so that slopes lie at 0, between 0 and 1, and between 1 and 3/2. (Between: at finite width the
leading power does not stand alone.) muP makes all of them 0. Before training its logits have a
slope of -1/2, as sums of n independent terms of size 1/n, those of SP 0.

- Slopes that theory gives are compared within standard errors over networks (Student's t, as rare
  as five standard errors), those between two powers with the interval; the claim that they grow is
  met if they are above 0 by as much.
- The best learning rate, on a grid of powers of two, by the mean log training loss after 100
  steps, in which it falls to 0 linearly. The paper claims that under muP it stays where it is,
  within one step of the grid here, and that under SP it moves, by more than one step.
- At the best rate of the base, the widest muP networks are claimed to be better than the base, and
  better than the same networks under SP: counted over networks, which share their minibatches.

How far the best rate moves under SP no theory says exactly (1/n if layer 2 decides); it is printed.

Source: Yang, Hu et al. 2022, "Tensor Programs V: Tuning large neural networks via zero-shot
hyperparameter transfer", table 3, figures 1, 3 and 5, sections 5 to 8 and appendix D.1.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    Check,
    arguments,
    average,
    console,
    finish,
    verdict,
    write_checks,
    write_csv,
)
from matplotlib.figure import Figure

import jinit

NAME = "mup_coordinate_check"
BASE = 32
LAYERS = ("layer 1", "layer 2", "logits")
SP, MUP = "SP", "muP"
COLOURS = ("0.45", PURPLE, BLUE, GREEN, ORANGE)
COORDINATE_RATE, BATCH, COORDINATE_STEPS = 1e-3, 64, 4
TRAINING_STEPS = 100

# Slopes of log size: before training, and of the change in the first step of Adam.
START = {SP: (0.0, 0.0, 0.0), MUP: (0.0, 0.0, -0.5)}
POWERS = {SP: ((0.0, 0.0), (0.0, 1.0), (1.0, 1.5)), MUP: ((0.0, 0.0),) * 3}


class Setting(NamedTuple):
    """How much is done."""

    coordinate_widths: tuple[int, ...]
    coordinate_seeds: int
    widths: tuple[int, ...]
    """that are trained; the first is the base"""
    exponents: tuple[int, ...]
    """of the learning rates, powers of two"""
    seeds: int


FULL = Setting((128, 256, 512, 1024), 24, (BASE, 128, 256, 512, 1024), tuple(range(-13, -1)), 4)
QUICK = Setting((128, 256, 512), 12, (BASE, 512), tuple(range(-10, -2)), 2)


def main() -> int:
    """Measure, compare, write, and return the exit status."""
    options = arguments(
        NAME, __doc__, quick=f"widths to {QUICK.widths[-1]}, not {FULL.widths[-1]}, fewer networks"
    )
    setting = QUICK if options.quick else FULL
    with console.status("coordinate check"):
        coordinates = {which: coordinate_check(which, setting) for which in (SP, MUP)}
    losses = training(setting)
    checks = [*compare_coordinates(coordinates), *compare_rates(setting, losses)]
    write_data(options.out, setting, coordinates, losses, checks)
    draw(options.out / f"{NAME}.png", setting, coordinates, losses)
    status = verdict(checks)
    for which in (SP, MUP):
        rates = ", ".join(
            f"{width}: 2^{exponent}"
            for width, exponent in zip(
                setting.widths, best_exponents(setting, losses[which]), strict=True
            )
        )
        console.print(f"Best learning rate by width, {which}: {rates}.")
    console.print(f"Figure and data are in {options.out}/.")
    return status


# --- networks ---------------------------------------------------------------------------------


def network(width: int) -> jinit.MLP:
    """Of three layers."""
    return jinit.MLP((64, width, width, 10), activation="relu")


def start(key: jax.Array, width: int) -> Any:
    """He's parameters."""
    return jinit.init(key, network(width), "he")[0]


def apply(width: int):
    """`apply(params, x)` of one width."""
    net = network(width)
    return lambda params, x: jinit.forward(net, params, None, x, train=True)[0]


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


# --- measuring --------------------------------------------------------------------------------


def coordinate_check(which: str, setting: Setting) -> Any:
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

    found = jinit.models.coordinate_check(
        make, setting.coordinate_widths, key=jax.random.key(0), steps=COORDINATE_STEPS,
        seeds=setting.coordinate_seeds,
    )  # fmt: skip
    return found.assign_coords(layer=list(LAYERS))


def training(setting: Setting) -> dict[str, np.ndarray]:
    """Training losses after all steps, `[width, rate, seed]`."""
    data = jinit.data.digits()

    def run(key: jax.Array, *, width: int, which: str, rate: jax.Array) -> dict[str, jax.Array]:
        init_key, train_key = jax.random.split(key)
        adam = optax.adam(optax.linear_schedule(rate, 0.0, TRAINING_STEPS))
        params, optimizer = parametrised(which, width, start(init_key, width), adam)
        result = jinit.train(
            train_key, network(width), params, None, (data.x_train, data.y_train),
            optimizer=optimizer, steps=TRAINING_STEPS, batch_size=BATCH,
        )  # fmt: skip
        return {"loss": result.loss}

    found = jinit.sweep(
        run,
        static={"which": [SP, MUP], "width": setting.widths},
        traced={"rate": [2.0**exponent for exponent in setting.exponents]},
        seeds=setting.seeds,
        progress=False,
    )
    losses = found.loss.transpose("which", "width", "rate", "seed").values
    return {SP: losses[0], MUP: losses[1]}


def log_losses(losses: np.ndarray) -> np.ndarray:
    """Logarithms; what diverged is infinite."""
    return np.log(np.where(np.isfinite(losses), losses, np.inf))


def best_exponents(setting: Setting, losses: np.ndarray) -> list[int]:
    """Of the best learning rate of every width."""
    places = log_losses(losses).mean(-1).argmin(-1)
    return [setting.exponents[place] for place in places]


# --- comparing --------------------------------------------------------------------------------


def compare_coordinates(coordinates: dict[str, Any]) -> list[Check]:
    """Slopes beside powers of the width."""
    checks = []
    for which, found in coordinates.items():
        seeds, last = found.sizes["seed"], int(found.step[-1])
        group = f"{which}: slope of log |coordinate|, {seeds} networks of each width"
        for layer, slope in zip(LAYERS, START[which], strict=True):
            estimate = average(found.size_slope.sel(step=0, layer=layer).values)
            checks.append(Check(
                group, f"before training, {layer}", slope, float(estimate.mean),
                float(estimate.tolerance), "formula",
            ))  # fmt: skip
        # Later steps of SP leave the first order, in which powers are known.
        for step in (1,) if which == SP else (1, last):
            group = f"{which}: slope of log |change|, {step} step{'s'[: step > 1]} of Adam"
            for layer, (low, high) in zip(LAYERS, POWERS[which], strict=True):
                estimate = average(found.change_slope.sel(step=step, layer=layer).values)
                half = (high - low) / 2
                checks.append(Check(
                    group, layer if half == 0 else f"{layer}: {low:g} to {high:g}", low + half,
                    float(estimate.mean), half + float(estimate.tolerance), "formula",
                ))  # fmt: skip
    found = coordinates[SP]
    for what, slopes in (
        ("change of layer 2, 1 step", found.change_slope.sel(step=1, layer="layer 2")),
        ("change of the logits, 1 step", found.change_slope.sel(step=1, layer="logits")),
        (f"logits, {COORDINATE_STEPS} steps", found.size_slope.isel(step=-1).sel(layer="logits")),
    ):
        estimate = average(slopes.values)
        grows = float(estimate.mean > estimate.tolerance)
        checks.append(Check(f"{SP}: blows up with width", what, 1.0, grows, 0.0, "claim"))
    return checks


def compare_rates(setting: Setting, losses: dict[str, np.ndarray]) -> list[Check]:
    """The best learning rate against the width, and what the base's is worth."""
    best = {which: best_exponents(setting, losses[which]) for which in (SP, MUP)}
    shifts = {which: np.subtract(b, b[0]) for which, b in best.items()}
    group = f"best learning rate, widths {setting.widths[0]} to {setting.widths[-1]}"
    checks = [
        Check(
            group, "muP: largest move in powers of 2", 0.0, float(np.abs(shifts[MUP]).max()),
            1.0, "claim",
        ),
        Check(
            group, "SP: moves by more than one", 1.0, float(np.abs(shifts[SP]).max() > 1), 0.0,
            "claim",
        ),
    ]  # fmt: skip
    rate = best[MUP][0]  # the base is the same network in both
    at = setting.exponents.index(rate)
    wide = {which: log_losses(losses[which])[-1, at] for which in (SP, MUP)}
    narrow = log_losses(losses[MUP])[0, at]
    group = f"share of networks, at the best rate of the base, 2^{rate}"
    return [
        *checks,
        Check(
            group, f"muP: better at {setting.widths[-1]} than at {setting.widths[0]}", 1.0,
            float(np.mean(wide[MUP] < narrow)), 0.0, "claim",
        ),
        Check(
            group, f"at {setting.widths[-1]}: muP better than SP", 1.0,
            float(np.mean(wide[MUP] < wide[SP])), 0.0, "claim",
        ),
    ]  # fmt: skip


# --- writing ----------------------------------------------------------------------------------


def write_data(
    out: Path,
    setting: Setting,
    coordinates: dict[str, Any],
    losses: dict[str, np.ndarray],
    checks: list[Check],
) -> None:
    """The table, every coordinate size, and every training loss."""
    write_checks(out / "published_measured.csv", checks)
    write_csv(
        out / "coordinates.csv",
        ("parametrisation", "width", "seed", "step", "layer", "size", "change"),
        (
            (
                which, int(width), int(seed), int(step), str(layer),
                *(float(found[v].sel(width=width, seed=seed, step=step, layer=layer))
                  for v in ("size", "change")),
            )
            for which, found in coordinates.items()
            for width in found.width
            for seed in found.seed
            for step in found.step
            for layer in found.layer.values
        ),
    )  # fmt: skip
    write_csv(
        out / "losses.csv",
        ("parametrisation", "width", "log2_rate", "seed", "training_loss"),
        (
            (which, width, exponent, seed, float(loss))
            for which, all_ in losses.items()
            for width, by_rate in zip(setting.widths, all_, strict=True)
            for exponent, by_seed in zip(setting.exponents, by_rate, strict=True)
            for seed, loss in enumerate(by_seed)
        ),
    )


def draw(
    path: Path, setting: Setting, coordinates: dict[str, Any], losses: dict[str, np.ndarray]
) -> None:
    """SP beside muP: coordinates against width, and loss against learning rate."""
    figure = Figure(figsize=(14, 10))
    axes = figure.subplots(2, 2, sharey="row")
    figure.subplots_adjust(left=0.07, right=0.985, top=0.86, bottom=0.07, wspace=0.08, hspace=0.34)
    figure.suptitle(
        "Under muP every width learns alike, with one learning rate",
        fontsize=19, fontweight="bold", x=0.07, y=0.975, ha="left",
    )  # fmt: skip
    figure.text(
        0.07, 0.925, f"ReLU networks 64 → n → n → 10 on digits, Adam; muP from a base of {BASE}",
        fontsize=12.5, color="0.3", va="center",
    )  # fmt: skip
    step = COORDINATE_STEPS
    titles = {
        SP: f"SP: after {step} steps of Adam the logits grow with width",
        MUP: f"muP: after {step} steps nothing moves more in a wider net",
    }
    for ax, (which, found) in zip(axes[0], coordinates.items(), strict=True):
        jinit.plots.coordinate_check(found.sel(step=[step]), [ax], variable="change")
        ax.set_title(titles[which], loc="left", fontsize=14, fontweight="bold")
        ax.set_xlabel("width n")
        finish(ax, grid=True)
    axes[0][0].set_ylabel("mean |change since the start|")
    axes[0][0].legend(loc="upper left", fontsize=11, frameon=False)
    axes[0][1].set_ylabel("")
    for ax, (which, all_) in zip(axes[1], losses.items(), strict=True):
        _draw_losses(ax, setting, which, log_losses(all_).mean(-1))
        finish(ax, grid=True)
    axes[1][0].set_ylabel(f"training loss after {TRAINING_STEPS} steps")
    axes[1][1].legend(title="width n", loc="lower left", fontsize=11, frameon=False)
    figure.savefig(path, dpi=150)


def _draw_losses(ax: Any, setting: Setting, which: str, logs: np.ndarray) -> None:
    rates = 2.0 ** np.array(setting.exponents)
    for width, line, colour in zip(setting.widths, logs, COLOURS, strict=False):
        ax.plot(rates, np.exp(line), color=colour, linewidth=2, label=f"{width}")
        at = line.argmin()
        ax.plot(rates[at], np.exp(line[at]), "o", color=colour, markersize=11,
                markeredgecolor="black")  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("learning rate of Adam")
    words = "moves with the width" if which == SP else "stays within a factor of 2"
    ax.set_title(f"{which}: the best rate (dots) {words}", loc="left", fontsize=14,
                 fontweight="bold")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
