"""Why deep nets were hard to train: signals of tanh nets by layer, and sigmoids that saturate.

Five tanh layers of 1000 units at initialisation, with weights U(+-1/sqrt(n)) ("standard", a third
of Xavier's variance) and with Glorot's: how activations shrink and back-propagated gradients with
them, and the mean singular value of a layer's Jacobian. Then nets of five layers of 100 learn the
1797 digits by plain gradient descent in batches of ten: standard sigmoid nets do not, and their top
layer drifts to 0 instead; standard tanh and softsign nets lag behind the normalised ones.
The paper's data are others; only what it says in words is held against the digits.

Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural
networks", 2010.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from harness.checks import STANDARD_ERRORS, Check, Estimate, average, claim, compare, printed
from harness.checks import root_mean_square as rms
from harness.experiment import Experiment
from harness.figures import BLUE, GREEN, ORANGE, PURPLE, Figure, label, panels, points

import jinit

WIDTH, DEPTH, BATCH = 1000, 5, 200
STANDARD, NORMALISED = "standard", "normalised"
SCHEMES = {STANDARD: ("lecun_uniform", 1 / math.sqrt(3)), NORMALISED: ("glorot_uniform", 1.0)}
PUBLISHED = {
    "activation": "0.460299 0.249501 0.141195 0.080986 0.046655",
    "gradient": "0.222369 0.295187 0.320420 0.329003 0.331887",
}
SINGULAR = {STANDARD: "0.490070", NORMALISED: "0.848826"}
FINITE_WIDTH = 0.002  # of a squared average at width 1000, relative
SIGMOID = "sigmoid, standard"
NETS = {
    SIGMOID: ("sigmoid", STANDARD, PURPLE),
    "tanh, standard": ("tanh", STANDARD, ORANGE),
    "softsign, standard": ("softsign", STANDARD, "#E69F00"),
    "tanh, normalised": ("tanh", NORMALISED, BLUE),
    "softsign, normalised": ("softsign", NORMALISED, GREEN),
}
EVERY, GUESSING = 50, math.log(10)  # steps between looks at a net that learns; its loss at first


def measure(seeds: int = 16, steps: int = 1500, runs: int = 8) -> xr.Dataset:
    """Signals at the start; losses, and the top layer's activations, while nets learn."""

    def start(key: jax.Array, *, scheme: str) -> dict[str, jax.Array]:
        name, gain = SCHEMES[scheme]
        net = jinit.MLP((WIDTH,) * (DEPTH + 2), activation="tanh")
        draw, feed, probe = jax.random.split(key, 3)
        params, state = jinit.init(draw, net, name, gain=gain)
        x = jax.random.normal(feed, (BATCH, WIDTH))
        seen = jinit.layer_signals(net, params, state, x, key=probe)
        # Of the gradient by the pre-activations z_l over that by z_(l+1); the readout begins it.
        factor = jnp.exp(2 * jnp.diff(-seen.log_grad[: DEPTH + 1]))
        singular = jnp.linalg.svd(params[0].w, compute_uv=False).mean()
        return {"activation": seen.act_std[:DEPTH], "gradient": factor, "singular": singular}

    digits = jinit.data.digits()

    def learn(key: jax.Array, *, net: str) -> dict[str, jax.Array]:
        activation, scheme, _ = NETS[net]
        name, gain = SCHEMES[scheme]
        mlp = jinit.MLP((64, *[100] * DEPTH, 10), activation=activation)
        params, state = jinit.init(key, mlp, name, gain=gain)
        run = jinit.train(
            jax.random.fold_in(key, 1), mlp, params, state, digits, optimizer=optax.sgd(0.1),
            steps=steps, batch_size=10, signals_at=EVERY,
        )  # fmt: skip
        losses = run.history.loss.reshape(-1, EVERY).mean(1)
        return {"loss": losses, "top": run.history.signals.act_mean[:, DEPTH - 1]}

    dims = {"activation": ("layer",), "gradient": ("layer",)}
    first = jinit.sweep(start, static={"scheme": tuple(SCHEMES)}, seeds=seeds, dims=dims)
    dims = {"loss": ("step",), "top": ("step",)}
    then = jinit.sweep(learn, static={"net": tuple(NETS)}, seeds=runs, dims=dims)
    then = then.rename(seed="run").assign_coords(step=np.arange(0, steps, EVERY))
    return xr.merge([first.assign_coords(layer=np.arange(1, DEPTH + 1)), then]).astype(float)


