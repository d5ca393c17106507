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
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from jinit import checks
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import variance
from jinit.theory.moments.curve import Curve, MomentError
from jinit.theory.spectra.slope_law import SlopeLaw, slope_law

WEIGHTS = ("gaussian", "orthogonal")
_LEAST = 1e-280
_MOST_LOG = 600.0  # of a moment
_FAR, _CLOSE, _NEAR = 4.0, 1e-2, 1e-12  # of Im lambda, in units of lambda: from there to there
_STEP, _STRIDE = 0.5, 1e-2  # factors, until it is close and then
_START = 1e8  # in units of the edge; there zeta is about lambda
_LOWEST = 1e-5  # angle, the square of which is about the share of the eigenvalues left out
_AT, _WEIGHT = np.polynomial.legendre.leggauss(10)  # on a panel
_RESOLVED = 1e-5  # by how much the share of a panel may be off; it is then put right
_ARRIVED = 1e-8  # in ln zeta
_ITERATIONS = 30  # of Newton's method; a few are enough
_ROUNDING = 1e-14  # of a share, per layer
_NARROW = 1e-6  # the narrowest panel, relative
_MOST_MORE = 100  # panels than at first
_MOST_SOLVED = 250  # points; more are read off the polynomials through those


class JacobianSpectrum(NamedTuple):
    """The eigenvalues of J Jᵀ in an infinitely wide square network."""

    moments: np.ndarray
    """m_1 = E lambda, m_2 = E lambda^2, ..."""
    variance: float
    """m_2 - m_1^2"""
    largest: float
    """the upper end of the spectrum: finite networks lie below it, and far below where steep slopes
    are rare; infinite where slopes grow without bound"""
    atoms: np.ndarray
    """eigenvalues with a share of their own, `[atoms, 2]`: position and share"""
    eigenvalue: np.ndarray
    """`[points]`, increasing, from 0 to where slopes within eight standard deviations lead; the
    first stands for all below, of which there are many in deep networks"""
    density: np.ndarray
    """of the rest, `[points]`"""
    weight: np.ndarray
    """of the points as quadrature nodes, `[points]`: sum(weight * density) is 1 minus the atoms'
    shares, and sum(weight * density * f(eigenvalue)) their rest of E f; the density itself is
    singular at 0"""


def jacobian_spectrum(
    layer: WideLayer,
    depth: int,
    weights: str = "gaussian",
    *,
    q: float = 1.0,
    moments: int = 4,
    points: int = 200,
) -> JacobianSpectrum:
    """Moments, largest eigenvalue and density of J Jᵀ (Pennington et al. 2017 and 2018).

    The density solves F(z) = lambda + i0 by continuation from far above the real axis; the largest
    eigenvalue is the infimum of F over z > 0; the moments come by Lagrange inversion of F. ReLU
    networks have an atom of 1/2 at 0; orthogonal linear ones are an atom and nothing else. With
    orthogonal weights, weight_var is the square of the matrices' gain.

    Args:
        depth: the number L of layers.
        weights: "gaussian" or "orthogonal".
        q: variance of the pre-activations, the same in every layer.
        moments: how many.
        points: of the density, at least; there are more where it is singular.

    Raises:
        MomentError: a ValueError; moments that diverge.
        ValueError: unknown weights; an activation whose slope is 0 everywhere.

    >>> from jinit.theory import jacobian_spectrum
    >>> round(jacobian_spectrum("relu", 2).largest, 6)
    11.09017
    """
    phi = layer.phi
    depth = checks.count("depth", depth)
    moments, points = checks.count("moments", moments), checks.count("points", points, least=2)
    checks.choice("weights", weights, WEIGHTS)
    q = variance("q", q, positive=True)
    slope_second = phi.gradient_second(q)
    if slope_second == 0:
        raise ValueError(
            f"{phi.name} has slope 0 everywhere at q = {q:g}, and with it every Jacobian; give an "
            f"activation that is not constant."
        )
    weight_var = variance("weight_var", layer.weight_var, positive=True)
    # All in units of the mean squared slope, so that nothing overflows with depth.
    unit = depth * math.log(weight_var * slope_second)
    if abs(unit) * moments > _MOST_LOG:
        raise ValueError(
            f"the moments of {depth} layers with weight_var={weight_var:g} leave float64; give a "
            f"weight_var nearer to {1 / slope_second:.4g}, or fewer layers."
        )
    scale = math.exp(unit)
    of_slopes = [_slope_moment(phi, q, slope_second, k + 1) for k in range(max(moments, 2))]
    law = slope_law(phi, q, slope_second)
    gaussian = weights == "gaussian"
    found = _moments(of_slopes, depth, gaussian)
    found = found * scale ** np.arange(1, len(found) + 1)
    atoms = _atoms(law, depth, gaussian)
    edge = _largest(law, law.top, depth, gaussian)
    largest = edge if law.bound == law.top else _largest(law, law.bound, depth, gaussian)
    at, weight, density = _density(
        _Product(law, depth, gaussian), edge, atoms, points, _LEAST / min(scale, 1.0)
    )
    return JacobianSpectrum(
        found[:moments], float(found[1] - found[0] ** 2), largest * scale,
        atoms * [scale, 1.0], at * scale, density / scale, weight * scale,
    )  # fmt: skip


