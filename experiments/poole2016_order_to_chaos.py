"""Order and chaos in tanh networks of width 1000: the length and the correlation map.

Two inputs pass layers with weights N(0, sigma_w^2 / 1000) and biases N(0, 0.3^2). Theory predicts
their length, the mean square q of pre-activations, and their correlation c, layer by layer. With
sigma_w = 1.3 all inputs become alike (ordered), with 2.5 and 4 even neighbours part (chaotic). The
law of networks of one width: the 1000 pairs of pre-activations of a layer are independent draws,
given the covariance of two inputs in the one before. All starts of a network share its draws.

Source: Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli 2016, "Exponential expressivity in deep
neural networks through transient chaos", figures 1 and 2.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from harness.checks import Check, average, compare, extrapolate, held, printed
from harness.experiment import Experiment
from harness.figures import BLUE, GREEN, ORANGE, Figure, label, panels, points

import jinit

WIDTH = 1000
BIAS_VAR = 0.3**2
SIGMA_WS = (1.3, 2.5, 4.0)
GAINS = np.array(SIGMA_WS, np.float32)

# Where the inputs start: lengths of uncorrelated pairs, and correlations of pairs of length q*.
LENGTHS = np.geomspace(0.03, 30, 9)
CORRELATIONS = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.98])
QUANTITIES = np.repeat(["q", "c"], [len(LENGTHS), len(CORRELATIONS)])
STARTS = len(QUANTITIES)
ENDS = [0, len(LENGTHS) - 1, len(LENGTHS), STARTS - 1]

PUBLISHED = {
    1.3: {"q*": "0.6070468", "c*": "1", "chi_1": "0.9398074"},
    4.0: {"q*": "12.60415", "c*": "0.02969592", "chi_1": "2.367261"},
}
STYLES = {
    1.3: ("ordered", BLUE, "o"), 2.5: ("chaotic", GREEN, "s"), 4.0: ("deep in chaos", ORANGE, "^"),
}  # fmt: skip

BATCH = 16  # pairs of inputs of a single layer; in the next they are all but independent
LAYERS_BEFORE = 100
LEFT = 1e-3  # of q* and c*, relative


@cache
def fixed(sigma_w: float) -> Any:
    """q, c and chi at infinite width."""
    return jinit.theory.depth_scales("tanh", weight_var=sigma_w**2, bias_var=BIAS_VAR)


def after(sigma_w: float, q: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths, and correlations of inputs of length q*, after one more layer."""
    wide = jinit.theory.Ensemble("tanh", weight_var=sigma_w**2, bias_var=BIAS_VAR)
    closer = np.vectorize(lambda c: wide.correlation_map(c, q=fixed(sigma_w).q))
    return np.vectorize(wide.length_map)(q), closer(c)


def predict(sigma_w: float, depth: int) -> list[np.ndarray]:
    """Lengths from the first starts and correlations from the others, layer by layer."""
    layers, both = [], (LENGTHS, CORRELATIONS)
    for _ in range(depth):
        both = after(sigma_w, *both)
        layers.append(np.concatenate(both))
    return layers


def begin() -> tuple[np.ndarray, np.ndarray]:
    """Length and correlation before the first layer, each `[sigmas, starts]`."""
    q = [[*LENGTHS, *[fixed(sigma_w).q] * len(CORRELATIONS)] for sigma_w in SIGMA_WS]
    c = [[*0 * LENGTHS, *CORRELATIONS]] * len(SIGMA_WS)
    return np.array(q, np.float32), np.array(c, np.float32)


def networks(key: jax.Array, *, depth: int, pairs: int) -> dict[str, jax.Array]:
    """From every start, means over so many pairs of inputs through one network of jinit.init."""
    input_key, init_key = jax.random.split(key)
    net = jinit.MLP((WIDTH,) * (depth + 1) + (1,), activation="tanh")
    one, other = jax.random.normal(input_key, (2, STARTS * pairs, WIDTH))

    @jax.vmap
    def of_gain(gain: jax.Array, q: jax.Array, c: jax.Array) -> jax.Array:
        params, state = jinit.init(init_key, net, "xavier", gain=gain, bias_var=BIAS_VAR)
        q, c = (jnp.repeat(x, pairs)[:, None] for x in (q, c))
        sides = (jnp.sqrt(q) * z for z in (one, c * one + jnp.sqrt(1 - c**2) * other))
        seen = jinit.correlations(net, params, state, *map(jnp.tanh, sides))
        both = (x.reshape(STARTS, pairs, -1).mean(1) for x in (seen.length, seen.correlation))
        return jnp.where(QUANTITIES == "q", *(x[:, :depth].T for x in both))

    return {"value": of_gain(GAINS, *begin())}


