"""Activations that are chosen to fit the network: SELU and the tailored leaky ReLU.

Both turn the question around: not what an activation does to a signal, but which activation of a
family does what is wanted. SELU keeps the mean and variance of activations, the leaky ReLU of TAT
keeps inputs as far apart at the output of a deep plain network as they should be.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from jinit import checks
from jinit.theory.moments import arguments
from jinit.theory.moments.quadrature import gaussian_nodes

_DEEPEST = 100_000
_LEAST, _MOST = 1e-100, 1e100  # variances whose squares and roots are far from float64's ends


class SeluParameters(NamedTuple):
    """A SELU with a wanted fixed point, and how stable that is."""

    alpha: float
    scale: float
    """lambda"""
    jacobian: np.ndarray
    """`[2, 2]`, of the map (mean, variance) -> (mean', variance') at the fixed point"""
    spectral_norm: float
    """of the Jacobian; below 1 the map contracts in every direction"""
    stable: bool
    """whether both eigenvalues of the Jacobian, 0 and its last entry, lie in (-1, 1)"""


def selu_parameters(mean: float = 0.0, variance: float = 1.0) -> SeluParameters:
    """The SELU that keeps a mean and a variance of activations from layer to layer.

    For selu(x) = scale * (x if x > 0 else alpha (e^x - 1)) and units whose weights sum to 0 and
    whose squared weights sum to 1, pre-activations z have mean 0 and the activations' variance,
    so that

        E selu(z) = mean,  Var selu(z) = variance,    z ~ N(0, variance).

    With E1 = E[e^z - 1; z < 0], E2 = E[(e^z - 1)^2; z < 0], p1 = E[z; z > 0] and
    r = mean / sqrt(variance + mean^2), eliminating the scale leaves a quadratic in alpha,

        (p1 + alpha E1)^2 = r^2 (variance / 2 + alpha^2 E2).

    Only one root has the sign of the mean right, alpha > 0 and scale > 0, and there is one exactly
    if E1 / sqrt(E2) < r < 1 / sqrt(pi).

    Args:
        mean: of the activations.
        variance: of the activations.

    Raises:
        ValueError: where no SELU has that fixed point.

    Source: Klambauer, Unterthiner, Mayr & Hochreiter 2017, "Self-normalizing neural networks".

    >>> alpha, scale, *_ = selu_parameters()
    >>> print(f"{alpha:.12f} {scale:.12f}")
    1.673263242354 1.050700987355
    """
    mean = arguments.real("mean", mean)
    var = arguments.variance("variance", variance, positive=True)
    if not _LEAST <= var <= _MOST:
        raise ValueError(
            f"variance must lie between {_LEAST:g} and {_MOST:g}, got {variance!r}; measure "
            f"activations in other units."
        )
    e1, e2, e1_growth, e2_growth = _negative_half(var)
    p1, p2 = math.sqrt(var / (2 * math.pi)), var / 2
    ratio = mean / math.hypot(mean, math.sqrt(var))
    lowest, highest = e1 / math.sqrt(e2), 1 / math.sqrt(math.pi)
    if not lowest < ratio < highest:
        low, high = (math.sqrt(var) * r / math.sqrt(1 - r**2) for r in (lowest, highest))
        raise ValueError(
            f"no SELU with positive alpha and scale keeps a mean of {mean:g} at a variance of "
            f"{var:g}; the mean must lie between {low:.6g} and {high:.6g}."
        )
    # a alpha^2 + 2 b alpha + c = 0, in the form in which nothing cancels.
    a, b, c = e1**2 - ratio**2 * e2, p1 * e1, p1**2 - ratio**2 * p2
    root = ratio * math.sqrt(e1**2 * p2 + e2 * p1**2 - ratio**2 * e2 * p2)
    alpha = c / (root - b) if ratio > 0 else (-b - root) / a
    scale = math.sqrt((var + mean**2) / (p2 + alpha**2 * e2))
    # With weights that sum to 0 the mean of the layer below has no influence.
    mean_growth = scale * (p1 / (2 * var) + alpha * e1_growth)
    var_growth = scale**2 * (1 / 2 + alpha**2 * e2_growth) - 2 * mean * mean_growth
    return SeluParameters(
        alpha,
        scale,
        np.array([[0.0, mean_growth], [0.0, var_growth]]),
        math.hypot(mean_growth, var_growth),
        abs(var_growth) < 1,
    )


def tat_slope(depth: int, *, eta: float = 0.9) -> float:
    """Negative slope of the leaky ReLU tailored to a plain network of that depth.

    For phi(x) = sqrt(2 / (1 + a^2)) max(x, a x), which keeps lengths, correlations follow

        C(c) = c + (1 - a)^2 / (pi (1 + a^2)) (sqrt(1 - c^2) - c arccos c)

    from layer to layer. The slope a in [0, 1] is the one for which orthogonal inputs, c = 0, have
    correlation eta after all layers. Weights are orthogonal, or N(0, 1 / fan_in), without biases.

    Args:
        depth: the number of nonlinear layers, at most 100000: they are followed one
            by one, in a second.
        eta: the correlation, from 0 (a linear network) to less than 1.

    Raises:
        ValueError: for an eta that even a = 0, the ReLU, does not reach at that depth.

    Source: Zhang, Botev & Martens 2022, "Deep learning without shortcuts: shaping the kernel with
    tailored rectifiers"; there for residual networks too.

    >>> round(tat_slope(1, eta=1 / math.pi), 6)
    0.0
    """
    depth = checks.count("depth", depth)
    if depth > _DEEPEST:
        raise ValueError(f"depth must be at most {_DEEPEST}, got {depth!r}.")
    eta = arguments.real("eta", eta)
    if not 0 <= eta < 1:
        raise ValueError(f"eta is a correlation and must lie in [0, 1), got {eta!r}.")
    wanted, nearest = 1 - eta, _distance(1.0, depth)
    if wanted < nearest * (1 - 1e-12):
        raise ValueError(
            f"eta must be at most {1 - nearest:.6g}, which {depth} layers of ReLU (slope 0) reach, "
            f"got {eta!r}; give a smaller one or a deeper network."
        )
    if wanted == 1:
        return 1.0
    if wanted <= nearest:
        return 0.0

    def excess(log_bend: float) -> float:
        return math.log(_distance(math.exp(log_bend), depth) / wanted)

    # Each layer takes at most the fraction bend of the distance.
    least = math.log(-math.expm1(math.log(wanted) / depth))
    bend = math.exp(brentq(excess, least, 0.0, xtol=1e-15, rtol=1e-14))
    # bend = (1 - a)^2 / (1 + a^2), solved for a.
    return (1 - bend) / (1 + math.sqrt(bend * (2 - bend)))


def _negative_half(var: float) -> tuple[float, float, float, float]:
    """E[e^z - 1; z < 0], E[(e^z - 1)^2; z < 0], and how both change with the variance of z.

    erfc gives them in closed form, but for small variances as differences of almost equal numbers.
    d E[f(z)] / d var = E[z f'(z)] / (2 var).
    """
    std = math.sqrt(var)
    finest = max(0, math.ceil(math.log2(std)) + 2)
    x, weight = gaussian_nodes(
        np.concatenate([[0.0], 2.0 ** np.arange(-finest, 0), np.arange(1, 39)])
    )
    below, slope = np.expm1(-std * x), np.exp(-std * x)
    return (
        float(np.sum(weight * below)),
        float(np.sum(weight * below**2)),
        float(np.sum(weight * -x * slope)) / (2 * std),
        float(np.sum(weight * -x * 2 * below * slope)) / (2 * std),
    )


def _distance(bend: float, depth: int) -> float:
    """1 - c after so many layers from c = 0; bend is (1 - a)^2 / (1 + a^2), 1 for ReLU."""
    distance = 1.0
    for _ in range(depth):
        angle = 2 * math.asin(math.sqrt(distance / 2))
        distance -= bend / math.pi * _sin_minus(angle)
    return distance


def _sin_minus(angle: float) -> float:
    """sin x - x cos x, by its series where the terms cancel."""
    if angle > 0.5:
        return math.sin(angle) - angle * math.cos(angle)
    square = angle * angle
    series = 1 - square / 10 * (
        1 - square / 28 * (1 - square / 54 * (1 - square / 88 * (1 - square / 130)))
    )
    return angle * square / 3 * series
