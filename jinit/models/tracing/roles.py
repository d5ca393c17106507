"""What every parameter of a model is for, judged from its uses.

A product says what its fan-in and fan-out are: the axes that are summed over, and those that are
not. Where uses contradict each other, or say nothing, that is an error and not a guess.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, get_args

import jax
import numpy as np

from jinit import checks
from jinit.models.tracing.made import Numbers, Way
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.uses import Kind, Use
from jinit.models.tracing.values import RoleError


@dataclass(frozen=True)
class Role:
    """What a parameter is for."""

    path: str
    """where it lies in the variables, as `jax.tree_util.keystr` writes it"""
    shape: tuple[int, ...]
    """of the leaf"""
    dtype: Any
    """of the leaf"""
    kind: Kind
    """one of "weight", "bias", "scale" (a factor, as norms have), "embedding", "tied" (an embedding
    that is a weight too), "statistic" (a running mean or variance), "rate" (a decay, frequency or
    step of a state), "other" and "unused" """
    fan_in: int | float | None = None
    """numbers summed over for one output; None if it is no weight. Of a transposed convolution of
    stride s only every s-th tap along an axis meets a number."""
    fan_out: int | None = None
    """outputs that one number contributes to"""
    receptive_field: int = 1
    """positions of a convolution's kernel"""
    groups: int = 1
    """independent products side by side"""
    layers: int = 1
    """stacked layers that a loop goes through"""
    times: int = 0
    """how often a number is used, by calls or loops that share it"""
    activation: str | None = None
    """name of the activation that follows, None if there is none known"""
    order: int | None = None
    """place of the first use in call order"""
    uses: tuple[Use, ...] = field(default=(), repr=False, compare=False)
    """every consumption"""
    number: int = field(default=0, repr=False, compare=False)
    """place among the floating-point leaves"""

    @property
    def features(self) -> int:
        """Numbers that one lookup gives; the last axis of what is an embedding by rule."""
        looked_up = [use.fan_out for use in self.uses if use.kind == "embedding" and use.fan_out]
        return looked_up[0] if looked_up else self.shape[-1]

    @property
    def is_changed(self) -> bool:
        """Whether what products read is made of it, and not it itself."""
        return any(use.view.leaf != self.number for use in _weights(self.uses))

    def matrix(self) -> np.ndarray:
        """Flat indices into the leaf, `[layers * groups, fan_in, fan_out]`: what is really applied.

        For a convolution the last axis counts channels out, without the receptive field; a
        transposed one has as many matrices as its strides multiply to, side by side.

        Raises:
            RoleError: a parameter that is no weight, or of which a part is chosen while the model
                runs, or that is changed before it is applied (`applied` gives its numbers).
        """
        if self.is_changed:
            raise RoleError(f"{self.path} is changed before it is applied: no entry of it is read.")
        return self._laid_out(lambda use: self._part(use))

    def applied(self, numbers: Numbers) -> np.ndarray:
        """The numbers that are applied, `[layers * groups, fan_in, fan_out]`.

        Raises:
            RoleError: as `matrix`.
        """
        if self.is_changed:
            return self._laid_out(lambda use: self._numbers(use, numbers))
        return np.take(np.asarray(numbers.of(self.number)), self.matrix())

    def _laid_out(self, part: Any) -> np.ndarray:
        weights = _weights(self.uses)
        if not weights:
            raise RoleError(f"{self.path} is no weight but {self.kind!r}: it has no matrix.")
        whole = math.prod(self.shape) // weights[0].layers
        if _stacked(weights, self.shape):
            return np.concatenate([part(use) for use in weights])
        parts = weights if _in_parts(weights, whole) else weights[:1]
        return np.concatenate([part(use) for use in parts], axis=-1)

    def _part(self, use: Use) -> np.ndarray:
        return np.concatenate([
            _as_matrices(use, self._of_layer(lambda: use.view.indices(self.shape, layer)))  # noqa: B023
            for layer in product(*(range(n) for n in use.view.layers))
        ])  # fmt: skip

    def _numbers(self, use: Use, numbers: Numbers) -> np.ndarray:
        if use.parts[self.number].way == "factor":
            fans = int(use.fan_in or 1), use.fan_out or 1
            return np.asarray(numbers.of(self.number)).reshape(-1, *fans)
        whole = self._of_layer(lambda: numbers.of(use.view.leaf))
        found = np.concatenate([
            _as_matrices(use, np.asarray(use.view.of(whole, layer)))
            for layer in product(*(range(n) for n in use.view.layers))
        ])  # fmt: skip
        own = max(self.layers * self.groups, 1)
        return found[self._own(use, numbers, len(found))] if len(found) > own else found

    def _own(self, use: Use, numbers: Numbers, count: int) -> np.ndarray:
        """Of several matrices side by side, those that are made of this parameter."""
        leaves = list(numbers.leaves)
        leaves[self.number] = np.full(self.shape, np.nan, leaves[self.number].dtype)
        every = replace(self, layers=count, groups=1)
        marked = every._numbers(use, Numbers(numbers.made, leaves))
        own = np.isnan(marked).any((1, 2))
        return own if own.any() else np.ones(count, bool)

    def _of_layer(self, numbers: Any) -> Any:
        try:
            return numbers()
        except RoleError as error:
            raise RoleError(f"{self.path}: {error}") from None


