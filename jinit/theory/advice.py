"""What to do with an activation: where to start, and how deep a plain network then trains."""

import math
from typing import NamedTuple

import numpy as np

from jinit import checks
from jinit.activations import Activation
from jinit.theory.layers.finite_width import FiniteWidth, finite_width
from jinit.theory.layers.norms import batch_norm_growth, batch_norm_stability
from jinit.theory.maps.criticality import (
    Critical,
    NoCriticalPointError,
    critical,
    doubly_critical,
)
from jinit.theory.moments.curve import Curve, curve

__all__ = ["Recommendation", "recommend", "scatter_depth"]

_FAR_OUT = 10.0  # a length at which bounded activations are mostly saturated
_FAR, _SIGNS = 1e3, np.array([-1.0, 1.0])
_FOLLOWED = 2048  # layers, layer by layer


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
    depth: int
    """layers of the given width over which the gradients of two draws differ by a factor of e"""
    saturated: bool
    """whether the point lies so far out that most units are saturated"""


def recommend(activation: str | Activation, *, width: int = 128) -> Recommendation:
    """The critical point that keeps both signals and gradients best, as a scheme with its gain.

    This is the doubly critical point (Roberts, Yaida & Hanin 2022, chapter 5) if there is one,
    otherwise the critical point without biases.

    Args:
        activation: a name, or an elementwise jax.numpy function.
        width: of the layers; the depth is proportional to it (Hanin 2018).

    Raises:
        NoCriticalPointError: a ValueError; where there is no critical point at which lengths stay,
            with what batch norm would do.
    """
    phi = curve(activation)
    width = checks.count("width", width)
    point = _point(phi, activation)
    # The nearer of the two by name, so that the gain says how far off the usual start is.
    scheme, per_gain = ("he", 2.0) if 1.4 < point.weight_var < 2.9 else ("xavier", 1.0)
    return Recommendation(
        scheme,
        math.sqrt(point.weight_var / per_gain),
        point.bias_var,
        point.weight_var,
        point.q,
        point.length_stable,
        scatter_depth(
            activation,
            weight_var=point.weight_var,
            bias_var=point.bias_var,
            q=point.q or 1.0,
            width=width,
        ),
        point.q > _FAR_OUT and _is_bounded(phi),
    )


def _point(phi: Curve, activation: str | Activation) -> Critical:
    try:
        best = doubly_critical(activation)
        return Critical(best.weight_var, best.bias_var, best.q, 1.0, 1.0)
    except NoCriticalPointError:
        pass
    try:
        point = critical(activation)
    except NoCriticalPointError:
        raise NoCriticalPointError(
            _without(phi, activation, "it has no critical point at which lengths stay")
        ) from None
    if not point.length_stable:
        where = f"lengths run away from its critical point (q = {point.q:.3g})"
        raise NoCriticalPointError(_without(phi, activation, where))
    return point


def _without(phi: Curve, activation: str | Activation, reason: str) -> str:
    under_norm = ""
    if batch_norm_stability(activation) <= 1 + 1e-9:  # else deep nets leave the formula
        growth = math.sqrt(batch_norm_growth(activation))
        under_norm = f" (under which the gradient changes by a factor of {growth:.3g} per layer)"
    return (
        f"no plain network of {phi.name} keeps its signals and gradients: {reason}. Use another "
        f"activation, or batch norm, norm='batch'{under_norm}, or residual blocks."
    )


def _is_bounded(phi: Curve) -> bool:
    near, _ = phi.evaluate(_FAR * _SIGNS)
    far, _ = phi.evaluate(10 * _FAR * _SIGNS)
    return bool((abs(far) <= 2 * abs(near) + 1e-9).all())


def scatter_depth(
    activation: str | Activation,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float = 1.0,
    width: int = 128,
) -> int:
    """The most layers through which two draws' gradients differ by less than a factor of e.

    What is counted is the standard deviation of ln(root mean square gradient), by `finite_width`;
    it ends the depth of critical networks (Hanin 2018). Activations that are linear on either side
    of 0, without biases, are exact. The others are followed through 2048 layers, and from there
    on by the power of the depth that the variance grows with, in all to about 2 %.

    Args:
        activation: a name, or an elementwise jax.numpy function.
        weight_var: fan_in times the variance of a weight.
        bias_var: variance of a bias.
        q: variance of the first layer's pre-activations.
        width: of every layer.
    """

    def over(layers: int) -> FiniteWidth:
        return finite_width(
            activation, [width] * layers, weight_var=weight_var, bias_var=bias_var, q=q
        )

    def variance_over(layers: int) -> float:
        return over(layers).gradient_var[0] / 4  # of the log of a root, not of the square

    few, many = 1, 2
    less, more = 0.0, variance_over(many)
    if over(many).exact:  # every layer that is passed adds the same
        return 1 + math.floor(1 / more)
    while more < 1 and many < _FOLLOWED:
        few, many = many, 2 * many
        less, more = more, variance_over(many)
    if more < 1:
        return _continued(few, less, many, more)
    while many - few > max(1, few // 50):
        middle = (few + many) // 2
        few, many = (middle, many) if variance_over(middle) < 1 else (few, middle)
    return few


def _continued(few: int, less: float, many: int, more: float) -> int:
    """The layers at which the variance, a power of those that are passed (one less), reaches 1."""
    power = math.log(more / less) / math.log((many - 1) / (few - 1))
    return 1 + math.floor((many - 1) * more ** (-1 / power))
