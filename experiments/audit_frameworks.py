"""What Flax, Equinox and Haiku draw by default, and what becomes of a signal through 30 layers.

The same MLP, CNN (with a grouped convolution) and small transformer of each framework are audited
by `jinit.audit`: gains and embeddings are compared with the frameworks' own formulas. Then MLPs of
30 hidden ReLU layers of 256 units are built from each framework's own dense layers: a layer
multiplies a second moment by gain²/2, up and down, but for what `jinit.theory.finite_width` says;
Equinox's biases hold the signal where the gradient shows it is lost.

Sources: the frameworks' code; He et al. 2015 for the halving; Hanin 2018 for the width.
"""

import math
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from harness.checks import EXACT, Check, Estimate, average, claim, compare, table
from harness.experiment import Experiment
from harness.figures import BLUE, GREEN, ORANGE, PURPLE, Figure, label, panels, points
from rich.progress import track

import jinit
from tests.zoo.defaults import DEEP, DEPTH, DIMS, FEATURES, MODELS, WIDTH

COMPARED = ("torch", "keras", "flax", "haiku")
TRUNCATED_STD = 0.8796256610342398  # of N(0, 1) cut at two standard deviations
# Of a forward pass in float32: so many products, summed in another order.
ROUNDING = 5 * (DEPTH + 1) * math.sqrt(WIDTH) * float(np.finfo(np.float32).eps)

# Of the models that are audited, by the role of their parameters and in call order.
LAYERS = {
    "MLP": {"weight": ("hidden 1", "hidden 2", "readout")},
    "CNN": {"weight": ("conv 3x3", "grouped conv", "readout")},
    "transformer": {
        "embedding": ("embedding",),
        "scale": ("layer norm 1", "layer norm 2"),
        "weight": ("query", "key", "value", "attention out", "MLP in", "MLP out", "readout"),
    },
}
ATTENTION = ("query", "key", "value", "attention out")
COLUMNS = ["model", "of", "path", "role", "name", "size", "fan_in", "mean", "std", "gain",
           "distribution", "matches"]  # fmt: skip
ENDS = {"signal": -1, "gradient": 0}  # the layers at which either has passed all others


class Rule(NamedTuple):
    """A framework's default, by its own code; the variance of biases is times fan_in."""

    convention: str
    gain: float
    kurtosis: float
    bias_var: float
    embedding_std: float
    embedding_kurtosis: float
    colour: str
    marker: str
    shown: slice


FLAX = Rule("flax", 1.0, 2.3656, 0.0, FEATURES**-0.5, 3.0, BLUE, "o", slice(0, None, 4))
RULES = {
    "Flax Linen": FLAX,
    "Flax NNX": FLAX._replace(colour=GREEN, marker="s", shown=slice(2, None, 4)),
    "Equinox": Rule("torch", 3**-0.5, 1.8, 1 / 3, 1.0, 3.0, PURPLE, "D", slice(0, None, 2)),
    "Haiku": Rule("haiku", TRUNCATED_STD, 2.3656, 0.0, TRUNCATED_STD, 2.3656, ORANGE, "^",
                  slice(0, None, 2)),
}  # fmt: skip


def measure(seeds: int = 96) -> xr.Dataset:
    """Every parameter of every model, and signals through thirty layers of each framework."""
    # The frameworks' own deprecations are not this script's.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    models = [rows for name in track(tuple(MODELS), "audits") for rows in audited(name)]
    parameters = pd.concat(models, ignore_index=True).rename_axis("parameter").to_xarray()
    axes, dims = {"framework": tuple(DEEP)}, {"signal": ("layer",), "gradient": ("layer",)}
    deep = jinit.sweep(follow, prepare=draw, static=axes, seeds=seeds, dims=dims)
    return xr.merge([parameters, deep.astype(float).assign_coords(layer=range(1, DEPTH + 1))])


def audited(framework: str) -> Iterator[pd.DataFrame]:
    """A row for every parameter of each of the framework's models, by the names of layers."""
    for model, built in MODELS[framework](jax.random.key(0)).items():
        audit = jinit.audit(built.apply, built.variables, *built.inputs, conventions=COMPARED)
        rows = audit.to_dataframe().iloc[np.argsort([row.order for row in audit.rows])]
        rows = rows.assign(model=model, of=framework, name="biases")
        rows["size"] = rows["shape"].map(math.prod)
        for role, layers in LAYERS[model].items():
            rows.loc[rows.role == role, "name"] = layers
        yield rows[COLUMNS].astype({"fan_in": float})


