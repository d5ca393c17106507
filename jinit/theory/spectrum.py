"""The spectrum of J Jᵀ for the input-output Jacobian J = D_L W_L ... D_1 W_1 of a wide network.

Slopes and weights of all layers are free of each other (Pennington, Schoenholz & Ganguli 2017 and
2018), so that S-transforms multiply. With mu the distribution of phi'(sqrt(q) z)^2 and
M(zeta) = E[d / (zeta - d)], d ~ mu, the eigenvalue lambda = F(z) belongs to the moment generating
function z, z = M(zeta), with

    F(z) = (1+z)/z [weight_var z zeta / (1+z)]^L        orthogonal weights,
    F(z) = (1+z)/z [weight_var z zeta]^L                Gaussian ones.

Everything here is written in zeta, where z = M(zeta) needs no inversion.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

from jinit import checks
from jinit.activations import Activation
from jinit.theory.arguments import variance
from jinit.theory.curve import Curve, curve
from jinit.theory.quadrature import nodes_and_weights

__all__ = ["JacobianSpectrum", "jacobian_spectrum"]

WEIGHTS = ("gaussian", "orthogonal")
_REACH = 8.0  # in standard deviations; beyond lies 1e-15 of the units
_FINE, _CELLS = 8000, 160
_LEAST = 1e-280
_MOST_LOG = 600.0  # of a moment
_EQUAL = 1e-12  # slopes closer than this are one
_FAR, _NEAR, _STEP = 4.0, 1e-7, 0.5  # of Im lambda: from, to, factor; in units of lambda


class JacobianSpectrum(NamedTuple):
    """The eigenvalues of J Jᵀ in an infinitely wide square network."""

    moments: np.ndarray
    """m_1 = E lambda, m_2 = E lambda^2, ..."""
    variance: float
    """m_2 - m_1^2"""
    largest: float
    """the upper end of the spectrum; finite networks lie below it"""
    atoms: np.ndarray
    """eigenvalues with a share of their own, `[atoms, 2]`: position and share"""
    eigenvalue: np.ndarray
    """`[points]`, increasing, between 0 and the largest"""
    density: np.ndarray
    """of the rest, `[points]`"""
    weight: np.ndarray
    """of the points as quadrature nodes, `[points]`: sum(weight * density) is 1 minus the atoms'
    shares, and sum(weight * density * f(eigenvalue)) their rest of E f; the density itself is
    singular at 0"""


def jacobian_spectrum(
    activation: str | Activation,
    depth: int,
    weights: str = "gaussian",
    *,
    q: float = 1.0,
    weight_var: float | None = None,
    moments: int = 4,
    points: int = 200,
) -> JacobianSpectrum:
    """Moments, largest eigenvalue and density of J Jᵀ (Pennington et al. 2017 and 2018).

    The density solves F(z) = lambda + i0 by continuation from far above the real axis; the largest
    eigenvalue is the infimum of F over z > 0; the moments come by Lagrange inversion of F. ReLU
    networks have an atom of 1/2 at 0; orthogonal linear ones are an atom and nothing else.

    Args:
        activation: a name, or an elementwise jax.numpy function.
        depth: the number L of layers.
        weights: "gaussian" or "orthogonal".
        q: variance of the pre-activations, the same in every layer.
        weight_var: fan_in times the variance of a weight, or the square of an orthogonal matrix's
            gain; None is the critical 1 / E phi'^2, for which the mean eigenvalue is 1.
        moments: how many.
        points: of the density.

    Raises:
        ValueError: unknown weights; an activation whose slope is 0 everywhere.

    >>> round(jacobian_spectrum("relu", 2).largest, 6)
    11.09017
    """
    phi = curve(activation)
    depth = checks.count("depth", depth)
    moments, points = checks.count("moments", moments), checks.count("points", points, least=2)
    checks.choice("weights", weights, WEIGHTS)
    q = variance("q", q, positive=True)
    slope_second = phi.slope_second(q)
    if slope_second == 0:
        raise ValueError(
            f"{phi.name} has slope 0 everywhere at q = {q:g}, and with it every Jacobian; give an "
            f"activation that is not constant."
        )
    if weight_var is None:
        weight_var = 1 / slope_second
    else:
        weight_var = variance("weight_var", weight_var, positive=True)
    # All in units of the mean squared slope, so that nothing overflows with depth.
    law = _law(phi, q, slope_second)
    unit = depth * math.log(weight_var * slope_second)
    if abs(unit) * moments > _MOST_LOG:
        raise ValueError(
            f"the moments of {depth} layers with weight_var={weight_var:g} leave float64; give a "
            f"weight_var nearer to {1 / slope_second:.4g}, or fewer layers."
        )
    gaussian = weights == "gaussian"
    found = _moments(law, depth, gaussian, moments)
    largest = _largest(law, depth, gaussian)
    atoms = _atoms(law, depth, gaussian)
    at, weight, density = _density(law, depth, gaussian, largest, atoms, points)
    scale = math.exp(unit)
    found = found * scale ** np.arange(1, moments + 1)
    second = found[1] if moments > 1 else _moments(law, depth, gaussian, 2)[1] * scale**2
    atoms = atoms * [scale, 1.0]
    return JacobianSpectrum(
        found, float(second - found[0] ** 2), largest * scale, atoms, at * scale, density / scale,
        weight * scale,
    )  # fmt: skip


# --- the law of a squared slope -----------------------------------------------------------------


class _Law(NamedTuple):
    """The distribution of phi'^2 / E phi'^2."""

    value: np.ndarray
    """at quadrature nodes"""
    weight: np.ndarray
    top: float
    """the largest value"""
    points: np.ndarray
    """values with a share of their own"""
    shares: np.ndarray
    low: np.ndarray
    """the others: cells between two values, of linear density"""
    high: np.ndarray
    cell: np.ndarray
    """their shares"""
    tilt: np.ndarray
    """slope of the density relative to its mean, so that a cell's mean is right too"""


