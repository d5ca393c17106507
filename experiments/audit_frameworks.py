"""What Flax, Equinox and Haiku draw by default, and what becomes of a signal through 30 layers.

The same MLP, CNN (with a grouped convolution) and small transformer are built in each framework as
its documentation would, and audited by `jinit.audit`: fans off the traced computation, numbers
beside the conventions. Then an MLP of 30 hidden ReLU layers of 256 units is built from each
framework's own dense layers, over many seeds, and signal and gradient are followed through it.

- Gains (std sqrt(fan_in)) are compared with the frameworks' own formulas: 1 (Flax, LeCun normal,
  truncated and corrected for it), 0.8796 (Haiku, truncated and not corrected), 1/sqrt(3) (Equinox,
  U(±1/sqrt(fan_in))); embeddings likewise. Five standard errors of a sample std.
- ReLU halves a second moment, so that each layer multiplies it by gain²/2: 1/2, 0.7737/2, 1/6, up
  and down. Mean over seeds of the logarithm, five standard errors (Student's t). What a width of
  256 takes from the mean of a logarithm is the law of `jinit.theory.finite_width`: it is exact for
  Gaussian weights, and to order 1/n for the others (relative: 1 % of a third at this depth).
- Equinox's biases are U(±1/sqrt(fan_in)) too. They hold the pre-activations at a second moment of
  0.4/n, whatever was put in; mean over seeds against q -> q/6 + 1/3n, which is exact at any width.
  Only the gradient shows that the input is lost.
- That the layers measured are the frameworks' own: their model's output beside `jinit.forward`'s,
  within the rounding of so many float32 products.

Sources: the frameworks' code; He et al. 2015 for the halving; Hanin 2018 for the width.
"""

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _common import (
    BLUE,
    EXACT,
    GREEN,
    ORANGE,
    POINTS,
    PURPLE,
    STANDARD_ERRORS,
    Check,
    arguments,
    average,
    console,
    errors_allowed,
    finish,
    progress,
    verdict,
    write_checks,
    write_csv,
)
from _frameworks import DEEP, DEPTH, DIMS, FEATURES, MODELS, WIDTH, Layers
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

import jinit

NAME = "audit_frameworks"
SEEDS, QUICK_SEEDS, SEEDS_PER_CALL = 96, 16, 8
COMPARED = ("torch", "keras", "flax", "haiku")
TRUNCATED_STD = 0.8796256610342398  # of N(0, 1) cut at two standard deviations
ROUNDING = 5 * (DEPTH + 1) * math.sqrt(WIDTH) * float(np.finfo(np.float32).eps)

# Of the models that are audited.
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


class Rule(NamedTuple):
    """A framework's default, by its own code."""

    convention: str
    gain: float
    kurtosis: float
    """of a weight"""
    bias_var: float
    """times fan_in"""
    embedding: float
    """std"""
    embedding_kurtosis: float
    colour: str
    marker: str
    every: int
    """of how many layers a point is drawn, from `first` on"""
    first: int


FLAX = Rule("flax", 1.0, 2.3656, 0.0, FEATURES**-0.5, 3.0, BLUE, "o", 4, 0)
RULES = {
    "Flax Linen": FLAX,
    "Flax NNX": FLAX._replace(colour=GREEN, marker="s", first=2),
    "Equinox": Rule("torch", 3**-0.5, 1.8, 1 / 3, 1.0, 3.0, PURPLE, "D", 2, 0),
    "Haiku": Rule(
        "haiku", TRUNCATED_STD, 2.3656, 0.0, TRUNCATED_STD, 2.3656, ORANGE, "^", 2, 0
    ),
}  # fmt: skip


class Deep(NamedTuple):
    """Signals of one framework: `[seeds, DEPTH]`, natural logarithms of second moments."""

    signal: np.ndarray
    """of the pre-activations, over that of the input"""
    gradient: np.ndarray
    """by the pre-activations, over that of the last layer"""
    output_error: float
    """of jinit.forward's output beside the framework's, relative, the largest of all seeds"""


