"""Deep linear networks: how their modes are learned, and what one of their layers does.

A linear network learns each singular mode of the input-output correlation on its own once its
layers are aligned with the modes (Saxe, McClelland & Ganguli 2014). With D weight matrices, inputs
whitened and the loss the mean of half the squared distance, gradient flow moves the strength u of
a mode towards its singular value s by

    tau du/dt = D u^(2 - 2/D) (s - u).

In v = u / s and the time T = D s^(2 - 2/D) t / tau this reads dv/dT = v^p (1 - v) for every s,
p = 2 - 2/D. What is computed is T as a function of a log-odds y of v, in which all is smooth.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike
from scipy.special import hyp2f1

from jinit import checks
from jinit.theory.moments.arguments import real, variance
from jinit.theory.moments.quadrature import nodes_and_weights

Numbers = ArrayLike | Sequence[Any]

_LEAST, _MOST = 1e-75, 1e75  # strengths between which nothing over- or underflows
_LEARNED = 40.0  # log-odds beyond which v is 1 in float64
_NEWTON_STEPS = 50  # five are enough; from the right end they approach the root from one side


class LinearSingularValues(NamedTuple):
    """Singular values of a wide linear layer: of the min(fan_in, fan_out) that are not always 0."""

    mean: float
    smallest: float
    largest: float


def linear_dynamics(
    t: Numbers, s: Numbers, u0: Numbers, *, depth: int | float = 2, tau: float = 1.0
) -> np.ndarray:
    """Strength of a mode of a deep linear network after training for a time t.

    Solves tau du/dt = D u^(2 - 2/D) (s - u) from u(0) = u0; for D = 2

        u(t) = s e^(2 s t / tau) / (e^(2 s t / tau) - 1 + s / u0).

    Gradient descent with learning rate lr follows it with t = lr * steps and tau = 1, where the
    inputs have covariance I and the layers are aligned and balanced, each of them with the
    singular value u0^(1/D).

    Args:
        t: times since the start, at least 0.
        s: singular values of the input-output correlation E[y x^T], at least 0.
        u0: strengths at the start, at least 0; above s they decay. t, s and u0 broadcast.
        depth: the number D of weight matrices. `math.inf` is the limit of many, with t the product
            of time and depth: tau du/dt = u^2 (s - u).
        tau: the time constant, 1 / learning rate if t counts steps.

    Returns:
        u, of the shape that t, s and u0 broadcast to; to 1e-9 relative or better.

    Raises:
        ValueError: for negative arguments, and for strengths other than 0 beyond 1e-75 and 1e75.

    Source: Saxe, McClelland & Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning
    in deep linear neural networks".
    """
    depth, tau = _depth(depth), _tau(tau)
    t, s, u0 = _together(_not_negative("t", t), _strength("s", s), _strength("u0", u0))
    with np.errstate(over="ignore", under="ignore"):
        u = _after(t, s, u0, depth, tau)
    return np.asarray(np.clip(u, np.minimum(s, u0), np.maximum(s, u0)))  # lest rounding leave


def linear_dynamics_time(
    u: float, s: float, u0: float, *, depth: int | float = 2, tau: float = 1.0
) -> float:
    """Time in which a mode of a deep linear network goes from strength u0 to u.

    The integral of tau du / (D u^(2 - 2/D) (s - u)); the inverse of `linear_dynamics` in t.

    Args:
        u: the strength to be reached, from u0 on towards s, which itself is never reached.
        s: the mode's singular value.
        u0: the strength at the start.
        depth: the number D of weight matrices; `math.inf` gives the limit of time * depth.
        tau: the time constant.

    Raises:
        ValueError: for a u that is never reached, and as `linear_dynamics`.

    Source: Saxe, McClelland & Ganguli 2014.

    >>> round(linear_dynamics_time(1.5, 3.0, 1e-3), 6)
    1.334339
    """
    depth, tau = _depth(depth), _tau(tau)
    u, s, u0 = (
        float(_strength(name, real(name, x))) for name, x in (("u", u), ("s", s), ("u0", u0))
    )
    if u == u0:
        return 0.0
    moves = depth == 1 or u0 > 0
    if not (moves and (u0 < u < s or s < u < u0)):
        way = f"goes towards s = {s:g}" if moves and u0 != s else "stays there"
        raise ValueError(
            f"u must be a strength that is reached on the way, got {u:g}; a mode of {depth:g} "
            f"matrices that starts at u0 = {u0:g} {way}."
        )
    if depth == 1:
        return tau * math.log1p((u0 - u) / (u - s))
    p, rate = _power(depth), _rate(depth) / tau
    if s == 0:
        return ((u0 / u) ** p - 1) / (p * rate * u0**p)
    falls = u0 > s
    start, end = _log_odds(np.array([u0, u]), np.array(s), falls)
    edges = _edges(falls)
    inner = edges[(edges > start) & (edges < end)]
    elapsed = _integral(np.concatenate([[start], inner, [end]]), p, falls).sum()
    return float(elapsed) / (rate * s**p)


def linear_singular_values(weight_var: float, *, aspect: float = 1.0) -> LinearSingularValues:
    """Singular values of a wide linear layer, which are those of its Jacobian.

    For weights N(0, weight_var / fan_in), c = fan_out / fan_in and both large, the squares of the
    singular values follow the law of Marchenko and Pastur, and

        smallest, largest = sqrt(weight_var) |1 -+ sqrt(c)|,
        mean = sqrt(weight_var) 2F1(1/2, -1/2; 2; c)    for c <= 1,

    with sqrt(c) 2F1(1/2, -1/2; 2; 1/c) for c > 1. For a square layer the mean is
    8 sqrt(weight_var) / (3 pi): 0.85 for Glorot's normalised weights, 0.49 for the "standard" ones
    of weight_var 1/3 (Glorot & Bengio 2010, who measured 0.8 and 0.5 in trained tanh nets at the
    start).

    Args:
        weight_var: fan_in times the variance of a weight.
        aspect: fan_out / fan_in.

    Raises:
        ValueError: for a negative weight_var or an aspect that is not positive.
    """
    scale = math.sqrt(variance("weight_var", weight_var))
    aspect = real("aspect", aspect)
    if aspect <= 0:
        raise ValueError(f"aspect is fan_out / fan_in and must be positive, got {aspect!r}.")
    # Narayana's polynomial, the k-th moment of the law, at k = 1/2.
    mean = float(hyp2f1(0.5, -0.5, 2, min(aspect, 1 / aspect))) * math.sqrt(max(aspect, 1))
    root = math.sqrt(aspect)
    return LinearSingularValues(scale * mean, scale * abs(1 - root), scale * (1 + root))


# --- the equation dv/dT = v^p (1 - v) -----------------------------------------------------------


def _after(t: np.ndarray, s: np.ndarray, u0: np.ndarray, depth: float, tau: float) -> np.ndarray:
    if depth == 1:
        return np.asarray(u0 + (u0 - s) * np.expm1(-t / tau))
    p, rate = _power(depth), _rate(depth) / tau
    learned = _closed_form if depth == 2 else _inverted
    u = np.array(u0)
    moves = (u0 > 0) & (s > 0) & (u0 != s) & (t > 0)
    u[moves] = learned(t[moves], s[moves], u0[moves], p, rate)
    gone = (u0 > 0) & (s == 0)  # du/dt = -rate u^(p + 1)
    u[gone] = u0[gone] * (1 + p * rate * t[gone] * u0[gone] ** p) ** (-1 / p)
    return u


def _power(depth: float) -> float:
    return 2 - 2 / depth


def _rate(depth: float) -> float:
    """D, which for infinite depth is part of the time."""
    return 1.0 if math.isinf(depth) else depth


def _closed_form(t: np.ndarray, s: np.ndarray, u0: np.ndarray, p: float, rate: float) -> np.ndarray:
    """Two matrices; in e^(-2 s t / tau), which does not overflow."""
    left = rate * s**p * t
    return s / (-np.expm1(-left) + s / u0 * np.exp(-left))


def _inverted(t: np.ndarray, s: np.ndarray, u0: np.ndarray, p: float, rate: float) -> np.ndarray:
    """Any depth of at least 2: the time by quadrature, inverted by Newton's method."""
    v = np.empty_like(u0)
    for falls in (False, True):
        here = (u0 > s) == falls
        if not here.any():
            continue
        y0 = _log_odds(u0[here], s[here], falls)
        y = _log_odds_after(rate * s[here] ** p * t[here], y0, p, falls)
        v[here] = -1 / np.expm1(-y) if falls else 1 / (1 + np.exp(-y))
    return s * v


