"""What every parameter of a model is for, judged from its uses.

A product says what its fan-in and fan-out are: the axes that are summed over, and those that are
not. Where uses contradict each other, or say nothing, that is an error and not a guess.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, get_args

import numpy as np

from jinit import checks
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
    that is a weight too), "statistic" (a running mean or variance), "other" and "unused" """
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

    @property
    def features(self) -> int:
        """Numbers that one lookup gives; the last axis of what is an embedding by rule."""
        looked_up = [use.fan_out for use in self.uses if use.kind == "embedding" and use.fan_out]
        return looked_up[0] if looked_up else self.shape[-1]

    def matrix(self) -> np.ndarray:
        """Flat indices into the leaf, `[layers * groups, fan_in, fan_out]`: what is really applied.

        For a convolution the last axis counts channels out, without the receptive field; a
        transposed one has as many matrices as its strides multiply to, side by side.

        Raises:
            RoleError: a parameter that is no weight, or of which a part is chosen while the model
                runs.
        """
        weights = _weights(self.uses)
        if not weights:
            raise RoleError(f"{self.path} is no weight but {self.kind!r}: it has no matrix.")
        whole = math.prod(self.shape) // weights[0].layers
        if _stacked(weights, self.shape):
            return np.concatenate([self._part(use) for use in weights])
        parts = weights if _in_parts(weights, whole) else weights[:1]
        return np.concatenate([self._part(use) for use in parts], axis=-1)

    def _part(self, use: Use) -> np.ndarray:
        batched, summed, free = use.axes
        found = []
        for layer in product(*(range(n) for n in use.view.layers)):
            try:
                indices = use.view.indices(self.shape, layer)
            except RoleError as error:
                raise RoleError(f"{self.path}: {error}") from None
            sizes = [math.prod(indices.shape[a] for a in axes) for axes in (summed, free)]
            found.append(indices.transpose(*batched, *summed, *free).reshape(-1, *sizes))
        return np.concatenate(found)


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
        uses = tuple(use for use in traced.uses if use.view.leaf == i)
        rule = given.pop(path, None)
        try:
            role = _role(path, leaf, uses, rule)
        except RoleError as error:
            doubts[path] = error
            role = _likely(path, leaf, uses)
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


def _likely(path: str, leaf: Any, uses: tuple[Use, ...]) -> Role:
    """The role of a parameter with uses that say different things: a product's, if there is one."""
    try:
        return _role(path, leaf, uses, "weight" if _weights(uses) else "other")
    except RoleError:
        return _role(path, leaf, uses, "other")  # which raises nothing


# --- from uses to a role ------------------------------------------------------------------------


def _role(path: str, leaf: Any, uses: tuple[Use, ...], rule: Kind | None) -> Role:
    role = Role(path, tuple(leaf.shape), leaf.dtype, rule or "unused", uses=uses)
    if uses:
        whole = math.prod(leaf.shape)
        read = sum(use.times * min(use.part * use.layers, whole) for use in uses)
        role = replace(role, order=min(u.order for u in uses), times=round(read / max(whole, 1)))
    kinds = {use.kind for use in uses}
    if "statistic" in kinds and kinds <= {"statistic", "bias", "scale"}:
        kinds = {"statistic"}
    weights = _weights(uses)
    if rule is None:
        if not uses:
            return role
        if kinds == {"weight", "embedding"}:
            role = replace(role, kind="tied")
        elif len(kinds) > 1 or "other" in kinds:
            raise RoleError(
                f"the trace says nothing certain of {path or 'the only array'}, which is used as "
                f"{' and as '.join(sorted(kinds))}; say what it is with "
                f"rules={{{path!r}: 'weight'}} (or bias, scale, embedding, other)."
            )
        else:
            role = replace(role, kind=kinds.pop())
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
    if _stacked(weights, leaf.shape):
        picked = first.view.picked
        layers = first.layers * picked if picked > 1 else sum(use.layers for use in weights)
    elif _in_parts(weights, whole):
        fan_out = sum(use.fan_out or 0 for use in weights)
    return replace(
        role, fan_in=first.fan_in, fan_out=fan_out, receptive_field=first.receptive_field,
        groups=first.groups, layers=layers,
    )  # fmt: skip


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
