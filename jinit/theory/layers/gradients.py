"""How fast the mean squared gradient grows from layer to layer on its way back."""

import math

from jinit import checks
from jinit.theory.layers.norms import NORMS, OVER_BATCHES, Batch
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import real, variance


def gradient_log_slope(
    layer: WideLayer,
    *,
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

    Under batch norm the variances of weights and biases are without effect.

    Positive: gradients explode towards the first layer. Negative: they vanish.

    Args:
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

    >>> from jinit.theory import Ensemble
    >>> round(Ensemble("relu", weight_var=2.0).gradient_log_slope(norm="batch"), 6)
    0.38318
    """
    checks.choice("norm", norm, NORMS)
    checks.flag("residual", residual)
    checks.flag("allow_unstable", allow_unstable)
    row = NORMS[norm]
    if batch is not None and not row.batches:
        raise ValueError(
            f"batch={checks.shown(batch)} belongs to {OVER_BATCHES}, got norm={norm!r}."
        )
    if residual:
        at = 1.0 if q is None else variance("q", q, positive=True)
        scale = real("branch_scale", branch_scale)
        if batch is not None:
            raise ValueError(
                f"a residual network is predicted for large batches only, got batch="
                f"{checks.shown(batch)}; leave batch out."
            )
        return row.log_branch(layer, scale, at, at)
    at_q = None if q is None else variance("q", q)
    factor = row.growth(layer, at_q, Batch(batch, allow_unstable))
    return math.log(factor) if factor > 0 else -math.inf