def main() -> int:
    """Audit, measure, compare, write, and return the exit status."""
    missing = [n for n in ("flax", "equinox", "haiku") if importlib.util.find_spec(n) is None]
    if missing:
        sys.stderr.write(
            f"{NAME} needs {', '.join(missing)}: install the extra with "
            f"pip install 'jinit[models]'.\n"
        )
        return 2
    # The frameworks' own deprecations are not this script's.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    options = arguments(NAME, __doc__, quick=f"{QUICK_SEEDS} seeds instead of {SEEDS}")
    seeds = QUICK_SEEDS if options.quick else SEEDS
    with progress() as bar:
        task = bar.add_task("audits", total=len(MODELS))
        audits = {}
        for name, build in MODELS.items():
            audits[name] = {
                model: jinit.audit(b.apply, b.variables, *b.inputs, conventions=COMPARED)
                for model, b in build(jax.random.key(0)).items()
            }
            bar.advance(task)
        task = bar.add_task("networks", total=seeds * len(DEEP))
        measured = {
            name: measure(draw, seeds, lambda done: bar.advance(task, done))
            for name, draw in DEEP.items()
        }
    for model in LAYERS:
        console.print(table(model, audits))
    console.print(
        "In each cell the std, then gain = std sqrt(fan_in) and the conventions that it matches. "
        "Haiku's attention has no default: VarianceScaling() was given.\n"
    )
    console.print(signals(measured))
    checks = compare_audits(audits) + compare_signals(measured)
    write_data(options.out, audits, measured, checks)
    draw_figure(options.out / f"{NAME}.png", measured)
    status = verdict(checks)
    console.print(f"Figure and data are in {options.out}/.")
    return status


# --- thirty layers ------------------------------------------------------------------------------


def measure(draw: Callable[..., Any], seeds: int, advance: Callable[[int], None]) -> Deep:
    """Signal and gradient of one network per seed, each given one input from N(0, I)."""

    def drawn(key: jax.Array) -> tuple[Any, ...]:
        init_key, input_key, probe_key = jax.random.split(key, 3)
        x = jax.random.normal(input_key, (1, WIDTH))
        return *draw(init_key, x), x, probe_key

    some = jax.vmap(drawn)  # not jitted: layers of one shape are then compiled once
    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    parts = []
    for start in range(0, seeds, SEEDS_PER_CALL):
        parts.append(jax.device_get(follow(*some(keys[start : start + SEEDS_PER_CALL]))))
        advance(len(parts[-1][0]))
    signal, gradient, error = (
        np.concatenate(p).astype(np.float64) for p in zip(*parts, strict=True)
    )
    return Deep(signal, gradient, float(error.max()))


@jax.jit
@jax.vmap
def follow(layers: Layers, output: jax.Array, x: jax.Array, key: jax.Array) -> tuple[Any, ...]:
    """Of one network; compiled once for all frameworks."""
    net, own = jinit.MLP(DIMS, activation="relu"), [jinit.Layer(w, b) for w, b in layers]
    seen = jinit.layer_signals(net, own, None, x, key=key)
    again, _ = jinit.forward(net, own, None, x, train=True)
    signal = 2 * seen.log_pre[:DEPTH] - jnp.log(jnp.mean(x**2))
    gradient = 2 * (seen.log_grad[:DEPTH] - seen.log_grad[DEPTH - 1])
    return signal, gradient, jnp.linalg.norm(again - output) / jnp.linalg.norm(output)


# --- what is expected ---------------------------------------------------------------------------


class Expected(NamedTuple):
    """Of each layer, `[DEPTH]`, as in `Deep`."""

    signal: np.ndarray
    """log of the mean second moment, for an input of second moment 1"""
    gradient: np.ndarray
    signal_width: np.ndarray
    """what finite width adds to the mean of the log, without biases"""
    gradient_width: np.ndarray


