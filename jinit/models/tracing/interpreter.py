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
from jinit.models.tracing.graph import NOTHING, Graph, Held, is_bent
from jinit.models.tracing.jaxprs import inner_jaxprs, opened, split_scan
from jinit.models.tracing.parameter_rules import with_parameters
from jinit.models.tracing.rules import RULES, WHOLE
from jinit.models.tracing.signal_rules import as_one, through_signals
from jinit.models.tracing.values import (
    Constant,
    Factors,
    Joined,
    Loop,
    Path,
    RoleError,
    Signal,
    Value,
    View,
)


def follow(jaxpr: Jaxpr, leaves: Sequence[View]) -> Graph:
    """What is found in a whole model, whose parameters come first, and then its inputs."""
    graph = Graph([view.shape for view in leaves])
    walk = _Walk(graph)
    held = [Held(view, None) for view in leaves]
    held += [Held(graph.fresh(), graph.node((), data=True)) for _ in jaxpr.invars[len(leaves) :]]
    ends = walk.run(jaxpr, held, ())
    out: list[Any] = jaxpr.outvars
    graph.conclude(leaves, [(end, v.aval.shape) for end, v in zip(ends, out, strict=True)])
    return graph


class _Walk:
    """Goes through the equations in order, and tells `graph` what it meets."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, jaxpr: Jaxpr, values: Sequence[Held], at: Path) -> list[Held]:
        """What comes out of a program that stands at a path."""
        env: dict[Any, Held] = dict(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> Held:
            if isinstance(atom, JaxprLiteral):
                return Held(
                    Constant(np.asarray(atom.val)) if np.ndim(atom.val) == 0 else None, None
                )
            return env.get(atom, NOTHING)

        for number, equation in enumerate(jaxpr.eqns):
            held = [read(atom) for atom in equation.invars]
            env.update(
                zip(equation.outvars, self._equation(equation, held, (*at, number)), strict=True)
            )
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, held: list[Held], at: Path) -> list[Held]:
        name, count = equation.primitive.name, len(equation.outvars)
        values = [h.value for h in held]
        out = equation.outvars[0].aval if count else None
        self.graph.size = math.prod(out.shape) if out is not None else 0
        self.graph.floating = out is not None and jax.numpy.issubdtype(out.dtype, np.floating)
        if not any(isinstance(v, Signal | View | Joined | Factors) for v in values):
            return [self._constant(equation, values)] * count
        rule = RULES.get(name, Rule())
        call = Call(self.graph, equation, held, at, rule)
        if equation.params.get("name") in WHOLE and not call.places:
            self.graph.activated(equation.params["name"], held, at)
            return [self.graph.new(held, at)] * count
        if rule.random and not any(
            jax.numpy.issubdtype(v.aval.dtype, np.floating) for v in equation.invars
        ):
            return [NOTHING] * count
        if name in _CONTROL:
            return _CONTROL[name](self, equation, held, at)
        inner = inner_jaxprs(equation)
        if inner:
            ends = self.run(inner[0], held, (*at, 0))
            return [as_one(end, held, at) for end in ends]
        bent = isinstance(values[0], Signal) and values[0].pointwise is not None
        if rule.same and not bent:
            return [held[0]] * count
        return with_parameters(call) if call.places else through_signals(call)

    def _constant(self, equation: Any, values: list[Value]) -> Held:
        name = equation.primitive.name
        given = [v.number for v in values if isinstance(v, Constant)]
        if len(given) == len(values) == 1 and name in ("broadcast_in_dim", "reshape"):
            return Held(Constant(given[0]), None)
        rule = RULES.get(name, Rule())
        if given and len(given) == len(values) and rule.pointwise:
            return Held(Constant(curves.apply(equation, given, cast=rule.same)), None)
        return NOTHING

    # --- loops and branches ---

    def _scan(self, equation: Any, held: list[Held], at: Path) -> list[Held]:
        params = equation.params
        jaxpr = opened(params["jaxpr"])
        consts, carried = split_scan(equation)
        own = list(held)
        for i, h in enumerate(held):
            view = h.value
            if i >= consts + carried:
                if isinstance(view, View):
                    taken = view.then(None, view.shape[1:])
                    own[i] = h._replace(value=taken._replace(
                        layers=(*view.layers, view.shape[0]),
                        stacked=(*view.stacked, len(self.graph.loops)),
                    ))  # fmt: skip
                elif isinstance(view, Joined | Factors):
                    own[i] = self.graph.use_as_other(h, at)
                elif isinstance(view, Signal):
                    own[i] = self.graph.new([h], at)
            elif i >= consts:
                if isinstance(view, View | Joined | Factors):
                    unchanged = jaxpr.outvars[i - consts] is jaxpr.invars[i]
                    own[i] = h if unchanged else self.graph.use_as_other(h, at)
                else:
                    own[i] = self.graph.new([h], at, data=True)
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
            self._passed(f, at) if i < carried else self._collected(f, own, held, at)
            for i, f in enumerate(found)
        ]

    def _collected(self, out: Held, own: Sequence[Held], outside: Sequence[Held], at: Path) -> Held:
        """What the passes of a loop return, side by side."""
        if isinstance(out.value, View):
            for inner, stacked in zip(own, outside, strict=True):
                if inner.value == out.value and isinstance(stacked.value, View):
                    return stacked  # as it came
            return self.graph.use_as_other(out, at)
        return self.graph.new([out], at)

    def _passed(self, held: Held, at: Path) -> Held:
        return held if isinstance(held.value, View) else self.graph.new([held], at)

    def _again(self, before: Held, after: Held) -> Held:
        """What a carry is from the second pass on."""
        if not isinstance(after.value, Signal) or not isinstance(before.value, Signal | None):
            return before
        waiting = frozenset[int]() if is_bent(after.value) else after.value.uses
        known = before.value.uses if isinstance(before.value, Signal) else frozenset()
        if waiting <= known:
            return before
        return Held(self.graph.fresh(uses=waiting | known), before.node)

    def _while(self, equation: Any, held: list[Held], at: Path) -> list[Held]:
        params = equation.params
        body = opened(params["body_jaxpr"])
        own = held[params["cond_nconsts"] :]
        consts = params["body_nconsts"]
        for i, h in enumerate(own):
            if i >= consts and isinstance(h.value, View | Joined | Factors):
                unchanged = body.outvars[i - consts] is body.invars[i]
                own[i] = h if unchanged else self.graph.use_as_other(h, at)
            elif i >= consts:
                own[i] = self.graph.new([h], at, data=True)
        found = self.run(body, own, (*at, 0))
        self.graph.settle_all(found)
        return [self._passed(f, at) for f in found]

    def _cond(self, equation: Any, held: list[Held], at: Path) -> list[Held]:
        found, counted = [], set[Any]()
        for i, branch in enumerate(inner_jaxprs(equation) or ()):
            made = len(self.graph.uses)
            found.append(self.run(branch, held[1:], (*at, i)))
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

    def _either(self, values: Sequence[Held], at: Path) -> Held:
        """What comes out of one of several branches."""
        if not any(isinstance(v.value, View | Joined | Factors) for v in values):
            return self.graph.new(values, at)
        if all(self._are_same(v.value, values[0].value) for v in values[1:]):
            return values[0]
        found = []
        for v in values:
            kept = isinstance(v.value, View) and any(
                self.graph.is_made_of(other, v.value.leaf) for other in values
            )  # its new value, or the old one, as a running mean is handed on
            found.append(NOTHING if kept else self.graph.use_as_other(v, at))
        return self.graph.new(found, at)

    def _are_same(self, a: Value, b: Value) -> bool:
        """Whether two values hold the same entries of the same parameter, however they came."""
        if not (isinstance(a, View) and isinstance(b, View)):
            return a == b
        if (a.leaf, a.shape, a.layers, a.stacked) != (b.leaf, b.shape, b.layers, b.stacked):
            return False
        first, shape = (0,) * len(a.layers), self.graph.shapes[a.leaf]
        try:
            return np.array_equal(a.indices(shape, first), b.indices(shape, first))
        except RoleError:  # a part that is chosen while the model runs
            return False


_CONTROL = {"scan": _Walk._scan, "while": _Walk._while, "cond": _Walk._cond}
"""Primitives that run other programs several times, or one of several."""
