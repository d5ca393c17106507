"""Where gradients keep their size: the line between order and chaos.

The perpendicular susceptibility chi = weight_var E[phi'(sqrt(q) z)^2] is the factor per layer of
the mean squared gradient, and of the squared distance of two nearby inputs (Poole et al. 2016,
eq. 6; Schoenholz et al. 2017, section 4). Below 1, gradients vanish and all inputs become alike
(ordered); above 1, they explode (chaotic). The parallel one, dV/dq, is the factor per layer of a
deviation of the length from its fixed point (Roberts, Yaida & Hanin 2022, chapter 5).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jinit import checks
from jinit.theory.maps.lengths import limit_length
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import variance, variances
from jinit.theory.moments.curve import ActivationLike, Curve, MomentError, TooRoughError, curve
from jinit.theory.moments.grid import OneOrMore, answers, is_list
from jinit.theory.moments.roots import zeros

_GRID = np.concatenate([np.logspace(-12, -3, 19), np.logspace(-2.9, 4, 70), np.logspace(5, 8, 4)])
_EVEN = 1e-11  # relative to q: below, a difference of two moments is rounding
_PHASE = 1e-6  # chi this close to 1 is called critical: xi_c is then a million layers
_FAR = 1e24  # a length that stands for infinity
_NEARBY = 2.0  # a factor: at a marginal point another fixed point may lie on the way
_GROWS = 1.5  # from the root of that length to itself


class NoCriticalPointError(ValueError):
    """There is no critical point of the kind asked for."""


class Chi(NamedTuple):
    """Susceptibilities of one layer."""

    perpendicular: float
    """weight_var E phi'^2: factor of the mean squared gradient"""
    parallel: float
    """weight_var E[phi'^2 + phi phi'']: factor of a deviation of the length"""
    distance: float
    """weight_var E phi'^2 of phi's own slope: factor of the squared distance of two nearby inputs;
    another one than `perpendicular` only where a custom derivative gives gradients another slope"""


class Critical(NamedTuple):
    """A point on the edge of chaos: gradients keep their size, and the length is q for ever."""

    weight_var: float
    bias_var: float
    q: float
    chi: float
    """the perpendicular susceptibility, 1"""
    chi_parallel: float
    """above 1 a length that is slightly off runs away from q"""
    distance: float = 1.0
    """factor of the squared distance of two nearby inputs, 1 but for a custom derivative"""

    @property
    def length_stable(self) -> bool:
        """Whether the lengths of a real network stay near q."""
        return self.chi_parallel <= 1 + 1e-9


class CriticalLine(NamedTuple):
    """The edge of chaos; every field `[points]`, in increasing q."""

    weight_var: np.ndarray
    bias_var: np.ndarray
    q: np.ndarray
    chi_parallel: np.ndarray


class DoublyCritical(NamedTuple):
    """Both susceptibilities are 1: neither gradients nor lengths change but slowly."""

    q: float
    weight_var: float
    bias_var: float
    reached: bool = True
    """whether lengths go there from q = 1, where those of inputs of unit variance begin"""


def chi(layer: WideLayer, q: float) -> Chi:
    """The two susceptibilities at variance q (Poole et al. 2016, eq. 6; Roberts et al. 2022).

    Args:
        q: variance of the pre-activations; 0 stands for the limit of small signals.
    """
    q, phi, weight_var = variance("q", q), layer.phi, layer.weight_var
    return Chi(
        weight_var * phi.gradient_second(q),
        weight_var * phi.second_growth(q),
        weight_var * phi.slope_second(q),
    )


def chi_at(layer: WideLayer, q: float) -> Chi:
    """`chi` at a limit of the lengths, 0 and infinity among them."""
    if math.isfinite(q):
        return chi(layer, q)
    try:
        near, far = chi(layer, math.sqrt(_FAR)), chi(layer, _FAR)
    except (MomentError, TooRoughError):
        return Chi(math.inf, math.inf, math.inf)  # lengths that diverge past every moment
    # What still grows with the length has no limit but infinity.
    return Chi(*(math.inf if b > _GROWS * a else b for a, b in zip(near, far, strict=True)))


def phase(layer: WideLayer) -> str:
    """`ordered`, `chaotic` or `critical` (chi within 1e-6 of 1), where the lengths settle.

    It is told by nearby inputs, which come together or apart (`Chi.distance`).

    >>> from jinit.theory import phase
    >>> phase("tanh", weight_var=2.0, bias_var=0.05)
    'chaotic'
    """
    found = chi_at(layer, limit_length(layer)).distance
    if abs(found - 1) < _PHASE:
        return "critical"
    return "ordered" if found < 1 else "chaotic"


