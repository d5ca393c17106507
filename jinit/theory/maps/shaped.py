"""Smooth activations shifted and scaled to fit: Gaussian-Poincare, DKS and TAT.

Each replaces phi by scale (phi(input_scale x + input_shift) + output_shift), whose constants are
chosen so that, with z ~ N(0, 1), the next layer is what it should be.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import root

from jinit.theory.moments.arguments import real, whole
from jinit.theory.moments.curve import ActivationLike, Curve, curve
from jinit.theory.moments.quadrature import ORDER, TO_LEGENDRE, gaussian_nodes

_REACH = 12.0
_STARTS = [(scale, shift) for scale in (1.0, 0.1) for shift in (0.0, 1.0, -1.0)]
_MORE = [(scale, shift) for scale in (0.03, 0.3, 0.6, 1.5) for shift in (0.5, -0.5, 2.0, -2.0)]
_SOLVED = 1e-9
_DERIVATIVE = np.polynomial.legendre.legder(np.eye(ORDER), axis=0)


class ShapedActivation(NamedTuple):
    """output_scale (phi(input_scale x + input_shift) + output_shift); called like phi."""

    activation: Any
    """the function itself"""
    input_scale: float
    input_shift: float
    output_scale: float
    output_shift: float

    def __call__(self, x: jax.Array) -> jax.Array:
        """The shaped activation's value, entry by entry."""
        inner = self.activation(self.input_scale * x + self.input_shift)
        return self.output_scale * (inner + self.output_shift)


def gaussian_poincare(activation: ActivationLike) -> ShapedActivation:
    """a phi + b that keeps lengths and gradients at q = 1 with weights N(0, 1 / fan_in).

    E (a phi'(z))^2 = 1 and E (a phi(z) + b)^2 = 1, by a = 1 / sqrt(E phi'^2) and the larger of the
    two b; there is one because Var phi <= E phi'^2 (the Gaussian Poincare inequality). a is
    `output_scale`, and b is output_scale times output_shift.

    Raises:
        ValueError: an activation that is constant.

    Source: Lu, Gould & Ajanthan 2020, "Bidirectional self-normalizing neural networks".

    >>> shaped = gaussian_poincare("tanh")
    >>> a = shaped.output_scale
    >>> print(f"{a:.6f} {a * shaped.output_shift:.6f}")
    1.467414 0.388542
    """
    phi = curve(activation)
    steep = phi.gradient_second(1.0)
    if steep == 0:
        raise _constant(phi)
    a = 1 / math.sqrt(steep)
    mean, var = phi.mean(1.0), phi.variance(1.0)
    b = math.sqrt(max(1 - a * a * var, 0.0)) - a * mean
    return ShapedActivation(phi.function, 1.0, 0.0, a, b / a)


def dks(activation: ActivationLike, depth: int, *, slope: float = 1.5) -> ShapedActivation:
    """Deep kernel shaping of a plain network: correlations change gently over its depth.

    The four constants are those at which, with q = 1 and weights of variance 1 / fan_in,

        Q(1) = 1,  Q'(1) = 1,  C(0) = 0,  C'(1) = slope^(1 / depth):

    lengths stay at 1 and come back to it slowly, orthogonal inputs stay orthogonal, and the slope
    of the whole network's map of correlations at 1 is `slope`.

    Args:
        depth: the number of nonlinear layers, one after the other.
        slope: of the network, above 1.

    Raises:
        ValueError: a slope of 1 or less; where no constants are found, as for ReLU.

    Source: Martens et al. 2021, "Rapid training of deep neural networks without skip connections
    or normalization layers using deep kernel shaping".
    """
    phi, depth = curve(activation), whole("depth", depth)
    slope = real("slope", slope)
    if slope <= 1:
        raise ValueError(f"slope must be above 1, got {slope!r}; 1.5 is usual.")
    target = math.exp(math.log(slope) / depth)

    def conditions(scale: float, shift: float) -> tuple[np.ndarray, float, float]:
        at = _At(phi, scale, shift)
        mean = at.mean(at.value)
        second = at.mean((at.value - mean) ** 2)
        growth = at.mean((at.value - mean) * at.slope * at.z) / second
        steep = at.mean(at.slope**2) / second
        return np.array([growth - 1, steep - target]), -mean, 1 / math.sqrt(second)

    found = _solved(phi, lambda p: conditions(*p)[0], f"DKS over {depth} layers", _STARTS + _MORE)
    _, output_shift, output_scale = conditions(*found)
    scale, shift = found
    return ShapedActivation(phi.function, scale, shift, output_scale, output_shift)