def checks(data: xr.Dataset) -> list[Check]:
    """The paper's five layers; Jacobians; what it says of nets that learn."""
    found = []
    seen = {"activation": rms(data.activation), "gradient": average(data.gradient)}
    for what, texts in PUBLISHED.items():
        numbers, of = np.float64(texts.split()), at(seen[what], scheme=STANDARD)
        allowed = of.tolerance + FINITE_WIDTH * numbers
        group = f"{what}, standard, {of.seeds} nets of width {WIDTH}"
        found += compare(group, "layer {layer}", numbers, of, "formula", allowed)
    how = {"depth": DEPTH, "weight_var": 1 / 3, "input_second_moment": 1.0}
    theory = jinit.theory.trajectory("tanh", **how).act_std
    for layer, (text, std) in enumerate(zip(PUBLISHED["activation"].split(), theory, strict=True)):
        found.append(printed("activation, jinit.theory", f"layer {layer + 1}", text, std))
    for scheme, text in SINGULAR.items():
        of = at(average(data.singular), scheme=scheme)
        # A square matrix of width n has its own mean within 1/n of the quarter circle's.
        allowed, group = of.tolerance + float(text) / WIDTH, "mean singular value of a Jacobian"
        found += compare(group, scheme, float(text), of, "formula", allowed)
    group, loss, top = "nets that learn", data.loss, data.top.sel(net=SIGMOID)
    guess = abs(loss.isel(step=-1).sel(net=SIGMOID) / GUESSING - 1) < 0.05
    fall = (abs(top[:, 0] - 0.5) < 0.05) & (top[:, -1] < 0.25)
    claims = {"standard sigmoid nets still guess": guess}
    claims["their top layer falls from 1/2 to half of it"] = fall
    for phi in ("tanh", "softsign"):
        behind = loss.sel(net=f"{phi}, standard") > loss.sel(net=f"{phi}, normalised")
        early = behind.isel(step=slice(len(loss.step) // 2)).all("step")
        claims[f"{phi}: normalised is ahead in the first half"] = early
    return found + [claim(group, what, holds.mean()) for what, holds in claims.items()]


def at(estimate: Estimate, **where: str) -> Estimate:
    """Of one scheme."""
    return Estimate(estimate.mean.sel(where), estimate.error.sel(where), estimate.seeds)


def figure(data: xr.Dataset) -> Figure:
    """By layer at the start, above; losses and the top layer of sigmoid nets below."""
    note = f"Bars are {STANDARD_ERRORS} standard errors; bands from the 10th to the 90th percentile"
    title = "Standard weights shrink signals, and sigmoids saturate; normalised ones train"
    fig, (first, second, third, fourth) = panels(title, note, (15, 10), rows=2, columns=2)
    for scheme, colour, marker in ((STANDARD, ORANGE, "s"), (NORMALISED, BLUE, "o")):
        style = {"color": colour, "marker": marker, "label": scheme}
        for axes, seen in ((first, rms(data.activation)), (second, average(data.gradient))):
            points(axes, data.layer, *at(seen, scheme=scheme)[:2], **style)
    for axes, what in ((first, "activation"), (second, "gradient")):
        line = {"color": ORANGE, "lw": 1, "label": "standard, infinite width"}
        axes.plot(data.layer, np.float64(PUBLISHED[what].split()), **line)
        axes.set_xticks(data.layer.values)
    label(first, "Activations", "layer", "std", "lower left", yscale="log", ylim=(0.03, 1))
    label(second, "Squared gradient over that above", "layer", "", "upper left", ylim=(0, 1.2))
    for name, (_, _, colour) in NETS.items():
        for axes, values in ((third, data.loss), (fourth, data.top)):
            if axes is third or name == SIGMOID:
                low, middle, high = values.sel(net=name).quantile([0.1, 0.5, 0.9], "run").values
                axes.fill_between(data.step, low, high, color=colour, alpha=0.2, lw=0)
                axes.plot(data.step, middle, color=colour, label=name)
    third.axhline(GUESSING, color="0.5", ls=":", label="guessing, ln 10")
    label(third, "Training", "step", "loss of batches", "lower left", yscale="log")
    label(fourth, "Top hidden layer", "step", "mean activation", "upper right", ylim=(0, 0.6))
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, checks, figure,
    quick={"seeds": 4, "steps": 1000, "runs": 2}, lacks="12 of 16 nets, 6 of 8 runs, 500 steps",
)  # fmt: skip
EXPERIMENT.run(__name__)
