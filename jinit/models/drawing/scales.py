"""A model as a function of one scale per weight, which gradients then tune.

Directions stay as they were drawn; only the sizes of the weights are tuned, before training, so
that the first steps of training find a benign landscape. A weight that scanned layers share a leaf
for has one scale per layer.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jinit import checks
from jinit.models.tracing.roles import Role, roles
from jinit.models.tracing.uses import Kind

__all__ = ["Learned", "ScaledModel", "as_dtype_of", "positive", "scaled_model"]


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

    params: dict[str, jax.Array]
    """what a training moves, path -> array, float32 or wider"""
    layers: dict[str, np.ndarray | None]
    """path of a weight -> the layer that every entry belongs to, to broadcast; None for one"""
    variables: Callable[[dict[str, jax.Array]], Any]
    loss: Callable[[dict[str, jax.Array], tuple[Any, ...]], jax.Array]

    def scaled(self, scales: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """`params` with every weight times its scale."""

        def one(path: str, leaf: jax.Array) -> jax.Array:
            if path not in scales:
                return leaf
            owner = self.layers[path]
            factor = scales[path].astype(leaf.dtype)
            return leaf * (factor if owner is None else factor[owner])

        return {path: one(path, leaf) for path, leaf in self.params.items()}

    def norms(self) -> dict[str, jax.Array]:
        """Frobenius norm of every weight, `[layers]` where there are several."""

        def norm(leaf: jax.Array, owner: np.ndarray | None) -> jax.Array:
            if owner is None:
                return jnp.sqrt(jnp.sum(jnp.square(leaf)))
            entries = jnp.asarray(np.broadcast_to(owner, leaf.shape).ravel())
            squares = jnp.square(leaf).ravel()
            return jnp.sqrt(jax.ops.segment_sum(squares, entries, int(owner.max()) + 1))

        return {path: norm(self.params[path], owner) for path, owner in self.layers.items()}

    def learned(self, scales: dict[str, jax.Array], history: jax.Array) -> Learned:
        """What a scheme returns that has found these scales."""
        return Learned(self.variables(self.scaled(scales)), scales, history)


def scaled_model(
    apply: Callable[..., Any],
    variables: Any,
    inputs: tuple[Any, ...],
    loss: Callable[..., Any],
    rules: Mapping[str, Kind] | None,
) -> ScaledModel:
    """Read a model's weights, and check its loss."""
    if not callable(loss):
        raise TypeError(f"loss must be a function of the model's output, got {loss!r}.")
    found = {role.path: role for role in roles(apply, variables, *inputs, rules=rules)}
    trained = ("weight", "tied", "bias", "scale", "embedding")
    flat, structure = jax.tree_util.tree_flatten_with_path(variables)
    paths = [jax.tree_util.keystr(path) for path, _ in flat]
    kept = [leaf for _, leaf in flat]
    params = {
        path: _at_least_float32(leaf)
        for path, leaf in zip(paths, kept, strict=True)
        if path in found and found[path].role in trained
    }
    layers = {p: _layers(found[p]) for p in params if found[p].role in ("weight", "tied")}
    if not layers:
        raise ValueError("the model has no weight to scale; say what is one with rules=.")

    def rebuilt(params: dict[str, jax.Array]) -> Any:
        leaves = [
            params[path].astype(leaf.dtype) if path in params else leaf
            for path, leaf in zip(paths, kept, strict=True)
        ]
        return jax.tree_util.tree_unflatten(structure, leaves)

    def value(params: dict[str, jax.Array], inputs: tuple[Any, ...]) -> jax.Array:
        return loss(apply(rebuilt(params), *inputs))

    out = jax.eval_shape(value, params, inputs)
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"loss must give one real number for the model's output, got {out}; take a mean."
        )
    return ScaledModel(params, layers, rebuilt, value)


def _at_least_float32(leaf: Any) -> jax.Array:
    return jnp.asarray(leaf, jnp.float32 if jnp.finfo(leaf.dtype).bits < 32 else leaf.dtype)


def _layers(role: Role) -> np.ndarray | None:
    """Which layer of a loop reads each entry, with axes of size 1 along which it is the same."""
    if role.layers == 1:
        return None
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
            raise ValueError(f"{name} must be positive, got {value!r}.")


def as_dtype_of(number: ArrayLike, like: jax.Array) -> jax.Array:
    """A number that promotes nothing."""
    return jnp.asarray(number, like.dtype)
