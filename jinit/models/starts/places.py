"""Which part of a model every parameter is: the end of a branch, a value projection, a gate.

A place has several names, the most telling first. A start gives a law to some of them, and the
first name that it knows decides.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jinit.models.starts.flow import Flow, columns, flow
from jinit.models.tracing.model import TracedModel
from jinit.models.tracing.roles import Role
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.uses import ResidualSum
from jinit.models.tracing.values import RoleError

PLACES: dict[str, str] = {
    "query": "weights that make the queries of an attention",
    "key": "weights that make its keys",
    "value": "weights that make its values",
    "attention_out": "weights that read what an attention has mixed",
    "feed_forward_in": "weights on a branch without attention, but for its last ones",
    "up": "of those, in a gated branch, the ones without an activation",
    "branch_end": "the last weights of a residual branch",
    "branch": "weights on a residual branch",
    "shortcut": "a weight on the skip path beside a branch",
    "readout": "the model's last weight, if it is on no branch",
    "first": "weights that read an input itself",
    "recurrent": "weights of a cell that read its state",
    "cell": "weights of a cell",
    "weight": "every other weight",
    "low_rank_first": "A of a low rank x A B beside a weight",
    "low_rank_second": "B of it",
    "forget_gate": "biases of an LSTM's forget gate",
    "input_gate": "biases of its input gate",
    "cell_bias": "other biases of a cell",
    "attention_bias": "biases of an attention's projections",
    "position": "embeddings that are looked up by place, or added at every place",
    "tied": "an embedding that is the readout too",
    "embedding": "embeddings",
    "bias": "biases",
    "norm_scale": "factors after a norm",
    "branch_scale": "one number that multiplies the end of a branch",
}
"""Names of places, and what stands there. Starts have more, for which options name leaves."""


class Shape(NamedTuple):
    """What of a model as a whole laws look at."""

    branches: int
    """residual branches, those of stacked layers each"""
    blocks: int
    """branches with attention; without any, as many as there are branches"""
    encoder: int
    """blocks before what another part's attention reads; 0 unless there is one"""
    decoder: int
    """blocks with an attention across"""
    width: int
    """units of the residual stream"""


class Place(NamedTuple):
    """A leaf, or the part of one that has a place of its own."""

    leaf: int
    path: str
    role: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    """of the leaf"""
    dtype: Any
    """of the leaf"""
    entries: np.ndarray | None
    """flat indices into the leaf; of a weight `[layers, groups, fan_in, fan_out]`; None is all"""
    fan_in: int | float | None = None
    """of a bias: that of the weight it is added to"""
    fan_out: int | None = None
    """of the whole weight"""
    receptive_field: int = 1
    groups: int = 1
    layers: int = 1
    features: int | None = None
    """of an embedding"""
    hidden: int | None = None
    """units of the cell that it belongs to"""
    head: int | None = None
    """entries of one attention head"""
    depth: int = 1
    """weights in a row on its branch"""
    block: int = 0
    """number of the first block that it is in, from 0"""
    times: int = 0
    """how often a number is used, as in the steps of a loop"""
    side: str = ""
    """"encoder" or "decoder", where there are both"""
    group: str = ""
    """attention, cell or layer that it is of: what is drawn together is of one group"""

    @property
    def size(self) -> int:
        """How many entries it has."""
        return math.prod(self.shape) if self.entries is None else self.entries.size

    @property
    def outputs(self) -> int:
        """Columns of one matrix of a weight, times the positions of its kernel."""
        columns = self.fan_out or 1
        if self.entries is not None:
            columns = self.entries.shape[-1] * self.receptive_field
        return columns


class Layout(NamedTuple):
    """A model's places, in the order of its leaves."""

    places: tuple[Place, ...]
    shape: Shape
    has: frozenset[str]
    """what was found, of "residual", "attention", "lstm", "cell", "low_rank" and names of places"""


def layout(model: TracedModel, named: Mapping[str, Sequence[str]] | None = None) -> Layout:
    """Where every leaf of a model stands; `named` gives paths for names of places.

    Raises:
        RoleError: as `jinit.models.roles`, but for the leaves that are named.
    """
    paths = {path: name for name, some in (named or {}).items() for path in some}
    try:
        roles = model.judged()
    except RoleError:
        unruled = {path: "other" for path in paths if path not in model.rules}
        if not unruled:
            raise
        roles = model.replaced(rules={**model.rules, **unruled}).judged()
    return _Layouter(model.trace, roles, flow(model.trace), paths).layout()


