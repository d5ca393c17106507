"""Dropout in wide networks: it makes lengths larger, and no two passes alike.

A unit is kept with probability p, and what is kept is divided by p. The masks of two inputs, or of
two passes of one, are independent, so that (Schoenholz et al. 2017, section 5; Pretorius et al.
2018)

    q' = weight_var / p E phi^2 + bias_var,     c' q' = weight_var E[phi(u) phi(v)] + bias_var,

gradients change by weight_var / p E phi'^2 per layer, and there is no critical line for c: inputs
end up at a c below 1, even equal ones.
"""

import math
from typing import NamedTuple

from scipy.optimize import brentq

from jinit.theory.maps.lengths import limit_length
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import is_settled, real, variance
from jinit.theory.moments.curve import ActivationLike, curve
from jinit.theory.moments.pairs import Pair, pair

_TRAINABLE = 6.0  # in units of xi_c, as without dropout
_ALIKE = 1e-13


class Dropout(NamedTuple):
    """Where signals settle under dropout, and over how many layers."""

    weight_var: float
    """the one given, or the one at which gradients keep their size"""
    q: float
    """variance of the pre-activations in a deep layer; 0 or infinity where they do not settle"""
    c: float
    """correlation of two inputs, or of two passes of one, in a deep layer"""
    chi: float
    """factor of the mean squared gradient per layer"""
    xi_c: float
    """layers over which a deviation of the correlation changes by a factor of e"""
    trainable_depth: float
    """6 xi_c"""


def dropout(
    activation: ActivationLike,
    *,
    keep: float,
    weight_var: float | None = None,
    bias_var: float = 0.0,
    q: float = 1.0,
) -> Dropout:
    """Critical weights under dropout, and how deep a signal reaches.

    For ReLU without biases the critical weight variance is 2 p.

    Args:
        keep: the probability p with which a unit is kept, above 0 and at most 1.
        weight_var: fan_in times the variance of a weight; None takes the critical one at q,
            p / E phi'^2.
        bias_var: variance of a bias.
        q: variance of the first layer's pre-activations.

    Raises:
        ValueError: a keep outside of (0, 1]; an activation whose slope is 0 everywhere.

    Source: Schoenholz et al. 2017, section 5; Pretorius et al. 2018, "Critical initialisation for
    deep signal propagation in noisy rectifier neural networks".

    >>> dropout("relu", keep=0.8).weight_var
    1.6
    """
    phi, keep = curve(activation), real("keep", keep)
    if not 0 < keep <= 1:
        raise ValueError(
            f"keep is the probability that a unit is kept and must lie in (0, 1], got {keep!r}."
        )
    q = variance("q", q, positive=True)
    if weight_var is None:
        steep = phi.gradient_second(q)
        if steep == 0:
            raise ValueError(
                f"{phi.name} has slope 0 everywhere at q = {q:g}, and no weight_var keeps its "
                f"gradients; give a weight_var, or an activation that is not constant."
            )
        weight_var = keep / steep
    weight_var = variance("weight_var", weight_var)
    noisy = WideLayer(phi, weight_var=weight_var / keep, bias_var=bias_var)
    settled = limit_length(noisy, q)
    at = settled if is_settled(settled) else q  # where lengths do not settle: on the way
    chi = noisy.weight_var * phi.gradient_second(at)
    length = noisy.length(at)
    if length == 0:
        return Dropout(weight_var, settled, 0.0, chi, 0.0, 0.0)

    def moments(apart: float) -> Pair:
        return pair(phi, at, min(max(apart, 0.0), 2.0))

    def excess(apart: float) -> float:
        """Of 1 - c over a layer; the masks alone part inputs that are alike."""
        different = moments(apart).half_square_difference
        return (weight_var * different + (noisy.weight_var - weight_var) * phi.second(at)
                ) / length - apart  # fmt: skip

    apart = 1.0 if abs(excess(1.0)) < _ALIKE else 0.0
    if keep < 1 and not apart:
        apart = float(brentq(excess, 0.0, 1.0, xtol=1e-14, rtol=1e-13))
    elif keep == 1 and not apart and weight_var * phi.slope_second(at) * at / length > 1:
        apart = float(brentq(excess, 1e-9, 1.0, xtol=1e-14, rtol=1e-13))
    slope = weight_var * moments(apart).slope_product * at / length
    xi_c = math.inf if abs(slope - 1) < 1e-12 else 1 / abs(math.log(slope)) if slope > 0 else 0.0
    return Dropout(weight_var, settled, 1 - apart, chi, xi_c, _TRAINABLE * xi_c)
