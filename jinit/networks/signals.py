"""What happens to the signal, layer by layer, forward and backward.

Both passes carry every array with an exponent of its own (`networks.scaled`), so that a gradient of
1e-2000 is still a number with a logarithm. Forward, an activation far below the range where it
bends is applied as `phi(s u) / s` with the scale s floored where phi is linear to float32
precision; backward, which is linear in its cotangent, the cotangent is rescaled at every layer.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jinit import checks
from jinit.activations import SATURATION, Activation, facts
from jinit.networks.base import Loss
from jinit.networks.convolution import convolve_rows, project_rows
from jinit.networks.description import Description
from jinit.networks.layer import Parts, Run, Steps, climb, descend, over_layers
from jinit.networks.losses import LOSSES, as_targets, loss_function
from jinit.networks.mlp import as_measured
from jinit.networks.norms import check_batch
from jinit.networks.params import NormState, Params
from jinit.networks.scaled import Scaled, add, log_rms, normalise, pow2, to_array
from jinit.runtime import measured


class LayerSignals(NamedTuple):
    """Per-layer statistics over batch and units; every array is `[layers]`, input side first.

    The one record of what happens in layers, wherever it comes from: of a network here, or of
    anybody's model by `jinit.diagnose`. The pre-activation of a layer is its linear output
    `h W + b`, before the norm; in a residual block it is the stream after the block. The activation
    is what the activation function returns: in a residual block, what the branch's weights read.
    The readout has no activation function; its activation is its output. Logarithms are natural, of
    a root mean square, and finite where the value itself leaves the range of float32 (the means and
    stds then show 0 or inf).
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
    """fraction of units whose slope is exactly 0 on every sample (a ReLU that is never on); of a
    `ConvNet` these are channels, on every sample and pixel"""
    saturated: Float[Array, "*batch layers"]
    """fraction of entries whose slope is below `SATURATION` of the steepest (for ReLU: off)"""
    log_grad: Float[Array, "*batch layers"]
    """log root-mean-square gradient of the loss by the pre-activations"""
    log_weight_grad: Float[Array, "*batch layers"]
    """log root-mean-square gradient of the loss by the weights"""
    pre_histogram: Int[Array, "*batch layers bins"] | None = None
    """counts of pre-activations between the given bin edges, on request"""
    act_histogram: Int[Array, "*batch layers bins"] | None = None
    """counts of activations between the given bin edges, on request"""


