"""The chance that a network of finite width is dead at birth: a layer in which no unit is on."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.special import ndtr

from jinit.theory.layers.finite_width import hidden_widths
from jinit.theory.moments.arguments import variance
from jinit.theory.moments.curve import ActivationLike, Curve, curve


def dead_chance(activation: ActivationLike, widths: Sequence[int], *, q: float = 1.0) -> float:
    """The chance that some hidden layer has slope 0 in all its units, for one input.

        1 - prod_l (1 - p^{n_l}),    p = P(phi'(sqrt(q) z) = 0)

    The output is then the same for all inputs nearby, and no gradient reaches the layers before.
    For ReLU without biases p is 1/2, whatever the weights' scale, and the formula is exact
    (given the layers below, the units of a layer are on or off independently); over several inputs
    it is an upper bound. Where p depends on the length (hard tanh, ReLU6), q is that of every
    layer, and fluctuations of it are left out.

    Args:
        widths: of the hidden layers.
        q: variance of the pre-activations.

    Source: Lu, Shin, Su & Karniadakis 2020, "Dying ReLU and initialization".

    >>> dead_chance("relu", [2, 2])
    0.4375
    """
    phi, layers = curve(activation), hidden_widths(widths)
    q = variance("q", q, positive=True)
    chance = _flat(phi, q)
    if chance == 0:
        return 0.0
    log_alive = math.fsum(math.log1p(-(chance**n)) if chance < 1 else -math.inf for n in layers)
    return -math.expm1(log_alive)


def _flat(phi: Curve, q: float) -> float:
    """P(phi'(sqrt(q) z) = 0), by the panels on which phi is linear."""
    root = math.sqrt(q)
    at = phi.at(q)
    reach = float(np.abs(at.z).max())
    kinks = np.array([k for k in phi.kinks if abs(k) < reach * root])
    edges = np.concatenate([[-math.inf], np.unique(kinks) / root, [math.inf]])
    total = 0.0
    for low, high in pairwise(edges.tolist()):
        inside = (at.z > low) & (at.z < high)
        # Nearly all nodes between two kinks, as smooth slopes are 0 at points only.
        if inside.any() and np.all(at.custom[inside] == 0):
            total += float(ndtr(high) - ndtr(low)) if low < 0 else float(ndtr(-low) - ndtr(-high))
    return total
