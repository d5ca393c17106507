"""Gaussian expectations E[f(sqrt(q) z)], z ~ N(0, 1), of any function, in float64."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jinit.activations import activation
from jinit.elementwise import check_elementwise
from jinit.theory.moments.arguments import variance
from jinit.theory.moments.curve import MomentError, TooRoughError, on_cpu
from jinit.theory.moments.quadrature import (
    BEYOND,
    ORDER,
    REACHES,
    density,
    nodes_and_weights,
    pieces,
)

Function = Callable[[np.ndarray], np.ndarray]

_CUT_OFF = 1e-9  # what may lie there at last
_SLIVER = 1e-12  # a panel narrower than that, relative, lies at a kink
_SINGULAR = 1e-10  # what may lie in such panels, relative


def expectation(function: str | Callable[[Any], Any], q: float = 1.0) -> float:
    """E[f(sqrt(q) z)] for z ~ N(0, 1), to about ten digits.

    Args:
        function: of a float64 array, elementwise, in NumPy or jax.numpy; smooth but for isolated
            points. Or the name of an activation.
        q: the variance.

    Raises:
        MomentError: a ValueError; where the expectation diverges.
        ValueError: a function that is not elementwise, not finite, or too rough to be followed.

    >>> round(expectation(abs), 9) == round(math.sqrt(2 / math.pi), 9)
    True
    """
    q = variance("q", q)
    f = _in_float64(activation(function))
    check_elementwise(
        "the function must be an elementwise one, of one array",
        lambda: f(np.linspace(-3.0, 3.0, 8)),
        f,
        points=8,
        kinds="biu",
        write="numpy or jax.numpy",
    )
    if q == 0:
        return float(f(np.zeros(1))[0])
    root = math.sqrt(q)
    total = size = outermost = 0.0
    for reach in REACHES:
        z, weight = nodes_and_weights(_panels(f, root, reach))
        terms = weight * density(z) * f(root * z)
        total, size = float(terms.sum()), float(np.abs(terms).sum())
        outermost = float(np.abs(terms[np.abs(z) > reach - 1]).sum())
        if outermost <= BEYOND * size and size > 0:  # if all is 0, look farther out
            break
    if outermost > _CUT_OFF * size or not math.isfinite(size):
        raise _diverges(q)
    _check_bounded(z, weight, terms, root)
    return total


def _panels(f: Function, root: float, reach: float) -> np.ndarray:
    """Edges in z of panels on which f times the density is smooth, relative to its largest."""
    # Whatever q is, what happens around x = 0 is seen.
    bends = 2.0 ** np.arange(-2, max(-1, math.ceil(math.log2(reach * root)))) / root
    start = np.concatenate([np.arange(-reach, reach + 1), bends, -bends])
    try:
        found = pieces(lambda z: (density(z) * f(root * z))[None], np.unique(start))
    except FloatingPointError as error:
        if reach > REACHES[0]:  # up to there it was finite, and not small at the end
            raise _diverges(root**2) from None
        raise ValueError(
            f"the function must be finite within twelve standard deviations, got a value that is "
            f"not at x = {root * error.args[0]:.6g}; give a smaller q."
        ) from None
    if found is None:
        raise TooRoughError(
            f"the function must be smooth but for isolated points, got one that is not within "
            f"|x| < {reach * root:.6g}; give a smoother one, or a smaller q."
        )
    return found.edges


def _diverges(q: float) -> MomentError:
    return MomentError(
        f"the expectation of the function diverges, or leaves float64, at variance q = {q:.6g}; "
        f"give a smaller q, or a function that grows less."
    )


def _check_bounded(z: np.ndarray, weight: np.ndarray, terms: np.ndarray, root: float) -> None:
    """Refuse a pole: panels are halved towards it, and the last still holds much of the whole."""
    width, held = (np.abs(x).reshape(-1, ORDER).sum(1) for x in (weight, terms))
    middle = z.reshape(-1, ORDER).mean(1)
    held = np.where(width < _SLIVER * np.maximum(1.0, np.abs(middle)), held, 0.0)
    if held.sum() > _SINGULAR * np.abs(terms).sum():
        pole = root * np.round(middle[np.argmax(held)], 11) + 0.0
        raise ValueError(
            f"the function must be bounded near every x, or grow no faster than a logarithm, got "
            f"one that has a pole near x = {pole:.6g}; leave its singular part out."
        )


def _in_float64(function: Callable[[Any], Any]) -> Function:
    """The function on float64 arrays, whatever jax is set to and inside a trace too."""

    def f(x: np.ndarray) -> np.ndarray:
        quiet = np.errstate(all="ignore")  # what is not finite is refused by name
        with jax.ensure_compile_time_eval(), jax.enable_x64(True), on_cpu(), quiet:
            return np.asarray(function(x))

    return f
