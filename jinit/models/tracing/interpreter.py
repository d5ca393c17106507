"""An abstract run of a jaxpr, which follows every value into nested programs."""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal as JaxprLiteral

from jinit.models.tracing import curves
from jinit.models.tracing.calls import Call, Rule
from jinit.models.tracing.graph import Graph, is_bent
from jinit.models.tracing.jaxprs import (
    ClosedJaxpr,
    inner_jaxpr,
    inner_jaxprs,
    opened,
    output,
    split_scan,
)
from jinit.models.tracing.made import known, laid_out
from jinit.models.tracing.parameter_rules import with_parameters
from jinit.models.tracing.rules import RULES, WHOLE
from jinit.models.tracing.signal_rules import as_one, through_signals
from jinit.models.tracing.values import (
    Constant,
    Fixed,
    Joined,
    Known,
    Loop,
    Parameters,
    Path,
    Signal,
    Value,
    View,
)

_now = time.monotonic
_PATIENCE = 5.0  # seconds; twelve times as many are said


def follow(program: ClosedJaxpr, shapes: Sequence[tuple[int, ...]]) -> Graph:
    """What is found in a whole model: parameters of these shapes come first, then its inputs."""
    graph, jaxpr = Graph(shapes), opened(program)
    values: list[Value] = [View(i, shape) for i, shape in enumerate(shapes)]
    values += [Signal(graph.node()) for _ in jaxpr.invars[len(shapes) :]]
    ends = _Walk(graph).run(program, values, ())
    out: list[Any] = jaxpr.outvars
    graph.conclude([(end, v.aval.shape) for end, v in zip(ends, out, strict=True)])
    return graph


class _Clock:
    """Says once how long the reading of a large model will take."""

    def __init__(self) -> None:
        self.began, self.said = _now(), False
        self.mark = self.began, 0

    def passed(self, done: int, count: int) -> None:
        """So many operations of so many are done.

        The pace is that of the last `_PATIENCE` seconds: what is prepared once, in the first
        operations, is not met again.
        """
        now = _now()
        since, before = self.mark
        if self.said or now - since < _PATIENCE:
            return
        self.mark = now, done
        if since == self.began or done == before:
            return
        whole = now - self.began + (count - done) * (now - since) / (done - before)
        if whole > 12 * _PATIENCE:
            self.said = True
            warnings.warn(
                f"reading the model takes about {whole:.0f} s: {done} of {count} operations in "
                f"{now - self.began:.0f} s; layers in a jax.lax.scan are read once.",
                stacklevel=2,
            )


