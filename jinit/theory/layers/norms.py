"""How fast gradients grow in deep normalised networks (Yang et al. 2019).

Batch norm divides a unit's pre-activations z over the batch, B numbers of covariance lambda P at
the fixed point where no sample is special (P centres), by their own spread. What comes out,

    u = sqrt(B) P z / |P z|,

is uniform on a sphere of the B - 1 centred dimensions, for any batch size and any activation, and
at infinite width all that is asked for is an expectation over two entries of u. The first is
sqrt(B - 1) sin(theta) with theta of density cos(theta)^(B - 3), and the second likewise with one
dimension less, given the first. Layer norm is simpler: over infinitely many units, mean and spread
are constants.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np

from jinit import checks
from jinit.activations import Activation
from jinit.theory.moments.arguments import variance
from jinit.theory.moments.curve import Curve, MomentError, TooRoughError, curve
from jinit.theory.moments.quadrature import ORDER, nodes_and_weights

__all__ = [
    "BatchNormMoments",
    "batch_norm_growth",
    "batch_norm_growth_identity",
    "batch_norm_growth_relu",
    "batch_norm_moments",
    "batch_norm_spread",
    "batch_norm_stability",
    "layer_norm_growth",
]

_REACHES = (12.0, 24.0, 37.0)  # in standard deviations of an entry, as for Gaussians
_HALF_GRID = np.array([0, 1, 2, 3.5, 5, 7, 9, 12, 15, 18, 21, 24, 28, 32, 37])
_BEYOND = 1e-13  # what may lie in the outermost panels, relative
_NARROW = 0.2  # the narrowest panel of a named activation is 0.25 wide, but at kinks
_NEGLIGIBLE = 1e-18  # a density
_CONSTANT = 1e-26  # a variance below that, relative to the mean square, is rounding
_UNSTABLE = 1e-9  # above 1; homogeneous activations have exactly 1
_SMOOTH = 24  # in batches of so many, what kinks leave in an expectation is smooth enough
_AT_ONCE = 2**16  # nodes per evaluation
_MOST_NODES = 50_000_000  # about five seconds


class BatchNormMoments(NamedTuple):
    """Moments of an activation behind batch norm."""

    mean: float
    """E phi(u)"""
    second: float
    """E phi(u)^2"""


def batch_norm_growth(
    phi: str | Activation, *, batch: int | None = None, allow_unstable: bool = False
) -> float:
    """Growth of the mean squared gradient per layer, backwards, under batch norm.

    For layers linear -> batch norm -> phi of infinite width, with eps = 0 and any weight variance,
    deep inside a net where the batch is at its symmetric fixed point. With d = phi'(u) at one entry
    u of a normalised batch of B, d' and u' at another, and lambda = E (phi(u) - phi(u'))^2 / 2,

        growth = [(B - 1) E d^2 - E u^2 d^2 + E d d' + E u u' d d'] / ((B - 3) lambda),

    which tends to E[phi'(z)^2] / Var[phi(z)] for large batches. It is the factor of the *mean*
    square over nets; the mean logarithm lies lower by half its variance, of order 1 / width.

    Args:
        phi: the activation.
        batch: its size B, at least 4; None for the limit of large batches (and still larger width).
        allow_unstable: give the formula's value also where deep nets leave the fixed point.

    Raises:
        ValueError: for a batch below 4; for an activation that is constant on the batch; and where
            the fixed point is unstable, see `batch_norm_stability`.

    Source: Yang et al. 2019, "A Mean Field Theory of Batch Normalization".
    """
    f = curve(phi)
    if batch is not None:
        batch = _batch_of_four(batch, _NO_GROWTH)
    if not allow_unstable:
        _check_stable(f, batch)
    if batch is None:
        return f.slope_second(1.0) / _variance(f)
    if phi == "identity":
        return batch_norm_growth_identity(batch)
    if phi == "relu":
        return batch_norm_growth_relu(batch)
    own, longer, both, aligned, spread = _mean(
        f, batch,
        lambda two: (
            two.slope_u**2, (two.u * two.slope_u) ** 2, two.slope_u * two.slope_v,
            two.u * two.v * two.slope_u * two.slope_v, _half_square_difference(two),
        ),
    )  # fmt: skip
    _check_spread(f, spread, batch)
    return ((batch - 1) * own - longer + both + aligned) / ((batch - 3) * spread)


def batch_norm_growth_identity(batch: int) -> float:
    """(B - 2) / (B - 3), the growth in a linear net (Yang et al. 2019)."""
    batch = _batch_of_four(batch, _NO_GROWTH)
    return (batch - 2) / (batch - 3)


def batch_norm_growth_relu(batch: int) -> float:
    """The growth in a ReLU net in closed form.

    Two entries have correlation rho = -1 / (B - 1). Products of ReLU and of its slopes depend on
    directions and second moments only, so that their expectations are the Gaussian ones:

        E phi phi' = (sqrt(1 - rho^2) + rho (pi - arccos rho)) / (2 pi),
        E d d' = 1/4 + arcsin(rho) / (2 pi).
    """
    batch = _batch_of_four(batch, _NO_GROWTH)
    rho = -1 / (batch - 1)
    product = (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)
    both_on = 0.25 + math.asin(rho) / (2 * math.pi)
    centred = 0.5 - product
    return ((batch - 2) / 2 + both_on + product) / ((batch - 3) * centred)


def batch_norm_stability(phi: str | Activation, *, batch: int | None = None) -> float:
    """By what factor a layer changes how far samples differ in length; above 1 none stay equal.

    At the symmetric fixed point all samples of a batch have the same length, q = 1 after batch
    norm. In large batches a sample of another length returns to the others at the rate

        d ln Var[phi(sqrt(q) z)] / d ln q    at q = 1

    per layer, where the variance is about the mean at q = 1 (which is the same derivative). Above
    1 it does not return: the fixed point is unstable, and what is computed at it does not describe
    deep nets. Homogeneous activations (ReLU, leaky ReLU, the identity) have exactly 1.

    In a batch of B the common normalisation pulls samples together, by (B - 1) / (B + 1) in linear
    nets. The covariance is perturbed by A = w w^T - P / B with w = P e_1, which moves the entries
    by du_i = (w_i u_1 - u_i u_1^2 / B) / 2; returned is the factor by which A comes back. So GELU
    is unstable in large batches, and stable in batches of 32. (Samples can also come to differ in
    their correlations; that factor is (E phi')^2 / Var phi <= 1 in large batches.)

    Args:
        phi: the activation.
        batch: its size B, at least 4; None for the limit of large batches.

    Raises:
        ValueError: for a batch below 4, or an activation that is constant on the batch.

    Source: derived here; Yang et al. 2019 discuss the stability of the symmetric fixed point.
    """
    f = curve(phi)
    return _stability(f, None if batch is None else _batch_of_four(batch, _NO_DENSITY))


def batch_norm_moments(phi: str | Activation, *, batch: int | None = None) -> BatchNormMoments:
    """Mean and second moment of one activation behind batch norm, E phi(u) and E phi(u)^2.

    Args:
        phi: the activation.
        batch: its size, at least 2; None for the limit of large batches, a Gaussian u.

    Raises:
        ValueError: for a batch below 2.
    """
    f = curve(phi)
    if batch is None:
        return BatchNormMoments(f.mean(1.0), f.second(1.0))
    return _moments(f, checks.count("batch", batch, least=2))


def batch_norm_spread(phi: str | Activation, *, batch: int | None = None) -> float:
    """The variance of phi(u) over a normalised batch, with B - 1 in the denominator.

    E |P phi(u)|^2 / (B - 1) = E (phi(u) - phi(u'))^2 / 2, which times weight_var is what the next
    layer's norm divides by (squared, and up to B / (B - 1)). Entries of one batch are correlated,
    so that this is not E phi^2 - (E phi)^2 but for large batches.

    Args:
        phi: the activation.
        batch: its size B, at least 4; None for the limit of large batches.

    Raises:
        ValueError: for a batch below 4, or an activation that is constant on the batch.
    """
    f = curve(phi)
    if batch is None:
        return _variance(f)
    batch = _batch_of_four(batch, _NO_DENSITY)
    (spread,) = _mean(f, batch, lambda two: (_half_square_difference(two),))
    _check_spread(f, spread, batch)
    return spread


def layer_norm_growth(
    phi: str | Activation, *, weight_var: float = 1.0, bias_var: float = 0.0
) -> float:
    """Growth of the mean squared gradient per layer, backwards, under layer norm.

    For layers linear -> layer norm over the units -> phi of infinite width with eps = 0,

        growth = weight_var E[phi'(z)^2] / (weight_var E[phi(z)^2] + bias_var),    z ~ N(0, 1):

    the weights multiply the gradient, the norm divides it by the variance that they and the biases
    give. The norm also takes out the gradient's components along 1 and along z, two of as many
    as there are units.

    Args:
        phi: the activation.
        weight_var: fan_in times the variance of a weight.
        bias_var: variance of a bias.

    Raises:
        ValueError: for a negative variance, or where every pre-activation is 0.
    """
    f = curve(phi)
    weight_var, bias_var = variance("weight_var", weight_var), variance("bias_var", bias_var)
    q = weight_var * f.second(1.0) + bias_var
    if q == 0:
        raise ValueError(
            f"layer norm divides by the spread of the pre-activations, which is 0 for {f.name} "
            f"with weight_var {weight_var:g} and bias_var 0; make one of the variances positive."
        )
    return weight_var * f.slope_second(1.0) / q


# --- stability --------------------------------------------------------------------------------


def _stability(f: Curve, batch: int | None) -> float:
    if batch is None:
        mean, spread = f.mean(1.0), _variance(f)
        return f.expect(1.0, lambda at: at.z * (at.value - mean) * at.slope) / spread
    share, mean = 1 / batch, _moments(f, batch).mean

    def integrands(two: _Entries) -> tuple[np.ndarray, ...]:
        phi_u, phi_v = two.phi_u - mean, two.phi_v - mean
        # Twice du_i of the docstring, for the sample that is longer (u) and for another one (v).
        du = (1 - share) * two.u - share * two.u**3
        dv = -share * two.u - share * two.v * two.u**2
        return (
            phi_u * two.slope_u * du,
            phi_u * two.slope_v * dv + phi_v * two.slope_u * du,
            _half_square_difference(two),
        )

    same, others, spread = _mean(f, batch, integrands)
    _check_spread(f, spread, batch)
    back = (1 - 2 * share) * same - (1 - share) * others
    return back / ((1 - share) * (1 - 2 * share) * spread)


def _check_stable(f: Curve, batch: int | None) -> None:
    factor = _stability(f, batch)
    if factor > 1 + _UNSTABLE:
        of = "large batches" if batch is None else f"batches of {batch}"
        raise ValueError(
            f"batch_norm_growth describes deep nets whose samples all stay equally long, but for "
            f"{f.name} in {of} differences in length grow by {factor:.6g} per layer (at most 1 is "
            f"stable); measure what deep nets do instead with jinit.layer_signals, or pass "
            f"allow_unstable=True for the formula's value."
        )


# --- one and two entries of a normalised batch ------------------------------------------------


def _moments(f: Curve, batch: int) -> BatchNormMoments:
    if batch == 2:  # one of the two is 1 and the other -1
        value, _ = f.evaluate(np.array([-1.0, 1.0]))
        return BatchNormMoments(float(value.mean()), float((value**2).mean()))
    one = _entry_within(f, batch, _reach(f, batch))
    return BatchNormMoments(
        float(np.sum(one.weight * one.phi)), float(np.sum(one.weight * one.phi**2))
    )


class _Entry(NamedTuple):
    """One entry u of a normalised batch at quadrature nodes, each field `[nodes]`."""

    weight: np.ndarray
    u: np.ndarray
    left: np.ndarray
    """sqrt(B - 1 - u^2), the radius that u leaves to the other entries"""
    phi: np.ndarray
    slope: np.ndarray


class _Entries(NamedTuple):
    """Two entries u, v of a normalised batch at quadrature nodes, `[rows, 1 or nodes]`."""

    weight: np.ndarray
    u: np.ndarray
    v: np.ndarray
    phi_u: np.ndarray
    phi_v: np.ndarray
    slope_u: np.ndarray
    slope_v: np.ndarray


def _mean(
    f: Curve, batch: int, integrands: Callable[[_Entries], tuple[np.ndarray, ...]]
) -> tuple[float, ...]:
    """E of integrands given at the nodes of two entries."""
    sums = [[np.sum(two.weight * x) for x in integrands(two)] for two in _entries(f, batch)]
    return tuple(float(each) for each in np.sum(sums, 0))


def _half_square_difference(two: _Entries) -> np.ndarray:
    return (two.phi_u - two.phi_v) ** 2 / 2


def _entries(f: Curve, batch: int) -> Iterator[_Entries]:
    """Nodes that follow the kinks of phi(u), and row by row those of phi(v); some rows at a time.

    Raises:
        TooRoughError: for more than fifty million nodes.
    """
    radius, rho = math.sqrt(batch - 1), -1 / (batch - 1)
    reach = _reach(f, batch)
    tangents = _tangents(_sharp(f, reach), batch) if batch < _SMOOTH else None
    one = _entry_within(f, batch, reach, tangents)
    # v = rho u + spread sin(theta), theta of density cos(theta)^(B - 4).
    # |v| is at most the radius, and where u stops before it, at most (1 + |rho|) times as far.
    bends = f.pieces(min(radius * (1 + 1e-9), reach * (1 - rho)))
    columns = (len(_grid(reach)) + len(bends) - 1) * ORDER
    if len(one.u) * columns > _MOST_NODES:
        raise TooRoughError(
            f"{f.name} bends too often to be followed in two entries of a normalised batch of "
            f"{batch}, which would take {len(one.u) * columns:.1e} points, more than "
            f"{_MOST_NODES:.0e}; give a smoother activation."
        )
    rows = max(1, _AT_ONCE // columns)
    for start in range(0, len(one.u), rows):
        some = _Entry(*(each[start : start + rows] for each in one))
        middle, spread = rho * some.u[:, None], math.sqrt(1 - rho**2) * some.left[:, None]
        grid = np.broadcast_to(_grid(reach) / radius, (len(some.u), len(_grid(reach))))
        sines = np.concatenate([grid, (bends - middle) / spread], 1)
        edges = np.arcsin(np.clip(sines, -reach / radius, reach / radius))
        theta, width = nodes_and_weights(np.sort(edges, 1))
        weight = width * _cos_power(theta, batch - 4)
        weight *= (some.weight / weight.sum(1))[:, None]
        v = middle + spread * np.sin(theta)
        phi_v, slope_v = f.evaluate(v)
        phi_u, slope_u = some.phi[:, None], some.slope[:, None]
        yield _Entries(weight, some.u[:, None], v, phi_u, phi_v, slope_u, slope_v)


def _entry_within(
    f: Curve, batch: int, reach: float, tangents: Sequence[float] | None = None
) -> _Entry:
    """Nodes in (-reach, reach), on panels split at phi's bends.

    With the angles of `tangents`, split there too, and for half-integer powers at all edges.
    """
    radius = math.sqrt(batch - 1)
    edges = np.unique(np.arcsin(np.concatenate([_grid(reach), f.pieces(reach)]) / radius))
    if tangents is None:
        theta, width = nodes_and_weights(edges)
    else:
        inside = [theta for theta in tangents if abs(theta) < edges.max()]
        theta, width = _nodes_smooth_at_edges(np.unique([*edges, *inside]))
    weight = width * _cos_power(theta, batch - 3)
    u = radius * np.sin(theta)
    return _Entry(weight / weight.sum(), u, radius * np.cos(theta), *f.evaluate(u))


def _tangents(places: Sequence[float], batch: int) -> list[float]:
    """The theta of u at which v begins or ceases to reach a place, where u is not too rare.

    v lies between radius * sin(theta - alpha) and radius * sin(theta + alpha), cos(alpha) = rho.
    The expectation over v is not smooth in theta where one of these is a kink: it has a half-
    integer power there if B is even.
    """
    radius, alpha = math.sqrt(batch - 1), math.acos(-1 / (batch - 1))
    arcs = [math.asin(place / radius) for place in places if abs(place) < radius]
    ends = [arc + sign * alpha for k in arcs for arc in (k, math.pi - k) for sign in (-1, 1)]
    thetas = np.array([math.remainder(end, 2 * math.pi) for end in ends])
    return list(thetas[_cos_power(thetas, batch - 3) > _NEGLIGIBLE])


def _sharp(f: Curve, reach: float) -> list[float]:
    """Kinks, and edges of narrow panels: bends so sharp that they count as kinks."""
    edges = f.pieces(reach)
    narrow = np.diff(edges) < _NARROW
    beside = edges[np.append(narrow, False) | np.insert(narrow, 0, False)]
    return sorted({*f.kinks, *map(float, beside)})


def _nodes_smooth_at_edges(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for integrands with half-integer powers at edges.

    On a panel from a to b the variable is s with theta = a + (b - a) sin^2(pi s / 2), in which
    sqrt(theta - a) and sqrt(b - theta) are smooth.
    """
    s, width = nodes_and_weights(np.array([0.0, 0.5, 1.0]))
    start, length = edges[:-1, None], np.diff(edges)[:, None]
    theta = start + length * np.sin(np.pi / 2 * s) ** 2
    return theta.ravel(), (width * length * (np.pi / 2) * np.sin(np.pi * s)).ravel()


def _reach(f: Curve, batch: int) -> float:
    """How far out an entry is followed: to the sphere's end, or as far as squares of phi need."""
    radius = math.sqrt(batch - 1)
    for reach in _REACHES:
        one = _entry_within(f, batch, min(reach, radius))
        with np.errstate(over="ignore"):
            squares = one.weight * np.maximum(one.phi**2, (1 + one.u**2) * one.slope**2)
        outermost = squares[np.abs(one.u) > reach - 1].sum()
        if not np.isfinite(squares).all():
            break
        if reach >= radius or outermost <= _BEYOND * squares.sum():
            return min(reach, radius)
    raise MomentError(
        f"the moments of {f.name} over a normalised batch of {batch} lie beyond 37 standard "
        f"deviations, or leave float64; give a smaller batch or an activation that grows less."
    )


def _grid(reach: float) -> np.ndarray:
    half = np.append(_HALF_GRID[reach > _HALF_GRID], reach)
    return np.concatenate([-half[:0:-1], half])


def _cos_power(theta: np.ndarray, power: int) -> np.ndarray:
    """cos(theta)^power, to full precision also for large powers of a cosine close to 1."""
    if power == 0:
        return np.ones_like(theta)
    with np.errstate(divide="ignore"):  # cos = 0
        return np.exp(power / 2 * np.log1p(-(np.sin(theta) ** 2)))


# --- what batch norm divides by ---------------------------------------------------------------


def _variance(f: Curve) -> float:
    spread = f.variance(1.0)
    _check_varies(f, spread, f.mean(1.0), "")
    return spread


def _check_spread(f: Curve, spread: float, batch: int) -> None:
    where = f" on all values that a normalised batch of {batch} can hold"
    _check_varies(f, spread, _moments(f, batch).mean, where)


def _check_varies(f: Curve, spread: float, mean: float, where: str) -> None:
    if not spread > _CONSTANT * mean**2:
        raise ValueError(
            f"batch norm divides by the spread of its input, which is 0 for {f.name}, constant"
            f"{where or ' as it is'}; give an activation that varies."
        )


# --- bad input --------------------------------------------------------------------------------


_NO_GROWTH = (
    "for a gradient growth under batch norm",
    "in smaller batches 1 / variance, and with it the squared gradient, has no finite mean",
)
_NO_DENSITY = (
    "for expectations over two entries of a normalised batch",
    "in smaller batches one entry leaves the others no more than a sign to choose",
)


def _batch_of_four(batch: int, purpose: tuple[str, str]) -> int:
    if isinstance(batch, Integral) and not isinstance(batch, bool) and 0 < batch < 4:
        what, why = purpose
        raise ValueError(f"batch must be at least 4 {what}, got {batch}: {why}.")
    return checks.count("batch", batch, least=4)
