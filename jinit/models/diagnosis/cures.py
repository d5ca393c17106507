"""What to do about what was found."""

from collections.abc import Sequence

import numpy as np

from jinit.activations import ACTIVATIONS
from jinit.models.diagnosis.records import ParameterSignal
from jinit.models.diagnosis.report import Diagnosis

IN_TIME = {
    "explode": "draw the recurrent weights orthogonal with gain 1 and clip gradients",
    "vanish": "recurrent weights that are orthogonal with gain 1 and forget biases of 1 keep more "
    "of it; if they are, shorten the sequences or let the loss look at every step",
}
"""against change over the steps of a loop"""


def reason(d: Diagnosis, kind: str, *, steady: bool) -> str:
    """Why gradients explode or vanish over layers, and what helps; `steady` if signals do not."""
    name = _usual([row.activation for row in d.layers if row.activation])
    drawn = [p for p in d.weights if p.std > 0]
    std, gain = np.median([[p.std, p.gain] for p in drawn], axis=0) if drawn else (0.0, 0.0)
    normed = any(p.role.kind in ("scale", "statistic") for p in d.parameters)
    if kind == "explode" and normed and steady:
        return (
            "The signal does not grow, because a norm sets it right in every layer, and pays with "
            "the gradient (Yang et al. 2019: x1.21 a layer for batch norm and ReLU); add residual "
            "connections, or take out layers."
        )
    if kind == "explode" and d.residuals >= 3:
        scheme = f"1/sqrt({d.residuals}) = {d.residuals**-0.5:.2g}"
        return (
            f"{d.residuals} residual branches are added at full size; scale each by {scheme}, or "
            f"start them at 0 (jinit.models.fixup), or put a norm into each."
        )
    if kind == "vanish" and name in ("sigmoid", "hard_sigmoid"):
        return (
            f"The slope of {name} is 1/4 at most, and no weights make up for that over many "
            f"layers; use tanh or relu, a norm, or residual connections."
        )
    if kind == "explode" and (biased := _adding_up(drawn)):
        return biased
    what = f"{name} with" if name else "Weights of"
    return f"{what} std {std:.2g} (a gain of {gain:.2g}); use {scheme_for(d, name)}."


def _adding_up(weights: Sequence[ParameterSignal]) -> str | None:
    """What is to be said of weights whose mean is no smaller than their spread."""
    means = np.array([p.mean for p in weights])
    sums = np.abs(means) * [p.role.fan_in or 0 for p in weights]
    if not weights or np.median(np.abs(means) / [p.std for p in weights]) < 0.5:
        return None
    return (
        f"The weights have a mean (of {np.median(means):.2g}), which adds up over all inputs of a "
        f"unit: it alone makes the mean of a signal x{np.median(sums):.2g} in every layer. Draw "
        f"them with mean 0; where they must be positive, as behind a softplus or exp, make their "
        f"mean 1 / fan_in."
    )


def scheme_for(d: Diagnosis, name: str | None = None) -> str:
    """The scheme for an activation: the most frequent one's if none is named."""
    from jinit import theory

    name = name or _usual([row.activation for row in d.layers if row.activation in ACTIVATIONS])
    if name in ACTIVATIONS and ACTIVATIONS[name].rectifies:
        return 'jinit.reinit, scheme="he"'
    if name is None or name not in ACTIVATIONS:
        return 'jinit.reinit, scheme="xavier"'
    return f'jinit.reinit, scheme="xavier", gain={theory.gain(name):.2f}'


def _usual(names: Sequence[str | None]) -> str | None:
    return max(names, key=names.count, default=None)
