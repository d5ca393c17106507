"""Norms of weights learned until a step of gradient descent hardly changes the gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from jinit import checks
from jinit.models.drawing.scales import Learned, Params, as_dtype_of, positive, scaled_model
from jinit.models.tracing.model import TracedModel, face


@face
def gradient_quotient(
    model: TracedModel, variables: Any = None, *, eps: ArrayLike = 1e-5, targets: Any = None
) -> Float[Array, ""]:
    """How much one step of gradient descent changes the gradient, relative to it.

        GQ = mean | (g - H g) / (g + eps sign(g)) - 1 |

    over all parameters, with the gradient g and the Hessian H of the loss, and sign(0) = 1. It is
    0 where the loss is linear, and near 0 where the curvature does not matter for the first steps.
    (A parameter without any gradient counts 1.)

    Args:
        apply, variables, *inputs, loss, rules: as for `jinit.Model`.
        loss: `loss(output) -> scalar`.
        eps: keeps the quotient finite.

    Raises:
        RoleError: as `roles`.
        TypeError, ValueError: no function, or a loss that is no scalar.

    Source: Dauphin & Schoenholz 2019, eq. 1.
    """
    checks.number("eps", eps)
    model = model.of(variables)
    model.check_numbers("the gradient quotient")
    scaled = scaled_model(model, targets)
    return _quotient(lambda params: scaled.loss(params, model.inputs), scaled.params, eps)


@face
def metainit(
    traced: TracedModel,
    key: jax.Array,
    variables: Any = None,
    *,
    steps: int = 500,
    learning_rate: ArrayLike = 0.1,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 1e-5,
    lower: ArrayLike = 0.01,
    targets: Any = None,
) -> Learned:
    """Tune the norms of all weights until the gradient quotient is small.

        v <- momentum * v - learning_rate * sign(d GQ / d |W|),        |W| <- |W| + v

    for every weight W, with `gradient_quotient`'s GQ and Frobenius norms. Needs no data: inputs
    given by shape are drawn N(0, 1) anew in every step.

    Args:
        key: one PRNG key, for the inputs that are drawn.
        apply, variables, *inputs, loss, rules: as for `jinit.Model`.
        loss: `loss(output) -> scalar`; the paper uses the training loss with random targets.
        steps: the number of updates.
        learning_rate: in units of the norm; may be traced, as `momentum`, `eps` and `lower`.
        momentum: how much of the last change is repeated.
        eps: in the quotient.
        lower: a norm does not fall below this fraction of what it was. (The paper has no bound;
            a step across 0 would turn the weight round.)

    Returns:
        `Learned`; its history is of the gradient quotient. A model whose gradients overflow gives
        NaN: start nearer, for example from `reinit`.

    Raises:
        RoleError: as `roles`.
        TypeError, ValueError: arguments that are not allowed, a model without a weight, inputs that
            are not finite, or integer ones given by shape.

    Source: Dauphin & Schoenholz 2019, eq. 1, section 4 and the authors' listing.
    """
    key = checks.key(key)
    steps = checks.count("steps", steps)
    positive(learning_rate=learning_rate, eps=eps, lower=lower)
    checks.number("momentum", momentum)
    for leaf in jax.tree.leaves(traced.inputs):
        if isinstance(leaf, jax.ShapeDtypeStruct) and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"an input given by its shape is drawn N(0, 1), which {leaf.dtype} cannot hold; "
                f"give an array."
            )
    traced = traced.of(variables)
    traced.check_finite("metainit")
    model = scaled_model(traced, targets)
    start = model.norms()

    def scales_of(norms: Params) -> Params:
        return {p: jnp.where(start[p] > 0, norms[p] / start[p], 1.0) for p in norms}

    def objective(scales: Params, own: jax.Array) -> jax.Array:
        given = _drawn_inputs(own, traced.inputs)
        return _quotient(lambda params: model.loss(params, given), model.scaled(scales), eps)

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
    return model.learned(scales_of(norms), history)


def _quotient(loss: Callable[[Params], jax.Array], params: Params, eps: ArrayLike) -> jax.Array:
    gradient, pull = jax.vjp(jax.grad(loss), params)
    (curved,) = pull(gradient)  # the Hessian is symmetric: pulling back is multiplying

    def departure(g: jax.Array, h: jax.Array) -> jax.Array:
        away_from_zero = g + as_dtype_of(eps, g) * jnp.where(g >= 0, 1.0, -1.0)
        return jnp.sum(jnp.abs((g - h) / away_from_zero - 1))

    found = [departure(gradient[p], curved[p]) for p in params]
    return sum(found[1:], found[0]) / sum(p.size for p in params.values())


def _drawn_inputs(key: jax.Array, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(inputs)
    keys = jax.random.split(key, len(leaves))
    for i, (own, leaf) in enumerate(zip(keys, leaves, strict=True)):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            leaves[i] = jax.random.normal(own, leaf.shape, leaf.dtype)
    return jax.tree.unflatten(structure, leaves)