# --- moments, edge, atoms -------------------------------------------------------------------------


def _slope_moment(phi: Curve, q: float, slope_second: float, k: int) -> float:
    """E (phi'^2 / E phi'^2)^k."""
    try:
        return phi.expect(q, lambda at: (at.custom**2 / slope_second) ** k)
    except MomentError:
        fewer = "" if k <= 2 else f" at most {k - 1} moments, or"
        raise MomentError(
            f"moment {k} of the spectrum asks for E phi'^{2 * k} of {phi.name} at q = {q:g}, "
            f"which diverges or lies too far out to be followed; ask for{fewer} a smaller q."
        ) from None


def _moments(of_slopes: list[float], depth: int, gaussian: bool) -> np.ndarray:
    """m_k = [z^(k-1)] (z F(z))^k / k, from power series in z."""
    count = len(of_slopes)
    z_zeta = _reciprocal(_inverse_series(of_slopes, count), count)  # z zeta = z / (1 / zeta)
    one_plus = np.zeros(count)
    one_plus[:2] = 1.0
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
    result = np.eye(1, count)[0]
    while exponent:
        if exponent % 2:
            result = _times(result, a, count)
        a, exponent = _times(a, a, count), exponent // 2
    return result


def _reciprocal(a: np.ndarray, count: int) -> np.ndarray:
    result = np.zeros(count)
    result[0] = 1 / a[0]
    for k in range(1, count):
        result[k] = -np.dot(a[1 : k + 1], result[k - 1 :: -1][:k]) / a[0]
    return result


def _largest(law: SlopeLaw, top: float, depth: int, gaussian: bool) -> float:
    """inf F over z > 0, that is over zeta above the largest squared slope."""
    if math.isinf(top):
        return math.inf

    def log_f(log_above: float) -> float:
        above = math.exp(log_above) * top
        z = float(np.sum(law.weight * law.value / (above + (top - law.value))))
        per_layer = math.log(z) + math.log(top + above) - (0 if gaussian else math.log1p(z))
        return math.log1p(1 / z) + depth * per_layer

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


