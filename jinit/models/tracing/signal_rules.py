"""What an operation makes of signals alone: one pointwise function more, or a new value."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jinit.models.tracing import curves
from jinit.models.tracing.graph import Graph, Held
from jinit.models.tracing.parameter_rules import SHAPE_ONLY
from jinit.models.tracing.values import Constant, Path, Pointwise, Signal

__all__ = ["as_one", "through_signals"]


def through_signals(graph: Graph, equation: Any, held: list[Held], at: Path) -> list[Held]:
    """What comes out of an operation none of whose operands is made of parameters."""
    name, count = equation.primitive.name, len(equation.outvars)
    shape = equation.outvars[0].aval.shape if count else ()
    integral = any(jax.numpy.issubdtype(v.aval.dtype, np.integer) for v in equation.outvars)
    if name in curves.OPERATIONS and count == 1 and not integral:
        together = _together(graph, equation, held, at)
        if together is not None:
            return [together]
    if name in SHAPE_ONLY and isinstance(held[0].value, Signal):
        signal = held[0].value
        same = equation.invars[0].aval.shape == shape
        if signal.pointwise is None or (same and name != "transpose"):
            features = signal.features if same else None
            if name == "transpose" and signal.features is not None:
                features = equation.params["permutation"].index(signal.features)
            return [Held(replace(signal, features=features), held[0].node)]
    axes = {
        h.value.features for h, atom in zip(held, equation.invars, strict=True)
        if isinstance(h.value, Signal) and atom.aval.shape == shape
        and h.value.features is not None
    }  # fmt: skip
    features = axes.pop() if len(axes) == 1 else None
    if name in ("add", "add_any") and all(isinstance(h.value, Signal) for h in held):
        added = graph.residual_sum(held, at)
        return [added._replace(value=replace(added.value, features=features))]  # type: ignore[type-var]
    if name in ("mul", "div"):
        graph.norm_late(held)
    if name == "dot_general" and equation.params["dimension_numbers"][1][0]:
        graph.not_looked_up(held)
    summed = name.startswith(("reduce_", "cum"))
    return [
        graph.new(held, at, features=features, summed=summed, normed=name in _ROOTS)
        for _ in range(count)
    ]


_ROOTS = {"rsqrt", "sqrt", "pow"}
"""What a norm divides by, or multiplies with."""


def _together(graph: Graph, equation: Any, held: list[Held], at: Path) -> Held | None:
    """One function more on single entries of one source."""
    sources = {h.value.source for h in held if isinstance(h.value, Signal)}
    if len(sources) > 1 or not all(
        isinstance(h.value, Constant)
        or (isinstance(h.value, Signal)
            and (h.value.pointwise or jax.numpy.issubdtype(v.aval.dtype, np.floating)))
        for h, v in zip(held, equation.invars, strict=True)
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
        curve = curves.apply(equation, samples)
    # The argument is where the first operation finds it.
    out = replace(
        signal, pointwise=Pointwise(curve, signal.source, min(entries)), path=at,
        size=graph.size, normed=signal.normed or equation.primitive.name in _ROOTS,
    )  # fmt: skip
    return Held(out, graph.node(held))


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
