"""All you need is a good init (Mishkin & Matas 2016): layers scaled by data to unit variance.

LSUV draws orthogonal weights and scales them, layer after layer, until what comes out of each has
variance 1 over a batch. Compared are

- the variance of every layer of networks of 30 layers, plain and residual, with the paper's
  tolerance Tol_var = 0.1; and with 1 itself, since a layer is linear in its weights, so that one
  pass is exact but for rounding: depth x width units in the last place of float32, the worst case
  of the sums in the layers before. The variance is computed here, layer by layer, apart from the
  library's own pass;
- the factor that LSUV finds, the root-mean-square weight times sqrt(fan_in), with the gain of
  theory, 1/sqrt(E phi(z)^2): He's sqrt(2) for ReLU, although LSUV knows of no activation. Inputs
  are Gaussian and equally long. An orthogonal matrix keeps lengths, so that 1 = g^2 mean(phi^2) -
  mean(z)^2 holds exactly. At finite width mean(phi^2) is over units that are not independent
  draws, and the squared mean is about g^2 |batch mean of phi|^2 / width^2: both go as 1/width, and
  a width and its double are extrapolated. What is allowed is Student's t of the scatter over
  seeds. For GELU and SiLU samples do not stay equally long (`jinit.theory.chi(...).parallel`
  above 1): the deviation grows with depth as well as with 1/width, and the layers measured are
  therefore ten;
- which networks of 17 layers, the depth of the paper's FitNet-4, train under five schemes.

The paper trains convolutional nets on CIFAR-10 (SGD, learning rate 0.01, momentum 0.9, batches of
128, as here). These are fully connected nets of width 64 on embedded digits of 8 x 8 pixels: no
accuracy can be compared, and none of the paper's is repeated. Maxout, the paper's fifth
activation, is not elementwise and left out. VLReLU is the paper's leaky ReLU of slope 0.333.
Claims are

- with LSUV nets of ReLU, VLReLU and tanh learn (the median over seeds is above 0.9);
- its accuracy is "better or equal to standard methods" (abstract): the median is not below the
  best other scheme's by more than five standard errors of the difference. This holds for ReLU and
  VLReLU. It does not hold for tanh, where orthogonal weights of gain 1 end two to three points
  higher: LSUV's gain of 1.59 is in the chaotic phase. That row is no check, and the run says so;
- sigmoid nets stay at chance under every scheme: 0.1, within five standard errors of a share of
  360 test samples. Why, theory says: after LSUV the squared gradient falls to 0.153 in every
  layer, to 1e-14 in 17.

At 30 layers, deeper than the paper's table, accuracies are drawn and noted, but not checked:
VLReLU trains under LSUV alone; of the ReLU nets of this width most do not train even so.

Source: Mishkin & Matas 2016, "All you need is a good init", arXiv 1511.06422.
"""

import math
import sys
from collections.abc import Callable
from functools import cache, partial
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
    POINTS,
    PURPLE,
    STANDARD_ERRORS,
    Check,
    Estimate,
    arguments,
    average,
    console,
    extrapolate,
    finish,
    printed,
    progress,
    verdict,
    write_checks,
    write_csv,
)
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

import jinit

NAME = "lsuv"
TOLERANCE = 0.1  # the paper's Tol_var
BATCH, CLASSES = 256, 10  # of digits, by which layers are scaled
DEEP, WIDE = 30, 128  # networks whose variances are measured
LAYERS, NARROW = 10, 128  # networks whose gains are measured, at this width and its double
FITNET, DEEPER, TRAINED = 17, 30, 64  # hidden layers and width of networks that train
STEPS, LEARNING_RATE, MOMENTUM, MINIBATCH = 300, 0.01, 0.9, 128
LEARNS = 0.9
OPTIONS = {"orthogonal": {}, "xavier": {}, "he": {}, "glorot_uniform": {}}
SCHEMES = ("lsuv", *OPTIONS)


def _vlrelu(x: jax.Array) -> jax.Array:
    """The paper's very leaky ReLU."""
    return jax.nn.leaky_relu(x, 0.333)