def critical(
    activation: ActivationLike,
    *,
    bias_var: OneOrMore | None = None,
    q: OneOrMore | None = None,
    all_points: bool = False,
) -> Any:
    """The point on the edge of chaos with that bias variance, or with that length.

        weight_var = 1 / E phi'^2,    bias_var = q - E phi^2 / E phi'^2        at sqrt(q) z

    (Poole et al. 2016; Schoenholz et al. 2017, section 4). For ReLU this is weight_var 2 and
    bias_var 0 whatever q: He's initialisation.

    Args:
        bias_var: variance of a bias; 0 if neither is given. Where it belongs to several points,
            the one of the smallest q is returned.
        q: variance of the pre-activations.
        all_points: return every point with that bias_var.

    Returns:
        A `Critical`; with all_points, a tuple of them; of a list of bias_var or q, a table, with
        `to_dataframe` and `to_xarray`.

    Raises:
        NoCriticalPointError: a ValueError; where there is none, with what there is.
        ValueError: a bias_var so small that float64 cannot tell its point from that of 0.

    >>> point = critical("tanh", bias_var=0.01)
    >>> round(point.weight_var, 8), round(point.q, 8)
    (1.42420529, 0.27330091)
    """
    phi = curve(activation)
    checks.flag("all_points", all_points)
    if is_list(bias_var) or is_list(q):
        given = {"bias_var": bias_var, "q": q}
        return answers("critical", partial(critical, phi, all_points=all_points), given, given)
    if q is not None and bias_var is not None:
        raise ValueError(
            f"critical takes either bias_var or q, got bias_var={bias_var!r} and q={q!r}: "
            f"each determines the other."
        )
    if q is not None:
        points: tuple[Critical, ...] = (_critical_at(phi, variance("q", q)),)
    else:
        bias_var = variance("bias_var", 0.0 if bias_var is None else bias_var)
        points = tuple(_with_bias(phi, at, bias_var) for at in _lengths_with(phi, bias_var))
    return points if all_points else points[0]


def critical_line(
    activation: ActivationLike, *, q: Sequence[float] | np.ndarray | None = None
) -> CriticalLine:
    """The edge of chaos as a curve in the plane of weight and bias variance.

    Args:
        q: increasing lengths; None takes 121 from 1e-4 to 100, or to where moments end. Those that
            would ask for a negative bias_var are left out, so that the fields may be shorter, or
            empty.
    """
    phi = curve(activation)
    lengths = np.geomspace(1e-4, 100, 121) if q is None else variances("q", q)
    rows = []
    for at in map(float, lengths):
        try:
            bias_var = _bias_var(phi, at)
            if bias_var >= 0:
                rows.append(_with_bias(phi, at, bias_var))
        except (MomentError, TooRoughError):
            if q is not None or not rows:
                raise
            break
    return CriticalLine(*np.array(rows).reshape(-1, 6).T[[0, 1, 2, 4]])  # chi is 1 on all of it


def doubly_critical(activation: ActivationLike) -> DoublyCritical:
    """Where both susceptibilities are 1 (Roberts, Yaida & Hanin 2022, section 5.3).

    Scale-invariant activations (ReLU) have it at bias_var 0 and at every length, of which q = 1 is
    returned. Those like tanh have it at q = 0: lengths decay to it as one over depth. Some, like
    GELU, have it at a finite length (for SiLU, the bias_var is 0.55514317; the 0.05514317 that is
    often copied has lost a factor of ten). Some have none. Of several, one that lengths reach from
    q = 1 is returned, if there is one.

    Raises:
        NoCriticalPointError: a ValueError; where there is none.

    >>> doubly_critical("relu")
    DoublyCritical(q=1.0, weight_var=2.0, bias_var=0.0, reached=True)
    """
    phi = curve(activation)
    if _is_homogeneous(phi):
        return DoublyCritical(1.0, 1 / phi.gradient_second(1.0), 0.0)
    found = []
    slope_second = phi.gradient_second(0.0)
    if phi.second(0.0) == 0 and slope_second > 0:
        small = 1e-4
        # Lengths shrink towards 0, not away from it.
        if phi.second(small) <= slope_second * small * (1 + 1e-12):
            found.append((0.0, 0.0))

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        return phi.second_growth(q) / phi.gradient_second(q) - 1

    if not (found and is_reached(phi, *found[0])):
        for log_q in _zeros(excess, np.log(_GRID), _EVEN):
            q = math.exp(log_q)
            bias_var = _bias_var(phi, q)
            if bias_var >= 0:
                found.append((q, bias_var))
    points = [
        DoublyCritical(q, 1 / phi.gradient_second(q), bias_var, is_reached(phi, q, bias_var))
        for q, bias_var in found
    ]
    if points:
        return max(points, key=lambda point: point.reached)
    raise NoCriticalPointError(
        f"{phi.name} has no point at which both susceptibilities are 1 with a bias_var of at least "
        f"0; a normalisation layer keeps its signals instead."
    )


