"""Order and chaos in tanh networks of width 1000: the length and the correlation map.

Two inputs pass layers with weights N(0, sigma_w^2 / 1000) and biases N(0, 0.3^2). Theory
(`jinit.theory`) predicts the length of either, the mean square q of its pre-activations, and their
correlation c, layer by layer: lengths settle at q*, correlations at c*. With sigma_w = 1.3 all
inputs become alike (c* = 1, ordered); with 2.5 and 4 even neighbours part (c* < 1, chaotic).

Compared are theory with the paper's numbers; its maps with single layers; deep networks with the
law of their width; and that law, extrapolated from two widths, with theory. The law: given the
covariance of two inputs in one layer, the 1000 pairs of pre-activations of the next are independent
draws from it, so that a chain of 2 x 2 matrices has exactly the law of two inputs in such a
network, at a thousandth of the cost. All starts of a network or chain share its draws.

Source: Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli 2016, "Exponential expressivity in deep
neural networks through transient chaos", figures 1 and 2.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from harness.checks import Check, compare, printed
from harness.estimates import STANDARD_ERRORS, Estimate, average, errors_allowed, extrapolate
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
STYLES = {1.3: (BLUE, "o"), 2.5: (GREEN, "s"), 4.0: (ORANGE, "^")}
PHASES = {1.3: "ordered", 2.5: "chaotic", 4.0: "deep in chaos"}

BATCH = 16  # pairs of inputs of a single layer; in the next they are all but independent
LAYERS_BEFORE = 100
LEFT = 1e-3  # of q* and c*, relative


@cache
def fixed(sigma_w: float) -> Any:
    """q, c and chi at infinite width."""
    return jinit.theory.depth_scales("tanh", weight_var=sigma_w**2, bias_var=BIAS_VAR)


def length_map(sigma_w: float, lengths: np.ndarray) -> np.ndarray:
    """Lengths after one more layer."""
    variances = {"weight_var": sigma_w**2, "bias_var": BIAS_VAR}
    return np.array([jinit.theory.length_map("tanh", float(q), **variances) for q in lengths])


@cache
def correlation_map(sigma_w: float) -> Any:
    """The map on [0, 1] by a polynomial of degree 24, to 2e-7 at sigma_w = 4, its worst."""
    variances = {"weight_var": sigma_w**2, "bias_var": BIAS_VAR, "q": fixed(sigma_w).q}

    def exact(cs: np.ndarray) -> np.ndarray:
        return np.array([jinit.theory.correlation_map("tanh", float(c), **variances) for c in cs])

    return np.polynomial.Chebyshev.interpolate(exact, 24, domain=[0, 1])


def predict(sigma_w: float, depth: int) -> list[np.ndarray]:
    """Lengths from the first starts and correlations from the others, layer by layer."""
    layers, q, c = [], LENGTHS, CORRELATIONS
    for _ in range(depth):
        q, c = length_map(sigma_w, q), correlation_map(sigma_w)(c)
        layers.append(np.concatenate([q, c]))
    return layers


def begin() -> tuple[np.ndarray, np.ndarray]:
    """Length and correlation before the first layer, each `[sigmas, starts]`."""
    q = [[*LENGTHS, *[fixed(sigma_w).q] * len(CORRELATIONS)] for sigma_w in SIGMA_WS]
    c = [[*0 * LENGTHS, *CORRELATIONS]] * len(SIGMA_WS)
    return np.array(q, np.float32), np.array(c, np.float32)


def network(key: jax.Array, gain: Any, q: jax.Array, c: jax.Array, *, depth: int) -> Any:
    """Pairs of inputs `[pairs]` through one network of jinit.init: q and c, `[layers, pairs]`."""
    input_key, init_key = jax.random.split(key)
    net = jinit.MLP((WIDTH,) * (depth + 1) + (1,), activation="tanh")
    params, state = jinit.init(init_key, net, "xavier", gain=gain, bias_var=BIAS_VAR)
    one, other = jax.random.normal(input_key, (2, len(q), WIDTH))
    pair = one, c[:, None] * one + jnp.sqrt(1 - c[:, None] ** 2) * other
    seen = jinit.correlations(
        net, params, state, *(jnp.tanh(jnp.sqrt(q)[:, None] * z) for z in pair)
    )
    return seen.length[:, :depth].T, seen.correlation[:, :depth].T


def single(key: jax.Array, *, sigma_w: jax.Array, start: jax.Array) -> dict[str, jax.Array]:
    """What one layer makes of a start; every point of the maps has networks of its own."""
    key = jax.random.fold_in(key, sigma_w * STARTS + start)
    q, c = (jnp.full(BATCH, jnp.asarray(x)[sigma_w, start]) for x in begin())
    q, c = network(key, jnp.asarray(GAINS)[sigma_w], q, c, depth=1)
    return {"value": jnp.where(start < len(LENGTHS), q.mean(), c.mean())}


def networks(key: jax.Array, *, depth: int) -> dict[str, jax.Array]:
    """Deep networks, `[sigmas, layers, starts]`; one draw serves every gain."""
    each = jax.vmap(lambda gain, q, c: network(key, gain, q, c, depth=depth))
    return {"value": jnp.where(QUANTITIES == "q", *each(GAINS, *begin()))}


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
    """From every start, `[sigmas, layers, starts]`."""
    found = jnp.where(QUANTITIES == "q", *chain(key, *begin(), width, depth))
    return {"value": found.swapaxes(0, 1)}


def long_chains(key: jax.Array, *, width: int, end: int, layers: int) -> dict[str, jax.Array]:
    """That have settled, averaged over the last layers: q and c `[sigmas, 2]`.

    They start short and uncorrelated (end 0), or long and nearly alike (1).
    """
    start = (jnp.full((len(GAINS), 1), x[-end], jnp.float32) for x in (LENGTHS, CORRELATIONS))
    found = chain(jax.random.fold_in(key, end), *start, width, LAYERS_BEFORE + layers - 1)
    return {"value": jnp.concatenate([x[LAYERS_BEFORE - 1 :].mean(0) for x in found], -1)}


def measure(
    singles: int, nets: int, depth: int, narrow: int, settled: int, layers: int
) -> xr.Dataset:
    """Means and standard errors of lengths and correlations, beside theory's.

    Of single layers, for every point of the maps; of networks of `depth` layers; of chains as deep;
    and of settled chains from either of two starts, averaged over so many layers.
    """

    def run(fn: Any, seeds: int, dims: tuple[str, ...], **axes: Any) -> xr.DataArray:
        found = jinit.sweep(fn, **axes, seeds=seeds, dims={"value": dims}).value.astype(float)
        return found.squeeze([d for d in ("depth", "layers") if d in found.dims], drop=True)

    deep, widths = ("sigma_w", "layer", "start"), [WIDTH, 2 * WIDTH]
    every = {"sigma_w": range(len(GAINS)), "start": range(STARTS)}
    axes = {"width": widths, "end": [0, 1], "layers": [layers]}
    long = run(long_chains, settled, ("sigma_w", "fixed_point"), static=axes)
    found = {
        "maps": run(single, singles, (), traced=every).drop_vars(list(every)),
        "nets": run(networks, nets, deep, static={"depth": [depth]}),
        "law": run(chains, narrow, deep, static={"width": widths, "depth": [depth]}),
        "settled": long.stack(run=("end", "seed"), create_index=False).drop_vars("seed"),
    }
    late = slice((depth + 1) // 2 - 1, None)
    found |= {
        f"late_{n}": found[n].isel(layer=late).mean("layer", skipna=False) for n in ("nets", "law")
    }
    data = xr.Dataset({"theory": (deep, [predict(sigma_w, depth) for sigma_w in SIGMA_WS])})
    for name, values in found.items():
        of = average(values, "run" if name == "settled" else "seed")
        data[name], data[f"{name}_error"], data.attrs[f"{name}_seeds"] = of
    data["fixed"] = ("sigma_w", "fixed_point"), [fixed(sigma_w)[:2] for sigma_w in SIGMA_WS]
    starts = {"quantity": QUANTITIES, "begun": [*LENGTHS, *CORRELATIONS]}
    data = data.assign_coords({name: ("start", values) for name, values in starts.items()})
    return data.assign_coords(
        sigma_w=list(SIGMA_WS), layer=range(1, depth + 1), fixed_point=["q*", "c*"]
    )


def estimate(data: xr.Dataset, name: str, **at: Any) -> Estimate:
    """What stands under that name."""
    return Estimate(data[name].sel(at), data[f"{name}_error"].sel(at), data.attrs[f"{name}_seeds"])


def apart(nets: Estimate, law: Estimate) -> xr.DataArray:
    """What is allowed between means over networks and over chains, by the scatter of chains.

    Of how far a network scatters its law says more than a few networks do.
    """
    return errors_allowed(law.seeds) * law.error * np.sqrt(1 + law.seeds / nets.seeds)


def farthest(group: str, *compared: xr.DataArray, source: str) -> list[Check]:
    """For either quantity and every sigma_w the layer and start at which they are farthest off."""
    expected, measured, allowed = compared
    off = (abs(measured - expected) / allowed).fillna(np.inf)  # what is no number is the worst
    what = "sigma_w = {sigma_w:g}: {quantity} from {begun:.3g}, layer {layer}"
    found = []
    for quantity in "qc":
        for sigma_w in SIGMA_WS:
            at = off.sel(sigma_w=sigma_w).where(off.quantity == quantity).argmax(["layer", "start"])
            here = (x.sel(sigma_w=sigma_w)[at] for x in compared)
            found += compare(group, what, next(here), next(here), source, next(here))
    return found


def checks(data: xr.Dataset) -> list[Check]:
    """Theory, single layers, networks, their law, and the law's limit."""
    maps, nets, late_nets = (estimate(data, name) for name in ("maps", "nets", "late_nets"))
    law, late_law = (estimate(data, name, width=WIDTH) for name in ("law", "late_law"))
    limit, settled = (
        extrapolate(*(estimate(data, name, width=n * WIDTH) for n in (1, 2)))
        for name in ("law", "settled")
    )
    both = f"{nets.seeds} networks and the law of their width"
    widths = f"widths {WIDTH} and {2 * WIDTH}, extrapolated, and theory"
    apart_late = apart(late_nets, late_law)[:, ENDS]
    found = [
        printed("jinit.theory", f"{what}, sigma_w = {sigma_w:g}", text, value)
        for sigma_w, texts in PUBLISHED.items()
        for (what, text), value in zip(texts.items(), fixed(sigma_w)[:3], strict=True)
    ]
    group = f"sigma_w = {{sigma_w:g}}: the maps of theory, and {maps.seeds} single layers each"
    what = "{quantity} = {begun:.3g} becomes"
    found += compare(group, what, data.theory[:, 0], maps, "theory")
    group = f"{both}, farthest off of all layers"
    found += farthest(group, law.mean, nets.mean, apart(nets, law), source="simulation")
    group = f"{both}, layers {(data.sizes['layer'] + 1) // 2} up"
    what, seen = "sigma_w = {sigma_w:g}: {quantity} from {begun:.3g}", late_nets.mean[:, ENDS]
    found += compare(group, what, late_law.mean[:, ENDS], seen, "simulation", apart_late)
    group = f"{widths}: farthest off of all layers"
    found += farthest(group, data.theory, limit.mean, limit.tolerance, source="theory")
    group, what = f"fixed points: {widths}", "{fixed_point}, sigma_w = {sigma_w:g}"
    allowed = settled.tolerance + LEFT * abs(settled.mean)
    return found + compare(group, what, data.fixed.T, settled, "theory", allowed)