@measured
def layer_signals(
    net: Description,
    params: Any,
    state: Any,
    x: Float[ArrayLike, "batch *in"],
    y: Any = None,
    *,
    key: jax.Array | None = None,
    loss: str | Loss | None = None,
    train: bool = True,
    bins: ArrayLike | None = None,
) -> LayerSignals:
    """Statistics of activations and gradients in every layer.

    Args:
        net, params, state: as in `jinit.forward`; bfloat16 and float16 are widened to float32.
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
    params, state, x = as_measured(net, params, state, x)
    if y is None and key is None:
        raise ValueError(
            "layer_signals needs labels y for the gradient of a loss, or key=jax.random.key(0) "
            "for a random output gradient; got neither."
        )
    if y is not None and key is not None:
        raise ValueError(
            "layer_signals takes labels y, for the gradient of a loss, or a key, for a random "
            "output gradient; got both: leave one out."
        )
    checks.flag("train", train)
    check_batch("batch" if net.parts.norm.over_batch else None, net.entries(len(x)), train)
    edges = None if bins is None else _check_bins(bins, x.dtype)
    function = None
    if y is None:
        targets = checks.key(key)
    else:
        shape = (x.shape[0], net.outputs)
        targets = as_targets(y, shape, loss)
        function = loss_function(loss, targets, shape)
        checks.loss_value(jax.eval_shape(function, jax.ShapeDtypeStruct(shape, x.dtype), targets))
    return _measure(net, function, train, params, state, x, targets, edges)


# Compiled, because op by op a first call would take as long as compiling each operation.
@partial(jax.jit, static_argnames=("net", "loss", "train"))
def _measure(
    net: Description,
    loss: Loss | None,
    train: bool,
    params: Params,
    state: NormState,
    x: jax.Array,
    targets: jax.Array,
    edges: jax.Array | None,
) -> LayerSignals:
    """The two passes; without a loss, `targets` is the key of a random output gradient."""
    parts = net.parts
    slopes = Slopes(net.activation, x.dtype)  # by its name, with a slope that does not round

    def steps_of(run: Run, *xs: Any) -> Steps[Scaled]:
        return scaled_steps(run, parts, slopes, train, *xs)

    def up(run: Run, h: Scaled, xs: Any) -> Any:
        out, steps = climb(run.kind, steps_of(run, *xs), h, add)
        return out, ((h, steps["linear"].value), _describe(run, out, steps, slopes, edges))

    def down(run: Run, g: Scaled, xs: Any) -> Any:
        layer, stats, (h, z) = xs
        steps = climb(run.kind, steps_of(run, layer, stats, z), h, add)[1]
        by_h, by_value = descend(run.kind, steps, g, add)
        by_pre, by_z = run.pre_activation(g, by_value["linear"]), by_value["linear"]
        read = steps["linear"].read
        found = _by_weights(run, layer.w, read.array, by_z.array)
        by_w = normalise(found, read.exponent + by_z.exponent)
        return by_h, {"log_grad": log_rms(by_pre), "log_weight_grad": log_rms(by_w)}

    own = params.runs, state.runs
    h, seen = over_layers(up, normalise(x), net.runs, *own)
    caches, forward = zip(*seen, strict=True)
    if loss is None:
        g = normalise(jax.random.normal(targets, h.array.shape, x.dtype))
    else:
        g = _output_gradient(h, targets, loss)
    backward = over_layers(down, g, net.runs, *own, caches, reverse=True)[1]
    found = [there | back for there, back in zip(forward, backward, strict=True)]
    return LayerSignals(**jax.tree.map(lambda *parts: jnp.concatenate(parts), *found))


class _Times(NamedTuple):
    """Entry by entry; it is its own way back."""

    factor: Any

    def __call__(self, x: Scaled) -> Scaled:
        return normalise(self.factor * x.array, x.exponent)


def _by_weights(run: Run, w: jax.Array, read: jax.Array, by_z: jax.Array) -> jax.Array:
    if run.window is None:
        return read.T @ by_z
    return jax.vjp(lambda w: convolve_rows(w, read, run.window), w)[1](by_z)[0]


def scaled_steps(
    run: Run, parts: Parts, slopes: "Slopes", train: bool, layer: Any, stats: Any, z: Any = None
) -> Steps[Scaled]:
    """The steps on samples as rows; beside each stands the way back. A known `z` saves a product.

    The ways back are no `jax.vjp` of Scaled arithmetic: its cotangents would be plain floats, which
    die where a sum's terms lie far apart, and took 1.3 to 1.8 times as long.
    """

    def linear(h: Scaled) -> tuple[Scaled, Any]:
        if run.window is None:
            product, back = lambda h: h @ layer.w, lambda g: g @ layer.w.T
        else:
            product = lambda h: convolve_rows(layer.w, h, run.window)  # noqa: E731
            back = _back(product, h.array)
        out = normalise(product(h.array), h.exponent) if z is None else z
        if z is None and layer.b is not None:
            out = add(out, normalise(_spread(layer.b, out.array)))
        return out, lambda g: normalise(back(g.array), g.exponent)

    def branch(z: Scaled) -> tuple[Scaled, _Times]:
        times = _Times(parts.branch if layer.alpha is None else parts.branch * layer.alpha)
        return times(z), times

    def mapped(function: Callable[[jax.Array], jax.Array]) -> Callable[[Scaled], Any]:
        def step(h: Scaled) -> tuple[Scaled, Any]:
            back = _back(function, h.array)
            value = normalise(function(h.array), h.exponent)
            return value, lambda g: normalise(back(g.array), g.exponent)

        return step

    def pool(h: jax.Array) -> jax.Array:
        return jnp.mean(h, (1, 2)) if parts.pool == "mean" else h.reshape(len(h), -1)

    return {
        "linear": linear,
        "norm": partial(_norm, parts, train, layer, stats),
        "activate": slopes.apply,
        "branch": branch,
        "pool": mapped(pool),
        "project": mapped(lambda h: project_rows(layer.projection, h, run.window.stride)),
    }


def _back(function: Callable[[jax.Array], jax.Array], at: jax.Array) -> Callable[..., jax.Array]:
    """The transpose of a linear function."""
    return lambda g: jax.vjp(function, at)[1](g)[0]


def _spread(features: jax.Array, over: jax.Array) -> jax.Array:
    """A number for each feature, beside samples whose last axis counts them."""
    return jnp.expand_dims(features, tuple(range(over.ndim - 1)))


def _norm(parts: Parts, train: bool, layer: Any, stats: Any, z: Scaled) -> tuple[Scaled, Any]:
    standardise = parts.norm.standardise
    if standardise is None:
        return z, lambda g: g
    spread = partial(_spread, over=z.array)
    gamma, beta = spread(layer.gamma), normalise(spread(layer.beta))
    if stats is not None and not train:
        times = _Times(gamma * (1 / jnp.sqrt(spread(stats.var) + parts.eps)))
        return add(times(add(z, normalise(-spread(stats.mean)))), beta), times

    # (z - mean) / sqrt(var + eps) with z = array * 2**e: dividing both by 2**e turns eps into
    # eps * 4**-e. For very small signals that would overflow; but 20 bits below the root of eps
    # the variance is nothing beside eps, and e need not go on.
    small, eps = z.exponent, jnp.zeros((), z.array.dtype)
    if parts.eps > 0:
        small = jnp.maximum(small, math.floor(math.log2(parts.eps) / 2) - 20)
        eps = parts.eps * jnp.square(pow2(-small, eps.dtype))
        eps = jnp.maximum(eps, float(jnp.finfo(eps.dtype).tiny))
    standard, back = jax.vjp(lambda array: gamma * standardise(array, eps, 0), z.array)
    value = add(normalise(standard, z.exponent - small), beta)
    return value, lambda g: normalise(back(g.array)[0], g.exponent - small)


class Slopes:
    """An activation with its slope, on arrays of any size.

    Where phi is linear to float32 precision (for arguments below 2**-33, if phi(0) = 0) or grows
    in proportion (above 2**60, as ReLU does and tanh does not), its argument is brought back to
    that edge and the exponent carried on.
    """

    low, high = -33, 60

    def __init__(self, phi: str | Activation, dtype: Any) -> None:
        """What does not depend on the layer is looked at once."""
        self.row, self.dtype = facts(phi), dtype
        self.proportional_low = self._proportional(self.low)
        self.proportional_high = self._proportional(self.high)
        grid = jnp.linspace(-8.0, 8.0, 1601, dtype=dtype)
        self.steepest = jnp.max(jnp.abs(self._value_and_slope(grid)[1]))

    def _value_and_slope(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.row.slope is not None:
            return self.row(u), self.row.slope(u)
        return jax.jvp(self.row.function, (u,), (jnp.ones_like(u),))

    def _proportional(self, exponent: int) -> jax.Array:
        ends = jnp.asarray([-1.0, 1.0], self.dtype) * 2.0**exponent
        once, twice = jnp.sum(jnp.abs(self.row(ends))), jnp.sum(jnp.abs(self.row(2 * ends)))
        return (once > 0) & (jnp.abs(twice / once - 2) < 1e-3)

    def apply(self, u: Scaled) -> tuple[Scaled, _Times]:
        """phi(u), and the way back: times phi'(u)."""
        low, high = u.exponent - self.low, u.exponent - self.high
        carried = jnp.where(self.proportional_low, jnp.minimum(low, 0), 0)
        carried += jnp.where(self.proportional_high, jnp.maximum(high, 0), 0)
        info = jnp.finfo(self.dtype)
        exponent = jnp.clip(u.exponent - carried, int(info.minexp), int(info.maxexp) - 2)
        value, slope = self._value_and_slope(u.array * pow2(exponent, self.dtype))
        return normalise(value, carried), _Times(slope)