def _law(phi: Curve, q: float, slope_second: float) -> _Law:
    root = math.sqrt(q)

    def squared(z: np.ndarray) -> np.ndarray:
        return phi.evaluate(root * z)[1] ** 2 / slope_second

    at = phi.at(q)
    steep = at.slope**2 / slope_second
    peak = float(at.z[np.argmax(steep)])
    near = minimize_scalar(
        lambda z: -float(squared(np.array([z]))[0]), bounds=(peak - 0.2, peak + 0.2),
        method="bounded", options={"xatol": 1e-12},
    )  # fmt: skip
    inside = phi.pieces(_REACH * root) / root
    peaks = {float(near.x), peak, *(float(x) for x in inside if abs(x - peak) < 0.3)}
    graded = [p + sign * 2.0**-k for p in peaks for k in range(1, 40) for sign in (-1, 1)]
    edges = np.unique(np.concatenate([np.arange(-_REACH, _REACH + 1), inside, list(peaks), graded]))
    z, width = nodes_and_weights(edges[np.abs(edges) <= _REACH])
    value = squared(z)
    weight = width * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    grid = np.unique(np.concatenate([np.linspace(-_REACH, _REACH, _FINE + 1), inside, [near.x]]))
    grid = grid[np.abs(grid) <= _REACH]
    nudge = 1e-9  # both sides of a jump of phi'
    ends = np.sort([squared(grid[:-1] + nudge), squared(grid[1:] - nudge)], axis=0)
    share = np.diff(ndtr(grid))
    share = share / share.sum()
    flat = ends[1] - ends[0] <= _EQUAL * max(1.0, float(value.max()))
    points, shares = _grouped(ends[0][flat], share[flat])
    atoms = shares > 1e-6  # less is the top of a hill, not a plain
    middle = ends.mean(0)
    rises = np.diff(middle) > 0
    turns = middle[1:-1][rises[1:] != rises[:-1]]  # around each the density is singular
    low, high = ends[:, ~flat]
    return _Law(
        value, weight / weight.sum(), float(max(value.max(), ends.max())),
        points[atoms], shares[atoms], *_cells(low, high, share[~flat], turns),
    )  # fmt: skip


