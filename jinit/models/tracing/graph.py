"""The record of an abstract run of a model: the graph of its signals, and what was found in it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit.models.tracing import curves
from jinit.models.tracing.jaxprs import output
from jinit.models.tracing.made import Anatomy, Made, Part, laid_out
from jinit.models.tracing.uses import ActivationUse, Kind, ResidualSum, Softmax, Use
from jinit.models.tracing.values import (
    Fixed,
    Joined,
    Loop,
    Parameters,
    Path,
    RoleError,
    Rows,
    Signal,
    Value,
    View,
)


def is_bent(signal: Signal) -> bool:
    """Whether a function that is not the identity waits to be an activation."""
    if signal.pointwise is None:
        return False
    return curves.name_of(signal.pointwise.curve) != "identity"


def _signals(values: Iterable[Value]) -> list[Signal]:
    return [value for value in values if isinstance(value, Signal)]


def _waiting(signals: Iterable[Signal]) -> frozenset[int]:
    """The uses of weights that still wait for their activation."""
    return frozenset[int]().union(*(s.uses for s in signals if not is_bent(s)))


def _bits(of: int) -> list[int]:
    """The members of a set that is written as the bits of a number."""
    return [i for i in range(of.bit_length()) if of >> i & 1]


class Graph:
    """Nodes are signals; every one knows which came before it, and which uses of parameters."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Nothing found yet; `shapes` are those of the parameters."""
        self.shapes = list(shapes)
        self.count = len(self.shapes)  # parameters
        self.made: list[Made] = []  # leaves more, of the shapes that come after
        self.cuts: dict[int, set[tuple[tuple[int, ...], int, int, int]]] = {}  # of uses' columns
        self.rejoined = frozenset[int]()  # uses whose parts come together again
        self.returned: set[int] = set()  # parameters that are outputs themselves
        self.anatomy = Anatomy(self.made, self.shapes, self.count)
        self.uses: list[Use] = []
        self.activations: list[ActivationUse] = []
        self.residuals: list[ResidualSum] = []
        self.meetings: set[tuple[frozenset[int], frozenset[int]]] = set()  # waiting uses of both
        self.softmaxes: dict[Path, Softmax] = {}
        self._used_at: list[int] = []  # node of what came out of each use
        self._fed: list[int] = []  # of each use, the nodes that its signals come from: bits
        self._before: list[int] = []  # of each node, it and those that lead to it: bits
        self._seen: list[int] = []  # of each node, the uses that lead to it: bits
        self._skips: dict[int, int] = {}  # node of a residual sum to the node of its skip
        self.loops: tuple[Loop, ...] = ()
        self.subtracted: dict[int, int] = {}  # node of a difference to the use in it
        self.size = 0  # of what the present equation makes
        self.dtype: Any = np.dtype(np.float32)
        self.floating = True  # whether those are floating-point numbers

    def node(self, values: Iterable[Value] = (), own: int = 0) -> int:
        """A new node after those of `values`; `own` is the use that it is, as a bit."""
        before, seen = 1 << len(self._before), own
        for signal in _signals(values):
            before |= self._before[signal.node]
            seen |= self._seen[signal.node]
        self._before.append(before)
        self._seen.append(seen)
        return len(self._before) - 1

    # --- signals ---

    def new(
        self,
        values: Sequence[Value],
        at: Path,
        *,
        features: int | None = None,
        summed: bool = False,
        normed: bool = False,
    ) -> Signal:
        """What an operation on several entries makes: the uses before it wait on."""
        signals = _signals(values)
        for signal in signals:
            self.settle(signal, summed=summed)
        return Signal(
            self.node(signals),
            # A choice, as an argmax makes: nothing flows on from there.
            uses=_waiting(signals) if self.floating else frozenset(),
            path=at,
            features=features,
            size=self.size,
            normed=normed or any(s.normed for s in signals),
            terms=frozenset[int]().union(*(s.terms for s in signals)),
            raised=frozenset[int]().union(*(s.raised for s in signals)),
            scores=frozenset[int]().union(*(s.scores for s in signals if not is_bent(s))),
            accumulated=frozenset[int]().union(*(s.accumulated for s in signals)),
            cut=frozenset[tuple[int, int]]().union(*(s.cut for s in signals if not is_bent(s))),
        )

    def cut(self, uses: Iterable[int], piece: tuple[tuple[int, ...], int, int, int]) -> None:
        """Of units laid out on a grid, a range along an axis is taken."""
        for i in uses:
            self.cuts.setdefault(i, set()).add(piece)

    def settle(self, signal: Signal, *, summed: bool = False, read: bool = False) -> None:
        """A pointwise function is over: it was the activation of the weights before it.

        Unless it has no name and is a part of a norm: summed over, or of a sum. What a weight reads
        is an activation even if none waits for it.
        """
        if not (signal.uses or read) or signal.pointwise is None or not is_bent(signal):
            return
        if signal.pointwise.curve.dtype != np.float32:
            return  # a mask
        name = curves.name_of(signal.pointwise.curve)
        smaller = signal.size < max((self.uses[i].size for i in signal.uses), default=0)
        if name is None and (summed or smaller):
            return
        self.apply_factor(signal)
        if any(a.path == signal.path and a.uses >= signal.uses for a in self.activations):
            return
        self.activations.append(ActivationUse(
            name, signal.pointwise.curve, signal.uses,
            signal.pointwise.entry, signal.path, self.loops, signal.features, signal.size,
        ))  # fmt: skip

    def settle_all(self, ends: Iterable[Value]) -> None:
        """Where a program ends, so does what its outputs wait for."""
        for signal in _signals(ends):
            self.settle(signal)

    def activated(self, name: str, values: Sequence[Value], at: Path) -> None:
        """A function of several entries, as softmax is, is the activation of what comes in."""
        for i, v in enumerate(values):
            if isinstance(v, Signal) and v.uses:
                self.activations.append(ActivationUse(
                    name, None, v.uses, (at, i), at, self.loops, v.features, v.size
                ))  # fmt: skip

    def meet(self, signals: Sequence[Signal]) -> None:
        """Two signals are added or multiplied: each meets the other, unless that is made of it.

        Its own mean and its own size, as a norm takes them, are made of it.
        """
        if len(signals) == 2:
            for one, other in (signals, signals[::-1]):
                within = self._seen[other.node]
                if not any(within >> order & 1 for order in one.uses):
                    self.meetings.add((one.uses, other.uses))

    def residual_sum(self, signals: Sequence[Signal], at: Path) -> Signal:
        """A sum of two signals: a residual one, if one of them comes out of a branch."""
        out = self.new(signals, at)
        self.meet(signals)
        a, b = (s.node for s in signals)
        if a == b:
            return out
        if self._leads(b, a):
            a, b = b, a
        if not self._leads(a, b):
            for stream, end in ((a, b), (b, a)):  # a branch beside another one
                if stream in self._skips and self._leads(self._skips[stream], end):
                    a, b = self._skips[stream], end
                    break
        branch = self._seen[b] & ~self._seen[a]
        weights = self._weights(branch)
        shortcut = frozenset[int]()
        direct = self._leads(a, b)
        if not direct:
            # The skip may be a projection: one weight, beside a branch from where it starts.
            beside = self._seen[a] & ~self._seen[b]
            shortcut = self._weights(beside)
            if len(shortcut) > len(weights):
                shortcut, weights, branch = weights, shortcut, beside
            if not (len(shortcut) == 1 and len(weights) >= 2):
                return out
            (skip,) = shortcut
            start = self._starts(skip)
            # What is smaller is broadcast into the branch, as the embedding of a time or class is.
            whole = (i for i in weights if self.uses[i].size >= self.uses[skip].size)
            if any(not self._before[self._used_at[i]] & start for i in whole):
                return out  # two signals that are added, as those of x and h in a cell
        last = frozenset(
            i for i in weights
            if not any(j != i and self._leads(self._used_at[i], self._used_at[j]) for j in weights)
        )  # fmt: skip
        if not weights or not (direct or len(last) == 1):
            return out
        rows: dict[int, int] = {}
        for i in sorted(weights):
            above = (n for j, n in rows.items() if self._leads(self._used_at[j], self._used_at[i]))
            rows[i] = 1 + max(above, default=0)
        depth = max(rows.values())
        branched = frozenset(_bits(branch))
        self.residuals.append(ResidualSum(at, self.loops, branched, last, depth, shortcut))
        if direct:
            self._skips[out.node] = a
        return out

    def _starts(self, order: int) -> int:
        """What a weight is fed with, and what that was before without other weights: bits."""
        found = 0
        for node in _bits(self._fed[order]):
            own = self._weights(self._seen[node])
            same = (n for n in _bits(self._before[node]) if self._weights(self._seen[n]) == own)
            found |= sum(1 << n for n in same)
        return found

    def _leads(self, a: int, b: int) -> bool:
        return bool(self._before[b] >> a & 1)

    def _weights(self, uses: int) -> frozenset[int]:
        return frozenset(i for i in _bits(uses) if self.uses[i].kind == "weight")

    # --- parameters ---

    def use(self, view: View, kind: Kind, values: Sequence[Value], at: Path, **more: Any) -> Signal:
        """One use more, and the signal that it makes."""
        order, signals = len(self.uses), _signals(values)
        # Loops that go through its layers use each of them once.
        times = math.prod(loop.length for loop in self.loops) // math.prod(view.layers)
        made = {s.path for s in signals}
        after = made.pop() if len(made) == 1 else None
        columns = more.pop("columns", ())
        self.uses.append(
            Use(kind, order, times, view, at, self.loops, size=self.size, after=after, **more)
        )
        self._used_at.append(self.node(signals, 1 << order))
        self._fed.append(sum(1 << node for node in {s.node for s in signals}))
        if kind == "weight":
            for signal in signals:
                self.apply_factor(signal)
        node, features = self._used_at[-1], more.get("features")
        waiting = frozenset({order} if kind == "weight" else ())
        return Signal(
            node, uses=waiting, path=at, features=features, size=self.size, columns=columns
        )

    def use_between(
        self, view: View, kind: Kind, rest: Sequence[Value], at: Path, *, normed: bool = False,
        **more: Any,
    ) -> Signal:  # fmt: skip
        """A shift or a factor: the weights before it still wait for their activation."""
        used, signals = self.use(view, kind, rest, at, **more), _signals(rest)
        order = len(self.uses) - 1
        self.settle_all(signals)
        normed = normed or any(s.normed for s in signals)
        if kind == "scale" and normed and self.is_vector(view):
            self.uses[-1] = self.uses[-1]._replace(normed=True)
        lone = signals[0] if len(signals) == 1 else None
        if kind == "scale" and lone is not None and self._turns(view, lone):
            self.uses[-1] = self.uses[-1]._replace(kind="rate")
        features = lone.features if lone else None
        kept = normed and kind != "scale"
        multiplied = (order, lone) if kind == "scale" and lone is not None else None
        is_line = lone is not None and not is_bent(lone)
        return replace(
            used, uses=_waiting(signals), features=features, normed=kept,
            spread=lone.spread & view.spread if lone else frozenset(),
            columns=lone.columns if lone else (), multiplied=multiplied,
            scores=lone.scores if lone and not is_bent(lone) else frozenset(),
            rescaled=lone.rescaled if lone and is_line and kind == "bias" else (),
            terms=frozenset({order}).union(*(s.terms for s in signals)),
            raised=frozenset[int]().union(*(s.raised for s in signals)),
            accumulated=frozenset[int]().union(*(s.accumulated for s in signals)),
        )  # fmt: skip

    def _turns(self, view: View, signal: Signal) -> bool:
        """Whether a factor is a decay or a frequency: complex, or by it a loop's state goes on."""
        if jnp.issubdtype(self.dtype, jnp.complexfloating):
            return True
        time = not view.layers or len(self.loops) - 1 not in view.stacked
        return signal.state and bool(self.loops) and time

    def are_rates(self, orders: Iterable[int]) -> None:
        """These terms and factors turn out to be a decay's."""
        for i in orders:
            if self.uses[i].kind in ("bias", "scale"):
                self.uses[i] = self.uses[i]._replace(kind="rate")

    def is_vector(self, view: View) -> bool:
        """Whether a layer has more than one number of it."""
        return len(self.shapes[view.leaf]) > len(view.layers)

    def is_made_of(self, value: Value, leaf: int) -> bool:
        """Whether a use of the parameters of that leaf leads to it."""
        own = self.parts(leaf).keys()
        return isinstance(value, Signal) and any(
            self.parts(self.uses[i].view.leaf).keys() & own for i in _bits(self._seen[value.node])
        )

    def parts(self, leaf: int) -> dict[int, Part]:
        """Of a leaf: parameter -> what it is in it."""
        return self.anatomy.parts(leaf)

    def make(self, equation: Any, values: Sequence[Value]) -> list[View]:
        """What an operation makes of views and constants alone, one leaf more for each result."""
        operands = [self.whole(v) if isinstance(v, Joined) else v for v in values]
        operands = [
            laid_out(v, a.aval.shape) for v, a in zip(operands, equation.invars, strict=True)
        ]  # fmt: skip
        summed = 1
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[a] for a in contracted)
        # A view is in the precision of its leaf: that in which the program has it is noted here.
        dtypes = [atom.aval.dtype for atom in equation.invars]

        def result(i: int) -> Callable[..., Any]:
            run = output(equation, i)
            return lambda *values: run(*(
                jnp.asarray(v).astype(dtype) for v, dtype in zip(values, dtypes, strict=True)
            ))  # fmt: skip

        return [
            self._made(
                equation.primitive.name, result(i), operands, out.aval.shape, out.aval.dtype, summed
            )
            for i, out in enumerate(equation.outvars)
        ]  # fmt: skip

    def whole(self, value: View | Joined) -> View:
        """One view of what lies side by side."""
        if isinstance(value, View):
            return value
        if value.leading:
            flat = self.whole(value._replace(axis=0, leading=()))
            repeated = (*value.leading, *flat.shape)
            return flat.then(lambda numbers: jnp.broadcast_to(numbers, repeated), repeated)
        shape, axis = list(value.views[0].shape), value.axis
        shape[axis] = sum(view.shape[axis] for view in value.views)

        def concatenated(*parts: Any) -> Any:
            return jnp.concatenate(parts, axis)

        dtype = self.dtype
        return self._made("concatenate", concatenated, value.views, tuple(shape), dtype)

    def _made(
        self, name: str, run: Any, operands: Sequence[Value], shape: tuple[int, ...], dtype: Any,
        summed: int = 1,
    ) -> View:  # fmt: skip
        given: Any = tuple(v if isinstance(v, View | Fixed) else None for v in operands)
        loops: dict[int, int] = {}
        for value in given:
            if isinstance(value, View):
                loops |= dict(zip(value.stacked, value.layers, strict=True))
        stacked = tuple(sorted(loops))
        layers = tuple(loops[i] for i in stacked)
        self.made.append(Made(name, run, given, shape, dtype, layers, stacked, summed))
        self.shapes.append((*layers, *shape))
        return View(len(self.shapes) - 1, shape, (None,) * len(layers), layers, stacked)

    def apply_factor(self, signal: Signal) -> None:
        """A constant factor on what came out of weights is one on the matrix that is applied."""
        if not signal.rescaled:
            return
        factor, path = signal.rescaled[-1]
        for i in signal.uses:
            use = self.uses[i]
            if use.rescaled is None and use.size == signal.size:  # no sum since
                whole = View(use.view.leaf, self.shapes[use.view.leaf])
                made = self._made(
                    "mul", lambda w: w * jnp.asarray(factor, w.dtype), [whole], whole.shape,
                    self.dtype,
                )  # fmt: skip
                view = use.view._replace(leaf=made.leaf)
                self.uses[i] = use._replace(view=view, rescaled=path)

    def look_up(
        self, table: View, rest: Sequence[Value], at: Path, picked: int, axes: Iterable[int],
        size: int,
    ) -> Signal:  # fmt: skip
        """Rows of a table that data picks along an axis; `axes` of what comes out hold the rest."""
        own = tuple(a for a in range(len(table.shape)) if a != picked)
        used = self.use(table, "embedding", rest, at, fan_out=size, axes=((picked,), own, ()))
        return replace(used, rows=Rows(len(self.uses) - 1, tuple(axes)))

    def softmax(self, signal: Signal, axes: Sequence[int]) -> None:
        """A sum over exponentials of products of two signals."""
        self.softmaxes.setdefault(
            signal.path, Softmax(signal.path, tuple(axes), self.loops, signal.scores)
        )

    def sum_product(self, signal: Signal, summed: Sequence[int], at: Path) -> Signal | None:
        """A sum over a product entry by entry: a matrix product, if the parameter varies there."""
        assert signal.multiplied is not None
        order, read = signal.multiplied
        use = self.uses[order]
        view, shape = use.view, use.view.shape
        own = [a for a, n in enumerate(shape) if n > 1 and a not in view.spread]
        inner = [a for a in own if a in summed]
        if not inner or use.normed or use.kind != "scale":
            return None
        batched = [a for a in own if a not in summed and a not in read.spread]
        free = [a for a in own if a not in summed and a in read.spread]
        taken = tuple(slice(None) if a in own else 0 for a in range(len(shape)))
        place = {a: i for i, a in enumerate(own)}

        def one(numbers: Any) -> Any:
            return numbers[taken]

        size = {
            name: math.prod(shape[a] for a in axes)
            for name, axes in (("in", inner), ("out", free), ("groups", batched))
        }
        axes: Any = tuple(tuple(place[a] for a in each) for each in (batched, inner, free))
        left = [a for a in range(len(shape)) if a not in summed]
        features = left.index((free or batched or left)[-1]) if left else None
        self.settle(read, read=True)
        self.apply_factor(read)
        self.uses[order] = use._replace(
            kind="weight", view=view.then(one, [shape[a] for a in own]), path=at, size=self.size,
            loops=self.loops,
            fan_in=size["in"], fan_out=size["out"], groups=size["groups"], axes=axes,
            features=features,
        )  # fmt: skip
        columns = tuple(left.index(a) for a in free)
        return Signal(
            self.node([signal]), uses=frozenset({order}), path=at, features=features,
            size=self.size, columns=columns,
        )  # fmt: skip

    def are_same(self, a: Value, b: Value) -> bool:
        """Whether two values hold the same entries of the same parameter, however they came."""
        if not (isinstance(a, View) and isinstance(b, View)):
            return a == b
        if (a.leaf, a.shape, a.layers, a.stacked) != (b.leaf, b.shape, b.layers, b.stacked):
            return False
        first, shape = (0,) * len(a.layers), self.shapes[a.leaf]
        try:
            return np.array_equal(a.indices(shape, first), b.indices(shape, first))
        except RoleError:  # a part that is chosen while the model runs
            return False

    def use_as_other(self, value: Value, at: Path) -> Value:
        """Used in a way that says nothing."""
        if not isinstance(value, Parameters):
            return value
        views = [value] if isinstance(value, View) else value.views
        used = [self.use(view, "other", [], at) for view in views]
        return Signal(self.node(used), path=at, size=self.size)

    # --- the second look at a loop's body, and the end ---

    def keep_activations(self, run: Callable[[], Any]) -> None:
        """Run the same equations again, for the activations that they add alone."""
        uses, residuals, found = list(self.uses), list(self.residuals), len(self.activations)
        softmaxes, meetings = dict(self.softmaxes), set(self.meetings)
        cuts, rejoined = {i: set(pieces) for i, pieces in self.cuts.items()}, self.rejoined
        run()
        shift = len(self.uses) - len(uses)
        for i, activation in enumerate(self.activations[found:], found):
            known = frozenset(u - shift if u >= len(uses) else u for u in activation.uses)
            self.activations[i] = activation._replace(uses=known)
        self.uses, self.residuals = uses, residuals
        self.cuts, self.rejoined = cuts, rejoined
        self.softmaxes, self.meetings = softmaxes, meetings
        del self._used_at[len(uses) :], self._fed[len(uses) :]

    def conclude(self, ends: Sequence[tuple[Value, tuple[int, ...]]]) -> None:
        """What only the whole program shows: `ends` are its outputs with their shapes."""
        self.settle_all([end for end, _ in ends])
        for end, _ in ends:
            if isinstance(end, Signal):
                self.apply_factor(end)
            elif isinstance(end, Parameters):
                self.returned |= set(self.parts(self.whole(end).leaf))
        self.activations = _merged(self.activations)
        # What looks like a projected skip may be a step of a network unrolled in time.
        leaves = {use.order: use.view.leaf for use in self.uses if use.kind == "weight"}
        counts = Counter(leaves.values())
        self.residuals = [
            r for r in self.residuals
            if not r.shortcut or all(counts[leaves[i]] == 1 for i in r.shortcut | r.last)
        ]  # fmt: skip
        for i, use in enumerate(self.uses):
            if use.kind in ("bias", "scale") and self._only_kept(i, ends):
                self.uses[i] = use._replace(kind="statistic")
        for i, pieces in self.cuts.items():
            if self.uses[i].kind == "weight" and i not in self.rejoined:
                self.uses[i] = self.uses[i]._replace(gates=_gates(pieces, self.uses[i].fan_out))
        self.uses = [use._replace(parts=self.parts(use.view.leaf)) for use in self.uses]
        # Products with exponentials of what others read as it is: a flow's log-determinant.
        plain = {use.leaf for use in self.uses if use.kind == "weight" and not _is_raised(use)}
        for i, use in enumerate(self.uses):
            if use.kind == "weight" and _is_raised(use) and use.leaf in plain:
                self.uses[i] = use._replace(kind="other", sure=True)

    def leads_to_its_like(self, i: int) -> bool:
        """Whether something of its parameter's shape comes of a use, and nothing reads that."""
        node, size = self._used_at[i], self.uses[i].part
        return all(
            not self._leads(node, self._used_at[j]) or use.size == size
            for j, use in enumerate(self.uses) if j != i
        )  # fmt: skip

    def _only_kept(self, i: int, ends: Sequence[tuple[Value, tuple[int, ...]]]) -> bool:
        """Whether a use leads to nothing but a new value of its parameter, as running means do."""
        node, own = self._used_at[i], self.shapes[self.uses[i].view.leaf]
        reached = [
            k for k, (end, _) in enumerate(ends)
            if isinstance(end, Signal) and self._leads(node, end.node)
        ]  # fmt: skip
        return bool(reached) and 0 not in reached and all(ends[k][1] == own for k in reached)


