"""Networks of one shape scatter by the sum of their reciprocal widths (Hanin 2018).

The squared gradient of a ReLU network with He weights changes, from layer to layer down, by
independent factors (2/n) chi^2_K with K ~ Bin(n, 1/2), whose logarithm has a variance of about 5/n:
over draws of the network, that of the log squared gradient is about 5 sum 1/n_l whatever the shape.
Signals on their way up follow the same law.

Sources: Hanin, "Which neural net architectures give rise to exploding and vanishing gradients?",
2018; Hanin & Rolnick, "How to start training: the effect of initialization and architecture", 2018.
"""

import math
from collections.abc import Iterable, Iterator

import jax
import numpy as np
import scipy.special
import scipy.stats
import xarray as xr
from harness.checks import STANDARD_ERRORS, Check, Estimate, compare, printed
from harness.experiment import Experiment
from harness.figures import BLUE, GREEN, ORANGE, PURPLE, Figure, label, panels, points

import jinit

# Mean and variance of the log of one layer's factor, by width.
PUBLISHED = {30: ("-0.08839567", "0.19114818"), 1000: ("-0.00250410", "0.00501859")}
MOMENTS = ["mean", "variance"]
VERY_WIDE = 1000
NEXT_ORDERS = 100.0  # of n times the variance, what goes as 1/n^2
# Widths of the layers that the gradient passes, input side first.
WIDE, HISTOGRAM = "one layer of 1000", "growing 30, 100"
SHAPES = {
    "constant 100": (100,) * 24,
    "constant 30": (30,) * 12,
    "bottleneck 100, 20, 100": (100,) * 6 + (20,) * 3 + (100,) * 6,
    HISTOGRAM: (30,) * 8 + (100,) * 12,
    WIDE: (1000,),
}
DEEP = [name for name in SHAPES if name != WIDE]
STYLES = dict(zip(DEEP, ((BLUE, "o"), (GREEN, "^"), (ORANGE, "D"), (PURPLE, "s")), strict=True))


def measure(seeds: int = 3000, shapes: Iterable[str] = SHAPES) -> xr.Dataset:
    """Logarithms of squares relative to infinite width; not finite where a layer is off."""

    def run(key: jax.Array, *, shape: str) -> dict[str, jax.Array]:
        widths = SHAPES[shape]
        # The law does not know of the layers at both ends, the inputs and a last hidden layer at
        # which gradients begin: they are like their neighbours, so that less is compiled.
        first, last = (4, 16) if shape == WIDE else (widths[0], widths[-1])
        net = jinit.MLP((first, *widths, last, 4), activation="relu", bias=False)
        init_key, probe_key = jax.random.split(key)
        params, state = jinit.init(init_key, net, "he")
        x = np.ones((1, first), np.float32)
        seen = jinit.layer_signals(net, params, state, x, key=probe_key)
        # Of inputs 1, He's infinite-width mean squares are 1, and his squared norms of gradients
        # alike. The last two layers are where gradients begin, and the readout.
        norms = 2 * seen.log_grad[:-1] + np.log(np.array([*widths, last], np.float32))
        return {"signal": 2 * seen.log_act[:-2], "gradient": (norms - norms[-1])[:-1]}

    dims = {"signal": ("layer",), "gradient": ("layer",)}
    found = jinit.sweep(run, static={"shape": tuple(shapes)}, seeds=seeds, dims=dims)
    return found.astype(float).assign_coords(layer=np.arange(found.sizes["layer"]) + 1)


def passed(data: xr.Dataset, shape: str, what: str = "gradient") -> np.ndarray:
    """Of every net of the shape that is alive, `[nets, layers]`."""
    both = data[["signal", "gradient"]].sel(shape=shape).isel(layer=slice(len(SHAPES[shape])))
    alive = np.isfinite(both.to_dataarray()).all(["variable", "layer"])
    return both[what].transpose("seed", "layer").values[alive]


def moments(values: np.ndarray) -> Estimate:
    """Mean and variance over nets, `[2, ...]`; the latter's standard error by the fourth moment."""
    mean, var = values.mean(0), values.var(0, ddof=1)
    of_var = ((values - mean) ** 4).mean(0) - var**2
    both = xr.DataArray(np.stack([mean, var]), {"what": MOMENTS}, ("what", "at")[: values.ndim])
    return Estimate(both, both.copy(data=np.sqrt(np.stack([var, of_var]) / len(values))))


