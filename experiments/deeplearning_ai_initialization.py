"""The "Initialization" assignment of deeplearning.ai: zeros, times 10 and He on two circles.

A ReLU net of widths 2-10-5-1 with a sigmoid output learns 300 points on two noisy circles by 15000
steps of full-batch gradient descent. Its weights are `randn(n_l, n_{l-1})`, drawn layer after
layer from NumPy's legacy generator under seed 3, times 0, 10 or sqrt(2 / n_{l-1}). These are the
assignment's own draws, so its own digits must come out: the accuracies to the sample, and the
costs that the notebook prints for He to ten decimals.

Arithmetic is float64, as NumPy's was. On a processor float32 ends in the same accuracies, but an
accelerator may round its float32 products to fewer bits.

Source: Ng, Katanforoosh & Mourri, "Improving Deep Neural Networks", week 1 (deeplearning.ai 2017).
The costs are those in the notebook's published output.
"""

import math
import sys
from pathlib import Path

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
    console,
    finish,
    progress,
    verdict,
    write_checks,
    write_csv,
)
from matplotlib.figure import Figure
from sklearn.datasets import make_circles

import jinit

NAME = "deeplearning_ai_initialization"
NET = jinit.MLP((2, 10, 5, 1), activation="relu")
STEPS, QUICK_STEPS, LEARNING_RATE = 15000, 2000, 0.01
TRAIN, TEST = 300, 100
REACH = 1.4  # half the side of the square on which decisions are drawn
GRID = 121

FACTORS = {
    "zeros": lambda fan_in: 0.0,
    "times 10": lambda fan_in: 10.0,
    "He": lambda fan_in: math.sqrt(2 / fan_in),
}
COLOURS = {"zeros": "0.35", "times 10": PURPLE, "He": GREEN}

# Training and test accuracy after 15000 steps.
ACCURACY = {"zeros": (0.5, 0.5), "times 10": (0.83, 0.86), "He": (298 / 300, 0.96)}

# Printed before steps 0, 1000, ..., 14000. Copies of the notebook differ by 1e-15 at most, for He;
# the costs they print for times 10 differ in the third digit, so none of those is checked here.
HE_COSTS = [
    0.88305374634197,
    0.68798259197280,
    0.67512862645233,
    0.65261177688938,
    0.60829589705729,
    0.53049444917175,
    0.41386458170718,
    0.31178034648444,
    0.23696215330322,
    0.18597287209207,
    0.15015556280372,
    0.12325079292274,
    0.09917746546526,
    0.08457055954024,
    0.07357895962677,
]

# What sums in another order may do to a cost in float64: 15000 steps that each round by 1e-16 and
# are magnified a little on the way. On CPU jax agrees with the notebook to 1e-14.
ROUNDING = 1e-10


def main() -> int:
    """Train, compare, write, and return the exit status."""
    options = arguments(NAME, __doc__, quick=f"{QUICK_STEPS} steps instead of {STEPS}")
    steps = QUICK_STEPS if options.quick else STEPS
    console.print(f"{steps} steps of full-batch gradient descent at learning rate {LEARNING_RATE}.")
    data = circles()
    with jax.enable_x64(True):
        results = train(data, steps)
        accuracies = {
            name: (accuracy(result, data.x_train, data.y_train), float(result.accuracy))
            for name, result in results.items()
        }
        logits = {name: outputs(result, square()) for name, result in results.items()}
    costs = {name: np.asarray(result.history.loss) for name, result in results.items()}
    checks, left_out = compare(costs, accuracies, steps)
    write_data(options.out, data, costs, logits, checks)
    draw(options.out / f"{NAME}.png", data, costs, accuracies, logits)
    status = verdict(checks, left_out=left_out)
    console.print(f"Figure and data are in {options.out}/.")
    return status


# --- the assignment ---------------------------------------------------------------------------


