"""What measured signals mean: a sentence with a cure for everything that is wrong.

Thresholds are in decades (powers of ten) over a whole model, so that what depth does is told from
the differences that layers of different kinds have among themselves; rates are medians of the
slopes between all pairs of layers (Theil and Sen), which a few odd layers do not move.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats

from jinit.activations import ACTIVATIONS
from jinit.models.diagnosis.records import LayerSignal, Measured, ParameterSignal

__all__ = ["FAULTS", "Fault", "Finding", "find"]

Fault = Literal[
    "nonfinite", "zero", "symmetric", "frozen", "dead", "saturated", "explode", "vanish", "scale",
    "fans", "output",
]  # fmt: skip

FAULTS: dict[Fault, str] = {
    "nonfinite": "numbers that are none, forward or backward",
    "zero": "weights that are all zero, so that no gradient passes",
    "symmetric": "units that are copies of each other",
    "frozen": "parameters that no gradient reaches",
    "dead": "activations whose slope is zero on every sample",
    "saturated": "activations that are flat almost everywhere",
    "explode": "a signal or gradient that grows layer by layer or step by step",
    "vanish": "a signal or gradient that shrinks layer by layer or step by step",
    "scale": "a layer whose weights are of another size than the others'",
    "fans": "weights scaled by another fan than the one they have",
    "output": "an output that starts far from one",
}
"""Every kind of finding; the worst first."""

DECADES = 2.0
"""change over all layers, or over all steps of a loop backward, that counts as explosion"""
DECADES_IN_TIME = 5.0
"""loss over a loop's steps that counts as vanishing; a healthy LSTM forgets, too"""
DEAD, SATURATED = 0.75, 0.5
OFF = 5.0
"""times the usual size of weights"""
LARGE_OUTPUT = 8.0


class Finding(NamedTuple):
    """Something that is wrong with a model."""

    kind: Fault
    layers: tuple[str, ...]
    """which, in short"""
    sentence: str
    """what, where, how much, and a cure"""


def find(d: Measured) -> tuple[Finding, ...]:
    """All findings of a diagnosis, the worst first; what another finding explains is left out."""
    checks: Sequence[Callable[[Measured], list[Finding]]] = (
        _nonfinite, _zero, _symmetric, _dead, _saturated, _frozen, _growth, _in_time, _scale,
        _fans, _output,
    )  # fmt: skip
    found: list[Finding] = []
    for check in checks:
        found += check(d)
    kinds = {finding.kind for finding in found}
    explained = {
        # What does not reach the output gets no gradient either, and so on.
        "frozen": {"zero", "dead", "nonfinite"}, "output": {"explode", "nonfinite", "scale"},
        "scale": {"symmetric"}, "fans": {"symmetric"},
    }  # fmt: skip
    kept = [f for f in found if not explained.get(f.kind, set()) & kinds]
    return tuple(sorted(kept, key=lambda finding: list(FAULTS).index(finding.kind)))


def _weights(d: Measured) -> list["ParameterSignal"]:
    """Weights, in call order."""
    found = [p for p in d.parameters if p.role.role in ("weight", "tied")]
    return sorted(found, key=lambda p: p.role.order or 0)


def _named(labels: Sequence[str]) -> str:
    unique = list(dict.fromkeys(labels))
    return ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")


# --- single layers ------------------------------------------------------------------------------


def _nonfinite(d: Measured) -> list[Finding]:
    weights = [p.label for p in d.parameters if not math.isfinite(p.mean)]
    if weights:
        said = f"{_named(weights)} holds numbers that are none (inf or NaN); draw it anew."
        return [Finding("nonfinite", tuple(weights), said)]
    bad = [row.layer for row in d.layers if not row.log_rms < math.inf]
    if bad:
        said = (
            f"The signal is no number from {bad[0]} on (inf or NaN); look at the inputs, then at "
            f"weights and norms before it."
        )
        return [Finding("nonfinite", tuple(bad), said)]
    if not (d.log_output < math.inf and math.isfinite(d.loss)):
        said = (
            "All layers give numbers, but the output or the loss is none (inf or NaN); look at "
            "what comes after the last weights: a logarithm, root or division."
        )
        return [Finding("nonfinite", (), said)]
    back = [row.layer for row in d.layers if not row.log_grad < math.inf]
    if back:
        said = (
            f"The gradient is no number from {back[-1]} to the input (inf or NaN), though the "
            f"signal is; a square root, logarithm or division at 0 is the usual cause."
        )
        return [Finding("nonfinite", tuple(back), said)]
    return []


