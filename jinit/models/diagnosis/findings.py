"""What measured signals mean: a table of all that may be wrong, and how each is told.

A check yields (layers, sentence with a cure). Thresholds are in decades (powers of ten) over a
whole model, so that what depth does is told from the differences that layers of different kinds
have among themselves.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from jinit.activations import ACTIVATIONS
from jinit.models.diagnosis.cures import scheme_for
from jinit.models.diagnosis.growth import DECADES, changes, trend
from jinit.models.diagnosis.records import Finding, ParameterSignal, decades
from jinit.models.diagnosis.report import FEWEST, Diagnosis
from jinit.models.tracing.layout import reading

Said = Iterator[tuple[list[str], str]]

DEAD, SATURATED = 0.75, 0.5
OFF = 5.0
"""times the usual size of weights"""
OFF_ALONE = 10.0
"""times beyond all conventions, where there are too few weights to say what is usual"""
LARGE_OUTPUT = 8.0
FAR_LOSS = 5.0
"""times the loss of an output of zeros"""
SHARP = 0.1
"""share of the entropy of equal weights"""
_CONSTANTS = (1.0, math.sqrt(2), 1 / math.sqrt(3), 0.8796256610342398)
"""std * sqrt(fan) of LeCun, He, PyTorch, and of a truncation that is not corrected"""


def find(d: Diagnosis) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """All findings of a diagnosis, the worst first, and remarks on what may be meant.

    What another finding explains is left out.
    """
    found = {
        kind: [Finding(kind, tuple(layers), said) for layers, said in fault.check(d)]
        for kind, fault in FAULTS.items()
    }
    findings = tuple(
        finding
        for kind, fault in FAULTS.items()
        if not any(found[other] for other in fault.explained_by)
        for finding in found[kind]
    )
    return findings, tuple(_remarks(d))


def _remarks(d: Diagnosis) -> Iterator[str]:
    """What is unusual, and by design in many models."""
    for p in d.parameters:
        if p.by_design and p.role.kind != "bias":
            yield f"{p.label}: {p.by_design}"
    drawn = [p for p in d.weights if p.std > 0]
    if len(drawn) >= FEWEST:
        usual = float(np.exp(np.median(np.log([p.gain for p in drawn[:-1]]))))
        if drawn[-1].gain * OFF < usual and drawn[-1] is d.weights[-1]:
            yield (
                f"The readout {drawn[-1].label} starts {usual / drawn[-1].gain:.2g} times smaller "
                f"than the other weights, as some do by design: the first output is near 0."
            )
    if d.uninformed > 0 and 0 <= d.loss < 0.2 * d.uninformed:
        yield (
            f"The first loss is {d.loss:.3g}, far below the {d.uninformed:.3g} of an output of "
            f"zeros: the model has been trained, or its inputs tell the answer."
        )


def _shut(d: Diagnosis) -> int:
    """The place in call order of the last weight that starts at 0 by design; -1 if none does."""
    return max((p.role.order or 0 for p in d.weights if p.by_design), default=-1)


def _listed(labels: list[str]) -> str:
    unique = list(dict.fromkeys(labels))
    return ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")


def _nonfinite(d: Diagnosis) -> Said:
    weights = [p.label for p in d.parameters if not math.isfinite(p.mean)]
    bad = [row.layer for row in d.layers if not row.log_pre < math.inf]
    back = [row.layer for row in d.layers if not row.log_grad < math.inf]
    if weights:
        yield weights, f"{_listed(weights)} holds numbers that are none (inf or NaN); draw it anew."
    elif bad:
        yield bad, (
            f"The signal is no number from {bad[0]} on (inf or NaN); look at the inputs, then at "
            f"weights and norms before it."
        )  # fmt: skip
    elif not (d.log_output < math.inf and math.isfinite(d.loss)):
        yield [], (
            "All layers give numbers, but the output or the loss is none (inf or NaN); look at "
            "what comes after the last weights: a logarithm, root or division."
        )  # fmt: skip
    elif back:
        yield back, (
            f"The gradient is no number from {back[-1]} to the input (inf or NaN), though the "
            f"signal is; a square root, logarithm or division at 0 is the usual cause."
        )  # fmt: skip


def _zero(d: Diagnosis) -> Said:
    ends = frozenset[str]().union(*(branch.last for branch in d.branches))
    zeros = [
        p for p in d.weights
        if p.std == p.mean == 0 and p.role.path not in ends and not p.by_design  # Fixup's
    ]  # fmt: skip
    # Some start at 0 and let gradients pass beside them, as a modulation does.
    before = [row for row in d.layers if row.log_grad == -math.inf and row.log_pre > -math.inf]
    first = [p for p in zeros if p is d.weights[0]]
    if zeros and (len(zeros) == len(d.layers) or before):
        labels = [p.label for p in zeros]
        later = " that lies before it" if len(zeros) == 1 else ""
        yield labels, (
            f"{_listed(labels)}: all weights are zero, so that no gradient reaches anything{later} "
            f"in the first step; draw them, small if the output shall start at 0 (normal with "
            f"scale 0.01), or with {scheme_for(d, zeros[-1].role.activation)}."
        )  # fmt: skip
    elif first:
        yield [first[0].label], (
            f"{first[0].label}: all weights are zero, so that the first layer passes on nothing of "
            f"what it reads; draw them with {scheme_for(d, first[0].role.activation)}."
        )  # fmt: skip


def _stuck(d: Diagnosis) -> Said:
    """Factors that are all 0: each one's gradient is a multiple of the others."""
    still = [
        p for p in d.parameters
        if p.std == p.mean == 0 and p.log_grad == -math.inf and p.role.times
        and p.role.kind in ("weight", "tied", "scale", "embedding")
    ]  # fmt: skip
    if len(still) > 1:
        labels = [p.label for p in still]
        yield labels, (
            f"{_listed(labels)} are 0 and multiply each other, so that the gradient of each is 0 "
            f"and none of them ever learns; draw one of them at random (of LoRA's two, A) and "
            f"leave the other at 0."
        )  # fmt: skip


