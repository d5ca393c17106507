"""What happens to the signal, layer by layer, forward and backward.

Both passes carry every array with an exponent of its own (`jinit.scaled`), so that a gradient of
1e-2000 is still a number with a logarithm. Forward, an activation far below the range where it
bends is applied as `phi(s u) / s` with the scale s floored where phi is linear to float32
precision; backward, which is linear in its cotangent, the cotangent is rescaled at every layer.
"""

import math
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jinit import checks
from jinit.activations import SATURATION, Activation, facts
from jinit.networks.losses import LOSSES, Loss, as_targets, loss_function
from jinit.networks.mlp import MLP, Run, as_input, as_stacked
from jinit.networks.norms import BatchStats
from jinit.networks.params import Layer, NormState, Params
from jinit.networks.scaled import Scaled, add, log_rms, normalise, pow2, to_array

__all__ = ["SATURATION", "LayerSignals", "layer_signals"]


class LayerSignals(NamedTuple):
    """Per-layer statistics over batch and units; every array is `[layers]`, input side first.

    The pre-activation of a layer is its linear output `h W + b`, before the norm; in a residual
    block it is the stream after the block. The activation is what the activation function returns:
    in a residual block, what the branch's weights read. The readout has no activation function;
    its activation is its output. Logarithms are natural, and finite where the value itself leaves
    the range of float32 (the means and stds then show 0 or inf).
    """

    pre_mean: Float[Array, "*batch layers"]
    pre_std: Float[Array, "*batch layers"]
    act_mean: Float[Array, "*batch layers"]
    act_std: Float[Array, "*batch layers"]
    log_pre: Float[Array, "*batch layers"]
    """log root-mean-square of the pre-activations"""
    log_act: Float[Array, "*batch layers"]
    """log root-mean-square of the activations"""
    dead: Float[Array, "*batch layers"]
    """fraction of units whose slope is exactly 0 on every sample (a ReLU that is never on)"""
    saturated: Float[Array, "*batch layers"]
    """fraction of entries whose slope is below `SATURATION` of the steepest (for ReLU: off)"""
    log_grad: Float[Array, "*batch layers"]
    """log root-mean-square gradient of the loss by the pre-activations"""
    log_weight_grad: Float[Array, "*batch layers"]
    """log root-mean-square gradient of the loss by the weights"""
    pre_histogram: Int[Array, "*batch layers bins"] | None
    """counts of pre-activations between the given bin edges, on request"""
    act_histogram: Int[Array, "*batch layers bins"] | None
    """counts of activations between the given bin edges, on request"""


def layer_signals(
    net: MLP,
    params: Any,
    state: Any,
    x: Float[ArrayLike, "batch in"],
    y: Any = None,
    *,
    key: jax.Array | None = None,
    loss: str | Loss | None = None,
    train: bool = True,
    bins: ArrayLike | None = None,
) -> LayerSignals:
    """Statistics of activations and gradients in every layer.

    Args:
        net: the description.
        params: what `init` returned, or a sequence of `Layer`s; bfloat16 and float16 are widened
            to float32.
        state: what `init` returned.
        x: inputs.
        y: labels [batch] or float targets [batch, out]; the gradient is then the loss's.
        key: without y, the output cotangent is drawn from it, N(0, 1) per entry.
        loss: as in `jinit.train`; None chooses by the labels.
        train: normalise by the batch (True) or by the running statistics (False).
        bins: increasing edges [bins + 1]; adds histograms.

    Returns:
        `LayerSignals`. Gradients are of the mean loss over the batch. Those of cross-entropies
        are right however sure the net is; a squared error or a loss of your own sees float32
        outputs, which overflow beyond 3e38. The slope of a bounded activation is a float32 number:
        where it is below 1e-38 for every unit of a layer (tanh: all pre-activations beyond 44),
        the gradient is 0 and its logarithm minus infinity.

    Raises:
        ValueError: arrays that do not fit the network, or neither y nor key.
    """
    params, state = _at_least_float32(as_stacked(net, params, state))
    checks.finite("x", x)
    x = as_input(net, x, params.runs[0].w.dtype)
    if y is None and key is None:
        raise ValueError(
            "layer_signals needs labels y for the gradient of a loss, or key=jax.random.key(0) "
            "for a random output gradient; got neither."
        )
    if net.norm == "batch" and train and x.shape[0] < 2:
        raise ValueError(
            f"batch norm in training needs a batch of at least 2 samples, got {x.shape[0]}; "
            f"use a larger batch or train=False."
        )
    edges = None if bins is None else _check_bins(bins, x.dtype)
    if y is None:
        probe = checks.key(cast("jax.Array", key))
        return _measure(net, None, train, params, state, x, probe, edges)
    shape = (x.shape[0], net.dims[-1])
    targets = as_targets(y, shape, loss)
    function = loss_function(loss, targets, shape)
    return _measure(net, function, train, params, state, x, targets, edges)


