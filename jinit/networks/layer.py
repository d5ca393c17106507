"""One layer, written once: its steps in order, the walk up and down them, and that up all layers.

A layer is linear, norm, activation: `h' = phi(norm(h W + b))`. In a residual net a square layer is
a pre-activation block instead, `h' = h + a (phi(norm(h)) W + b)`. The last layer is a linear
readout without norm, activation or skip. A convolutional net has two more: a stage, a block whose
input is projected where it does not fit, and a readout that pools first. What a step does is the
caller's: `plain_steps` are those of `forward`; `layer_signals` takes its own, which know the way
back and leave no float's range.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jinit.activations import Activation
from jinit.networks.linear import linear
from jinit.networks.norms import BatchStats, Norm
from jinit.networks.params import ConvLayer, Layer

Kind = Literal["plain", "block", "readout", "stage", "pooled"]
StepName = Literal["linear", "norm", "activate", "branch", "project", "pool"]
X = TypeVar("X")
Steps = Mapping[StepName, Callable[[X], tuple[X, Any]]]


class Order(NamedTuple):
    """The steps of a layer; with `skip` its input is added to what the last one gives.

    `around` is a step that the input takes on the way round.
    """

    steps: tuple[StepName, ...]
    skip: bool = False
    around: StepName | None = None


LAYERS: dict[Kind, Order] = {
    "plain": Order(("linear", "norm", "activate")),
    "block": Order(("norm", "activate", "linear", "branch"), skip=True),
    "readout": Order(("linear",)),
    "stage": Order(("norm", "activate", "linear", "branch"), skip=True, around="project"),
    "pooled": Order(("pool", "linear")),
}


class Branch(NamedTuple):
    """How a residual net weighs a branch: by a factor of how many there are, and one it learns."""

    factor: Callable[[int], float] = lambda branches: 1.0
    learned: bool = False


RESIDUALS: dict[str | None, Branch] = {
    None: Branch(),
    "plain": Branch(),
    "scaled": Branch(lambda branches: 1 / math.sqrt(max(branches, 1))),
    "skipinit": Branch(learned=True),
}


class Run(NamedTuple):
    """Consecutive layers with weights of one shape: stacked, and scanned when `length` > 1."""

    start: int
    length: int
    shape: tuple[int, ...]
    kind: Kind
    window: Any = None
    """of a convolution: `convolution.Window`"""

    def pre_activation(self, out: X, z: X) -> X:
        """What a record shows of an output and a linear output z, or of the gradients by them."""
        return out if LAYERS[self.kind].skip else z


class Parts(NamedTuple):
    """What the layers of a network have in common.

    `branch` is the fixed factor of a branch, `pool` how an image becomes a vector.
    """

    activation: Activation
    norm: Norm
    momentum: float
    eps: float
    branch: float
    pool: str | None = None


class Seen(NamedTuple):
    """What a step read, what it made of it, and what it says beside."""

    read: Any
    value: Any
    beside: Any


def climb(
    kind: Kind, steps: Steps[X], h: X, add: Callable[[X, X], X] = operator.add
) -> tuple[X, dict[StepName, Seen]]:
    """The layer's output, and its steps."""
    order, x, seen = LAYERS[kind], h, {}
    for name in order.steps:
        seen[name] = Seen(x, *steps[name](x))
        x = seen[name].value
    if order.around is not None:
        seen[order.around] = Seen(h, *steps[order.around](h))
        h = seen[order.around].value
    return add(h, x) if order.skip else x, seen


def descend(
    kind: Kind, seen: Mapping[StepName, Seen], g: X, add: Callable[[X, X], X]
) -> tuple[X, dict[StepName, X]]:
    """Gradients by the input and by each step's value; `beside` leads from one to the next."""
    order, x, by_value = LAYERS[kind], g, {}
    for name in reversed(order.steps):
        by_value[name] = x
        x = seen[name].beside(x)
    if order.around is not None:
        by_value[order.around] = g
        g = seen[order.around].beside(g)
    return add(g, x) if order.skip else x, by_value


def over_layers(
    step: Any,
    carry: X,
    runs: Sequence[Run],
    *xs: Any,
    unroll: int = 0,
    chunk: int = 1,
    reverse: bool = False,
) -> tuple[X, list[Any]]:
    """`lax.scan` of `step(run, carry, layer) -> (carry, seen)` over the layers of all runs.

    Of each of `xs`, which hold something stacked by run, a step gets what is its layer's. A run of
    one layer is applied directly, one of up to `unroll` layers is unrolled, a longer one goes by
    `chunk` layers at a time.
    """
    found = []
    walk = list(zip(runs, *xs, strict=True))
    for run, *own in reversed(walk) if reverse else walk:
        if run.length == 1:
            carry, seen = step(run, carry, jax.tree.map(lambda leaf: leaf[0], own))
            seen = jax.tree.map(lambda leaf: leaf[None], seen)
        else:
            at_once = run.length if run.length <= unroll else chunk
            carry, seen = jax.lax.scan(
                partial(step, run), carry, own, unroll=at_once, reverse=reverse
            )
        found.append(seen)
    return carry, found[::-1] if reverse else found


def plain_steps(
    kind: Kind,
    parts: Parts,
    train: bool,
    layer: Layer | ConvLayer,
    stats: BatchStats | None,
    *,
    batch_axis: int | tuple[int, ...] = 1,
    product: Callable[[Any, jax.Array], jax.Array] = linear,
) -> Steps[jax.Array]:
    """The steps on arrays [features, batch], or [batch, features] where `batch_axis` is 0.

    Or on images, with several axes that are not the features', and another `product(w, h)`.

    Beside the norm stand the statistics after it. A bias in front of a batch's own mean, which
    takes it away again, is added to the running mean alone; its gradient is exactly 0.
    """
    b, shift = layer.b, None
    if train and parts.norm.over_batch and LAYERS[kind].steps[:2] == ("linear", "norm"):
        b, shift = None, layer.b

    def affine(h: jax.Array) -> tuple[jax.Array, None]:
        z = product(layer.w, h) if batch_axis else h @ layer.w
        return z if b is None else z + jnp.expand_dims(b, batch_axis), None

    def norm(z: jax.Array) -> tuple[jax.Array, Any]:
        u, after = parts.norm.apply(z, stats, layer.gamma, layer.beta, **how)
        if shift is not None:
            seen = (1 - parts.momentum) * jax.lax.stop_gradient(shift)
            after = after._replace(mean=after.mean + seen.astype(after.mean.dtype))
        return u, after

    def branch(z: jax.Array) -> tuple[jax.Array, None]:
        z = parts.branch * z
        return z if layer.alpha is None else layer.alpha * z, None

    how = {"train": train, "momentum": parts.momentum, "eps": parts.eps, "batch_axis": batch_axis}
    return {
        "linear": affine,
        "norm": norm,
        "activate": lambda u: (parts.activation(u), None),
        "branch": branch,
    }
