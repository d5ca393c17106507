"""What is asked of an activation and the variances of weights and biases: one line a question.

`Ensemble` is given the three once and is asked many things; the function of the same name is given
them anew, and asks one. The answers, and what they mean, are in the rooms.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from jinit.theory.layers import finite_width as _finite_width
from jinit.theory.layers import gradients, norms
from jinit.theory.layers import scatter_depth as _scatter_depth
from jinit.theory.layers import trajectory as _trajectory
from jinit.theory.layers.finite_width import FiniteWidth
from jinit.theory.maps import correlations, criticality, lengths
from jinit.theory.maps import depth_scales as _depth_scales
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import variance
from jinit.theory.moments.curve import ActivationLike, curve
from jinit.theory.spectra import jacobian
from jinit.theory.spectra.jacobian import JacobianSpectrum

Answer = TypeVar("Answer")
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

_FIELDS = ("activation", "weight_var", "bias_var")
_REQUIRED = inspect.Parameter.empty
_NAMED, _ANY = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def _face(method: Callable[..., Answer], **defaults: float) -> Callable[..., Answer]:
    """The function that asks a method once: an ensemble's arguments stand for its first one.

    Args:
        method: of `Ensemble`.
        **defaults: of the variances, 0 for biases.
    """
    variances = [
        inspect.Parameter(name, _NAMED, default=default, annotation=float)
        for name, default in (
            {"weight_var": inspect.Parameter.empty, "bias_var": 0.0} | defaults
        ).items()
    ]
    own = list(inspect.signature(method).parameters.values())[1:]
    first = [inspect.Parameter("activation", _ANY, annotation=ActivationLike)]
    signature = inspect.Signature(sorted([*first, *own, *variances], key=lambda p: p.kind))

    def face(*args: Any, **kwargs: Any) -> Answer:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        net = Ensemble(**{name: given.arguments.pop(name) for name in _FIELDS})
        return method(net, **given.arguments)

    face.__name__ = face.__qualname__ = method.__name__
    face.__signature__ = signature  # type: ignore[attr-defined]
    return _told(face)


def _told(face: Face) -> Face:
    """A face says of itself what the method says."""
    own = (inspect.getdoc(face), inspect.getdoc(getattr(Ensemble, face.__name__)))
    shared = "The activation and the variances are those of `Ensemble`."
    face.__doc__ = "\n\n".join([*filter(None, own), shared])
    return face


length_map = _face(lengths.length_map)
correlation_map = _face(correlations.correlation_map)
correlation_trajectory = _face(correlations.correlation_trajectory)
chi = _face(criticality.chi, weight_var=1.0)
phase = _face(criticality.phase)
depth_scales = _face(_depth_scales.depth_scales)
trajectory = _face(_trajectory.trajectory)
gradient_log_slope = _face(gradients.gradient_log_slope, weight_var=1.0)
layer_norm_growth = _face(norms.layer_norm_growth, weight_var=1.0)
scatter_depth = _face(_scatter_depth.scatter_depth)


@_told
def length_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float = 1.0,
    all_points: bool = False,
) -> Any:
    """`Ensemble.length_fixed_point`; with all_points the tuple `Ensemble.length_fixed_points`."""
    net = Ensemble(activation, weight_var=weight_var, bias_var=bias_var)
    return net.length_fixed_points() if all_points else net.length_fixed_point(q)


@_told
def correlation_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: float,
    bias_var: float = 0.0,
    q: float | None = None,
    all_points: bool = False,
) -> Any:
    """`Ensemble.correlation_fixed_point`; with all_points `Ensemble.correlation_fixed_points`."""
    net = Ensemble(activation, weight_var=weight_var, bias_var=bias_var)
    return net.correlation_fixed_points(q=q) if all_points else net.correlation_fixed_point(q=q)


@_told
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


@_told
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


def _critical_unless(
    weight_var: float | None, activation: ActivationLike, q: float, bias_var: float = 0.0
) -> Ensemble:
    """With that weight_var, or the one that keeps gradients at q."""
    if weight_var is None:
        slope_second = curve(activation).slope_second(variance("q", q, positive=True))
        weight_var = 1 / slope_second if slope_second else 1.0  # to be refused in its own words
    weight_var = variance("weight_var", weight_var, positive=True)
    return Ensemble(activation, weight_var=weight_var, bias_var=bias_var)
