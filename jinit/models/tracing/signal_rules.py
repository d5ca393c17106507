"""Steps of rules: what an operation makes of signals alone."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from jinit.models.tracing import curves
from jinit.models.tracing.calls import Call
from jinit.models.tracing.values import Constant, Path, Pointwise, Signal, Value


def through_signals(call: Call) -> list[Value]:
    """One pointwise function more, what a step of the rule says, or a new signal."""
    rule = call.rule
    for step in (_together, *rule.signals):
        found = step(call)
        if found is not None:
            return found
    return [
        call.graph.new(
            call.values, call.at, features=call.features, summed=rule.summed, normed=rule.root
        )
        for _ in range(call.made)
    ]


def moved(call: Call) -> list[Value] | None:
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
    return [replace(signal, features=features)]


def added(call: Call) -> list[Value] | None:
    """A sum of signals, where a residual branch may end."""
    signals = [v for v in call.values if isinstance(v, Signal)]
    if len(signals) < len(call.values):
        return None
    return [replace(call.graph.residual_sum(signals, call.at), features=call.features)]


def late_norm(call: Call) -> None:
    """A product with what is normed tells of a factor before it, as in `x * scale * rsqrt(var)`."""
    signals, uses = [v for v in call.values if isinstance(v, Signal)], call.graph.uses
    if any(s.normed for s in signals):
        made = {s.path for s in signals if not s.normed}
        for i, use in enumerate(uses):
            if use.kind == "scale" and use.path in made and call.graph.is_vector(use.view):
                uses[i] = use._replace(normed=True)


def read_one_by_one(call: Call) -> None:
    """Rows that a batched product reads one by one are matrices, as those of experts are."""
    if call.equation.params["dimension_numbers"][1][0]:
        read = {v.path for v in call.values if isinstance(v, Signal)}
        for i, use in enumerate(call.graph.uses):
            rows = sum(n > 1 for n in use.view.shape[1:]) > 1
            if use.kind == "embedding" and use.path in read and rows:
                call.graph.uses[i] = use._replace(kind="other")


def _together(call: Call) -> list[Value] | None:
    """One function more on single entries of one source."""
    dtypes = [v.aval.dtype for v in call.equation.outvars]
    if not call.rule.pointwise or len(dtypes) > 1 or jax.numpy.issubdtype(dtypes[0], np.integer):
        return None
    source, samples, entries = set[int](), [], []
    for i, (value, atom) in enumerate(zip(call.values, call.equation.invars, strict=True)):
        if isinstance(value, Constant):
            samples.append(value.number)
            continue
        bent = value.pointwise if isinstance(value, Signal) else None
        floating = jax.numpy.issubdtype(atom.aval.dtype, np.floating)
        if not isinstance(value, Signal) or not (bent or floating):
            return None
        signal = value
        source.add(signal.source)
        samples.append(curves.GRID if bent is None else bent.curve)
        entries.append((call.at, i) if bent is None else bent.entry)
    if len(source) > 1:
        return None
    with np.errstate(all="ignore"):
        curve = curves.apply(call.equation, samples, cast=call.rule.same)
    # The argument is where the first operation finds it.
    return [replace(
        signal, node=call.graph.node(call.values), path=call.at, size=call.graph.size,
        pointwise=Pointwise(curve, signal.source, min(entries)),
        normed=signal.normed or call.rule.root,
    )]  # fmt: skip


def as_one(end: Value, values: Sequence[Value], at: Path) -> Value:
    """A pointwise function written as a program of its own counts as one operation."""
    if not isinstance(end, Signal) or end.pointwise is None or end.path[: len(at)] != at:
        return end  # the last: passed through
    entry = end.pointwise.entry
    if entry[0][: len(at)] == at:
        own = [i for i, v in enumerate(values) if isinstance(v, Signal) and v.source == end.source]
        if not own:
            return end
        entry = at, own[0]
    return replace(end, pointwise=end.pointwise._replace(entry=entry), path=at)
