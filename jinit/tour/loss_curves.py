"""Loss curves of several starts over many seeds, trained side by side in one program."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from matplotlib.axes import Axes

import jinit
from jinit import plots
from jinit.runtime import jit_once

STARTS: dict[str, tuple[str, dict[str, float]]] = {
    "zeros": ("zeros", {}),
    "0.01 randn": ("normal", {"scale": 0.01}),
    "10 randn": ("normal", {"scale": 10.0}),
    "xavier": ("xavier", {}),
    "he": ("he", {}),
}
LABELS = {
    "zeros": "zeros",
    "0.01 randn": "randn × 0.01",
    "10 randn": "randn × 10",
    "xavier": "Xavier",
    "he": "He",
}


class Curves(NamedTuple):
    """What happened from each start and seed."""

    starts: tuple[str, ...]
    loss: np.ndarray
    """[start, seed, step]"""
    accuracy: np.ndarray
    """on the test half after training, [start, seed]"""
    params: Any
    """after training, every leaf with axes [start, seed] in front"""
    signals: Any
    """LayerSignals before training, arrays [start, seed, layer], if asked for"""
    train_keys: jax.Array
    """of the minibatches, [seed]"""


def train_starts(
    key: jax.Array,
    net: jinit.MLP,
    data: jinit.Data,
    starts: Mapping[str, tuple[str, dict[str, float]]],
    *,
    seeds: int,
    steps: int,
    learning_rate: float,
    batch_size: int = 128,
    signals: bool = False,
) -> Curves:
    """Train a net from every start and seed; all of them are rows of one vmapped run.

    Seed s shares its minibatches, and its draws up to their scale, over all starts. With
    `signals`, the layers are also measured before training, on the first `batch_size` samples.
    """
    init_key, train_key = jax.random.split(key)
    init_keys, train_keys = jax.random.split(init_key, seeds), jax.random.split(train_key, seeds)

    def draw(scheme: str, options: dict[str, float]) -> Any:
        return jax.vmap(lambda k: jinit.init(k, net, scheme, **options))(init_keys)

    def draw_all() -> Any:
        drawn = [draw(*start) for start in starts.values()]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)

    def run(key: jax.Array, params: Any, state: Any) -> Any:
        result = jinit.train(
            key, net, params, state, data,
            optimizer=optax.sgd(learning_rate), steps=steps, batch_size=batch_size,
        )  # fmt: skip
        x, y = data.x_train[:batch_size], data.y_train[:batch_size]
        before = jinit.layer_signals(net, params, state, x, y) if signals else None
        return result.history.loss, result.accuracy, result.params, before

    drawn = jit_once(draw_all, level=1)()
    over_starts = jit_once(jax.vmap(jax.vmap(run), (None, 0, 0)))
    loss, accuracy, params, before = jax.device_get(over_starts(train_keys, *drawn))
    return Curves(tuple(starts), loss, accuracy, params, before, train_keys)


def guessing(ax: Axes, *, right: bool = False) -> None:
    """A line at the loss of one who guesses among ten classes."""
    ax.axhline(math.log(10), color="black", linestyle=":", linewidth=1.2, zorder=1)
    ax.annotate(
        "ln 10: guessing", (1.0 if right else 0.03, math.log(10)),
        xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points", fontsize=10,
        ha="right" if right else "left",
    )  # fmt: skip


def loss_panel(ax: Axes, curves: Curves) -> None:
    """Median loss and 10 to 90 % band over seeds, on a log axis."""
    for name, runs in zip(curves.starts, curves.loss, strict=True):
        # What does not learn lies on one line: the next one shows through the dashes of zeros.
        line: dict[str, Any] = {"linestyle": (0, (4, 4)), "zorder": 3} if name == "zeros" else {}
        plots.band(
            ax, np.arange(1, runs.shape[1] + 1), runs, label=LABELS[name],
            color=plots.COLORS[name], **line,
        )  # fmt: skip
    ax.set(xlabel="training step", ylabel="training loss", xlim=(1, curves.loss.shape[2]))
    ax.set_yscale("log")
    guessing(ax)


def as_dataset(curves: Curves) -> xr.Dataset:
    """The curves, and the signals where they were measured, with named dimensions."""
    data = xr.Dataset(
        {
            "loss": (("start", "seed", "step"), curves.loss),
            "accuracy": (("start", "seed"), curves.accuracy),
        },
        {"start": list(curves.starts)},
    )
    if curves.signals is None:
        return data
    return data.assign({
        name: (("start", "seed", "layer"), getattr(curves.signals, name))
        for name in ("log_grad", "saturated", "act_std")
    }).assign_coords(layer=1 + np.arange(curves.signals.log_grad.shape[-1]))  # fmt: skip
