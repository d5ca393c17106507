"""The gradient's log norm walks at random through a deep net; one gain takes its drift away.

Linear nets need g = exp(1/(2N)) at width N, ReLU nets g = sqrt(2) exp(1.2 / (max(N, 6) - 2.4)), a
fit: with it the mean of the log norm stays, and only its variance over nets grows, in proportion to
depth. Measured on nets of 100 layers; then ReLU nets of 30 layers learn the digits (in the paper
MNIST and TIMIT) with that gain, and do not with g = 1.

Source: Sussillo & Abbott, "Random walk initialization for training very deep feedforward networks",
2014, eqs. 5 and 7.
"""

import math

import jax
import numpy as np
import optax
import scipy.special
import xarray as xr
from harness.checks import STANDARD_ERRORS, Check, Estimate, average, claim, compare
from harness.experiment import Experiment
from harness.figures import BLUE, GREEN, ORANGE, Figure, label, named_ticks, panels, points

import jinit

DEPTH, SKIPPED = 100, 2  # layers, and those at both ends that do not count
EVERY = 5  # layers down from the top, of those that are kept
WIDTHS = (24, 48, 96, 192)
NAMES = {"identity": "linear", "relu": "ReLU"}
ACTIVATIONS = tuple(NAMES)
STYLES = {"identity": {"color": BLUE, "marker": "o"}, "relu": {"color": GREEN, "marker": "s"}}
FIT = 1 / 25  # of what the paper's curve corrects in ln g: how well it fits the exact drift
LEARNING = 30  # layers of nets that learn


def gain(activation: str, width: int) -> float:
    """The paper's."""
    if activation == "identity":
        return math.exp(1 / (2 * width))
    return math.sqrt(2) * math.exp(1.2 / (max(width, 6) - 2.4))


def variance(activation: str, width: int) -> float:
    """Of the log norm, a layer: a quarter of that of ln chi^2_K, K = N or Bin(N, 1/2)."""
    if activation == "identity":
        return float(scipy.special.polygamma(1, width / 2)) / 4
    net = jinit.theory.finite_width("relu", (width,), weight_var=2.0)
    return net.jacobian_var / 4


def measure(nets: int = 1000, steps: int = 800, runs: int = 8) -> xr.Dataset:
    """Log norms less those at the top, their mean change a layer, and losses of nets that learn."""

    def walk(key: jax.Array, *, activation: str, width: int) -> dict[str, jax.Array]:
        net = jinit.MLP((width,) * (DEPTH + 1) + (4,), activation=activation, bias=False)
        keys = jax.random.split(key)
        params, state = jinit.init(keys[0], net, "xavier", gain=gain(activation, width))
        x = np.ones((1, width), np.float32)
        logs = jinit.layer_signals(net, params, state, x, key=keys[1]).log_grad
        walked = logs[DEPTH - SKIPPED - 1 : SKIPPED - 1 : -1] - logs[DEPTH - SKIPPED - 1]
        return {"walk": walked[::EVERY], "slope": walked[-1] / (len(walked) - 1)}

    digits = jinit.data.digits()

    def learn(key: jax.Array, *, start: str) -> dict[str, jax.Array]:
        net = jinit.MLP((64, *[64] * LEARNING, 10))
        g = gain("relu", 64) if start == "random walk" else 1.0
        params, state = jinit.init(key, net, "xavier", gain=g)
        run = jinit.train(
            jax.random.fold_in(key, 1), net, params, state, digits,
            optimizer=optax.sgd(0.01), steps=steps, batch_size=64,
        )  # fmt: skip
        return {"loss": run.history.loss}

    axes = {"activation": ACTIVATIONS, "width": WIDTHS}
    walked = jinit.sweep(walk, static=axes, seeds=nets, dims={"walk": ("layer",)})
    starts = ("random walk", "g = 1")
    trained = jinit.sweep(learn, static={"start": starts}, seeds=runs, dims={"loss": ("step",)})
    walked = walked.assign_coords(layer=EVERY * np.arange(walked.sizes["layer"]))
    return xr.merge([walked, trained.rename(seed="run")]).astype(float)


