"""A model as a function of one scale per weight, which gradients then tune.

Directions stay as they were drawn; only the sizes of the weights are tuned, before training, so
that the first steps of training find a benign landscape. A weight that scanned layers share a leaf
for has one scale per layer.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jinit import checks
from jinit.models.tracing.model import TracedModel
from jinit.models.tracing.roles import Role

Params = dict[str, jax.Array]


class Learned(NamedTuple):
    """Scaled variables, and how they came about."""

    variables: Any
    """as they were given, with weights scaled"""
    scales: dict[str, Float[Array, "*batch layers"]]
    """path -> factor on the weight, positive; `[layers]` where a loop goes through stacked ones"""
    history: Float[Array, "*batch steps"]
    """the objective before each update"""


class ScaledModel(NamedTuple):
    """A model by what a training moves, with a scale for each of its weights."""

    params: Params
    """what a training moves, path -> array, float32 or wider"""
    layers: dict[str, np.ndarray | None]
    """path of a weight -> the layer that every entry belongs to, to broadcast; None for one"""
    variables: Callable[[Params], Any]
    loss: Callable[[Params, tuple[Any, ...]], jax.Array]

    def scaled(self, scales: Params) -> Params:
        """`params` with every weight times its scale."""
        out = dict(self.params)
        for path, scale in scales.items():
            owner, factor = self.layers[path], scale.astype(out[path].dtype)
            out[path] *= factor if owner is None else factor[owner]
        return out

    def norms(self) -> Params:
        """Frobenius norm of every weight, `[layers]` where there are several."""

        def norm(leaf: jax.Array, owner: np.ndarray | None) -> jax.Array:
            if owner is None:
                return jnp.sqrt(jnp.sum(jnp.square(leaf)))
            entries = jnp.asarray(np.broadcast_to(owner, leaf.shape).ravel())
            squares = jnp.square(leaf).ravel()
            return jnp.sqrt(jax.ops.segment_sum(squares, entries, int(owner.max()) + 1))

        return {path: norm(self.params[path], owner) for path, owner in self.layers.items()}

    def learned(self, scales: Params, history: jax.Array) -> Learned:
        """What a scheme returns that has found these scales."""
        return Learned(self.variables(self.scaled(scales)), scales, history)


def scaled_model(model: TracedModel, targets: Any) -> ScaledModel:
    """Read a model's weights, and check its loss."""
    loss = model.loss_of(targets)
    trained = ("weight", "tied", "bias", "scale", "embedding")
    found = model.judged()
    kept = dict(zip(model.trace.paths, model.floats, strict=True))
    moved = {r.path: kept[r.path] for r in found if r.kind in trained}
    params = {
        path: jnp.asarray(x, np.promote_types(x.dtype, np.float32)) for path, x in moved.items()
    }
    layers = {r.path: _layers(r) for r in found if r.kind in ("weight", "tied")}
    if not layers:
        raise ValueError("the model has no weight to scale; say what is one with rules=.")

    def floats(params: Params) -> list[Any]:
        new = {path: leaf.astype(kept[path].dtype) for path, leaf in params.items()}
        return list((kept | new).values())

    def value(params: Params, inputs: tuple[Any, ...]) -> jax.Array:
        return loss(model.trace.run(floats(params), inputs))

    checks.loss_value(jax.eval_shape(value, params, model.inputs))
    return ScaledModel(params, layers, lambda params: model.rebuilt(floats(params)), value)


def _layers(role: Role) -> np.ndarray | None:
    """Which layer of a loop reads each entry, with axes of size 1 along which it is the same."""
    if role.layers == 1:
        return None
    if role.is_changed:
        own = np.arange(role.layers).reshape(-1, *(1,) * (len(role.shape) - 1))
        return own if role.shape[0] == role.layers else None
    owner = np.zeros(math.prod(role.shape), np.int32)
    for layer, entries in enumerate(role.matrix().reshape(role.layers, -1)):
        owner[entries] = layer
    owner = owner.reshape(role.shape)
    for axis in range(owner.ndim):
        first = owner.take([0], axis)
        owner = first if (owner == first).all() else owner
    return owner


def positive(**numbers: ArrayLike) -> None:
    """Raise ValueError if one of the numbers is not."""
    for name, value in numbers.items():
        checks.number(name, value)
        if checks.is_concrete(value) and float(value) <= 0:  # type: ignore[arg-type]
            raise ValueError(f"{name} must be positive, got {checks.shown(value)}.")


def as_dtype_of(number: ArrayLike, like: jax.Array) -> jax.Array:
    """A number that promotes nothing."""
    return jnp.asarray(number, like.dtype)