# Compiled, because op by op a first call would take as long as compiling each operation.
@partial(jax.jit, static_argnames=("net", "loss", "train"))
def _measure(
    net: MLP,
    loss: Loss | None,
    train: bool,
    params: Params,
    state: NormState,
    x: jax.Array,
    targets: jax.Array,
    edges: jax.Array | None,
) -> LayerSignals:
    """The two passes; without a loss, `targets` is the key of a random output gradient."""
    slopes = _Slopes(net.activation, x.dtype)
    h = normalise(x)
    caches: list[Any] = []
    forward_parts: list[_Forward] = []
    for run, layers, stats in zip(net.runs, params.runs, state.runs, strict=True):

        def up(h: Scaled, xs: Any, run: Run = run) -> Any:
            layer, stats = xs
            return _layer_up(net, run, slopes, layer, stats, h, train, edges)

        h, (cache, part) = _over_layers(up, h, (layers, stats), run.length)
        caches.append(cache)
        forward_parts.append(part)

    if loss is None:
        g = normalise(jax.random.normal(targets, h.array.shape, x.dtype))
    else:
        g = _output_gradient(h, targets, loss)

    backward_parts: list[_Backward] = []
    for run, layers, stats, cache in reversed(
        list(zip(net.runs, params.runs, state.runs, caches, strict=True))
    ):

        def down(g: Scaled, xs: Any, run: Run = run) -> Any:
            layer, stats, cache = xs
            return _layer_down(net, run, slopes, layer, stats, cache, g, train)

        g, part = _over_layers(down, g, (layers, stats, cache), run.length, reverse=True)
        backward_parts.append(part)

    def join(*parts: Any) -> Any:
        return jnp.concatenate(parts)

    forward = jax.tree.map(join, *forward_parts)
    backward = jax.tree.map(join, *reversed(backward_parts))
    return LayerSignals(**forward._asdict() | backward._asdict())


def _at_least_float32(tree: Any) -> Any:
    def wide(leaf: jax.Array) -> jax.Array:
        return leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf

    return jax.tree.map(wide, tree)


# --- one layer up ----------------------------------------------------------------------------


class _Forward(NamedTuple):
    pre_mean: Any
    pre_std: Any
    act_mean: Any
    act_std: Any
    log_pre: Any
    log_act: Any
    dead: Any
    saturated: Any
    pre_histogram: Any
    act_histogram: Any


class _Backward(NamedTuple):
    log_grad: Any
    log_weight_grad: Any


class _Cache(NamedTuple):
    """What the backward pass reads: the layer's input and its linear output (if needed)."""

    h: Scaled
    z: Scaled | None