def chain(key: jax.Array, q: jax.Array, c: jax.Array, width: int, depth: int) -> Any:
    """Networks in law, drawn as covariances of two inputs: q and c, `[layers, sigmas, starts]`."""

    def moments(u: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        return jnp.mean(u * u, -1), jnp.mean(v * v, -1), jnp.mean(u * v, -1)

    def layer(now: tuple[jax.Array, ...], key: jax.Array) -> tuple[Any, Any]:
        first, second, product = (m[..., None] for m in now)
        one, two = jax.random.normal(key, (2, len(GAINS), 1, width))
        u, slope = jnp.sqrt(first) * one, product / jnp.sqrt(first)
        v = slope * one + jnp.sqrt(jnp.maximum(second - slope**2, 0)) * two
        after = moments(jnp.tanh(u), jnp.tanh(v))
        q, other, product = moments(u, v)
        now = tuple(GAINS[:, None] ** 2 * m + BIAS_VAR for m in after)
        return now, (q, product / jnp.sqrt(q * other))

    found = jax.lax.scan(layer, (q, q, c * q), jax.random.split(key, depth + 1))[1]
    return jax.tree.map(lambda x: x[1:], found)


def chains(key: jax.Array, *, width: int, depth: int) -> dict[str, jax.Array]:
    """From every start, as networks."""
    found = jnp.where(QUANTITIES == "q", *chain(key, *begin(), width, depth))
    return {"value": found.swapaxes(0, 1)}


def long_chains(key: jax.Array, *, width: int, layers: int) -> dict[str, jax.Array]:
    """Settled q and c `[sigmas, 2]`, from starts that are short and unlike, or long and alike."""
    ends = (np.tile(np.float32(x[[0, -1]]), (len(GAINS), 1)) for x in (LENGTHS, CORRELATIONS))
    found = chain(key, *ends, width, LAYERS_BEFORE + layers - 1)
    return {"value": jnp.stack([x[LAYERS_BEFORE - 1 :].mean((0, 2)) for x in found], -1)}


def measure(
    singles: int = 40, nets: int = 64, depth: int = 30, narrow: int = 400, settled: int = 128,
    layers: int = 400,
) -> xr.Dataset:  # fmt: skip
    """Averages of single layers, networks, chains as deep, and settled chains; and theory's."""
    deep, of_fixed = ("sigma_w", "layer", "start"), ("sigma_w", "fixed_point")
    widths, late = [WIDTH, 2 * WIDTH], slice((depth + 1) // 2 - 1, None)

    def run(fn: Any, seeds: int, dims: tuple[str, ...] = deep, **axes: Any) -> xr.DataArray:
        one = {name: [value] for name, value in axes.items() if name != "width"}
        found = jinit.sweep(fn, static=axes | one, seeds=seeds, dims={"value": dims}).value
        return found.squeeze(list(one), drop=True).astype(float)

    found = {
        "maps": run(networks, singles, depth=1, pairs=BATCH).squeeze("layer"),
        "nets": run(networks, nets, depth=depth, pairs=1),
        "law": run(chains, narrow, width=widths, depth=depth),
        "settled": run(long_chains, settled, of_fixed, width=widths, layers=layers),
    }
    for name in ("nets", "law"):
        found[f"late_{name}"] = found[name][..., late, :].mean("layer", skipna=False)
    data = xr.Dataset({
        "theory": (deep, [predict(sigma_w, depth) for sigma_w in SIGMA_WS]),
        "fixed": (of_fixed, [fixed(sigma_w)[:2] for sigma_w in SIGMA_WS]),
    })  # fmt: skip
    for name, values in found.items():
        data[name], data[f"{name}_error"], data.attrs[f"{name}_seeds"] = average(values)
    return data.assign_coords(
        sigma_w=list(SIGMA_WS), layer=range(1, depth + 1), fixed_point=["q*", "c*"],
        quantity=("start", QUANTITIES), begun=("start", [*LENGTHS, *CORRELATIONS]),
    )  # fmt: skip


def farthest(group: str, source: str, *compared: xr.DataArray) -> list[Check]:
    """For either quantity and every sigma_w the layer and start at which they are farthest off."""
    expected, measured, allowed = compared
    off = (abs(measured - expected) / allowed).fillna(np.inf)  # what is no number is the worst
    what, found = "sigma_w = {sigma_w:g}: {quantity} from {begun:.3g}, layer {layer}", []
    for quantity in "qc":
        at = off.where(off.quantity == quantity).argmax(["layer", "start"])
        expected, measured, allowed = (x.isel(at) for x in compared)
        found += compare(group, what, expected, measured, source, allowed)
    return found


def checks(data: xr.Dataset) -> list[Check]:
    """Theory, single layers, networks, their law, and the law's limit."""
    maps, nets, late_nets = (held(data, name) for name in ("maps", "nets", "late_nets"))
    law, late_law = (held(data, name, width=WIDTH) for name in ("law", "late_law"))
    limit, settled = (
        extrapolate(*(held(data, name, width=n * WIDTH) for n in (1, 2)))
        for name in ("law", "settled")
    )
    both = f"{nets.seeds} networks and the law of their width"
    widths = f"widths {WIDTH} and {2 * WIDTH}, extrapolated, and theory"
    found = []
    for sigma_w, texts in PUBLISHED.items():
        for (what, text), value in zip(texts.items(), fixed(sigma_w)[:3], strict=True):
            found.append(printed("jinit.theory", f"{what}, sigma_w = {sigma_w:g}", text, value))
    group = f"sigma_w = {{sigma_w:g}}: the maps of theory, and {maps.seeds} single layers each"
    what = "{quantity} = {begun:.3g} becomes"
    found += compare(group, what, data.theory[:, 0], maps, "theory")
    group = f"{both}, farthest off of all layers"
    # Of how far a network scatters its law says more than a few networks do.
    more = np.sqrt(1 + law.seeds / nets.seeds)
    found += farthest(group, "simulation", law.mean, nets.mean, more * law.tolerance)
    group = f"{both}, layers {(data.sizes['layer'] + 1) // 2} up"
    what = "sigma_w = {sigma_w:g}: {quantity} from {begun:.3g}"
    late = (x[:, ENDS] for x in (late_law.mean, late_nets.mean, more * late_law.tolerance))
    found += compare(group, what, next(late), next(late), "simulation", next(late))
    group = f"{widths}: farthest off of all layers"
    found += farthest(group, "theory", data.theory, limit.mean, limit.tolerance)
    group, what = f"fixed points: {widths}", "{fixed_point}, sigma_w = {sigma_w:g}"
    allowed = settled.tolerance + LEFT * abs(settled.mean)
    return found + compare(group, what, data.fixed.T, settled, "theory", allowed)


def figure(data: xr.Dataset) -> Figure:
    """Both maps with their cobwebs above, both trajectories below."""
    title = "Lengths settle within a few layers; whether inputs stay apart\n"
    title += "is decided by the scale of the weights"
    note = "tanh, $\\sigma_b$ = 0.3. Lines: theory at infinite width. Points: networks of width "
    note += f"{WIDTH}, ± 5 standard errors. Stars: the fixed points."
    fig, axes = panels(title, note, (13.5, 11.5), rows=2, columns=2)
    grids = np.geomspace(0.02, 45, 60), np.linspace(0, 1, 41)
    for k, quantity in enumerate("qc"):
        above, below = axes[k::2]
        above.plot(grids[k], grids[k], color="0.7", linewidth=1, linestyle="--")
        for sigma_w, (phase, colour, marker) in STYLES.items():
            here = data.sel(sigma_w=sigma_w).isel(start=data.quantity == quantity)
            above.plot(grids[k], after(sigma_w, *grids)[k], color="0.25", linewidth=1.6, zorder=2)
            # From the diagonal to the curve and back, as the signals go that start farthest off.
            for start in (0, -1):
                one = here.isel(start=start)
                x = np.repeat([one.begun, *one.theory], 2)
                above.plot(x[:-1], x[1:], color=colour, linewidth=1, alpha=0.5, zorder=1)
            style = {"color": colour, "marker": marker}
            points(above, here.begun, here.maps, here.maps_error, **style, markersize=6.5)
            at = float(here.fixed[k])
            name = f"$\\sigma_w$ = {sigma_w:g}, {phase}: ${quantity}^*$ = {at:.3g}"
            star = {"color": colour, "markersize": 17, "markeredgecolor": "white", "zorder": 4}
            above.plot(at, at, "*", **star, clip_on=False, label=name)
            for start in range(0, here.sizes["start"], 3):
                one, name = here.isel(start=start), None if start else f"$\\sigma_w$ = {sigma_w:g}"
                below.plot([0, *one.layer], [one.begun, *one.theory], color="0.4", linewidth=1)
                look = style | {"markersize": 5, "label": name}
                points(below, one.layer, one.nets, one.nets_error, **look)
    x = "length $q$ in one layer"
    label(axes[0], "Every length is drawn to one $q^*$", x, "length in the next", "upper left")
    axes[0].set(xscale="log", yscale="log", ylim=(0.08, 45))
    x, y = "correlation $c$ of two inputs in one layer", "correlation in the next"
    label(axes[1], "Steeper than 1 at $c$ = 1, and neighbours part", x, y, "upper left")
    label(axes[2], "The length forgets where it started", "layer", "length $q$", "upper right")
    axes[2].set(yscale="log", xlim=(-0.3, 12.3))
    title = "All inputs alike, or all apart: order and chaos"
    label(axes[3], title, "layer", "correlation $c$ of two inputs", "upper right")
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, checks, figure,
    quick={"singles": 12, "nets": 16, "depth": 15, "narrow": 100, "settled": 48, "layers": 150},
    lacks="28 of 40 single layers, 48 of 64 networks, layers beyond 15, three of four chains",
)  # fmt: skip
EXPERIMENT.run(__name__)
