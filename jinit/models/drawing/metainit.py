"""Two schemes that learn one scale per weight of any model, by gradients.

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
import optax
from jaxtyping import Array, ArrayLike, Float

from jinit import checks
from jinit.models.tracing.roles import Role, roles
from jinit.models.tracing.uses import Kind

__all__ = ["Learned", "gradient_quotient", "gradinit", "metainit"]

Loss = Callable[[Any], jax.Array]


class Learned(NamedTuple):
    """Scaled variables, and how they came about."""

    variables: Any
    """as they were given, with weights scaled"""
    scales: dict[str, Float[Array, "*batch layers"]]
    """path -> factor on the weight, positive; `[layers]` where a loop goes through stacked ones"""
    history: Float[Array, "*batch steps"]
    """the objective before each update"""


def gradient_quotient(
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    loss: Loss,
    eps: ArrayLike = 1e-5,
    rules: Mapping[str, Kind] | None = None,
) -> Float[Array, ""]:
    """How much one step of gradient descent changes the gradient, relative to it.

        GQ = mean | (g - H g) / (g + eps sign(g)) - 1 |

    over all parameters, with the gradient g and the Hessian H of the loss, and sign(0) = 1. It is
    0 where the loss is linear, and near 0 where the curvature does not matter for the first steps.
    (A parameter without any gradient counts 1.)

    Args:
        apply: `apply(variables, *inputs)`, traceable and twice differentiable.
        variables: any pytree. What is differentiated by are weights, biases, scales of norms and
            embeddings, by role.
        *inputs: pytrees of arrays.
        loss: `loss(output) -> scalar`.
        eps: keeps the quotient finite.
        rules: as in `roles`.

    Raises:
        RoleError: as `roles`.
        TypeError, ValueError: no function, or a loss that is no scalar.

    Source: Dauphin & Schoenholz 2019, eq. 1.
    """
    checks.number("eps", eps)
    checks.batch(inputs)
    model = _model(apply, variables, inputs, loss, rules)
    return _quotient(lambda params: model.loss(params, inputs), model.params, eps)


def metainit(
    key: jax.Array,
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    loss: Loss,
    steps: int = 500,
    learning_rate: ArrayLike = 0.1,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 1e-5,
    lower: ArrayLike = 0.01,
    rules: Mapping[str, Kind] | None = None,
) -> Learned:
    """Tune the norms of all weights until the gradient quotient is small.

        v <- momentum * v - learning_rate * sign(d GQ / d |W|),        |W| <- |W| + v

    for every weight W, with `gradient_quotient`'s GQ and Frobenius norms. Needs no data: inputs
    given by shape are drawn N(0, 1) anew in every step.

    Args:
        key: one PRNG key, for the inputs that are drawn.
        apply: `apply(variables, *inputs)`, traceable and three times differentiable (which ReLU
            is, almost everywhere).
        variables: any pytree; weights, tied embeddings among them, are scaled, everything else
            stays. A weight that is all zero stays so.
        *inputs: pytrees of arrays, the same in every step, or of `jax.ShapeDtypeStruct`s of
            floating-point type.
        loss: `loss(output) -> scalar`; the paper uses the training loss with random targets.
        steps: the number of updates.
        learning_rate: in units of the norm; may be traced, as `momentum`, `eps` and `lower`.
        momentum: how much of the last change is repeated.
        eps: in the quotient.
        lower: a norm does not fall below this fraction of what it was. (The paper has no bound;
            a step across 0 would turn the weight round.)
        rules: as in `roles`.

    Returns:
        `Learned`; its history is of the gradient quotient. A model whose gradients overflow gives
        NaN: start nearer, for example from `reinit`.

    Raises:
        RoleError: as `roles`.
        TypeError, ValueError: arguments that are not allowed, a model without a weight, or integer
            inputs given by shape.

    Source: Dauphin & Schoenholz 2019, eq. 1, section 4 and the authors' listing.
    """
    key = checks.key(key)
    steps = checks.count("steps", steps)
    _positive(learning_rate=learning_rate, eps=eps, lower=lower)
    checks.number("momentum", momentum)
    _check_drawable(inputs)
    model = _model(apply, variables, inputs, loss, rules)
    start = _norms(model)

    def scales_of(norms: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {p: jnp.where(start[p] > 0, norms[p] / start[p], 1.0) for p in norms}

    def objective(scales: dict[str, jax.Array], own: jax.Array) -> jax.Array:
        given = _drawn_inputs(own, inputs)
        return _quotient(lambda params: model.loss(params, given), _scaled(model, scales), eps)

    descent = optax.sgd(learning_rate, momentum=momentum)

    def step(carry: Any, own: jax.Array) -> Any:
        norms, state = carry
        value, slopes = jax.value_and_grad(objective)(scales_of(norms), own)
        with jax.numpy_dtype_promotion("standard"):
            changes, state = descent.update(jax.tree.map(jnp.sign, slopes), state)
            norms = {p: jnp.maximum(norms[p] + changes[p], lower * start[p]) for p in norms}
        return (norms, state), value

    keys = jax.random.split(key, steps)
    (norms, _), history = jax.lax.scan(step, (start, descent.init(start)), keys)
    return _learned(model, scales_of(norms), history)


def gradinit(
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    loss: Loss,
    steps: int = 400,
    learning_rate: ArrayLike = 1e-2,
    optimizer: str = "sgd",
    step_size: ArrayLike = 0.1,
    gamma: ArrayLike | None = 1.0,
    lower: ArrayLike = 0.01,
    clip: ArrayLike = 1.0,
    rules: Mapping[str, Kind] | None = None,
) -> Learned:
    """Tune a scale per weight until one step of training lowers the loss as far as it can.

        minimise over the scales m    L(theta_m - step_size * A(g)),    g = grad L(theta_m),
        while                         |g|_p <= gamma,

    where A(g) is the direction of the optimizer's first step: g / |g| with p = 2 for "sgd",
    sign(g) with p = 1 for "adam". While the bound does not hold, Adam lowers the norm; while it
    does, Adam lowers the loss after the step, each with moments of its own. As in the authors'
    code, the step A(g) counts as fixed when the loss after it is differentiated, and the gradient
    by each scale is clipped. They scale biases too, and look at the loss on a batch that shares
    only half of its samples with that of g; here weights alone are scaled, on one batch.

    Args:
        apply: `apply(variables, *inputs)`, traceable and twice differentiable.
        variables: any pytree; weights, tied embeddings among them, are scaled, everything else
            stays. The step itself moves biases, scales of norms and embeddings too.
        *inputs: pytrees of arrays.
        loss: `loss(output) -> scalar`, with the targets in it.
        steps: the number of updates of the scales.
        learning_rate: of Adam on the scales; may be traced, as the numbers below.
        optimizer: "sgd" or "adam", of the training that is prepared.
        step_size: length of its first step (the paper's eta).
        gamma: bound on the gradient's norm, or None. (A 1-norm grows with the number of parameters;
            the authors' translation models, with "adam" and a step of 1e-3, have no bound.)
        lower: least scale.
        clip: largest gradient by a scale, of loss / step_size and of the norm.
        rules: as in `roles`.

    Returns:
        `Learned`; its history is of the loss after one step.

    Raises:
        RoleError: as `roles`.
        TypeError, ValueError: arguments that are not allowed, or a model without a weight.

    Source: Zhu et al. 2021, eq. 1 and algorithm 1.
    """
    steps = checks.count("steps", steps)
    checks.choice("optimizer", optimizer, ["sgd", "adam"])
    bound = jnp.inf if gamma is None else gamma
    _positive(learning_rate=learning_rate, step_size=step_size, lower=lower, clip=clip)
    if gamma is not None:
        _positive(gamma=gamma)
    checks.batch(inputs)
    model = _model(apply, variables, inputs, loss, rules)

    def before(params: dict[str, jax.Array]) -> jax.Array:
        return model.loss(params, inputs)

    def norm_of(scales: dict[str, jax.Array]) -> jax.Array:
        return _norm(jax.grad(before)(_scaled(model, scales)), optimizer)

    def after(scales: dict[str, jax.Array], direction: dict[str, jax.Array]) -> jax.Array:
        params = _scaled(model, scales)
        return before({p: params[p] - _as(step_size, params[p]) * direction[p] for p in params})

    def clipped(slopes: Any, factor: ArrayLike) -> Any:
        return jax.tree.map(
            lambda s: jnp.clip(s * _as(factor, s), -_as(clip, s), _as(clip, s)), slopes
        )

    adam = optax.adam(learning_rate)

    def moved(scales: Any, slopes: Any, state: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            changes, state = adam.update(slopes, state)
            return {p: jnp.maximum(scales[p] + changes[p], lower) for p in scales}, state

    def step(carry: Any, _: None) -> Any:
        scales, lowering, bounding = carry
        gradient = jax.grad(before)(_scaled(model, scales))
        norm = _norm(gradient, optimizer)
        direction = _direction(gradient, norm, optimizer)

        def lower_the_loss() -> Any:
            value, slopes = jax.value_and_grad(after)(scales, direction)
            fresh, state = moved(scales, clipped(slopes, 1 / jnp.asarray(step_size)), lowering)
            return (fresh, state, bounding), value

        def lower_the_norm() -> Any:
            fresh, state = moved(scales, clipped(jax.grad(norm_of)(scales), 1.0), bounding)
            return (fresh, lowering, state), after(scales, direction)

        return jax.lax.cond(norm > _as(bound, norm), lower_the_norm, lower_the_loss)

    ones = jax.tree.map(jnp.ones_like, _norms(model))
    start = (ones, adam.init(ones), adam.init(ones))
    (scales, _, _), history = jax.lax.scan(step, start, None, steps)
    return _learned(model, scales, history)


def _quotient(
    loss: Callable[[dict[str, jax.Array]], jax.Array], params: dict[str, jax.Array], eps: ArrayLike
) -> jax.Array:
    gradient, pull = jax.vjp(jax.grad(loss), params)
    (curved,) = pull(gradient)  # the Hessian is symmetric: pulling back is multiplying

    def departure(g: jax.Array, h: jax.Array) -> jax.Array:
        away_from_zero = g + _as(eps, g) * jnp.where(g >= 0, 1.0, -1.0)
        return jnp.sum(jnp.abs((g - h) / away_from_zero - 1))

    found = [departure(gradient[p], curved[p]) for p in params]
    return sum(found[1:], found[0]) / sum(p.size for p in params.values())


def _norm(gradient: dict[str, jax.Array], optimizer: str) -> jax.Array:
    flat = jnp.concatenate([g.ravel() for g in gradient.values()])
    return jnp.linalg.norm(flat, ord=2 if optimizer == "sgd" else 1)


def _direction(gradient: dict[str, jax.Array], norm: jax.Array, optimizer: str) -> Any:
    if optimizer == "adam":
        return jax.tree.map(jnp.sign, gradient)
    return jax.tree.map(lambda g: g / jnp.where(norm > 0, norm, 1.0), gradient)


def _as(number: ArrayLike, like: jax.Array) -> jax.Array:
    return jnp.asarray(number, like.dtype)


# --- a model as a function of its scales ----------------------------------------------------------


class _Model(NamedTuple):
    params: dict[str, jax.Array]
    """what a training moves, path -> array, float32 or wider"""
    layers: dict[str, np.ndarray | None]
    """path of a weight -> the layer that every entry belongs to, to broadcast; None for one"""
    variables: Callable[[dict[str, jax.Array]], Any]
    loss: Callable[[dict[str, jax.Array], tuple[Any, ...]], jax.Array]


def _model(
    apply: Callable[..., Any],
    variables: Any,
    inputs: tuple[Any, ...],
    loss: Loss,
    rules: Mapping[str, Kind] | None,
) -> _Model:
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
    return _Model(params, layers, rebuilt, value)


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


def _scaled(model: _Model, scales: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def scaled(path: str, leaf: jax.Array) -> jax.Array:
        if path not in scales:
            return leaf
        owner = model.layers[path]
        factor = scales[path].astype(leaf.dtype)
        return leaf * (factor if owner is None else factor[owner])

    return {path: scaled(path, leaf) for path, leaf in model.params.items()}


def _norms(model: _Model) -> dict[str, jax.Array]:
    """Frobenius norm of every weight, `[layers]` where there are several."""

    def norm(leaf: jax.Array, owner: np.ndarray | None) -> jax.Array:
        if owner is None:
            return jnp.sqrt(jnp.sum(jnp.square(leaf)))
        entries = np.broadcast_to(owner, leaf.shape).ravel()
        count = int(owner.max()) + 1
        return jnp.sqrt(jax.ops.segment_sum(jnp.square(leaf).ravel(), jnp.asarray(entries), count))

    return {path: norm(model.params[path], owner) for path, owner in model.layers.items()}


def _learned(model: _Model, scales: dict[str, jax.Array], history: jax.Array) -> Learned:
    return Learned(model.variables(_scaled(model, scales)), scales, history)


# --- arguments ------------------------------------------------------------------------------------


def _positive(**numbers: ArrayLike) -> None:
    for name, value in numbers.items():
        checks.number(name, value)
        if checks.is_concrete(value) and float(value) <= 0:  # type: ignore[arg-type]
            raise ValueError(f"{name} must be positive, got {value!r}.")


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _check_drawable(inputs: tuple[Any, ...]) -> None:
    for leaf in jax.tree.leaves(inputs):
        if _is_shape(leaf) and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"an input given by its shape is drawn N(0, 1), which {leaf.dtype} cannot hold; "
                f"give an array."
            )


def _drawn_inputs(key: jax.Array, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(inputs)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(own, leaf.shape, leaf.dtype) if _is_shape(leaf) else leaf
        for own, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)
