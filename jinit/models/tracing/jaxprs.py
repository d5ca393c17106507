"""Programs within a program: what loops, branches and calls of a jaxpr hold."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr as Closed  # type: ignore[attr-defined, unused-ignore]
from jax.extend.core import Jaxpr
from jax.interpreters import partial_eval

ClosedJaxpr = Any
"""A program with its constants: a class of jax's own before jax 0.12, a `Jaxpr` from there on."""


def inner_jaxprs(equation: Any) -> list[Jaxpr] | None:
    """The programs of an equation that a path may lead into, in order; None if it has none.

    Loops and branches count; a while loop's condition does not.
    """
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        return [opened(branch) for branch in params["branches"]]
    if name == "while":
        return [opened(params["body_jaxpr"])]
    if name in _OPAQUE:
        return None
    inner = inner_jaxpr(params)
    if inner is None or len(opened(inner).invars) != len(equation.invars):
        return None
    return [opened(inner)]


def inner_jaxpr(params: dict[str, Any]) -> Any:
    """The program of an equation that calls one, with its constants if it has some; or None."""
    return next((params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params), None)


_OPAQUE = {"pallas_call", "shard_map", "custom_partitioning", "reduce", "reduce_window"}


def split_scan(equation: Any) -> tuple[int, int]:
    """How many of a scan's arguments are constants, and how many are carried."""
    jaxpr = opened(equation.params["jaxpr"])
    # What is stacked has one axis more outside; jax has changed how it counts the others.
    carried = _alike(equation.outvars, jaxpr.outvars)
    return _alike(equation.invars, jaxpr.invars) - carried, carried


def _alike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many values of a loop have the rank inside that they have outside."""
    pairs = zip(outside, inside, strict=True)
    return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)


def opened(jaxpr: Any) -> Jaxpr:
    """The program without its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def evaluated(equation: Any, values: Sequence[Any]) -> list[Any]:
    """What an equation makes of values, under whatever transformation."""
    params = equation.primitive.get_bind_params(equation.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # jax has changed it
    with equation.ctx.manager:
        out = equation.primitive.bind(*functions, *values, **params)
    return list(out) if equation.primitive.multiple_results else [out]


def output(equation: Any, i: int) -> Callable[..., Any]:
    """One of the results of an equation, as a function of its operands' values."""
    return lambda *values: evaluated(equation, values)[i]


def without_dead_code(program: ClosedJaxpr) -> ClosedJaxpr:
    """The same program, less what leads to no output; it takes the same arguments."""
    jaxpr = opened(program)
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return Closed(live, program.consts)


# --- where axes go ------------------------------------------------------------------------------


def axes_after(equation: Any) -> tuple[dict[int, int], frozenset[int]]:
    """Of an operation that moves entries: axis -> where it is then, and axes that repeat entries.

    Axes that are merged, split or left out are not in it.
    """
    params, before = equation.params, equation.invars[0].aval.shape
    after = equation.outvars[0].aval.shape
    name = equation.primitive.name
    if name == "broadcast_in_dim":
        axes = {old: int(new) for old, new in enumerate(params["broadcast_dimensions"])}
        kept = {new for old, new in axes.items() if before[old] == after[new]}
        return axes, frozenset(a for a, n in enumerate(after) if n > 1 and a not in kept)
    if name == "transpose":
        return {old: new for new, old in enumerate(params["permutation"])}, frozenset()
    if name in ("reshape", "squeeze", "expand_dims"):
        pairs = _regrouped(before, after)
        return {a[0]: b[0] for a, b in pairs if len(a) == len(b) == 1}, frozenset()
    if len(before) == len(after):
        return {a: a for a in range(len(before))}, frozenset()
    return {}, frozenset()


def columns_after(equation: Any, columns: tuple[int, ...]) -> tuple[int, ...]:
    """Where axes lie that are read row by row, if they stay together; else nothing."""
    if equation.primitive.name not in ("reshape", "squeeze", "expand_dims"):
        axes, _ = axes_after(equation)
        return tuple(axes[a] for a in columns) if all(a in axes for a in columns) else ()
    found, left = list[int](), list(columns)
    pairs = _regrouped(equation.invars[0].aval.shape, equation.outvars[0].aval.shape)
    for old, new in pairs:
        if old and left[: len(old)] == list(old):
            found += new
            del left[: len(old)]
    return () if left else tuple(found)


def _regrouped(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Which axes a reshape makes of which; those of size 1 are of no group."""
    old = [(a, n) for a, n in enumerate(before) if n != 1]
    new = [(a, n) for a, n in enumerate(after) if n != 1]
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    while old and new:
        (a, m), (b, n) = old.pop(0), new.pop(0)
        ours, theirs = [a], [b]
        while m != n:
            source, own = (old, ours) if m < n else (new, theirs)
            if not source:
                return found
            axis, size = source.pop(0)
            own.append(axis)
            m, n = (m * size, n) if own is ours else (m, n * size)
        found.append((tuple(ours), tuple(theirs)))
    return found
