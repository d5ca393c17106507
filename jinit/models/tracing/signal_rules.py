"""Steps of rules: what an operation makes of signals alone."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from jinit.models.tracing import curves
from jinit.models.tracing.calls import Call
from jinit.models.tracing.graph import Held
from jinit.models.tracing.values import Constant, Path, Pointwise, Signal


def through_signals(call: Call) -> list[Held]:
    """One pointwise function more, what a step of the rule says, or a new signal."""
    rule = call.rule
    if rule.pointwise and call.made == 1 and not call.integral:
        together = _together(call)
        if together is not None:
            return [together]
    for step in rule.signals:
        found = step(call)
        if found is not None:
            return found
    return [
        call.graph.new(
            call.held, call.at, features=call.features, summed=rule.summed, normed=rule.root
        )
        for _ in range(call.made)
    ]


def moved(call: Call) -> list[Held] | None:
    """The same signal in another shape; where its units lie is known of few."""
    signal = call.values[0]
    if not isinstance(signal, Signal):
        return None
    same = call.equation.invars[0].aval.shape == call.shape
    order = call.equation.params.get("permutation")
    if signal.pointwise is not None and not (same and order is None):
        return None
    features = signal.features if same else None
    if order is not None and signal.features is not None:
        features = order.index(signal.features)
    return [Held(replace(signal, features=features), call.held[0].node)]


def added(call: Call) -> list[Held] | None:
    """A sum of signals, where a residual branch may end."""
    if not all(isinstance(v, Signal) for v in call.values):
        return None
    features = call.features
    added = call.graph.residual_sum(call.held, call.at)
    return [added._replace(value=replace(added.value, features=features))]  # type: ignore[type-var]


def late_norm(call: Call) -> None:
    """A product with what is normed tells of the factors before."""
    call.graph.norm_late(call.held)


def read_one_by_one(call: Call) -> None:
    """A batched product tells that what it reads was no lookup."""
    if call.equation.params["dimension_numbers"][1][0]:
        call.graph.not_looked_up(call.held)


def _together(call: Call) -> Held | None:
    """One function more on single entries of one source."""
    held, at = call.held, call.at
    sources = {h.value.source for h in held if isinstance(h.value, Signal)}
    if len(sources) > 1 or not all(
        isinstance(h.value, Constant)
        or (isinstance(h.value, Signal)
            and (h.value.pointwise or jax.numpy.issubdtype(v.aval.dtype, np.floating)))
        for h, v in zip(held, call.equation.invars, strict=True)
    ):  # fmt: skip
        return None
    samples, entries = [], []
    for i, h in enumerate(held):
        value = h.value
        if isinstance(value, Constant):
            samples.append(value.number)
        elif isinstance(value, Signal):
            signal, bent = value, value.pointwise
            samples.append(curves.GRID if bent is None else bent.curve)
            entries.append((at, i) if bent is None else bent.entry)
    with np.errstate(all="ignore"):
        curve = curves.apply(call.equation, samples, cast=call.rule.same)
    # The argument is where the first operation finds it.
    out = replace(
        signal, pointwise=Pointwise(curve, signal.source, min(entries)), path=at,
        size=call.graph.size, normed=signal.normed or call.rule.root,
    )  # fmt: skip
    return Held(out, call.graph.node(held))


def as_one(end: Held, held: Sequence[Held], at: Path) -> Held:
    """A pointwise function written as a program of its own counts as one operation."""
    signal = end.value
    if not isinstance(signal, Signal) or signal.pointwise is None:
        return end
    if signal.path[: len(at)] != at:
        return end  # passed through
    entry, operand = signal.pointwise.entry
    if entry[: len(at)] == at:
        places = [i for i, h in enumerate(held) if isinstance(h.value, Signal)]
        given = [i for i in places if held[i].value.source == signal.source]  # type: ignore[union-attr]
        if not given:
            return end
        entry, operand = at, given[0]
    bent = signal.pointwise._replace(entry=(entry, operand))
    return end._replace(value=replace(signal, pointwise=bent, path=at))