def matching(path: str, name: str) -> bool:
    """Whether a leaf's path is that one, or ends in its parts: ['a']['dt']['bias'] in dt/bias."""
    parts, last = tokens(path), tokens(name)
    return path == name or (bool(last) and parts[-len(last) :] == last)


def tokens(path: str) -> list[str]:
    """The parts of a path: ['a'].b[0] is a, b, 0."""
    return [part for part in re.split(r"[\[\]'\"./]+", path) if part]


class _Layouter:
    def __init__(
        self, trace: Trace, roles: Sequence[Role], found: Flow, named: Mapping[str, str]
    ) -> None:
        self.trace, self.roles, self.flow, self.named = trace, roles, found, named
        # What a cell adds up in time is no branch.
        at = {r.path for r in trace.residuals}
        sums = [*trace.residuals, *(r for r in found.residuals if r.path not in at)]
        sums.sort(key=lambda residual: min(residual.last))
        self.residuals = [r for r in sums if not r.last & found.cells.keys()]
        self.branch_of: dict[int, ResidualSum] = {}
        for residual in self.residuals:
            for order in residual.branch:
                # The innermost, if branches lie in each other.
                known = self.branch_of.get(order)
                if known is None or len(residual.branch) < len(known.branch):
                    self.branch_of[order] = residual
        self.ends = {o for residual in self.residuals for o in residual.last}
        self.shortcuts = {o for residual in self.residuals for o in residual.shortcut}
        self.memory = frozenset[int]().union(
            *(a.memory for a in found.attentions if a.crossed and self._two_sided(a.memory))
        )
        weights = [u for u in trace.uses if u.kind == "weight" and u.times]
        last = weights[-1].order if weights else -1
        self.readout = last if weights and last not in self.branch_of else None
        self.blocks = self._blocks()

    def _two_sided(self, memory: frozenset[int]) -> bool:
        return any(self.trace.uses[o].kind == "weight" and o in self.branch_of for o in memory)

    # --- the whole ---

    @staticmethod
    def _times(residual: ResidualSum) -> int:
        return math.prod(loop.length for loop in residual.loops)

    def _attending(self, residual: ResidualSum) -> set[bool]:
        """Whether the attentions on a branch are across, of each."""
        found = set()
        # A decoder's branch holds what made its memory too, if the trace says so.
        for order in residual.last & self.flow.outputs.keys() or residual.branch:
            number = self.flow.outputs.get(order)
            if number is not None:
                found.add(self.flow.attentions[number].crossed)
        return found

    def _blocks(self) -> dict[int, int]:
        """The number of the block that a residual branch is in, by its place among them."""
        residuals = self.residuals
        attending = [self._attending(r) for r in residuals]
        found: dict[int, int] = {}
        if not any(False in each or True in each for each in attending):
            total = 0
            for i, residual in enumerate(residuals):
                found[i] = total
                total += self._times(residual)
            return found
        # A self-attention begins a block; what follows in its loop belongs to it.
        total, current = 0, 0
        for i, residual in enumerate(residuals):
            if attending[i] - {True} or (not i and attending[i]):
                current = total
                total += self._times(residual)
            found[i] = current
        return found

    def shape(self) -> Shape:
        residuals = self.residuals
        branches = sum(self._times(r) for r in residuals)
        attending = [self._attending(r) for r in residuals]
        selfish = [r for r, each in zip(residuals, attending, strict=True) if False in each]
        across = [r for r, each in zip(residuals, attending, strict=True) if each == {True}]
        encoder = (
            sum(self._times(r) for r in selfish if r.last <= self.memory) if self.memory else 0
        )
        decoder = sum(map(self._times, across)) if encoder else 0
        blocks = sum(map(self._times, selfish)) or sum(map(self._times, across)) or branches
        ends = [self.trace.uses[o] for r in residuals for o in r.last]
        widths = [u.fan_out // u.receptive_field * u.groups for u in ends if u.fan_out]
        return Shape(branches, blocks, encoder, decoder, max(widths, default=0))

    def layout(self) -> Layout:
        places = tuple(p for i, role in enumerate(self.roles) for p in self.of_leaf(i, role))
        has = {name for place in places for name in place.names}
        has |= {"residual"} if self.residuals else set()
        has |= {"attention"} if self.flow.attentions else set()
        has |= {"lstm"} if self.flow.gates else set()
        has |= {"low_rank"} if {"low_rank_first", "low_rank_second"} <= has else set()
        return Layout(places, self.shape(), frozenset(has))

    # --- one leaf ---

    def of_leaf(self, leaf: int, role: Role) -> Iterator[Place]:
        place = Place(
            leaf, role.path, role.kind, (), role.shape, role.dtype, None, role.fan_in,
            role.fan_out, role.receptive_field, role.groups, role.layers, times=role.times,
            group="/".join(tokens(role.path)[:-1]),
        )  # fmt: skip
        orders = [use.order for use in role.uses]
        if orders and self.residuals:
            place = self._in_branch(place, orders)
        if role.path in self.named:
            yield place._replace(names=(self.named[role.path],))
        elif role.kind == "weight":
            yield from self.of_weight(place, role)
        elif role.kind in ("embedding", "tied"):
            names = ("tied", "embedding") if role.kind == "tied" else ("embedding",)
            if any(o in self.flow.looked_up for o in orders):
                names = ("position", *names)
            features = role.features if role.shape else 1
            yield place._replace(names=names, features=features)
        elif role.kind == "bias":
            yield from self.of_bias(place, role)
        elif role.kind == "scale":
            yield place._replace(names=self._of_scale(role))
        else:
            yield place._replace(names=(role.kind,))

    def _in_branch(self, place: Place, orders: Sequence[int]) -> Place:
        branch = next((self.branch_of[o] for o in orders if o in self.branch_of), None)
        side = ""
        if self.memory:
            side = "encoder" if orders[0] in self.memory else "decoder"
        if branch is None:
            return place._replace(side=side)
        number = self.residuals.index(branch)
        return place._replace(depth=branch.depth, block=self.blocks[number], side=side)

    def _of_scale(self, role: Role) -> tuple[str, ...]:
        if any(use.normed for use in role.uses):
            return ("norm_scale", "scale")
        for use in role.uses:
            branch = self.branch_of.get(use.order)
            if branch is not None and use.part == 1 and use.order > max(branch.last):
                return ("branch_scale", "scale")
        return ("scale",)

    # --- weights ---

    def of_weight(self, place: Place, role: Role) -> Iterator[Place]:
        uses = [use for use in role.uses if use.kind == "weight" and use.times]
        orders = {use.order for use in uses}
        names = self._names(orders, role)
        hidden = next((self.flow.cells[o] for o in orders if o in self.flow.cells), None)
        gated = [g for g in self.flow.gates if orders & g.whole.keys()]
        if gated and hidden is None:
            hidden = self._units(gated[0].forget)
            names = ("cell", *names)
            if role.fan_in == hidden and max(orders) == self._latest(gated[0].whole):
                names = ("recurrent", *names)
        place = place._replace(names=names, hidden=hidden)
        try:
            matrix = role.matrix()
        except RoleError:
            yield place
            return
        matrix = matrix.reshape(place.layers, -1, *matrix.shape[1:])
        taken = np.zeros(matrix.shape[-1], bool)
        for name, own, head, group in self._attention_parts(orders, matrix.shape[-1]):
            part = np.setdiff1d(own, np.flatnonzero(taken))
            if not part.size:
                continue
            taken[part] = True
            telling = tuple(n for n in names if n != "feed_forward_in" and n != "up")
            yield place._replace(
                names=(name, *telling), entries=matrix[..., part], head=head, group=group
            )
        if taken.all():
            return
        reading = [self.flow.outputs[o] for o in orders if o in self.flow.outputs]
        if reading:
            head, group = self.flow.attentions[reading[0]].head, f"attention {reading[0]}"
            place = place._replace(group=group, head=head)
        yield place._replace(entries=matrix[..., ~taken] if taken.any() else matrix)

    def _latest(self, made: Any) -> int:
        return max(o for o in made if self.trace.uses[o].kind == "weight")

    def _first_bias(self, made: Any) -> int:
        found = [
            o for o, index in made.items()
            if self.trace.uses[o].kind == "bias"
            and (own := columns(index)) is not None and own.size
        ]  # fmt: skip
        return min(found, default=-1)

    def _units(self, made: Any) -> int | None:
        weights = (index for o, index in made.items() if self.trace.uses[o].kind == "weight")
        sizes = [len(found) for index in weights if (found := columns(index)) is not None]
        return max(sizes, default=None)

    def _names(self, orders: set[int], role: Role) -> tuple[str, ...]:
        found = []
        pairs = self.flow.low_ranks
        if orders & {a for a, _ in pairs}:
            found.append("low_rank_first")
        if orders & {b for _, b in pairs}:
            found.append("low_rank_second")
        if orders & self.flow.recurrent.keys():
            found.append("recurrent")
        if orders & self.flow.cells.keys():
            found.append("cell")
        out = orders & self.flow.outputs.keys()
        if out:
            found.append("attention_out")
        branch = next((self.branch_of[o] for o in orders if o in self.branch_of), None)
        inside = branch is not None and not found and not orders & self.ends
        if branch is not None and inside and not self._attending(branch):
            beside = self._beside(branch, orders)
            found += ["up"] if role.activation is None and beside else []
            found.append("feed_forward_in")
        if orders & self.ends:
            found.append("branch_end")
        if branch is not None:
            found.append("branch")
        elif orders & self.shortcuts:
            found.append("shortcut")
        if self.readout in orders:
            found.append("readout")
        if orders & self.flow.first:
            found.append("first")
        return (*found, "weight")

    def _beside(self, branch: ResidualSum, orders: set[int]) -> bool:
        """Whether another weight of the branch, of as many outputs, has the activation."""
        uses = self.trace.uses
        own = next(uses[o] for o in orders)
        return any(
            uses[o].kind == "weight"
            and o not in orders | branch.last
            and uses[o].fan_out == own.fan_out
            and self.trace.following(o) is not None
            for o in branch.branch
        )

    def _attention_parts(
        self, orders: set[int], width: int
    ) -> Iterator[tuple[str, np.ndarray, int, str]]:
        """The columns of a weight that are values, queries and keys."""
        for number, attention in enumerate(self.flow.attentions):
            sides = {"value": attention.value, "query": attention.query, "key": attention.key}
            own = {
                name: (order, made[order])
                for name, made in sides.items()
                for order in orders & made.keys()
                # What reads another attention's outcome, as a stream does, is not this one's.
                if order == self._latest(made)
            }
            for name, (_, index) in own.items():
                found = np.arange(width) if len(own) == 1 else columns(index)
                if found is not None:  # else fused in a way that could not be followed
                    yield name, found, attention.head, f"attention {number}"

    # --- biases ---

    def of_bias(self, place: Place, role: Role) -> Iterator[Place]:
        uses = [use for use in role.uses if use.kind == "bias"]
        weights = {o for use in uses for o in self.flow.biased.get(use.order, ())}
        fan_in = self.trace.uses[max(weights)].fan_in if weights else None
        stacked = max((len(u.view.layers) + (u.view.picked > 1) for u in uses), default=0)
        sizes = [n for n in role.shape[stacked:] if n > 1]
        cells = [self.flow.cells[o] for o in weights if o in self.flow.cells]
        gates = [g for g in self.flow.gates if any(use.order in g.whole for use in uses)]
        hidden = cells[0] if cells else self._units(gates[0].forget) if gates else None
        place = place._replace(fan_in=fan_in, hidden=hidden)
        attending = {o for a in self.flow.attentions for made in a[:3] for o in made}
        projections = (attending & weights) | (weights & self.flow.outputs.keys())
        if len(sizes) > 1 and not gates and not cells and (not weights or projections != weights):
            yield place._replace(names=("position", "bias"))
            return
        if not hidden:
            names = ("attention_bias",) if weights and weights <= projections else ()
            yield place._replace(names=(*names, "bias"))
            return
        whole = np.arange(math.prod(role.shape))
        taken = np.zeros(whole.size, bool)
        for gate in gates:
            for name, made in (("forget_gate", gate.forget), ("input_gate", gate.input)):
                for use in uses:
                    found = columns(made.get(use.order))
                    # Where a gate has two biases, the first one is meant.
                    if found is None or not found.size or use.order > self._first_bias(made):
                        continue
                    layers = np.ndindex(*use.view.layers)
                    part = np.unique([
                        use.view.indices(role.shape, layer).ravel()[found] for layer in layers
                    ])  # fmt: skip
                    taken[part] = True
                    yield place._replace(
                        names=(name, "cell_bias", "bias"), entries=part,
                        group=f"cell {self.flow.gates.index(gate)}",
                    )  # fmt: skip
        if not taken.all():
            rest = whole[~taken] if taken.any() else None
            yield place._replace(names=("cell_bias", "bias"), entries=rest)
