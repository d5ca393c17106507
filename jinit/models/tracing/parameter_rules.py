"""Steps of rules: what an operation makes of parameters, another view of them or a use."""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax

from jinit.models.tracing.calls import Call
from jinit.models.tracing.jaxprs import axes_after
from jinit.models.tracing.made import numbers_of
from jinit.models.tracing.values import Fixed, Joined, RoleError, Signal, Value, View


def with_parameters(call: Call) -> list[Value]:
    """What comes out of an operation with an operand that is made of parameters."""
    steps = call.rule.parameters
    for step in steps if call.signals else (*call.rule.moves, made):
        found = step(call)
        if found is not None:
            return found
    return _lost(call)


def _lost(call: Call) -> list[Value]:
    """Used in a way that says nothing."""
    lost = [call.graph.use_as_other(call.values[i], call.at) for i in call.places]
    return [call.graph.new([*call.rest, *lost], call.at)] * call.made


# --- another shape ------------------------------------------------------------------------------


def moved(call: Call, step: Callable[[Any], Any] | None = None, **known: Any) -> list[Value] | None:
    """Entries that are moved or repeated, and not changed: by the operation itself, or a step."""
    primitive, params, view = call.equation.primitive, dict(call.equation.params), call.values[0]
    if not isinstance(view, View) or len(call.values) > 1:
        return None
    step = step or _bound(primitive, params)
    axes, fresh = axes_after(call.equation)
    if call.equation.primitive.name == "tile":
        axes = {}
    spread = frozenset(axes[a] for a in view.spread if axes.get(a) is not None) | fresh
    return [view.then(step, call.shape)._replace(spread=spread, **known)]


def moved_together(call: Call) -> list[Value] | None:
    """Views side by side of which each is moved in the same way."""
    joined = call.values[0]
    if not isinstance(joined, Joined) or len(call.values) > 1:
        return None
    axes, _ = axes_after(call.equation)
    axis = axes.get(joined.axis)
    if axis is None or call.equation.primitive.name not in ("transpose", "broadcast_in_dim"):
        return None
    primitive, params, found = call.equation.primitive, call.equation.params, list[View]()
    for view in joined.views:
        shape = (*call.shape[:axis], view.shape[joined.axis], *call.shape[axis + 1 :])
        own = dict(params, **({"shape": shape} if "shape" in params else {}))
        found.append(view.then(_bound(primitive, own), shape))
    return [Joined(tuple(found), axis)]


def _bound(primitive: Any, params: dict[str, Any]) -> Callable[[Any], Any]:
    return lambda numbers: primitive.bind(jax.numpy.asarray(numbers), **params)


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
    view = call.values[0]
    if not isinstance(view, View) or any(isinstance(v, View | Joined) for v in call.values[1:]):
        return None

    def unknown_place(indices: Any) -> Any:
        raise RoleError(
            "a part of a parameter is chosen while the model runs, so that no fixed matrix is "
            "applied; scan over stacked layers instead of indexing them."
        )

    return [view.then(unknown_place, call.shape)]


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
    """Several views joined."""
    views = [v for v in call.values if isinstance(v, View)]
    if len(views) == len(call.values) > 1:
        return [Joined(tuple(views), call.equation.params["dimension"])]
    return None


def stacked(call: Call) -> list[Value] | None:
    """Several views along a new axis."""
    views, axis = [v for v in call.values if isinstance(v, View)], call.equation.params["axis"]
    if len(views) < len(call.values) or len(views) < 2:
        return None

    def with_axis(numbers: Any) -> Any:
        return jax.numpy.expand_dims(numbers, axis)

    shape = (*call.shape[:axis], 1, *call.shape[axis + 1 :])
    return [Joined(tuple(v.then(with_axis, shape) for v in views), axis)]


def unstacked(call: Call) -> list[Value] | None:
    """All entries along an axis, one by one."""
    view, axis = call.values[0], call.equation.params["axis"]
    if not isinstance(view, View):
        return None
    places = [(*(slice(None),) * axis, i) for i in range(call.made)]
    count = view.picked * call.made
    return [
        view.then(operator.itemgetter(place), call.shape)._replace(picked=count)
        for place in places
    ]  # fmt: skip


def beside_signals(call: Call) -> list[Value] | None:
    """What stands beside a signal, as a class token does, is an embedding."""
    views = [call.graph.whole(v) for v in call.values if isinstance(v, View | Joined)]
    out: list[Value] = [v for v in call.values if isinstance(v, Signal)]
    for view in views:
        out = [call.graph.use(view, "embedding", out, call.at, fan_out=(1, *view.shape)[-1])]
    return out