def through(widths: tuple[int, ...]) -> tuple[float, float, float]:
    """Sum of 1/n, and mean and variance of the log squared gradient, of layers of these widths."""
    net = jinit.theory.finite_width("relu", widths, weight_var=2.0)
    return float(np.sum(1 / np.array(widths))), net.jacobian_mean, net.jacobian_var


def density(widths: tuple[int, ...], y: np.ndarray) -> np.ndarray:
    """Of the log of a product of (2/n) chi^2_K, K ~ Bin(n, 1/2), K > 0, at evenly spaced y.

    The characteristic function of ln (2/n) chi^2_K is (4/n)^is Gamma(K/2 + is) / Gamma(K/2).
    """
    s = np.linspace(-12.0, 12.0, 1201)
    log_transform = np.zeros(len(s), np.complex128)
    for n in set(widths):
        on = np.arange(1, n + 1)
        chance = scipy.stats.binom.pmf(on, n, 0.5)
        log_gamma = scipy.special.loggamma(on / 2 + 1j * s[:, None])
        ratio = np.exp(log_gamma - scipy.special.gammaln(on / 2)) @ (chance / chance.sum())
        log_transform += widths.count(n) * (np.log(ratio) + 1j * s * math.log(4 / n))
    waves = np.exp(log_transform - 1j * y[:, None] * s)
    return waves.real.sum(1) * (s[1] - s[0]) / (2 * math.pi)


def compare_layers(data: xr.Dataset) -> list[Check]:
    """One layer by theory and by networks; second moments after few or wide layers."""
    found = []
    for (n, texts), name in zip(PUBLISHED.items(), ("constant 30", WIDE), strict=True):
        one = f"log of one layer's factor, n = {n}"
        for what, text, value in zip(MOMENTS, texts, through((n,))[1:], strict=True):
            found.append(printed(f"{one}: jinit.theory.finite_width", what, text, value))
        if name in data.shape:
            logs, layers = passed(data, name)[:, 0], len(SHAPES[name])
            seen, group = moments(logs), f"{one}: {len(logs)} nets of {layers} layer(s)"
            of_one = Estimate(seen.mean / layers, seen.error / layers)
            found += compare(group, "{what}", np.float64(texts), of_one, "formula")
    for name, layers in (("constant 30", 1), ("constant 100", 4), (WIDE, 1)):
        if name in data.shape:
            squared, n = np.exp(passed(data, name)[:, -layers]), SHAPES[name][-1]
            group = f"squared gradient after {layers} layer(s) of {n}, {len(squared)} nets"
            for power, what, expected in ((1, "mean", 1.0), (2, "second moment", 1 + 5 / n)):
                seen = Estimate(*(each[0] for each in moments(squared**power)[:2]))
                found += compare(group, what, expected**layers, seen, "formula")
    return found


def compare_networks(data: xr.Dataset) -> list[Check]:
    """The law of chi^2 over all layers, the slopes against sum 1/n, and a whole distribution."""
    names, found = [name for name in DEEP if name in data.shape], []
    for name in names:
        for square, last in (("gradient", 0), ("signal", -1)):
            logs, law = passed(data, name, square)[:, last], through(SHAPES[name])[1:]
            group = f"log squared {square}, {name}, {len(logs)} nets"
            found += compare(group, "{what}", law, moments(logs), "theory")
    x, _, theory = np.transpose([through(SHAPES[name]) for name in names])
    seen = [moments(passed(data, name)[:, 0]) for name in names]
    weight = x / np.sum(x**2)  # of a slope through the origin
    error = np.linalg.norm(weight * [of.error[1] for of in seen])
    slope = Estimate(weight @ [of.mean[1] for of in seen], error)
    group = "variance of the log squared gradient against sum 1/n"
    found += compare(group, f"slope of {len(names)} shapes", weight @ theory, slope, "theory")
    narrow, wide = (n * through((n,))[2] for n in (VERY_WIDE, 2 * VERY_WIDE))
    what, allowed = "slope of wide layers, by theory", NEXT_ORDERS / VERY_WIDE**2
    found += compare(group, what, 5.0, 2 * wide - narrow, "formula", allowed)

    logs, y = passed(data, HISTOGRAM)[:, 0], np.linspace(-25.0, 15.0, 4001)
    cumulative = np.cumsum(density(SHAPES[HISTOGRAM], y)) * (y[1] - y[0])
    distance = scipy.stats.kstest(logs, lambda at: np.interp(at, y, cumulative)).statistic
    # Kolmogorov's distance exceeds c / sqrt(nets) with a chance of 2 exp(-2 c^2): as unlikely as
    # five standard errors.
    c = math.sqrt(-math.log(scipy.stats.norm.sf(STANDARD_ERRORS)) / 2)
    group, what = f"distribution of the log squared gradient, {HISTOGRAM}", "distance from the law"
    return found + compare(group, what, 0.0, distance, "formula", c / math.sqrt(len(logs)))


