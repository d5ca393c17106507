"""Programs within a program: what loops, branches and calls of a jaxpr hold."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Jaxpr

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