ACTIVATIONS: dict[str, Any] = {
    name: name for name in ("relu", "leaky_relu", "tanh", "elu", "gelu", "silu", "sigmoid")
} | {"vlrelu": _vlrelu}
LABELS = {
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "vlrelu": "VLReLU",
    "tanh": "tanh",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "sigmoid": "sigmoid",
}
COLOURS = {
    "relu": GREEN, "leaky_relu": "0.6", "tanh": ORANGE, "elu": BLUE, "gelu": "#E69F00",
    "silu": PURPLE,
}  # fmt: skip
PUBLISHED = {
    "relu": "1.414214",
    "tanh": "1.592537",
    "sigmoid": "1.846229",
    "silu": "1.676532",
    "gelu": "1.533530",
    "elu": "1.245198",
}
LEARNED = ("relu", "vlrelu", "tanh")  # with LSUV, by the paper
CLAIMED = ("relu", "vlrelu")  # and as accurate as under the best other scheme


class Setting(NamedTuple):
    """Which networks, and how many of each."""

    plain: tuple[str, ...]
    residual: tuple[str, ...]
    nets: int
    gains: tuple[str, ...]
    gain_seeds: int
    trained: dict[int, tuple[str, ...]]
    """activations by depth"""
    seeds: int


SIX = ("relu", "leaky_relu", "tanh", "elu", "gelu", "silu")
FULL = Setting(
    SIX, SIX, 8, ("relu", "vlrelu", "tanh", "elu", "gelu", "silu", "sigmoid"), 48,
    {FITNET: ("relu", "vlrelu", "tanh", "sigmoid"), DEEPER: ("relu", "vlrelu", "tanh")}, 6,
)  # fmt: skip
QUICK = Setting(("relu",), ("tanh",), 2, ("tanh",), 16, {FITNET: ("vlrelu",)}, 3)


class Variances(NamedTuple):
    """What comes out of the layers of some networks, `[networks, layers]`."""

    activation: str
    residual: str | None
    before: np.ndarray
    """of the orthogonal start"""
    after: np.ndarray
    """of LSUV, on the batch that it scaled by"""
    unseen: np.ndarray
    """the same on other digits"""


class Gain(NamedTuple):
    """The factor found, relative to 1, and at both widths."""

    activation: str
    narrow: Estimate
    wide: Estimate

    @property
    def measured(self) -> Estimate:
        """At infinite width."""
        return extrapolate(self.narrow, self.wide)


class Trained(NamedTuple):
    """Test accuracies `[schemes, seeds]`."""

    activation: str
    depth: int
    accuracy: np.ndarray


def main() -> int:
    """Measure, compare, write, and return the exit status."""
    options = arguments(
        NAME,
        __doc__,
        quick=f"one plain and one residual network of {DEEP} layers, the gain of tanh, and "
        f"{QUICK.seeds} VLReLU nets of {FITNET} layers for each scheme",
    )
    setting = QUICK if options.quick else FULL
    digits = jinit.data.digits()
    # Threads of LAPACK wait for each other by spinning: where cores are busy with other programs, a
    # QR decomposition of small matrices takes a hundred times as long with two as with one.
    with progress() as bar, threadpool_limits(1, user_api="blas"):
        configurations = (
            len(setting.plain) + len(setting.residual) + 2 * len(setting.gains)
            + sum(map(len, setting.trained.values()))
        )  # fmt: skip
        task = bar.add_task("programs", total=configurations)
        advance = partial(bar.advance, task)
        variances = measure_variances(setting, digits, advance)
        gains = measure_gains(setting, advance)
        trained = train(setting, digits, advance)
    checks = [
        *compare_variances(variances),
        *compare_with_print(),
        *compare_gains(gains),
        *compare_training(trained),
    ]
    write_data(options.out, variances, gains, trained, checks)
    draw(options.out / f"{NAME}.png", variances, gains, trained)
    left_out = []
    if options.quick:
        left_out = ["the other activations; what sigmoid nets do; nets deeper than the paper's."]
    status = verdict(checks, left_out=left_out)
    notes(variances, gains, trained)
    console.print(f"Figure and data are in {options.out}/.")
    return status


# --- measuring ----------------------------------------------------------------------------------


def apply_of(net: jinit.MLP) -> Callable[[Any, Any], jax.Array]:
    """The network as a function of its parameters and a batch."""
    return lambda params, x: jinit.forward(net, params, None, x, train=True)[0]