def _atoms(law: SlopeLaw, depth: int, gaussian: bool) -> np.ndarray:
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
    product: "_Product", edge: float, atoms: np.ndarray, points: int, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues up to the edge, weights as quadrature nodes, and density, without the atoms.

    Panels are halved until the integral over each of them agrees with the share of eigenvalues in
    it, which is known without an integral.
    """
    total = 1 - atoms[:, 1].sum()
    # Dense at both ends; the density goes like lambda^(-L / (L + 1)) at 0 for Gaussian weights.
    # Where the edge is far out, most eigenvalues are of order 1.
    power = 2 * max(product.depth + 1, math.ceil(math.log(edge)))
    lowest = max(_LOWEST, 2 * math.asin((least / edge) ** (1 / power)))
    finer = -(-points // _MOST_SOLVED)  # panels in place of one
    angles = np.linspace(lowest, math.pi, -(-points // (finer * len(_AT))) + 1)
    between = _lagrange((np.arange(finer)[:, None] + (_AT + 1) / 2).ravel() * 2 / finer - 1)

    def eigenvalue(angle: Any) -> Any:
        return edge * np.sin(angle / 2) ** power

    def nodes(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half = (right - left)[:, None] / 2
        angle = left[:, None] + half * (_AT + 1)
        at = eigenvalue(angle)
        return at, half * _WEIGHT * at * power / (2 * np.tan(angle / 2))

    if total < 1e-9:
        at, weight = nodes(angles[:-1], angles[1:])
        return at.ravel(), weight.ravel(), np.zeros(at.size)
    first = float(eigenvalue(angles[0]))  # all below are one point
    line = _Line.down(product, atoms, edge, first)
    above = np.append(line.above(eigenvalue(angles[:-1])), 0.0)
    below = max(float(total - above[0]), 0.0)
    done = [(np.array([[first / 2]]), np.array([[first]]), np.array([[below / first]]))]
    left, right, over_left, over_right = angles[:-1], angles[1:], above[:-1], above[1:]
    more = 0
    while len(left):
        at, weight = nodes(left, right)
        density = line.density(at.ravel()).reshape(at.shape)
        share = np.maximum(over_left - over_right, 0.0)
        held = (weight * density).sum(1)
        # Large eigenvalues may be few and still make the mean, which is 1.
        allowed = _RESOLVED * np.minimum(total, 1 / eigenvalue(right))
        rough = np.abs(held - share) > np.maximum(allowed, _ROUNDING * product.depth)
        wide = eigenvalue(right) - eigenvalue(left) > _NARROW * eigenvalue(right)
        halve = rough & wide
        more += int(halve.sum())
        if more > _MOST_MORE:
            halve[:] = False
        # A panel that is too narrow for what is in it has the mean density throughout.
        mean = (rough & ~halve) | (held == 0)
        density[mean] = (share / weight.sum(1))[mean, None]
        with np.errstate(invalid="ignore"):
            weight[~mean] *= (share / held)[~mean, None]
        resolved = at[~halve], weight[~halve], density[~halve]
        if finer > 1:
            parts = left[~halve, None] + np.arange(finer + 1) / finer * (right - left)[~halve, None]
            fine = nodes(parts[:, :-1].ravel(), parts[:, 1:].ravel())
            at, weight = (each.reshape(len(parts), -1) for each in fine)
            density = np.maximum(resolved[2] @ between.T, 0.0)
            with np.errstate(invalid="ignore", divide="ignore"):
                share_held = (weight * density).sum(1)
                off = (resolved[1] * resolved[2]).sum(1) / share_held
            weight *= np.where(share_held > 0, off, 1.0)[:, None]
            resolved = at, weight, density
        done.append(resolved)
        middle = (left[halve] + right[halve]) / 2
        over = line.above(eigenvalue(middle))
        left, right = np.append(left[halve], middle), np.append(middle, right[halve])
        over_left, over_right = (
            np.append(over_left[halve], over), np.append(over, over_right[halve]),
        )  # fmt: skip
    at, weight, density = (
        np.concatenate([part.ravel() for part in each]) for each in zip(*done, strict=True)
    )
    order = np.argsort(at)
    return at[order], weight[order], density[order]


def _lagrange(x: np.ndarray) -> np.ndarray:
    """From values at a panel's nodes to those at x in (-1, 1), `[len(x), nodes]`."""
    nodes = range(len(_AT))
    return np.stack([
        np.prod([(x - _AT[k]) / (_AT[j] - _AT[k]) for k in nodes if k != j], 0) for j in nodes
    ], 1)  # fmt: skip


