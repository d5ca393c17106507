"""Scales of weights learned until one step of training lowers the loss as far as it can."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike

from jinit import checks
from jinit.models.drawing.scales import Learned, Params, as_dtype_of, positive, scaled_model
from jinit.models.tracing.model import TracedModel, face


@face
def gradinit(
    traced: TracedModel,
    variables: Any = None,
    *,
    steps: int = 400,
    learning_rate: ArrayLike = 1e-2,
    optimizer: str = "sgd",
    step_size: ArrayLike = 0.1,
    gamma: ArrayLike | None = 1.0,
    lower: ArrayLike = 0.01,
    clip: ArrayLike = 1.0,
    targets: Any = None,
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
        apply, variables, *inputs, loss, rules: as for `jinit.Model`.
        loss: `loss(output) -> scalar`, with the targets in it.
        steps: the number of updates of the scales.
        learning_rate: of Adam on the scales; may be traced, as the numbers below.
        optimizer: "sgd" or "adam", of the training that is prepared.
        step_size: length of its first step (the paper's eta).
        gamma: bound on the gradient's norm, or None. (A 1-norm grows with the number of parameters;
            the authors' translation models, with "adam" and a step of 1e-3, have no bound.)
        lower: least scale.
        clip: largest gradient by a scale, of loss / step_size and of the norm.

    Returns:
        `Learned`; its history is of the loss after one step.

    Raises:
        RoleError: as `roles`.
        TypeError, ValueError: arguments that are not allowed, or a model without a weight.

    Source: Zhu et al. 2021, eq. 1 and algorithm 1.
    """
    steps = checks.count("steps", steps)
    checks.choice("optimizer", optimizer, ["sgd", "adam"])
    positive(learning_rate=learning_rate, step_size=step_size, lower=lower, clip=clip)
    if gamma is None:
        gamma = jnp.inf
    else:
        positive(gamma=gamma)
    traced = traced.of(variables)
    traced.check_numbers("gradinit")
    model = scaled_model(traced, targets)

    def before(params: Params) -> jax.Array:
        return model.loss(params, traced.inputs)

    def after(scales: Params, direction: Params) -> jax.Array:
        params = model.scaled(scales).items()
        return before({p: x - as_dtype_of(step_size, x) * direction[p] for p, x in params})

    adam = optax.adam(learning_rate)

    def moved(scales: Any, slopes: Any, factor: ArrayLike, state: Any) -> Any:
        def clipped(slope: jax.Array) -> jax.Array:
            bound = as_dtype_of(clip, slope)
            return jnp.clip(slope * as_dtype_of(factor, slope), -bound, bound)

        with jax.numpy_dtype_promotion("standard"):
            changes, state = adam.update(jax.tree.map(clipped, slopes), state)
            return {p: jnp.maximum(scales[p] + changes[p], lower) for p in scales}, state

    def step(carry: Any, _: None) -> Any:
        scales, lowering, bounding = carry
        gradient = jax.grad(before)(model.scaled(scales))
        norm = _norm(gradient, optimizer)
        if optimizer == "adam":
            direction = jax.tree.map(jnp.sign, gradient)
        else:
            direction = jax.tree.map(lambda g: g / jnp.where(norm > 0, norm, 1.0), gradient)

        def lower_the_loss() -> Any:
            value, slopes = jax.value_and_grad(after)(scales, direction)
            fresh, state = moved(scales, slopes, 1 / jnp.asarray(step_size), lowering)
            return (fresh, state, bounding), value

        def lower_the_norm() -> Any:
            slopes = jax.grad(lambda s: _norm(jax.grad(before)(model.scaled(s)), optimizer))(scales)
            fresh, state = moved(scales, slopes, 1.0, bounding)
            return (fresh, lowering, state), after(scales, direction)

        return jax.lax.cond(norm > as_dtype_of(gamma, norm), lower_the_norm, lower_the_loss)

    ones = jax.tree.map(jnp.ones_like, model.norms())
    start = (ones, adam.init(ones), adam.init(ones))
    (scales, _, _), history = jax.lax.scan(step, start, None, steps)
    return model.learned(scales, history)


def _norm(gradient: Params, optimizer: str) -> jax.Array:
    flat = jnp.concatenate([g.ravel() for g in gradient.values()])
    return jnp.linalg.norm(flat, ord=2 if optimizer == "sgd" else 1)