def circles() -> jinit.Data:
    """The points of the assignment: `np.random.seed(1)` and `(2)` before each draw."""
    train = make_circles(n_samples=TRAIN, noise=0.05, random_state=1)
    test = make_circles(n_samples=TEST, noise=0.05, random_state=2)
    return jinit.Data(*train, *test)


def parameters(name: str) -> list[jinit.Layer]:
    """The assignment's weights; it multiplies by W from the left, jinit by w from the right."""
    generator = np.random.RandomState(3)
    return [
        jinit.Layer(
            w=generator.randn(fan_out, fan_in).T * FACTORS[name](fan_in), b=np.zeros(fan_out)
        )
        for fan_in, fan_out in zip(NET.dims, NET.dims[1:], strict=False)
    ]


def train(data: jinit.Data, steps: int) -> dict[str, jinit.TrainResult]:
    """One run per initialisation, through one compiled program."""

    @jax.jit
    def run(params: list[jinit.Layer]) -> jinit.TrainResult:
        return jinit.train(
            jax.random.key(0),  # draws nothing: every batch is all the data
            NET, params, None, data,
            optimizer=optax.sgd(LEARNING_RATE), steps=steps, batch_size=None,
            loss="binary_cross_entropy",
        )  # fmt: skip

    results = {}
    with progress() as bar:
        for name in bar.track(FACTORS, description="initialisations"):
            results[name] = jax.block_until_ready(run(parameters(name)))
    return results


def accuracy(result: jinit.TrainResult, x: np.ndarray, y: np.ndarray) -> float:
    """The fraction classified rightly, where a sigmoid above one half says class 1."""
    metrics = jinit.evaluate(NET, result.params, result.state, x, y, loss="binary_cross_entropy")
    return float(metrics.accuracy)


def outputs(result: jinit.TrainResult, x: np.ndarray) -> np.ndarray:
    """Logits, one per point."""
    logits, _ = jinit.forward(NET, result.params, result.state, jnp.asarray(x), train=False)
    return np.asarray(logits[:, 0])


def square() -> np.ndarray:
    """Points [GRID * GRID, 2] on which decisions are drawn."""
    line = np.linspace(-REACH, REACH, GRID)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


# --- comparing --------------------------------------------------------------------------------


def compare(
    costs: dict[str, np.ndarray], accuracies: dict[str, tuple[float, float]], steps: int
) -> tuple[list[Check], list[str]]:
    """Every published number that this many steps can meet, and sentences on the others."""
    checks, left_out = [], []
    for name, (train_accuracy, test_accuracy) in ACCURACY.items():
        if steps != STEPS and name != "zeros":
            left_out.append(
                f"accuracies of {name}, published after {STEPS} steps; this run took {steps}."
            )
            continue
        group = f"Accuracy of {name}"
        train, test = accuracies[name]
        checks += [
            Check(group, f"{TRAIN} training points", train_accuracy, train, 0.5 / TRAIN, "paper"),
            Check(group, f"{TEST} test points", test_accuracy, test, 0.5 / TEST, "paper"),
        ]
    farthest = float(costs["zeros"][np.argmax(np.abs(costs["zeros"] - math.log(2)))])
    checks.append(
        Check(
            f"Cost of zeros in {steps} steps",
            "farthest from ln 2",
            math.log(2),
            farthest,
            ROUNDING,
            "formula",
        )
    )
    for i, published in enumerate(HE_COSTS):
        if i * 1000 < steps:
            measured = float(costs["He"][i * 1000])
            checks.append(
                Check(
                    "Cost of He", f"before step {i * 1000}", published, measured, ROUNDING, "paper"
                )
            )
    unseen = [i * 1000 for i in range(len(HE_COSTS)) if i * 1000 >= steps]
    if unseen:
        left_out.append(
            f"costs of He published for steps {unseen[0]} to {unseen[-1]}; this run took {steps}."
        )
    return checks, left_out


# --- writing ----------------------------------------------------------------------------------