class _Product(NamedTuple):
    """Layers of one law of slopes and one kind of weights."""

    law: SlopeLaw
    depth: int
    gaussian: bool

    def settle(self, log_zeta: np.ndarray, log_lambda: np.ndarray) -> np.ndarray:
        """The ln zeta at which F = lambda, from one nearby."""
        log_zeta = log_zeta.copy()
        open_ = np.arange(len(log_zeta))  # those that have not arrived
        for _ in range(_ITERATIONS):
            step = self.newton(log_zeta[open_], log_lambda[open_])
            log_zeta[open_] += step
            open_ = open_[np.abs(step) > _ARRIVED]
            if not len(open_):
                break
        return log_zeta

    def newton(self, log_zeta: np.ndarray, log_lambda: np.ndarray) -> np.ndarray:
        """A step in ln zeta towards ln F = ln lambda, short enough to stay above the real axis."""
        depth, free = self.depth, 0 if self.gaussian else 1
        zeta = np.exp(log_zeta)
        z, one, slope = self.law.generating(zeta)
        # All of z, 1 + z and zeta stay in one half plane, so that principal logarithms do.
        log_z, log_one = np.log(z), np.log(one)
        excess = log_one - log_z + depth * (log_z + log_zeta - free * log_one) - log_lambda
        by_z = 1 / one - 1 / z + depth * (1 / z - free / one)
        step = -excess / (by_z * slope * zeta + depth)
        limit = 0.9 * np.where(step.imag < 0, log_zeta.imag, np.pi - log_zeta.imag)
        shorter = np.minimum(1.0, limit / np.maximum(np.abs(step.imag), 1e-300))
        return step * np.minimum(shorter, 1.0 / np.maximum(np.abs(step), 1.0))


class _Line(NamedTuple):
    """The line of eigenvalues, reached from the imaginary axis."""

    product: _Product
    atoms: np.ndarray
    heights: np.ndarray
    """on the axis, decreasing"""
    log_zeta: np.ndarray
    """there"""

    @classmethod
    def down(cls, product: _Product, atoms: np.ndarray, edge: float, lowest: float) -> "_Line":
        """Follow the axis from far above the edge to the lowest eigenvalue."""
        steps = math.ceil(math.log(lowest / edge * _FAR / _START) / math.log(_STEP))
        heights = _START * edge * _STEP ** np.arange(steps + 1)
        log_zeta = np.log(1j * heights)
        log_zeta[:1] = product.settle(log_zeta[:1], np.log(1j * heights[:1]))
        for i in range(1, len(heights)):
            log_zeta[i : i + 1] = product.settle(
                log_zeta[i - 1 : i], np.log(1j * heights[i : i + 1])
            )
        return cls(product, atoms, heights, log_zeta)

    def _solve(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """lambda just above the line, and ln zeta there."""
        nearest = np.searchsorted(-self.heights, -_FAR * at, side="right") - 1
        log_zeta, levels = self.log_zeta[nearest], self.heights[nearest]
        while True:
            log_zeta = self.product.settle(log_zeta, np.log(at + 1j * levels))
            if np.all(levels <= _NEAR * at):
                position = at + 1j * levels
                # Once more, as by an atom an angle counts that is as small.
                return position, log_zeta + self.product.newton(log_zeta, np.log(position))
            factor = np.where(levels > _CLOSE * at, _STEP, _STRIDE)
            levels = np.maximum(factor * levels, _NEAR * at)

    def density(self, at: np.ndarray) -> np.ndarray:
        """At each eigenvalue, without the atoms."""
        position, log_zeta = self._solve(at)
        _, one, _ = self.product.law.generating(np.exp(log_zeta))
        green = one / position
        for atom, share in self.atoms:
            green = green - share / (position - atom)
        return np.maximum(-green.imag / np.pi, 0.0)

    def above(self, at: np.ndarray) -> np.ndarray:
        """The share of the eigenvalues above each, without the atoms.

        The integral of G = (1 + z) / lambda is that of (1 + z) d ln F, which is
        (L - 1) ln z + L E ln(zeta - d), and L z more for Gaussian weights; its imaginary part is
        pi times the share.
        """
        position, log_zeta = self._solve(at)
        product, zeta = self.product, np.exp(log_zeta)
        z, _, _ = product.law.generating(zeta)
        per_layer = product.law.angle(zeta) + np.angle(z) + (z.imag if product.gaussian else 0)
        share = (product.depth * per_layer - np.angle(z)) / np.pi
        for atom, weight in self.atoms:
            share = share - weight * np.angle(position - atom) / np.pi
        return share
