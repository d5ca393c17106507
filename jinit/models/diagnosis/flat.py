"""How much of a signal an activation is flat at: dead units, and saturated entries.

Both ask whether a slope lies below a bound, which for one variable is a few ranges of it. They are
found once per activation, so that a diagnosis compares entries with their ends and computes no
slope of them.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit.activations import ACTIVATIONS, SATURATION
from jinit.models.tracing import curves
from jinit.models.tracing.uses import ActivationUse

_MOST = 8
"""ends of ranges; where there are more, slopes are computed"""
_FAR = np.logspace(-37, 37, 2**12)
_GRID = np.unique(np.concatenate([[0.0], np.linspace(-16, 16, 2**13), _FAR, -_FAR])).astype("f4")

Inside = Callable[[jax.Array], jax.Array]


def shares(activation: ActivationUse, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fractions of dead units and of saturated entries; NaN if nothing is known of the slope."""
    u = u.astype(jnp.float32)
    nothing = jnp.asarray(jnp.nan, jnp.float32)
    if activation.curve is None:
        return nothing, nothing
    if activation.name in ACTIVATIONS:
        is_dead, is_saturated = _of_name(activation.name)
    else:
        is_dead, is_saturated = _of_curve(activation.curve)
    units = u.ndim - 1 if activation.features is None else activation.features
    others = tuple(a for a in range(u.ndim) if a != units)
    dead = jnp.mean(jnp.all(is_dead(u), axis=others).astype(jnp.float32))
    return dead, jnp.mean(is_saturated(u).astype(jnp.float32))


@cache
def _of_name(name: str) -> tuple[Inside, Inside]:
    row = ACTIVATIONS[name]
    phi, exact = row.function, row.slope

    def slope(u: jax.Array) -> jax.Array:
        found = exact(u) if exact else jax.jvp(phi, (u,), (jnp.ones_like(u),))[1]
        return jnp.abs(found)

    compiled = jax.jit(slope)

    def on_grid(u: np.ndarray) -> np.ndarray:
        with jax.ensure_compile_time_eval():
            return np.asarray(compiled(u))

    return _both(slope, on_grid, np.max(curves.slopes(curves.known()[name])))


def _of_curve(curve: np.ndarray) -> tuple[Inside, Inside]:
    middles, slopes = (curves.GRID[1:] + curves.GRID[:-1]) / 2, curves.slopes(curve)
    return _both(
        lambda u: jnp.interp(u, middles, slopes),
        lambda u: np.interp(u, middles, slopes).astype("f4"),
        slopes.max(),
    )


def _both(slope: Any, on_grid: Any, steepest: np.floating) -> tuple[Inside, Inside]:
    bound = np.float32(SATURATION * steepest)
    return (
        _where(lambda u: slope(u) == 0, lambda u: on_grid(u) == 0),
        _where(lambda u: slope(u) < bound, lambda u: on_grid(u) < bound),
    )


def _where(condition: Inside, on_grid: Callable[[np.ndarray], np.ndarray]) -> Inside:
    """The condition of one variable, as comparisons with the ends of the ranges where it holds."""
    low, high = _changes(_GRID, on_grid(_GRID))
    if len(high) > _MOST:
        return condition
    first = bool(on_grid(_GRID)[0])
    for _ in range(3) if len(high) else ():  # to neighbouring numbers; one shape, one program
        between = np.linspace(low, high, len(_GRID) // len(high), dtype="f4").T.ravel()
        between = np.concatenate([between, np.full(len(_GRID) - len(between), between[-1])])
        low, high = _changes(between, on_grid(between))
    ends = np.unique(high)

    def inside(u: jax.Array) -> jax.Array:
        found = jnp.full(u.shape, first)
        for end in ends:
            found = found ^ (u >= end)
        return found & ~jnp.isnan(u)

    return inside


def _changes(u: np.ndarray, holds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers before and after each change."""
    at = np.flatnonzero(holds[1:] != holds[:-1])
    return u[at], u[at + 1]
