"""How deep a signal reaches (Schoenholz et al. 2017)."""

import math
from typing import NamedTuple

from jinit.theory.maps.correlations import limit_correlation
from jinit.theory.maps.criticality import chi_at
from jinit.theory.maps.lengths import limit_length
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import is_settled
from jinit.theory.moments.pairs import pair

TRAINABLE = 6.0  # in units of xi_c, read off the paper's figure 5


class DepthScales(NamedTuple):
    """Where lengths and correlations settle, and over how many layers."""

    q: float
    """variance of the pre-activations in a deep layer; 0 or infinity where they do not settle"""
    c: float
    """correlation of any two inputs in a deep layer"""
    chi: float
    """perpendicular susceptibility at c = 1: factor of the mean squared gradient per layer"""
    chi_parallel: float
    """dV/dq: factor of a deviation of the length per layer"""
    xi_q: float
    """layers over which such a deviation changes by a factor of e, 1 / |ln(dV/dq)|"""
    xi_c: float
    """layers over which a deviation of the correlation does, 1 / |ln(slope of the map at c)|"""
    trainable_depth: float
    """6 xi_c: plain networks train up to about there"""
    distance: float
    """factor of the squared distance of two nearby inputs per layer: chi, but where a custom
    derivative gives gradients another slope than phi's own"""


def depth_scales(layer: WideLayer) -> DepthScales:
    """Depth scales of lengths and correlations (Schoenholz et al. 2017, eq. 7 to 10).

    Where the lengths settle at no finite size (q is 0 or infinity, as for ReLU off weight_var 2),
    they decide the depth: c is then 1 and xi_c = 1 / |ln chi|, which is 0 where chi grows with the
    lengths without end. Correlations go by phi's own slope, gradients by a custom derivative.
    At criticality both are infinite; what ends the depth there is the width (`finite_width`).

    >>> from jinit.theory import Ensemble
    >>> round(Ensemble("tanh", weight_var=1.5, bias_var=0.05).depth_scales().xi_c, 5)
    15.79099
    """
    q = limit_length(layer)
    perpendicular, parallel, distance = chi_at(layer, q)
    apart, slope = 0.0, distance
    if is_settled(q):
        apart = limit_correlation(layer, q)
        slope = layer.weight_var * pair(layer.phi, q, apart).slope_product
    xi_c = _scale(slope)
    return DepthScales(
        q, 1 - apart, perpendicular, parallel, _scale(parallel), xi_c, TRAINABLE * xi_c, distance
    )


def _scale(factor: float) -> float:
    """1 / |ln factor|; infinite for 1, which quadrature meets to rounding."""
    if abs(factor - 1) < 1e-12:
        return math.inf
    return 1 / abs(math.log(abs(factor))) if 0 < abs(factor) < math.inf else 0.0
