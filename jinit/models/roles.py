"""What every parameter of a model is for, read off the traced computation.

The apply function is traced to a jaxpr, and each parameter is followed through operations that only
change its shape, and into nested programs, to what consumes it. A product says what its fan-in and
fan-out are: the axes that are summed over, and those that are not. Nothing is guessed from names or
shapes, and no framework is known here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import Literal as JaxprLiteral

from jinit import checks

__all__ = ["Kind", "Role", "RoleError", "Use", "roles"]

Kind = Literal["weight", "bias", "scale", "embedding", "tied", "other", "unused"]

ACTIVATIONS = {
    "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "swish", "sigmoid",
    "softplus", "soft_sign", "hard_tanh", "hard_sigmoid", "mish", "softmax", "log_softmax", "glu",
}  # fmt: skip
"""Functions that jax names in the trace."""
_PRIMITIVES = {"tanh": "tanh", "logistic": "sigmoid", "sin": "sin", "erf": "erf"}
_AS_JINIT = {"swish": "silu", "soft_sign": "softsign"}


class RoleError(ValueError):
    """A parameter whose use says nothing certain; the message names it and offers a rule."""


class Use(NamedTuple):
    """One consumption of a parameter, or of a part of it."""

    kind: Kind
    order: int
    """place in call order"""
    times: int
    """how often, within loops that share the parameter"""
    fan_in: int | None = None
    fan_out: int | None = None
    receptive_field: int = 1
    groups: int = 1
    """of a grouped convolution, or the product of axes that are batched, as experts are"""
    part: int = 0
    """entries that take part, of one layer"""
    layers: int = 1
    view: "View | None" = None
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())
    """of the view: batched, summed over, free"""


class View(NamedTuple):
    """A parameter, or a part of it, in another shape."""

    leaf: int
    shape: tuple[int, ...]
    steps: tuple[Callable[[Any], Any] | None, ...] = ()
    """how it came from the leaf; None takes one layer of a loop over stacked ones"""
    layers: tuple[int, ...] = ()

    def then(self, step: Callable[[Any], Any] | None, shape: Sequence[int]) -> "View":
        return self._replace(shape=tuple(shape), steps=(*self.steps, step))

    def indices(self, shape: tuple[int, ...], layer: tuple[int, ...]) -> np.ndarray:
        """Where in the flat leaf every entry of the view of one layer lies."""
        found: Any = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
        left = list(layer)
        for step in self.steps:
            found = found[left.pop(0)] if step is None else step(found)
        return np.asarray(found)


class Joined(NamedTuple):
    """Several views side by side along an axis, as fused gates are."""

    views: tuple[View, ...]
    axis: int


class After(NamedTuple):
    """What came out of uses of weights, and no activation has met yet."""

    uses: frozenset[int]
    straight: bool = True
    """whether only sums, factors and shapes have changed it since: else a tanh that it meets may be
    a part of something else, as in GELU"""


@dataclass(frozen=True)
class Role:
    """What a parameter is for.

    Args:
        path: where it lies in the variables, as `jax.tree_util.keystr` writes it.
        shape: of the leaf.
        dtype: of the leaf.
        role: "weight", "bias", "scale" (of a norm), "embedding", "tied" (an embedding that is a
            weight too), "other" or "unused".
        fan_in: numbers summed over for one output; None if it is no weight.
        fan_out: outputs that one number contributes to.
        receptive_field: positions of a convolution's kernel.
        groups: independent products side by side.
        layers: stacked layers that a loop goes through.
        times: how often a number is used, by calls or loops that share it.
        activation: name of the activation that follows, None if there is none known.
        order: place of the first use in call order.
        uses: every consumption.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    role: Kind
    fan_in: int | None = None
    fan_out: int | None = None
    receptive_field: int = 1
    groups: int = 1
    layers: int = 1
    times: int = 0
    activation: str | None = None
    order: int | None = None
    uses: tuple[Use, ...] = field(default=(), repr=False, compare=False)

    def matrix(self) -> np.ndarray:
        """Flat indices into the leaf, `[layers * groups, fan_in, fan_out]`: what is really applied.

        Raises:
            RoleError: a parameter that is no weight, or of which a part is chosen while the model
                runs.
        """
        weights = [use for use in self.uses if use.kind == "weight"]
        if not weights:
            raise RoleError(f"{self.path} is no weight but {self.role!r}: it has no matrix.")
        whole = math.prod(self.shape) // weights[0].layers
        parts = weights if _in_parts(weights, whole) else weights[:1]
        return np.concatenate([self._part(use) for use in parts], axis=-1)

    def _part(self, use: Use) -> np.ndarray:
        assert use.view is not None
        batched, summed, free = use.axes
        found = []
        for layer in product(*(range(n) for n in use.view.layers)):
            indices = use.view.indices(self.shape, layer)
            sizes = [math.prod(indices.shape[a] for a in axes) for axes in (summed, free)]
            found.append(indices.transpose(*batched, *summed, *free).reshape(-1, *sizes))
        return np.concatenate(found)


