"""Runs a traced model and looks at chosen places of it, or changes what it finds there.

The jaxpr is evaluated equation by equation, under whatever transformation it is called: loops stay
loops, and what is seen in them is stacked.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal as JaxprLiteral
from jaxtyping import Array, ArrayLike, Float

from jinit.models.tracing.jaxprs import evaluated, inner_jaxpr, opened, split_scan
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.values import Path

Visit = Callable[[int, jax.Array, Any], tuple[jax.Array, Any]]
Records = dict[int, Any]
Found = tuple[list[Any], Records]


class Spot(NamedTuple):
    """What to look at: an operand of an equation, or what comes out of it."""

    path: Path
    operand: int | None = None


def interpret(
    traced: Trace,
    floats: Sequence[Any],
    inputs: Sequence[Any],
    places: Sequence[Spot],
    visit: Visit,
    given: Records | None = None,
) -> Found:
    """The output's arrays, and what was recorded at every place.

    Args:
        traced, floats, inputs: the model, its floating-point leaves, and its inputs.
        places: where to look, in loops as well, but not in a `while`, of which jax knows no
            gradient either.
        visit: `visit(i, value, given[i]) -> (value, record)` at place i; the value goes on.
        given: for each place a pytree with one leading axis for every loop around it.

    Returns:
        (arrays, records): `records[i]` has one leading axis for every loop around place i. Places
        in a branch that was not taken hold zeros. A function with a derivative of its own loses it
        if there is a place inside.
    """
    run = _Run(places, visit)
    arguments = [*floats, *jax.tree.leaves(tuple(inputs))]
    return run.program(traced.jaxpr, arguments, (), given or {})


class _Run:
    def __init__(self, places: Sequence[Spot], visit: Visit) -> None:
        self.visit = visit
        self.at: dict[Path, list[tuple[int, int | None]]] = {}
        self.inside: set[Path] = set()
        for i, (path, operand) in enumerate(places):
            self.at.setdefault(path, []).append((i, operand))
            self.inside.update(path[:n] for n in range(1, len(path), 2))

    def program(self, program: Any, values: list[Any], at: Path, given: Records) -> Found:
        jaxpr, consts = opened(program), getattr(program, "consts", ())
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
        records: Records = {}

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, JaxprLiteral) else env[atom]

        for number, equation in enumerate(jaxpr.eqns):
            path = (*at, number)
            values = [read(atom) for atom in equation.invars]
            here = self.at.get(path, ())
            for i, operand in here:
                if operand is not None:
                    values[operand], records[i] = self.visit(i, values[operand], given.get(i))
            if path in self.inside:
                out, found = self._nested(equation, values, path, given)
                records |= found
            else:
                out = evaluated(equation, values)
            for i, operand in here:
                if operand is None:
                    out[0], records[i] = self.visit(i, out[0], given.get(i))
            env.update(zip(equation.outvars, out, strict=True))
        return [read(atom) for atom in jaxpr.outvars], records

    def _nested(self, equation: Any, values: list[Any], path: Path, given: Records) -> Found:
        name, params = equation.primitive.name, equation.params
        if name == "while":
            return evaluated(equation, values), {}
        if name == "scan":
            return self._scan(equation, values, path, given)
        if name == "cond":
            return self._cond(equation, values, path, given)
        return self.program(inner_jaxpr(params), values, (*path, 0), given)

    def _scan(self, equation: Any, values: list[Any], path: Path, given: Records) -> Found:
        params = equation.params
        consts, carried = split_scan(equation)
        inside = {i for at, found in self.at.items() for i, _ in found if at[: len(path)] == path}
        own = {i: g for i, g in given.items() if i in inside}

        def body(carry: list[Any], stacked: tuple[list[Any], Records]) -> Any:
            xs, now = stacked
            arguments = [*values[:consts], *carry, *xs]
            out, records = self.program(params["jaxpr"], arguments, (*path, 0), now)
            return out[:carried], (out[carried:], records)

        carry, (ys, records) = jax.lax.scan(
            body, values[consts : consts + carried], (values[consts + carried :], own),
            length=params["length"], reverse=params["reverse"], unroll=params["unroll"],
        )  # fmt: skip
        return [*carry, *ys], records

    def _cond(self, equation: Any, values: list[Any], path: Path, given: Records) -> Found:
        index, *operands = values
        programs = [
            lambda operands, k=k, branch=branch: self.program(branch, operands, (*path, k), given)
            for k, branch in enumerate(equation.params["branches"])
        ]
        found = [jax.eval_shape(program, operands)[1] for program in programs]
        everywhere = {i: shape for records in found for i, shape in records.items()}

        def filled(program: Any, operands: list[Any]) -> Found:
            out, records = program(operands)
            missing = {i: shape for i, shape in everywhere.items() if i not in records}
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), missing)
            return out, records | zeros

        return jax.lax.switch(index, [partial(filled, program) for program in programs], operands)


# --- what is seen -------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Of all entries of a value, over a scale that keeps squares from underflow.

    Few operations and no logarithm, as a deep model has hundreds of places to look at, and all have
    to be compiled.
    """

    scale: Float[Array, "*loops"]
    """the largest entry"""
    mean: Float[Array, "*loops"]
    """of the entries over the scale"""
    square: Float[Array, "*loops"]
    """mean square of the entries over the scale"""


def moments(value: jax.Array) -> Moments:
    """Scale, and mean and mean square over it, in float32."""
    wide, scale, over = _scaled(value)
    # Row by row, so that near float32's end only a long row overflows. Not of the terms of the mean
    # square: XLA's CPU would make one loop of both, which takes three times as long.
    rows = jnp.sum(wide, -1) if wide.ndim else wide
    mean = jnp.sum(rows * over) / max(wide.size, 1)
    return Moments(scale, mean, jnp.mean(jnp.square(wide * over)))


def _scaled(value: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Its entries, the largest of them, and one over that; all of them normal numbers."""
    real = jnp.abs(value) if jnp.issubdtype(value.dtype, jnp.complexfloating) else value
    wide = real.astype(jnp.float32)
    scale = jax.lax.clamp(jnp.float32(1e-36), jnp.max(jnp.abs(wide)), jnp.float32(8e37))
    return wide, scale, 1 / scale


def size(value: jax.Array) -> Float[Array, "2"]:
    """Scale and mean square over it, which `log_size` reads."""
    wide, scale, over = _scaled(value)
    return jnp.stack([scale, jnp.mean(jnp.square(wide * over))])


def log_size(scale: ArrayLike, square: ArrayLike) -> np.ndarray:
    """Natural logarithm of the root mean square; minus infinity for zeros."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(scale) == 0, -np.inf, np.log(scale) + 0.5 * np.log(square))


# --- the gradient -------------------------------------------------------------------------------


def tap_zeros(loops: Sequence[int]) -> jax.Array:
    """What a `tap` takes, [*loops, 2]; its gradient is the `size` of the gradient there."""
    return jnp.zeros((*loops, 2), jnp.float32)


@jax.custom_vjp
def tap(value: jax.Array, zeros: jax.Array) -> jax.Array:
    """The value; backward, the "derivative" by `zeros` tells the size of the gradient there.

    So every gradient is seen, and none is kept. It stays 0 where no gradient arrives.
    """
    return value


tap.defvjp(lambda value, zeros: (value, None), lambda _, g: (g, size(g)))