def keys_of(seeds: int) -> jax.Array:
    """One key a seed."""
    return jax.vmap(jax.random.key)(jnp.arange(seeds))


def scaled(key: jax.Array, net: jinit.MLP, x: jax.Array) -> jinit.Params:
    """The network's parameters by LSUV on that batch."""
    # LSUV redraws them; these only say of what shape they are.
    params, _ = jinit.init(key, net, "xavier")
    return jinit.models.lsuv(key, apply_of(net), params, x)


def measure_variances(
    setting: Setting, digits: jinit.Data, advance: Callable[[], None]
) -> list[Variances]:
    """Variances before and after, on the batch LSUV has seen and on as many test digits."""
    dims = (64,) + (WIDE,) * DEEP + (CLASSES,)
    batch, others = jnp.asarray(digits.x_train[:BATCH]), jnp.asarray(digits.x_test[:BATCH])
    keys = keys_of(setting.nets)
    # A program of its own: two batched QR decompositions side by side may hang (docs/troubles.md).
    start = jax.jit(jax.vmap(lambda key: jinit.init(key, jinit.MLP(dims), "orthogonal")[0]))(keys)
    found = []
    for residual, names in ((None, setting.plain), ("plain", setting.residual)):
        for name in names:
            net = jinit.MLP(dims, activation=ACTIVATIONS[name], residual=residual)
            after = jax.jit(jax.vmap(lambda key, net=net: scaled(key, net, batch)))(keys)

            @jax.jit
            @partial(jax.vmap, in_axes=(0, None))
            def spread(params: jinit.Params, x: jax.Array, net=net) -> jax.Array:
                return layer_variances(net, params, x)

            measured = (spread(start, batch), spread(after, batch), spread(after, others))
            found.append(Variances(name, residual, *(np.asarray(m, np.float64) for m in measured)))
            advance()
    return found


def layer_variances(net: jinit.MLP, params: jinit.Params, x: jax.Array) -> jax.Array:
    """Of what comes out of every weight matrix, over batch and units: `[layers]`."""
    phi = jinit.activations.activation(net.activation)
    first, hidden, readout = (run.w for run in params.runs)

    def layer(h: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = (phi(h) if net.residual else h) @ w
        return h + z if net.residual else phi(z), z.var()

    z = x @ first[0]
    h, inner = jax.lax.scan(layer, phi(z), hidden)
    return jnp.concatenate([z.var()[None], inner, (h @ readout[0]).var()[None]])


def measure_gains(setting: Setting, advance: Callable[[], None]) -> list[Gain]:
    """Root-mean-square weight times sqrt(fan_in), the mean over all layers but the first."""

    def at(name: str, width: int) -> Estimate:
        net = jinit.MLP((width,) * (LAYERS + 1), activation=ACTIVATIONS[name], bias=False)

        @jax.jit
        @jax.vmap
        def found(key: jax.Array) -> jax.Array:
            data_key, init_key = jax.random.split(key)
            x = jax.random.normal(data_key, (MINIBATCH, width))
            x = x / jnp.sqrt(jnp.square(x).mean(axis=1, keepdims=True))
            params = scaled(init_key, net, x)
            return jnp.stack([jnp.sqrt(width * jnp.square(layer.w).mean()) for layer in params])

        # Widths of their own draws, so that errors add as squares.
        keys = jax.vmap(partial(jax.random.fold_in, data=width))(keys_of(setting.gain_seeds))
        gains = np.asarray(found(keys), np.float64)
        advance()
        return average(gains[:, 1:].mean(axis=1))

    return [Gain(name, at(name, NARROW), at(name, 2 * NARROW)) for name in setting.gains]


def train(setting: Setting, digits: jinit.Data, advance: Callable[[], None]) -> list[Trained]:
    """Test accuracy after SGD with momentum, the same minibatches for all schemes."""
    batch = jnp.asarray(digits.x_train[:BATCH])
    keys = keys_of(setting.seeds)
    found = []
    for depth, names in setting.trained.items():
        dims = (64,) + (TRAINED,) * depth + (CLASSES,)
        others = [
            jax.jit(jax.vmap(lambda k, s=s, dims=dims: jinit.init(k, jinit.MLP(dims), s)[0]))(keys)
            for s in OPTIONS
        ]
        for name in names:
            net = jinit.MLP(dims, activation=ACTIVATIONS[name])
            own = jax.jit(jax.vmap(lambda key, net=net: scaled(key, net, batch)))(keys)
            starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), own, *others)

            @jax.jit
            @partial(jax.vmap, in_axes=(None, 0))
            @jax.vmap
            def accuracy(key: jax.Array, params: jinit.Params, net=net) -> jax.Array:
                return jinit.train(
                    key, net, params, None, digits, steps=STEPS, batch_size=MINIBATCH,
                    optimizer=optax.sgd(LEARNING_RATE, momentum=MOMENTUM),
                ).accuracy  # fmt: skip

            found.append(Trained(name, depth, np.asarray(accuracy(keys, starts), np.float64)))
            advance()
    return found


