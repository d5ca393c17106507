"""What a function computes: its value, its own slope, and the derivative that it gives gradients.

A function is read as a jaxpr, once. What it finds outside of itself (globals, attributes, closures)
is a constant there, so that a function is known by what it computes and not by its name. A custom
derivative (`jax.custom_jvp`, `jax.custom_vjp`, `stop_gradient`) is a rule for gradients; what a
signal meets is the slope of the computation under it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr as Closed  # type: ignore[attr-defined, unused-ignore]
from jax.extend.core import Jaxpr, jaxpr_as_fun
from jax.extend.core import Literal as JaxprLiteral

Function = Callable[[jax.Array], jax.Array]

_RULES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_CALLS = (*_RULES, "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
_KEEPS = ("stop_gradient",)


class Program(NamedTuple):
    """A function as it was when it was read."""

    value: Function
    slope: Function
    """of the computation itself"""
    custom: Function | None
    """the derivative that gradients are given, where a rule of its own may differ from it"""
    landmarks: Function
    """every intermediate of the computation, `[intermediates, points]`; what is special about a
    function lies where one of them changes sign"""
    key: str | None
    """what is computed, by value; None where that cannot be told, as of a callback"""


def read(function: Function, points: int) -> Program:
    """The program of an elementwise function, for float64 vectors of that many points.

    Call it where float64 is enabled. What the function raises, is raised.
    """
    x = jax.ShapeDtypeStruct((points,), np.dtype("float64"))
    # A new function each time: jax keeps what it has traced by the function's identity.
    whole = jax.make_jaxpr(lambda x: function(x))(x)
    own = jax.make_jaxpr(lambda x: _run(whole, x))(x)
    given = None
    if _has_rules(whole):
        derivative = _backward if "custom_vjp" in str(whole) else _forward
        traced = jax.make_jaxpr(lambda x: derivative(jaxpr_as_fun(whole), x))(x)
        given = jax.make_jaxpr(lambda x: _run(traced, x))(x)
    try:
        key: str | None = _fingerprint(own) + (_fingerprint(given) if given is not None else "")
    except _UnknownError:
        key = None

    def value(x: jax.Array) -> jax.Array:
        return _run(own, x)[0]

    return Program(
        value,
        lambda x: _forward(lambda x: [value(x)], x),
        None if given is None else lambda x: _run(given, x)[0],
        lambda x: _intermediates(own, x),
        key,
    )


def _forward(function: Callable[[jax.Array], Any], x: jax.Array) -> jax.Array:
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1][0]


def _backward(function: Callable[[jax.Array], Any], x: jax.Array) -> jax.Array:
    """The same of an elementwise function; of rules that know no other direction."""
    value, pull = jax.vjp(function, x)
    return pull([jnp.ones_like(value[0])])[0]


# --- the computation without its rules ------------------------------------------------------------


def _run(program: Any, *inputs: Any) -> list[Any]:
    """What a jaxpr computes, calls and rules replaced by what is in them."""
    return _walk(program, inputs)[0]


def _walk(program: Any, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The outputs, and everything on the way."""
    jaxpr = _opened(program)
    variables = [*jaxpr.constvars, *jaxpr.invars]
    known = dict(zip(variables, [*getattr(program, "consts", ()), *inputs], strict=True))
    way = []

    def values(variables: Sequence[Any]) -> list[Any]:
        return [v.val if isinstance(v, JaxprLiteral) else known[v] for v in variables]

    for eqn in jaxpr.eqns:
        outputs = _outputs(eqn, values(eqn.invars))
        known.update(zip(eqn.outvars, outputs, strict=True))
        way += outputs
    return values(jaxpr.outvars), way


def _outputs(eqn: Any, given: list[Any]) -> list[Any]:
    if eqn.primitive.name in _KEEPS:
        return given
    if eqn.primitive.name in _CALLS:
        return _run(next(_programs(eqn.params)), *given)
    params = {name: _without_rules(value) for name, value in eqn.params.items()}
    params = eqn.primitive.get_bind_params(params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # jax has changed it
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*functions, *given, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _without_rules(param: Any) -> Any:
    """The body of a loop or a branch without its rules; any other parameter as it is."""
    if isinstance(param, tuple):
        return tuple(_without_rules(each) for each in param)
    if isinstance(param, Jaxpr | Closed) and _has_rules(param):
        avals = [v.aval for v in _opened(param).invars]
        return jax.make_jaxpr(lambda *inputs: _run(param, *inputs))(*avals)
    return param


def _has_rules(program: Any) -> bool:
    return any(
        eqn.primitive.name in (*_RULES, *_KEEPS) or any(map(_has_rules, _programs(eqn.params)))
        for eqn in _opened(program).eqns
    )


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    for param in params.values():
        for each in param if isinstance(param, tuple) else (param,):
            if isinstance(each, Jaxpr | Closed):
                yield each


def _opened(program: Any) -> Any:
    return getattr(program, "jaxpr", program)


def _intermediates(program: Any, x: jax.Array) -> jax.Array:
    alike = [v for v in [x, *_walk(program, [x])[1]] if jnp.shape(v) == x.shape]
    booleans = [jnp.where(v, 1.0, -1.0) for v in alike if v.dtype == bool]
    return jnp.stack([*(v for v in alike if v.dtype == x.dtype), *booleans])


# --- what is computed, by value ------------------------------------------------------------------


class _UnknownError(Exception):
    """A part of a computation that is no value."""


def _fingerprint(program: Any) -> str:
    into = hashlib.sha256()
    for part in _value(program):
        into.update(part + b"\0")
    return into.hexdigest()


def _value(x: Any) -> Iterator[bytes]:
    """Of a program or a parameter of one."""
    if isinstance(x, Jaxpr | Closed):
        yield from _parts(_opened(x), getattr(x, "consts", ()))
    elif isinstance(x, tuple | list):
        for each in x:
            yield from _value(each)
    elif isinstance(x, jax.Array | np.ndarray | np.generic | float | int):
        try:
            array = np.asarray(x)
        except Exception as error:  # a key, or a value of another trace
            raise _UnknownError from error
        yield f"{array.dtype}{array.shape}".encode() + array.tobytes()
    else:
        text = repr(x)
        if " at 0x" in text or (callable(x) and not isinstance(x, type | np.dtype)):
            raise _UnknownError
        yield text.encode()


def _parts(jaxpr: Jaxpr, consts: Any) -> Iterator[bytes]:
    number: dict[Any, int] = {}

    def variables(*listed: Any) -> Iterator[bytes]:
        for v in listed:
            if isinstance(v, JaxprLiteral):
                yield from _value(v.val)
            else:
                yield f"{number.setdefault(v, len(number))}{v.aval}".encode()

    yield from variables(*jaxpr.constvars, *jaxpr.invars)
    yield from _value(list(consts))
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name.encode()
        for name, param in sorted(eqn.params.items()):
            yield name.encode()
            yield from _value(param)
        yield from variables(*eqn.invars, *eqn.outvars)
    yield from variables(*jaxpr.outvars)