def _is_raised(use: Use) -> bool:
    return use.parts[use.leaf].raised


def _gates(
    pieces: set[tuple[tuple[int, ...], int, int, int]], columns: int | None
) -> tuple[int, ...] | None:
    """Which of several equal parts every column belongs to, if all of them are taken."""
    grids = {(grid, axis) for grid, axis, *_ in pieces}
    sizes = {last - first for *_, first, last in pieces}
    if len(grids) > 1 or len(sizes) > 1 or len(pieces) < 2:
        return None
    ((grid, axis),), (size,) = grids, sizes
    starts = sorted(first for *_, first, _ in pieces)
    if starts != list(range(0, grid[axis], size)) or math.prod(grid) != columns:
        return None
    return tuple(map(int, np.indices(grid)[axis].ravel() // size))


def _merged(activations: Sequence[ActivationUse]) -> list[ActivationUse]:
    """One for each equation, with all weights that it follows, in the order of the program."""
    found: dict[Path, ActivationUse] = {}
    for activation in activations:
        known = found.get(activation.path, activation)
        found[activation.path] = known._replace(uses=known.uses | activation.uses)
    order = [found[path] for path in sorted(found)]
    merged = []
    for i, later in enumerate(order):
        first = next((a for a in order[:i] if _is_again(later, a)), None)
        if first is not None:
            later = later._replace(name=first.name, curve=first.curve, entry=(first.path, None))
        merged.append(later)
    return merged


def _is_again(later: ActivationUse, first: ActivationUse) -> bool:
    """Whether it is the same function once more, as where the first value is a stream's start."""
    if later.entry != first.entry or later.curve is None or first.curve is None:
        return False
    twice = curves.again(first.name, first.curve)
    return twice is not None and np.allclose(later.curve, twice, 1e-4, 1e-4)