# --- comparing ----------------------------------------------------------------------------------


@cache
def gain(name: str) -> float:
    """What theory says LSUV finds."""
    return jinit.gain(ACTIVATIONS[name])


def kind(residual: str | None) -> str:
    """Of networks."""
    return "plain" if residual is None else "residual"


def compare_variances(variances: list[Variances]) -> list[Check]:
    """The variance furthest from 1, within the paper's tolerance and within rounding."""
    checks = []
    rounding = DEEP * WIDE * float(np.finfo(np.float32).eps)
    for source, tolerance, group in (
        ("paper", TOLERANCE, f"the layer furthest from variance 1 of {DEEP}: Tol_var of the paper"),
        ("formula", rounding, "the same: one pass is exact but for rounding"),
    ):
        for v in variances:
            furthest = float(v.after.flat[np.abs(v.after - 1).argmax()])
            what = f"{LABELS[v.activation]}, {kind(v.residual)}"
            checks.append(Check(group, what, 1.0, furthest, tolerance, source))
    return checks


def compare_with_print() -> list[Check]:
    """Theory's gains beside digits, and beside He's closed form for leaky ReLU."""
    group = "1/sqrt(E phi(z)^2), jinit.gain"
    checks = [printed(group, LABELS[name], text, gain(name)) for name, text in PUBLISHED.items()]
    closed = math.sqrt(2 / (1 + 0.333**2))
    checks.append(Check(group, LABELS["vlrelu"], closed, gain("vlrelu"), 1e-6, "formula"))
    return checks


def compare_gains(gains: list[Gain]) -> list[Check]:
    """The factors found beside theory's."""
    group = f"factor that LSUV finds, widths {NARROW} and {2 * NARROW} extrapolated, and theory's"
    return [
        Check(
            group, LABELS[g.activation], gain(g.activation), float(g.measured.mean),
            float(g.measured.tolerance), "theory",
        )
        for g in gains
    ]  # fmt: skip


def medians(t: Trained) -> dict[str, float]:
    """Scheme -> median accuracy."""
    return dict(zip(SCHEMES, np.median(t.accuracy, axis=1).tolist(), strict=True))


def shortfall(t: Trained) -> tuple[str, float, float]:
    """The best other scheme, by how much LSUV's median is below it (0 if it is not), and allowed.

    Allowed are five standard errors of a difference of medians: sqrt(pi/2) those of means.
    """
    middle = medians(t)
    best = max(OPTIONS, key=lambda scheme: middle[scheme])
    rows = t.accuracy[[0, SCHEMES.index(best)]]
    error = math.sqrt(math.pi / 2 * rows.var(axis=1, ddof=1).sum() / rows.shape[1])
    return best, max(0.0, middle[best] - middle["lsuv"]), STANDARD_ERRORS * error


