"""Every use of every parameter of a model, read off the traced computation.

The apply function is traced to a jaxpr, and every value is followed: parameters through operations
that only change their shape, and into nested programs, to what consumes them; signals from there to
the activation that they meet and to the sum in which a residual branch ends. No framework is known
here, and nothing is guessed from names or shapes.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import Literal as JaxprLiteral

from jinit.models import pointwise
from jinit.models.values import (
    Constant,
    Factors,
    Joined,
    Loop,
    Path,
    Pointwise,
    RoleError,
    Signal,
    Value,
    View,
)

__all__ = ["Activation", "Kind", "Residual", "Trace", "Use", "inner_jaxprs", "split_scan", "trace"]

Kind = Literal["weight", "bias", "scale", "embedding", "tied", "statistic", "other", "unused"]

_WHOLE = {"softmax", "log_softmax", "glu"}
"""Functions of several entries, which jax names in the trace."""


class Use(NamedTuple):
    """One consumption of a parameter, or of a part of it."""

    kind: Kind
    order: int
    """place in call order"""
    times: int
    """how often, within loops that share the parameter; 0 in a branch that repeats another's"""
    view: View
    path: Path
    """of the equation"""
    loops: tuple[Loop, ...] = ()
    """around the equation, from outside"""
    fan_in: int | None = None
    fan_out: int | None = None
    receptive_field: int = 1
    groups: int = 1
    """of a grouped convolution, or the product of axes that are batched, as experts are"""
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())
    """of the view: batched, summed over, free"""
    features: int | None = None
    """axis of the units in what comes out"""
    size: int = 0
    """entries of what comes out"""

    @property
    def part(self) -> int:
        """Entries that take part, of one layer."""
        return math.prod(self.view.shape)

    @property
    def layers(self) -> int:
        """Stacked layers that loops go through."""
        return math.prod(self.view.layers)


class Activation(NamedTuple):
    """A pointwise function between weights."""

    name: str | None
    """of jinit's activations; None if it is none of them"""
    curve: np.ndarray | None
    """its values on `pointwise.GRID`; None of a function of several entries, as softmax is"""
    uses: frozenset[int]
    """of weights, that it follows"""
    entry: tuple[Path, int]
    """equation and operand that hold its argument"""
    path: Path
    """the equation that its value comes out of"""
    loops: tuple[Loop, ...]
    features: int | None
    size: int
    """entries that it is applied to"""


class Residual(NamedTuple):
    """A sum of a signal and of a branch that started from it."""

    path: Path
    loops: tuple[Loop, ...]
    branch: frozenset[int]
    """uses of parameters on the branch"""
    last: frozenset[int]
    """those of weights that no other use of a weight on the branch follows"""
    depth: int
    """weights in a row, at most"""
    shortcut: frozenset[int] = frozenset()
    """uses beside the branch, where the skip is a projection"""


@dataclass(frozen=True)
class Trace:
    """A model's computation and what was found in it."""

    jaxpr: ClosedJaxpr
    """of `(floating leaves, inputs) -> arrays of the output`"""
    paths: tuple[str, ...]
    """of the floating leaves, as `jax.tree_util.keystr` writes them"""
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    uses: tuple[Use, ...]
    activations: tuple[Activation, ...]
    residuals: tuple[Residual, ...]
    outputs: Callable[[Sequence[Any]], Any]
    """the model's output from its arrays"""
    chosen: tuple[int, ...]
    """places of the floating leaves among all leaves of the variables"""

    def following(self, order: int) -> str | None:
        """Name of the activation that follows a use of a weight.

        None if there is none of a name, or if parts of what comes out go through different ones, as
        fused gates do.
        """
        found = [a for a in self.activations if order in a.uses and a.name]
        if not found or found[0].size >= self.uses[order].size:
            return found[0].name if found else None
        names = {a.name for a in found if a.size < self.uses[order].size}
        return names.pop() if len(names) == 1 else None

    def equation(self, path: Path) -> Any:
        """The equation that stands there."""
        jaxpr, (first, *rest) = self.jaxpr.jaxpr, path
        found = jaxpr.eqns[first]
        while rest:
            branch, number, *rest = rest
            inner = inner_jaxprs(found)
            assert inner is not None
            found = inner[branch].eqns[number]
        return found

    def visible(self, path: Path) -> Path:
        """The path, cut at a function with a derivative of its own.

        Inside it jax never looks when it differentiates, and so must nobody who wants the model's
        own gradient.
        """
        for n in range(1, len(path), 2):
            if self.equation(path[:n]).primitive.name.startswith(("custom_jvp", "custom_vjp")):
                return path[:n]
        return path


