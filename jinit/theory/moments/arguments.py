"""What theory accepts as a number: concrete, finite, and a variance where one is asked for."""

import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from jinit import checks

LISTED = ("weight_var", "bias_var")
"""what may be given as lists"""

_MOST = 10**15


def real(name: str, value: Any) -> float:
    """A concrete finite number as a float."""
    if not checks.is_concrete(value):
        raise TypeError(
            f"{name} must be a known number, got a value traced by jax; theory is computed in "
            f"float64 outside of jit, vmap and grad, so compute it before and pass the result in."
        )
    several = isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0
    if several and (several := np.shape(value) if hasattr(value, "shape") else (len(value),)):
        of_variances = (
            "the functions of jinit.theory take a list of them and answer with a table, as in "
            "jinit.theory.depth_scales('tanh', weight_var=[1.0, 1.5])"
        )
        raise TypeError(
            f"{name} must be one finite real number, got an array of shape {several}; "
            f"{of_variances if name in LISTED else 'ask once for each, in a Python loop'}."
        )
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ValueError(
            f"{name} must be a number that float64 holds, of at most 1.8e308, got an integer of "
            f"{value.bit_length()} bits."
        )
    checks.number(name, float(value) if type(value) is int else value)  # float64 holds it
    return float(value)


def whole(name: str, value: Any) -> int:
    """A count, as of units or layers, that is small enough to be a float."""
    return checks.count(name, value, most=_MOST)


def variance(name: str, value: Any, *, positive: bool = False) -> float:
    """A number of at least 0, or above 0."""
    number = real(name, value)
    if number < 0 or (positive and number == 0):
        kind = "must be positive" if positive else "must not be negative"
        raise ValueError(f"{name} is a variance and {kind}, got {value!r}.")
    return number


def variances(name: str, given: Any, *, least: int = 0) -> np.ndarray:
    """At least so many variances that increase."""
    ask = f"{name} must list {f'at least {least} ' if least else ''}increasing variances"
    unordered = isinstance(given, str | set | frozenset | dict) or not isinstance(given, Iterable)
    if unordered or getattr(given, "ndim", 1) == 0:
        raise TypeError(f"{ask}, as in [0.1, 0.2], got {given!r}.")
    listed = list(given)
    values = np.array([variance(name, each) for each in listed])
    if len(values) < least or not np.all(np.diff(values) > 0):
        raise ValueError(f"{ask}, got {listed!r}.")
    return values


def correlation(name: str, value: Any) -> float:
    """A number in [-1, 1]."""
    number = real(name, value)
    if not -1 <= number <= 1:
        raise ValueError(f"{name} is a correlation and must lie in [-1, 1], got {value!r}.")
    return number


def is_settled(q: float) -> bool:
    """Whether lengths have settled at a finite size, neither vanished nor diverged."""
    return 0 < q < math.inf
