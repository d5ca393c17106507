"""What an operation makes of parameters: another view of them, or a use by signals."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jinit.models.tracing.graph import Graph, Held
from jinit.models.tracing.values import (
    Constant,
    Factors,
    Joined,
    Path,
    RoleError,
    Signal,
    Value,
    View,
)

__all__ = ["SHAPE_ONLY", "with_parameters"]

SHAPE_ONLY = {
    "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "rev",
    "dynamic_slice",
}  # fmt: skip


def with_parameters(graph: Graph, equation: Any, held: list[Held], at: Path) -> list[Held]:
    """What comes out of an operation with an operand that is made of parameters."""
    name, count = equation.primitive.name, len(equation.outvars)
    values = [h.value for h in held]
    first = values[0]
    views = [v for v in values if isinstance(v, View)]
    if name == "concatenate" and len(views) == len(values) > 1:
        return [Held(Joined(tuple(views), equation.params["dimension"]), None)]
    beside = any(isinstance(v, Signal) for v in values)
    if name == "concatenate" and views and beside:  # as a class token is
        out = [h for h in held if not isinstance(h.value, View)]
        for view in views:
            out = [graph.use(view, "embedding", out, at, fan_out=view.shape[-1])]
        return out
    if name == "split" and isinstance(first, View):
        return [Held(view, None) for view in _split(equation, first)]
    if name in SHAPE_ONLY and isinstance(first, View):
        return [Held(_reshaped(equation, first), None)]
    if name in ("reshape", "broadcast_in_dim") and isinstance(first, Joined):
        vectors = all(len(view.shape) == 1 for view in first.views)
        *leading, last = equation.outvars[0].aval.shape
        if vectors and last == sum(view.shape[0] for view in first.views):
            return [Held(first._replace(axis=len(leading)), None)]  # fused biases, of a batch
    if name in SHAPE_ONLY and isinstance(first, Factors):
        return [held[0]]
    if name in ("add", "sub", "mul", "div", "max", "min", "pow") or len(values) == 1:
        alone = _numbers(equation, values)
        if alone is not None:
            return [Held(alone, None)]
    places = [i for i, v in enumerate(values) if isinstance(v, View | Joined | Factors)]
    if len(places) == 1:
        found = _use(graph, equation, held, places[0], at)
        if found is not None:
            return [found] * count
    lost = [graph.use_as_other(held[i], at) for i in places]
    left = [h for i, h in enumerate(held) if i not in places]
    # A product of parameters alone may be a part of a weight, as that of two low ranks is.
    data = False if name == "dot_general" and not left else None
    return [graph.new([*left, *lost], at, data=data)] * count


def _use(graph: Graph, equation: Any, held: list[Held], i: int, at: Path) -> Held | None:
    """Of one operand that is made of parameters, by signals; None if it says nothing."""
    name, value = equation.primitive.name, held[i].value
    rest = [h for j, h in enumerate(held) if j != i]
    if isinstance(value, Joined):
        return _use_joined(graph, equation, rest, i, value, at)
    if isinstance(value, Factors):
        if name == "mul" or (name == "div" and i == 1):
            _centre(graph, value, rest[0].node)
            normed = any(kind == "statistic" for _, kind in value.parts)
            for view, kind in value.parts:
                rest = [graph.use_between(view, kind, rest, at, normed=normed)]  # type: ignore[arg-type]
            return rest[0]
        return None
    assert isinstance(value, View)
    if name == "dot_general":
        return _product(graph, equation, value, i, rest, at)
    if name == "conv_general_dilated" and i == 1:
        return _convolution(graph, equation, value, rest, at)
    if name == "gather" and i == 0:
        sizes = equation.params["slice_sizes"]
        return graph.use(value, "embedding", rest, at, fan_out=math.prod(sizes))
    if name in ("add", "add_any", "sub", "mul", "div") and not graph.is_data(rest[0]):
        # Numbers that the trace does not know: a factor is one more number, but a mask or
        # noise makes another parameter.
        single = math.prod(equation.invars[1 - i].aval.shape) == 1
        same = name == "mul" or (name == "div" and i == 0)
        return held[i] if single and same else Held(Factors(((value, "other"),)), None)
    if name in ("add", "add_any"):
        return graph.use_between(value, "bias", rest, at)
    if name == "sub":
        shifted = graph.use_between(value, "bias", rest, at)
        if i == 1 and shifted.node is not None:
            graph.subtracted[shifted.node] = len(graph.uses) - 1
        return shifted
    if name == "mul" or (name == "div" and i == 1):
        return graph.use_between(value, "scale", rest, at)
    return None


def _centre(graph: Graph, factors: Factors, node: int | None) -> None:
    """What was subtracted before a running deviation divides is a running mean."""
    if any(kind == "statistic" for _, kind in factors.parts) and node in graph.subtracted:
        order = graph.subtracted[node]
        graph.uses[order] = graph.uses[order]._replace(kind="statistic")


def _use_joined(
    graph: Graph, equation: Any, rest: list[Held], i: int, joined: Joined, at: Path
) -> Held | None:
    """Each of several views side by side is used as it would be alone."""
    name, found = equation.primitive.name, []
    if name == "dot_general":
        contracting, batch = equation.params["dimension_numbers"]
        if joined.axis in (*contracting[i], *batch[i]):
            return None
        found = [_product(graph, equation, view, i, rest, at) for view in joined.views]
        axes = {f.value.features for f in found}  # type: ignore[union-attr]
        return graph.new(found, at, features=axes.pop() if len(axes) == 1 else None)
    if name not in ("add", "add_any", "sub"):
        return None
    out = rest
    for view in joined.views:
        out = [graph.use_between(view, "bias", out, at)]
    return out[0]


def _product(
    graph: Graph, equation: Any, view: View, i: int, rest: Sequence[Held], at: Path
) -> Held:
    for h in rest:
        if isinstance(h.value, Signal):
            graph.settle(h.value, read=True)
    contracting, batch = equation.params["dimension_numbers"]
    summed, batched = tuple(contracting[i]), tuple(batch[i])
    free = tuple(a for a in range(len(view.shape)) if a not in summed + batched)
    rank = len(equation.outvars[0].aval.shape)
    # The output: batched axes, then the free ones of the left and of the right operand.
    features = (rank - 1 if i == 1 else len(batched) + len(free) - 1) if free else None
    return graph.use(
        view, "weight", rest, at,
        fan_in=math.prod(view.shape[a] for a in summed),
        fan_out=math.prod(view.shape[a] for a in free),
        groups=math.prod(view.shape[a] for a in batched), axes=(batched, summed, free),
        features=features,
    )  # fmt: skip


def _convolution(graph: Graph, equation: Any, view: View, rest: Sequence[Held], at: Path) -> Held:
    for h in rest:
        if isinstance(h.value, Signal):
            graph.settle(h.value, read=True)
    params = equation.params
    numbers = params["dimension_numbers"]
    out, into, *space = numbers.rhs_spec
    groups = params["feature_group_count"] * params["batch_group_count"]
    # Zeros between the inputs, as a transposed convolution of stride s puts them, leave every
    # s-th tap to an output: s kernels lie interleaved, of equal size where s divides the kernel's.
    # The output axis holds groups side by side. Both are split, each at its place.
    strides = dict(zip(space, params["lhs_dilation"], strict=True))
    shape: list[int] = []
    at_new: dict[int, int] = {}  # of what stays, by its old axis
    batched: list[int] = []
    thinned = 1.0
    for axis, n in enumerate(view.shape):
        stride = strides.get(axis, 1)
        parts = (groups, n // groups) if axis == out else (n,)
        if stride > 1 and n % stride == 0:
            parts = (n // stride, stride)
            batched.append(len(shape) + 1)
        elif stride > 1:
            thinned /= stride
        elif axis == out:
            batched.insert(0, len(shape))
        at_new[axis] = len(shape) + (axis == out)
        shape += parts
    split = tuple(shape)
    taps = math.prod(split[at_new[a]] for a in space)
    field_ = math.prod(view.shape[a] for a in space)
    summed = (*(at_new[a] for a in space), at_new[into])
    return graph.use(
        view.then(lambda indices: indices.reshape(split), split), "weight", rest, at,
        fan_in=_whole(split[at_new[into]] * taps * thinned), thinned=thinned,
        fan_out=split[at_new[out]] * field_,
        receptive_field=field_, groups=groups, axes=(tuple(batched), summed, (at_new[out],)),
        features=numbers.out_spec[1],
    )  # fmt: skip


def _whole(number: int | float) -> int | float:
    return int(number) if number == int(number) else number


def _numbers(equation: Any, values: list[Value]) -> Value:
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