def batched(call: Call) -> list[Value] | None:
    """Fused biases, made ready to be added to a batch."""
    first = call.values[0]
    if not isinstance(first, Joined) or any(len(view.shape) != 1 for view in first.views):
        return None
    *leading, last = call.shape
    if last != sum(view.shape[0] for view in first.views):
        return None
    return [first._replace(axis=len(leading), leading=tuple(leading))]


def taken(call: Call) -> list[Value] | None:
    """Entries that are picked at places which the program holds: a weight that symmetry shares."""
    view, *places = call.values
    if not isinstance(view, View) or not all(isinstance(v, Fixed) for v in places):
        return None
    primitive, params, known = call.equation.primitive, dict(call.equation.params), places

    def step(numbers: Any) -> Any:
        at = [numbers_of(v) for v in known if isinstance(v, Fixed)]
        return primitive.bind(jax.numpy.asarray(numbers), *map(jax.numpy.asarray, at), **params)

    rows = call.equation.primitive.name == "gather" and _takes_rows(call.equation, view)
    return [view.then(step, call.shape)._replace(looked_up=rows or view.looked_up)]


def _takes_rows(equation: Any, table: View) -> bool:
    """Whether a gather picks whole rows along one axis."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    picked = numbers.collapsed_slice_dims
    whole = all(sizes[a] == n for a, n in enumerate(table.shape) if a not in picked)
    return len(picked) == 1 and whole


# --- parameters and constants alone -------------------------------------------------------------


def made(call: Call) -> list[Value] | None:
    """What is made of parameters and constants, without a signal."""
    return list(call.graph.make(call.equation, call.values))


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
    contracting, batch = call.equation.params["dimension_numbers"]
    if not contracting[i]:
        return _outer(call, i)
    if isinstance(value, View):
        looked_up = _one_hot(call, value, i)
        return [_product(call, value, i, rest) if looked_up is None else looked_up]
    if value.axis in (*contracting[i], *batch[i]):
        return [_product(call, call.graph.whole(value), i, rest)]
    found = [_product(call, view, i, rest) for view in value.views]
    axes = {signal.features for signal in found}
    features = axes.pop() if len(axes) == 1 else None
    return [call.graph.new(found, call.at, features=features)]


def _outer(call: Call, i: int) -> list[Value] | None:
    """A product that sums over nothing is one entry by entry, of operands in the output's axes."""
    _, batch = call.equation.params["dimension_numbers"]
    ranks = [len(atom.aval.shape) for atom in call.equation.invars]
    free = [[a for a in range(n) if a not in own] for n, own in zip(ranks, batch, strict=True)]
    middle = len(batch[0]) + len(free[0])
    places = range(len(batch[0]), middle), range(middle, len(call.shape))  # of the free ones
    order = (*batch[i], *free[i])
    shape = tuple(1 if a in places[1 - i] else n for a, n in enumerate(call.shape))

    def step(numbers: Any) -> Any:
        return jax.numpy.asarray(numbers).transpose(order).reshape(shape)

    values = list(call.values)
    view = call.graph.whole(values[i])  # type: ignore[arg-type]
    values[i] = view.then(step, shape)._replace(spread=frozenset(places[1 - i]))
    return factor(call._replace(values=values), frozenset(places[i]))


def _one_hot(call: Call, table: View, i: int) -> Signal | None:
    """What a product with ones and zeros looks up."""
    other = call.values[1 - i]
    contracting, batch = call.equation.params["dimension_numbers"]
    if not isinstance(other, Signal) or tuple(contracting[1 - i]) != (other.one_hot,) or batch[i]:
        return None
    free = [a for a in range(len(table.shape)) if a not in contracting[i]]
    sizes = math.prod(table.shape[a] for a in free)
    first = len(call.shape) - len(free) if i == 1 else 0
    return call.graph.look_up(
        table, call.rest, call.at, contracting[i][0], range(first, first + len(free)), sizes
    )


def lookup(call: Call) -> list[Value] | None:
    """An embedding, if indices are not made of parameters themselves."""
    i, table, rest = _only(call)
    if i != 0 or not isinstance(table, View):
        return None
    numbers = call.equation.params["dimension_numbers"]
    size = math.prod(call.equation.params["slice_sizes"])
    if not _takes_rows(call.equation, table):
        return [call.graph.use(table, "embedding", rest, call.at, fan_out=size)]
    (picked,) = numbers.collapsed_slice_dims
    return [call.graph.look_up(table, rest, call.at, picked, numbers.offset_dims, size)]


def placed(call: Call) -> list[Value] | None:
    """Written into a signal, or picked where the signal is not: an embedding, as a mask token."""
    views = [call.graph.whole(v) for v in call.values if isinstance(v, View | Joined)]
    out = call.rest
    for view in views:
        out = [call.graph.use(view, "embedding", out, call.at, fan_out=(1, *view.shape)[-1])]
    return out