def trace(apply: Callable[..., Any], variables: Any, *inputs: Any) -> Trace:
    """Follow every floating-point leaf of `variables` through `apply(variables, *inputs)`.

    Raises:
        TypeError: variables without a floating-point array. What `apply` raises comes with a note.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(variables)
    chosen = tuple(i for i, (_, leaf) in enumerate(flat) if _is_float(leaf))
    if not chosen:
        raise TypeError(
            "variables hold no floating-point array; give the parameters first, as in "
            "(model.apply, variables, batch)."
        )
    made: list[tuple[list[Any], Any]] = []

    def of_leaves(floats: Sequence[Any], *inputs: Any) -> Any:
        leaves = [leaf for _, leaf in flat]
        for i, leaf in zip(chosen, floats, strict=True):
            leaves[i] = leaf
        out = apply(jax.tree_util.tree_unflatten(structure, leaves), *inputs)
        made.append(jax.tree.flatten(out))
        return [leaf for leaf in made[-1][0] if _is_array(leaf)]

    floats = tuple(jax.ShapeDtypeStruct(flat[i][1].shape, flat[i][1].dtype) for i in chosen)
    try:
        traced = jax.make_jaxpr(of_leaves)(floats, *inputs)
    except Exception as error:
        error.add_note(
            "jinit traces apply(variables, *inputs) on arrays without values, as jax.jit does. "
            "Options such as train=True belong into the function: "
            "lambda variables, x: model.apply(variables, x, train=True); Python's if and "
            "numpy's functions do not work on values. Do variables and inputs fit the model?"
        )
        raise
    held, out_structure = made[-1]
    kept = [None if _is_array(leaf) else leaf for leaf in held]

    def outputs(arrays: Sequence[Any]) -> Any:
        given = iter(arrays)
        leaves = [next(given) if _is_array(was) else k for k, was in zip(kept, held, strict=True)]
        return jax.tree.unflatten(out_structure, leaves)

    walk = _Walk()
    with jax.ensure_compile_time_eval():
        walk.program(traced.jaxpr, [View(i, leaf.shape) for i, leaf in enumerate(floats)])
    return Trace(
        traced, tuple(jax.tree_util.keystr(flat[i][0]) for i in chosen), floats,
        tuple(walk.uses), tuple(walk.activations), tuple(walk.residuals), outputs, chosen,
    )  # fmt: skip


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype")


def _is_float(leaf: Any) -> bool:
    return _is_array(leaf) and jax.numpy.issubdtype(leaf.dtype, np.floating)


# --- nested programs ----------------------------------------------------------------------------


def inner_jaxprs(equation: Any) -> list[Jaxpr] | None:
    """The programs of an equation that a path may lead into, in order; None if it has none.

    Loops and branches count; a while loop's condition does not.
    """
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        return [_open(branch) for branch in params["branches"]]
    if name == "while":
        return [_open(params["body_jaxpr"])]
    if name in _OPAQUE:
        return None
    inner = next((params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params), None)
    if inner is None or len(_open(inner).invars) != len(equation.invars):
        return None
    return [_open(inner)]


_OPAQUE = {"pallas_call", "shard_map", "custom_partitioning", "reduce", "reduce_window"}


def split_scan(equation: Any) -> tuple[int, int]:
    """How many of a scan's arguments are constants, and how many are carried."""
    jaxpr = _open(equation.params["jaxpr"])
    # What is stacked has one axis more outside; jax has changed how it counts the others.
    carried = _alike(equation.outvars, jaxpr.outvars)
    return _alike(equation.invars, jaxpr.invars) - carried, carried


