"""Steps of rules: what an operation makes of parameters, another view of them or a use."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jinit.models.tracing.calls import Call
from jinit.models.tracing.values import Constant, Factors, Joined, RoleError, Signal, Value, View


def with_parameters(call: Call) -> list[Value]:
    """What comes out of an operation with an operand that is made of parameters."""
    for step in call.rule.parameters:
        found = step(call)
        if found is not None:
            return found
    return _lost(call)


def _lost(call: Call, *, data: bool | None = None) -> list[Value]:
    """Used in a way that says nothing."""
    lost = [call.graph.use_as_other(call.values[i], call.at) for i in call.places]
    return [call.graph.new([*call.rest, *lost], call.at, data=data)] * call.made


# --- another shape ------------------------------------------------------------------------------


def moved(call: Call, step: Callable[[Any], Any] | None = None, **known: Any) -> list[Value] | None:
    """Entries that are moved or repeated, and not changed: by the operation itself, or a step."""
    primitive, params, view = call.equation.primitive, dict(call.equation.params), call.values[0]
    if isinstance(view, View):
        step = step or (lambda indices: primitive.bind(jax.numpy.asarray(indices), **params))
        return [view.then(step, call.shape)._replace(**known)]
    return [view] if isinstance(view, Factors) else None


def cut(call: Call) -> list[Value] | None:
    """A part; of axes that are cut down to one entry it is noted how many there were."""
    cuts = enumerate(zip(call.equation.invars[0].aval.shape, call.shape, strict=True))
    return moved(call, narrowed=tuple((a, n) for a, (n, m) in cuts if n > m == 1))


def squeezed(call: Call) -> list[Value] | None:
    """Axes left out; one that was cut down before picks one of so many."""
    view, rank = call.values[0], len(call.equation.invars[0].aval.shape)
    gone = {a % rank for a in call.equation.params["dimensions"]}
    if not isinstance(view, View):
        return moved(call)
    picked = view.picked * math.prod(n for a, n in view.narrowed if a in gone)
    return moved(call, picked=picked)


def chosen(call: Call) -> list[Value] | None:
    """A part that is chosen while the model runs."""

    def unknown_place(indices: Any) -> Any:
        raise RoleError(
            "a part of a parameter is chosen while the model runs, so that no fixed matrix is "
            "applied; scan over stacked layers instead of indexing them."
        )

    return moved(call, unknown_place)


def in_parts(call: Call) -> list[Value] | None:
    """Split along an axis, as fused gates are."""
    view = call.values[0]
    if not isinstance(view, View):
        return None
    axis, found, first = call.equation.params["axis"], list[Value](), 0
    for out in call.equation.outvars:
        last = first + out.aval.shape[axis]
        part = (*(slice(None),) * axis, slice(first, last))
        found.append(view.then(operator.itemgetter(part), out.aval.shape))
        first = last
    return found


def side_by_side(call: Call) -> list[Value] | None:
    """Several views joined; beside a signal, as a class token is, they are embeddings."""
    views = [v for v in call.values if isinstance(v, View)]
    if len(views) == len(call.values) > 1:
        return [Joined(tuple(views), call.equation.params["dimension"])]
    if not views or not any(isinstance(v, Signal) for v in call.values):
        return None
    out: list[Value] = [v for v in call.values if not isinstance(v, View)]
    for view in views:
        out = [call.graph.use(view, "embedding", out, call.at, fan_out=view.shape[-1])]
    return out


def batched(call: Call) -> list[Value] | None:
    """Fused biases, made ready to be added to a batch."""
    first = call.values[0]
    if not isinstance(first, Joined) or any(len(view.shape) != 1 for view in first.views):
        return None
    *leading, last = call.shape
    if last != sum(view.shape[0] for view in first.views):
        return None
    return [first._replace(axis=len(leading))]


# --- parameters and constants alone -------------------------------------------------------------


def factor_alone(call: Call) -> list[Value] | None:
    """A factor on a view leaves it as it is; several parameters are multiplied into one."""
    values = call.values
    views = [v for v in values if isinstance(v, View)]
    constants = [v for v in values if isinstance(v, Constant)]
    divides = call.equation.primitive.name == "div"
    if len(views) == len(constants) == 1 and not (divides and values[0] is constants[0]):
        return [views[0]]  # a factor, or a cast of one
    parts = _parts(values)
    if parts and not constants and len(parts) > 1:
        return [Factors(tuple(parts))]
    return changed_alone(call)


def changed_alone(call: Call) -> list[Value] | None:
    """A function of one parameter: roots are of running variances, others of no known use."""
    parts = _parts(call.values)
    if len(parts) != 1:
        return None
    ((view, kind),) = parts
    return [Factors(((view, "statistic" if call.rule.root or kind == "statistic" else "other"),))]


def _parts(values: Sequence[Value]) -> list[tuple[View, str]]:
    """The parameters among operands that hold nothing else but constants; else none."""
    found: list[tuple[View, str]] = []
    for value in values:
        if isinstance(value, View):
            found.append((value, "scale"))
        elif isinstance(value, Factors):
            found += value.parts
        elif not isinstance(value, Constant):
            return []
    return found


# --- uses by signals ----------------------------------------------------------------------------


def _only(call: Call) -> tuple[int, Value, list[Value]]:
    """Place of the one operand that is made of parameters, it (None if several are), the others."""
    i, *more = call.places
    return i, None if more else call.values[i], call.rest


def product(call: Call) -> list[Value] | None:
    """A weight; of several side by side each is used as it would be alone."""
    i, value, rest = _only(call)
    if not isinstance(value, View | Joined):
        return None
    if isinstance(value, View):
        return [_product(call, value, i, rest)]
    contracting, batch = call.equation.params["dimension_numbers"]
    if value.axis in (*contracting[i], *batch[i]):
        return None
    found = [_product(call, view, i, rest) for view in value.views]
    axes = {signal.features for signal in found}
    features = axes.pop() if len(axes) == 1 else None
    return [call.graph.new(found, call.at, features=features)]


def product_alone(call: Call) -> list[Value] | None:
    """A product of parameters alone may be a part of a weight, as that of two low ranks is."""
    return None if call.rest else _lost(call, data=False)


def lookup(call: Call) -> list[Value] | None:
    """An embedding, if indices are not made of parameters themselves."""
    i, table, rest = _only(call)
    if i != 0 or not isinstance(table, View):
        return None
    sizes = math.prod(call.equation.params["slice_sizes"])
    return [call.graph.use(table, "embedding", rest, call.at, fan_out=sizes)]


def shift(call: Call) -> list[Value] | None:
    """A bias."""
    i, value, rest = _only(call)
    if not isinstance(value, View | Joined):
        return None
    if isinstance(value, Joined):
        for view in value.views:
            rest = [call.graph.use_between(view, "bias", rest, call.at)]
        return rest
    if not _is_data(rest[0]):  # numbers that the trace does not know, as noise is
        return [Factors(((value, "other"),))]
    shifted = call.graph.use_between(value, "bias", rest, call.at)
    if call.equation.primitive.name == "sub" and i == 1:
        call.graph.subtracted[shifted.node] = len(call.graph.uses) - 1
    return [shifted]


def factor(call: Call) -> list[Value] | None:
    """A scale."""
    i, value, rest = _only(call)
    if not isinstance(value, View | Factors):
        return None
    if isinstance(value, View) and not _is_data(rest[0]):
        # Numbers that the trace does not know: a factor is one more number, but a mask or noise
        # makes another parameter.
        single = math.prod(call.equation.invars[1 - i].aval.shape) == 1
        return [value if single else Factors(((value, "other"),))]
    if call.equation.primitive.name == "div" and i == 0:
        return None
    parts = _parts([value])
    normed = any(kind == "statistic" for _, kind in parts)
    order = call.graph.subtracted.get(rest[0].node) if isinstance(rest[0], Signal) else None
    if normed and order is not None:
        # What was subtracted before a running deviation divides is a running mean.
        call.graph.uses[order] = call.graph.uses[order]._replace(kind="statistic")
    for view, kind in parts:
        rest = [call.graph.use_between(view, kind, rest, call.at, normed=normed)]  # type: ignore[arg-type]
    return rest


def _is_data(value: Value) -> bool:
    return isinstance(value, Signal) and value.data


def _product(call: Call, view: View, i: int, rest: Sequence[Value]) -> Signal:
    contracting, batch = call.equation.params["dimension_numbers"]
    summed, batched = tuple(contracting[i]), tuple(batch[i])
    free = tuple(a for a in range(len(view.shape)) if a not in summed + batched)
    # The output: batched axes, then the free ones of the left and of the right operand.
    features = (len(call.shape) - 1 if i == 1 else len(batched) + len(free) - 1) if free else None
    return _weight(
        call, view, rest,
        fan_in=math.prod(view.shape[a] for a in summed),
        fan_out=math.prod(view.shape[a] for a in free),
        groups=math.prod(view.shape[a] for a in batched), axes=(batched, summed, free),
        features=features,
    )  # fmt: skip


def _weight(call: Call, view: View, rest: Sequence[Value], **more: Any) -> Signal:
    """A use as a weight; what it reads has met its activation."""
    for value in rest:
        if isinstance(value, Signal):
            call.graph.settle(value, read=True)
    return call.graph.use(view, "weight", rest, call.at, **more)


def convolution(call: Call) -> list[Value] | None:
    """A weight, if it is the kernel."""
    i, view, rest = _only(call)
    if i != 1 or not isinstance(view, View):
        return None
    params = call.equation.params
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
    fan_in = split[at_new[into]] * math.prod(split[at_new[a]] for a in space) * thinned
    field_ = math.prod(view.shape[a] for a in space)
    summed = (*(at_new[a] for a in space), at_new[into])
    return [_weight(
        call, view.then(lambda indices: indices.reshape(split), split), rest,
        fan_in=int(fan_in) if fan_in == int(fan_in) else fan_in, thinned=thinned,
        fan_out=split[at_new[out]] * field_,
        receptive_field=field_, groups=groups, axes=(tuple(batched), summed, (at_new[out],)),
        features=numbers.out_spec[1],
    )]  # fmt: skip