def _layer_up(
    net: MLP,
    run: Run,
    slopes: "_Slopes",
    layer: Layer,
    stats: BatchStats | None,
    h: Scaled,
    train: bool,
    edges: jax.Array | None,
) -> tuple[Scaled, tuple[_Cache, _Forward]]:
    if run.readout:
        z = _linear(layer, h)
        return z, (_Cache(h, None), _describe(z, z, None, slopes, edges))
    if net.is_block(run):
        u = _norm(net, layer, stats, h, train)
        a, slope = slopes.apply(u)
        stream = add(h, _branch(net, layer, _linear(layer, a)))
        return stream, (_Cache(h, None), _describe(stream, a, slope, slopes, edges))
    z = _linear(layer, h)
    a, slope = slopes.apply(_norm(net, layer, stats, z, train))
    return a, (_Cache(h, z), _describe(z, a, slope, slopes, edges))


def _layer_down(
    net: MLP,
    run: Run,
    slopes: "_Slopes",
    layer: Layer,
    stats: BatchStats | None,
    cache: _Cache,
    g: Scaled,
    train: bool,
) -> tuple[Scaled, _Backward]:
    """From the gradient by the layer's output to that by its input."""
    if run.readout:
        return _through_linear(layer, g), _Backward(
            log_rms(g), log_rms(_weight_gradient(cache.h, g))
        )
    if net.is_block(run):
        u, pull = _norm_and_pullback(net, layer, stats, cache.h, train)
        a, slope = slopes.apply(u)
        gz = _branch(net, layer, g)
        gu = normalise(slope * (gz.array @ layer.w.T), gz.exponent)
        return add(g, pull(gu)), _Backward(log_rms(g), log_rms(_weight_gradient(a, gz)))
    assert cache.z is not None
    u, pull = _norm_and_pullback(net, layer, stats, cache.z, train)
    _, slope = slopes.apply(u)
    gz = pull(normalise(slope * g.array, g.exponent))
    return _through_linear(layer, gz), _Backward(
        log_rms(gz), log_rms(_weight_gradient(cache.h, gz))
    )


def _over_layers(step: Any, carry: Scaled, xs: Any, length: int, reverse: bool = False) -> Any:
    """`lax.scan`, with a run of one layer applied directly."""
    if length > 1:
        return jax.lax.scan(step, carry, xs, reverse=reverse)
    carry, out = step(carry, jax.tree.map(lambda leaf: leaf[0], xs))
    return carry, jax.tree.map(lambda leaf: leaf[None], out)


def _linear(layer: Layer, h: Scaled) -> Scaled:
    z = normalise(h.array @ layer.w, h.exponent)
    return z if layer.b is None else add(z, normalise(layer.b[None]))


def _through_linear(layer: Layer, g: Scaled) -> Scaled:
    return normalise(g.array @ layer.w.T, g.exponent)


def _weight_gradient(h: Scaled, g: Scaled) -> Scaled:
    return normalise(h.array.T @ g.array, h.exponent + g.exponent)


def _branch(net: MLP, layer: Layer, z: Scaled) -> Scaled:
    scale = net.branch_scale if layer.alpha is None else net.branch_scale * layer.alpha
    return normalise(scale * z.array, z.exponent)


# --- norms -----------------------------------------------------------------------------------


def _norm(net: MLP, layer: Layer, stats: BatchStats | None, z: Scaled, train: bool) -> Scaled:
    return _norm_and_pullback(net, layer, stats, z, train)[0]


