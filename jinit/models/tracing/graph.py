"""The record of an abstract run of a model: the graph of its values, and what was found in it."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jinit.models.tracing import curves
from jinit.models.tracing.uses import ActivationUse, Kind, ResidualSum, Use
from jinit.models.tracing.values import Factors, Joined, Loop, Path, Signal, Value, View


class Held(NamedTuple):
    """A value, and the number of its node in the graph of values; None if nothing led to it."""

    value: Value
    node: int | None


NOTHING = Held(None, None)


def is_bent(signal: Signal) -> bool:
    """Whether a function that is not the identity waits to be an activation."""
    if signal.pointwise is None:
        return False
    return curves.name_of(signal.pointwise.curve) != "identity"


def _bits(of: int) -> list[int]:
    """The members of a set that is written as the bits of a number."""
    return [i for i in range(of.bit_length()) if of >> i & 1]


class Graph:
    """Nodes are values; every one knows which came before it, and which uses of parameters."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Nothing found yet; `shapes` are those of the parameters."""
        self.shapes = shapes
        self.uses: list[Use] = []
        self.activations: list[ActivationUse] = []
        self.residuals: list[ResidualSum] = []
        self._used_at: list[int] = []  # node of what came out of each use
        self._sizes: list[int] = []  # of what came out of each use
        self._before: list[int] = []  # of each node, it and those that lead to it: a set of bits
        self._seen: list[int] = []  # of each node, the uses that lead to it: a set of bits
        self._data: list[bool] = []  # of each node, whether inputs lead to it, or lookups
        self._fed: list[int] = []  # of each use, the nodes that its signals come from: likewise
        self._skips: dict[int, int] = {}  # node of a residual sum to the node of its skip
        self.loops: tuple[Loop, ...] = ()
        self.subtracted: dict[int, int] = {}  # node of a difference to the use in it
        self._sources = 0
        self.size = 0  # of what the present equation makes
        self.floating = True  # whether those are floating-point numbers

    def node(self, held: Sequence[Held], own: int = 0, *, data: bool | None = None) -> int:
        """A new node after those of `held`; `own` is the use that it is, as a bit."""
        nodes = {h.node for h in held if h.node is not None}
        self._before.append(1 << len(self._before))
        self._seen.append(own)
        self._data.append(any(self._data[node] for node in nodes) if data is None else data)
        for node in nodes:
            self._before[-1] |= self._before[node]
            self._seen[-1] |= self._seen[node]
        return len(self._before) - 1

    def fresh(self, **known: Any) -> Signal:
        """A signal that is no function of single entries of another."""
        self._sources += 1
        return Signal(source=self._sources, size=self.size, **known)

    # --- signals ---

    def is_data(self, held: Held) -> bool:
        """Whether it is a signal; else it is numbers that a parameter may be made of."""
        return held.node is not None and self._data[held.node]

    def new(
        self,
        held: Sequence[Held],
        at: Path,
        *,
        features: int | None = None,
        summed: bool = False,
        normed: bool = False,
        data: bool | None = None,
    ) -> Held:
        """What an operation on several entries makes: the uses before it wait on."""
        signals = [h.value for h in held if isinstance(h.value, Signal)]
        for signal in signals:
            self.settle(signal, summed=summed)
        uses = frozenset[int]().union(*(s.uses for s in signals if not is_bent(s)))
        if not self.floating:  # a choice, as an argmax makes: nothing flows on from there
            uses = frozenset()
        normed = normed or any(s.normed for s in signals)
        signal = self.fresh(uses=uses, path=at, features=features, normed=normed)
        return Held(signal, self.node(held, data=data))

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
        smaller = signal.size < max((self._sizes[i] for i in signal.uses), default=0)
        if name is None and (summed or smaller):
            return
        if any(a.path == signal.path and a.uses >= signal.uses for a in self.activations):
            return
        self.activations.append(ActivationUse(
            name, signal.pointwise.curve, signal.uses,
            signal.pointwise.entry, signal.path, self.loops, signal.features, signal.size,
        ))  # fmt: skip

    def settle_all(self, ends: Sequence[Held]) -> None:
        """Where a program ends, so does what its outputs wait for."""
        for end in ends:
            if isinstance(end.value, Signal):
                self.settle(end.value)

    def activated(self, name: str, held: Sequence[Held], at: Path) -> None:
        """A function of several entries, as softmax is, is the activation of what comes in."""
        for i, h in enumerate(held):
            if isinstance(h.value, Signal) and h.value.uses:
                self.activations.append(ActivationUse(
                    name, None, h.value.uses, (at, i), at, self.loops, h.value.features,
                    h.value.size,
                ))  # fmt: skip

    def residual_sum(self, held: Sequence[Held], at: Path) -> Held:
        """A sum of two signals: a residual one, if one of them comes out of a branch."""
        out = self.new(held, at)
        a, b = (h.node for h in held)
        if a is None or b is None or a == b:
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
            whole = (i for i in weights if self._sizes[i] >= self._sizes[skip])
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
        if direct and out.node is not None:
            self._skips[out.node] = a
        return out

    def _starts(self, order: int) -> int:
        """What a weight is fed with, and what that was before without other weights: a set."""
        fed = self._fed[order]
        found = 0
        for node in _bits(fed):
            own = self._weights(self._seen[node])
            same = (n for n in _bits(self._before[node]) if self._weights(self._seen[n]) == own)
            found |= sum(1 << n for n in same)
        return found

    def _leads(self, a: int, b: int) -> bool:
        return bool(self._before[b] >> a & 1)

    def _weights(self, uses: int) -> frozenset[int]:
        return frozenset(i for i in _bits(uses) if self.uses[i].kind == "weight")

    # --- parameters ---

    def use(self, view: View, kind: Kind, held: Sequence[Held], at: Path, **more: Any) -> Held:
        """One use more, and the signal that it makes."""
        order = len(self.uses)
        # Loops that go through its layers use each of them once.
        times = math.prod(loop.length for loop in self.loops) // math.prod(view.layers)
        made = {h.value.path for h in held if isinstance(h.value, Signal)}
        after = made.pop() if len(made) == 1 else None
        self.uses.append(
            Use(kind, order, times, view, at, self.loops, size=self.size, after=after, **more)
        )
        node = self.node(held, 1 << order, data=True)
        self._used_at.append(node)
        self._fed.append(sum(1 << n for n in {h.node for h in held if h.node is not None}))
        self._sizes.append(self.size)
        waiting = frozenset({order}) if kind == "weight" else frozenset[int]()
        return Held(self.fresh(uses=waiting, path=at, features=more.get("features")), node)

    def use_between(
        self, view: View, kind: Kind, rest: Sequence[Held], at: Path, *, normed: bool = False
    ) -> Held:
        """A shift or a factor: the weights before it still wait for their activation."""
        used = self.use(view, kind, rest, at)
        signals = [h.value for h in rest if isinstance(h.value, Signal)]
        for signal in signals:
            self.settle(signal)
        waiting = frozenset[int]().union(*(s.uses for s in signals if not is_bent(s)))
        features = signals[0].features if len(signals) == 1 else None
        normed = normed or any(s.normed for s in signals)
        if kind == "scale" and normed and self._is_vector(view):
            self.uses[-1] = self.uses[-1]._replace(normed=True)
        signal = self.fresh(
            uses=waiting, path=at, features=features, normed=normed and kind != "scale"
        )
        return used._replace(value=signal)

    def _is_vector(self, view: View) -> bool:
        return len(self.shapes[view.leaf]) > len(view.layers)

    def is_made_of(self, held: Held, leaf: int) -> bool:
        """Whether a use of that parameter leads to it."""
        if held.node is None:
            return False
        return any(self.uses[i].view.leaf == leaf for i in _bits(self._seen[held.node]))

    def not_looked_up(self, held: Sequence[Held]) -> None:
        """Rows that a product then reads one by one are matrices, as those of experts are."""
        read = {h.value.path for h in held if isinstance(h.value, Signal)}
        for i, use in enumerate(self.uses):
            rows = sum(n > 1 for n in use.view.shape[1:]) > 1
            if use.kind == "embedding" and use.path in read and rows:
                self.uses[i] = use._replace(kind="other")

    def norm_late(self, held: Sequence[Held]) -> None:
        """A factor that comes before the root of a norm, as in `x * scale * rsqrt(var)`."""
        signals = [h.value for h in held if isinstance(h.value, Signal)]
        if not any(s.normed for s in signals):
            return
        made = {s.path for s in signals if not s.normed}
        for i, use in enumerate(self.uses):
            if use.kind == "scale" and use.path in made and self._is_vector(use.view):
                self.uses[i] = use._replace(normed=True)

    def use_as_other(self, held: Held, at: Path) -> Held:
        """Used in a way that says nothing."""
        value = held.value
        views = value.views if isinstance(value, Joined) else ()
        if isinstance(value, View):
            views = (value,)
        if isinstance(value, Factors):
            views = tuple(view for view, _ in value.parts)
        if not views:
            return held
        used = [self.use(view, "other", [], at) for view in views]
        return Held(self.fresh(path=at), self.node(used))

    # --- the second look at a loop's body, and the end ---

    def keep_activations(self, run: Callable[[], Any]) -> None:
        """Run the same equations again, for the activations that they add alone."""
        uses, residuals = list(self.uses), list(self.residuals)
        used, fed, sizes = list(self._used_at), list(self._fed), list(self._sizes)
        found = len(self.activations)
        run()
        shift = len(self.uses) - len(uses)
        for i, activation in enumerate(self.activations[found:], found):
            known = frozenset(u - shift if u >= len(uses) else u for u in activation.uses)
            self.activations[i] = activation._replace(uses=known)
        self.uses, self.residuals = uses, residuals
        self._used_at, self._fed, self._sizes = used, fed, sizes

    def conclude(
        self, leaves: Sequence[View], ends: Sequence[tuple[Held, tuple[int, ...]]]
    ) -> None:
        """What only the whole program shows: `ends` are its outputs with their shapes."""
        self.settle_all([end for end, _ in ends])
        self.activations = _merged(self.activations)
        self.residuals = [r for r in self.residuals if not self._recurs(r)]
        for i, use in enumerate(self.uses):
            if use.kind in ("bias", "scale") and self._only_kept(i, leaves, ends):
                self.uses[i] = use._replace(kind="statistic")

    def _recurs(self, residual: ResidualSum) -> bool:
        """Whether what looks like a projected skip is a step of a network unrolled in time."""
        counts = Counter(use.view.leaf for use in self.uses if use.kind == "weight")
        ends = residual.shortcut | residual.last
        return bool(residual.shortcut) and any(counts[self.uses[i].view.leaf] > 1 for i in ends)

    def _only_kept(
        self, i: int, leaves: Sequence[View], ends: Sequence[tuple[Held, tuple[int, ...]]]
    ) -> bool:
        """Whether a use leads to nothing but a new value of its parameter, as running means do."""
        bit = 1 << self._used_at[i]
        reached = [
            k for k, (end, _) in enumerate(ends)
            if end.node is not None and self._before[end.node] & bit
        ]  # fmt: skip
        own = leaves[self.uses[i].view.leaf].shape
        return bool(reached) and 0 not in reached and all(ends[k][1] == own for k in reached)


def _merged(activations: Sequence[ActivationUse]) -> list[ActivationUse]:
    """One for each equation, with all weights that it follows, in the order of the program."""
    found: dict[Path, ActivationUse] = {}
    for activation in activations:
        known = found.get(activation.path, activation)
        found[activation.path] = known._replace(uses=known.uses | activation.uses)
    merged = [found[path] for path in sorted(found)]
    return [next((_again(a, b) for b in merged[:i] if _is_again(a, b)), a)
            for i, a in enumerate(merged)]  # fmt: skip


def _is_again(later: ActivationUse, first: ActivationUse) -> bool:
    """Whether it is the same function once more, as where the first value is a stream's start."""
    if later.entry != first.entry or later.curve is None or first.curve is None:
        return False
    twice = curves.again(first.name, first.curve)
    return twice is not None and np.allclose(later.curve, twice, 1e-4, 1e-4)


def _again(later: ActivationUse, first: ActivationUse) -> ActivationUse:
    return later._replace(name=first.name, curve=first.curve, entry=(first.path, None))