def _describe(
    run: Run, out: Scaled, steps: Any, slopes: Slopes, edges: jax.Array | None
) -> dict[str, Any]:
    """What the forward pass says of a layer."""
    pre, act = run.pre_activation(out, steps["linear"].value), out
    dead = saturated = jnp.zeros((), out.array.dtype)
    if "activate" in steps:
        act, slope = steps["activate"].value, steps["activate"].beside.factor
        samples = tuple(range(slope.ndim - 1))  # and pixels
        dead = jnp.mean(jnp.all(slope == 0, axis=samples).astype(slope.dtype))
        saturated = jnp.mean((jnp.abs(slope) < SATURATION * slopes.steepest).astype(slope.dtype))
    found = {"dead": dead, "saturated": saturated}
    for name, x in (("pre", pre), ("act", act)):
        found[f"{name}_mean"] = to_array(Scaled(jnp.mean(x.array), x.exponent))
        found[f"{name}_std"] = to_array(Scaled(jnp.std(x.array), x.exponent))
        found[f"log_{name}"] = log_rms(x)
        if edges is not None:
            counts = jnp.histogram(to_array(x), bins=edges)[0]
            found[f"{name}_histogram"] = counts.astype(jnp.int32)
    return found


def _check_bins(bins: Any, dtype: Any) -> jax.Array:
    checks.numeric("bins", bins)
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


def _output_gradient(h: Scaled, targets: jax.Array, loss: Loss) -> Scaled:
    """Gradient of the loss by the outputs, of whatever size they are."""
    # As numbers; beyond 2**90 a softmax is one-hot to any precision.
    outputs = to_array(Scaled(h.array, jnp.minimum(h.exponent, 90)))
    if loss is LOSSES["cross_entropy"]:
        return _cross_entropy_gradient(outputs, targets)
    if loss is LOSSES["binary_cross_entropy"]:  # a softmax of two, the first held at 0
        two = jnp.pad(outputs, ((0, 0), (1, 0)))
        g = _cross_entropy_gradient(two, (targets.ravel() > 0).astype(jnp.int32))
        return Scaled(g.array[:, 1:], g.exponent)
    return normalise(jax.grad(loss)(to_array(h), targets))


def _cross_entropy_gradient(outputs: jax.Array, y: jax.Array) -> Scaled:
    """(softmax - onehot) / batch, from logarithms: subtracting would round a sure net's to 0."""
    hit = jax.nn.one_hot(y, outputs.shape[1], dtype=outputs.dtype) > 0
    logs = jnp.where(hit, -jnp.inf, jax.nn.log_softmax(outputs))
    exponent = jnp.floor(jnp.maximum(jnp.max(logs), -(2.0**29)) / math.log(2)).astype(jnp.int32)
    miss = jnp.exp(logs - exponent.astype(logs.dtype) * math.log(2))
    total = jnp.sum(miss, axis=1, keepdims=True)
    return normalise(jnp.where(hit, -total, miss) / outputs.shape[0], exponent)
