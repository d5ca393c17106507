"""What is asked of an activation and the variances of weights and biases: one line a question.

`Ensemble` is given the three once and is asked many things; the function of the same name is given
them anew, and asks one. The answers, and what they mean, are in the rooms.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from jinit import checks
from jinit.theory.layers import finite_width as _finite_width
from jinit.theory.layers import gradients, norms
from jinit.theory.layers import scatter_depth as _scatter_depth
from jinit.theory.layers import shattering as _shattering
from jinit.theory.layers import trajectory as _trajectory
from jinit.theory.maps import correlations, criticality, lengths, modes
from jinit.theory.maps import depth_scales as _depth_scales
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import LISTED, variance
from jinit.theory.moments.curve import ActivationLike, curve
from jinit.theory.moments.grid import OneOrMore, answers
from jinit.theory.spectra import jacobian

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
    mode_factors = modes.mode_factors
    jacobian_spectrum = jacobian.jacobian_spectrum
    trajectory = _trajectory.trajectory
    gradient_log_slope = gradients.gradient_log_slope
    layer_norm_growth = norms.layer_norm_growth
    finite_width = _finite_width.finite_width
    scatter_depth = _scatter_depth.scatter_depth
    shattering = _shattering.shattering


# --- each question as a function ----------------------------------------------------------------


def _face(
    method: Callable[..., Answer], *, without: str = "", **defaults: float | None
) -> Callable[..., Answer]:
    """The function that asks a method once: an ensemble's arguments stand for its first one.

    Args:
        method: of `Ensemble`.
        without: the argument that would change nothing.
        **defaults: of the variances; None is a critical one.
    """
    fields = dict(inspect.signature(Ensemble).parameters)
    fields |= {name: fields[name].replace(default=value) for name, value in defaults.items()}
    fields.pop(without, None)
    own = list(inspect.signature(method).parameters.values())[1:]
    signature = inspect.Signature(sorted([*fields.values(), *own], key=lambda p: p.kind))

    listed = [name for name in LISTED if name in fields]

    def face(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{method.__name__}: {error}") from None
        given.apply_defaults()
        return answers(method.__name__, ask, given.arguments, listed)

    def ask(**arguments: Any) -> Answer:
        net = {name: arguments.pop(name) for name in fields}
        if None in defaults.values():
            net["weight_var"] = _weight_var(net, arguments["q"])
        return method(Ensemble(**net), **arguments)

    face.__name__ = face.__qualname__ = method.__name__
    face.__signature__ = signature  # type: ignore[attr-defined]
    return _told(face, _CRITICAL if None in defaults.values() else "")


_SHARED = (
    "The activation and the variances are those of `Ensemble`. A list of weight or bias variances\n"
    "is answered with a table over them, with `to_dataframe` and `to_xarray`."
)
_CRITICAL = (
    "\nweight_var None is 1 / E[phi'^2] at q: critical, with a mean eigenvalue of J J^T of 1."
)


def _told(face: Face, more: str = "") -> Face:
    """A face says of itself what the method says."""
    own = (inspect.getdoc(face), inspect.getdoc(getattr(Ensemble, face.__name__)))
    face.__doc__ = "\n\n".join([*filter(None, own), _SHARED + more])
    return face


def _weight_var(net: Mapping[str, Any], q: float | None) -> float:
    """The one given, or the one that keeps gradients at q."""
    weight_var = net["weight_var"]
    if weight_var is None:
        at = variance("q", 1.0 if q is None else q, positive=True)
        slope_second = curve(net["activation"]).gradient_second(at)
        weight_var = 1 / slope_second if slope_second else 1.0  # to be refused in its own words
    return variance("weight_var", weight_var, positive=True)


length_map = _face(lengths.length_map)
correlation_map = _face(correlations.correlation_map)
correlation_trajectory = _face(correlations.correlation_trajectory)
chi = _face(criticality.chi, weight_var=1.0)
phase = _face(criticality.phase)
depth_scales = _face(_depth_scales.depth_scales)
mode_factors = _face(modes.mode_factors)
trajectory = _face(_trajectory.trajectory)
gradient_log_slope = _face(gradients.gradient_log_slope, weight_var=1.0)
layer_norm_growth = _face(norms.layer_norm_growth, weight_var=1.0)
scatter_depth = _face(_scatter_depth.scatter_depth)
shattering = _face(_shattering.shattering)
finite_width = _face(_finite_width.finite_width, weight_var=None)
jacobian_spectrum = _face(jacobian.jacobian_spectrum, weight_var=None, without="bias_var")


@_told
def length_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: OneOrMore,
    bias_var: OneOrMore = 0.0,
    q: float = 1.0,
    all_points: bool = False,
) -> Any:
    """`Ensemble.length_fixed_point`; with all_points the tuple `Ensemble.length_fixed_points`."""

    def ask(weight_var: float, bias_var: float) -> Any:
        net = Ensemble(phi, weight_var=weight_var, bias_var=bias_var)
        return net.length_fixed_points() if every else net.length_fixed_point(q)

    phi, every = curve(activation), checks.flag("all_points", all_points)
    return answers("length_fixed_point", ask, {"weight_var": weight_var, "bias_var": bias_var},
                   LISTED)  # fmt: skip


@_told
def correlation_fixed_point(
    activation: ActivationLike,
    *,
    weight_var: OneOrMore,
    bias_var: OneOrMore = 0.0,
    q: float | None = None,
    all_points: bool = False,
) -> Any:
    """`Ensemble.correlation_fixed_point`; with all_points `Ensemble.correlation_fixed_points`."""

    def ask(weight_var: float, bias_var: float) -> Any:
        net = Ensemble(phi, weight_var=weight_var, bias_var=bias_var)
        return net.correlation_fixed_points(q=q) if every else net.correlation_fixed_point(q=q)

    phi, every = curve(activation), checks.flag("all_points", all_points)
    return answers("correlation_fixed_point", ask, {"weight_var": weight_var, "bias_var": bias_var},
                   LISTED)  # fmt: skip
