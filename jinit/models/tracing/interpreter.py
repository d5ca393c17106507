"""An abstract run of a jaxpr, which follows every value into nested programs."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr
from jax.extend.core import Literal as JaxprLiteral

from jinit.models.tracing import curves
from jinit.models.tracing.calls import Call, Rule
from jinit.models.tracing.graph import Graph, is_bent
from jinit.models.tracing.jaxprs import inner_jaxprs, opened, split_scan
from jinit.models.tracing.parameter_rules import with_parameters
from jinit.models.tracing.rules import RULES, WHOLE
from jinit.models.tracing.signal_rules import as_one, through_signals
from jinit.models.tracing.values import Constant, Loop, Parameters, Path, Signal, Value, View


def follow(jaxpr: Jaxpr, shapes: Sequence[tuple[int, ...]]) -> Graph:
    """What is found in a whole model: parameters of these shapes come first, then its inputs."""
    graph = Graph(shapes)
    values: list[Value] = [View(i, shape) for i, shape in enumerate(shapes)]
    values += [Signal(graph.node(), data=True) for _ in jaxpr.invars[len(shapes) :]]
    ends = _Walk(graph).run(jaxpr, values, ())
    out: list[Any] = jaxpr.outvars
    graph.conclude([(end, v.aval.shape) for end, v in zip(ends, out, strict=True)])
    return graph


class _Walk:
    """Goes through the equations in order, and tells `graph` what it meets."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, jaxpr: Jaxpr, values: Sequence[Value], at: Path) -> list[Value]:
        """What comes out of a program that stands at a path."""
        env: dict[Any, Value] = dict(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, JaxprLiteral):
                return Constant(np.asarray(atom.val)) if np.ndim(atom.val) == 0 else None
            return env.get(atom)

        for number, equation in enumerate(jaxpr.eqns):
            given = [read(atom) for atom in equation.invars]
            out = self._equation(equation, given, (*at, number))
            env.update(zip(equation.outvars, out, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, values: list[Value], at: Path) -> list[Value]:
        name, count = equation.primitive.name, len(equation.outvars)
        out = equation.outvars[0].aval if count else None
        self.graph.size = math.prod(out.shape) if out is not None else 0
        self.graph.floating = out is not None and _is_floating(out)
        if not any(isinstance(v, Signal | Parameters) for v in values):
            return [_constant(equation, values)] * count
        rule = RULES.get(name, Rule())
        call = Call(self.graph, equation, values, at, rule)
        if equation.params.get("name") in WHOLE and not call.places:
            self.graph.activated(equation.params["name"], values, at)
            return [self.graph.new(values, at)] * count
        if rule.random and not any(_is_floating(v.aval) for v in equation.invars):
            return [None] * count
        if name in _CONTROL:
            return _CONTROL[name](self, equation, values, at)
        inner = inner_jaxprs(equation)
        if inner:
            return [as_one(end, values, at) for end in self.run(inner[0], values, (*at, 0))]
        bent = isinstance(values[0], Signal) and values[0].pointwise is not None
        if rule.same and not bent:
            return [values[0]] * count
        return with_parameters(call) if call.places else through_signals(call)

    # --- loops and branches ---

    def _scan(self, equation: Any, values: list[Value], at: Path) -> list[Value]:
        params = equation.params
        jaxpr = opened(params["jaxpr"])
        consts, carried = split_scan(equation)
        own = values[:consts]
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

    def _carry(self, value: Value, at: Path, unchanged: bool) -> Value:
        """What a loop carries, in its first pass."""
        if isinstance(value, Parameters):
            return value if unchanged else self.graph.use_as_other(value, at)
        return self.graph.new([value], at, data=True)

    def _one_of(self, value: Value, at: Path) -> Value:
        """What one pass of a loop takes of what is stacked."""
        if isinstance(value, View):
            layers = (*value.layers, value.shape[0])
            stacked = (*value.stacked, len(self.graph.loops))
            return value.then(None, value.shape[1:])._replace(layers=layers, stacked=stacked)
        if isinstance(value, Signal):
            return self.graph.new([value], at)
        return self.graph.use_as_other(value, at)

    def _collected(self, out: Value, own: list[Value], given: list[Value], at: Path) -> Value:
        """What the passes of a loop return, side by side."""
        if not isinstance(out, View):
            return self.graph.new([out], at)
        pairs = zip(own, given, strict=True)  # as it came, perhaps
        stacked = (o for inner, o in pairs if inner == out and isinstance(o, View))
        return next(stacked, None) or self.graph.use_as_other(out, at)

    def _passed(self, value: Value, at: Path) -> Value:
        return value if isinstance(value, View) else self.graph.new([value], at)

    def _again(self, before: Value, after: Value) -> Value:
        """What a carry is from the second pass on."""
        if not isinstance(after, Signal) or not isinstance(before, Signal):
            return before
        if is_bent(after) or after.uses <= before.uses:
            return before
        uses = after.uses | before.uses
        return Signal(before.node, data=before.data, uses=uses, size=self.graph.size)

    def _while(self, equation: Any, values: list[Value], at: Path) -> list[Value]:
        body, consts = opened(equation.params["body_jaxpr"]), equation.params["body_nconsts"]
        own = values[equation.params["cond_nconsts"] :]
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
    return bool(jax.numpy.issubdtype(aval.dtype, np.floating))


def _constant(equation: Any, values: list[Value]) -> Constant | None:
    """What comes of values that are neither data nor parameters."""
    name = equation.primitive.name
    given = [v.number for v in values if isinstance(v, Constant)]
    if not given or len(given) < len(values):
        return None
    if len(given) == 1 and name in ("broadcast_in_dim", "reshape"):
        return Constant(given[0])
    rule = RULES.get(name, Rule())
    return Constant(curves.apply(equation, given, cast=rule.same)) if rule.pointwise else None