def checks(data: xr.Dataset) -> list[Check]:
    """The gain that a net would have needed beside the paper's; variances; what learns."""
    found = []
    for name in ACTIVATIONS:
        drift = average(data.slope.sel(activation=name))
        needed = Estimate(-drift.mean, drift.error, drift.seeds)  # in ln g
        expected = np.array([math.log(gain(name, n)) for n in WIDTHS])
        edge = math.log(2) / 2 if name == "relu" else 0.0
        allowed = needed.tolerance + (FIT * (expected - edge) if name == "relu" else 0.0)
        group = f"ln g without drift, {NAMES[name]}, {drift.seeds} nets of {DEPTH} layers"
        source = "formula" if name == "identity" else "paper"
        right = Estimate(needed.mean + expected, needed.error, needed.seeds)
        found += compare(group, "width {width}", expected, right, source, allowed)
        walk = data.walk.sel(activation=name)
        for layer in (25, 95):
            of = walk.sel(layer=layer)
            var, nets = of.var("seed", ddof=1), of.sizes["seed"]
            error = np.sqrt((((of - of.mean("seed")) ** 4).mean("seed") - var**2) / nets)
            expected = layer * np.array([variance(name, n) for n in WIDTHS])
            group = f"variance of the log norm after {layer} layers, {NAMES[name]}"
            found += compare(
                group, "width {width}", expected, Estimate(var, error, nets), "formula"
            )
    last = data.loss.isel(step=slice(-20, None)).mean("step")
    group = f"ReLU nets of {LEARNING} layers on the digits"
    learns = last.sel(start="random walk") < math.log(10) / 2
    guesses = abs(last.sel(start="g = 1") - math.log(10)) < 0.05
    found.append(claim(group, "the paper's gain: half of the loss of guessing", learns.mean()))
    return [*found, claim(group, "g = 1: that of guessing", guesses.mean())]


def figure(data: xr.Dataset) -> Figure:
    """Walks of single nets, their variance over depth, the gain over width, and losses."""
    title = "Gradients walk at random through depth; the right gain takes the drift away"
    note = f"Points: means over {data.sizes['seed']} nets, ± {STANDARD_ERRORS} standard errors"
    fig, (walks, spread, gains, losses) = panels(title, note, (14, 10), rows=2, columns=2)
    one = data.walk.sel(activation="relu", width=48).isel(seed=slice(40))
    walks.plot(data.layer, one.T, color=GREEN, lw=0.7, alpha=0.6)
    walks.axhline(0, color="0.3", lw=1)
    label(walks, "40 ReLU nets of width 48", "layers down from the top", "change of ln |gradient|")
    for name in ACTIVATIONS:
        style = STYLES[name]
        var = data.walk.sel(activation=name, width=48).var("seed", ddof=1)
        spread.plot(data.layer, data.layer * variance(name, 48), color=style["color"])
        spread.plot(data.layer, var, ls="", mfc="white", label=NAMES[name], **style)
        drift = average(data.slope.sel(activation=name))
        edge = math.sqrt(2) if name == "relu" else 1.0
        right = [gain(name, n) / edge for n in WIDTHS]
        gains.plot(WIDTHS, right, color=style["color"])
        points(gains, WIDTHS, right * np.exp(-drift.mean), drift.error, label=NAMES[name], **style)
    spread.plot([], [], color="0.3", label="lines: theory, in proportion to depth")
    label(spread, "Width 48", "layers down from the top", "variance over nets", "upper left")
    gains.plot([], [], color="0.3", label="lines: the paper's")
    over = "g over that of infinite width"
    label(gains, "Gain without drift", "width", over, "upper right", xscale="log")
    named_ticks(gains.xaxis, WIDTHS)
    for start, colour in (("random walk", GREEN), ("g = 1", ORANGE)):
        of = data.loss.sel(start=start)
        losses.fill_between(of.step, of.min("run"), of.max("run"), color=colour, alpha=0.25, lw=0)
        losses.plot(of.step, of.median("run"), color=colour, label=start)
    label(losses, f"ReLU, {LEARNING} layers, on digits", "step", "loss", "lower left", yscale="log")
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, checks, figure, quick={"nets": 400, "runs": 2},
    lacks="600 of 1000 nets, 6 of 8 runs",
)  # fmt: skip
EXPERIMENT.run(__name__)
