"""Steps of rules: what an operation makes of signals alone."""

import math
from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from jinit.models.tracing import curves
from jinit.models.tracing.calls import Call
from jinit.models.tracing.jaxprs import axes_after, columns_after
from jinit.models.tracing.values import (
    Constant,
    Known,
    Path,
    Pointwise,
    Rescaled,
    Rows,
    Signal,
    Value,
)


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
    axes, fresh = axes_after(call.equation)
    whole = call.equation.primitive.name not in ("slice", "dynamic_slice")
    carried = {
        "spread": frozenset(axes[a] for a in signal.spread if a in axes) | fresh,
        "columns": columns_after(call.equation, signal.columns) if whole or same else (),
        "one_hot": axes.get(signal.one_hot) if signal.one_hot is not None and whole else None,
        "rows": _rows_after(signal.rows, axes) if whole or same else None,
        "multiplied": signal.multiplied if same and order is None else None,
    }
    if signal.pointwise is not None and not (same and order is None):
        if not (whole and signal.rescaled and curves.name_of(signal.pointwise.curve) == "identity"):
            out = call.graph.new([signal], call.at)
            return [replace(out, spread=carried["spread"], one_hot=carried["one_hot"])]  # type: ignore[arg-type]
        carried["pointwise"] = None  # a constant factor goes with it
    features = signal.features if same else None
    if order is not None and signal.features is not None:
        features = order.index(signal.features)
    return [replace(signal, features=features, **carried)]  # type: ignore[arg-type]


def _rows_after(rows: Rows | None, axes: dict[int, int]) -> Rows | None:
    if rows is None or any(a not in axes for a in rows.axes):
        return None
    return rows._replace(axes=tuple(axes[a] for a in rows.axes))


def cut(call: Call) -> list[Value] | None:
    """A part of a signal: of units that lie side by side it is noted where they were cut."""
    signal = call.values[0]
    if not isinstance(signal, Signal) or not signal.columns or not signal.uses:
        return None
    shape = call.equation.invars[0].aval.shape
    grid = tuple(shape[a] for a in signal.columns)
    found: list[Value] = []
    first = 0
    axis = call.equation.params.get("axis")
    for out in call.equation.outvars:
        if axis is None:
            starts = call.equation.params["start_indices"]
            cuts = [a for a in signal.columns if out.aval.shape[a] < shape[a]]
            if len(cuts) != 1:
                return None
            at, first = cuts[0], starts[cuts[0]]
        else:
            at = axis
        if at not in signal.columns:
            return None
        size = 1 if call.equation.primitive.name == "unstack" else out.aval.shape[at]
        call.graph.cut(signal.uses, (grid, signal.columns.index(at), first, first + size))
        own = frozenset((use, int(first)) for use in signal.uses)
        first += size
        size = math.prod(out.aval.shape)
        part = replace(
            call.graph.new([signal], call.at, features=signal.features), size=size, cut=own
        )
        found.append(part)
    return found


def joined(call: Call) -> list[Value] | None:
    """What was cut and comes together again, as the halves that a rotation mixes, was no gate."""
    cuts = [v.cut for v in call.values if isinstance(v, Signal) and v.cut]
    for i, one in enumerate(cuts):
        for other in cuts[:i]:
            starts = dict(one)
            call.graph.rejoined |= {i for i, first in other if starts.get(i, first) != first}
    return None


def added(call: Call) -> list[Value] | None:
    """A sum of signals, where a residual branch may end."""
    signals = [v for v in call.values if isinstance(v, Signal)]
    if len(signals) < len(call.values):
        return None
    picked = [s for s in signals if s.rows]
    for row in picked if len(picked) < len(signals) else []:
        assert row.rows is not None
        rest = [s for s in signals if s is not row]
        experts = (call.graph.uses[i] for s in rest for i in s.uses)
        if any(use.kind == "weight" and use.picked_by_data for use in experts):
            order = row.rows.use
            call.graph.uses[order] = call.graph.uses[order]._replace(kind="bias")
            return list(rest[:1])
    out = call.graph.residual_sum(signals, call.at)
    columns = {s.columns for s in signals}
    kept = columns.pop() if len(columns) == 1 else ()
    return [replace(out, features=call.features, columns=kept)]


def multiplied(call: Call) -> None:
    """A product of signals; by it a factor turns out to be a norm's, or an exponential a decay."""
    late_norm(call)
    signals = [v for v in call.values if isinstance(v, Signal)]
    call.graph.meet(signals)
    raised = [s for s in signals if s.raised]
    state = any(s.state for s in signals)
    again = len(raised) > 1 and raised[0].raised & raised[1].raised
    if call.equation.primitive.name == "mul" and raised and (state or again):
        call.graph.are_rates(frozenset[int]().union(*(s.raised for s in raised)))


def late_norm(call: Call) -> None:
    """A product with what is normed tells of a factor before it, as in `x * scale * rsqrt(var)`."""
    signals, uses = [v for v in call.values if isinstance(v, Signal)], call.graph.uses
    if any(s.normed for s in signals):
        made = {s.path for s in signals if not s.normed}
        for i, use in enumerate(uses):
            if use.kind == "scale" and use.path in made and call.graph.is_vector(use.view):
                uses[i] = use._replace(normed=True)


def summed(call: Call) -> list[Value] | None:
    """A sum over a product entry by entry with a parameter is a matrix product."""
    signal = call.values[0]
    axes = tuple(map(int, call.equation.params["axes"]))
    if isinstance(signal, Signal) and signal.exponential and signal.scores:
        call.graph.softmax(signal, axes)
    if not isinstance(signal, Signal) or signal.multiplied is None:
        return None
    found = call.graph.sum_product(signal, axes, call.at)
    return None if found is None else [found]