def tat(activation: ActivationLike, depth: int, *, curvature: float = 0.3) -> ShapedActivation:
    """Tailored activation transformation of a plain network, for smooth activations.

    The four constants are those at which, with q = 1 and weights of variance 1 / fan_in,

        Q(1) = 1,  Q'(1) = 1,  C'(1) = 1,  C''(1) = curvature / depth.

    For leaky ReLU there is `tat_slope`.

    Args:
        depth: the number of nonlinear layers, one after the other.
        curvature: of the network's map of correlations at 1, positive.

    Raises:
        ValueError: a curvature that is not positive; an activation with kinks, at which C'' is
            infinite; where no constants are found.

    Source: Zhang, Botev & Martens 2022, "Deep learning without shortcuts: shaping the kernel with
    tailored rectifiers".
    """
    phi, depth = curve(activation), whole("depth", depth)
    curvature = real("curvature", curvature)
    if curvature <= 0:
        raise ValueError(f"curvature must be positive, got {curvature!r}; 0.3 is usual.")
    phi.second(1.0)  # finds the kinks
    jumps = _jumps(phi)
    if jumps:
        raise ValueError(
            f"tat is for smooth activations, and the slope of {phi.name} jumps at "
            f"x = {jumps[0]:.6g}, where the curvature of correlations is infinite; take "
            f"tat_slope for leaky ReLU, or dks."
        )
    target = curvature / depth

    def conditions(scale: float, shift: float, output_shift: float) -> tuple[np.ndarray, float]:
        at = _At(phi, scale, shift)
        value = at.value + output_shift
        second = at.mean(value**2)
        growth = at.mean(value * at.slope * at.z) / second
        steep, bent = at.mean(at.slope**2) / second, at.mean(at.bend**2) / second
        return np.array([growth - 1, steep - 1, bent - target]), 1 / math.sqrt(second)

    def steep_enough(p: np.ndarray) -> bool:
        return bool(p[0] * conditions(*p)[1] < 2)  # dks's own rule, against solutions far out

    starts = [(*two, third) for two in _STARTS for third in (0.0, 1.0, -1.0)]
    for two in _STARTS + _MORE:  # the shift almost takes out the value where signals are small
        value = float(phi.evaluate(np.array([two[1]]))[0][0])
        starts += [(*two, -0.98 * value), (*two, -1.02 * value)]
    what = f"TAT over {depth} layers"
    found = _solved(phi, lambda p: conditions(*p)[0], what, starts, steep_enough)
    scale, shift, output_shift = found
    return ShapedActivation(phi.function, scale, shift, conditions(*found)[1], output_shift)


# --- solving ------------------------------------------------------------------------------------


class _At:
    """phi(scale z + shift) at nodes of z ~ N(0, 1), and its derivatives by z; all `[nodes]`."""

    def __init__(self, phi: Curve, scale: float, shift: float) -> None:
        scale = math.copysign(max(abs(scale), 1e-6), scale)
        reach = min(_REACH * abs(scale) + abs(shift), 1e6)
        bends = (phi.pieces(reach) - shift) / scale
        edges = np.concatenate([np.arange(-_REACH, _REACH + 1), bends[np.abs(bends) < _REACH]])
        edges = np.unique(edges)
        self.z, self.weight = gaussian_nodes(edges)
        self.value, slope = phi.evaluate(scale * self.z + shift)
        self.slope = scale * slope
        half = np.repeat(np.diff(edges) / 2, ORDER)
        # By the panels' polynomials: phi'' asks for no third pass through the function.
        series = (self.slope.reshape(-1, ORDER) @ TO_LEGENDRE.T) @ _PER_NODE
        self.bend = series.ravel() / half

    def mean(self, integrand: np.ndarray) -> float:
        return float(np.sum(self.weight * integrand))


_PER_NODE = np.polynomial.legendre.legval(
    np.polynomial.legendre.leggauss(ORDER)[0], _DERIVATIVE, tensor=True
)
"""from Legendre coefficients to the derivative at the nodes"""


def _solved(phi: Curve, conditions: Any, what: str, starts: Any, good: Any = None) -> list[float]:
    if phi.gradient_second(1.0) == 0:
        raise _constant(phi)

    def at(p: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            try:
                return np.nan_to_num(conditions(p), nan=1e3, posinf=1e3, neginf=-1e3)
            except (ValueError, ZeroDivisionError, OverflowError):
                return np.full(len(p), 1e3)

    mirrored = None  # a solution that turns the activation round: rather none of those
    for start in starts:
        found = root(at, np.array(start), method="hybr", options={"maxfev": 400})
        if np.abs(at(found.x)).max() < _SOLVED and (good is None or good(found.x)):
            if found.x[0] > 0:
                return [float(x) for x in found.x]
            mirrored = mirrored or [float(x) for x in found.x]
    if mirrored is not None:
        return mirrored
    raise ValueError(
        f"no constants were found that make {phi.name} what {what} asks for; a function that is "
        f"smooth and not homogeneous has some (for leaky ReLU there is jinit.theory.tat_slope)."
    )


def _jumps(phi: Curve) -> list[float]:
    """Kinks at which phi' itself jumps."""
    kinks = np.array(phi.kinks)
    if not len(kinks):
        return []
    step = 1e-7 * np.maximum(1.0, np.abs(kinks))
    _, slope = phi.evaluate(kinks + np.stack([-step, step]))
    return [float(x) for x in kinks[np.abs(slope[1] - slope[0]) > 1e-5]]


def _constant(phi: Curve) -> ValueError:
    return ValueError(
        f"{phi.name} has slope 0 everywhere, and nothing keeps its signals; give an activation "
        f"that is not constant."
    )