def _norm_and_pullback(
    net: MLP, layer: Layer, stats: BatchStats | None, z: Scaled, train: bool
) -> tuple[Scaled, Any]:
    """The normalised pre-activation, and the map of its gradient to that of `z`."""
    if net.norm is None:
        return z, lambda g: g
    axis = 0 if net.norm == "batch" else 1
    if net.norm == "batch" and not train:
        assert stats is not None
        inverse = 1 / jnp.sqrt(stats.var[None] + net.eps)
        centred = add(z, normalise(-stats.mean[None]))
        scaled = normalise(layer.gamma[None] * inverse * centred.array, centred.exponent)

        def pull_fixed(g: Scaled) -> Scaled:
            return normalise(layer.gamma[None] * inverse * g.array, g.exponent)

        return _shifted(layer, scaled), pull_fixed

    # (z - mean) / sqrt(var + eps) with z = array * 2**e: dividing both by 2**e turns eps into
    # eps * 4**-e. For very small signals that would overflow; but 20 bits below the root of eps
    # the variance is nothing beside eps, and e need not go on.
    eps_only = math.floor(math.log2(net.eps) / 2) - 20 if net.eps > 0 else 0
    small = jnp.maximum(z.exponent, eps_only) if net.eps > 0 else z.exponent
    factor = pow2(-small, z.array.dtype)
    eps = net.eps * factor * factor
    if net.eps > 0:
        eps = jnp.maximum(eps, float(jnp.finfo(z.array.dtype).tiny))

    def standardise(array: jax.Array) -> jax.Array:
        centred = array - jnp.mean(array, axis=axis, keepdims=True)
        var = jnp.mean(jnp.square(centred), axis=axis, keepdims=True)
        return layer.gamma[None] * (centred / jnp.sqrt(var + eps))

    standard, pullback = jax.vjp(standardise, z.array)

    def pull(g: Scaled) -> Scaled:
        return normalise(pullback(g.array)[0], g.exponent - small)

    return _shifted(layer, normalise(standard, z.exponent - small)), pull


def _shifted(layer: Layer, u: Scaled) -> Scaled:
    return add(u, normalise(layer.beta[None]))


# --- activations -----------------------------------------------------------------------------


