"""A model whose loops of unknown length become loops of the length that they have on these inputs.

jax knows no gradient of a `while`, so that solvers bring a derivative of their own, and nothing
inside is seen. Here each `while` is run once to count its passes, and then written as a scan of so
many, whose passes after its own end change nothing; a derivative of a model's own is left out where
such a loop lies inside, and only there. Output and gradient stay what they are.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal as JaxprLiteral

from jinit.models.tracing.jaxprs import evaluated, inner_jaxpr, inner_jaxprs, opened, split_scan
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.values import Path

MOST = 1024
"""passes of a loop that are stepped through"""
Counts = dict[Path, Any]


def has_loops(program: Any) -> bool:
    """Whether a `while` lies in it, at any depth."""
    return any(
        equation.primitive.name == "while"
        or any(has_loops(inner) for inner in inner_jaxprs(equation) or ())
        for equation in opened(program).eqns
    )


def hides_weights(trace: Trace) -> bool:
    """Whether a weight is applied in a `while`, or in a function that hides one."""
    for use in trace.uses:
        for n in range(1, len(use.path), 2) if use.kind == "weight" else ():
            equation = trace.equation(use.path[:n])
            if equation.primitive.name == "while" or _is_hidden(equation):
                return True
    return False


def has_no_gradient(trace: Trace) -> bool:
    """Whether weights are applied in a `while` that nothing gives a derivative."""
    for use in trace.uses:
        for n in range(1, len(use.path), 2) if use.kind == "weight" else ():
            name = trace.equation(use.path[:n]).primitive.name
            if name == "while":
                return True
            if name.startswith("custom_vjp"):
                break
    return False


def stepped(
    trace: Trace, floats: Sequence[Any], inputs: Sequence[Any]
) -> Callable[..., Any] | None:
    """`(floats, inputs) -> output` with every loop as a scan; None if one takes too many passes."""
    arguments = [*floats, *jax.tree.leaves(tuple(inputs))]
    counted = jax.jit(lambda values: _Steps(None).program(trace.jaxpr, values, ())[1])(arguments)
    counts = {path: int(count) for path, count in counted.items()}
    if any(count > MOST for count in counts.values()):
        return None

    def run(floats: Sequence[Any], *inputs: Any) -> Any:
        values = [*floats, *jax.tree.leaves(inputs)]
        return trace.outputs(_Steps(counts).program(trace.jaxpr, values, ())[0])

    return run


def _is_hidden(equation: Any) -> bool:
    """Whether it is a function with a derivative of its own around a loop."""
    name = equation.primitive.name
    return name.startswith("custom_vjp") and any(map(has_loops, inner_jaxprs(equation) or ()))


class _Steps:
    """Runs a program: without `counts` it counts passes, with them it scans so many."""

    def __init__(self, counts: dict[Path, int] | None) -> None:
        self.counts = counts

    def program(self, program: Any, values: Sequence[Any], at: Path) -> tuple[list[Any], Counts]:
        jaxpr, consts = opened(program), getattr(program, "consts", ())
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
        found: Counts = {}

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, JaxprLiteral) else env[atom]

        for number, equation in enumerate(jaxpr.eqns):
            given, path = [read(atom) for atom in equation.invars], (*at, number)
            out, more = self._equation(equation, given, path)
            found |= more
            env.update(zip(equation.outvars, out, strict=True))
        return [read(atom) for atom in jaxpr.outvars], found

    def _equation(self, equation: Any, values: list[Any], at: Path) -> tuple[list[Any], Counts]:
        name, inner = equation.primitive.name, inner_jaxprs(equation) or []
        if name == "while":
            return self._while(equation, values, at)
        if not any(map(has_loops, inner)):
            return evaluated(equation, values), {}
        if name == "scan":
            return self._scan(equation, values, at)
        if name == "cond":
            return self._cond(equation, values, at)
        return self.program(inner_jaxpr(equation.params), values, (*at, 0))

    def _while(self, equation: Any, values: list[Any], at: Path) -> tuple[list[Any], Counts]:
        params = equation.params
        first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        asked, own, carry = values[:first], values[first:second], values[second:]

        def goes_on(carry: Sequence[Any]) -> Any:
            return self.program(params["cond_jaxpr"], [*asked, *carry], (*at, 1))[0][0]

        body = partial(self.program, params["body_jaxpr"], at=(*at, 0))
        if self.counts is not None:

            def step(carry: list[Any], _: None) -> tuple[list[Any], None]:
                on, new = goes_on(carry), body([*own, *carry])[0]
                kept = [jax.lax.select_n(jnp.broadcast_to(on, a.shape), a, b)
                        for a, b in zip(carry, new, strict=True)]  # fmt: skip
                return kept, None

            wide = [jnp.asarray(v) for v in carry]
            return jax.lax.scan(step, wide, None, length=self.counts[at])[0], {}
        shapes = jax.eval_shape(lambda carry: body([*own, *carry])[1], carry)
        start = {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in shapes.items()}

        def count(state: Any) -> Any:
            carry, passes, inside = state
            new, found = body([*own, *carry])
            inside = {path: jnp.maximum(inside[path], found[path]) for path in inside}
            return new, passes + 1, inside

        out, passes, inside = jax.lax.while_loop(
            lambda state: goes_on(state[0]), count, (carry, jnp.int32(0), start)
        )
        return out, {at: passes, **inside}

    def _scan(self, equation: Any, values: list[Any], at: Path) -> tuple[list[Any], Counts]:
        params = equation.params
        consts, carried = split_scan(equation)

        def body(carry: list[Any], xs: list[Any]) -> Any:
            out, found = self.program(params["jaxpr"], [*values[:consts], *carry, *xs], (*at, 0))
            return out[:carried], (out[carried:], found)

        carry, (ys, found) = jax.lax.scan(
            body, values[consts : consts + carried], values[consts + carried :],
            length=params["length"], reverse=params["reverse"],
        )  # fmt: skip
        return [*carry, *ys], {path: jnp.max(count) for path, count in found.items()}

    def _cond(self, equation: Any, values: list[Any], at: Path) -> tuple[list[Any], Counts]:
        index, *operands = values
        programs = [
            lambda operands, k=k, branch=branch: self.program(branch, operands, (*at, k))
            for k, branch in enumerate(equation.params["branches"])
        ]
        kinds = [jax.eval_shape(program, operands)[1] for program in programs]
        every = {path: shape for kind in kinds for path, shape in kind.items()}

        def filled(program: Any, operands: list[Any]) -> Any:
            out, found = program(operands)
            zeros = {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in every.items()}
            return out, zeros | found

        return jax.lax.switch(index, [partial(filled, program) for program in programs], operands)