def _zero(d: Measured) -> list[Finding]:
    zeros = [p for p in _weights(d) if p.std == 0 and p.mean == 0]
    ends = frozenset[str]().union(*(branch.last for branch in d.branches))
    zeros = [p for p in zeros if p.role.path not in ends]  # Fixup and SkipInit mean it
    # Some start at 0 and let gradients pass beside them, as a modulation does.
    before = [row for row in d.layers if row.log_grad == -math.inf and row.log_rms > -math.inf]
    shut = len(zeros) == len(d.layers) or before
    if not zeros or not shut:
        return []
    first = zeros[-1]
    later = " that lies before it" if len(zeros) == 1 else ""
    return [Finding("zero", tuple(p.label for p in zeros), (
        f"{_named([p.label for p in zeros])}: all weights are zero, so that no gradient reaches "
        f"anything{later} in the first step; draw them, small if the output shall start at 0 "
        f"(normal with scale 0.01), or with {_scheme(d, first)}."
    ))]  # fmt: skip


def _symmetric(d: Measured) -> list[Finding]:
    same = [p for p in _weights(d) if p.constant and (p.std > 0 or p.mean != 0)]
    if not same:
        return []
    return [Finding("symmetric", tuple(p.label for p in same), (
        f"All units of {_named([p.label for p in same])} have the same weights and give the same, "
        f"so that each of these layers passes on one number; draw the weights at random with "
        f"{_scheme(d, same[0])}."
    ))]  # fmt: skip


def _dead(d: Measured) -> list[Finding]:
    reached = {row.layer for row in d.layers if row.log_rms > -math.inf}
    dead = [a for a in d.activations if a.dead > DEAD and a.after in reached]
    if not dead:
        return []
    worst = max(dead, key=lambda a: a.dead)
    return [Finding("dead", tuple(a.after for a in dead), (
        f"{100 * worst.dead:.0f}% of the units of the {worst.name or 'activation'} after "
        f"{_named([a.after for a in dead])} are dead: off on every sample, without a gradient; "
        f"set the biases there to 0 and draw the weights with {_scheme(d, None)}."
    ))]  # fmt: skip


def _saturated(d: Measured) -> list[Finding]:
    flat = [
        a
        for a in d.activations
        if a.name in ACTIVATIONS and ACTIVATIONS[a.name].squashes and a.saturated > SATURATED
    ]
    if not flat:
        return []
    worst = max(flat, key=lambda a: a.saturated)
    return [Finding("saturated", tuple(a.after for a in flat), (
        f"{worst.name} is saturated after {_named([a.after for a in flat])}: "
        f"{100 * worst.saturated:.0f}% of its values lie where it is flat, so that it answers like "
        f"a switch and hardly learns; draw the weights smaller, with "
        f"{_scheme(d, None, worst.name)}."
    ))]  # fmt: skip


def _frozen(d: Measured) -> list[Finding]:
    shut = _shut(d).union(*(row.paths for row in d.layers if row.log_rms == -math.inf))
    still = [
        p for p in _weights(d)
        if p.log_grad == -math.inf and p.role.times and p.role.path not in shut
    ]  # fmt: skip
    trend = _trend(d)
    faded = trend is not None and trend.backward < -DECADES
    if not still or faded:  # below what float32 holds
        return []
    return [Finding("frozen", tuple(p.label for p in still), (
        f"No gradient reaches {_named([p.label for p in still])} in this batch; look for a "
        f"stop_gradient, a rounding or an argmax between there and the loss, or a factor that is "
        f"zero."
    ))]  # fmt: skip


def _shut(d: Measured) -> frozenset[str]:
    """Paths on residual branches that start at 0, and open with the first step."""
    zero = {p.role.path for p in d.parameters if p.mean == p.std == 0 and p.role.role != "bias"}
    return frozenset[str]().union(*(b.inside for b in d.branches if b.inside & zero))


