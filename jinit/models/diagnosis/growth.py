"""What grows or shrinks over a model's layers, or over the steps of a loop.

Rates are medians of the slopes between all pairs of layers (Theil and Sen), which a few odd layers
do not move.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from jinit.models.diagnosis.cures import IN_TIME, reason
from jinit.models.diagnosis.records import DiagnosedLayer, decades
from jinit.models.diagnosis.report import FEWEST, Diagnosis

DECADES = 2.0
"""change over all layers, or over all steps of a loop backward, that counts as explosion"""
DECADES_IN_TIME = 5.0
"""loss over a loop's steps that counts as vanishing; a healthy LSTM forgets, too"""


class Trend(NamedTuple):
    """Decades over all layers of a model's main path."""

    forward: float
    """toward the output"""
    backward: float
    """toward the input"""
    layers: tuple[DiagnosedLayer, ...]


def trend(d: Diagnosis) -> Trend | None:
    """Over layers that write to the model's main path: what stands inside branches is left out."""
    inside = frozenset[str]().union(*(b.inside - b.last for b in d.branches))
    layers = tuple(row for row in d.layers if not inside.issuperset(row.paths)) or d.layers
    ahead = [(i, r.log_pre) for i, r in enumerate(layers) if math.isfinite(r.log_pre)]
    back = [(-i, r.log_grad_norm) for i, r in enumerate(layers) if math.isfinite(r.log_grad)]
    if min(len(ahead), len(back)) < FEWEST:
        return None
    steps = len(layers) - 1
    return Trend(_slope(ahead) * steps, _slope(back) * steps, layers)


def _slope(points: Sequence[tuple[int, float]]) -> float:
    """The median slope, in decades; of a few points, the median step, of two the smaller one."""
    x, y = np.transpose(points)
    if len(points) >= 6:
        return decades(float(scipy.stats.theilslopes(y, x).slope))
    steps = np.sort(np.diff(y) / np.diff(x))
    low, high = float(steps[(len(steps) - 1) // 2]), float(steps[len(steps) // 2])
    return decades(min(low, high, key=abs)) if low * high > 0 else 0.0


def changes(kind: str, d: Diagnosis) -> Iterator[tuple[list[str], str]]:
    """Where the signal or the gradient does that: "explode" or "vanish"."""
    in_time = dict(_over_time(d))
    if kind == "vanish":
        yield from _inside_branches(d)
    if "explode" not in in_time:  # else the steps, and not the layers, are the reason
        yield from _over_layers(kind, d)
    if kind in in_time:
        total, what, row = in_time[kind]
        yield [row.layer], (
            f"Through time the {what} of {row.layer} {kind}{'es' if kind == 'vanish' else 's'}: "
            f"x{10 ** (total / (len(row.in_time) - 1)):.2g} per step (10^{total:+.1f} over "
            f"{len(row.in_time)} steps); {IN_TIME[kind]}."
        )  # fmt: skip


def _over_layers(kind: str, d: Diagnosis) -> Iterator[tuple[list[str], str]]:
    found = trend(d)
    if found is None:
        return
    forward, backward, layers = found
    # Gradients are what stops training; a growing signal is named where it is all there is.
    by_gradient = abs(backward) > DECADES
    total = backward if by_gradient else forward
    if abs(total) <= DECADES or kind != ("explode" if total > 0 else "vanish"):
        return
    what = "Gradients" if by_gradient else "Activations"
    if by_gradient and forward * backward > 0 and abs(forward) > DECADES:
        what = "Signal and gradients"
    first, last = layers[0].layer, layers[-1].layer
    way = f"from {last} to {first}" if by_gradient else f"from {first} to {last}"
    unseen = any(row.log_grad == -math.inf for row in layers)
    lost = ", below what float32 holds before that" if unseen and kind == "vanish" else ""
    yield [row.layer for row in layers], (
        f"{what} {kind}: x{10 ** (total / (len(layers) - 1)):.2g} per layer {way} "
        f"(10^{total:+.1f} in all{lost}). {reason(d, kind, steady=abs(forward) < DECADES)}"
    )  # fmt: skip


def _inside_branches(d: Diagnosis) -> Iterator[tuple[list[str], str]]:
    """A branch of several layers whose signal dies on the way to its end: it adds nothing."""
    for branch in d.branches:
        own = [r for r in d.layers if (branch.inside - branch.last).issuperset(r.paths)]
        ahead = [(i, r.log_pre) for i, r in enumerate(own) if math.isfinite(r.log_pre)]
        if len(ahead) < FEWEST or len(ahead) < len(own):
            continue
        steps = len(own) - 1
        total = _slope(ahead) * steps
        if total < -DECADES:
            yield [r.layer for r in own], (
                f"Inside a residual branch the signal vanishes: x{10 ** (total / steps):.2g} per "
                f"layer from {own[0].layer} to {own[-1].layer} (10^{total:+.1f} in all), so that "
                f"the branch adds next to nothing. {reason(d, 'vanish', steady=True)}"
            )  # fmt: skip
            return


def _over_time(d: Diagnosis) -> Iterator[tuple[str, tuple[float, str, DiagnosedLayer]]]:
    """Of every kind the largest change, in loops whose passes share weights."""
    found = []
    for row in d.layers:
        back = [(-t, g) for t, g in enumerate(row.in_time) if math.isfinite(g)]
        ahead = [(t, f) for t, f in enumerate(row.forward_in_time) if math.isfinite(f)]
        if min(len(back), len(ahead)) >= 4:
            steps = len(row.in_time) - 1
            found += [
                (_slope(back) * steps, "gradient", row),
                (_slope(ahead) * steps, "signal", row),
            ]
    grown = [f for f in found if f[0] > DECADES]
    faded = [f for f in found if f[1] == "gradient" and f[0] < -DECADES_IN_TIME]
    for kind, all_ in (("explode", grown), ("vanish", faded)):
        if all_:
            yield kind, max(all_, key=lambda f: abs(f[0]))
