"""How alike two inputs are, layer by layer, in a network that was drawn.

Beside it lies `jinit.theory.correlation_trajectory`, for infinitely wide layers. Near c = 1 a
correlation is rounded to 1 long before the inputs have become alike; 1 - c is therefore measured
from the difference d = u - v, less what of it is a difference of lengths:

    1 - c = |d - r v|^2 / (2 |u|^2),    r = |u| / |v| - 1 = d.(u + v) / ((|u| + |v|) |v|).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jinit.networks.description import Description
from jinit.networks.layer import Run, climb, over_layers
from jinit.networks.mlp import as_input, as_measured
from jinit.networks.params import NormState, Params
from jinit.networks.scaled import Scaled, add, normalise, to_array
from jinit.networks.signals import Slopes, scaled_steps
from jinit.runtime import measured


class Correlations(NamedTuple):
    """Of pairs of inputs, in every layer's pre-activations (those of `LayerSignals`), uncentred."""

    correlation: Float[Array, "*batch pairs layers"]
    """c = u.v / (|u| |v|), right also where lengths leave the range of the dtype; NaN where one of
    the two is zero (a ReLU layer that is off)"""
    apart: Float[Array, "*batch pairs layers"]
    """1 - c, to the relative precision of the network's own arithmetic"""
    length: Float[Array, "*batch pairs layers"]
    """q of the first input, the mean square over units"""
    other_length: Float[Array, "*batch pairs layers"]
    """q of the second input"""
    distance: Float[Array, "*batch pairs layers"]
    """mean square of the difference of the two"""


@measured
def correlations(
    net: Description,
    params: Any,
    state: Any,
    x: Float[ArrayLike, "pairs *in"],
    other: Float[ArrayLike, "pairs *in"],
    *,
    train: bool = True,
) -> Correlations:
    """The correlation of pairs of inputs through a network, layer by layer.

        c_l = u_l.v_l / (|u_l| |v_l|),    u_l and v_l the pre-activations of layer l.

    Without norms and skips, and for wide layers drawn by `jinit.init(key, net, "xavier",
    gain=sqrt(weight_var), bias_var=bias_var)`, the mean over keys of `correlation[i, :depth]` is
    `theory.correlation_trajectory(activation, c, depth=depth, ...)`, c and `input_second_moment`
    being those of the inputs.

    Args:
        net, params, state: as in `jinit.forward`; the precision is that of `params`, and float32 at
            least. Where inputs come nearer than it resolves, give float64.
        x: one input of each pair.
        other: the other one.
        train: normalise by the batch, which is all inputs of both sides (True), or by the running
            statistics (False).

    Returns:
        `Correlations`, the layers from the input side, the readout last.

    Raises:
        ValueError: arrays that do not fit the network, or each other.

    Source: Poole et al. 2016, eq. 4 and 5.
    """
    params, state, x = as_measured(net, params, state, x)
    other = as_input(net, params, other, "other")
    if x.shape != other.shape:
        raise ValueError(
            f"x and other must pair one input with one, got {x.shape[0]} and {other.shape[0]}; "
            f"repeat the one that is shorter."
        )
    return _measure(net, train, params, state, jnp.concatenate([x, other]))


@partial(jax.jit, static_argnames=("net", "train"))
def _measure(
    net: Description, train: bool, params: Params, state: NormState, x: jax.Array
) -> Correlations:
    parts = net.parts
    slopes = Slopes(net.activation, x.dtype)

    def up(run: Run, h: Scaled, xs: Any) -> tuple[Scaled, Correlations]:
        out, steps = climb(run.kind, scaled_steps(run, parts, slopes, train, *xs), h, add)
        return out, _compare(run.pre_activation(out, steps["linear"].value))

    seen = over_layers(up, normalise(x), net.runs, params.runs, state.runs)[1]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts).T, *seen)


def _compare(pre: Scaled) -> Correlations:
    """Of the first half of the rows with the second, `[pairs]`."""

    mean = partial(jnp.mean, axis=1)

    def size(mean_square: jax.Array) -> jax.Array:
        return to_array(Scaled(mean_square, 2 * pre.exponent))

    u, v = jnp.split(pre.array.reshape(len(pre.array), -1), 2)
    d = u - v
    q, other = mean(u * u), mean(v * v)
    one, two = jnp.sqrt(q), jnp.sqrt(other)
    longer = mean(d * (u + v)) / ((one + two) * two)
    apart = mean(jnp.square(d - longer[:, None] * v)) / (2 * q)
    return Correlations(1 - apart, apart, size(q), size(other), size(mean(d * d)))
