"""Which weights lie before which parameter: a walk over the trace that only counts.

Loops through stacked layers are walked layer by layer, so that every layer has its own place; loops
that share their parameters, as those over time, count once.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Literal as JaxprLiteral

from jinit.models.tracing.jaxprs import inner_jaxprs, opened, split_scan
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.uses import Use
from jinit.models.tracing.values import Path


class Before(NamedTuple):
    """What lies before a value; uses are the bits of a number."""

    depth: int = 0
    """weights and embeddings in a row, at most"""
    own: int | None = None
    """place of what made it, if that was one parameter or several of one place"""
    normed_with: bool = False
    """whether a norm of this value goes with what made it: a weight, not a lookup"""
    seen: int = 0
    """uses of weights that lead to it"""
    made: int = 0
    """uses of weights that made it, with nothing but biases and sums of such between"""
    scaled: int | None = None
    """place of the scale that it was multiplied by, if no weight came since"""


class Following(NamedTuple):
    """What `following` found."""

    places: dict[int, dict[tuple[int, ...], int]]
    """order of a use -> stacked layer -> how many weights and embeddings lie before it in a row.
    Biases have the place of what they are added to; scales that of the weight whose output is
    normalised, else that of the next one."""
    added_to: dict[int, frozenset[int]]
    """order of a bias's use -> those of the weights that made what it is added to"""
    last: frozenset[int]
    """uses of weights whose outputs no further weight reads: readouts"""


def following(traced: Trace) -> Following:
    """Walk over a whole model."""
    walk = _Walk(traced)
    inputs = len(traced.jaxpr.jaxpr.invars) - len(traced.leaves)
    walk.run(opened(traced.jaxpr), [None] * len(traced.leaves) + [Before()] * inputs, ())
    weights = {u.order for u in traced.uses if u.kind == "weight" and u.times}
    added = {order: frozenset(_bits(made)) for order, made in walk.added_to.items()}
    return Following(walk.places, added, frozenset(weights - {*_bits(walk.read)}))


def _bits(of: int) -> Iterator[int]:
    return (i for i in range(of.bit_length()) if of >> i & 1)


def _joined(values: Sequence[Before | None]) -> Before | None:
    """What lies before a value that is made of several; None of constants."""
    found = [v for v in values if v is not None]
    if not found:
        return None
    owns, scales = {v.own for v in found}, [v.scaled for v in found if v.scaled is not None]
    seen = made = 0
    for v in found:
        seen, made = seen | v.seen, made | v.made
    return Before(
        max(v.depth for v in found), owns.pop() if len(owns) == 1 else None,
        all(v.normed_with for v in found), seen, made if all(v.made for v in found) else 0,
        max(scales, default=None),
    )  # fmt: skip


class _Walk:
    def __init__(self, traced: Trace) -> None:
        self.uses: dict[Path, list[Use]] = {}
        for use in traced.uses:
            self.uses.setdefault(use.path, []).append(use)
        stacked = (use.loops[i].path for use in traced.uses for i in use.view.stacked)
        self.through_layers = frozenset(stacked)
        self.now: dict[Path, int] = {}  # the layer that a loop is at
        self.read = 0
        self.places: dict[int, dict[tuple[int, ...], int]] = {}
        self.added_to: dict[int, int] = {}

    def run(self, jaxpr: Any, values: Sequence[Before | None], at: Path) -> list[Before | None]:
        env: dict[Any, Before | None] = dict(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> Before | None:
            return None if isinstance(atom, JaxprLiteral) else env.get(atom)

        for number, equation in enumerate(jaxpr.eqns):
            given = [read(atom) for atom in equation.invars]
            found = self._equation(equation, given, (*at, number))
            env.update(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, given: list[Before | None], at: Path) -> list[Before | None]:
        out = _joined(given)
        for use in self.uses.get(at, ()):
            out = self._used(use, _joined(given) or Before(), out)
        name, inner = equation.primitive.name, inner_jaxprs(equation)
        if not inner:
            return [out] * len(equation.outvars)
        if name == "scan":
            return self._scan(equation, inner[0], given, at)
        if name == "while":
            given = given[equation.params["cond_nconsts"] :]
        if name == "cond":
            found = [self.run(branch, given[1:], (*at, i)) for i, branch in enumerate(inner)]
            return [_joined(ends) for ends in zip(*found, strict=True)]
        return self.run(inner[0], given, (*at, 0))

    def _used(self, use: Use, before: Before, out: Before | None) -> Before:
        """Note the place of a use; what comes out of it, with other uses in the same equation."""
        bit = 1 << use.order
        if use.kind == "embedding" and not use.axes[0]:  # added to a signal, or set beside it
            place, after = 0, before._replace(depth=max(before.depth, 1))
        elif use.kind in ("weight", "embedding"):
            place, own = before.depth, use.kind == "weight"
            self.read |= before.seen if own else 0
            out = out if out is not None and out.depth > place else before
            bits = out.seen | bit, (out.made if out.depth > place else 0) | bit
            after = Before(place + 1, place, own, *(bits if own else (out.seen, 0)))
        else:
            place = self._place_of_vector(before, bias=use.kind == "bias")
            after = before._replace(own=place)
            if use.kind == "bias":
                self.added_to[use.order] = before.made
            else:
                after = after._replace(made=0)
            if use.kind == "scale":
                after = after._replace(scaled=place)
        layer = tuple(self.now[use.loops[i].path] for i in use.view.stacked)
        known = self.places.setdefault(use.order, {})
        known[layer] = min(place, known.get(layer, place))
        return after

    def _place_of_vector(self, before: Before, *, bias: bool) -> int:
        if before.own is not None and (bias or before.normed_with):
            return before.own
        if bias:  # of a norm, as its scale, or of what a weight has made
            return max(before.depth - 1, 0) if before.scaled is None else before.scaled
        return before.depth

    def _scan(
        self, equation: Any, body: Any, given: list[Before | None], at: Path
    ) -> list[Before | None]:
        consts, carried = split_scan(equation)
        length = equation.params["length"] if at in self.through_layers else 1
        around = dict(self.now)
        own = [*given]
        found: list[Before | None] = []
        for i in range(length):
            self.now[at] = length - 1 - i if equation.params["reverse"] else i
            for j in range(consts, consts + carried):
                own[j] = _carried(own[j])
            found = self.run(body, own, (*at, 0))
            own[consts : consts + carried] = found[:carried]
        if at not in self.through_layers:
            # Once more, for what the first pass makes and the second one reads.
            again = [*given]
            for j, end in enumerate(found[:carried], consts):
                start = given[j] or Before()
                again[j] = start._replace(own=None, made=0, seen=start.seen | (end or start).seen)
            places, added = {k: dict(v) for k, v in self.places.items()}, dict(self.added_to)
            later = self.run(body, again, (*at, 0))
            self.places, self.added_to = places, added
            found = [
                f and f._replace(seen=f.seen | (g or f).seen)
                for f, g in zip(found, later, strict=True)
            ]
        self.now = around
        return [_carried(f) for f in found]


def _carried(value: Before | None) -> Before | None:
    """At the edge of a loop nobody knows what made a value: it may come from the layer before."""
    return value and value._replace(own=None, made=0)