def is_reached(phi: Curve, q: float, bias_var: float) -> bool:
    """Whether lengths go from q = 1 to that of a critical point, or settle nearby."""
    layer = WideLayer(phi, weight_var=1 / phi.gradient_second(q), bias_var=bias_var)
    try:
        # Where both susceptibilities are 1 the map touches the diagonal: no search tells which side
        # of it rounding has put it on.
        way = np.geomspace(1.0, q or 1e-8, 64)[:-1]
        after = np.array([layer.length(float(x)) for x in way])
        towards = (after - way) * (q - way) >= -_EVEN * way * np.abs(q - way)
        leaps = (after - q) * (way - q) < -_EVEN * way * np.abs(way - q)
        if towards.all() and not leaps.any():
            return True
        settled = limit_length(layer)
        return q / _NEARBY <= settled <= q * _NEARBY
    except ValueError:
        return False


def _bias_var(phi: Curve, q: float) -> float:
    """The bias variance of the critical point of length q."""
    if phi.gradient_second(q) == 0:
        return -math.inf
    unrounded = _unrounded(phi, q)
    return 0.0 if abs(unrounded) <= _EVEN * q else unrounded


def _unrounded(phi: Curve, q: float) -> float:
    return q - phi.second(q) / phi.gradient_second(q)


def _is_homogeneous(phi: Curve) -> bool:
    """Whether every length is a fixed point: phi(a x) = a phi(x) for a > 0."""
    return all(_bias_var(phi, q) == 0 for q in (1e-6, 1.0, 1e6))


def _critical_at(phi: Curve, q: float) -> Critical:
    bias_var = _bias_var(phi, q)
    if bias_var < 0:
        raise NoCriticalPointError(
            f"{phi.name} is critical at q = {q:g} only with a bias_var of {bias_var:.6g}, which "
            f"is negative; {_possible(phi)}."
        )
    return _with_bias(phi, q, bias_var)


def _with_bias(phi: Curve, q: float, bias_var: float) -> Critical:
    weight_var = 1 / phi.gradient_second(q)
    distance = weight_var * phi.slope_second(q) if phi.two_slopes else 1.0
    return Critical(weight_var, bias_var, q, 1.0, weight_var * phi.second_growth(q), distance)


def _lengths_with(phi: Curve, bias_var: float) -> list[float]:
    """The lengths of the critical points with that bias variance, at least one."""
    if _is_homogeneous(phi):
        if bias_var == 0:
            return [1.0]
        weight_var = 1 / phi.gradient_second(1.0)
        raise NoCriticalPointError(
            f"{phi.name} has no critical point with bias_var={bias_var:g}; it is critical only "
            f"with bias_var 0 and weight_var {weight_var:.6g}, at any length."
        )
    found = []
    if bias_var == 0 and phi.second(0.0) == 0 and phi.gradient_second(0.0) > 0:
        found.append(0.0)
    # Lengths lie above bias_var, so that the grid may have to begin, or end, with multiples of it.
    ends = bias_var * np.array([0.5, 3.0, 30.0, 300.0])
    grid = np.concatenate([ends[ends < _GRID[0]], _GRID, ends[ends > _GRID[-1]]])

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        return (_unrounded(phi, q) - bias_var) / (bias_var or q)

    found += [math.exp(x) for x in _zeros(excess, np.log(grid[grid > 0]), 1e-12)]
    if not all(_is_resolved(phi, q, bias_var) for q in found):
        least = min(b for q in _GRID if (b := _bias_or_nan(phi, float(q))) > bias_var)
        raise ValueError(
            f"bias_var={bias_var:g} is too small for the critical length of {phi.name} to be found "
            f"in float64; give 0, or at least {least:.2g}."
        )
    if not found:
        raise NoCriticalPointError(
            f"{phi.name} has no critical point with bias_var={bias_var:g}; {_possible(phi)}."
        )
    return found


def _is_resolved(phi: Curve, q: float, bias_var: float) -> bool:
    """Whether rounding, of about 1e-16 q in bias_var, moves that length by little."""
    if bias_var == 0 or bias_var > _EVEN * q:
        return True
    return abs(_unrounded(phi, 1.001 * q) - _unrounded(phi, q / 1.001)) > 1e-13 * q


def _possible(phi: Curve) -> str:
    values = [(b, q) for q in _GRID if (b := _bias_or_nan(phi, float(q))) >= 0]
    if not values:
        return "it has none with any, and a normalisation layer keeps its signals instead"
    (low, q_low), (high, q_high) = min(values), max(values)
    return (
        f"bias_var from {low:.3g} (at q = {q_low:.3g}) to {high:.3g} (at q = {q_high:.3g}) has one"
    )


def _bias_or_nan(phi: Curve, q: float) -> float:
    try:
        return _bias_var(phi, q)
    except (MomentError, TooRoughError):
        return math.nan


def _zeros(function: Callable[[float], float], grid: np.ndarray, even: float) -> list[float]:
    """`zeros` on a grid, as far up as the moments exist."""

    def value(x: float) -> float:
        try:
            return function(x)
        except (MomentError, TooRoughError, ZeroDivisionError):
            return math.nan

    return zeros(value, grid, np.array([value(x) for x in grid]), even=even)
