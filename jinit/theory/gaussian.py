"""Gaussian expectations E[f(sqrt(q) z)], z ~ N(0, 1), of any function, in float64."""

import math
from collections.abc import Callable

import numpy as np

from jinit.theory.arguments import variance
from jinit.theory.quadrature import nodes_and_weights, pieces

__all__ = ["expectation"]

_REACH = 12.0  # N(0, 1) has 4e-33 of its mass beyond


def expectation(function: Callable[[np.ndarray], np.ndarray], q: float = 1.0) -> float:
    """E[f(sqrt(q) z)] for z ~ N(0, 1), to about ten digits.

    Args:
        function: of a float64 NumPy array, elementwise; smooth but for isolated points.
        q: the variance.

    Raises:
        ValueError: a function that is not finite, or too rough to be followed.

    >>> round(expectation(abs), 9) == round(math.sqrt(2 / math.pi), 9)
    True
    """
    q = variance("q", q)
    if q == 0:
        return float(function(np.zeros(1))[0])
    root = math.sqrt(q)
    reach = _REACH * root
    bends = 2.0 ** np.arange(-2, max(-1, math.ceil(math.log2(reach))))
    bends = bends[bends < reach]
    start = np.unique(np.concatenate([[-reach, 0.0, reach], bends, -bends]))
    try:
        found = pieces(lambda x: np.asarray(function(x), np.float64)[None], start)
    except FloatingPointError as error:
        raise ValueError(
            f"the function must be finite within twelve standard deviations, got a value that is "
            f"not at x = {error.args[0]:.6g}; give a smaller q."
        ) from None
    if found is None:
        raise ValueError(
            f"the function must be smooth but for isolated points, got one that is not within "
            f"|x| < {reach:.6g}; give a smoother one, or a smaller q."
        )
    edges = np.unique(np.concatenate([found.edges / root, np.arange(-_REACH, _REACH + 1)]))
    z, weight = nodes_and_weights(edges)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.sum(weight * density * function(root * z)))