def draw(key: jax.Array, *, framework: str) -> tuple[Any, ...]:
    """Layers of a network, what the framework's own model says of an input from N(0, I), and it."""
    init_key, input_key = jax.random.split(key)
    x = jax.random.normal(input_key, (1, WIDTH))
    return *DEEP[framework](init_key, x), x


def follow(key: jax.Array, start: tuple[Any, ...]) -> dict[str, jax.Array]:
    """Logs of second moments: of pre-activations, relative to the input, and of gradients."""
    layers, output, x = start
    net, own = jinit.MLP(DIMS, activation="relu"), [jinit.Layer(w, b) for w, b in layers]
    seen = jinit.layer_signals(net, own, None, x, key=key)
    again, _ = jinit.forward(net, own, None, x, train=True)
    return {
        "signal": 2 * seen.log_pre[:DEPTH] - jnp.log(jnp.mean(x**2)),
        "gradient": 2 * (seen.log_grad[:DEPTH] - seen.log_grad[DEPTH - 1]),
        "output_error": jnp.linalg.norm(again - output) / jnp.linalg.norm(output),
    }


def predict(rule: Rule) -> dict[str, np.ndarray]:
    """Each layer's second moment is gain²/2 of the last one's, plus the biases' variance; logs."""
    halved, bias_var = rule.gain**2 / 2, rule.bias_var / WIDTH
    q = [rule.gain**2 + bias_var]
    for _ in range(DEPTH - 1):
        q.append(halved * q[-1] + bias_var)
    return {"signal": np.log(q), "gradient": np.arange(DEPTH - 1, -1, -1) * math.log(halved)}


@cache
def of_width() -> dict[str, np.ndarray]:
    """What finite width adds to means of logs, without biases."""
    relu = jinit.theory.finite_width("relu", [WIDTH] * DEPTH, weight_var=2.0)
    linear = jinit.theory.finite_width("identity", [WIDTH], weight_var=1.0)
    # ReLU layers before it, and the product of its own weights.
    signal = np.concatenate([[0.0], relu.signal_mean[:-1]]) + linear.signal_mean[0]
    return {"signal": signal, "gradient": relu.gradient_mean}


def compare_audits(data: xr.Dataset) -> list[Check]:
    """Gains and embeddings beside the frameworks' formulas, and whose every weight is."""
    rows, found = data[COLUMNS].to_dataframe(), []

    def beside(group: str, name: str, expected: float, std: float, kurtosis: float, n: int) -> Any:
        error = expected * math.sqrt((kurtosis - 1) / (4 * n))  # of the std of n draws
        return compare(group, name, expected, Estimate(std, error), "formula")

    for name, rule in RULES.items():
        theirs = rows[rows.of == name]
        for model, own in theirs[theirs.role == "weight"].groupby("model"):
            if name == "Haiku":  # whose attention has no default, but asks for an initialiser
                own = own[~own.name.isin(ATTENTION)]
            rms = math.sqrt(np.average(own["std"] ** 2 * own.fan_in, weights=own["size"]))
            drawn = rms, rule.kurtosis, own["size"].sum()
            found += beside(f"gain of the weights, {model}", name, rule.gain, *drawn)
            group = f"share of weights that are their convention's, {model}"
            match = [rule.convention in matches.split(", ") for matches in own.matches]
            found.append(claim(group, name, np.mean(match)))
        for _, row in theirs[theirs.role == "embedding"].iterrows():
            drawn = row["std"], rule.embedding_kurtosis, row["size"]
            found += beside("std of the embedding", name, rule.embedding_std, *drawn)
    return sorted(found, key=lambda check: check.group)


