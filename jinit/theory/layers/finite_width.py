"""How much networks of finite width scatter around the infinite-width prediction.

Two draws of one network differ in the logarithm of their signals and gradients by about
sqrt(sum_l 1 / n_l): each layer averages over n_l units only, and its noise is carried through all
layers that follow. For activations that are linear on either side of 0 (identity, ReLU, leaky
ReLU) the law is exact, a product over layers; for others it is the leading order in 1/n.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from jinit import checks
from jinit.theory.maps.orbit import plain_orbit
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import variance, whole
from jinit.theory.moments.curve import Curve
from jinit.theory.moments.table import Table


class FiniteWidth(NamedTuple):
    """Mean and variance, over draws, of ln(|.|^2 / its infinite-width value), for one input.

    Arrays are `[layers]`, hidden layer 1 to L.
    """

    signal_mean: np.ndarray
    """of the mean square activation of layer l: `2 log_act` of `layer_signals`"""
    signal_var: np.ndarray
    gradient_mean: np.ndarray
    """of the squared gradient by layer l's pre-activations over that by layer L's:
    `2 (log_grad[l] - log_grad[L])`; layers l to L - 1 are passed, so that it is 0 at l = L"""
    gradient_var: np.ndarray
    jacobian_mean: float
    """of |J v|^2, where J is the derivative of the activations of layer L by the input, and v a
    direction orthogonal to the input"""
    jacobian_var: float
    exact: bool
    """whether all this holds at any width; else it is the leading order in 1/n, and holds where
    the variances are well below 1"""


def finite_width(wide: WideLayer, widths: Sequence[int], *, q: float | None = None) -> FiniteWidth:
    """Mean and variance of log squared signals and gradients over draws of the parameters.

    For an activation that is linear on either side of 0, without biases, each layer passed
    multiplies the squared norm of a signal or gradient by an independent factor

        (1/n) sum_i phi(z_i)^2 / E phi^2,    z ~ N(0, I_n)

    (Hanin 2018; Hanin & Rolnick 2018): chi^2_n / n if linear, (2/n) chi^2_K with K ~ Bin(n, 1/2)
    for ReLU, given K >= 1 (that no unit is on has a chance of 2^-n). The variance of its log is
    about 2/n and 5/n.

    Otherwise, with q_l the infinite-width lengths, x_l the relative fluctuation of layer l's
    variance, alpha_l that of its mean of phi^2, beta_l that of its mean of (phi' g)^2 with g
    Gaussian,

        x_{l+1} = rho_l (s_l x_l + alpha_l),
        ln signal_l = s_l x_l + alpha_l,    ln gradient_l = sum_{k=l}^{L-1} (t_k x_k + beta_k),

    s = d ln E[phi^2] / d ln q, t = d ln E[phi'^2] / d ln q, and rho_l the share of the weights in
    q_{l+1}. Means are of the same order: the curvatures of both maps, minus half of the variances,
    and the alignment of the gradient with the pre-activations, to which it is not orthogonal where
    t is not 0. What is left out is of order (sum 1/n)^2; where lengths are unstable
    (rho s > 1) fluctuations grow, and the leading order fails sooner. So its numbers hold where
    its variances are well below 1; where one is not, they say that draws scatter by factors, but
    not by which.

    The weights are Gaussian, the input is one; the output gradient is random, independent of the
    network. Averages over a batch of different inputs scatter less. Of per-unit means (as
    `log_grad` is), the infinite-width ratio of gradients is chi_l ... chi_{L-1} n_L / n_l.

    Args:
        widths: of the hidden layers, n_1 ... n_L.
        q: variance of the first layer's pre-activations; None is 1.

    Raises:
        ValueError, TypeError: widths that are not positive integers, negative variances, moments
            that diverge, signals that vanish.

    >>> from jinit.theory import Ensemble
    >>> round(Ensemble("relu", weight_var=2.0).finite_width([1000, 1000]).jacobian_var, 6)
    0.010037
    """
    layers = hidden_widths(widths)
    first = variance("q", 1.0 if q is None else q, positive=True)
    variance("weight_var", wide.weight_var, positive=True)
    slopes = _two_slopes(wide.phi, first)
    if slopes is not None and wide.bias_var == 0:
        return _exact(layers, *slopes)
    return _leading_order(wide, layers, first)


def hidden_widths(value: Any) -> tuple[int, ...]:
    """Widths of hidden layers, at least one, as positive ints."""
    fix = "widths must list the widths of the hidden layers, as in [100, 100, 100]"
    widths = checks.listed(fix, value)
    if not widths:
        raise ValueError(f"{fix}, got none.")
    if set(map(type, widths)) == {int} and min(widths) >= 1 and max(widths) < 10**15:
        return widths
    return tuple(whole(f"widths[{i}]", width) for i, width in enumerate(widths))


# --- exact: linear on either side of zero -----------------------------------------------------


def _two_slopes(phi: Curve, q: float) -> tuple[float, float] | None:
    """The slopes right and left of 0, if phi is linear on both sides; else None."""
    if phi.two_slopes:
        return None
    size = np.concatenate([np.logspace(-20, 20, 41), np.abs(phi.at(q).z) * math.sqrt(q)])
    slopes = []
    for u in (size, -size):
        value, slope = phi.evaluate(u)
        with np.errstate(over="ignore", invalid="ignore"):
            if not (_same(slope, slope[0]) and _same(value, slope[0] * u)):
                return None
        slopes.append(float(slope[0]))
    if not any(slopes):
        raise _vanishes(phi, q)
    return slopes[0], slopes[1]


def _same(a: np.ndarray, b: np.ndarray | float) -> bool:
    return bool(np.all(np.abs(a - b) <= 1e-12 * np.abs(b)))  # and not where either is NaN


def _exact(widths: tuple[int, ...], right: float, left: float) -> FiniteWidth:
    # The forward factors are independent, because z given the layer below is Gaussian whatever
    # its direction. So are those of the gradient: multiply unit i's incoming and outgoing weights
    # by a random sign; then its slope no longer tells anything about the direction of its weights.
    of_width = {n: _log_moments(n, right**2, left**2) for n in set(widths)}
    distinct, which = np.unique(widths, return_inverse=True)
    mean, var = np.array([of_width[n] for n in distinct.tolist()])[which].T
    return FiniteWidth(
        np.cumsum(mean), np.cumsum(var), _above(mean), _above(var),
        float(mean.sum()), float(var.sum()), True,
    )  # fmt: skip


def _above(of_layer: np.ndarray) -> np.ndarray:
    """The sum over layers l to L - 1, for every l."""
    return np.append(np.cumsum(of_layer[-2::-1])[::-1], 0.0) if len(of_layer) > 1 else np.zeros(1)


def _log_moments(n: int, right: float, left: float) -> tuple[float, float]:
    """Mean and variance of ln X for X = (1/n) sum_i a_i z_i^2 / E a, a = right or left by chance.

    With M(t) = E exp(-t X), which is a power of a one-unit average,

        E ln X = int (e^-t - M) dt/t,    E ln^2 X + 2 gamma E ln X = -2 int ln t (e^-t - M) dt/t,

    the first orders in s of int t^(s-1) e^(-tX) dt = Gamma(s) X^-s. The integrands are analytic in
    y = ln t and vanish at both ends, where the trapezoid rule converges exponentially.
    """
    y, step = np.linspace(-40.0, 120.0, 3201, retstep=True)
    t = np.exp(y)
    scale = 2 / (n * (right + left))
    unit = sum(np.expm1(-np.log1p(2 * a * scale * t) / 2) for a in (right, left)) / 2
    # All units off: a mass at X = 0, left out.
    off = 0.5**n if min(right, left) == 0 else 0.0
    with np.errstate(divide="ignore"):  # t beyond float64's reach: log 0, whose exp is 0
        transform = (np.exp(n * np.log1p(unit)) - off) / (1 - off)
    difference = np.exp(-t) - transform
    mean = step * np.sum(difference)
    square = -2 * (step * np.sum(y * difference) + np.euler_gamma * mean)
    return float(mean), float(square - mean**2)


# --- leading order in 1/n ---------------------------------------------------------------------

# Below this variance relative moments have reached their limit, and fourth powers would underflow.
_LEAST = 1e-60


class _Moments(NamedTuple):
    """Of phi at pre-activation variance q, or many; logarithmic derivatives are by ln q."""

    growth: Any
    """s: d ln E phi^2"""
    curvature: Any
    """q^2 (E phi^2)'' / E phi^2"""
    noise: Any
    """n Var alpha"""
    steepness: Any
    """E phi'^2"""
    slope_growth: Any
    """t: d ln E phi'^2"""
    slope_curvature: Any
    """q^2 (E phi'^2)'' / E phi'^2"""
    gradient_noise: Any
    """n Var beta"""
    shared: Any
    """n Cov(alpha, beta)"""
    transfer: Any
    """E[phi^2 phi'^2] / (E phi^2 E phi'^2), by which the noise of a layer aligns the gradient"""
    kept: Any
    """q s^2 E phi^2 / (q^2 E phi'^2), the part of an alignment that passes a layer"""
    second: Any
    """E phi^2"""


@lru_cache(maxsize=10_000)  # lengths settle, and deeper networks begin with the same ones
@np.errstate(over="ignore", invalid="ignore")  # `mean` refuses what is not finite
def _moments(phi: Curve, q: float) -> _Moments:
    at = phi.at(max(q, _LEAST))
    z, root = at.z, math.sqrt(at.q)
    second, steepness = at.mean(at.value**2), at.mean(at.custom**2)
    if second <= 0 or steepness <= 0:
        raise _vanishes(phi, at.q)
    # d/dq E f(sqrt(q) z) = E[f (z^2 - 1)] / (2q) asks for no derivative of phi'; the next Hermite
    # polynomials give the next derivatives. With f' = 2 phi phi' one order less is needed.
    product = root * at.value * at.slope / second
    square, slope_square = at.value**2 / second, at.custom**2 / steepness
    growth = at.mean(z * product)
    fourth, slope_fourth = at.mean(square**2), at.mean(slope_square**2)
    transfer = at.mean(square * slope_square)
    along = at.mean(z * root * at.value * at.custom / second)  # the growth, but for a custom slope
    return _Moments(
        growth=growth,
        curvature=at.mean((z**3 - 3 * z) * product) / 2,
        noise=max(fourth - 1, 0.0),
        steepness=steepness,
        slope_growth=at.mean((z**2 - 1) * slope_square) / 2,
        slope_curvature=at.mean((z**4 - 6 * z**2 + 3) * slope_square) / 4,
        gradient_noise=3 * slope_fourth - 1,
        shared=transfer - 1,
        transfer=transfer,
        kept=along**2 * second / (at.q * steepness),
        second=second,
    )


class _Layers(NamedTuple):
    """All layers: moments, the mean and variance of x, its share rho in the next length."""

    n: np.ndarray
    at: _Moments
    """each field `[layers]`"""
    mean: np.ndarray
    var: np.ndarray
    share: np.ndarray


def _leading_order(wide: WideLayer, widths: tuple[int, ...], q: float) -> FiniteWidth:
    table = Table(lambda q: np.array(_moments(wide.phi, q))[_SECOND_FIRST], sizes=_sizes)
    lengths = plain_orbit(wide, q, len(widths), table)
    second, *others = table.all(lengths)
    at = _Moments._make([*others, second])
    wide.fed(float(second[-1]))  # says so where the layer above leaves float64
    share = np.ones(len(widths))
    if wide.bias_var:
        fed = wide.weight_var * second
        share = fed / (fed + wide.bias_var)
    n = np.array(widths, float)
    with np.errstate(over="ignore", invalid="ignore"):
        # x is 0 in the first layer: given the input, its pre-activations have variance q.
        var = _recurrence((share * at.growth) ** 2, share**2 * at.noise / n)[:-1]
        mean = _recurrence(share * at.growth, share * at.curvature * var / 2)[:-1]
        signal_mean = at.growth * mean + at.curvature * var / 2
        signal_var = at.growth**2 * var + at.noise / n
        layers = _Layers(n, at, mean, var, share)
        through = _slope_means(layers) + at.transfer * _alignment(layers) / n
        gradient_var = np.append(_gradient_vars(_without_last(layers)), 0.0)
        return FiniteWidth(
            _or(-math.inf, signal_mean - signal_var / 2),  # ln(1 + y) = y - y^2 / 2
            _or(math.inf, signal_var),
            _or(-math.inf, _above(through)),
            _or(math.inf, gradient_var),
            float(_or(-math.inf, through.sum())),
            float(_or(math.inf, _gradient_vars(layers)[0])),
            False,
        )


_SECOND_FIRST = [len(_Moments._fields) - 1, *range(len(_Moments._fields) - 1)]


def _sizes(rows: np.ndarray) -> np.ndarray:
    """Of moments, E phi^2 first; the relative ones are of order 1 where they count."""
    at = _Moments._make([*rows[1:], rows[0]])
    one = np.ones_like(at.second)
    return np.stack(
        [at.second, *(at.steepness if each is at.steepness else one for each in at[:-1])]
    )


def _recurrence(factors: np.ndarray, terms: np.ndarray, *, down: bool = False) -> np.ndarray:
    """x_0 = 0, x_{l+1} = factor_l x_l + term_l, one more than there are factors; or upside down."""
    order = slice(None, None, -1 if down else 1)
    factor, term = factors[order].copy(), terms[order].copy()
    step = 1
    while step < len(term):  # of each layer and the `step` before it, in one
        term[step:] = term[step:] + factor[step:] * term[:-step]
        factor[step:] = factor[step:] * factor[:-step]
        step *= 2
    return np.append(0.0, term)[order]


def _without_last(layers: _Layers) -> _Layers:
    at = _Moments._make(each[:-1] for each in layers.at)
    return _Layers(layers.n[:-1], at, layers.mean[:-1], layers.var[:-1], layers.share[:-1])


def _or(infinite: float, values: np.ndarray | float) -> np.ndarray:
    """An infinity where fluctuations outgrow float64, which no sum of theirs survives."""
    return np.where(np.isfinite(values), values, infinite)


def _slope_means(layers: _Layers) -> np.ndarray:
    """E ln of (1/n) sum (phi' g)^2 over its infinite-width value, for g of independent direction.

    Over the draw of g, ln loses half of its relative variance 2 E phi'^4 / (n (E phi'^2)^2).
    """
    at = layers.at
    mean = at.slope_growth * layers.mean + at.slope_curvature * layers.var / 2
    return mean - (at.slope_growth**2 * layers.var + at.gradient_noise / layers.n) / 2


def _alignment(layers: _Layers) -> np.ndarray:
    """How far the gradient g that reaches each layer's activations h leans towards them.

    That is D, where E (g.h)^2 = (1 + D) E |g|^2 |h|^2 / n. For a random output gradient and a
    readout that is not known, D = 0. Below, g = W'delta is random but along h, where it is
    (z - b).delta / |h| with delta = phi'(z) g_above. Of (z - b) phi'(z) the part along the
    activations above carries their D on; the rest meets a random g_above.
    """
    at, below = layers.at, layers.share[:-1]
    return _recurrence(below * at.kept[1:], below * 2 * at.slope_growth[1:], down=True)


def _gradient_vars(layers: _Layers) -> np.ndarray:
    """Variance of sum_{k >= l} (t_k x_k + beta_k), for every l."""
    at = layers.at
    # What a unit of x adds to the sum, in each layer and in the one that is above none.
    weight = _recurrence(layers.share * at.growth, at.slope_growth, down=True)
    carried = layers.share * weight[1:]  # what a unit of alpha adds
    noise = at.gradient_noise + 2 * carried * at.shared + carried * carried * at.noise
    return np.cumsum((noise / layers.n)[::-1])[::-1] + weight[:-1] ** 2 * layers.var


def _vanishes(phi: Curve, q: float) -> ValueError:
    return ValueError(
        f"finite_width describes logarithms, but signals or gradients of {phi.name} vanish at "
        f"variance q = {q:.6g}; give an activation that is not constant there, or a larger "
        f"variance."
    )