def _log_odds(u: np.ndarray, s: np.ndarray, falls: bool) -> np.ndarray:
    """ln(v / |1 - v|), which grows with time from either side."""
    return -np.log1p(-s / u) if falls else np.log(u / (s - u))


def _pace(y: np.ndarray, p: float, falls: bool) -> np.ndarray:
    """dT/dy = v^(1 - p)."""
    return (-np.expm1(-y) if falls else 1 + np.exp(-y)) ** (p - 1)


def _integral(edges: np.ndarray, p: float, falls: bool) -> np.ndarray:
    """T spent between consecutive edges `[..., n + 1]`, at most one of `_edges` apart."""
    y, weight = nodes_and_weights(np.stack([edges[..., :-1], edges[..., 1:]], -1))
    return np.sum(weight * _pace(y, p, falls), -1)


def _edges(falls: bool) -> np.ndarray:
    """Panels of log-odds on which the pace is smooth: falling modes have a singularity at y = 0."""
    if falls:
        finest = math.floor(math.log2(_LEAST / _MOST)) - 1
        return np.concatenate([2.0 ** np.arange(finest, 0), np.arange(1, _LEARNED + 1)])
    return np.arange(math.floor(math.log(_LEAST / _MOST)) - 1, _LEARNED + 1)


@lru_cache(maxsize=64)
def _table(p: float, falls: bool) -> tuple[np.ndarray, np.ndarray]:
    """Edges, and the T at each of them."""
    edges = _edges(falls)
    if falls:
        return edges, np.concatenate([[0.0], np.cumsum(_integral(edges, p, falls))])
    # Large to the left: summed from the middle, lest the rest drown in rounding.
    before = np.cumsum(_integral(edges[edges <= 0], p, falls)[::-1])[::-1]
    after = np.cumsum(_integral(edges[edges >= 0], p, falls))
    return edges, np.concatenate([-before, [0.0], after])


