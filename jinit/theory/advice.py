"""What to do with an activation: where to start, and how deep a plain network then trains."""

import math
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from jinit.theory.ensemble import Ensemble
from jinit.theory.layers.batch_norm import batch_norm_growth, batch_norm_stability
from jinit.theory.maps.criticality import (
    Critical,
    NoCriticalPointError,
    critical,
    doubly_critical,
    is_reached,
)
from jinit.theory.moments.arguments import whole
from jinit.theory.moments.curve import ActivationLike, Curve, MomentError, curve

_FAR_OUT = 10.0  # a length at which bounded activations are mostly saturated
_FAR, _SIGNS = 1e3, np.array([-1.0, 1.0])


class Recommendation(NamedTuple):
    """A start at which signals and gradients keep their size."""

    scheme: str
    """"he" or "xavier", for `jinit.init`"""
    gain: float
    """for the scheme; multiplies the standard deviation of the weights"""
    bias_var: float
    """of the biases, for `jinit.init`"""
    weight_var: float
    """what scheme and gain make of fan_in times the variance of a weight"""
    q: float
    """variance of the pre-activations that is kept"""
    length_stable: bool
    """whether lengths go to q from 1, where those of inputs of unit variance begin; if not, the
    point holds for signals of a length near q only"""
    depth: int
    """layers of the given width over which the gradients of two draws differ by a factor of e, or,
    if that is sooner, over which lengths leave 1 by a factor of e on their way elsewhere"""
    saturated: bool
    """whether the point lies so far out that most units are saturated"""


def recommend(activation: ActivationLike, *, width: int = 128) -> Recommendation:
    """The critical point that keeps both signals and gradients best, as a scheme with its gain.

    This is the doubly critical point (Roberts, Yaida & Hanin 2022, chapter 5) if there is one,
    otherwise the critical point without biases. Lengths are followed from q = 1: where they leave
    for elsewhere, as to infinity behind a kink, `length_stable` says so, and the depth ends there.

    Args:
        width: of the layers; the depth is proportional to it (Hanin 2018).

    Raises:
        NoCriticalPointError: a ValueError; where there is no critical point at which lengths stay,
            with what batch norm would do.
    """
    phi = curve(activation)
    width = whole("width", width)
    point = _point(phi)
    reached = is_reached(phi, point.q, point.bias_var)
    ensemble = Ensemble(phi, weight_var=point.weight_var, bias_var=point.bias_var)
    # The nearer of the two by name, so that the gain says how far off the usual start is.
    scheme, per_gain = ("he", 2.0) if 1.4 < point.weight_var < 2.9 else ("xavier", 1.0)
    return Recommendation(
        scheme,
        math.sqrt(point.weight_var / per_gain),
        point.bias_var,
        point.weight_var,
        point.q,
        point.length_stable and reached,
        _depth(ensemble, point.q, width, reached),
        point.q > _FAR_OUT and _is_bounded(phi),
    )


def _depth(ensemble: Ensemble, q: float, width: int, reached: bool) -> int:
    most = ensemble.scatter_depth(q=q or 1.0, width=width)
    if reached:
        return most
    length, layers = 1.0, 0
    while layers < most and abs(math.log(length)) <= 1:
        layers += 1
        try:
            length = ensemble.length(length)
        except MomentError:
            break
        if not 0 < length < math.inf:
            break
    return max(layers, 1)


def _point(phi: Curve) -> Critical:
    reason = "it has no critical point at which lengths stay"
    with suppress(NoCriticalPointError):
        best = doubly_critical(phi)
        return Critical(best.weight_var, best.bias_var, best.q, 1.0, 1.0)
    with suppress(NoCriticalPointError):
        point: Critical = critical(phi)
        if point.length_stable:
            return point
        reason = f"lengths run away from its critical point (q = {point.q:.3g})"
    under_norm = ""
    if batch_norm_stability(phi) <= 1 + 1e-9:  # else deep nets leave the formula
        growth = math.sqrt(batch_norm_growth(phi))
        under_norm = f" (under which the gradient changes by a factor of {growth:.3g} per layer)"
    raise NoCriticalPointError(
        f"no plain network of {phi.name} keeps its signals and gradients: {reason}. Use another "
        f"activation, or batch norm, norm='batch'{under_norm}, or residual blocks."
    )


def _is_bounded(phi: Curve) -> bool:
    near, _ = phi.evaluate(_FAR * _SIGNS)
    far, _ = phi.evaluate(10 * _FAR * _SIGNS)
    return bool((abs(far) <= 2 * abs(near) + 1e-9).all())
