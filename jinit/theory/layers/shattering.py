"""Shattered gradients: how alike those of two inputs are; plain, residual, normalised."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from jinit import checks
from jinit.theory.layers.norms import NORMS
from jinit.theory.maps.wide import WideLayer, deep
from jinit.theory.moments.arguments import correlation, real, variance
from jinit.theory.moments.pairs import Pair, pair

_DEEPEST = 2000


class Shattering(NamedTuple):
    """Of two inputs in layers 1 to depth, each `[depth]`."""

    c: np.ndarray
    """correlation of the pre-activations (of the stream, in a residual network)"""
    gradient: np.ndarray
    """correlation of the gradients by the input, of a network that ends with this layer, whose
    output gradients are the same"""


def shattering(
    layer: WideLayer,
    *,
    depth: int,
    c: float = 0.0,
    fixed: bool = False,
    norm: str | None = None,
    residual: bool = False,
    branch_scale: float = 1.0,
    input_second_moment: float = 1.0,
) -> Shattering:
    """Correlation of signals and of gradients of two inputs, layer by layer.

    On its way back through a layer the covariance of two gradients is multiplied by
    weight_var E[phi'(u) phi'(v)], each one's variance by weight_var E phi'^2; in a residual block
    by 1 plus a^2 times that over what the norm divides by. At c = 0, ReLU's ratio is 1/2 in a plain
    layer and 3/4 in a block with He's weights. With a norm in the branch the stream grows by the
    same amount in each block, and the correlation falls as a power of the depth: as L^(-1/2) with
    layer norm (and with batch norm as Balduzzi et al. idealise it), as L^(-0.73) where batch norm
    divides by the variance over the batch. What norms take out of gradients beside that is left
    out, as in their paper.

    Args:
        depth: the number of layers or blocks, at most 2000.
        c: correlation of the two inputs.
        fixed: whether c is held in every layer, which is their assumption that units are on for
            half of the inputs each, independently; else it follows its map.
        norm: None, "batch" or "layer". Two samples of a large batch have correlation 0 behind a
            batch norm.
        residual: whether layers are blocks h + a W phi(norm(h)).
        branch_scale: a.
        input_second_moment: mean square of the entries of either input (of the stream).

    Raises:
        ValueError: arguments out of range; a c that a batch norm takes out; signals that vanish.

    Source: Balduzzi et al. 2017, "The shattered gradients problem".

    >>> from jinit.theory import shattering
    >>> print(shattering("relu", weight_var=2.0, depth=3, fixed=True).gradient)
    [0.5   0.25  0.125]
    """
    depth, c = deep(depth, _DEEPEST), correlation("c", c)
    checks.choice("norm", norm, NORMS)
    checks.flag("fixed", fixed)
    checks.flag("residual", residual)
    row, scale = NORMS[norm], real("branch_scale", branch_scale)
    second = variance("input_second_moment", input_second_moment, positive=True)
    over_batch = row.batches is not None
    if over_batch and c and not fixed:
        raise ValueError(
            f"behind a batch norm two samples of a large batch have correlation 0, got c={c!r}; "
            f"leave c out, or hold it with fixed=True."
        )
    phi, weight_var = layer.phi, layer.weight_var
    pairs = lru_cache(maxsize=4096)(lambda q, apart: pair(phi, q, apart))
    stream = second if residual else layer.fed(second)
    spread = stream
    # Biases are shared by the two.
    shared = stream * c if residual else weight_var * second * c + layer.bias_var
    rows, log_gradient = [], 0.0
    for _ in range(depth):
        if stream <= 0:
            raise ValueError(
                f"signals of {layer.described()} vanish, and with them what is alike in two; give "
                f"larger variances."
            )
        now = c if fixed else 0.0 if over_batch else min(max(shared / stream, -1.0), 1.0)
        at = row.sees(stream)
        both: Pair = pairs(at, 1 - now)
        steep = weight_var * phi.gradient_second(at)
        alike = weight_var * both.custom_product
        divided = row.divides(stream, spread)
        if residual:
            steep, alike = (1 + scale * scale * each / divided for each in (steep, alike))
        if steep <= 0:
            raise ValueError(
                f"gradients of {layer.described()} vanish at q = {at:g}; give an activation that "
                f"is not constant there."
            )
        ratio = alike / steep
        log_gradient = log_gradient + math.log(ratio) if ratio > 0 else -math.inf
        rows.append((now, math.exp(log_gradient)))
        act_second = phi.second(at)
        product = act_second - both.half_square_difference
        if residual:
            shared += scale * scale * (weight_var * product + layer.bias_var)
            spread += scale * scale * weight_var * phi.variance(at)
            stream = layer.fed(act_second, stream=stream, scale=scale)
        else:
            shared = weight_var * product + layer.bias_var
            spread = weight_var * phi.variance(at)
            stream = layer.fed(act_second)
    return Shattering(*np.array(rows).T)