def _copies(d: Diagnosis) -> Said:
    same = [p for p in d.parameters if p.same_as]
    if same:
        first = same[0]
        yield [p.label for p in same], (
            f"{_listed([p.label for p in same])} hold{'s' * (len(same) == 1)} the same numbers as "
            f"{first.same_as}: one key drew them; split the key, one for each."
        )  # fmt: skip


def _symmetric(d: Diagnosis) -> Said:
    same = [p for p in d.weights if p.constant and (p.std > 0 or p.mean != 0)]
    labels = [p.label for p in same]
    if same:
        yield labels, (
            f"All units of {_listed(labels)} have the same weights and give the same, so that each "
            f"of these layers passes on one number; draw the weights at random with "
            f"{scheme_for(d, same[0].role.activation)}."
        )  # fmt: skip


def _frozen(d: Diagnosis) -> Said:
    # Residual branches that start at 0 open with the first step.
    zero = {p.role.path for p in d.parameters if p.mean == p.std == 0 and p.role.kind != "bias"}
    shut = frozenset[str]().union(
        *(b.inside for b in d.branches if b.inside & zero),
        *(row.paths for row in d.layers if row.log_pre == -math.inf),
    )
    meant = {p.label for p in d.weights if p.by_design}
    pairs = [set(a.after.split(" x ")) for a in d.attention]
    waiting = set[str]().union(*(pair for pair in pairs if pair & meant))  # keys of zero queries
    still = [
        p.label for p in d.weights
        if p.log_grad == -math.inf and p.role.times and p.role.path not in shut
        and (p.role.order or 0) > _shut(d) and p.label not in waiting
    ]  # fmt: skip
    total = trend(d)
    faded = total is not None and total.backward < -DECADES  # below what float32 holds
    if still and not faded and not _off(d):
        yield still, (
            f"No gradient reaches {_listed(still)} in this batch; look for a stop_gradient, a "
            f"rounding or an argmax between there and the loss, or a factor that is zero."
        )  # fmt: skip


def _off(d: Diagnosis) -> bool:
    """Whether a whole layer of units is off."""
    return any(a.dead == 1 for a in d.activations)


def _dead(d: Diagnosis) -> Said:
    reached = {row.layer for row in d.layers if row.log_pre > -math.inf}
    dead = [a for a in d.activations if a.dead > DEAD and a.after in reached]
    if dead:
        after, worst = [a.after for a in dead], max(dead, key=lambda a: a.dead)
        yield after, (
            f"{100 * worst.dead:.0f}% of the units of the {worst.name or 'activation'} after "
            f"{_listed(after)} are dead: off on every sample, without a gradient; set the biases "
            f"there to 0 and draw the weights with {scheme_for(d)}."
        )  # fmt: skip


def _saturated(d: Diagnosis) -> Said:
    flat = [
        a for a in d.activations
        if a.name in ACTIVATIONS and ACTIVATIONS[a.name].squashes and a.saturated > SATURATED
    ]  # fmt: skip
    if flat:
        after, worst = [a.after for a in flat], max(flat, key=lambda a: a.saturated)
        yield after, (
            f"{worst.name} is saturated after {_listed(after)}: {100 * worst.saturated:.0f}% of "
            f"its values lie where it is flat, so that it answers like a switch and hardly learns; "
            f"draw the weights smaller, with {scheme_for(d, worst.name)}."
        )  # fmt: skip