def _as_matrices(use: Use, values: np.ndarray) -> np.ndarray:
    """The entries of a view of one layer, `[groups, fan_in, fan_out]`."""
    batched, summed, free = use.axes
    sizes = [math.prod(values.shape[a] for a in axes) for axes in (summed, free)]
    return values.transpose(*batched, *summed, *free).reshape(-1, *sizes)


def judge(
    traced: Trace, rules: Mapping[str, Kind] | None = None, *, strict: bool = True
) -> tuple[Role, ...]:
    """The role of every floating-point leaf; not strict, what is uncertain is "other".

    Raises:
        RoleError: as `jinit.models.roles`.
    """
    given: dict[str, Kind | None] = dict(rules or {})
    for path, rule in given.items():
        checks.choice(f"rules[{path!r}]", rule, get_args(Kind))
    found, doubts = [], dict[str, RoleError]()
    for i, (path, leaf) in enumerate(zip(traced.paths, traced.leaves, strict=True)):
        uses = tuple(own_use(traced, use, i) for use in traced.uses if i in use.parts)
        rule = given.pop(path, None)
        try:
            role = _role(path, leaf, uses, rule, i)
        except RoleError as error:
            doubts[path] = error
            role = _likely(path, leaf, uses, i)
        if role.kind == "unused" and rule is None and i in traced.statistics | traced.returned:
            role = replace(role, kind="statistic" if i in traced.statistics else "other")
        following = {traced.following(use.order) for use in uses if use.kind == "weight"} - {None}
        if role.kind in ("weight", "tied") and len(following) == 1:
            role = replace(role, activation=following.pop())
        found.append(role)
    if given:
        raise RoleError(
            f"rules name {next(iter(given))!r}, which is no parameter; paths are "
            f"{', '.join(traced.paths[:8])}{' ...' if len(traced.paths) > 8 else ''}."
        )
    if strict and doubts:
        first, *others = doubts
        if not others:
            raise doubts[first]
        more = f"{', '.join(others[:8])}{' ...' if others[8:] else ''}"
        raise RoleError(f"{doubts[first]} Rules are needed for {more} as well.")
    return tuple(found)


def _likely(path: str, leaf: Any, uses: tuple[Use, ...], number: int) -> Role:
    """The role of a parameter with uses that say different things: a product's, if there is one."""
    try:
        return _role(path, leaf, uses, "weight" if _weights(uses) else "other", number)
    except RoleError:
        return _role(path, leaf, uses, "other", number)  # which raises nothing


# --- from uses to a role ------------------------------------------------------------------------

_WITHIN: dict[tuple[Kind, Way], Kind] = {
    ("weight", "scale"): "scale", ("weight", "shift"): "bias", ("weight", "inner"): "other",
    ("bias", "factor"): "weight", ("bias", "scale"): "scale", ("bias", "inner"): "other",
    ("scale", "factor"): "weight", ("scale", "inner"): "other",
    ("embedding", "factor"): "weight", ("embedding", "scale"): "scale",
    ("embedding", "shift"): "bias", ("embedding", "inner"): "other",
    ("rate", "factor"): "weight",
}  # fmt: skip
"""What a parameter is for, from what is done with a view and what it is in that; else the first."""