def shift(call: Call) -> list[Value] | None:
    """A bias."""
    i, value, rest = _only(call)
    if not isinstance(value, View | Joined):
        return None
    if isinstance(value, Joined):
        for view in value.views:
            rest = [call.graph.use_between(view, "bias", rest, call.at)]
        return rest
    if value.looked_up:
        size = value.shape[-1]
        return [call.graph.use_between(value, "embedding", rest, call.at, fan_out=size)]
    shifted = call.graph.use_between(value, "bias", rest, call.at)
    if call.equation.primitive.name == "sub" and i == 1:
        call.graph.subtracted[shifted.node] = len(call.graph.uses) - 1
    return [shifted]


def factor(call: Call, spread: frozenset[int] | None = None) -> list[Value] | None:
    """A scale; `spread` are the axes along which the signal is repeated, if that is known."""
    i, value, rest = _only(call)
    if not isinstance(value, View | Joined):
        return None
    view, (signal, *_) = call.graph.whole(value), rest
    if isinstance(signal, Signal):
        rest = [replace(signal, spread=call.spread(1 - i) if spread is None else spread)]
    normed = any(part.under_root for part in call.graph.parts(view.leaf).values())
    order = call.graph.subtracted.get(signal.node) if isinstance(signal, Signal) else None
    if normed and order is not None and len(call.graph.parts(call.graph.uses[order].view.leaf)) < 2:
        # What was subtracted before a running deviation divides is a running mean.
        call.graph.uses[order] = call.graph.uses[order]._replace(kind="statistic")
    scaled = call.graph.use_between(view, "scale", rest, call.at, normed=normed)
    if order is not None:
        call.graph.subtracted[scaled.node] = order
    return [scaled]


def pointwise(call: Call) -> list[Value] | None:
    """A function of single entries of a signal and of a parameter, as a power that is learned."""
    used = [
        call.graph.use(call.graph.whole(v), "other", call.rest, call.at, sure=True)
        for v in call.values if isinstance(v, View | Joined)
    ]  # fmt: skip
    return [call.graph.new([*call.rest, *used], call.at)]


def _product(call: Call, view: View, i: int, rest: Sequence[Value]) -> Signal:
    contracting, batch = call.equation.params["dimension_numbers"]
    summed, batch_axes = tuple(contracting[i]), tuple(batch[i])
    free = tuple(a for a in range(len(view.shape)) if a not in summed + batch_axes)
    # The output: batched axes, then the free ones of the left and of the right operand.
    last = len(call.shape) if i == 1 else len(batch_axes) + len(free)
    return _weight(
        call, view, rest,
        fan_in=math.prod(view.shape[a] for a in summed),
        fan_out=math.prod(view.shape[a] for a in free),
        groups=math.prod(view.shape[a] for a in batch_axes), axes=(batch_axes, summed, free),
        features=last - 1 if free else None, columns=tuple(range(last - len(free), last)),
    )  # fmt: skip


def _weight(
    call: Call, view: View, rest: Sequence[Value], *, columns: tuple[int, ...] = (), **more: Any
) -> Signal:
    """A use as a weight; what it reads has met its activation."""
    for value in rest:
        if isinstance(value, Signal):
            call.graph.settle(value, read=True)
    return call.graph.use(view, "weight", rest, call.at, columns=columns, **more)


def ragged(call: Call) -> list[Value] | None:
    """Experts, each of which reads its own rows of a signal: `[experts, in, out]`."""
    i, view, rest = _only(call)
    numbers = call.equation.params["ragged_dot_dimension_numbers"]
    contracting, batch = numbers.dot_dimension_numbers
    if i != 1 or not isinstance(view, View):
        return None
    groups = (*numbers.rhs_group_dimensions, *batch[1])
    summed = tuple(contracting[1])
    free = tuple(a for a in range(len(view.shape)) if a not in (*groups, *summed))
    return [_weight(
        call, view, rest, fan_in=math.prod(view.shape[a] for a in summed),
        fan_out=math.prod(view.shape[a] for a in free),
        groups=math.prod(view.shape[a] for a in groups), axes=(groups, summed, free),
        features=len(call.shape) - 1,
    )]  # fmt: skip


def convolution(call: Call) -> list[Value] | None:
    """A weight, if it is the kernel."""
    i, value, rest = _only(call)
    if i != 1 or not isinstance(value, View | Joined):
        return None
    view = call.graph.whole(value)
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
        features=numbers.out_spec[1], columns=(numbers.out_spec[1],) if groups == 1 else (),
    )]  # fmt: skip