def predict(rule: Rule) -> Expected:
    """Each layer's second moment is gain²/2 of the last one's, plus the biases' variance."""
    halved, bias_var = rule.gain**2 / 2, rule.bias_var / WIDTH
    q = [rule.gain**2 + bias_var]
    for _ in range(DEPTH - 1):
        q.append(halved * q[-1] + bias_var)
    passed = np.arange(DEPTH - 1, -1, -1)
    relu = jinit.theory.finite_width("relu", [WIDTH] * DEPTH, weight_var=2.0)
    linear = jinit.theory.finite_width("identity", [WIDTH], weight_var=1.0)
    return Expected(
        signal=np.log(q),
        gradient=passed * math.log(halved),
        # ReLU layers before it, and the product of its own weights.
        signal_width=np.concatenate([[0.0], relu.signal_mean[:-1]]) + linear.signal_mean[0],
        gradient_width=relu.gradient_mean,
    )


# --- comparing ----------------------------------------------------------------------------------


def aligned(model: str, audit: Any) -> dict[str, Any]:
    """The audit's rows by the names of layers, in call order."""
    found = {}
    for role, names in LAYERS[model].items():
        rows = [row for row in audit.rows if row.role == role]
        rows.sort(key=lambda row: row.order)
        found.update(zip(names, rows, strict=True))
    return found


def default(framework: str, layer: str) -> bool:
    """Whether the framework has a default for it: Haiku's attention asks for an initialiser."""
    return not (framework == "Haiku" and layer in ATTENTION)


def compare_audits(audits: dict[str, dict[str, Any]]) -> list[Check]:
    """Gains and embeddings beside the frameworks' formulas, and whose every weight is."""
    checks = []
    for model in LAYERS:
        for name, rule in RULES.items():
            rows = [
                row for layer, row in aligned(model, audits[name][model]).items()
                if row.role == "weight" and default(name, layer)
            ]  # fmt: skip
            sizes = np.array([math.prod(row.shape) for row in rows])
            second = np.array([row.std**2 * row.fan_in for row in rows]) @ sizes / sizes.sum()
            error = rule.gain * math.sqrt((rule.kurtosis - 1) / (4 * sizes.sum()))
            checks.append(
                Check(f"gain of the weights, {model}", name, rule.gain, math.sqrt(second),
                      STANDARD_ERRORS * error, "formula")
            )  # fmt: skip
            own = sum(rule.convention in row.matches for row in rows)
            checks.append(
                Check(f"share of weights that are their convention's, {model}", name, 1.0,
                      own / len(rows), 0.0, "claim")
            )  # fmt: skip
    for name, rule in RULES.items():
        row = aligned("transformer", audits[name]["transformer"])["embedding"]
        error = rule.embedding * math.sqrt(
            (rule.embedding_kurtosis - 1) / (4 * math.prod(row.shape))
        )
        checks.append(
            Check("std of the embedding", name, rule.embedding, row.std, STANDARD_ERRORS * error,
                  "formula")
        )  # fmt: skip
    return sorted(checks, key=lambda check: check.group)


def compare_signals(measured: dict[str, Deep]) -> list[Check]:
    """After 30 layers, up and down."""
    checks = []
    for name, deep in measured.items():
        expected, seeds = predict(RULES[name]), len(deep.signal)
        group = f"{name}: ln of second moments through {DEPTH} ReLU layers, {seeds} nets"
        if RULES[name].bias_var:
            # The biases' share does not scatter from layer to layer: the mean itself is compared.
            last = average(np.exp(deep.signal[:, -1]))
            value, tolerance = math.log(last.mean), float(last.tolerance / last.mean)
            wanted = expected.signal[-1]
        else:
            last = average(deep.signal[:, -1])
            value, tolerance = float(last.mean), float(last.tolerance)
            wanted = expected.signal[-1] + expected.signal_width[-1]
        checks.append(Check(group, "signal", float(wanted), value, tolerance, "formula"))
        first = average(deep.gradient[:, 0])
        wanted = expected.gradient[0] + expected.gradient_width[0]
        checks.append(
            Check(group, "gradient", float(wanted), float(first.mean), float(first.tolerance),
                  "formula")
        )  # fmt: skip
        theory = trajectory(RULES[name])
        for what, ours, theirs in (
            ("signal, jinit.theory", expected.signal[-1], theory[0][-1]),
            ("gradient, jinit.theory", expected.gradient[0], theory[1][0]),
        ):
            checks.append(Check(group, what, float(ours), float(theirs), EXACT, "formula"))
        checks.append(
            Check("output of the framework's model beside jinit.forward's", name, 0.0,
                  deep.output_error, ROUNDING, "simulation")
        )  # fmt: skip
    return sorted(checks, key=lambda check: check.group.startswith("output"))