def roles(
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    rules: Mapping[str, Kind] | None = None,
) -> tuple[Role, ...]:
    """The role of every array in `variables`, in the order of its leaves.

    Args:
        apply: `apply(variables, *inputs)`, traceable.
        variables: any pytree; leaves that are no floating-point arrays are passed through.
        *inputs: pytrees of arrays or `jax.ShapeDtypeStruct`s.
        rules: path -> role, for parameters of which the trace says nothing certain.

    Raises:
        RoleError: a parameter that is used in ways that contradict each other, or by an operation
            that says nothing of it, and has no rule; a rule that names no parameter.
        TypeError: variables without a floating-point array.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(variables)
    chosen = [i for i, (_, leaf) in enumerate(flat) if _is_float(leaf)]
    if not chosen:
        raise TypeError(
            "variables hold no floating-point array; give the parameters first, as in "
            "roles(model.apply, variables, batch)."
        )

    def of_leaves(floats: list[Any], *inputs: Any) -> Any:
        leaves = [leaf for _, leaf in flat]
        for i, leaf in zip(chosen, floats, strict=True):
            leaves[i] = leaf
        out = apply(jax.tree_util.tree_unflatten(structure, leaves), *inputs)
        return [leaf for leaf in jax.tree.leaves(out) if hasattr(leaf, "dtype")]

    floats = [_abstract(flat[i][1]) for i in chosen]
    traced = jax.make_jaxpr(of_leaves)(floats, *inputs)
    walk = _Walk()
    views = [View(i, leaf.shape) for i, leaf in enumerate(floats)]
    rest = [None] * (len(traced.jaxpr.invars) - len(views))
    walk.run(traced.jaxpr, [*views, *rest])
    given = dict(rules or {})
    for path, rule in given.items():
        checks.choice(f"rules[{path!r}]", rule, get_args(Kind))
    found = []
    for i, (index, leaf) in enumerate(zip(chosen, floats, strict=True)):
        path = jax.tree_util.keystr(flat[index][0])
        uses = tuple(use for use in walk.uses if use.view is not None and use.view.leaf == i)
        role = _role(path, leaf, uses, given.pop(path, None))
        following = {walk.activations[use.order] for use in uses if use.order in walk.activations}
        if role.role in ("weight", "tied") and len(following) == 1:
            role = replace(role, activation=following.pop())
        found.append(role)
    if given:
        paths = [role.path for role in found]
        raise RoleError(
            f"rules name {next(iter(given))!r}, which is no parameter; paths are "
            f"{', '.join(paths[:8])}{' ...' if len(paths) > 8 else ''}."
        )
    return tuple(found)


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, np.floating)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


# --- from uses to a role ------------------------------------------------------------------------


def _role(path: str, leaf: Any, uses: tuple[Use, ...], rule: Kind | None) -> Role:
    role = Role(path, tuple(leaf.shape), leaf.dtype, rule or "unused", uses=uses)
    if uses:
        role = replace(
            role, order=min(use.order for use in uses), times=sum(use.times for use in uses)
        )
    kinds = {use.kind for use in uses}
    weights = [use for use in uses if use.kind == "weight"]
    if rule is None:
        if not uses:
            return role
        if kinds == {"weight", "embedding"}:
            role = replace(role, role="tied")
        elif len(kinds) > 1 or "other" in kinds:
            raise RoleError(
                f"the trace says nothing certain of {path}, which is used as "
                f"{' and as '.join(sorted(kinds))}; say what it is with "
                f"rules={{{path!r}: 'weight'}} (or bias, scale, embedding, other)."
            )
        else:
            role = replace(role, role=kinds.pop())
    if role.role not in ("weight", "tied") or not weights:
        return role
    shapes = {(use.fan_in, use.fan_out, use.receptive_field, use.groups) for use in weights}
    parts = {use.part for use in weights}
    whole = math.prod(leaf.shape) // weights[0].layers
    if len(shapes) > 1 and parts == {whole}:
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
    first = weights[0]
    fan_out = sum(u.fan_out or 0 for u in weights) if _in_parts(weights, whole) else first.fan_out
    return replace(
        role, fan_in=first.fan_in, fan_out=fan_out, receptive_field=first.receptive_field,
        groups=first.groups, layers=first.layers,
    )  # fmt: skip


def _in_parts(weights: Sequence[Use], whole: int) -> bool:
    """Whether the uses are of parts that make up the leaf, as split gates are."""
    return len(weights) > 1 and sum(use.part for use in weights) == whole


# --- following ----------------------------------------------------------------------------------

Value = View | Joined | After | None


class _Walk:
    """An abstract run of a jaxpr: every value is a view, comes after one, or is neither."""

    def __init__(self) -> None:
        self.uses: list[Use] = []
        self.activations: dict[int, str] = {}
        self._times = 1

    def run(self, jaxpr: Jaxpr, values: Sequence[Value]) -> list[Value]:
        env: dict[Any, Value] = dict(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> Value:
            return None if isinstance(atom, JaxprLiteral) else env.get(atom)

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            if any(value is not None for value in inputs):
                outputs = self._equation(equation, inputs)
                env.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        count = len(equation.outvars)
        known = params.get("name")
        if known in ACTIVATIONS and not any(isinstance(v, View) for v in inputs):
            return self._activated(_AS_JINIT.get(known, known), inputs, count)
        if name in _PRIMITIVES and isinstance(inputs[0], After) and inputs[0].straight:
            return self._activated(_PRIMITIVES[name], inputs, count)
        if name == "scan":
            return self._scan(equation, inputs)
        if name == "while":
            return self._while(equation, inputs)
        if name == "cond":
            found = [self.run(_open(b), inputs[1:]) for b in params["branches"]]
            return [_joined(values) for values in zip(*found, strict=True)]
        inner = next((params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params), None)
        if inner is not None:
            return self.run(_open(inner), inputs)
        views = [value for value in inputs if isinstance(value, View)]
        if name == "concatenate" and len(views) == len(inputs) > 1:
            return [Joined(tuple(views), params["dimension"])]
        if name in _SAME and inputs[0] is not None:
            return [inputs[0]] * count
        if name == "split" and views:
            return list(_split(equation, views[0]))
        if name in _SHAPE_ONLY and isinstance(inputs[0], View):
            return [_reshaped(equation, inputs[0])]
        if name in ("reshape", "broadcast_in_dim") and isinstance(inputs[0], Joined):
            vectors = all(len(view.shape) == 1 for view in inputs[0].views)
            *leading, last = equation.outvars[0].aval.shape
            if vectors and last == sum(view.shape[0] for view in inputs[0].views):
                return [inputs[0]._replace(axis=len(leading))]  # fused biases, for a batch
        if any(isinstance(value, View | Joined) for value in inputs):
            return self._use(equation, inputs)
        return [_after(inputs, straight=name in _STRAIGHT)] * count

    def _activated(self, name: str, inputs: list[Value], count: int) -> list[Value]:
        for value in inputs:
            if isinstance(value, After):
                for order in value.uses:
                    self.activations.setdefault(order, name)
        return [None] * count

    def _scan(self, equation: Any, inputs: list[Value]) -> list[Value]:
        params = equation.params
        jaxpr, length = _open(params["jaxpr"]), params["length"]
        # What is stacked has one axis more outside; jax has changed how it counts the others.
        carried = _alike(equation.outvars, jaxpr.outvars)
        consts = _alike(equation.invars, jaxpr.invars) - carried
        own = list(inputs)
        for i, value in enumerate(inputs):
            if isinstance(value, View) and i >= consts + carried:
                taken = value.then(None, value.shape[1:])
                own[i] = taken._replace(layers=(*value.layers, value.shape[0]))
            elif isinstance(value, View) and consts <= i < consts + carried:
                unchanged = jaxpr.outvars[i - consts] is jaxpr.invars[i]
                own[i] = value if unchanged else self._other(value)
        before, made = self._times, len(self.uses)
        self._times *= length
        found = self.run(jaxpr, own)
        # In the second pass of a loop its carry comes after what the first pass ended with.
        again = [
            v if isinstance(v, View) else _after([v, f])
            for v, f in zip(own[consts : consts + carried], found, strict=False)
        ]
        if again != own[consts : consts + carried]:
            uses = list(self.uses)
            found = self.run(jaxpr, [*own[:consts], *again, *own[consts + carried :]])
            # Same equations, same order: only activations are new.
            shift = len(uses) - made
            for order in range(len(uses), len(uses) + shift):
                if order in self.activations:
                    self.activations.setdefault(order - shift, self.activations.pop(order))
            self.uses = uses
            found = [_shifted(value, len(uses), shift) for value in found]
        self._times = before
        return [v if i < carried or not isinstance(v, View) else None for i, v in enumerate(found)]

    def _while(self, equation: Any, inputs: list[Value]) -> list[Value]:
        params = equation.params
        skipped = params["cond_nconsts"]
        body = _open(params["body_jaxpr"])
        own = inputs[skipped:]
        consts = params["body_nconsts"]
        for i, value in enumerate(own):
            if i >= consts and isinstance(value, View):
                unchanged = body.outvars[i - consts] is body.invars[i]
                own[i] = value if unchanged else self._other(value)
        return self.run(body, own)

    # --- what consumes a view ---

    def _other(self, value: View) -> Value:
        self._add(value, "other")
        return None

    def _add(self, view: View, kind: Kind, **more: Any) -> After:
        order = len(self.uses)
        part = math.prod(view.shape)
        layers = math.prod(view.layers)
        times = self._times // layers  # loops that go through its layers use each of them once
        self.uses.append(Use(kind, order, times, part=part, layers=layers, view=view, **more))
        return After(frozenset({order}))

    def _use(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, count = equation.primitive.name, len(equation.outvars)
        views = [i for i, value in enumerate(inputs) if isinstance(value, View | Joined)]
        if len(views) == 1 and isinstance(joined := inputs[views[0]], Joined):
            return self._use_joined(equation, inputs, views[0], joined)
        if len(views) == 1:
            i = views[0]
            view = inputs[i]
            assert isinstance(view, View)
            others: list[Value] = [_after([v for j, v in enumerate(inputs) if j != i])]
            if name == "dot_general":
                return [self._product(equation, view, i)] * count
            if name == "conv_general_dilated" and i == 1:
                return [self._convolution(equation, view)] * count
            if name == "gather" and i == 0:
                sizes = equation.params["slice_sizes"]
                self._add(view, "embedding", fan_out=math.prod(sizes))
                return [None] * count
            if name in ("add", "add_any", "sub"):
                self._add(view, "bias")
                return others * count
            if name in ("mul", "div"):
                other = equation.invars[1 - i].aval
                if math.prod(other.shape) == 1 and not isinstance(inputs[1 - i], After):
                    return [view] * count  # a constant factor, or a cast of one
                if name == "mul" or i == 1:
                    self._add(view, "scale")
                    return others * count
        for i in views:
            value = inputs[i]
            for view in value.views if isinstance(value, Joined) else (value,):
                self._other(view)  # type: ignore[arg-type]
        return [None] * count

    def _use_joined(
        self, equation: Any, inputs: list[Value], i: int, joined: Joined
    ) -> list[Value]:
        """Each of several views side by side is used as it would be alone."""
        found: list[Value] = [v for j, v in enumerate(inputs) if j != i]
        name = equation.primitive.name
        if name == "dot_general":
            contracting, batch = equation.params["dimension_numbers"]
            alone = joined.axis not in (*contracting[i], *batch[i])
        else:
            alone = name in ("add", "add_any", "sub")
        for view in joined.views:
            if not alone:
                self._other(view)
            elif name == "dot_general":
                found.append(self._product(equation, view, i))
            else:
                self._add(view, "bias")
        return [_after(found)]

    def _product(self, equation: Any, view: View, i: int) -> After:
        contracting, batch = equation.params["dimension_numbers"]
        summed, batched = tuple(contracting[i]), tuple(batch[i])
        free = tuple(a for a in range(len(view.shape)) if a not in summed + batched)
        return self._add(
            view, "weight",
            fan_in=math.prod(view.shape[a] for a in summed),
            fan_out=math.prod(view.shape[a] for a in free),
            groups=math.prod(view.shape[a] for a in batched), axes=(batched, summed, free),
        )  # fmt: skip

    def _convolution(self, equation: Any, view: View) -> After:
        params = equation.params
        out, into, *space = params["dimension_numbers"].rhs_spec
        groups = params["feature_group_count"] * params["batch_group_count"]
        field_ = math.prod(view.shape[a] for a in space)
        # The output axis holds the groups side by side: split it, at its place.
        split = (*view.shape[:out], groups, view.shape[out] // groups, *view.shape[out + 1 :])
        into, *space = (a + (a > out) for a in (into, *space))
        return self._add(
            view.then(lambda idx: idx.reshape(split), split), "weight",
            fan_in=split[into] * field_, fan_out=split[out + 1] * field_, receptive_field=field_,
            groups=groups, axes=((out,), (*space, into), (out + 1,)),
        )  # fmt: skip


_SHAPE_ONLY = {
    "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "rev",
    "dynamic_slice",
}  # fmt: skip
_STRAIGHT = {*_SHAPE_ONLY, "add", "add_any", "sub", "neg", "concatenate", "split", "copy"}
_SAME = {
    "convert_element_type", "copy", "copy_p", "optimization_barrier", "reduce_precision",
    "sharding_constraint", "stop_gradient",
}  # fmt: skip


def _reshaped(equation: Any, view: View) -> View:
    """The view after an operation that moves or repeats entries, and changes none."""
    name, params = equation.primitive.name, dict(equation.params)
    shape = equation.outvars[0].aval.shape
    if name == "dynamic_slice":
        return view.then(_unknown_place, shape)
    primitive = equation.primitive

    def again(indices: Any) -> Any:
        return primitive.bind(jax.numpy.asarray(indices), **params)

    return view.then(again, shape)


def _unknown_place(indices: Any) -> Any:
    raise RoleError(
        "a part of a parameter is chosen while the model runs, so that no fixed matrix is applied; "
        "scan over stacked layers instead of indexing them."
    )


def _open(jaxpr: Any) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _alike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many values of a loop have the rank inside that they have outside."""
    pairs = zip(outside, inside, strict=True)
    return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)


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


def _after(values: Sequence[Value], *, straight: bool = True) -> After | None:
    found = [value for value in values if isinstance(value, After)]
    if not found:
        return None
    uses = frozenset[int]().union(*(value.uses for value in found))
    return After(uses, straight and all(value.straight for value in found))


def _joined(values: Sequence[Value]) -> Value:
    return values[0] if isinstance(values[0], View) else _after(values)


def _shifted(value: Value, first: int, shift: int) -> Value:
    if not isinstance(value, After):
        return value
    uses = frozenset(u - shift if u >= first else u for u in value.uses)
    return value._replace(uses=uses)