def _log_odds_after(elapsed: np.ndarray, y0: np.ndarray, p: float, falls: bool) -> np.ndarray:
    """The log-odds at a time T after y0."""
    edges, spent = _table(p, falls)

    def panel(i: np.ndarray) -> np.ndarray:
        return np.clip(i, 0, len(edges) - 2)

    def since(i: np.ndarray, y: np.ndarray) -> np.ndarray:
        return _integral(np.stack([edges[i], y], -1), p, falls)[..., 0]

    i = panel(np.searchsorted(edges, y0, side="right") - 1)
    target = spent[i] + since(i, y0) + elapsed
    learned = ~(target < spent[-1])
    target = np.where(learned, spent[0], target)
    i = panel(np.searchsorted(spent, target, side="right") - 1)
    # The pace is monotone: from the end where it is larger, Newton's steps do not overshoot.
    y = edges[i + 1] if falls else edges[i]
    for _ in range(_NEWTON_STEPS):
        step = (target - spent[i] - since(i, y)) / _pace(y, p, falls)
        y = np.clip(y + step, edges[i], edges[i + 1])
        if np.all(np.abs(step) <= 1e-15 * np.maximum(np.abs(edges[i]), np.abs(edges[i + 1]))):
            break
    return np.where(learned, np.inf, np.maximum(y, y0))


# --- validation ---------------------------------------------------------------------------------


def _depth(depth: int | float) -> float:
    if isinstance(depth, float) and math.isinf(depth) and depth > 0:
        return math.inf
    return float(checks.count("depth (weight matrices, or math.inf)", depth))


def _tau(tau: float) -> float:
    tau = real("tau", tau)
    if tau <= 0:
        raise ValueError(f"tau is a time constant and must be positive, got {tau!r}.")
    return tau


def _together(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    try:
        return np.broadcast_arrays(*arrays)
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(
            f"t, s and u0 must have shapes that broadcast, got {shapes}; give scalars, or insert "
            f"axes of length 1 as in t[:, None]."
        ) from None


def _not_negative(name: str, value: Numbers) -> np.ndarray:
    if not checks.is_concrete(value):
        real(name, value)  # says that theory is computed outside of jit
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} must be an array of real numbers, got lists of unequal length; make them "
            f"equally long."
        ) from None
    except TypeError:  # a key
        raise TypeError(
            f"{name} must be an array of real numbers, got {checks.shown(value)}."
        ) from None
    checks.numeric(name, value)
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite, got {float(array[~np.isfinite(array)][0])!r}; leave it out "
            f"(a mode ends at u = s)."
        )
    if (array < 0).any():
        raise ValueError(f"{name} must not be negative, got {float(array.min())!r}.")
    return array


def _strength(name: str, value: Numbers) -> np.ndarray:
    array = _not_negative(name, value)
    beyond = (array > 0) & ((array < _LEAST) | (array > _MOST))
    if beyond.any():
        raise ValueError(
            f"{name} must be 0 or lie between {_LEAST:g} and {_MOST:g}, got "
            f"{float(array[beyond].flat[0]):g}; measure strengths in other units."
        )
    return array