def figure(data: xr.Dataset) -> Figure:
    """Both maps with their cobwebs above, both trajectories below."""
    title = "Lengths settle within a few layers; whether inputs stay apart\n"
    title += "is decided by the scale of the weights"
    note = (
        f"tanh, $\\sigma_b$ = 0.3. Lines: theory at infinite width. Points: nets of width {WIDTH}, "
    )
    note += f"± {STANDARD_ERRORS} standard errors. Stars: the fixed points."
    fig, axes = panels(title, note, (13.5, 11.5), rows=2, columns=2)
    draw(axes[::2], data.isel(start=QUANTITIES == "q"), np.geomspace(0.02, 45, 60), length_map)
    after, grid = lambda sigma_w, c: correlation_map(sigma_w)(c), np.linspace(0, 1, 41)
    draw(axes[1::2], data.isel(start=QUANTITIES == "c"), grid, after)
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


def draw(panels: Any, data: xr.Dataset, grid: np.ndarray, after: Any) -> None:
    """The map with its cobwebs, and trajectories, of one quantity."""
    above, below = panels
    above.plot(grid, grid, color="0.7", linewidth=1, linestyle="--")
    kind = f"{data.quantity.values[0]}*"
    for sigma_w, (colour, marker) in STYLES.items():
        here, style = data.sel(sigma_w=sigma_w), {"color": colour, "marker": marker}
        above.plot(grid, after(sigma_w, grid), color="0.25", linewidth=1.6, zorder=2)
        # From the diagonal to the curve and back, as the signals go that start farthest off.
        for start in (0, -1):
            one = here.isel(start=start)
            x = np.repeat([one.begun, *one.theory], 2)
            above.plot(x[:-1], x[1:], color=colour, linewidth=1, alpha=0.5, zorder=1)
        points(above, here.begun, here.maps, here.maps_error, **style | {"markersize": 6.5})
        at = float(here.fixed.sel(fixed_point=kind))
        star = {"color": colour, "markersize": 17, "markeredgecolor": "white", "zorder": 4}
        name = f"$\\sigma_w$ = {sigma_w:g}, {PHASES[sigma_w]}: ${kind}$ = {at:.3g}"
        above.plot(at, at, "*", **star, clip_on=False, label=name)
        for start in range(0, data.sizes["start"], 3):
            one, name = here.isel(start=start), None if start else f"$\\sigma_w$ = {sigma_w:g}"
            below.plot([0, *one.layer], [one.begun, *one.theory], color="0.4", linewidth=1)
            points(below, one.layer, one.nets, one.nets_error, markersize=5, label=name, **style)


EXPERIMENT = Experiment(
    __file__, __doc__, measure, checks, figure,
    full={"singles": 40, "nets": 64, "depth": 30, "narrow": 400, "settled": 64, "layers": 400},
    quick={"singles": 12, "nets": 16, "depth": 15, "narrow": 100, "settled": 24, "layers": 150},
    lacks="28 of 40 single layers, 48 of 64 networks, layers beyond 15, three of four chains",
)  # fmt: skip

if __name__ == "__main__":
    EXPERIMENT.run()
