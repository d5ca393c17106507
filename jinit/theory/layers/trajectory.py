"""What `jinit.layer_signals` will measure in every layer, before a weight is drawn."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jinit import checks
from jinit.activations import Activation
from jinit.theory.layers.finite_width import finite_width
from jinit.theory.layers.gradients import NORMS, branch_growth
from jinit.theory.layers.norms import (
    BatchNormMoments,
    batch_norm_growth,
    batch_norm_moments,
    batch_norm_spread,
)
from jinit.theory.maps.depth import deep, follow, length
from jinit.theory.moments.arguments import real, variance
from jinit.theory.moments.curve import Curve, curve

__all__ = ["Band", "Trajectory", "trajectory"]

_DEEPEST = 100_000  # half a minute, where lengths do not settle


class Band(NamedTuple):
    """Scatter of a logarithm over random draws; both `[depth]`."""

    mean: np.ndarray
    """of the log of the root mean square, finite width included"""
    std: np.ndarray


class Trajectory(NamedTuple):
    """Infinite-width statistics of layers 1 to depth, each `[depth]`."""

    q: np.ndarray
    """variance of the pre-activations (of the stream, in a residual network)"""
    act_mean: np.ndarray
    act_std: np.ndarray
    log_pre: np.ndarray
    """ln root mean square of the pre-activations"""
    log_act: np.ndarray
    """ln root mean square of the activations"""
    log_grad: np.ndarray
    """ln root mean square of the gradient by the pre-activations, over that of the last layer"""
    log_act_band: Band | None = None
    """scatter of log_act over draws, if a width is given"""
    log_grad_band: Band | None = None
    """scatter of log_grad over draws, if a width is given"""


def trajectory(
    activation: str | Activation,
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
    """Pre-activations, activations and gradients, layer by layer.

    Plain networks: q_{l+1} = weight_var E phi(sqrt(q_l) z)^2 + bias_var (Poole et al. 2016, eq. 3)
    forward, and backward a factor of weight_var E phi'(sqrt(q_l) z)^2 per layer (Schoenholz et al.
    2017, eq. 13). With a norm, phi sees unit variance. A residual block adds to its stream,
    q_{l+1} = q_l + a^2 (weight_var E phi^2 + bias_var): without norm He's blocks double it, with
    one it grows by the same amount in each, and with a = 1/sqrt(depth) it grows e-fold at most.
    Layer norm divides by q, batch norm by what varies over the batch, to which a block adds
    a^2 weight_var Var phi; inputs have mean 0 over the batch.

    Args:
        activation: a name, or an elementwise jax.numpy function.
        depth: the number of layers, at most 100000.
        weight_var: fan_in times the variance of a weight (1 for Xavier, 2 for He).
        bias_var: variance of a bias.
        input_second_moment: mean square of the inputs' entries (of the stream that enters the
            first block, in a residual network).
        width: units of every layer; adds the bands of log_act and log_grad. Plain networks only.
        norm: None, "batch" or "layer"; between the linear map and the activation.
        batch: samples in a batch; None is the limit of many.
        residual: whether all layers are blocks h + a W phi(norm(h)).
        branch_scale: a, the factor of the branch.
        allow_unstable: as in `gradient_log_slope`.

    Raises:
        ValueError: negative variances; moments that diverge; a width with norm or residual.
    """
    phi = curve(activation)
    depth = deep(depth, _DEEPEST)
    weight_var, bias_var = variance("weight_var", weight_var), variance("bias_var", bias_var)
    second = variance("input_second_moment", input_second_moment)
    scale = real("branch_scale", branch_scale)
    checks.choice("norm", norm, NORMS)
    if width is not None and (norm or residual):
        raise ValueError(
            f"the scatter over draws is predicted for plain networks only, got width={width!r} "
            f"with norm={norm!r} and residual={residual!r}; leave width out."
        )
    if batch is not None and (norm != "batch" or residual):
        raise ValueError(
            f"batch={batch!r} belongs to norm='batch' without residual, got norm={norm!r} and "
            f"residual={residual!r}; leave batch out."
        )
    if residual:
        return _residual(phi, depth, weight_var, bias_var, second, scale, norm)
    if norm == "batch":
        growth = batch_norm_growth(activation, batch=batch, allow_unstable=allow_unstable)
        moments = batch_norm_moments(activation, batch=batch)
        spread = batch_norm_spread(activation, batch=batch)
        return _batch_norm(depth, weight_var, bias_var, second, moments, spread, growth)
    if norm == "layer":
        return _layer_norm(phi, depth, weight_var, bias_var, second)
    plain = _plain(phi, depth, weight_var, bias_var, second)
    if width is None:
        return plain
    return _with_bands(activation, plain, checks.count("width", width), weight_var, bias_var)


def _plain(phi: Curve, depth: int, weight_var: float, bias_var: float, second: float) -> Trajectory:
    def layer(second: float) -> tuple[tuple[float, ...], float]:
        q = length(second, weight_var, bias_var)
        mean, second = phi.mean(q), phi.second(q)
        return (q, mean, phi.variance(q), second, weight_var * phi.slope_second(q)), second

    return _collect(follow(layer, second, depth))


def _layer_norm(
    phi: Curve, depth: int, weight_var: float, bias_var: float, second: float
) -> Trajectory:
    mean, var, slope_second = phi.mean(1.0), phi.variance(1.0), phi.slope_second(1.0)
    rows = []
    for _ in range(depth):
        q = length(second, weight_var, bias_var)
        second = phi.second(1.0)
        rows.append((q, mean, var, second, weight_var * slope_second / q if q else math.inf))
    return _collect(rows)


def _batch_norm(
    depth: int,
    weight_var: float,
    bias_var: float,
    second: float,
    moments: BatchNormMoments,
    spread: float,
    growth: float,
) -> Trajectory:
    mean, act_second = moments
    # What the norm divides by varies with the spread over the batch, in the first layer the data's.
    rows = []
    for layer in range(depth):
        q = length(second, weight_var, bias_var)
        factor = growth if layer else growth * spread / second if second else math.inf
        second = act_second
        rows.append((q, mean, act_second - mean**2, act_second, factor))
    return _collect(rows)


def _residual(
    phi: Curve,
    depth: int,
    weight_var: float,
    bias_var: float,
    second: float,
    scale: float,
    norm: str | None,
) -> Trajectory:
    def block(state: tuple[float, float]) -> tuple[tuple[float, ...], tuple[float, float]]:
        stream, spread = state  # second moment, and variance over the batch
        at = stream if norm is None else 1.0
        mean, var, act_second = phi.mean(at), phi.variance(at), phi.second(at)
        stream = length(act_second, weight_var, bias_var, stream=stream, scale=scale)
        # A bias adds the same to all samples, and so does the mean of phi.
        spread = length(var, weight_var, 0.0, stream=spread, scale=scale)
        slope_second = phi.slope_second(stream if norm is None else 1.0)
        divided = spread if norm == "batch" else stream
        growth = branch_growth(slope_second, divided, weight_var, scale, norm)
        return (stream, mean, var, act_second, math.exp(growth)), (stream, spread)

    return _collect(follow(block, (second, second), depth))


def _collect(rows: Sequence[tuple[float, ...]]) -> Trajectory:
    """From (q, mean, variance, second moment, factor of the squared gradient) per layer."""
    q, mean, var, second, factor = np.array(rows).T
    with np.errstate(divide="ignore"):
        log_factor = np.log(factor[:-1])  # the last layer's leads to a layer below none
        log_grad = np.concatenate([np.cumsum(log_factor[::-1])[::-1], [0.0]]) / 2
        return Trajectory(q, mean, np.sqrt(var), np.log(q) / 2, np.log(second) / 2, log_grad)


def _with_bands(
    activation: str | Activation, plain: Trajectory, width: int, weight_var: float, bias_var: float
) -> Trajectory:
    scatter = finite_width(
        activation, [width] * len(plain.q), weight_var=weight_var, bias_var=bias_var,
        q=float(plain.q[0]),
    )  # fmt: skip
    return plain._replace(
        log_act_band=Band(plain.log_act + scatter.signal_mean / 2, np.sqrt(scatter.signal_var) / 2),
        log_grad_band=Band(
            plain.log_grad + scatter.gradient_mean / 2, np.sqrt(scatter.gradient_var) / 2
        ),
    )