def _scale(d: Measured) -> list[Finding]:
    drawn = [p for p in _weights(d) if p.std > 0 and p.role.role == "weight"]
    if len(drawn) < 4:
        return []
    logs = np.log10([p.gain for p in drawn])
    usual = float(np.median(logs))
    odd = [p for p, x in zip(drawn, logs, strict=True) if abs(x - usual) > math.log10(OFF)]
    if not odd or len(odd) > max(1, len(drawn) // 8):
        return []
    worst = max(odd, key=lambda p: abs(math.log10(p.gain) - usual))
    times = worst.gain / 10**usual
    size = f"{times:.1f} times as large as" if times > 1 else f"{1 / times:.1f} times smaller than"
    return [Finding("scale", tuple(p.label for p in odd), (
        f"The weights of {_named([p.label for p in odd])} are {size} those of the other "
        f"{len(drawn) - len(odd)} layers, fans considered (std {worst.std:.3g} at a fan-in of "
        f"{worst.role.fan_in}); if that is not meant, draw them like the others."
    ))]  # fmt: skip


def _fans(d: Measured) -> list[Finding]:
    """std * sqrt(fan_out) is the same number everywhere, and std * sqrt(fan_in) is not."""
    drawn = [p for p in _weights(d) if p.std > 0 and p.role.fan_in and p.role.fan_out]
    uneven = [
        p for p in drawn
        if max(p.role.fan_in, p.role.fan_out) >= 1.5 * min(p.role.fan_in, p.role.fan_out)  # type: ignore[type-var, operator]
    ]  # fmt: skip
    stds = [p.std for p in drawn]
    if len(uneven) < 2 or max(stds) < 1.05 * min(stds):  # one std for all looks at no fan
        return []
    swapped = []
    for p in uneven:
        fan_in, fan_out = float(p.role.fan_in or 1), float(p.role.fan_out or 1)
        other = not (_is_usual(p, fan_in) or _is_usual(p, (fan_in + fan_out) / 2) or p.orthogonal)
        if other and _is_usual(p, fan_out):
            swapped.append(p)
    if len(swapped) < 2 or len(swapped) * 2 < len(uneven):
        return []
    p = swapped[0]
    return [Finding("fans", tuple(q.label for q in swapped), (
        f"The weights of {_named([q.label for q in swapped])} are scaled by the wrong fan: their "
        f"std is a usual one for a fan-in of {p.role.fan_out}, which is {p.label}'s fan-out, and "
        f"not for its {p.role.fan_in} inputs; swap the axes of the initializer, or redraw with "
        f"{_scheme(d, p)}."
    ))]  # fmt: skip


def _is_usual(p: "ParameterSignal", fan: float) -> bool:
    """Whether the std is one that a known convention draws for such a fan."""
    gain = p.std * math.sqrt(fan)
    error = max(4 * math.sqrt(1 / (2 * math.prod(p.role.shape))), 0.01)
    return any(abs(gain / constant - 1) < error for constant in _CONSTANTS)


_CONSTANTS = (1.0, math.sqrt(2), 1 / math.sqrt(3), 0.8796256610342398)
"""std * sqrt(fan) of LeCun, He, PyTorch, and of a truncation that is not corrected"""


def _output(d: Measured) -> list[Finding]:
    size = 10**d.log_output
    if not size > LARGE_OUTPUT:
        return []
    last = d.layers[-1] if d.layers else None
    tied = ""
    if last is not None and last.role == "tied":
        tied = (
            f": {last.layer} is tied to an embedding, and each output sums {last.fan_in} numbers; "
            f"draw it with std 1/sqrt({last.fan_in}) = {last.fan_in**-0.5:.3g}, or scale the output"
        )
    return [Finding("output", (last.layer,) if last else (), (
        f"The output starts at a root mean square of {size:.3g} where about 1 is usual, so that "
        f"the first loss is far too large{tied or _SMALLER}."
    ))]  # fmt: skip


_SMALLER = "; scale the inputs to about 1, or draw the last weights smaller"


# --- over depth and time ------------------------------------------------------------------------


class _Trend(NamedTuple):
    forward: float
    """decades over all layers, toward the output"""
    backward: float
    """decades over all layers, toward the input"""
    layers: tuple["LayerSignal", ...]


def _trend(d: Measured) -> _Trend | None:
    """Over layers that write to the model's main path: what stands inside branches is left out."""
    inside = frozenset[str]().union(*(b.inside - b.last for b in d.branches))
    layers = tuple(row for row in d.layers if not inside.issuperset(row.paths)) or d.layers
    ahead = [(i, r.log_rms) for i, r in enumerate(layers) if math.isfinite(r.log_rms)]
    back = [(-i, r.log_grad_norm) for i, r in enumerate(layers) if math.isfinite(r.log_grad)]
    if min(len(ahead), len(back)) < 3:
        return None
    steps = len(layers) - 1
    return _Trend(_slope(ahead) * steps, _slope(back) * steps, layers)


def _slope(points: Sequence[tuple[int, float]]) -> float:
    """The median slope; of a few points, the median step, of two the smaller one."""
    x, y = np.transpose(points)
    if len(points) >= 6:
        return float(scipy.stats.theilslopes(y, x).slope)
    steps = np.sort(np.diff(y) / np.diff(x))
    low, high = float(steps[(len(steps) - 1) // 2]), float(steps[len(steps) // 2])
    return min(low, high, key=abs) if low * high > 0 else 0.0


def _growth(d: Measured) -> list[Finding]:
    trend = _trend(d)
    if trend is None or any(finding.kind == "explode" for finding in _in_time(d)):
        return []  # in time the steps, and not the layers, are the reason
    forward, backward, layers = trend
    if max(abs(forward), abs(backward)) <= DECADES:
        return []
    # Gradients are what stops training; a growing signal is named where it is all there is.
    by_gradient = abs(backward) > DECADES
    total = backward if by_gradient else forward
    rate = 10 ** (total / (len(layers) - 1))
    kind: Fault = "explode" if total > 0 else "vanish"
    what = "Gradients" if by_gradient else "Activations"
    if by_gradient and forward * backward > 0 and abs(forward) > DECADES:
        what = "Signal and gradients"
    first, last = layers[0].layer, layers[-1].layer
    way = f"from {last} to {first}" if by_gradient else f"from {first} to {last}"
    unseen = any(row.log_grad == -math.inf for row in layers)
    lost = ", below what float32 holds before that" if unseen and kind == "vanish" else ""
    said = (
        f"{what} {kind}: x{rate:.2g} per layer {way} (10^{total:+.1f} in all{lost}). "
        f"{_reason(d, kind, forward)}"
    )
    return [Finding(kind, tuple(row.layer for row in layers), said)]


def _reason(d: Measured, kind: Fault, forward: float) -> str:
    names = [row.activation for row in d.layers if row.activation]
    name = max(set(names), key=names.count) if names else None
    drawn = [p for p in _weights(d) if p.std > 0]
    std, gain = np.median([[p.std, p.gain] for p in drawn], axis=0) if drawn else (0.0, 0.0)
    normed = any(p.role.role in ("scale", "statistic") for p in d.parameters)
    if kind == "explode" and normed and abs(forward) < DECADES:
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
    what = f"{name} with" if name else "Weights of"
    cure = _scheme(d, None, name)
    return f"{what} std {std:.2g} (a gain of {gain:.2g}); use {cure}."


def _scheme(d: Measured, p: "ParameterSignal | None", name: str | None = None) -> str:
    """The scheme for an activation: the most frequent one's if none is named."""
    from jinit import theory

    names = [row.activation for row in d.layers if row.activation in ACTIVATIONS]
    if name is None and p is not None:
        name = p.role.activation
    if name is None and names:
        name = max(set(names), key=names.count)
    if name in ACTIVATIONS and ACTIVATIONS[name].rectifies:
        return 'jinit.reinit, scheme="he"'
    if name is None or name not in ACTIVATIONS:
        return 'jinit.reinit, scheme="xavier"'
    return f'jinit.reinit, scheme="xavier", gain={theory.gain(name):.2f}'


def _in_time(d: Measured) -> list[Finding]:
    """Loops whose passes share weights: recurrent networks."""
    worst: dict[Fault, tuple[float, str, LayerSignal]] = {}
    for row in d.layers:
        back = [(-t, g) for t, g in enumerate(row.in_time) if math.isfinite(g)]
        ahead = [(t, f) for t, f in enumerate(row.forward_in_time) if math.isfinite(f)]
        if len(back) < 4 or len(ahead) < 4:
            continue
        steps = len(row.in_time) - 1
        for what, total in (("gradient", _slope(back) * steps), ("signal", _slope(ahead) * steps)):
            if total > DECADES:
                kind: Fault = "explode"
            elif what == "gradient" and total < -DECADES_IN_TIME:
                kind = "vanish"
            else:
                continue
            if kind not in worst or abs(total) > abs(worst[kind][0]):
                worst[kind] = (total, what, row)
    return [
        Finding(kind, (row.layer,), (
            f"Through time the {what} of {row.layer} {kind}{'es' if kind == 'vanish' else 's'}: "
            f"x{10 ** (total / (len(row.in_time) - 1)):.2g} per step (10^{total:+.1f} over "
            f"{len(row.in_time)} steps); {_CURES_IN_TIME[kind]}."
        ))
        for kind, (total, what, row) in worst.items()
    ]  # fmt: skip


_CURES_IN_TIME = {
    "explode": "draw the recurrent weights orthogonal with gain 1 and clip gradients",
    "vanish": "recurrent weights that are orthogonal with gain 1 and forget biases of 1 keep more "
    "of it; if they are, shorten the sequences or let the loss look at every step",
}