def compare_training(trained: list[Trained]) -> list[Check]:
    """The paper's claims, at its depth."""
    here = {t.activation: t for t in trained if t.depth == FITNET}
    group = f"{FITNET} layers, LSUV: the median accuracy is above {LEARNS} (1: yes)"
    checks = [
        Check(group, LABELS[name], 1.0, float(medians(t)["lsuv"] > LEARNS), 0.0, "claim")
        for name, t in here.items()
        if name in LEARNED
    ]
    group = f"{FITNET} layers: how far LSUV's median accuracy is below the best other scheme's"
    for name in CLAIMED:
        if name in here:
            best, short, allowed = shortfall(here[name])
            checks.append(Check(group, f"{LABELS[name]} ({best})", 0.0, short, allowed, "claim"))
    if "sigmoid" in here:
        group = f"{FITNET} layers of sigmoid units: chance, under every scheme"
        chance = 1 / CLASSES
        allowed = STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / 360)
        checks += [
            Check(group, scheme, chance, float(accuracy.max()), allowed, "claim")
            for scheme, accuracy in zip(SCHEMES, here["sigmoid"].accuracy, strict=True)
        ]
    return checks


def notes(variances: list[Variances], gains: list[Gain], trained: list[Trained]) -> None:
    """What the table does not say."""
    furthest = max(variances, key=lambda v: np.abs(v.unseen - 1).max())
    console.print(
        f"On digits that LSUV has not seen the variance is off by up to "
        f"{np.abs(furthest.unseen - 1).max():.2f} ({LABELS[furthest.activation]}, "
        f"{kind(furthest.residual)}; not a check)."
    )
    for name in ("gelu", "silu"):
        if any(g.activation == name for g in gains):
            console.print(
                f"{LABELS[name]}: a sample's departure in squared length grows by "
                f"{chi(name).parallel:.3f} per layer."
            )
    for t in trained:
        if t.depth == FITNET:
            console.print(
                f"{LABELS[t.activation]}: after LSUV theory's squared gradient grows by "
                f"{chi(t.activation).perpendicular:.3f} per layer."
            )
        if t.depth == FITNET and t.activation == "tanh":
            best, short, allowed = shortfall(t)
            if short > allowed:
                console.print(
                    f"Not confirmed: tanh, {t.depth} layers, LSUV better or equal: its median is "
                    f"{short:.3f} below that of {best}, five standard errors are {allowed:.3f}."
                )
        if t.depth == DEEPER:
            shares = (t.accuracy > LEARNS).sum(axis=1)
            counts = ", ".join(f"{s} {n}" for s, n in zip(SCHEMES, shares, strict=True))
            console.print(
                f"{LABELS[t.activation]}, {t.depth} layers: above {LEARNS} of "
                f"{t.accuracy.shape[1]} nets: {counts} (not a check)."
            )


@cache
def chi(name: str) -> Any:
    """Susceptibilities where LSUV puts a network: q = 1 and theory's gain."""
    return jinit.theory.chi(ACTIVATIONS[name], 1.0, weight_var=gain(name) ** 2)


# --- writing ------------------------------------------------------------------------------------


def write_data(
    out: Path,
    variances: list[Variances],
    gains: list[Gain],
    trained: list[Trained],
    checks: list[Check],
) -> None:
    """The table, variances by layer, gains and accuracies."""
    write_checks(out / "published_measured.csv", checks)
    write_csv(
        out / "variances.csv",
        ("activation", "residual", "network", "layer", "orthogonal", "lsuv", "lsuv_unseen_digits"),
        (
            (v.activation, kind(v.residual), net, layer + 1,
             *(float(x[net, layer]) for x in (v.before, v.after, v.unseen)))
            for v in variances
            for net, layer in np.ndindex(*v.after.shape)
        ),
    )  # fmt: skip
    write_csv(
        out / "gains.csv",
        ("activation", "theory", "measured", "standard_error", "tolerance", f"width_{NARROW}",
         f"width_{2 * NARROW}"),
        (
            (g.activation, *(float(x) for x in (
                gain(g.activation), *g.measured[:2], g.measured.tolerance, g.narrow.mean,
                g.wide.mean,
            )))
            for g in gains
        ),
    )  # fmt: skip
    write_csv(
        out / "accuracies.csv",
        ("activation", "depth", "scheme", "seed", "accuracy"),
        (
            (t.activation, t.depth, SCHEMES[scheme], seed, float(t.accuracy[scheme, seed]))
            for t in trained
            for scheme, seed in np.ndindex(*t.accuracy.shape)
        ),
    )


# --- the figure ---------------------------------------------------------------------------------


