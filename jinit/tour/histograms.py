"""Activation histograms of ten layers of 500 units, as in CS231n's lecture."""

from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes

import jinit
from jinit import plots
from jinit.runtime import jit_once

LAYERS, WIDTH = 10, 500


class Ridges(NamedTuple):
    """Histograms of one network and stds over several."""

    counts: np.ndarray
    """[layers, bins] of the first seed"""
    edges: np.ndarray
    std: np.ndarray
    """[seeds, layers]"""

    @property
    def rms(self) -> np.ndarray:
        """Of the stds over seeds, `[layers]`."""
        return np.asarray(np.sqrt((self.std**2).mean(0)))


def measure(
    key: jax.Array,
    net: jinit.MLP,
    scheme: str,
    *,
    seeds: int,
    inputs: int,
    edges: np.ndarray,
    **options: Any,
) -> Ridges:
    """Draw nets of `LAYERS` hidden layers and pass Gaussian inputs through them."""

    def all_seeds(keys: jax.Array) -> Any:
        def one(key: jax.Array) -> Any:
            init_key, input_key, probe_key = jax.random.split(key, 3)
            x = jax.random.normal(input_key, (inputs, net.dims[0]))
            params, state = jinit.init(init_key, net, scheme, **options)
            signals = jinit.layer_signals(net, params, state, x, key=probe_key, bins=edges)
            assert signals.act_histogram is not None
            return signals.act_histogram[:-1], signals.act_std[:-1]

        return jax.lax.map(one, keys)

    counts, std = jax.device_get(jit_once(all_seeds)(jax.random.split(key, seeds)))
    return Ridges(counts[0], edges, np.asarray(std, np.float64))


def ridge_panel(
    ax: Axes, ridges: Ridges, title: str, *, color: str, theory: np.ndarray | None = None
) -> None:
    """The ridges, with the measured std beside each layer (and the infinite-width one)."""
    ax.set_title(title, pad=18)
    ax.set_xlabel("activation (where not 0)" if ridges.edges[0] > 0 else "activation")
    std = ridges.rms
    if theory is None:
        header, notes = "  std", [f"{s:7.2g}" for s in std]
    else:
        header = "  std   n → ∞"
        notes = [f"{s:7.3f} {t:7.3f}" for s, t in zip(std, theory, strict=True)]
    plots.histograms(ax, ridges.counts, ridges.edges, color=color, notes=notes)
    ax.text(1.01, 1.0, header, transform=ax.transAxes, fontsize=9, family="monospace", va="bottom")


def theory_std(net: jinit.MLP, weight_var: float) -> np.ndarray:
    """The infinite-width std of the activations, layer by layer."""
    found = jinit.theory.trajectory(net.activation, depth=LAYERS, weight_var=weight_var)
    return np.asarray(found.act_std)


def beside_theory(whose: str, std: np.ndarray, theory: np.ndarray) -> list[tuple[str, str]]:
    """Rows of a chapter's numbers: the std in some layers, measured and infinitely wide."""
    what = f"std of the activations, {whose}layer"
    return [
        (f"{what} {i}: measured; infinite width", f"{std[i - 1]:.4f}; {theory[i - 1]:.4f}")
        for i in (1, 5, LAYERS)
    ]


def hidden_net(activation: str, *, norm: Any = None) -> jinit.MLP:
    """Ten hidden layers of 500 units on 500 inputs, without biases."""
    return jinit.MLP((WIDTH,) * (LAYERS + 1) + (10,), activation=activation, norm=norm, bias=False)
