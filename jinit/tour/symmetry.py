"""Chapter 1: weights that are all equal keep all units equal, for ever."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

import jinit
from jinit import plots
from jinit.report import Chapter
from jinit.tour.setting import Setting

__all__ = ["chapter"]

WIDTHS = (64, 32, 32, 10)
SINGLE = (64, 1, 1, 10)


def _spread(params: jinit.Params) -> jax.Array:
    """The largest difference between two hidden units of a layer, over all their weights."""
    return jnp.stack(
        [jnp.max(jnp.max(layer.w, 1) - jnp.min(layer.w, 1)) for layer in list(params)[:-1]]
    ).max()


def chapter(key: jax.Array, setting: Setting, advance: Callable[[float], None]) -> Chapter:
    """Zero, equal and random weights on digits; a net of single units beside them."""
    digits = jinit.data.digits()
    steps = 2 * setting.steps
    starts = {
        "zeros": (WIDTHS, "zeros", {}),
        "equal": (WIDTHS, "constant", {"value": 0.05}),
        "single unit": (SINGLE, "xavier", {}),
        "xavier": (WIDTHS, "xavier", {}),
    }

    def many(widths: tuple[int, ...], scheme: str, options: dict[str, float]) -> jinit.TrainResult:
        net = jinit.MLP(widths, activation="tanh")

        def one(key: jax.Array) -> jinit.TrainResult:
            init_key, train_key = jax.random.split(key)
            params, state = jinit.init(init_key, net, scheme, **options)
            return jinit.train(
                train_key, net, params, state, digits,
                optimizer=optax.sgd(0.1), steps=steps, batch_size=128,
            )  # fmt: skip

        return jax.jit(jax.vmap(one))(jax.random.split(key, setting.seeds))

    results = {}
    for name, (widths, scheme, options) in starts.items():
        results[name] = jax.block_until_ready(many(widths, scheme, options))
        advance(1 / len(starts))
    spread = {n: float(jnp.max(jax.vmap(_spread)(r.params))) for n, r in results.items()}
    loss = {n: np.asarray(r.history.loss) for n, r in results.items()}
    final = {n: float(np.median(curve[:, -20:].mean(1))) for n, curve in loss.items()}
    accuracy = {n: float(np.mean(r.accuracy)) for n, r in results.items()}
    best_single = float(np.max(results["single unit"].accuracy))
    best_equal = float(np.max(results["equal"].accuracy))
    frequencies = np.bincount(digits.y_train, minlength=10) / len(digits.y_train)
    entropy = float(-np.sum(frequencies * np.log(frequencies)))

    with plots.style():
        fig, axes = plots.figure(3, width=13.5, height=4.3, width_ratios=[1.5, 1, 1])
        ax, equal_ax, random_ax = axes[0]
        colors = {
            "zeros": plots.COLORS["zeros"], "equal": plots.COLORS["equal"],
            "single unit": plots.COLORS["batch norm"], "xavier": plots.COLORS["xavier"],
        }  # fmt: skip
        labels = {
            "zeros": "all zeros", "equal": "all equal (0.05)",
            "single unit": "one unit per layer", "xavier": "random (Xavier)",
        }  # fmt: skip
        for name, curve in loss.items():
            smooth = np.apply_along_axis(np.convolve, 1, curve, np.ones(10) / 10, "valid")
            plots.band(
                ax, np.arange(smooth.shape[1]) + 10, smooth, label=labels[name], color=colors[name]
            )
        ax.axhline(math.log(10), color="black", linestyle=":", linewidth=1.2)
        ax.annotate(
            "ln 10: guessing", (steps, math.log(10)), xytext=(0, 4), textcoords="offset points",
            ha="right", fontsize=10,
        )  # fmt: skip
        ax.set(xlabel="training step", ylabel="training loss", ylim=(0, 2.7), xlim=(0, steps))
        ax.set_title("Equal units learn as one")
        ax.legend(loc="center right")
        trained = {n: np.asarray(results[n].params.runs[1].w[0, 0]) for n in ("equal", "xavier")}
        limit = float(np.quantile(np.abs(trained["xavier"]), 0.99))
        plots.weights(equal_ax, trained["equal"], limit=limit)
        equal_ax.set_title("Trained from equal weights")
        image = plots.weights(random_ax, trained["xavier"], limit=limit)
        random_ax.set_title("Trained from Xavier")
        fig.colorbar(image, ax=random_ax, label="weight")

    data = xr.Dataset(
        {
            "loss": (("start", "seed", "step"), np.stack(list(loss.values()))),
            "accuracy": (("start", "seed"), np.stack([r.accuracy for r in results.values()])),
            "largest_difference_between_units": ("start", list(spread.values())),
        },
        {"start": list(results)},
    )
    words = [
        "A network learns by giving every unit its own job. If all weights start equal, all units "
        "of a layer compute the same number, receive the same gradient and take the same step: "
        "they can never part. With zeros it is worse: the hidden units pass nothing forward and "
        "no gradient back, and only the bias of the last layer learns how frequent each digit is.",
        f"Measured here after {steps} steps on real handwritten digits: starting from zeros the "
        f"loss ends at {final['zeros']:.3f} (the entropy of the classes is {entropy:.3f}; ln 10 is "
        f"{math.log(10):.3f}) and the largest difference between two hidden units of a layer is "
        f"{spread['zeros']:.1g}. Starting from equal weights that difference is "
        f"{spread['equal']:.1g}, and the {WIDTHS[1]} units per layer reach "
        f"{accuracy['equal']:.0%} accuracy on unseen digits, against {accuracy['single unit']:.0%} "
        f"for a net of a single unit per layer (the best of {setting.seeds} such nets "
        f"reaches {best_single:.0%}) and {accuracy['xavier']:.0%} for random weights.",
    ]
    numbers = [
        ("loss from zeros", f"{final['zeros']:.4f}"),
        ("entropy of the classes", f"{entropy:.4f}"),
        ("largest difference between two units, zeros", f"{spread['zeros']:.2g}"),
        ("largest difference between two units, equal", f"{spread['equal']:.2g}"),
        ("largest difference between two units, Xavier", f"{spread['xavier']:.2g}"),
        ("accuracy, equal weights (mean; best)", f"{accuracy['equal']:.3f}; {best_equal:.3f}"),
        (
            "accuracy, one unit per layer (mean; best)",
            f"{accuracy['single unit']:.3f}; {best_single:.3f}",
        ),
        ("accuracy, Xavier (mean)", f"{accuracy['xavier']:.3f}"),
    ]
    return Chapter("symmetry", "Symmetry", fig, data, words, numbers)