class _Walk:
    """Goes through the equations in order, and tells `graph` what it meets."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.clock = graph, _Clock()

    def run(self, program: ClosedJaxpr, values: Sequence[Value], at: Path) -> list[Value]:
        """What comes out of a program that stands at a path."""
        jaxpr = opened(program)
        env: dict[Any, Value] = dict(zip(jaxpr.invars, values, strict=True))
        for variable, number in zip(jaxpr.constvars, getattr(program, "consts", ()), strict=False):
            env[variable] = _fixed(number)

        def read(atom: Any) -> Value:
            if isinstance(atom, JaxprLiteral):
                return _fixed(atom.val)
            return env.get(atom)

        for number, equation in enumerate(jaxpr.eqns):
            if not at:
                self.clock.passed(number, len(jaxpr.eqns))
            given = [read(atom) for atom in equation.invars]
            out = self._equation(equation, given, (*at, number))
            env.update(zip(equation.outvars, out, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, values: list[Value], at: Path) -> list[Value]:
        name, count = equation.primitive.name, len(equation.outvars)
        out = equation.outvars[0].aval if count else None
        self.graph.size = math.prod(out.shape) if out is not None else 0
        self.graph.floating = out is not None and _is_floating(out)
        self.graph.dtype = getattr(out, "dtype", np.dtype(np.float32))
        if not any(isinstance(v, Signal | Parameters) for v in values):
            return _constants(equation, values)
        rule = RULES.get(name, Rule())
        call = Call(self.graph, equation, values, at, rule)
        if equation.params.get("name") in WHOLE and not call.places:
            self.graph.activated(equation.params["name"], values, at)
            return [self.graph.new(values, at)] * count
        if rule.random and not any(_is_floating(v.aval) for v in equation.invars):
            return [None] * count
        if name in _CONTROL:
            if not any(isinstance(v, Signal) for v in values):
                return self._alone(equation, values, at)
            return _CONTROL[name](self, equation, values, at)
        if inner_jaxprs(equation):
            ends = self.run(inner_jaxpr(equation.params), values, (*at, 0))
            return [as_one(end, values, at) for end in ends]
        bent = isinstance(values[0], Signal) and values[0].pointwise is not None
        if rule.same and not bent:
            return [values[0]] * count
        return with_parameters(call) if call.places else through_signals(call)

    # --- loops and branches ---

    def _alone(self, equation: Any, values: list[Value], at: Path) -> list[Value]:
        """A loop or choice without a signal makes one leaf of its parameters.

        Unless all branches, as those of platforms, do the same.
        """
        if equation.primitive.name == "cond":
            branches = enumerate(inner_jaxprs(equation) or ())
            ends = [self.run(branch, values[1:], (*at, i)) for i, branch in branches]
            pairs = (pair for end in ends for pair in zip(ends[0], end, strict=True))
            if all(self.graph.are_same(a, b) for a, b in pairs):
                return ends[0]
        return list(self.graph.make(equation, values))

    def _scan(self, equation: Any, values: list[Value], at: Path) -> list[Value]:
        params = equation.params
        jaxpr = opened(params["jaxpr"])
        consts, carried = split_scan(equation)
        own = [self._entering(value, at) for value in values[:consts]]
        for i, value in enumerate(values[consts : consts + carried]):
            own.append(self._carry(value, at, jaxpr.outvars[i] is jaxpr.invars[consts + i]))
        own += [self._one_of(value, at) for value in values[consts + carried :]]
        around = self.graph.loops
        self.graph.loops = (*around, Loop(at, params["length"], params["reverse"]))
        found = self.run(jaxpr, own, (*at, 0))
        again = [self._again(v, f) for v, f in zip(own[consts:], found[:carried], strict=False)]
        if any(new is not old for new, old in zip(again, own[consts:], strict=False)):
            # From the second pass on, what is carried comes out of the pass before.
            later = [*own[:consts], *again, *own[consts + carried :]]
            self.graph.keep_activations(
                lambda: self.graph.settle_all(self.run(jaxpr, later, (*at, 0)))
            )
        self.graph.settle_all(found)
        self.graph.loops = around
        return [
            self._passed(f, at) if i < carried else self._collected(f, own, values, at)
            for i, f in enumerate(found)
        ]

    def _entering(self, value: Value, at: Path) -> Value:
        """What every pass of a loop is given: its activation is met before the loop."""
        if not isinstance(value, Signal):
            return value
        if value.pointwise is not None:
            return self.graph.new([value], at)
        return replace(value, multiplied=None, rows=None, rescaled=(), columns=())

    def _carry(self, value: Value, at: Path, unchanged: bool) -> Value:
        """What a loop carries, in its first pass."""
        if isinstance(value, Parameters):
            return value if unchanged else self.graph.use_as_other(value, at)
        return replace(self.graph.new([value], at), state=True)

    def _one_of(self, value: Value, at: Path) -> Value:
        """What one pass of a loop takes of what is stacked."""
        if isinstance(value, View | Joined):
            view = self.graph.whole(value)
            layers = (*view.layers, view.shape[0])
            stacked = (*view.stacked, len(self.graph.loops))
            return view.then(None, view.shape[1:])._replace(layers=layers, stacked=stacked)
        return self.graph.new([value], at) if isinstance(value, Signal) else None

    def _collected(self, out: Value, own: list[Value], given: list[Value], at: Path) -> Value:
        """What the passes of a loop return, side by side."""
        if not isinstance(out, View):
            return self.graph.new([out], at)
        pairs = zip(own, given, strict=True)  # as it came, perhaps
        stacked = next((o for inner, o in pairs if inner == out and isinstance(o, View)), None)
        if stacked is None and _is_layer(out, len(self.graph.loops)):
            shape = (out.layers[-1], *out.shape)
            return View(out.leaf, shape, out.steps[:-1], out.layers[:-1], out.stacked[:-1])
        return stacked or self.graph.use_as_other(out, at)

    def _passed(self, value: Value, at: Path) -> Value:
        return value if isinstance(value, View) else self.graph.new([value], at)

    def _again(self, before: Value, after: Value) -> Value:
        """What a carry is from the second pass on."""
        if not isinstance(after, Signal) or not isinstance(before, Signal):
            return before
        if is_bent(after) or after.uses <= before.uses:
            return before
        uses = after.uses | before.uses
        return Signal(before.node, uses=uses, size=self.graph.size, state=True)

    def _while(self, equation: Any, values: list[Value], at: Path) -> list[Value]:
        body, consts = opened(equation.params["body_jaxpr"]), equation.params["body_nconsts"]
        own = values[equation.params["cond_nconsts"] :]
        own[:consts] = [self._entering(value, at) for value in own[:consts]]
        for i in range(consts, len(own)):
            own[i] = self._carry(own[i], at, body.outvars[i - consts] is body.invars[i])
        found = self.run(body, own, (*at, 0))
        self.graph.settle_all(found)
        return [self._passed(f, at) for f in found]

    def _cond(self, equation: Any, values: list[Value], at: Path) -> list[Value]:
        found, counted = [], set[Any]()
        for i, branch in enumerate(inner_jaxprs(equation) or ()):
            made = len(self.graph.uses)
            found.append(self.run(branch, values[1:], (*at, i)))
            # One branch runs: its uses are not added up.
            for j in range(made, len(self.graph.uses)):
                use = self.graph.uses[j]
                signature = (use.kind, use.view.leaf, use.view.shape, use.fan_in, use.fan_out)
                if i and signature in counted:
                    self.graph.uses[j] = use._replace(times=0)
                counted.add(signature)
        for ends in found:
            self.graph.settle_all(ends)
        return [self._either(values, at) for values in zip(*found, strict=True)]

    def _either(self, values: Sequence[Value], at: Path) -> Value:
        """What comes out of one of several branches."""
        if not any(isinstance(v, Parameters) for v in values):
            return self.graph.new(values, at)
        if all(self.graph.are_same(v, values[0]) for v in values[1:]):
            return values[0]
        found: list[Value] = []
        for v in values:
            kept = isinstance(v, View) and any(self.graph.is_made_of(o, v.leaf) for o in values)
            # Its new value, or the old one, as a running mean is handed on.
            found.append(None if kept else self.graph.use_as_other(v, at))
        return self.graph.new(found, at)


_CONTROL = {"scan": _Walk._scan, "while": _Walk._while, "cond": _Walk._cond}
"""Primitives that run other programs several times, or one of several."""


def _is_floating(aval: Any) -> bool:
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and bool(jax.numpy.issubdtype(dtype, np.inexact))


def _is_layer(view: View, loop: int) -> bool:
    """Whether a view is one layer of this loop and nothing more."""
    return view.stacked[-1:] == (loop,) and view.steps[-1:] == (None,)


def _fixed(numbers: Any) -> Fixed:
    if np.ndim(numbers) == 0 and hasattr(numbers, "dtype") and not _is_key(numbers):
        return Constant(np.asarray(numbers))
    return Constant(np.asarray(numbers)) if np.isscalar(numbers) else Known(lambda: numbers)


def _is_key(numbers: Any) -> bool:
    return bool(jax.numpy.issubdtype(numbers.dtype, jax.dtypes.extended))


def _constants(equation: Any, values: list[Value]) -> list[Value]:
    """What comes of values that are neither data nor parameters."""
    name, count = equation.primitive.name, len(equation.outvars)
    if not all(isinstance(v, Fixed) for v in values) or equation.effects:
        return [None] * count
    given = [v.number for v in values if isinstance(v, Constant)]
    if given and len(given) == len(values):
        if len(given) == 1 and name in ("broadcast_in_dim", "reshape"):
            return [Constant(given[0])]
        rule = RULES.get(name, Rule())
        if rule.pointwise:
            return [Constant(curves.apply(equation, given, cast=rule.same))]
    operands: Any = [
        laid_out(v, a.aval.shape) for v, a in zip(values, equation.invars, strict=True)
    ]  # fmt: skip
    return [known(output(equation, i), operands) for i in range(count)]