def own_use(traced: Trace, use: Use, leaf: int) -> Use:
    """A use of what is made of several parameters, as that of one of them."""
    part = use.parts[leaf]
    kind = _WITHIN.get((use.kind, part.way), use.kind)
    if kind == "scale" and part.under_root:
        kind = "statistic"
    if kind == "bias" and (part.under_root or part.beside_root):  # of a batch norm, folded
        kind = "statistic"
    if kind == "weight" and part.way == "factor":
        return _factor(traced, use, leaf)
    # A sum over its entries that is added, as a flow's log-determinant is: no product reads it.
    sure = use.sure or (use.kind == "bias" and part.way == "inner")
    return use if kind == use.kind else use._replace(kind=kind, sure=sure)


def _factor(traced: Trace, use: Use, leaf: int) -> Use:
    """One of several matrices that are multiplied before a signal meets them: fans of its own."""
    inner = _contracted(traced, use.view.leaf, leaf)
    size = math.prod(traced.leaves[leaf].shape) // max(use.layers, 1)
    outer = max(size // max(inner, 1), 1)
    fans = (outer, inner) if _reads_inputs(traced, use, leaf) else (inner, outer)
    return use._replace(
        kind="weight", fan_in=fans[0], fan_out=fans[1], groups=1, receptive_field=1, thinned=1.0,
        gates=None,
    )  # fmt: skip


def _contracted(traced: Trace, made: int, leaf: int) -> int:
    """How many numbers are summed where a parameter meets another one."""
    first = len(traced.leaves)
    if made < first:
        return 1
    own = traced.made[made - first]
    below = [v for v in own.views if leaf in traced.parts(v.leaf)]
    if own.name in ("dot_general", "conv_general_dilated") and len(own.views) > 1:
        (view, *_), found = below, 1
        if traced.parts(view.leaf)[leaf].way == "image":
            return own.summed
    for view in below:
        found = _contracted(traced, view.leaf, leaf)
        if found > 1:
            return found
    return 1


def _reads_inputs(traced: Trace, use: Use, leaf: int) -> bool:
    """Whether a change of one entry changes few inputs of many outputs, and not the reverse."""
    rng = np.random.default_rng(0)
    leaves = [rng.normal(size=x.shape).astype(x.dtype) for x in traced.leaves]
    found = []
    with jax.ensure_compile_time_eval():
        for change in (0, 1):
            if leaves[leaf].size:
                leaves[leaf].flat[0] += change
            numbers = Numbers(traced.made, leaves).of(use.view.leaf)
            one = np.asarray(use.view.of(numbers, [0] * len(use.view.layers)))
            found.append(_as_matrices(use, one))
    changed = (found[0] != found[1]).any(0)
    return bool(changed.any(1).mean() < changed.any(0).mean())


def _role(path: str, leaf: Any, uses: tuple[Use, ...], rule: Kind | None, number: int) -> Role:
    role = Role(path, tuple(leaf.shape), leaf.dtype, rule or "unused", uses=uses, number=number)
    if uses:
        whole = math.prod(leaf.shape)
        read = sum(use.times * min(use.part * use.layers, whole) for use in uses)
        role = replace(role, order=min(u.order for u in uses), times=round(read / max(whole, 1)))
    kinds = {use.kind for use in uses}
    if any(use.kind == "scale" and use.parts[number].beside_root for use in uses):
        kinds -= {"statistic"}  # what multiplies a running deviation is a norm's scale
    if "statistic" in kinds and kinds <= {"statistic", "bias", "scale"}:
        # A root is taken as well of what a basis of functions' own deviation is computed from: its
        # frequencies and phases are factors and terms themselves.
        direct = {use.kind for use in uses if use.view.leaf == number}
        roots = all(u.parts[number].under_root for u in uses if u.kind == "statistic")
        kinds = direct if roots and len(direct) == 1 else {"statistic"}
    weights = _weights(uses)
    if rule is None:
        if not uses:
            return role
        told = kinds - {"other"} if all(u.sure for u in uses if u.kind == "other") else kinds
        told = told or kinds
        if told >= {"weight"} and told <= {"weight", "scale", "bias"} and _only_inside(uses):
            told = {"weight"}  # a factor on another weight besides
        if "rate" in told and told <= {"rate", "scale", "bias"}:
            told = {"rate"}
        if told == {"weight", "embedding"}:
            role = replace(role, kind="tied")
        elif len(told) > 1 or (told == {"other"} and not all(u.sure for u in uses)):
            raise RoleError(_doubt(path, uses, sorted(kinds)))
        else:
            role = replace(role, kind=told.pop())
    if role.kind in ("weight", "tied") and not weights:
        raise RoleError(
            f"{path or 'the only array'} is no weight, as no product with a signal reads it; leave "
            f"it as it is with rules={{{path!r}: 'other'}}."
        )
    if role.kind not in ("weight", "tied") or not weights:
        return role
    shapes = {(use.fan_in, use.fan_out, use.receptive_field, use.groups) for use in weights}
    first = weights[0]
    fan_out, layers, whole = first.fan_out, first.layers, math.prod(leaf.shape) // first.layers
    if len(shapes) > 1 and {use.part for use in weights} == {whole}:
        found = " and ".join(f"{m} -> {n}" for m, n, *_ in sorted(shapes, key=str))
        raise RoleError(
            f"{path} is shared between products of different fans ({found}), so that no scheme "
            f"fits it; leave it as it is with rules={{{path!r}: 'other'}}."
        )
    if len({use.fan_in for use in weights}) > 1:
        raise RoleError(
            f"parts of {path} have different fan-ins, so that no scheme fits the whole; leave it "
            f"as it is with rules={{{path!r}: 'other'}}."
        )
    if role.is_changed:
        layers = max(min(first.layers, math.prod(leaf.shape) // max(first.part, 1)), 1)
    elif _stacked(weights, leaf.shape):
        picked = first.view.picked
        layers = first.layers * picked if picked > 1 else sum(use.layers for use in weights)
    elif _in_parts(weights, whole):
        fan_out = sum(use.fan_out or 0 for use in weights)
    return replace(
        role, fan_in=first.fan_in, fan_out=fan_out, receptive_field=first.receptive_field,
        groups=first.groups, layers=layers,
    )  # fmt: skip


def _doubt(path: str, uses: Sequence[Use], kinds: Sequence[str]) -> str:
    """What is not certain, and a rule that works."""
    advice = "weight" if _weights(uses) else "other"
    others = "bias, scale, embedding, other" if advice == "weight" else "bias, scale, embedding"
    return (
        f"the trace says nothing certain of {path or 'the only array'}, which is used as "
        f"{' and as '.join(kinds)}; say what it is with rules={{{path!r}: {advice!r}}} (or "
        f"{others})."
    )


def _only_inside(uses: Sequence[Use]) -> bool:
    """Whether all uses but those as weights are within what is made of other parameters."""
    return all(len(use.parts) > 1 for use in uses if use.kind != "weight")


def _weights(uses: Sequence[Use]) -> list[Use]:
    """Uses in products, but for those of a branch that repeat another branch's."""
    return [use for use in uses if use.kind == "weight" and use.times]


def _stacked(weights: Sequence[Use], shape: Sequence[int]) -> bool:
    """Whether the uses are of layers of a stack: picked one by one, or in several loops."""
    if len({(use.fan_in, use.fan_out, use.groups, use.view.picked) for use in weights}) > 1:
        return False
    picked, layers = weights[0].view.picked, [use.layers for use in weights]
    if picked > 1:
        return len(weights) == picked
    in_loops = all(use.view.layers for use in weights)
    return in_loops and bool(shape) and max(layers) < shape[0] == sum(layers)


def _in_parts(weights: Sequence[Use], whole: int) -> bool:
    """Whether the uses are of parts that make up the leaf, as split gates are."""
    return len(weights) > 1 and sum(use.part for use in weights) == whole
