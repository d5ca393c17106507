"""Activation functions as a trace shows them: one operation after the other on single entries.

Few of them have a name in a traced program. So their curve on a grid is followed through the
operations, and compared with those of the activations that jinit knows.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit.activations import ACTIVATIONS

GRID = np.linspace(-8, 8, 641, dtype=np.float32)

_NEAR = 5e-3
"""Relative to 1 + |curve|: the constants of a program in bfloat16 have three digits."""


def apply(equation: Any, values: list[np.ndarray], *, cast: bool) -> np.ndarray:
    """What an operation makes of curves and constants; casts keep their precision."""
    shape = max((v.shape for v in values), key=len)
    arguments = [jnp.asarray(np.broadcast_to(_single(v), shape)) for v in values]
    params = dict(equation.params)
    if cast:
        dtype = params.get("new_dtype", np.float32)
        floating = jnp.issubdtype(dtype, np.floating)
        return np.asarray(arguments[0].astype(np.float32 if floating else dtype))
    return np.asarray(_single(np.asarray(equation.primitive.bind(*arguments, **params))))


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if jnp.issubdtype(values.dtype, np.floating) else values


@cache
def known() -> dict[str, np.ndarray]:
    """The curves of jinit's activations, by name."""
    # Under vmap functions with a derivative of their own are mapped here too, unless compiled.
    with jax.ensure_compile_time_eval():
        grid = jnp.asarray(GRID)
        return {name: np.asarray(jax.jit(row.function)(grid)) for name, row in ACTIVATIONS.items()}


def again(name: str | None, curve: np.ndarray) -> np.ndarray | None:
    """One of jinit's activations applied to a curve."""
    if name not in ACTIVATIONS:
        return None
    with jax.ensure_compile_time_eval():
        return np.asarray(jax.jit(ACTIVATIONS[name].function)(jnp.asarray(curve)))


def name_of(curve: np.ndarray) -> str | None:
    """The nearest of jinit's activations, up to a factor; "identity" for lines; None if far."""
    if curve.dtype != np.float32 or not np.all(np.isfinite(curve)):
        return None
    line = np.interp(GRID, GRID[[0, -1]], curve[[0, -1]])
    if np.max(np.abs(curve - line)) <= 1e-4 * (1 + np.max(np.abs(curve))):
        return "identity"
    apart = {name: _distance(curve, other) for name, other in known().items()}
    nearest = min(apart, key=lambda name: apart[name])
    return nearest if apart[nearest] < _NEAR else None


def _distance(curve: np.ndarray, other: np.ndarray) -> float:
    """Up to a factor: dropout, for one, scales what it keeps."""
    factor = np.dot(curve, other) / np.dot(other, other)
    if factor <= 0:
        return np.inf
    return float(np.max(np.abs(curve / factor - other) / (1 + np.abs(other))))


def slopes(curve: np.ndarray) -> np.ndarray:
    """Of the curve in the middle of every two points of the grid; exactly 0 where it is flat."""
    return np.abs(np.diff(curve)) / np.diff(GRID)
