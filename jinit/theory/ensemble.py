"""What is asked of an activation and the variances of weights and biases: one line a question.

`Ensemble` is given the three once and is asked many things; the function of the same name is given
them anew, and asks one. The answers, and what they mean, are in the rooms.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

import numpy as np

from jinit.theory.layers import finite_width as _finite_width
from jinit.theory.layers import gradients, norms
from jinit.theory.layers import scatter_depth as _scatter_depth
from jinit.theory.layers import trajectory as _trajectory
from jinit.theory.layers.finite_width import FiniteWidth
from jinit.theory.layers.trajectory import Trajectory
from jinit.theory.maps import correlations, criticality, lengths
from jinit.theory.maps import depth_scales as _depth_scales
from jinit.theory.maps.correlations import CorrelationFixedPoint
from jinit.theory.maps.criticality import Chi
from jinit.theory.maps.depth_scales import DepthScales
from jinit.theory.maps.lengths import LengthFixedPoint
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import variance
from jinit.theory.moments.curve import ActivationLike, curve
from jinit.theory.spectra import jacobian
from jinit.theory.spectra.jacobian import JacobianSpectrum

__all__ = [
    "Ensemble",
    "chi",
    "correlation_fixed_point",
    "correlation_map",
    "correlation_trajectory",
    "depth_scales",
    "finite_width",
    "gradient_log_slope",
    "jacobian_spectrum",
    "layer_norm_growth",
    "length_fixed_point",
    "length_map",
    "phase",
    "scatter_depth",
    "trajectory",
]

Face = TypeVar("Face", bound=Callable[..., Any])


@dataclass(frozen=True)
class Ensemble(WideLayer):
    """Infinitely wide networks of one activation, with weights and biases of these variances.

    Weights are N(0, weight_var / fan_in) and biases N(0, bias_var); all are checked, and the
    activation is looked at, once. Nothing that was computed is held.

    Args:
        activation: a name, or an elementwise jax.numpy function.
        weight_var: fan_in times the variance of a weight (1 for Xavier, 2 for He).
        bias_var: variance of a bias.

    Raises:
        ValueError, TypeError: an unknown name, a function that is not elementwise, a negative
            variance.

    >>> Ensemble("tanh", weight_var=1.5, bias_var=0.05).phase()
    'ordered'
    """

    length_map = lengths.length_map
    length_fixed_point = lengths.length_fixed_point
    length_fixed_points = lengths.length_fixed_points
    correlation_map = correlations.correlation_map
    correlation_trajectory = correlations.correlation_trajectory
    correlation_fixed_point = correlations.correlation_fixed_point
    correlation_fixed_points = correlations.correlation_fixed_points
    chi = criticality.chi
    phase = criticality.phase
    depth_scales = _depth_scales.depth_scales
    jacobian_spectrum = jacobian.jacobian_spectrum
    trajectory = _trajectory.trajectory
    gradient_log_slope = gradients.gradient_log_slope
    layer_norm_growth = norms.layer_norm_growth
    finite_width = _finite_width.finite_width
    scatter_depth = _scatter_depth.scatter_depth


# --- each question as a function ----------------------------------------------------------------


def _face(function: Face) -> Face:
    """Append what the method says of itself, as all but the shared arguments is written there."""
    method = inspect.getdoc(getattr(Ensemble, function.__name__))
    shared = "The first argument and the variances are those of `Ensemble`."
    function.__doc__ = f"{inspect.getdoc(function)}\n\n{shared}\n\n{method}"
    return function


@_face
def length_map(
    activation: ActivationLike, q: float, *, weight_var: float, bias_var: float = 0.0
) -> float:
    """`Ensemble.length_map`.

    >>> round(length_map("relu", 1.0, weight_var=2.0), 12)
    1.0
    """
    return Ensemble(activation, weight_var=weight_var, bias_var=bias_var).length_map(q)


@overload
def length_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float = 1.0,
    all_points: Literal[False] = False,
) -> float: ...


@overload
def length_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float = 1.0,
    all_points: Literal[True],
) -> tuple[LengthFixedPoint, ...]: ...


@_face
def length_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float = 1.0,
    all_points: bool = False,
) -> float | tuple[LengthFixedPoint, ...]:
    """`Ensemble.length_fixed_point`; with all_points `Ensemble.length_fixed_points`."""
    net = Ensemble(activation, weight_var=weight_var, bias_var=bias_var)
    return net.length_fixed_points() if all_points else net.length_fixed_point(q)


@_face
def correlation_map(
    activation: ActivationLike,
    c: float,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float | None = None,
) -> float:
    """`Ensemble.correlation_map`.

    >>> round(correlation_map("relu", 0.0, weight_var=2.0, q=1.0), 8)
    0.31830989
    """
    return Ensemble(activation, weight_var=weight_var, bias_var=bias_var).correlation_map(c, q=q)


@_face
def correlation_trajectory(
    activation: ActivationLike,
    c: float,
    *,
    depth: int,
    weight_var: float,
    bias_var: float = 0.0,
    input_second_moment: float = 1.0,
) -> np.ndarray:
    """`Ensemble.correlation_trajectory`."""
    net = Ensemble(activation, weight_var=weight_var, bias_var=bias_var)
    return net.correlation_trajectory(c, depth=depth, input_second_moment=input_second_moment)


@overload
def correlation_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float | None = None,
    all_points: Literal[False] = False,
) -> float: ...


@overload
def correlation_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float | None = None,
    all_points: Literal[True],
) -> tuple[CorrelationFixedPoint, ...]: ...


@_face
def correlation_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float | None = None,
    all_points: bool = False,
) -> float | tuple[CorrelationFixedPoint, ...]:
    """`Ensemble.correlation_fixed_point`; with all_points `Ensemble.correlation_fixed_points`."""
    net = Ensemble(activation, weight_var=weight_var, bias_var=bias_var)
    return net.correlation_fixed_points(q=q) if all_points else net.correlation_fixed_point(q=q)


@_face
def chi(activation: ActivationLike, q: float, *, weight_var: float = 1.0) -> Chi:
    """`Ensemble.chi`."""
    return Ensemble(activation, weight_var=weight_var).chi(q)


@_face
def phase(activation: ActivationLike, *, weight_var: float, bias_var: float = 0.0) -> str:
    """`Ensemble.phase`.

    >>> phase("tanh", weight_var=2.0, bias_var=0.05)
    'chaotic'
    """
    return Ensemble(activation, weight_var=weight_var, bias_var=bias_var).phase()


@_face
def depth_scales(
    activation: ActivationLike, *, weight_var: float, bias_var: float = 0.0
) -> DepthScales:
    """`Ensemble.depth_scales`."""
    return Ensemble(activation, weight_var=weight_var, bias_var=bias_var).depth_scales()


@_face
def jacobian_spectrum(
    activation: ActivationLike,
    depth: int,
    weights: str = "gaussian",
    *,
    q: float = 1.0,
    weight_var: float | None = None,
    moments: int = 4,
    points: int = 200,
) -> JacobianSpectrum:
    """`Ensemble.jacobian_spectrum`; weight_var None is critical, with a mean eigenvalue of 1.

    >>> round(jacobian_spectrum("relu", 2).largest, 6)
    11.09017
    """
    net = _critical_unless(weight_var, activation, q)
    return net.jacobian_spectrum(depth, weights, q=q, moments=moments, points=points)


@_face
def trajectory(
    activation: ActivationLike,
    *,
    depth: int,
    weight_var: float,
    bias_var: float = 0.0,
    input_second_moment: float = 1.0,
    width: int | None = None,
    norm: str | None = None,
    batch: int | None = None,
    residual: bool = False,
    branch_scale: float = 1.0,
    allow_unstable: bool = False,
) -> Trajectory:
    """`Ensemble.trajectory`."""
    return Ensemble(activation, weight_var=weight_var, bias_var=bias_var).trajectory(
        depth=depth, input_second_moment=input_second_moment, width=width, norm=norm, batch=batch,
        residual=residual, branch_scale=branch_scale, allow_unstable=allow_unstable,
    )  # fmt: skip


@_face
def gradient_log_slope(
    activation: ActivationLike,
    *,
    weight_var: float = 1.0,
    bias_var: float = 0.0,
    norm: str | None = None,
    batch: int | None = None,
    residual: bool = False,
    branch_scale: float = 1.0,
    q: float | None = None,
    allow_unstable: bool = False,
) -> float:
    """`Ensemble.gradient_log_slope`."""
    return Ensemble(activation, weight_var=weight_var, bias_var=bias_var).gradient_log_slope(
        norm=norm, batch=batch, residual=residual, branch_scale=branch_scale, q=q,
        allow_unstable=allow_unstable,
    )  # fmt: skip


@_face
def layer_norm_growth(
    activation: ActivationLike, *, weight_var: float = 1.0, bias_var: float = 0.0
) -> float:
    """`Ensemble.layer_norm_growth`."""
    return Ensemble(activation, weight_var=weight_var, bias_var=bias_var).layer_norm_growth()


@_face
def finite_width(
    activation: ActivationLike,
    widths: Sequence[int],
    *,
    weight_var: float | None = None,
    bias_var: float = 0.0,
    q: float | None = None,
) -> FiniteWidth:
    """`Ensemble.finite_width`; weight_var None is 1 / E[phi'^2] at q."""
    net = _critical_unless(weight_var, activation, 1.0 if q is None else q, bias_var)
    return net.finite_width(widths, q=q)


@_face
def scatter_depth(
    activation: ActivationLike,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float = 1.0,
    width: int = 128,
) -> int:
    """`Ensemble.scatter_depth`."""
    net = Ensemble(activation, weight_var=weight_var, bias_var=bias_var)
    return net.scatter_depth(q=q, width=width)


def _critical_unless(
    weight_var: float | None, activation: ActivationLike, q: float, bias_var: float = 0.0
) -> Ensemble:
    """With that weight_var, or the one that keeps gradients at q."""
    if weight_var is None:
        slope_second = curve(activation).slope_second(variance("q", q, positive=True))
        weight_var = 1 / slope_second if slope_second else 1.0  # to be refused in its own words
    weight_var = variance("weight_var", weight_var, positive=True)
    return Ensemble(activation, weight_var=weight_var, bias_var=bias_var)
