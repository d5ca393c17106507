"""Chapter 1: weights that are all equal keep all units equal, for ever."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr

import jinit
from jinit import plots
from jinit.pages.report import Chapter
from jinit.runtime import jit_once
from jinit.tour.loss_curves import guessing, train_starts
from jinit.tour.setting import Setting

UNITS, VALUE, RATE = 32, 0.05, 0.1
WIDTHS = (64, UNITS, UNITS, 10)


def _spread(params: jinit.Params) -> np.ndarray:
    """Per start, the largest difference between two hidden units of a layer in any weight."""
    layers = [np.asarray(layer.w) for layer in list(params)[:-1]]  # [start, seed, in, out]
    return np.max([(w.max(-1) - w.min(-1)).max((1, 2)) for w in layers], axis=0)


def _as_one_unit(rate: float) -> optax.GradientTransformation:
    """Gradient descent for a single unit that stands for n equal ones.

    A layer of n equal units is one unit whose outgoing weight is n times as large; a step of rate
    r on the n is then a step of rate r/n on the one's incoming weights and bias in the first
    layer, of r on its weight and r/n on its bias between hidden layers, and of n r in the readout.
    """

    def scaled(updates: jinit.Params, _: object) -> jinit.Params:
        first, second, readout = updates.runs
        first = first._replace(w=first.w / UNITS, b=first.b / UNITS)
        second = second._replace(b=second.b / UNITS)
        return jinit.Params((first, second, readout._replace(w=readout.w * UNITS)))

    return optax.chain(optax.stateless(scaled), optax.sgd(rate))


def _single_unit(key: jax.Array, data: jinit.Data, steps: int) -> jinit.TrainResult:
    """One unit per layer, started and stepped as `UNITS` equal ones are."""
    net = jinit.MLP((64, 1, 1, 10), activation="tanh")
    params, state = jinit.init(key, net, "constant", value=VALUE)
    first, *others = params.runs
    params = jinit.Params((first, *(layer._replace(w=layer.w * UNITS) for layer in others)))
    return jinit.train(
        key, net, params, state, data, optimizer=_as_one_unit(RATE), steps=steps, batch_size=128
    )


def chapter(key: jax.Array, setting: Setting, advance: Callable[[float], None]) -> Chapter:
    """Zero, equal and random weights on digits; a net of single units beside them."""
    digits = jinit.data.digits()
    steps = 2 * setting.steps
    net = jinit.MLP(WIDTHS, activation="tanh")
    starts = {
        "zeros": ("zeros", {}),
        "equal": ("constant", {"value": VALUE}),
        "xavier": ("xavier", {}),
    }
    curves = train_starts(
        key, net, digits, starts, seeds=setting.seeds, steps=steps, learning_rate=RATE
    )  # fmt: skip
    advance(0.7)
    single_units = jit_once(jax.vmap(lambda key: _single_unit(key, digits, steps)))
    single = jax.block_until_ready(single_units(curves.train_keys))
    advance(0.3)
    loss = dict(zip(curves.starts, curves.loss, strict=True))
    loss["single unit"] = np.asarray(single.history.loss)
    accuracy = dict(zip(curves.starts, curves.accuracy.mean(1), strict=True))
    accuracy["single unit"] = float(single.accuracy.mean())
    spread = dict(zip(curves.starts, _spread(curves.params), strict=True))
    final = {n: float(np.median(curve[:, -20:].mean(1))) for n, curve in loss.items()}
    apart = float(np.max(np.abs(loss["single unit"] - loss["equal"])))
    frequencies = np.bincount(digits.y_train, minlength=10) / len(digits.y_train)
    entropy = float(-np.sum(frequencies * np.log(frequencies)))

    with plots.style():
        fig, axes = plots.figure(3, width=13.5, height=4.3, width_ratios=[1.5, 1, 1])
        ax, equal_ax, random_ax = axes[0]
        colors = plots.COLORS | {"single unit": "black"}
        labels = {
            "zeros": "all zeros", "equal": f"all equal, {UNITS} units per layer",
            "single unit": "one unit per layer", "xavier": "random (Xavier)",
        }  # fmt: skip
        for name, curve in loss.items():
            smooth = np.apply_along_axis(np.convolve, 1, curve, np.ones(10) / 10, "valid")
            line: dict[str, Any] = (
                {"linestyle": (0, (1, 2)), "zorder": 4} if name == "single unit" else {}
            )
            plots.band(
                ax, np.arange(smooth.shape[1]) + 10, smooth, label=labels[name],
                color=colors[name], **line,
            )  # fmt: skip
        guessing(ax, right=True)
        ax.set(xlabel="training step", ylabel="training loss", ylim=(0, 2.7), xlim=(0, steps))
        ax.set_title("Equal units learn as one")
        ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.38))
        trained = {
            n: np.asarray(curves.params.runs[1].w[curves.starts.index(n), 0, 0])
            for n in ("equal", "xavier")
        }
        limit = float(np.quantile(np.abs(trained["xavier"]), 0.99))
        plots.weights(equal_ax, trained["equal"], limit=limit)
        equal_ax.set_title("Trained from equal weights")
        image = plots.weights(random_ax, trained["xavier"], limit=limit)
        random_ax.set_title("Trained from Xavier")
        fig.colorbar(image, ax=random_ax, label="weight")

    data = xr.Dataset(
        {
            "loss": (("start", "seed", "step"), np.stack(list(loss.values()))),
            "accuracy": (
                ("start", "seed"), np.stack([*curves.accuracy, np.asarray(single.accuracy)]),
            ),
            "largest_difference_between_units": ("start", [*spread.values(), np.nan]),
        },
        {"start": list(loss)},
    )  # fmt: skip
    words = [
        "A network learns by giving every unit its own job. If all weights start equal, all units "
        "of a layer compute the same number, receive the same gradient and take the same step: "
        "they can never part. With zeros it is worse: the hidden units pass nothing forward and "
        "no gradient back, and only the bias of the last layer learns how frequent each digit is.",
        f"Measured here after {steps} steps on real handwritten digits: starting from zeros the "
        f"loss ends at {final['zeros']:.3f} (the entropy of the classes is {entropy:.3f}; ln 10 is "
        f"{math.log(10):.3f}) and the largest difference between two hidden units of a layer is "
        f"{spread['zeros']:.1g}. Starting from equal weights that difference is "
        f"{spread['equal']:.1g}. All {UNITS} units together are one: a net with a single unit per "
        f"layer, started and stepped as the {UNITS} are together, has the same loss at every step, "
        f"to {apart:.0e}. They reach accuracies of {accuracy['equal']:.0%} and "
        f"{accuracy['single unit']:.0%} on unseen digits, and "
        f"random weights {accuracy['xavier']:.0%}.",
    ]
    numbers = [
        ("loss from zeros", f"{final['zeros']:.4f}"),
        ("entropy of the classes", f"{entropy:.4f}"),
        *((f"largest difference between two units, {n}", f"{v:.2g}") for n, v in spread.items()),
        ("largest difference in loss, equal units and one unit", f"{apart:.2g}"),
        *((f"test accuracy, {n}", f"{value:.3f}") for n, value in accuracy.items()),
    ]
    return Chapter("symmetry", "Symmetry", fig, data, words, numbers)
