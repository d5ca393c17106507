"""What a trace's weights make together: attention, recurrent cells, low ranks beside a weight.

A second look at a traced program. The first (jinit.models.tracing) says what every parameter is
for; this one says which weight's outputs meet where, and which of their columns.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal as JaxprLiteral

from jinit.models.tracing.jaxprs import inner_jaxprs, opened, split_scan
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.uses import ResidualSum, Use
from jinit.models.tracing.values import Loop, Path

Index = Callable[[], np.ndarray]
"""For each entry of a value the column of a weight's output, or the place in a bias, that it is
made of, -1 for none: `[alternatives, *shape]`, as rotary positions make it of two"""
Made = dict[int, Index | None]
"""Uses whose outputs, functions of single entries aside, a value is made of"""


class Attention(NamedTuple):
    """A softmax of products of two signals, which mixes a third."""

    query: Made
    key: Made
    value: Made
    head: int
    """entries that a query and a key have in one head"""
    crossed: bool
    """queries and keys are of different signals"""
    memory: frozenset[int]
    """uses that lead to what the keys are read from"""


class Gates(NamedTuple):
    """An LSTM's two gates of its state, f * c + i * g."""

    forget: Made
    input: Made
    whole: Made
    """every use that the gates are made of"""


@dataclass(frozen=True)
class Flow:
    """What was found, by the order of uses."""

    attentions: tuple[Attention, ...]
    outputs: dict[int, int]
    """use of a weight that reads what an attention mixed -> number of the attention"""
    gates: tuple[Gates, ...]
    recurrent: dict[int, int]
    """use of a weight that reads the state of a cell in a loop -> units of the state"""
    cells: dict[int, int]
    """use of any weight of such a cell -> units of the state"""
    low_ranks: tuple[tuple[int, int], ...]
    """two uses of weights in a row, beside a third one that reads the same"""
    biased: dict[int, frozenset[int]]
    """use of a bias -> uses of the weights whose outputs it is added to; none after a norm"""
    looked_up: frozenset[int]
    """lookups by numbers that no input has a part in: of positions"""
    first: frozenset[int]
    """uses of weights that read an input itself"""
    residuals: tuple[ResidualSum, ...]
    """sums of a branch and of a number times the signal that it started from, as in post-norm
    models whose skip is scaled"""


@dataclass(frozen=True, eq=False)
class _Value:
    """What is known of one value."""

    data: bool = False
    """inputs or lookups lead to it"""
    source: int = 0
    """of values that differ in shape alone, one number"""
    before: int = 0
    """it and those that lead to it: bits"""
    base: int = 0
    """the source that it is a number times"""
    seen: frozenset[int] = frozenset()
    """uses that lead to it"""
    made: Made = field(default_factory=dict)
    linear: bool = True
    """no curve since those weights"""
    normed: bool = False
    """the scale of a norm since those weights"""
    bent: str = ""
    """the last curve"""
    scores: frozenset[int] = frozenset()
    """numbers of products of two signals"""
    curved: bool = False
    """through an exponential since that product"""
    mixed: frozenset[int] = frozenset()
    """numbers of attentions that mixed it"""
    carried: tuple[tuple[Path, int], ...] = ()
    """loops that carry it, and its last axis"""
    factors: tuple["_Value", ...] = ()
    """two signals that it is the product of"""


class _Scores(NamedTuple):
    left: _Value
    right: _Value
    contracted: int


_MOVES = {
    "reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "rev", "slice", "copy",
    "convert_element_type", "stop_gradient", "optimization_barrier", "copy_p", "reduce_precision",
    "sharding_constraint",
}  # fmt: skip
_CURVES = {"tanh", "logistic", "exp", "max", "erf", "sin", "cos", "log1p", "integer_pow", "square"}
_LARGE = 2**27  # entries of a value whose columns are followed


def flow(trace: Trace) -> Flow:
    """Follow a traced model's weights."""
    walk = _Walk(trace)
    floats = len(trace.leaves)
    jaxpr = opened(trace.jaxpr)
    values = [_Value() for _ in range(floats)]
    values += [walk.new(data=True) for _ in jaxpr.invars[floats:]]
    walk.run(jaxpr, values, ())
    return walk.found()