def _scale(d: Diagnosis) -> Said:
    drawn = [p for p in d.weights if p.std > 0 and p.role.kind == "weight"]
    if len(drawn) < 4:
        yield from _alone(d, drawn)
        return
    usual = float(np.exp(np.median(np.log([p.gain for p in drawn]))))
    odd = [
        p for p in drawn
        if abs(math.log(p.gain / usual)) > math.log(OFF) and not _is_small_head(d, p, usual)
    ]  # fmt: skip
    if not odd or len(odd) > max(1, len(drawn) // 8):
        return
    labels, worst = [p.label for p in odd], max(odd, key=lambda p: abs(math.log(p.gain / usual)))
    times = worst.gain / usual
    size = f"{times:.1f} times as large as" if times > 1 else f"{1 / times:.1f} times smaller than"
    yield labels, (
        f"The weights of {_listed(labels)} are {size} those of the other {len(drawn) - len(odd)} "
        f"layers, fans considered (std {worst.std:.3g} at a fan-in of {worst.role.fan_in}); if "
        f"that is not meant, draw them like the others."
    )  # fmt: skip


def _is_small_head(d: Diagnosis, p: ParameterSignal, usual: float) -> bool:
    """A readout smaller than other weights, as muP and policies have it, is no fault."""
    return p is d.weights[-1] and p.gain < usual


def _alone(d: Diagnosis, drawn: list[ParameterSignal]) -> Said:
    """Of weights too few to say what is usual, those far from what every convention draws."""
    ends = frozenset[str]().union(*(branch.last for branch in d.branches))
    low, high = min(_CONSTANTS) / OFF_ALONE, max(_CONSTANTS) * OFF_ALONE
    odd = [p for p in drawn if not low < p.gain < high and p.role.path not in ends]
    if len(drawn) >= FEWEST:
        odd = [p for p in odd if not _is_small_head(d, p, low)]
    if not odd or (len(odd) == len(drawn) > 1):  # all alike: what depth does is told elsewhere
        return
    worst = max(odd, key=lambda p: abs(math.log(p.gain)))
    near = low * OFF_ALONE if worst.gain < low else high / OFF_ALONE
    times = max(worst.gain / near, near / worst.gain)
    labels = [p.label for p in odd]
    yield labels, (
        f"The weights of {_listed(labels)} are {times:.0f} times "
        f"{'smaller' if worst.gain < low else 'larger'} than any convention draws them (std "
        f"{worst.std:.3g} at a fan-in of {worst.role.fan_in}); if that is not meant, draw them "
        f"with {scheme_for(d, worst.role.activation)}."
    )  # fmt: skip


def _fans(d: Diagnosis) -> Said:
    """std * sqrt(fan_out) is a usual number everywhere, and std * sqrt(fan_in) is not."""
    drawn = [(p, p.role.fan_in, p.role.fan_out) for p in d.weights if p.std > 0]
    uneven = [(p, m, n) for p, m, n in drawn if m and n and max(m, n) >= 1.5 * min(m, n)]
    stds = [p.std for p, m, n in drawn if m and n]
    if len(uneven) < 2 or max(stds) < 1.05 * min(stds):  # one std for all looks at no fan
        return
    swapped = [
        p for p, m, n in uneven
        if _is_usual(p, n) and not (_is_usual(p, m) or _is_usual(p, (m + n) / 2) or p.orthogonal)
    ]  # fmt: skip
    if len(swapped) < 2 or len(swapped) * 2 < len(uneven):
        return
    # Beside these, a std that is another convention's for the right fan is theirs all the same.
    usual = float(np.median([p.std * math.sqrt(p.role.fan_out or 1) for p in swapped]))
    labels, p = [p.label for p, _, n in uneven if p in swapped or _is(p, n, usual)], swapped[0]
    axes = reading(p.role) if len(p.role.shape) > 2 else None
    swap = f"name the axes to the initializer, {axes}" if axes else "swap the initializer's axes"
    yield labels, (
        f"The weights of {_listed(labels)} are scaled by the wrong fan: their std is a usual one "
        f"for a fan-in of {p.role.fan_out}, which is {p.label}'s fan-out, and not for its "
        f"{p.role.fan_in} inputs; {swap}, or redraw with "
        f"{scheme_for(d, p.role.activation)}."
    )  # fmt: skip


def _is_usual(p: ParameterSignal, fan: int | float) -> bool:
    """Whether the std is one that a known convention draws for such a fan."""
    return any(_is(p, fan, constant) for constant in _CONSTANTS)


def _is(p: ParameterSignal, fan: int | float, gain: float) -> bool:
    """Whether the std is that of a gain for such a fan."""
    error = max(4 * math.sqrt(1 / (2 * math.prod(p.role.shape))), 0.01)
    return abs(p.std * math.sqrt(fan) / gain - 1) < error


def _output(d: Diagnosis) -> Said:
    late = d.uninformed > 0 and d.loss > FAR_LOSS * d.uninformed
    if not (d.log_output > math.log(LARGE_OUTPUT) or late):
        return
    last, total = d.layers[-1:], trend(d)
    first = ""
    if d.uninformed > 0:
        first = f" ({d.loss:.3g}, where an output of zeros has {_loss(d.uninformed)})"
    if total is not None and 2 * total.forward > decades(d.log_output) > 0:
        drawn = [p for p in d.weights if p.std > 0]
        gain, steps = float(np.median([p.gain for p in drawn])), len(total.layers) - 1
        yield [row.layer for row in total.layers], (
            f"The output starts at a root mean square of {math.exp(d.log_output):.3g} where about "
            f"1 is usual, so that the first loss is far too large{first}: every layer makes the "
            f"signal larger, x{10 ** (total.forward / steps):.2g} each (weights with a gain of "
            f"{gain:.2g}); use {scheme_for(d)}."
        )  # fmt: skip
        return
    cure = "; scale the inputs to about 1, or draw the last weights smaller"
    if last and last[0].kind == "tied":
        name, fan_in = last[0].layer, last[0].fan_in
        cure = (
            f": {name} is tied to an embedding, and each output sums {fan_in} numbers; draw it "
            f"with std 1/sqrt({fan_in}) = {fan_in**-0.5:.3g}, or scale the output"
        )
    yield [row.layer for row in last], (
        f"The output starts at a root mean square of {math.exp(d.log_output):.3g} where about 1 is "
        f"usual, so that the first loss is far too large{first}{cure}."
    )  # fmt: skip


def _loss(uninformed: float) -> str:
    """An uninformed loss, as the logarithm of a number of classes where it is one."""
    classes = math.exp(min(uninformed, 20.0))
    if classes > 1.5 and abs(classes - round(classes)) < 1e-3 * classes:
        return f"ln {round(classes)} = {uninformed:.3f}"
    return f"{uninformed:.3g}"


def _attention(d: Diagnosis) -> Said:
    sharp = [a for a in d.attention if a.keys > 3 and a.entropy < SHARP]
    if sharp:
        worst = min(sharp, key=lambda a: a.entropy)
        yield [name for a in sharp for name in a.after.split(" x ")], (
            f"The attention logits of {worst.after} start with a std of {worst.std:.2g}, so that "
            f"the softmax picks one of {worst.keys} keys ({100 * worst.entropy:.0f} % of the "
            f"entropy of equal weights) and hardly learns; divide them by the root of the head's "
            f"width, or draw queries and keys smaller."
        )  # fmt: skip


class Fault(NamedTuple):
    """Something that may be wrong."""

    meaning: str
    check: Callable[[Diagnosis], Said]
    """yields (layers, sentence) where it is"""
    explained_by: tuple[str, ...] = ()
    """faults that it follows from, beside which it is left out"""


# What does not reach the output gets no gradient either, and so on.
FAULTS: dict[str, Fault] = {
    "nonfinite": Fault("numbers that are none, forward or backward", _nonfinite),
    "zero": Fault("weights that are all zero, so that no gradient or no signal passes", _zero),
    "stuck": Fault("factors that are all zero, so that none ever learns", _stuck, ("zero",)),
    "copies": Fault("parameters that hold the same numbers, drawn from one key", _copies),
    "symmetric": Fault("units that are copies of each other", _symmetric),
    "frozen": Fault("parameters that no gradient reaches", _frozen,
                    ("zero", "stuck", "dead", "nonfinite")),
    "dead": Fault("activations whose slope is zero on every sample", _dead),
    "saturated": Fault("activations that are flat almost everywhere", _saturated),
    "explode": Fault("a signal or gradient that grows layer by layer or step by step",
                     partial(changes, "explode")),
    "vanish": Fault("a signal or gradient that shrinks layer by layer or step by step",
                    partial(changes, "vanish")),
    "attention": Fault("attention that starts by picking one key", _attention),
    "scale": Fault("a layer whose weights are of another size than the others'", _scale,
                   ("symmetric",)),
    "fans": Fault("weights scaled by another fan than the one they have", _fans, ("symmetric",)),
    "output": Fault("an output that starts far from one", _output,
                    ("explode", "nonfinite", "scale")),
}  # fmt: skip
"""Every kind of finding; the worst first."""