def write_data(
    out: Path,
    data: jinit.Data,
    costs: dict[str, np.ndarray],
    logits: dict[str, np.ndarray],
    checks: list[Check],
) -> None:
    """The table, the cost of every step, the points, and the logits on a square."""
    write_checks(out / "published_measured.csv", checks)
    steps = len(next(iter(costs.values())))
    write_csv(
        out / "costs.csv",
        ("step", *costs),
        ((i, *(float(cost[i]) for cost in costs.values())) for i in range(steps)),
    )
    write_csv(
        out / "points.csv",
        ("half", "x1", "x2", "label"),
        (
            (half, float(x1), float(x2), int(label))
            for half, xs, ys in (("train", *data[:2]), ("test", *data[2:]))
            for (x1, x2), label in zip(xs, ys, strict=True)
        ),
    )
    write_csv(
        out / "logits.csv",
        ("x1", "x2", *logits),
        zip(*(column.tolist() for column in (*square().T, *logits.values())), strict=True),
    )


def draw(
    path: Path,
    data: jinit.Data,
    costs: dict[str, np.ndarray],
    accuracies: dict[str, tuple[float, float]],
    logits: dict[str, np.ndarray],
) -> None:
    """Cost curves beside the three decision boundaries."""
    steps = len(costs["He"])
    figure = Figure(figsize=(16, 5.2))
    grid = figure.add_gridspec(
        1, 5, width_ratios=[1.45, 0.12, 1, 1, 1],
        left=0.055, right=0.99, top=0.775, bottom=0.13, wspace=0.08,
    )  # fmt: skip
    figure.suptitle(
        "Zeros never learn, large weights learn badly, He learns the circles"
        if steps == STEPS
        else f"Zeros, large weights and He after {steps} steps of {STEPS}",
        fontsize=19, fontweight="bold", x=0.055, y=0.975, ha="left",
    )  # fmt: skip
    axes = figure.add_subplot(grid[0, 0])
    for (name, cost), style in zip(costs.items(), ("--", "-", "-"), strict=True):
        axes.plot(cost, style, color=COLOURS[name], linewidth=2.2, label=name)
    axes.set(
        yscale="log", xlabel="step", ylabel="cost (binary cross-entropy)",
        xlim=(-0.01 * steps, steps),
    )  # fmt: skip
    axes.set_title("Training cost", fontsize=14, loc="left")
    finish(axes, grid=True)
    axes.legend(fontsize=12, title="weights", title_fontsize=12)
    for column, name in enumerate(costs):
        axes = figure.add_subplot(grid[0, column + 2])
        _draw_decision(axes, data, logits[name])
        train, test = accuracies[name]
        axes.set_title(
            f"{name}\ntrain {train:.1%}, test {test:.1%}",
            fontsize=14, loc="left", color=COLOURS[name], fontweight="bold",
        )  # fmt: skip
        if column:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("x₂", fontsize=13, labelpad=-4)
    axes.legend(loc="upper right", fontsize=10, framealpha=1, ncols=2, handletextpad=0.1)
    figure.savefig(path, dpi=150)


def _draw_decision(axes, data: jinit.Data, logits: np.ndarray) -> None:
    line = np.linspace(-REACH, REACH, GRID)
    decided = (logits > 0).reshape(GRID, GRID).astype(float)
    axes.contourf(line, line, decided, levels=[-0.5, 0.5, 1.5], colors=["#FFE3CC", "#CFE8F7"])
    for label, colour, marker in ((0, ORANGE, "o"), (1, BLUE, "^")):
        chosen = data.y_train == label
        axes.scatter(
            *data.x_train[chosen].T, s=17, color=colour, marker=marker, linewidths=0,
            label=f"class {label}",
        )  # fmt: skip
    axes.set(aspect="equal", xlim=(-REACH, REACH), ylim=(-REACH, REACH))
    axes.set_xlabel("x₁", fontsize=13)
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])


if __name__ == "__main__":
    sys.exit(main())