def draw(path: Path, variances: list[Variances], gains: list[Gain], trained: list[Trained]) -> None:
    """Variances before and after; gains against theory's; accuracies of schemes."""
    figure = Figure(figsize=(19, 6.4), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=[1.1, 1, 1.25])
    figure.suptitle(
        "LSUV: orthogonal weights, scaled layer by layer to unit variance",
        fontsize=17, fontweight="bold",
    )  # fmt: skip
    _draw_variances(panels[0], variances)
    _draw_gains(panels[1], gains)
    _draw_accuracies(figure, panels[2], trained)
    for axes in panels[:2]:
        finish(axes, grid=True)
    figure.savefig(path, dpi=150)


def _title(axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=14, fontweight="bold")


def _draw_variances(axes, variances: list[Variances]) -> None:
    layers = np.arange(1, DEEP + 2)
    for v in variances:
        style: dict[str, Any] = {
            "color": COLOURS[v.activation],
            "linestyle": "--" if v.residual else "-",
        }
        # Leaky ReLU of slope 0.01 lies on it.
        style["linewidth"] = 4.5 if v.activation == "relu" else 1.6
        label = None if v.residual and len(variances) > 2 else LABELS[v.activation]
        axes.plot(layers, np.exp(np.log(v.before).mean(axis=0)), **style, label=label)
        axes.plot(layers, v.after.mean(axis=0), **style, marker=".", markersize=6)
    axes.plot([], [], color="black", linestyle="--", label="with residual connections")
    axes.plot([], [], color="black", marker=".", label="after LSUV: all on 1")
    axes.set(yscale="log", xlabel="layer", ylabel="variance of what comes out")
    axes.legend(fontsize=10.5, loc="lower left")
    _title(axes, f"Variance by layer, {DEEP} hidden layers")


def _draw_gains(axes, gains: list[Gain]) -> None:
    theory = [gain(g.activation) for g in gains]
    low, high = min(theory) - 0.08, max(theory) + 0.12
    axes.plot([low, high], [low, high], color="0.25", linewidth=1.6, label="equal")
    for g, expected in zip(gains, theory, strict=True):
        # Neighbours on the line take turns.
        above = sorted(theory).index(expected) % 2 == 0
        axes.annotate(
            LABELS[g.activation], (expected, float(g.measured.mean)),
            xytext=(-9, 9) if above else (10, -10), textcoords="offset points", fontsize=11.5,
            ha="right" if above else "left", va="bottom" if above else "top",
        )  # fmt: skip
    axes.errorbar(
        theory, [g.measured.mean for g in gains], yerr=[g.measured.tolerance for g in gains],
        color=BLUE, marker="o", label="LSUV, infinite width, ± what is allowed", **POINTS,
    )  # fmt: skip
    axes.set(
        xlim=(low, high), ylim=(low, high), xlabel="theory, $1/\\sqrt{E\\,\\phi(z)^2}$",
        ylabel="found, $\\sqrt{\\mathrm{fan\\ in}}\\times$ weight std",
    )  # fmt: skip
    axes.legend(fontsize=10.5, loc="lower right")
    _title(axes, "LSUV finds theory's gain")


def _draw_accuracies(figure, axes, trained: list[Trained]) -> None:
    middle = np.array([list(medians(t).values()) for t in trained])
    mesh = axes.imshow(middle, cmap="magma", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*middle.shape):
        value = middle[row, column]
        axes.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=13,
            color="black" if value > 0.6 else "white",
        )  # fmt: skip
    names = {"lsuv": "LSUV", "he": "He", "xavier": "Xavier", "glorot_uniform": "Glorot\nuniform"}
    axes.set_xticks(range(len(SCHEMES)), [names.get(s, s) for s in SCHEMES], fontsize=11.5)
    axes.set_yticks(
        range(len(trained)), [f"{LABELS[t.activation]}, {t.depth}" for t in trained], fontsize=11.5
    )
    axes.tick_params(length=0)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.05)
    bar.set_ticks([0, 1 / CLASSES, 0.5, 1], labels=["0", "chance", "0.5", "1"])
    _title(axes, f"Median accuracy on digits, {STEPS} steps")


if __name__ == "__main__":
    sys.exit(main())
