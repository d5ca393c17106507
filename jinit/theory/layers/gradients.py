"""How fast the mean squared gradient grows from layer to layer on its way back."""

import math

from jinit import checks
from jinit.activations import Activation
from jinit.theory.layers.norms import batch_norm_growth, layer_norm_growth
from jinit.theory.maps.criticality import chi_at
from jinit.theory.maps.lengths import limit_length
from jinit.theory.moments.arguments import real, variance
from jinit.theory.moments.curve import curve

__all__ = ["NORMS", "branch_growth", "gradient_log_slope"]

NORMS = (None, "batch", "layer")


def gradient_log_slope(
    activation: str | Activation,
    *,
    weight_var: float = 1.0,
    bias_var: float = 0.0,
    norm: str | None = None,
    batch: int | None = None,
    residual: bool = False,
    branch_scale: float = 1.0,
    q: float | None = None,
    allow_unstable: bool = False,
) -> float:
    """Log growth per layer of the mean squared gradient, from the last layer to the first.

        plain               ln chi, chi = weight_var E phi'^2 at sqrt(q) z
        layer norm          ln (weight_var E phi'^2 / (weight_var E phi^2 + bias_var)) at q = 1
        batch norm          ln (E phi'^2 / Var phi) at q = 1 for a large batch; `batch_norm_growth`
        residual            ln (1 + a^2 weight_var E phi'^2), h + a W phi(norm(h)), at the
                            stream's variance q; with a norm, E phi'^2 at 1 over q, what the norm
                            divides by

    Positive: gradients explode towards the first layer. Negative: they vanish.

    Args:
        activation: a name, or an elementwise jax.numpy function.
        weight_var: fan_in times the variance of a weight; without effect under batch norm.
        bias_var: variance of a bias; without effect under batch norm.
        norm: None, "batch" or "layer"; between the linear map and the activation.
        batch: samples in a batch, at least 4; None is the limit of many.
        residual: whether layers are blocks that add their branch to the stream.
        branch_scale: a, the factor of the branch.
        q: variance of the pre-activations of a plain network (None: where they settle), or of the
            stream of a residual one (None: 1). With layer norm that is over the units, with batch
            norm over the batch, where biases and the mean of phi add nothing to it.
        allow_unstable: answer for batch norm even where deep networks do not stay at the point
            that the formula describes.

    Raises:
        ValueError: unknown norm; batch below 4; an unstable point.

    Source: Schoenholz et al. 2017, eq. 13 (plain); Yang et al. 2019 (batch norm); Yang &
    Schoenholz 2017 (residual).

    >>> round(math.exp(gradient_log_slope("relu", norm="batch")), 6)
    1.466942
    """
    phi = curve(activation)
    weight_var, bias_var = variance("weight_var", weight_var), variance("bias_var", bias_var)
    checks.choice("norm", norm, NORMS)
    if batch is not None and norm != "batch":
        raise ValueError(f"batch={batch!r} belongs to norm='batch', got norm={norm!r}.")
    if residual:
        at = 1.0 if q is None else variance("q", q, positive=True)
        scale = real("branch_scale", branch_scale)
        if batch is not None:
            raise ValueError(
                f"a residual network is predicted for large batches only, got batch={batch!r}; "
                f"leave batch out."
            )
        slope_second = phi.slope_second(at if norm is None else 1.0)
        return branch_growth(slope_second, at, weight_var, scale, norm)
    if norm == "batch":
        return math.log(batch_norm_growth(activation, batch=batch, allow_unstable=allow_unstable))
    if norm == "layer":
        return _log(layer_norm_growth(activation, weight_var=weight_var, bias_var=bias_var))
    at = limit_length(phi, weight_var, bias_var) if q is None else variance("q", q)
    return _log(chi_at(phi, at, weight_var).perpendicular)


def branch_growth(
    slope_second: float, q: float, weight_var: float, scale: float, norm: str | None
) -> float:
    """ln of the factor of one residual block whose norm, if any, divides by variance q."""
    if norm is not None and q == 0:
        return math.inf
    return math.log1p(scale * scale * weight_var * slope_second / (1.0 if norm is None else q))


def _log(factor: float) -> float:
    return math.log(factor) if factor > 0 else -math.inf