class _Walk:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.uses = trace.uses
        self.at: dict[Path, list[Use]] = {}
        for use in trace.uses:
            self.at.setdefault(use.path, []).append(use)
        self.count = 0
        self.scores: list[_Scores] = []
        self.reads: dict[int, _Value] = {}
        self.attentions: list[Attention] = []
        self.outputs: dict[int, int] = {}
        self.gates: list[Gates] = []
        self.recurrent: dict[int, int] = {}
        self.cells: dict[int, int] = {}
        self.pairs: dict[int, int] = {}  # a second weight to the first, of a lower rank
        self.low_ranks: list[tuple[int, int]] = []
        self.biased: dict[int, frozenset[int]] = {}
        self.looked_up: set[int] = set()
        self.streams: set[Path] = set()  # loops that are given something for each pass
        self.residuals: list[ResidualSum] = []
        self.loops: tuple[Loop, ...] = ()
        self.at_now: Path = ()

    def new(self, *values: _Value, **known: Any) -> _Value:
        self.count += 1
        before = 1 << self.count
        for value in values:
            before |= value.before
        return _Value(source=self.count, before=before, **known)

    def found(self) -> Flow:
        first = frozenset(
            order
            for order, value in self.reads.items()
            if value.data and not value.seen and order not in self.recurrent
        )
        return Flow(
            tuple(self.attentions), self.outputs, tuple(self.gates), self.recurrent, self.cells,
            tuple(self.low_ranks), self.biased, frozenset(self.looked_up), first,
            tuple(self.residuals),
        )  # fmt: skip

    # --- programs ---

    def run(self, jaxpr: Any, values: Sequence[_Value], at: Path) -> list[_Value]:
        env: dict[Any, _Value] = dict(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> _Value:
            return _Value() if isinstance(atom, JaxprLiteral) else env.get(atom, _Value())

        for number, equation in enumerate(jaxpr.eqns):
            given = [read(atom) for atom in equation.invars]
            out = self.equation(equation, given, (*at, number))
            env.update(zip(equation.outvars, out, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, values: list[_Value], at: Path) -> list[_Value]:
        name, count = equation.primitive.name, len(equation.outvars)
        self.at_now = at
        if at in self.at:
            return [self.used(equation, values, self.at[at])] * count
        if name == "scan":
            return self.scan(equation, values, at)
        if name == "cond":
            ends = [self.run(inner, values[1:], (*at, i))
                    for i, inner in enumerate(inner_jaxprs(equation) or [])]  # fmt: skip
            return [self.merged(list(each)) for each in zip(*ends, strict=True)]
        if name == "while":
            skipped = equation.params["cond_nconsts"]
            (body,) = inner_jaxprs(equation) or []
            return self.run(body, values[skipped:], (*at, 0))
        inner = inner_jaxprs(equation)
        if inner:
            return self.run(inner[0], values, (*at, 0))
        if not any(v.data for v in values):
            return [_Value()] * count
        if name == "dot_general":
            return [self.product(equation, values)]
        if name in _MOVES:
            return [self.moved(equation, values[0])]
        if name == "split":
            return self.split(equation, values[0])
        if name == "gather" and values[0].data:
            return [replace(self.merged(values[:1]), linear=values[0].linear)]
        return [self.together(equation, values)] * count

    def scan(self, equation: Any, values: list[_Value], at: Path) -> list[_Value]:
        jaxpr = opened(equation.params["jaxpr"])
        consts, carried = split_scan(equation)
        own = list(values[:consts])
        for i, value in enumerate(values[consts : consts + carried]):
            shape = tuple(getattr(jaxpr.invars[consts + i].aval, "shape", ()))
            loop = ((at, shape[-1]),) if shape else ()
            own.append(self.new(value, data=True, seen=value.seen, carried=loop))
        for value in values[consts + carried :]:
            if value.data:
                self.streams.add(at)
            own.append(self.new(value, data=True, seen=value.seen) if value.data else value)
        around, params = self.loops, equation.params
        self.loops = (*around, Loop(at, params["length"], params["reverse"]))
        found = self.run(jaxpr, own, (*at, 0))
        self.loops = around
        return [self.new(v, data=v.data, seen=v.seen, made=dict.fromkeys(v.made)) for v in found]

    # --- signals ---

    def merged(self, values: Sequence[_Value]) -> _Value:
        """What several values make together, as far as it does not matter how."""
        data = [v for v in values if v.data]
        made: Made = {}
        for value in data:
            made |= dict.fromkeys(value.made)
        return self.new(
            *data,
            data=bool(data),
            seen=frozenset[int]().union(*(v.seen for v in data)),
            made=made,
            linear=all(v.linear for v in data),
            normed=any(v.normed for v in data),
            scores=frozenset[int]().union(*(v.scores for v in data)),
            curved=any(v.curved for v in data),
            mixed=frozenset[int]().union(*(v.mixed for v in data)),
        )

    def together(self, equation: Any, values: list[_Value]) -> _Value:
        """A function of single entries, or of several."""
        name, out = equation.primitive.name, self.merged(values)
        shape = equation.outvars[0].aval.shape
        for value, atom in zip(values, equation.invars, strict=True):
            if value.data and np.shape(atom.aval) == shape and name != "concatenate":
                for order, index in value.made.items():
                    out.made[order] = _either(out.made[order], index)
        data = [v for v in values if v.data]
        bends = name in _CURVES
        bent = name if bends else next((v.bent for v in data if v.bent), "")
        if name == "mul" and len(data) == 2:
            # A product of two signals is no linear function of their weights.
            out = replace(out, linear=False, factors=(data[0], data[1]))
        carried = data[0].carried if name == "mul" and len(data) == 1 else ()
        if name in ("mul", "concatenate"):
            carried = tuple(dict.fromkeys(c for v in data for c in v.carried))
        out = replace(
            out, linear=out.linear and not bends, bent=bent, carried=carried,
            curved=out.curved or (name == "exp" and bool(out.scores)),
        )  # fmt: skip
        if name == "concatenate":
            self.joined(equation, values, out)
        if name in ("add", "add_any"):
            if len(data) == 2:
                self.branch(data, self.at_now)
            out = self.added(data, out)
        elif len(data) == 1 and (name == "mul" or (name == "div" and data == values[:1])):
            out = replace(out, base=data[0].base or data[0].source)
        return out

    def branch(self, data: list[_Value], at: Path) -> None:
        """A sum of a number times a signal, and of what weights made of that signal."""
        for skip, end in (data, data[::-1]):
            if not skip.base or not end.before >> skip.base & 1 or skip.before >> end.source & 1:
                continue
            inside = end.seen - skip.seen
            # What another part of the model has made, as the memory of a decoder, is not inside.
            weights = {
                o for o in inside
                if self.uses[o].kind == "weight" and self.reads[o].before >> skip.base & 1
            }  # fmt: skip
            branch = frozenset(o for o in inside if o >= min(weights, default=0))
            branch -= {o for o in branch if self.uses[o].kind == "weight"} - weights
            depth: dict[int, int] = {}
            for order in sorted(weights):
                above = (depth[o] for o in weights & self.reads[order].seen if o in depth)
                depth[order] = 1 + max(above, default=0)
            last = {o for o in weights if not any(o in self.reads[w].seen for w in weights)}
            if last:
                self.residuals.append(ResidualSum(
                    at, self.loops, branch, frozenset(last), max(depth.values())
                ))  # fmt: skip
            return

    def added(self, data: list[_Value], out: _Value) -> _Value:
        orders = [o for o in out.made if self.uses[o].kind == "weight"]
        if out.linear and len(data) == 2:
            for second in orders:
                first = self.pairs.get(second)
                beside = (o for o in orders if o != second and first is not None)
                if first is not None and any(
                    self.reads[o].source == self.reads[first].source for o in beside
                ):
                    self.low_ranks.append((first, second))
            sizes = {self.recurrent[o] for o in orders if o in self.recurrent}
            if len(sizes) == 1:
                self.cells |= dict.fromkeys(orders, sizes.pop())
        for one, other in (data, data[::-1]) if len(data) == 2 else ():
            # What a reset gate multiplies is of the cell, and so is what it is added to.
            reset = {
                self.recurrent[o] for v in other.factors for o in v.made if o in self.recurrent
            }
            if one.linear and len(reset) == 1 and self._weights(one) and not one.factors:
                self.cells |= dict.fromkeys(self._weights(one), *reset)
        if len(data) == 2 and all(v.factors for v in data):
            return self.state(data, out)
        return out

    def state(self, data: list[_Value], out: _Value) -> _Value:
        """f * c + i * g: two products, of which one holds a gate and what no weight made."""
        for kept, put in (data, data[::-1]):
            gates = [v for v in kept.factors if self._is_gate(v)]
            states = [v for v in kept.factors if not self._weights(v)]
            fresh = [v for v in put.factors if self._weights(v)]
            into = [v for v in fresh if self._is_gate(v)]
            if len(gates) == len(states) == 1 and len(fresh) == 2 and into:
                forget, inward = gates[0].made, into[0].made
                if forget.keys() == inward.keys() and self._same(forget, inward):
                    return out  # one gate for both, as a GRU has
                self.gates.append(Gates(forget, inward, kept.made | put.made))
                return self.new(*data, data=True, seen=out.seen)
        return out

    def _weights(self, value: _Value) -> list[int]:
        return [o for o in value.made if self.uses[o].kind == "weight"]

    def _is_gate(self, value: _Value) -> bool:
        return value.bent == "logistic" and bool(self._weights(value))

    @staticmethod
    def _same(a: Made, b: Made) -> bool:
        return all(
            (a[o] is None and b[o] is None)
            or (a[o] is not None and b[o] is not None and np.array_equal(a[o](), b[o]()))  # type: ignore[misc]
            for o in a
        )

    def product(self, equation: Any, values: list[_Value]) -> _Value:
        """A product of two signals: scores, or what they mix."""
        out, (left, right) = self.merged(values), values
        if not (left.data and right.data):
            return out  # with numbers that are fixed
        for weights, mixed in ((left, right), (right, left)):
            if weights.scores and weights.curved:
                made = frozenset(
                    self._attention(self.scores[i], mixed) for i in sorted(weights.scores)
                )
                return replace(
                    out, made={}, scores=frozenset(), mixed=made, curved=False, linear=False
                )
        contracting, _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        self.scores.append(_Scores(left, right, math.prod(shape[a] for a in contracting[0])))
        scores = frozenset({len(self.scores) - 1})
        return replace(out, made={}, scores=scores, curved=False, mixed=frozenset(), linear=False)

    def _attention(self, scores: _Scores, mixed: _Value) -> int:
        sides = [
            {self.reads[o].source for o in self._weights(v)} for v in (scores.left, scores.right)
        ]
        value = {self.reads[o].source for o in self._weights(mixed)}
        # Keys are read from what values are read from.
        left, right = scores.left, scores.right
        if sides[0] != sides[1] and sides[0] == value:
            left, right = right, left
        crossed = bool(sides[0] and sides[1]) and not sides[0] & sides[1]
        memory = frozenset[int]().union(*(self.reads[o].seen for o in self._weights(right)))
        self.attentions.append(
            Attention(left.made, right.made, mixed.made, scores.contracted, crossed, memory)
        )
        return len(self.attentions) - 1

    # --- another shape ---

    def moved(self, equation: Any, value: _Value) -> _Value:
        primitive, params = equation.primitive, dict(equation.params)
        step = lambda index: primitive.bind(index, **params)  # noqa: E731
        if primitive.name not in ("reshape", "transpose", "broadcast_in_dim", "squeeze",
                                  "expand_dims", "rev", "slice"):  # fmt: skip
            return value
        return replace(value, made=self._stepped(value, step, equation.outvars[0]))

    def split(self, equation: Any, value: _Value) -> list[_Value]:
        axis, first, out = equation.params["axis"], 0, []
        for variable in equation.outvars:
            last = first + variable.aval.shape[axis]
            part = (*(slice(None),) * axis, slice(first, last))
            first = last
            made = self._stepped(value, operator.itemgetter(part), variable)
            part_of = self.new(value)
            out.append(replace(value, source=part_of.source, before=part_of.before, made=made))
        return out

    @staticmethod
    def _stepped(value: _Value, step: Callable[[Any], Any], out: Any) -> Made:
        large = math.prod(out.aval.shape) > _LARGE

        def after(index: Index | None) -> Index | None:
            if index is None or large:
                return None

            @cache
            def found() -> np.ndarray:
                with jax.ensure_compile_time_eval():
                    return np.stack([np.asarray(step(jnp.asarray(each))) for each in index()])

            return found

        return {order: after(index) for order, index in value.made.items()}

    @staticmethod
    def joined(equation: Any, values: list[_Value], out: _Value) -> None:
        """Parts side by side; what is not of a use counts as none of its columns."""
        axis = equation.params["dimension"]
        shapes = [atom.aval.shape for atom in equation.invars]
        for order in out.made:
            parts = [v.made.get(order) if v.data else None for v in values]
            missing = any(
                p is None and v.data and order in v.made for p, v in zip(parts, values, strict=True)
            )
            if missing or math.prod(equation.outvars[0].aval.shape) > _LARGE:
                continue

            @cache
            def found(parts: Any = tuple(parts)) -> np.ndarray:
                own = [
                    np.full((1, *shape), -1, np.int32) if part is None else part()
                    for part, shape in zip(parts, shapes, strict=True)
                ]
                count = max(len(each) for each in own)
                padded = [np.resize(each, (count, *each.shape[1:])) for each in own]
                return np.concatenate(padded, axis + 1)

            out.made[order] = found

    # --- uses ---

    def used(self, equation: Any, values: list[_Value], uses: list[Use]) -> _Value:
        kinds = {use.kind for use in uses}
        data = [v for v in values if v.data]
        out, shape = self.merged(values), equation.outvars[0].aval.shape
        orders = frozenset(use.order for use in uses)
        seen = out.seen | orders
        if kinds == {"embedding"}:
            if not data:
                self.looked_up |= orders
            return self.new(*data, data=True, seen=seen)
        if kinds == {"weight"}:
            return self.weighted(equation, data, uses, seen)
        kept = replace(self.together(equation, values), seen=seen)
        if kinds == {"bias"} and data:
            weights = frozenset(self._weights(data[0]))
            made = dict(kept.made)
            for use, index in self._side_by_side(uses, shape, len(shape) - 1, bias=True):
                self.biased[use.order] = frozenset() if data[0].normed else weights
                made[use.order] = index
            return replace(kept, made=made, data=True)
        if "scale" in kinds and any(use.normed for use in uses):
            return replace(kept, normed=True, data=True)
        return replace(kept, data=True)

    def weighted(
        self, equation: Any, data: list[_Value], uses: list[Use], seen: frozenset[int]
    ) -> _Value:
        read = data[0] if data else _Value()
        shape = equation.outvars[0].aval.shape
        for use in uses:
            self.reads[use.order] = read
            for number in read.mixed:
                self.outputs[use.order] = number
            around = {loop.path for loop in use.loops} & self.streams
            sizes = [size for path, size in read.carried if path in around]
            if sizes and not use.view.layers:
                self.recurrent[use.order] = self.cells[use.order] = sizes[0]
        if len(uses) == 1 and read.linear and len(self._weights(read)) == 1:
            (first,), (second,) = self._weights(read), uses
            a, b = self.uses[first], second
            if a.fan_out == b.fan_in and (b.fan_in or 0) < min(a.fan_in or 0, b.fan_out or 0):
                self.pairs[b.order] = first
        axis = self._features(equation, data, uses[0])
        made = {use.order: at for use, at in self._side_by_side(uses, shape, axis)}
        return self.new(read, data=True, seen=seen, made=made)

    @staticmethod
    def _features(equation: Any, data: list[_Value], use: Use) -> tuple[int, int] | None:
        """Where in the output the weight's free axes lie: the first, and how many."""
        name, free = equation.primitive.name, len(use.axes[2])
        rank = len(equation.outvars[0].aval.shape)
        if name == "conv_general_dilated":
            return (
                (equation.params["dimension_numbers"].out_spec[1], 1) if use.groups == 1 else None
            )
        if name != "dot_general" or use.axes[0]:
            return None
        (_, right), _ = equation.params["dimension_numbers"]
        shapes = [atom.aval.shape for atom in equation.invars]
        is_right = shapes[1] == use.view.shape and tuple(right) == use.axes[1]
        is_left = shapes[0] == use.view.shape and not is_right
        return (rank - free, free) if not is_left else (0, free)

    @staticmethod
    def _side_by_side(
        uses: list[Use], shape: tuple[int, ...], axis: Any, *, bias: bool = False
    ) -> list[tuple[Use, Index | None]]:
        """For every use the places of its own in a value of that shape, one after the other."""
        if axis is None or math.prod(shape) > _LARGE:
            return [(use, None) for use in uses]
        if bias:
            if len(uses) == 1:
                view = uses[0].view.shape

                @cache
                def places() -> np.ndarray:
                    return np.broadcast_to(
                        np.arange(math.prod(view), dtype=np.int32).reshape(1, *view), (1, *shape)
                    )

                fits = len(view) == len(shape) and all(
                    a in (1, b) for a, b in zip(view, shape, strict=True)
                )
                return [(uses[0], places if fits else None)]
            sizes, first, count = [use.part for use in uses], axis, 1
        else:
            first, count = axis
            sizes = [use.fan_out // use.receptive_field for use in uses]  # type: ignore[operator]
        whole = shape[first : first + count]
        if math.prod(whole) != sum(sizes) or (count > 1 and len(uses) > 1):
            return [(use, None) for use in uses]
        found: list[tuple[Use, Index | None]] = []
        start = 0
        for use, size in zip(uses, sizes, strict=True):

            @cache
            def columns(start: int = start, size: int = size) -> np.ndarray:
                own = np.full(math.prod(whole), -1, np.int32)
                own[start : start + size] = np.arange(size)
                lined = own.reshape((1,) * first + whole + (1,) * (len(shape) - first - count))
                return np.broadcast_to(lined, shape)[None]

            found.append((use, columns))
            start += size
        return found


def _either(a: Index | None, b: Index | None) -> Index | None:
    """The places of both."""
    if a is None or b is None or a is b:
        return b if a is None else a
    return cache(lambda: np.concatenate([a(), b()]))


def columns(index: Index | None) -> np.ndarray | None:
    """The columns, or places, that a value is made of, in order; None if that is not known."""
    if index is None:
        return None
    found = np.unique(index())
    return found[found >= 0]