def notes(data: xr.Dataset) -> Iterator[str]:
    """Networks that are not counted."""
    drawn = data.sizes["shape"] * data.sizes["seed"]
    alive = sum(len(passed(data, str(name))) for name in data.shape.values)
    yield f"Left out: {drawn - alive} of {drawn} networks with a layer that is off."


def figure(data: xr.Dataset) -> Figure:
    """Variance against the sum of reciprocal widths, and the histogram of one shape."""
    title = "How far networks scatter is set by the sum of their reciprocal widths"
    note = f"ReLU networks with He weights, {data.sizes['seed']} draws of each shape, one input; "
    note += "squares relative to infinite width; ± 2 standard errors"
    fig, (left, right) = panels(title, note, (14, 6.5), columns=2, width_ratios=[1.25, 1])
    names = [name for name in DEEP if name in data.shape]
    most = 1.08 * max(through(SHAPES[name])[0] for name in names)
    left.plot([0, most], [0, 5 * most], color="0.6", linewidth=2.5, label="5 Σ 1/n, wide layers")
    for name in names:
        tails = range(len(SHAPES[name]))
        x, _, law = np.transpose([through(SHAPES[name][layer:]) for layer in tails])
        left.plot([*x, 0], [*law, 0], color="black", linewidth=1)
        shown = np.unique(np.linspace(0, len(x) - 1, 7).astype(int))
        seen, (colour, marker) = moments(passed(data, name)[:, shown]), STYLES[name]
        marks = {"color": colour, "marker": marker, "label": name}
        points(left, x[shown], seen.mean[1], seen.error[1], errors=2, **marks)
    left.plot([], [], color="black", linewidth=1, label="exact law of each shape")
    x, y = "Σ 1/n over the layers passed on the way down", "variance of ln |gradient|² over draws"
    title = "Nearly one line, a little above 5 Σ 1/n"
    label(left, title, x, y, "upper left", xlim=(0, most), ylim=(0, None))

    logs, (_, mean, var) = passed(data, HISTOGRAM)[:, 0], through(SHAPES[HISTOGRAM])
    y = np.linspace(mean - 4.5 * math.sqrt(var), mean + 4 * math.sqrt(var), 600)
    right.hist(logs, y[::13], density=True, alpha=0.45, color=STYLES[HISTOGRAM][0])
    right.plot(y, density(SHAPES[HISTOGRAM], y), color="black", label="exact law")
    normal = scipy.stats.norm.pdf(y, mean, math.sqrt(var))
    right.plot(y, normal, "--", color="0.5", label="normal, mean and variance from theory")
    right.axvline(0, color="0.4", linewidth=1, linestyle=":", label="infinite width")
    title, limits = f"{HISTOGRAM}: most lie below infinite width", 1.42 * right.get_ylim()[1]
    label(right, title, "ln |gradient|² of a network", "density", "upper left", ylim=(0, limits))
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, figure=figure, notes=notes,
    checks=lambda data: compare_layers(data) + compare_networks(data),
    quick={"seeds": 300, "shapes": ("constant 30", HISTOGRAM)},
    lacks="2700 of 3000 networks, constant 100, the bottleneck and the single layer",
)  # fmt: skip
EXPERIMENT.run(__name__)
