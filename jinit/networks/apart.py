"""Training with the layers taken apart and samples as rows: the form of accelerators.

There a step that slices its weights out of stacked arrays, and writes gradients and moments back
into them, waits for memory. So parameters, optimizer state and statistics are taken apart once
before a run and stacked once after it. An optimizer that looks at whole arrays (a global norm, a
trust ratio, a mask by hand) has to be shown the stacked ones: whether it does is read off its
program.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from jinit.networks.base import Bound
from jinit.networks.description import Description
from jinit.networks.layer import LAYERS, climb
from jinit.networks.mlp import UNROLLED, UNROLLED_ROWS, columns, rows
from jinit.networks.norms import BatchStats
from jinit.networks.params import ConvLayer, Layer, Stacked, stack

_LAYER_STEPS = 100  # fewer do not repay compiling every layer


class Form(NamedTuple):
    """How a run is carried from step to step."""

    bound: Bound
    split: Callable[[Any], Any] = lambda tree: tree
    joined: Callable[[Any, Any], Any] = lambda tree, like: tree


def forms(
    net: Any, bound: Bound, update: Callable[..., Any], stacked: tuple[Any, ...], steps: int
) -> tuple[Form, Form]:
    """In which form a run is computed: on a CPU, and on an accelerator.

    Args:
        net, bound: the description, and what training asks of it.
        update: of the optimizer, `update(*stacked)`.
        stacked: its arguments.
        steps: of the run, earlier parts included.
    """
    if not isinstance(net, Description):
        return Form(bound), Form(bound)
    here = Form(_with(bound, partial(columns, net)))
    worth = net.depth <= UNROLLED_ROWS and net.depth * steps >= _LAYER_STEPS
    if worth and takes_entries(net, update, *stacked):
        return here, Form(_with(bound, partial(_forward, net)), split, joined)
    unroll = UNROLLED_ROWS if worth else UNROLLED
    return here, Form(_with(bound, partial(rows, net, unroll=unroll)))


def _with(bound: Bound, forward: Callable[..., Any]) -> Bound:
    def keyed(*of: Any, train: bool, key: Any = None) -> tuple[jax.Array, Any]:
        return forward(*of, train=train)

    return bound._replace(forward=keyed)


def _forward(
    net: Description,
    layers: tuple[Any, ...],
    state: tuple[BatchStats, ...],
    h: jax.Array,
    *,
    train: bool,
) -> tuple[jax.Array, tuple[BatchStats, ...]]:
    own, stats, after = iter(layers), iter(state), []
    for run in net.runs:
        for _ in range(run.length):
            layer = next(own)
            normed = next(stats) if state and "norm" in LAYERS[run.kind].steps else None
            h, seen = climb(run.kind, net.steps(run, train, layer, normed, rows=True), h)
            if normed is not None:
                after.append(seen["norm"].beside)
    return h, tuple(after)


# --- taking apart --------------------------------------------------------------------------------


def split(tree: Any) -> Any:
    """The tree with plain tuples of single layers in place of everything stacked."""
    return jax.tree.map(lambda n: tuple(n) if _is_stacked(n) else n, tree, is_leaf=_is_stacked)


def joined(tree: Any, like: Any) -> Any:
    """What `split` made, stacked again as `like` is."""
    structure: Any = jax.tree.structure(like, is_leaf=_is_stacked)

    def one(whole: Any, part: Any) -> Any:
        if not _is_stacked(whole):
            return part
        lengths = [0 if run is None else run[0].shape[0] for run in whole.runs]
        return type(whole)(stack(part, lengths))

    wholes = jax.tree.leaves(like, is_leaf=_is_stacked)
    return structure.unflatten(map(one, wholes, structure.flatten_up_to(tree)))


def _is_stacked(node: Any) -> bool:
    return isinstance(node, Stacked)


# --- what an optimizer looks at ------------------------------------------------------------------

_ENTRYWISE = frozenset({
    "abs", "add", "and", "cbrt", "ceil", "clamp", "convert_element_type", "copy", "cos", "div",
    "eq", "erf", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le",
    "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow",
    "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sqrt", "square",
    "stop_gradient", "sub", "tanh", "xor",
})  # fmt: skip


class _Mixes(Exception):
    """An operation that looks at more than single entries."""


def takes_entries(net: Description, update: Callable[..., Any], *stacked: Any) -> bool:
    """Whether the function does the same to every entry of an array, and to layers by themselves.

    Then it gives the same of what `split` makes of its arguments. It is traced on both, and every
    array that comes out must be made by the same operations of the arrays of its own run.

    Args:
        net: whose parameters they are.
        update: `update(*stacked)`, any pytree of arrays.
        *stacked: its arguments.
    """
    lengths = [run.length for run in net.runs]
    try:
        return _made(update, stacked, lengths) == _made(update, split(stacked), lengths)
    except Exception:  # it takes the stacked form alone, as a mask that was written by hand does
        return False


def _made(
    update: Callable[..., Any], arguments: Any, lengths: Sequence[int]
) -> dict[Any, set[Any]]:
    """Of everything that comes out, run by run: how it is made."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    traced, out = jax.make_jaxpr(update, return_shape=True)(*shapes)
    given = [("given", *of) for of in _named(shapes, lengths)]
    found = _Program().run(traced.jaxpr, [*map(_constant, traced.consts), *given])
    made: dict[Any, set[Any]] = {}
    for of, value in zip(_named(out, lengths), found, strict=True):
        made.setdefault(of, set()).add(value)
    return made


def _named(tree: Any, lengths: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """What every leaf is of: the place of its node; the run; the field."""
    of_layer = [run for run, length in enumerate(lengths) for _ in range(length)]
    for number, node in enumerate(jax.tree.leaves(tree, is_leaf=_is_layers)):
        if not _is_layers(node):
            yield (number,)
            continue
        items = enumerate(node.runs) if _is_stacked(node) else zip(of_layer, node, strict=False)
        for run, item in items:
            for field, leaf in item._asdict().items() if item is not None else ():
                if leaf is not None:
                    yield number, run, field


def _is_layers(node: Any) -> bool:
    several = (
        isinstance(node, tuple) and node and isinstance(node[0], Layer | ConvLayer | BatchStats)
    )
    return _is_stacked(node) or bool(several)


def _constant(value: Any) -> Any:
    if np.ndim(value):
        raise _Mixes
    if isinstance(value, jax.core.Tracer):  # of somebody's own trace, in which it lives on
        return ("traced", id(value))
    return ("number", repr(np.asarray(value)))


class _Program:
    """Writes down how the values of a program are made."""

    def run(self, jaxpr: Any, values: list[Any]) -> list[Any]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))

        def read(atom: Any) -> Any:
            return ("number", repr(atom.val)) if isinstance(atom, Literal) else env[atom]

        for equation in jaxpr.eqns:
            given = [read(atom) for atom in equation.invars]
            env.update(zip(equation.outvars, self._equation(equation, given), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, given: list[Any]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        if name in ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"):
            consts = [_constant(value) for value in getattr(inner, "consts", ())]
            return self.run(getattr(inner, "jaxpr", inner), [*consts, *given])
        scalar = all(not atom.aval.shape for atom in (*equation.invars, *equation.outvars))
        repeats = name == "broadcast_in_dim" and not equation.invars[0].aval.shape
        if not (scalar or repeats or name in _ENTRYWISE):
            raise _Mixes
        how = "" if repeats else str(sorted((k, str(v)) for k, v in params.items()))
        made = (name, how, *given)
        key = hash(made)
        return [(key, i) for i in range(len(equation.outvars))]