def _cells(
    low: np.ndarray, high: np.ndarray, share: np.ndarray, also: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Many narrow cells gathered into some, each an interval or a share of all; also edges."""
    if not len(share):
        return low, high, share, share
    order = np.argsort(high)
    # Denser towards both ends, where the density may be singular, as at a maximum of the slope.
    levels = (1 - np.cos(np.linspace(0, np.pi, _CELLS // 2))) / 2
    quantiles = np.interp(levels, np.cumsum(share[order]) / share.sum(), high[order])
    even = np.linspace(low.min(), high.max(), _CELLS // 2)
    also = also[(also > low.min()) & (also < high.max())]
    edges = np.unique(np.concatenate([even, quantiles, also[:_CELLS]]))
    inside = np.clip(edges[:, None], low, high)
    held = share / (high - low)
    shares = np.diff((inside - low) @ held)
    means = np.diff((inside**2 - low**2) / 2 @ held) / np.maximum(shares, 1e-300)
    low, high = edges[:-1], edges[1:]
    width, middle = high - low, (low + high) / 2
    # Within these bounds the density is positive; the narrowest cells do not need it.
    off_centre = np.clip((means - middle) / width, -1 / 6, 1 / 6)
    tilt = np.where((width > 1e-6 * edges[-1]) & (shares > 0), 12 * off_centre / width, 0.0)
    return low, high, shares, tilt


def _grouped(values: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal values with their shares added up."""
    order = np.argsort(values)
    values, shares = values[order], shares[order]
    if not len(values):
        return values, shares
    start = np.concatenate([[True], np.diff(values) > 1e3 * _EQUAL * max(1.0, values[-1])])
    return values[start], np.add.reduceat(shares, np.flatnonzero(start))


def _generating(law: _Law, zeta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M(zeta) and its derivative, complex zeta `[n]` off the values' line."""
    at = zeta[:, None]
    apart = at - law.points
    value = np.sum(law.shares * law.points / apart, 1)
    slope = -np.sum(law.shares * law.points / apart**2, 1)
    if len(law.cell):
        # The mean of d / (zeta - d) over a cell, in closed form: no cell is a pole.
        width = law.high - law.low
        far = at - law.high
        mean = np.log1p(width / far) / width
        by_zeta = -1 / (far * (at - law.low))
        offset = at - (law.low + law.high) / 2
        bent = offset * mean - 1
        tilted = law.cell * law.tilt
        value = value + np.sum(law.cell * (at * mean - 1) + tilted * at * bent, 1)
        bent = bent + at * (mean + offset * by_zeta)
        slope = slope + np.sum(law.cell * (mean + at * by_zeta) + tilted * bent, 1)
    return value, slope


# --- moments, edge, atoms -------------------------------------------------------------------------


def _moments(law: _Law, depth: int, gaussian: bool, count: int) -> np.ndarray:
    """m_k = [z^(k-1)] (z F(z))^k / k, from power series in z."""
    of_slopes = [float(np.sum(law.weight * law.value**k)) for k in range(1, count + 1)]
    z_zeta = _reciprocal(_inverse_series(of_slopes, count), count)  # z zeta = z / (1 / zeta)
    one_plus = np.zeros(count)
    one_plus[: min(2, count)] = 1.0
    layer = z_zeta if gaussian else _times(z_zeta, _reciprocal(one_plus, count), count)
    z_f = _times(one_plus, _power(layer, depth, count), count)
    return np.array([_power(z_f, k, count)[k - 1] / k for k in range(1, count + 1)])


def _inverse_series(moments: list[float], count: int) -> np.ndarray:
    """w / z for z = sum_k m_k w^k, as a series in z, by Lagrange inversion."""
    ratio = _reciprocal(np.array(moments), count)  # w / z(w)
    return np.array([_power(ratio, k, count)[k - 1] / k for k in range(1, count + 1)])


def _times(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    return np.convolve(a, b)[:count]


def _power(a: np.ndarray, exponent: int, count: int) -> np.ndarray:
    result = np.zeros(count)
    result[0] = 1.0
    for _ in range(exponent):
        result = _times(result, a, count)
    return result


def _reciprocal(a: np.ndarray, count: int) -> np.ndarray:
    result = np.zeros(count)
    result[0] = 1 / a[0]
    for k in range(1, count):
        result[k] = -np.dot(a[1 : k + 1], result[k - 1 :: -1][:k]) / a[0]
    return result


def _log_f(z: float, log_zeta: float, depth: int, gaussian: bool) -> float:
    log_ratio = math.log1p(1 / z)
    per_layer = math.log(z) + log_zeta - (0 if gaussian else math.log1p(z))
    return log_ratio + depth * per_layer


def _largest(law: _Law, depth: int, gaussian: bool) -> float:
    """inf F over z > 0, that is over zeta above the largest squared slope."""

    def log_f(log_above: float) -> float:
        above = math.exp(log_above) * law.top
        z = float(np.sum(law.weight * law.value / (above + (law.top - law.value))))
        return _log_f(z, math.log(law.top + above), depth, gaussian)

    # Towards the first end z grows beyond bounds, if many slopes are the largest one.
    grid = np.linspace(math.log(1e-20), math.log(1e12), 200)
    values = [log_f(x) for x in grid]
    best = int(np.argmin(values))
    if best in (0, len(grid) - 1):
        return math.exp(values[best])
    found = minimize_scalar(
        log_f, bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-9}
    )
    return math.exp(min(found.fun, values[best]))


def _atoms(law: _Law, depth: int, gaussian: bool) -> np.ndarray:
    """Position and share; free products keep an atom where shares add up to more than the rest.

    (Bercovici & Voiculescu 1998: a b is an atom of a free product with share
    mu{a} + nu{b} - 1, if positive; 0 has the largest share at 0 of the factors.)
    """
    found = []
    for value, share in zip(law.points, law.shares, strict=True):
        if value == 0:
            found.append((0.0, share))
        elif not gaussian and share > 1e-9 and 1 - depth * (1 - share) > 1e-9:
            found.append((value**depth, 1 - depth * (1 - share)))
    return np.array(found).reshape(-1, 2)


# --- density ------------------------------------------------------------------------------------


def _density(
    law: _Law, depth: int, gaussian: bool, largest: float, atoms: np.ndarray, points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues, their weights as quadrature nodes, and density, without the atoms."""
    # Dense at both ends; the density goes like lambda^(-L / (L + 1)) at 0 for Gaussian weights.
    angle = np.pi * (np.arange(points) + 0.5) / points
    t = (1 - np.cos(angle)) / 2
    power = depth + 1
    at = np.maximum(largest * t**power, _LEAST)
    weight = largest * power * t ** (power - 1) * np.sin(angle) / 2 * np.pi / points
    if 1 - atoms[:, 1].sum() < 1e-9:
        return at, weight, np.zeros(points)
    height = _FAR * largest
    log_zeta = np.log((at + 1j * height).astype(complex))
    lowest = _NEAR * at
    levels = np.full(points, height)
    while True:
        log_lambda = np.log(at + 1j * levels)
        open_ = np.arange(points)  # those that have not arrived
        for _ in range(12):
            step = _newton(law, depth, gaussian, log_zeta[open_], log_lambda[open_])
            log_zeta[open_] += step
            open_ = open_[np.abs(step) > 1e-8]
            if not len(open_):
                break
        if np.all(levels <= lowest):
            break
        levels = np.maximum(_STEP * levels, lowest)
    zeta = np.exp(log_zeta)
    z, _ = _generating(law, zeta)
    green = (z + 1) / (at + 1j * levels)
    for position, share in atoms:
        green = green - share / (at + 1j * levels - position)
    return at, weight, np.maximum(-green.imag / np.pi, 0.0)


def _newton(
    law: _Law, depth: int, gaussian: bool, log_zeta: np.ndarray, log_lambda: np.ndarray
) -> np.ndarray:
    """A step in ln zeta towards ln F = ln lambda, short enough to stay above the real axis."""
    zeta = np.exp(log_zeta)
    z, slope = _generating(law, zeta)
    # All of z, 1 + z and zeta stay in one half plane, so that principal logarithms do.
    excess = (
        np.log(1 + z) - np.log(z)
        + depth * (np.log(z) + log_zeta - (0 if gaussian else np.log(1 + z))) - log_lambda
    )  # fmt: skip
    by_z = 1 / (1 + z) - 1 / z + depth * (1 / z - (0 if gaussian else 1 / (1 + z)))
    step = -excess / (by_z * slope * zeta + depth)
    limit = 0.9 * np.where(step.imag < 0, log_zeta.imag, np.pi - log_zeta.imag)
    shorter = np.minimum(1.0, limit / np.maximum(np.abs(step.imag), 1e-300))
    return step * np.minimum(shorter, 1.0 / np.maximum(np.abs(step), 1.0))