def trajectory(rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """ln of the second moments at infinite width by jinit.theory, as in `Deep`."""
    found = jinit.theory.trajectory(
        "relu", depth=DEPTH, weight_var=rule.gain**2, bias_var=rule.bias_var / WIDTH,
        input_second_moment=1.0,
    )  # fmt: skip
    return np.log(found.q), 2 * (found.log_grad - found.log_grad[-1])


# --- printing -----------------------------------------------------------------------------------


def table(model: str, audits: dict[str, dict[str, Any]]) -> Table:
    """Layer by layer, what each framework draws."""
    found = Table(
        title=f"{model}: default initialisations", title_justify="left", title_style="bold",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    found.add_column("layer")
    found.add_column("fan_in", justify="right")
    for name in RULES:
        found.add_column(name.removeprefix("Flax "))
    found.add_column("differ")
    layers = {name: aligned(model, audits[name][model]) for name in RULES}
    for layer, first in layers["Flax Linen"].items():
        rows = [layers[name][layer] for name in RULES]
        differ = len({row.matches for row in rows}) > 1
        fan_in = "" if first.fan_in is None else str(first.fan_in)
        found.add_row(layer, fan_in, *map(cell, rows), "yes" if differ else "")
    biases = [[r for r in audits[name][model].rows if r.role == "bias"] for name in RULES]
    cells = [", ".join(sorted({kind(row) for row in rows})) for rows in biases]
    found.add_row("biases", "", *cells, "yes" if len(set(cells)) > 1 else "")
    return found


def cell(row: Any) -> str:
    """Std, gain, and whose it is."""
    if row.distribution == "constant":
        return f"= {row.mean:g}\n{short(row.matches)}"
    gain = "" if math.isnan(row.gain) else f"{row.gain:.3f} "
    return f"{row.std:.4f}\n{gain}{short(row.matches)}"


def short(matches: Sequence[str]) -> str:
    """The conventions matched."""
    return "all" if tuple(matches) == COMPARED else ", ".join(matches)


def kind(row: Any) -> str:
    """What a bias is: all zeros, or drawn."""
    return "0" if row.std == 0 and row.mean == 0 else "torch's" if "torch" in row.matches else "?"


def signals(measured: dict[str, Deep]) -> Table:
    """What a layer does to a second moment, and what is left after all."""
    found = Table(
        title=f"ReLU MLP of {DEPTH} layers of {WIDTH} units by defaults", title_justify="left",
        title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    found.add_column("")
    for column in (
        "gradient² per\nlayer, gain²/2", "\nmeasured", "rms of the last\npre-activations",
        "rms gradient,\nfirst / last",
    ):  # fmt: skip
        found.add_column(column, justify="right")
    for name, deep in measured.items():
        slope = deep.gradient[:, 0].mean() / (DEPTH - 1)
        found.add_row(
            name, f"{RULES[name].gain ** 2 / 2:.4f}", f"{math.exp(slope):.4f}",
            f"{math.exp(deep.signal[:, -1].mean() / 2):.2e}",
            f"{math.exp(deep.gradient[:, 0].mean() / 2):.2e}",
        )  # fmt: skip
    return found


# --- writing ------------------------------------------------------------------------------------


def write_data(
    out: Path, audits: dict[str, dict[str, Any]], measured: dict[str, Deep], checks: list[Check]
) -> None:
    """The table, every parameter of every model, and the logarithms of every net."""
    write_checks(out / "published_measured.csv", checks)
    write_csv(
        out / "parameters.csv",
        (
            "model", "framework", "path", "shape", "role", "fan_in", "fan_out", "groups", "mean",
            "std", "gain", "distribution", "matches",
        ),
        (
            (
                model, name, row.path, "x".join(map(str, row.shape)), row.role, row.fan_in,
                row.fan_out, row.groups, row.mean, row.std, row.gain, row.distribution,
                " ".join(row.matches),
            )
            for model in LAYERS
            for name in RULES
            for row in audits[name][model].rows
        ),
    )  # fmt: skip
    write_csv(
        out / "layers.csv",
        (
            "framework", "layer", "log_signal", "log_signal_error", "log_signal_infinite_width",
            "log_gradient", "log_gradient_error", "log_gradient_infinite_width",
        ),
        (
            (
                name, layer + 1,
                *(float(each) for each in (
                    signal.mean[layer], signal.error[layer], expected.signal[layer],
                    gradient.mean[layer], gradient.error[layer], expected.gradient[layer],
                )),
            )
            for name, deep in measured.items()
            for signal, gradient, expected in [
                (average(deep.signal), average(deep.gradient), predict(RULES[name]))
            ]
            for layer in range(DEPTH)
        ),
    )  # fmt: skip
    write_csv(
        out / "networks.csv",
        ("framework", "seed", "log_signal", "log_gradient"),
        (
            (name, seed, float(deep.signal[seed, -1]), float(deep.gradient[seed, 0]))
            for name, deep in measured.items()
            for seed in range(len(deep.signal))
        ),
    )


def draw_figure(path: Path, measured: dict[str, Deep]) -> None:
    """Root mean squares against depth, up and down."""
    figure = Figure(figsize=(14, 6.8))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.985, top=0.79, bottom=0.1, wspace=0.19)
    figure.suptitle(
        "By default, 30 ReLU layers lose the gradient in every framework",
        fontsize=19, fontweight="bold", x=0.07, y=0.975, ha="left",
    )  # fmt: skip
    seeds = len(next(iter(measured.values())).signal)
    figure.text(
        0.07, 0.885, f"MLPs of {DEPTH} hidden layers of {WIDTH} units from each framework's own "
        f"dense layers, {seeds} draws of each; dashed: infinite width", fontsize=12.5,
        color="0.3", va="center",
    )  # fmt: skip
    layers = np.arange(1, DEPTH + 1)
    for axes, what in ((left, "signal"), (right, "gradient")):
        for name, deep in measured.items():
            rule = RULES[name]
            found = average(getattr(deep, what))
            root = np.exp(found.mean / 2)
            allowed = errors_allowed(found.seeds) * found.error / 2
            shown = np.arange(rule.first, DEPTH, rule.every)
            if name != "Flax NNX":
                axes.plot(
                    layers, np.exp(getattr(predict(rule), what) / 2), color=rule.colour,
                    linestyle="--", linewidth=1.6,
                )  # fmt: skip
            axes.errorbar(
                layers[shown], root[shown],
                yerr=root[shown] * np.array([1 - np.exp(-allowed), np.exp(allowed) - 1])[:, shown],
                color=rule.colour, marker=rule.marker,
                label=name + (" (Linen's rule: points in turn)" if name == "Flax NNX" else ""),
                **POINTS | {"markersize": 7},
            )  # fmt: skip
        axes.set(yscale="log", xlim=(0, DEPTH + 1), xlabel="layer")
        finish(axes, grid=True)
    left.set_ylabel("rms of the pre-activations")
    right.set_ylabel("rms gradient by the pre-activations")
    for axes, title in (
        (left, "Up, from an input of 1: Equinox keeps only its biases"),
        (right, "Down: squared, by 1/2, 0.387 and 1/6 per layer"),
    ):
        axes.set_title(title, loc="left", fontsize=14, fontweight="bold")
    floor = math.sqrt(0.4 / WIDTH)
    left.text(
        DEPTH + 0.5, 1.45 * floor, "biases alone: √(0.4/n)", ha="right", va="bottom", fontsize=11,
        color=PURPLE,
    )  # fmt: skip
    left.legend(loc="lower left", fontsize=11, title="± tolerance (5 standard errors)")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
