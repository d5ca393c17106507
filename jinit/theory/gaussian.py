"""Gaussian expectations E[f(sqrt(q) z)], z ~ N(0, 1), by quadrature in float64."""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jinit.activations import KINKS, Activation, activation

__all__ = ["double", "expectation", "kinks"]

_REACH = 12.0  # N(0, 1) has 4e-33 of its mass beyond
_PANELS = 48
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def expectation(
    function: Callable[[np.ndarray], np.ndarray], q: float = 1.0, *, kinks: Sequence[float] = ()
) -> float:
    """E[f(sqrt(q) z)] for z ~ N(0, 1).

    Gauss-Legendre on panels of half a standard deviation, which are split at the kinks (NumPy's
    Gauss-Hermite nodes fail silently at high order, and converge slowly at a kink).

    Args:
        function: of a float64 array, elementwise.
        q: the variance, at least 0.
        kinks: arguments at which the function is not smooth.
    """
    if q == 0:
        return float(function(np.zeros(1))[0])
    root = math.sqrt(q)
    edges = np.linspace(-_REACH, _REACH, _PANELS + 1)
    # Activations bend within a few units of 0, which is a narrow place for a large q.
    bends = [sign * 2.0**k for sign in (-1, 1) for k in range(-2, 7)]
    inside = [k / root for k in (*kinks, 0.0, *bends) if abs(k) < _REACH * root]
    edges = np.unique(np.concatenate([edges, inside]))
    half = np.diff(edges)[:, None] / 2
    z = edges[:-1, None] + half * (_NODES + 1)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.sum(half * _WEIGHTS * density * function(root * z)))


def double(phi: str | Activation) -> Callable[[np.ndarray], np.ndarray]:
    """The activation evaluated in float64, whatever jax's x64 flag says."""
    function = activation(phi)

    def evaluated(x: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(function(jax.numpy.asarray(x, "float64")))

    return evaluated


def kinks(phi: str | Activation) -> tuple[float, ...]:
    """Where the activation is not smooth; for a function of one's own, 0 is assumed."""
    return KINKS.get(phi, ()) if isinstance(phi, str) else (0.0,)