def compare_signals(data: xr.Dataset) -> list[Check]:
    """After 30 layers, up and down."""
    found, same = [], []
    title = f"ln of second moments through {DEPTH} ReLU layers, {data.sizes['seed']} nets"
    for name in data.framework.values.tolist():
        rule, deep, group = RULES[name], data.sel(framework=name), f"{name}: {title}"
        variances = {"weight_var": rule.gain**2, "bias_var": rule.bias_var / WIDTH}
        theory = jinit.theory.trajectory("relu", depth=DEPTH, input_second_moment=1.0, **variances)
        fall = 2 * (theory.log_grad[0] - theory.log_grad[-1])
        for what, exact in (("signal", np.log(theory.q[-1])), ("gradient", fall)):
            closed, wider = (each[what][ENDS[what]] for each in (predict(rule), of_width()))
            seen = average(deep[what][:, ENDS[what]])
            if rule.bias_var and what == "signal":
                # The biases' share does not scatter by layers: the mean itself is compared.
                mean, error, seeds = average(np.exp(deep.signal[:, -1]))
                seen, wider = Estimate(np.log(mean), error / mean, seeds), 0.0
            found += compare(group, what, closed + wider, seen, "formula")
            found += compare(group, f"{what}, jinit.theory", closed, exact, "formula", EXACT)
        group, off = "output of the framework's model beside jinit.forward's", deep.output_error
        same += compare(group, name, 0.0, off.max(skipna=False), "simulation", ROUNDING)
    return found + same


def notes(data: xr.Dataset) -> Iterator[Any]:
    """Layer by layer, what each framework draws; and what is left of a signal."""

    def cell(row: Any) -> str:
        whose = "all" if row.matches == ", ".join(COMPARED) else row.matches
        std = f"= {row['mean']:g}" if row.distribution == "constant" else f"{row['std']:.4f}"
        return f"{whose}\n{std}" + ("" if math.isnan(row.gain) else f", {row.gain:.3f}")

    rows = data[COLUMNS].to_dataframe()
    rows["text"] = rows.apply(cell, axis=1)
    for model, own in rows.groupby("model", sort=False):
        cells = own.drop_duplicates(["name", "of"]).pivot(index="name", columns="of", values="text")
        cells = cells.loc[own.name.drop_duplicates(), list(RULES)]
        yield table(f"{model}: default initialisations", ("", *cells), cells.itertuples())
    yield "In each cell the conventions it matches, then the std and gain = std sqrt(fan_in)."
    yield "Haiku's attention has no default: VarianceScaling() was given."


def figure(data: xr.Dataset) -> Figure:
    """Root mean squares against depth, up and down."""
    note = f"MLPs of {DEPTH} ReLU layers of {WIDTH} units from each framework's own dense layers, "
    note += f"{data.sizes['seed']} draws of each, ± tolerance; dashed: infinite width"
    title = "By default, 30 ReLU layers lose the gradient in every framework"
    fig, axes = panels(title, note, (14, 6.8), columns=2)
    for panel, what in zip(axes, ("signal", "gradient"), strict=True):
        for name, rule in RULES.items():
            seen = average(data[what].sel(framework=name)[:, rule.shown])
            root, allowed = np.exp(seen.mean / 2), seen.tolerance / 2
            law = np.exp(predict(rule)[what] / 2)
            panel.plot(data.layer, law, "--", color=rule.colour, linewidth=1.6)
            ends = np.stack([root * (1 - np.exp(-allowed)), root * (np.exp(allowed) - 1)])
            marks = {"color": rule.colour, "marker": rule.marker, "label": name}
            points(panel, seen.mean.layer, root, ends, errors=1, **marks)
    title, y = "Up, from an input of 1: Equinox keeps only its biases", "rms of the pre-activations"
    label(axes[0], title, "layer", y, "lower left", yscale="log")
    axes[0].text(DEPTH, 1.45 * math.sqrt(0.4 / WIDTH), "biases alone: √(0.4/n)", ha="right")
    title, y = "Down: squared, by 1/2, 0.387 and 1/6 per layer", "rms gradient by pre-activations"
    label(axes[1], title, "layer", y, yscale="log")
    return fig


EXPERIMENT = Experiment(
    __file__, __doc__, measure, figure=figure, notes=notes, needs=("flax", "equinox", "haiku"),
    checks=lambda data: compare_audits(data) + compare_signals(data),
    quick={"seeds": 16}, lacks="80 of 96 seeds",
)  # fmt: skip
EXPERIMENT.run(__name__)