def _alike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many values of a loop have the rank inside that they have outside."""
    pairs = zip(outside, inside, strict=True)
    return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)


def _open(jaxpr: Any) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


# --- following ----------------------------------------------------------------------------------


class _Held(NamedTuple):
    """A value, and the number of its node in the graph of values; None if nothing led to it."""

    value: Value
    node: int | None


_NOTHING = _Held(None, None)


class _Walk:
    """An abstract run of a jaxpr."""

    def __init__(self) -> None:
        self.uses: list[Use] = []
        self.activations: list[Activation] = []
        self.residuals: list[Residual] = []
        self._used_at: list[int] = []  # node of what came out of each use
        self._sizes: list[int] = []  # of what came out of each use
        self._before: list[int] = []  # of each node, it and those that lead to it: a set of bits
        self._seen: list[int] = []  # of each node, the uses that lead to it: a set of bits
        self._loops: tuple[Loop, ...] = ()
        self._subtracted: dict[int, int] = {}  # node of a difference to the use in it
        self._sources = 0
        self._size = 0  # of what the present equation makes
        self._floating = True  # whether that is

    def program(self, jaxpr: Jaxpr, leaves: Sequence[View]) -> None:
        """The whole model: its parameters first, then its inputs."""
        held = [_Held(view, None) for view in leaves]
        held += [_Held(self._fresh(), self._node(())) for _ in jaxpr.invars[len(leaves) :]]
        ends = self._run(jaxpr, held, ())
        self._end(ends)
        self.activations = _merged(self.activations)
        self.residuals = [r for r in self.residuals if not self._recurs(r)]
        ends_of: list[Any] = jaxpr.outvars
        outputs = [(e.node, v.aval.shape) for e, v in zip(ends, ends_of, strict=True)]
        shapes = [view.shape for view in leaves]
        for i, use in enumerate(self.uses):
            if use.kind in ("bias", "scale") and self._only_kept(i, shapes, outputs):
                self.uses[i] = use._replace(kind="statistic")

    def _recurs(self, residual: Residual) -> bool:
        """Whether what looks like a projected skip is a step of a network unrolled in time."""
        counts = Counter(use.view.leaf for use in self.uses if use.kind == "weight")
        ends = residual.shortcut | residual.last
        return bool(residual.shortcut) and any(counts[self.uses[i].view.leaf] > 1 for i in ends)

    def _only_kept(self, use: int, shapes: list[Any], outputs: list[tuple[Any, Any]]) -> bool:
        """Whether a use leads to nothing but a new value of its parameter, as running means do."""
        bit = 1 << self._used_at[use]
        reached = [i for i, (n, _) in enumerate(outputs) if n is not None and self._before[n] & bit]
        own = shapes[self.uses[use].view.leaf]
        return bool(reached) and 0 not in reached and all(outputs[i][1] == own for i in reached)

    # --- the graph ---

    def _node(self, held: Sequence[_Held], own: int = 0) -> int:
        nodes = {h.node for h in held if h.node is not None}
        self._before.append(1 << len(self._before))
        self._seen.append(own)
        for node in nodes:
            self._before[-1] |= self._before[node]
            self._seen[-1] |= self._seen[node]
        return len(self._before) - 1

    def _fresh(self, **known: Any) -> Signal:
        self._sources += 1
        return Signal(source=self._sources, size=self._size, **known)

    def _run(self, jaxpr: Jaxpr, values: Sequence[_Held], at: Path) -> list[_Held]:
        env: dict[Any, _Held] = dict(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> _Held:
            if isinstance(atom, JaxprLiteral):
                return _Held(
                    Constant(np.asarray(atom.val)) if np.ndim(atom.val) == 0 else None, None
                )
            return env.get(atom, _NOTHING)

        for number, equation in enumerate(jaxpr.eqns):
            held = [read(atom) for atom in equation.invars]
            env.update(
                zip(equation.outvars, self._equation(equation, held, (*at, number)), strict=True)
            )
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, held: list[_Held], at: Path) -> list[_Held]:
        name, count = equation.primitive.name, len(equation.outvars)
        values = [h.value for h in held]
        out = equation.outvars[0].aval if count else None
        self._size = math.prod(out.shape) if out is not None else 0
        self._floating = out is not None and jax.numpy.issubdtype(out.dtype, np.floating)
        if not any(isinstance(v, Signal | View | Joined | Factors) for v in values):
            return [self._constant(equation, values)] * count
        known = equation.params.get("name")
        signals_alone = not any(isinstance(v, View | Joined | Factors) for v in values)
        if known in _WHOLE and signals_alone:
            self._activated_whole(known, held, at)
            return [self._out(held, at)] * count
        if name == "scan":
            return self._scan(equation, held, at)
        if name == "while":
            return self._while(equation, held, at)
        inner = inner_jaxprs(equation)
        if name == "cond" and inner:
            return self._cond(inner, held, at)
        if inner:
            ends = self._run(inner[0], held, (*at, 0))
            return [self._as_one(end, held, at) for end in ends]
        bent = isinstance(values[0], Signal) and values[0].pointwise is not None
        if name in _SAME and not bent:
            return [held[0]] * count
        if any(isinstance(v, View | Joined | Factors) for v in values):
            return self._with_parameters(equation, held, at)
        return self._signals(equation, held, at)

    def _constant(self, equation: Any, values: list[Value]) -> _Held:
        name = equation.primitive.name
        given = [v.number for v in values if isinstance(v, Constant)]
        if len(given) == len(values) == 1 and name in ("broadcast_in_dim", "reshape"):
            return _Held(Constant(given[0]), None)
        if given and len(given) == len(values) and name in pointwise.OPERATIONS:
            return _Held(Constant(pointwise.apply(equation, given)), None)
        return _NOTHING

    # --- signals ---

    def _out(
        self, held: Sequence[_Held], at: Path, *, features: int | None = None, summed: bool = False
    ) -> _Held:
        """What an operation on several entries makes: the uses before it wait on."""
        signals = [h.value for h in held if isinstance(h.value, Signal)]
        for signal in signals:
            self._left(signal, summed=summed)
        uses = frozenset[int]().union(*(s.uses for s in signals if not self._bent(s)))
        if not self._floating:  # a choice, as an argmax makes: nothing flows on from there
            uses = frozenset()
        return _Held(self._fresh(uses=uses, made=at, features=features), self._node(held))

    def _bent(self, signal: Signal) -> bool:
        if signal.pointwise is None:
            return False
        return pointwise.name_of(signal.pointwise.curve) != "identity"

    def _left(self, signal: Signal, *, summed: bool = False) -> None:
        """A pointwise function is over: it was the activation of the weights before it.

        Unless it has no name and is a part of a norm: summed over, or of a sum.
        """
        if not signal.uses or signal.pointwise is None or not self._bent(signal):
            return
        if signal.pointwise.curve.dtype != np.float32:
            return  # a mask
        name = pointwise.name_of(signal.pointwise.curve)
        smaller = signal.size < max(self._sizes[i] for i in signal.uses)
        if name is None and (summed or smaller):
            return
        if any(a.path == signal.made and a.uses >= signal.uses for a in self.activations):
            return
        self.activations.append(Activation(
            name, signal.pointwise.curve, signal.uses,
            signal.pointwise.entry, signal.made, self._loops, signal.features, signal.size,
        ))  # fmt: skip

    def _end(self, ends: Sequence[_Held]) -> None:
        for end in ends:
            if isinstance(end.value, Signal):
                self._left(end.value)

    def _activated_whole(self, name: str, held: Sequence[_Held], at: Path) -> None:
        for i, h in enumerate(held):
            if isinstance(h.value, Signal) and h.value.uses:
                self.activations.append(Activation(
                    name, None, h.value.uses, (at, i), at, self._loops, h.value.features,
                    h.value.size,
                ))  # fmt: skip

    def _signals(self, equation: Any, held: list[_Held], at: Path) -> list[_Held]:
        name, count = equation.primitive.name, len(equation.outvars)
        shape = equation.outvars[0].aval.shape if count else ()
        integral = any(jax.numpy.issubdtype(v.aval.dtype, np.integer) for v in equation.outvars)
        if name in pointwise.OPERATIONS and count == 1 and not integral:
            together = self._together(equation, held, at)
            if together is not None:
                return [together]
        if name in ("add", "add_any") and all(isinstance(h.value, Signal) for h in held):
            self._residual(held, at)
        if name in _SHAPE_ONLY and isinstance(held[0].value, Signal):
            signal = held[0].value
            same = equation.invars[0].aval.shape == shape
            if signal.pointwise is None or same:
                features = signal.features if same else None
                return [_Held(replace(signal, features=features), held[0].node)]
        axes = {
            h.value.features for h, atom in zip(held, equation.invars, strict=True)
            if isinstance(h.value, Signal) and h.value.uses and atom.aval.shape == shape
        }  # fmt: skip
        features = axes.pop() if len(axes) == 1 else None
        summed = name.startswith(("reduce_", "cum"))
        return [self._out(held, at, features=features, summed=summed) for _ in range(count)]

    def _together(self, equation: Any, held: list[_Held], at: Path) -> _Held | None:
        """One function more on single entries of one source."""
        sources = {h.value.source for h in held if isinstance(h.value, Signal)}
        fitting = all(isinstance(h.value, Signal | Constant) for h in held)
        waiting = any(isinstance(h.value, Signal) and h.value.uses for h in held)
        if len(sources) > 1 or not fitting or not waiting:
            return None  # and of what no weight has made nobody asks how it is bent
        curves, entries = [], []
        for i, h in enumerate(held):
            value = h.value
            if isinstance(value, Constant):
                curves.append(value.number)
            elif isinstance(value, Signal):
                signal, bent = value, value.pointwise
                curves.append(pointwise.GRID if bent is None else bent.curve)
                entries.append((at, i) if bent is None else bent.entry)
        with np.errstate(all="ignore"):
            curve = pointwise.apply(equation, curves)
        # The argument is where the first operation finds it.
        out = replace(
            signal, pointwise=Pointwise(curve, signal.source, min(entries)), made=at,
            size=self._size,
        )  # fmt: skip
        return _Held(out, self._node(held))

    def _as_one(self, end: _Held, held: Sequence[_Held], at: Path) -> _Held:
        """A pointwise function written as a program of its own counts as one operation."""
        signal = end.value
        if not isinstance(signal, Signal) or signal.pointwise is None:
            return end
        if signal.made[: len(at)] != at:
            return end  # passed through
        entry, operand = signal.pointwise.entry
        if entry[: len(at)] == at:
            places = [i for i, h in enumerate(held) if isinstance(h.value, Signal)]
            given = [i for i in places if held[i].value.source == signal.source]  # type: ignore[union-attr]
            if not given:
                return end
            entry, operand = at, given[0]
        bent = signal.pointwise._replace(entry=(entry, operand))
        return end._replace(value=replace(signal, pointwise=bent, made=at))

    def _residual(self, held: Sequence[_Held], at: Path) -> None:
        a, b = (h.node for h in held)
        if a is None or b is None or a == b:
            return
        if self._before[a] >> b & 1:
            a, b = b, a
        branch = self._seen[b] & ~self._seen[a]
        weights = {i for i in self._bits(branch) if self.uses[i].kind == "weight"}
        direct = bool(self._before[b] >> a & 1)
        if not direct:
            # The skip may be a projection: one weight, beside a branch from where it starts.
            shortcut = self._bits(self._seen[a] & ~self._seen[b])
            other = self._bits(branch)
            short = {i for i in shortcut if self.uses[i].kind == "weight"}
            if len(short) > len(weights):
                short, weights, other = weights, short, shortcut
            if not (len(short) == 1 and len(weights) >= 2):
                return
            branch = sum(1 << i for i in other)
        last = frozenset(
            i for i in weights
            if not any(
                j != i and self._before[self._used_at[j]] >> self._used_at[i] & 1 for j in weights
            )
        )  # fmt: skip
        if weights and (direct or len(last) == 1):
            branched = frozenset(self._bits(branch))
            rows: dict[int, int] = {}
            for i in sorted(weights):
                above = self._before[self._used_at[i]]
                rows[i] = 1 + max(
                    (rows[j] for j in rows if above >> self._used_at[j] & 1), default=0
                )
            depth = max(rows.values())
            beside = frozenset() if direct else frozenset(short)
            self.residuals.append(Residual(at, self._loops, branched, last, depth, beside))

    @staticmethod
    def _bits(of: int) -> list[int]:
        return [i for i in range(of.bit_length()) if of >> i & 1]

    # --- loops and branches ---

    def _scan(self, equation: Any, held: list[_Held], at: Path) -> list[_Held]:
        params = equation.params
        jaxpr = _open(params["jaxpr"])
        consts, carried = split_scan(equation)
        own = list(held)
        for i, h in enumerate(held):
            view = h.value
            if i >= consts + carried:
                if isinstance(view, View):
                    taken = view.then(None, view.shape[1:])
                    own[i] = h._replace(value=taken._replace(
                        layers=(*view.layers, view.shape[0]),
                        stacked=(*view.stacked, len(self._loops)),
                    ))  # fmt: skip
                elif isinstance(view, Joined | Factors):
                    own[i] = self._others(h, at)
                elif isinstance(view, Signal):
                    own[i] = self._out([h], at)
            elif i >= consts:
                if isinstance(view, View | Joined | Factors):
                    unchanged = jaxpr.outvars[i - consts] is jaxpr.invars[i]
                    own[i] = h if unchanged else self._others(h, at)
                else:
                    own[i] = self._out([h], at)
        around = self._loops
        self._loops = (*around, Loop(at, params["length"], params["reverse"]))
        found = self._run(jaxpr, own, (*at, 0))
        again = [self._again(v, f) for v, f in zip(own[consts:], found[:carried], strict=False)]
        if any(new is not old for new, old in zip(again, own[consts:], strict=False)):
            self._second_pass(jaxpr, [*own[:consts], *again, *own[consts + carried :]], at)
        self._end(found)
        self._loops = around
        return [
            self._passed(f, at) if i < carried else self._collected(f, own, held, at)
            for i, f in enumerate(found)
        ]

    def _collected(
        self, out: _Held, own: Sequence[_Held], outside: Sequence[_Held], at: Path
    ) -> _Held:
        """What the passes of a loop return, side by side."""
        if isinstance(out.value, View):
            for inner, stacked in zip(own, outside, strict=True):
                if inner.value == out.value and isinstance(stacked.value, View):
                    return stacked  # as it came
            return self._others(out, at)
        return self._out([out], at)

    def _passed(self, held: _Held, at: Path) -> _Held:
        return held if isinstance(held.value, View) else self._out([held], at)

    def _again(self, before: _Held, after: _Held) -> _Held:
        """What a carry is from the second pass on."""
        if not isinstance(after.value, Signal) or not isinstance(before.value, Signal | None):
            return before
        waiting = frozenset[int]() if self._bent(after.value) else after.value.uses
        known = before.value.uses if isinstance(before.value, Signal) else frozenset()
        if waiting <= known:
            return before
        return _Held(self._fresh(uses=waiting | known), before.node)

    def _second_pass(self, jaxpr: Jaxpr, held: list[_Held], at: Path) -> None:
        """From the second pass of a loop on, its carry comes out of the pass before.

        Same equations, same order: only activations are new.
        """
        uses, residuals = list(self.uses), list(self.residuals)
        used, sizes = list(self._used_at), list(self._sizes)
        found = len(self.activations)
        self._end(self._run(jaxpr, held, (*at, 0)))
        shift = len(self.uses) - len(uses)
        for i, activation in enumerate(self.activations):
            if i >= found:
                known = frozenset(u - shift if u >= len(uses) else u for u in activation.uses)
                self.activations[i] = activation._replace(uses=known)
        self.uses, self.residuals, self._used_at, self._sizes = uses, residuals, used, sizes

    def _while(self, equation: Any, held: list[_Held], at: Path) -> list[_Held]:
        params = equation.params
        body = _open(params["body_jaxpr"])
        own = held[params["cond_nconsts"] :]
        consts = params["body_nconsts"]
        for i, h in enumerate(own):
            if i >= consts and isinstance(h.value, View | Joined | Factors):
                unchanged = body.outvars[i - consts] is body.invars[i]
                own[i] = h if unchanged else self._others(h, at)
            elif i >= consts:
                own[i] = self._out([h], at)
        found = self._run(body, own, (*at, 0))
        self._end(found)
        return [self._passed(f, at) for f in found]

    def _cond(self, branches: Sequence[Jaxpr], held: list[_Held], at: Path) -> list[_Held]:
        found, counted = [], set[Any]()
        for i, branch in enumerate(branches):
            made = len(self.uses)
            found.append(self._run(branch, held[1:], (*at, i)))
            for j in range(made, len(self.uses)):  # one branch runs: its uses are not added up
                use = self.uses[j]
                signature = (use.kind, use.view.leaf, use.view.shape, use.fan_in, use.fan_out)
                if i and signature in counted:
                    self.uses[j] = use._replace(times=0)
                counted.add(signature)
        for ends in found:
            self._end(ends)
        return [
            values[0] if isinstance(values[0].value, View) else self._out(values, at)
            for values in zip(*found, strict=True)
        ]

    # --- parameters ---

    def _others(self, held: _Held, at: Path) -> _Held:
        """Used in a way that says nothing."""
        value = held.value
        views = value.views if isinstance(value, Joined) else ()
        if isinstance(value, View):
            views = (value,)
        if isinstance(value, Factors):
            views = tuple(view for view, _ in value.parts)
        return self._after([self._add(view, "other", [], at) for view in views], at)

    def _after(self, uses: Sequence[_Held], at: Path) -> _Held:
        return _Held(self._fresh(made=at), self._node(uses)) if uses else _NOTHING

    def _add(self, view: View, kind: Kind, held: Sequence[_Held], at: Path, **more: Any) -> _Held:
        order = len(self.uses)
        # Loops that go through its layers use each of them once.
        times = math.prod(loop.length for loop in self._loops) // math.prod(view.layers)
        self.uses.append(Use(kind, order, times, view, at, self._loops, size=self._size, **more))
        node = self._node(held, 1 << order)
        self._used_at.append(node)
        self._sizes.append(self._size)
        waiting = frozenset({order}) if kind == "weight" else frozenset[int]()
        return _Held(self._fresh(uses=waiting, made=at, features=more.get("features")), node)

    def _with_parameters(self, equation: Any, held: list[_Held], at: Path) -> list[_Held]:
        name, count = equation.primitive.name, len(equation.outvars)
        values = [h.value for h in held]
        first = values[0]
        views = [v for v in values if isinstance(v, View)]
        if name == "concatenate" and len(views) == len(values) > 1:
            return [_Held(Joined(tuple(views), equation.params["dimension"]), None)]
        if name == "concatenate" and views:  # beside signals, as a class token is
            out = [h for h in held if not isinstance(h.value, View)]
            for view in views:
                out = [self._add(view, "embedding", out, at, fan_out=view.shape[-1])]
            return out
        if name == "split" and isinstance(first, View):
            return [_Held(view, None) for view in _split(equation, first)]
        if name in _SHAPE_ONLY and isinstance(first, View):
            return [_Held(_reshaped(equation, first), None)]
        if name in ("reshape", "broadcast_in_dim") and isinstance(first, Joined):
            vectors = all(len(view.shape) == 1 for view in first.views)
            *leading, last = equation.outvars[0].aval.shape
            if vectors and last == sum(view.shape[0] for view in first.views):
                return [_Held(first._replace(axis=len(leading)), None)]  # fused biases, of a batch
        if name in _SHAPE_ONLY and isinstance(first, Factors):
            return [held[0]]
        if name in ("add", "sub", "mul", "div", "max", "min", "pow") or len(values) == 1:
            alone = self._numbers(equation, values)
            if alone is not None:
                return [_Held(alone, None)]
        places = [i for i, v in enumerate(values) if isinstance(v, View | Joined | Factors)]
        if len(places) == 1:
            found = self._use(equation, held, places[0], at)
            if found is not None:
                return [found] * count
        lost = [self._others(held[i], at) for i in places]
        left = [h for i, h in enumerate(held) if i not in places]
        return [self._out([*left, *lost], at)] * count

    def _numbers(self, equation: Any, values: list[Value]) -> Value:
        """Parameters and constants alone: another view, factors, or None."""
        name = equation.primitive.name
        if not all(isinstance(v, View | Factors | Constant) for v in values):
            return None
        views = [v for v in values if isinstance(v, View)]
        constants = [v for v in values if isinstance(v, Constant)]
        if name in ("mul", "div") and len(views) == len(constants) == 1 and values[0] is views[0]:
            return views[0]  # a factor, or a cast of one
        if name == "mul" and len(views) == len(constants) == 1:
            return views[0]
        parts = [p for v in values for p in _parts(v)]
        if name in ("mul", "div") and not constants and len(parts) > 1:
            return Factors(tuple(parts))
        if len(parts) != 1:
            return None
        view, kind = parts[0]
        if name in ("rsqrt", "sqrt"):
            return Factors(((view, "statistic"),))
        if name in ("add", "sub", "max", "mul", "div", "neg"):
            return Factors(((view, "statistic" if kind == "statistic" else "other"),))
        return None

    def _use(self, equation: Any, held: list[_Held], i: int, at: Path) -> _Held | None:
        """Of one operand that is made of parameters, by signals; None if it says nothing."""
        name, value = equation.primitive.name, held[i].value
        rest = [h for j, h in enumerate(held) if j != i]
        if isinstance(value, Joined):
            return self._use_joined(equation, rest, i, value, at)
        if isinstance(value, Factors):
            if name == "mul" or (name == "div" and i == 1):
                self._centred(value, rest[0].node)
                for view, kind in value.parts:
                    rest = [self._through(view, kind, rest, at)]  # type: ignore[arg-type]
                return rest[0]
            return None
        assert isinstance(value, View)
        if name == "dot_general":
            return self._product(equation, value, i, rest, at)
        if name == "conv_general_dilated" and i == 1:
            return self._convolution(equation, value, rest, at)
        if name == "gather" and i == 0:
            sizes = equation.params["slice_sizes"]
            return self._add(value, "embedding", rest, at, fan_out=math.prod(sizes))
        if name in ("add", "add_any", "sub", "mul", "div") and rest[0].node is None:
            # Numbers that the trace does not know: a factor is one more number, but a mask or
            # noise makes another parameter.
            single = math.prod(equation.invars[1 - i].aval.shape) == 1
            same = name == "mul" or (name == "div" and i == 0)
            return held[i] if single and same else _Held(Factors(((value, "other"),)), None)
        if name in ("add", "add_any"):
            return self._through(value, "bias", rest, at)
        if name == "sub":
            shifted = self._through(value, "bias", rest, at)
            if i == 1 and shifted.node is not None:
                self._subtracted[shifted.node] = len(self.uses) - 1
            return shifted
        if name == "mul" or (name == "div" and i == 1):
            return self._through(value, "scale", rest, at)
        return None

    def _centred(self, factors: Factors, node: int | None) -> None:
        """What was subtracted before a running deviation divides is a running mean."""
        if any(kind == "statistic" for _, kind in factors.parts) and node in self._subtracted:
            order = self._subtracted[node]
            self.uses[order] = self.uses[order]._replace(kind="statistic")

    def _through(self, view: View, kind: Kind, rest: Sequence[_Held], at: Path) -> _Held:
        """A shift or a factor: the weights before it still wait for their activation."""
        used = self._add(view, kind, rest, at)
        signals = [h.value for h in rest if isinstance(h.value, Signal)]
        for signal in signals:
            self._left(signal)
        waiting = frozenset[int]().union(*(s.uses for s in signals if not self._bent(s)))
        features = signals[0].features if len(signals) == 1 else None
        return used._replace(value=self._fresh(uses=waiting, made=at, features=features))

    def _use_joined(
        self, equation: Any, rest: list[_Held], i: int, joined: Joined, at: Path
    ) -> _Held | None:
        """Each of several views side by side is used as it would be alone."""
        name, found = equation.primitive.name, []
        if name == "dot_general":
            contracting, batch = equation.params["dimension_numbers"]
            if joined.axis in (*contracting[i], *batch[i]):
                return None
            found = [self._product(equation, view, i, rest, at) for view in joined.views]
            axes = {f.value.features for f in found}  # type: ignore[union-attr]
            return self._out(found, at, features=axes.pop() if len(axes) == 1 else None)
        if name not in ("add", "add_any", "sub"):
            return None
        out = rest
        for view in joined.views:
            out = [self._through(view, "bias", out, at)]
        return out[0]

    def _product(self, equation: Any, view: View, i: int, rest: Sequence[_Held], at: Path) -> _Held:
        for h in rest:
            if isinstance(h.value, Signal):
                self._left(h.value)
        contracting, batch = equation.params["dimension_numbers"]
        summed, batched = tuple(contracting[i]), tuple(batch[i])
        free = tuple(a for a in range(len(view.shape)) if a not in summed + batched)
        rank = len(equation.outvars[0].aval.shape)
        # The output: batched axes, then the free ones of the left and of the right operand.
        features = (rank - 1 if i == 1 else len(batched) + len(free) - 1) if free else None
        return self._add(
            view, "weight", rest, at,
            fan_in=math.prod(view.shape[a] for a in summed),
            fan_out=math.prod(view.shape[a] for a in free),
            groups=math.prod(view.shape[a] for a in batched), axes=(batched, summed, free),
            features=features,
        )  # fmt: skip

    def _convolution(self, equation: Any, view: View, rest: Sequence[_Held], at: Path) -> _Held:
        for h in rest:
            if isinstance(h.value, Signal):
                self._left(h.value)
        params = equation.params
        numbers = params["dimension_numbers"]
        out, into, *space = numbers.rhs_spec
        groups = params["feature_group_count"] * params["batch_group_count"]
        # Zeros between the inputs, as a transposed convolution of stride s puts them, leave every
        # s-th tap to an output: s kernels lie interleaved. The output axis holds groups side by
        # side. Both are split, each at its place.
        strides = dict(zip(space, params["lhs_dilation"], strict=True))
        shape: list[int] = []
        at_new: dict[int, int] = {}  # of what stays, by its old axis
        batched: list[int] = []
        for axis, n in enumerate(view.shape):
            stride = strides.get(axis, 1)
            parts = (groups, n // groups) if axis == out else (n,)
            if stride > 1 and n % stride == 0:
                parts = (n // stride, stride)
                batched.append(len(shape) + 1)
            elif axis == out:
                batched.insert(0, len(shape))
            at_new[axis] = len(shape) + (axis == out)
            shape += parts
        split = tuple(shape)
        taps = math.prod(split[at_new[a]] for a in space)
        field_ = math.prod(view.shape[a] for a in space)
        summed = (*(at_new[a] for a in space), at_new[into])
        return self._add(
            view.then(lambda indices: indices.reshape(split), split), "weight", rest, at,
            fan_in=split[at_new[into]] * taps, fan_out=split[at_new[out]] * field_,
            receptive_field=field_, groups=groups, axes=(tuple(batched), summed, (at_new[out],)),
            features=numbers.out_spec[1],
        )  # fmt: skip


_SHAPE_ONLY = {
    "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "rev",
    "dynamic_slice",
}  # fmt: skip
_SAME = {
    "convert_element_type", "copy", "copy_p", "optimization_barrier", "reduce_precision",
    "sharding_constraint", "stop_gradient",
}  # fmt: skip


def _parts(value: Value) -> list[tuple[View, str]]:
    if isinstance(value, View):
        return [(value, "scale")]
    return list(value.parts) if isinstance(value, Factors) else []


def _reshaped(equation: Any, view: View) -> View:
    """The view after an operation that moves or repeats entries, and changes none."""
    shape = equation.outvars[0].aval.shape
    name, params = equation.primitive.name, dict(equation.params)
    if name == "dynamic_slice":
        return view.then(_unknown_place, shape)
    primitive = equation.primitive

    def again(indices: Any) -> Any:
        return primitive.bind(jax.numpy.asarray(indices), **params)

    new = view.then(again, shape)
    if name == "slice":
        cut = zip(view.shape, shape, strict=True)
        return new._replace(narrowed=tuple((a, n) for a, (n, m) in enumerate(cut) if n > m == 1))
    if name == "squeeze":
        gone = {a % len(view.shape) for a in params["dimensions"]}
        picked = math.prod(n for a, n in view.narrowed if a in gone)
        return new._replace(picked=view.picked * picked)
    return new


def _unknown_place(indices: Any) -> Any:
    raise RoleError(
        "a part of a parameter is chosen while the model runs, so that no fixed matrix is applied; "
        "scan over stacked layers instead of indexing them."
    )


def _merged(activations: Sequence[Activation]) -> list[Activation]:
    """One for each equation, with all weights that it follows, in the order of the program."""
    found: dict[Path, Activation] = {}
    for activation in activations:
        known = found.get(activation.path, activation)
        found[activation.path] = known._replace(uses=known.uses | activation.uses)
    return [found[path] for path in sorted(found)]


def _taking(part: Any) -> Callable[[Any], Any]:
    return lambda indices: indices[part]


def _split(equation: Any, view: View) -> list[View]:
    axis, found, first = equation.params["axis"], [], 0
    for out in equation.outvars:
        last = first + out.aval.shape[axis]
        part = (*(slice(None),) * axis, slice(first, last))
        found.append(view.then(_taking(part), out.aval.shape))
        first = last
    return found
