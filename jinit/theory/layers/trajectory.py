"""What `jinit.layer_signals` will measure in every layer, before a weight is drawn."""

from typing import NamedTuple

import numpy as np

from jinit import checks
from jinit.theory.layers.finite_width import finite_width
from jinit.theory.layers.norms import NORMS, OVER_BATCHES, Batch, Rows
from jinit.theory.maps.wide import WideLayer, deep
from jinit.theory.moments.arguments import real, variance, whole

_DEEPEST = 1_000_000  # a few seconds, where lengths do not settle


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
    layer: WideLayer,
    *,
    depth: int,
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
        depth: the number of layers, at most a million.
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
    depth = deep(depth, _DEEPEST)
    second = variance("input_second_moment", input_second_moment)
    scale = real("branch_scale", branch_scale)
    checks.choice("norm", norm, NORMS)
    checks.flag("residual", residual)
    checks.flag("allow_unstable", allow_unstable)
    row = NORMS[norm]
    if width is not None and (norm or residual):
        raise ValueError(
            f"the scatter over draws is predicted for plain networks only, got width="
            f"{checks.shown(width)} with norm={norm!r} and residual={residual!r}; leave width out."
        )
    if batch is not None and (residual or not row.batches):
        raise ValueError(
            f"batch={checks.shown(batch)} belongs to {OVER_BATCHES} without residual, got "
            f"norm={norm!r} and residual={residual!r}; leave batch out."
        )
    if residual:
        return _collect(row.blocks(layer, second, depth, scale))
    found = _collect(row.layers(layer, second, depth, Batch(batch, allow_unstable)))
    return found if width is None else _with_bands(layer, found, whole("width", width))


def _collect(rows: Rows) -> Trajectory:
    q, mean, var, second, factor = rows
    with np.errstate(divide="ignore"):
        log_factor = np.log(factor[:-1])  # the last layer's leads to a layer below none
        log_grad = np.concatenate([np.cumsum(log_factor[::-1])[::-1], [0.0]]) / 2
        return Trajectory(q, mean, np.sqrt(var), np.log(q) / 2, np.log(second) / 2, log_grad)


def _with_bands(layer: WideLayer, plain: Trajectory, width: int) -> Trajectory:
    scatter = finite_width(layer, [width] * len(plain.q), q=float(plain.q[0]))
    act = Band(plain.log_act + scatter.signal_mean / 2, np.sqrt(scatter.signal_var) / 2)
    grad = Band(plain.log_grad + scatter.gradient_mean / 2, np.sqrt(scatter.gradient_var) / 2)
    return plain._replace(log_act_band=act, log_grad_band=grad)