def accumulated(call: Call) -> list[Value] | None:
    """A sum over time: what it is multiplied with later goes on as a state does."""
    out = call.graph.new(call.values, call.at, summed=True)
    return [replace(out, state=bool(out.terms), accumulated=out.terms, spread=frozenset())]


def compared(call: Call) -> list[Value] | None:
    """An index beside all indices: one entry along their axis is 1."""
    for i, value in enumerate(call.values):
        other = call.values[1 - i]
        known = isinstance(value, Known) and isinstance(other, Signal)
        dtype = call.equation.invars[i].aval.dtype
        if known and jax.numpy.issubdtype(dtype, np.integer):
            axes = [a for a in call.spread(1 - i) if call.shape[a] > 1]
            if len(axes) == 1:
                out = call.graph.new(call.values, call.at)
                return [replace(out, one_hot=axes[0])]
    return None


def both_signals(call: Call) -> list[Value] | None:
    """A product of two signals: rows that it reads one by one are matrices, as experts' are."""
    contracting, batch = call.equation.params["dimension_numbers"]
    for i, value in enumerate(call.values):
        if not isinstance(value, Signal) or value.rows is None:
            continue
        rows, use = value.rows, call.graph.uses[value.rows.use]
        inner = [a for a in rows.axes if a in contracting[i]]
        free = [a for a in rows.axes if a not in (*contracting[i], *batch[i])]
        other = call.values[1 - i]
        if not inner or not free or not isinstance(other, Signal):
            continue
        place = dict(zip(rows.axes, use.axes[1], strict=True))
        own = use.view.shape
        groups = [a for a in range(len(own)) if a not in [place[a] for a in (*inner, *free)]]
        call.graph.settle(other, read=True)
        size = {
            name: math.prod(own[place[a]] for a in axes)
            for name, axes in (("in", inner), ("out", free))
        }
        call.graph.uses[rows.use] = use._replace(
            kind="weight", path=call.at, size=call.graph.size, picked_by_data=True,
            fan_in=size["in"], fan_out=size["out"], groups=math.prod(own[a] for a in groups),
            axes=(tuple(groups), tuple(place[a] for a in inner), tuple(place[a] for a in free)),
        )  # fmt: skip
        out = call.graph.new([other], call.at)
        return [_product(out, frozenset({rows.use}))]
    signals = [v for v in call.values if isinstance(v, Signal)]
    scores = frozenset[int]().union(*(s.uses for s in signals))
    out = call.graph.new(call.values, call.at, features=call.features)
    return [replace(_product(out, out.uses), scores=scores)]


def _product(out: Signal, uses: frozenset[int]) -> Signal:
    """What a product gives: the terms of what is multiplied end with it."""
    none = frozenset[int]()
    return replace(out, uses=uses, terms=none, raised=none, accumulated=none)


def _together(call: Call) -> list[Value] | None:
    """One pointwise function of one signal and constants; None if it is not one."""
    # What is no number, as the state of an effect, has no dtype.
    dtypes = [atom.aval.dtype for atom in call.equation.outvars if hasattr(atom.aval, "dtype")]
    if not call.rule.pointwise or len(dtypes) != 1:
        return None
    if jax.numpy.issubdtype(dtypes[0], np.integer):
        return None
    if jax.numpy.issubdtype(dtypes[0], np.complexfloating):
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
    name, same = call.equation.primitive.name, call.rule.same
    raised = signal.raised
    if name in ("exp", "exp2"):
        raised |= signal.terms
        call.graph.are_rates(signal.accumulated)  # what remains after some steps
    elif name in ("log", "log1p"):
        raised = frozenset()
    # The argument is where the first operation finds it.
    return [replace(
        signal, node=call.graph.node(call.values), path=call.at, size=call.graph.size,
        pointwise=Pointwise(curve, signal.source, min(entries)),
        normed=signal.normed or call.rule.root, raised=raised, rescaled=_rescaled(call),
        multiplied=signal.multiplied if same else None, rows=signal.rows if same else None,
        state=signal.state and same, exponential=name == "exp",
        one_hot=signal.one_hot if same else None,
        cut=signal.cut if curve.dtype == np.float32 and name in _LINES else frozenset(),
    )]  # fmt: skip


_LINES = {"mul", "div", "neg", "convert_element_type", "copy", "add", "sub"}


def _rescaled(call: Call) -> tuple[Rescaled, ...]:
    """The constant factors that all operands have in common, and one more where this is one."""
    signals = [v for v in call.values if isinstance(v, Signal)]
    if any(not s.uses for s in signals):
        return ()
    shared = signals[0].rescaled
    for signal in signals[1:]:
        pairs = zip(shared, signal.rescaled, strict=False)
        shared = tuple(a for a, b in pairs if a is b)
    name, constants = call.equation.primitive.name, [
        v for v in call.values if isinstance(v, Constant)
    ]  # fmt: skip
    line = signals[0].pointwise is None or (
        curves.name_of(signals[0].pointwise.curve) == "identity"
    )
    known = name == "mul" or (name == "div" and isinstance(call.values[0], Signal))
    if not (known and len(signals) == len(constants) == 1 and line):
        return shared
    number = float(np.asarray(constants[0].number))
    before = signals[0].rescaled[-1].factor if signals[0].rescaled else 1.0
    factor = before * (number if name == "mul" else 1 / number) if number else 0.0
    if not factor > 0 or not math.isfinite(factor):
        return shared
    return (*signals[0].rescaled, Rescaled(factor, call.at))


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
