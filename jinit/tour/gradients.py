"""Chapter 6: the map of vanishing and exploding gradients."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy.optimize import brentq

import jinit
from jinit import plots, trainability
from jinit.pages.report import Chapter
from jinit.tour.setting import Setting

WIDTH, BATCH = 64, 64
TITLES = {"tanh": "tanh", "relu": "ReLU"}


def gradient_map(
    first_seed: int, activation: str, depths: Sequence[int], gains: np.ndarray, seeds: int
) -> xr.DataArray:
    """`trainability.log_gradient_ratio` over depth, seed and gain.

    A sweep of its own beside `jinit.map_trainability`, which draws every network for itself:
    drawing is compiled once, for the deepest net, shallower ones share its layers, and all gains
    stretch one draw of a seed, side by side: 0.7 of its time in the full tour, half in the quick.
    """
    x = jnp.asarray(jinit.data.digits().x_train[:BATCH])
    stretched = jnp.asarray(gains, jnp.float32)

    def net(depth: int) -> jinit.MLP:
        return jinit.MLP((WIDTH,) * (depth + 1) + (10,), activation=activation)

    def prepare(key: jax.Array) -> jinit.Params:
        return jinit.init(key, net(max(depths)), "xavier")[0]

    def measure(key: jax.Array, deepest: jinit.Params, *, depth: int) -> dict[str, jax.Array]:
        hidden, readout = deepest.runs
        params = jinit.Params((jax.tree.map(lambda leaf: leaf[:depth], hidden), readout))

        def one(gain: jax.Array) -> jax.Array:
            scaled = jax.tree.map(lambda w: gain * w, params)
            signals = jinit.layer_signals(net(depth), scaled, None, x, key=key)
            return trainability.log_gradient_ratio(signals)

        return {"log_gradient_ratio": jax.vmap(one)(stretched)}

    ds = jinit.sweep(
        measure, static={"depth": list(depths)}, seeds=range(first_seed, first_seed + seeds),
        prepare=prepare, dims={"log_gradient_ratio": ("gain",)}, block=seeds, progress=False,
    )  # fmt: skip
    return ds.log_gradient_ratio.assign_coords(gain=gains)


def _predicted(activation: str, depth: int, second_moment: float) -> float:
    """The gain at which infinitely wide layers hand the gradient back as it came."""

    def log_ratio(log_gain: float) -> float:
        layers = jinit.theory.trajectory(
            activation, depth=depth, weight_var=math.exp(2 * log_gain),
            input_second_moment=second_moment,
        )  # fmt: skip
        return float(layers.log_grad[0])

    return math.exp(brentq(log_ratio, math.log(0.5), math.log(5.0), xtol=1e-4))


def chapter(key: jax.Array, setting: Setting, advance: Callable[[float], None]) -> Chapter:
    """Gradient ratio over weight scale x depth x seeds, for tanh and ReLU."""
    gains = np.geomspace(0.05, 100, setting.map_gains)
    ratio = {}
    first_seed = int(jax.random.randint(key, (), 0, 2**30))
    for activation in TITLES:
        ratio[activation] = gradient_map(
            first_seed, activation, setting.map_depths, gains, setting.map_seeds
        )
        advance(0.5)
    networks = sum(r.size for r in ratio.values())
    middle = {a: r.median("seed").values for a, r in ratio.items()}
    crossing = {a: trainability.crossing(gains, m[-1]) for a, m in middle.items()}
    second_moment = float(np.mean(np.square(jinit.data.digits().x_train[:BATCH])))
    theory = {
        a: np.array([_predicted(a, depth, second_moment) for depth in setting.map_depths])
        for a in middle
    }
    depth = setting.map_depths[-1]
    at = {  # in powers of ten
        (a, name): float(np.interp(math.log(gain), np.log(gains), middle[a][-1])) / math.log(10)
        for a in middle
        for name, gain in (("xavier", 1.0), ("he", math.sqrt(2)), ("small", 0.01 * 8))
    }

    marks = {
        "randn × 0.01": 0.01 * math.sqrt(WIDTH), "Xavier": 1.0, "He": math.sqrt(2),
        "randn × 10": 10 * math.sqrt(WIDTH),
    }  # fmt: skip
    with plots.style():
        fig, axes = plots.figure(2, width=13.5, height=5.2, sharey=True)
        for ax, activation in zip(axes[0], middle, strict=True):
            mesh = plots.gradient_map(
                ax, gains, setting.map_depths, middle[activation], limit=12.0, marks=marks,
                theory=theory[activation],
            )  # fmt: skip
            ax.set_title(TITLES[activation], pad=30)
            ax.set_xlabel("weight scale: std of the weights × √fan_in")
        axes[0][0].set_ylabel("hidden layers")
        axes[0][0].legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")
        bar = fig.colorbar(
            mesh, ax=list(axes[0]), pad=0.015, ticks=range(-12, 13, 4), format=plots.power_of_ten
        )
        bar.set_label("gradient of the first over the last layer\nblue: vanishes, red: explodes")

    data = xr.Dataset(
        {
            "log_gradient_ratio": xr.concat(ratio.values(), "activation"),
            "gain_of_ratio_one_infinite_width": (("activation", "depth"), [*theory.values()]),
        },
        {"activation": list(ratio)},
    )
    words = [
        "Now all scales and depths at once. Every point of the map is a set of networks that were "
        "drawn and never trained; its colour says how the gradient of the first layer compares "
        "with that of the last. Blue: it vanishes on the way back. Red: it explodes. On the black "
        "line it does neither, and there, deep networks can be trained.",
        f"Measured here on {networks:,} networks ({setting.map_seeds} seeds for each point; the "
        f"networks of a seed share their random numbers, stretched to each scale). "
        f"Through {depth} layers the line lies at {crossing['relu']:.2f} for ReLU, where He has "
        f"put it (√2 = {math.sqrt(2):.2f}), and at {crossing['tanh']:.2f} for tanh, just above "
        f"Xavier's 1. The circles were computed without drawing a network: they are where theory "
        f"expects the line if the layers were infinitely wide "
        f"({theory['relu'][-1]:.2f} and {theory['tanh'][-1]:.2f} at that depth). Xavier under ReLU "
        f"loses a factor of 10^{-at['relu', 'xavier']:.1f}, and randn × 0.01 a factor of "
        f"10^{-at['tanh', 'small']:.0f} with tanh. Past the line, tanh "
        f"explodes more slowly than ReLU, because its flat ends hold the gradient back.",
    ]
    numbers = [("networks", f"{networks:,}")]
    for a, title in TITLES.items():
        where = f"where the line lies at the largest depth, {title} (measured; theory)"
        numbers.append((where, f"{crossing[a]:.3f}; {theory[a][-1]:.3f}"))
    numbers += [
        (f"gradient ratio through {depth} layers, {a}, {name}", f"10^{at[a, name]:.2f}")
        for a in middle
        for name in ("xavier", "he")
    ]
    return Chapter("map", "The map", fig, trainability.with_units(data), words, numbers)