class _Slopes:
    """An activation with its slope, on arrays of any size.

    Where phi is linear to float32 precision (for arguments below 2**-33, if phi(0) = 0) or grows
    in proportion (above 2**60, as ReLU does and tanh does not), its argument is brought back to
    that edge and the exponent carried on.
    """

    low, high = -33, 60

    def __init__(self, phi: str | Activation, dtype: Any) -> None:
        row = facts(phi)
        self.phi, self.exact_slope, self.dtype = row.function, row.slope, dtype
        self.proportional_low = self._proportional(self.low)
        self.proportional_high = self._proportional(self.high)
        grid = jnp.linspace(-8.0, 8.0, 1601, dtype=dtype)
        self.steepest = jnp.max(jnp.abs(self._value_and_slope(grid)[1]))

    def _value_and_slope(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.exact_slope is not None:
            return self.phi(u), self.exact_slope(u)
        return jax.jvp(self.phi, (u,), (jnp.ones_like(u),))

    def _proportional(self, exponent: int) -> jax.Array:
        ends = jnp.asarray([-1.0, 1.0], self.dtype) * 2.0**exponent
        once, twice = jnp.sum(jnp.abs(self.phi(ends))), jnp.sum(jnp.abs(self.phi(2 * ends)))
        return (once > 0) & (jnp.abs(twice / once - 2) < 1e-3)

    def apply(self, u: Scaled) -> tuple[Scaled, jax.Array]:
        """(phi(u), phi'(u)) entry by entry."""
        low = jnp.where(self.proportional_low, self.low, int(jnp.finfo(self.dtype).minexp))
        high = jnp.where(self.proportional_high, self.high, int(jnp.finfo(self.dtype).maxexp) - 2)
        exponent = jnp.clip(u.exponent, low, high)
        carried = jnp.where(
            ((u.exponent < low) & self.proportional_low)
            | ((u.exponent > high) & self.proportional_high),
            u.exponent - exponent,
            0,
        )
        value, slope = self._value_and_slope(u.array * pow2(exponent, self.dtype))
        return normalise(value, carried), slope


# --- statistics ------------------------------------------------------------------------------


def _describe(
    pre: Scaled, act: Scaled, slope: jax.Array | None, slopes: _Slopes, edges: jax.Array | None
) -> _Forward:
    if slope is None:
        dead = saturated = jnp.zeros((), pre.array.dtype)
    else:
        dead = jnp.mean(jnp.all(slope == 0, axis=0).astype(slope.dtype))
        saturated = jnp.mean((jnp.abs(slope) < SATURATION * slopes.steepest).astype(slope.dtype))
    return _Forward(
        pre_mean=_unscaled(jnp.mean(pre.array), pre),
        pre_std=_unscaled(jnp.std(pre.array), pre),
        act_mean=_unscaled(jnp.mean(act.array), act),
        act_std=_unscaled(jnp.std(act.array), act),
        log_pre=log_rms(pre),
        log_act=log_rms(act),
        dead=dead,
        saturated=saturated,
        pre_histogram=_histogram(pre, edges),
        act_histogram=_histogram(act, edges),
    )


def _unscaled(statistic: jax.Array, of: Scaled) -> jax.Array:
    return to_array(Scaled(statistic, of.exponent))


def _histogram(x: Scaled, edges: jax.Array | None) -> jax.Array | None:
    if edges is None:
        return None
    return jnp.histogram(to_array(x), bins=edges)[0].astype(jnp.int32)


def _check_bins(bins: Any, dtype: Any) -> jax.Array:
    checks.finite("bins", bins)
    edges = jnp.asarray(bins, dtype)
    shaped = edges.ndim == 1 and edges.shape[0] >= 2
    rising = not checks.is_concrete(bins) or not shaped or bool(np.all(np.diff(bins) > 0))
    if not (shaped and rising):
        raise ValueError(
            f"bins must be a vector of at least two increasing edges, got "
            f"{f'shape {list(edges.shape)}' if rising else bins}; use np.linspace(-1, 1, 51)."
        )
    return edges


# --- the gradient by the outputs -------------------------------------------------------------


def _output_gradient(h: Scaled, targets: jax.Array, loss: Loss) -> Scaled:
    """Gradient of the loss by the outputs, of whatever size they are."""
    if loss is LOSSES["cross_entropy"]:
        return _cross_entropy_gradient(_capped(h), targets)
    if loss is LOSSES["binary_cross_entropy"]:
        return _binary_gradient(_capped(h), targets)
    return normalise(jax.grad(loss)(to_array(h), targets))


def _capped(h: Scaled) -> jax.Array:
    """The outputs as numbers; beyond 2**90 a softmax is one-hot to any precision."""
    return to_array(Scaled(h.array, jnp.minimum(h.exponent, 90)))


def _cross_entropy_gradient(outputs: jax.Array, y: jax.Array) -> Scaled:
    """(softmax - onehot) / batch, from logarithms: subtracting would round a sure net's to 0."""
    hit = jax.nn.one_hot(y, outputs.shape[1], dtype=outputs.dtype) > 0
    log_miss = jnp.where(hit, -jnp.inf, jax.nn.log_softmax(outputs))
    exponent, miss = _exp(log_miss)
    total = jnp.sum(miss, axis=1, keepdims=True)
    return normalise(jnp.where(hit, -total, miss) / outputs.shape[0], exponent)


def _binary_gradient(outputs: jax.Array, y: jax.Array) -> Scaled:
    """(sigmoid - y) / batch, likewise; the error of a sample is sigmoid(-margin)."""
    sign = jnp.where(y.reshape(outputs.shape) > 0, -1, 1).astype(outputs.dtype)
    exponent, error = _exp(jax.nn.log_sigmoid(sign * outputs))
    return normalise(sign * error / outputs.shape[0], exponent)


def _exp(logs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(k, exp(logs) / 2**k) with the largest entry near one."""
    lowest = float(-(2**29))
    exponent = jnp.floor(jnp.maximum(jnp.max(logs), lowest) / math.log(2)).astype(jnp.int32)
    return exponent, jnp.exp(logs - exponent.astype(logs.dtype) * math.log(2))
