"""Initialisation of residual models without norms: branches that start at nothing."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from jinit import checks
from jinit.models.drawing.reinit import reinit
from jinit.models.tracing.model import TracedModel, face
from jinit.models.tracing.roles import Role
from jinit.models.tracing.trace import Trace
from jinit.schemes import Initializer


@face
def fixup(
    model: TracedModel, key: jax.Array, variables: Any = None, *, scheme: str | Initializer = "he"
) -> Any:
    """Fixup initialisation of any residual model.

    With L branches of m weights in a row each, weights inside a branch are scaled by
    L^(-1 / (2 m - 2)), so that one step of gradient descent changes the output by as much at any
    depth; the last weights of every branch and the model's last weights are 0. A readout that is
    tied to an embedding is not shut, or nothing would come in. The paper's scalar biases and
    multiplier are a matter of the model's code, and not added here.

    Args:
        key: one PRNG key.
        apply, variables, *inputs, rules: as for `jinit.Model`.
        scheme: of all weights, before they are scaled.

    Raises:
        ValueError: a model without residual branches.
        RoleError: as `jinit.models.roles`.

    Source: Zhang, Dauphin & Ma 2019, "Fixup initialization", section 3.
    """
    model = model.of(variables)
    traced, roles = model.trace, _roles_with_branches(model)
    count = sum(math.prod(loop.length for loop in residual.loops) for residual in traced.residuals)
    factors: dict[int, float] = {}
    for residual in traced.residuals:
        for leaf in _weights(traced, residual.branch - residual.last):
            inside = count ** (-1 / (2 * residual.depth - 2)) if residual.depth > 1 else 1.0
            factors[leaf] = min(inside, factors.get(leaf, 1.0))
    for residual in traced.residuals:
        factors |= dict.fromkeys(_weights(traced, residual.last), 0.0)
    *_, last = (use for use in traced.uses if use.kind == "weight" and use.times)
    if not any(last.order in residual.branch for residual in traced.residuals):
        factors[last.leaf] = 0.0
    factors = {i: factor for i, factor in factors.items() if roles[i].kind == "weight"}
    return _times_factors(model.of(reinit.traced(model, key, scheme=scheme)), factors)


@face
def skipinit(
    model: TracedModel,
    key: jax.Array,
    variables: Any = None,
    *,
    alpha: ArrayLike = 0.0,
    scheme: str | Initializer = "he",
) -> Any:
    """SkipInit of any residual model: every branch is multiplied by alpha at first.

    A branch that ends in a learnable number (a parameter with one entry that multiplies it) gets
    alpha there; in others the last weights are multiplied by it, which is the same at the start.

    Args:
        apply, variables, *inputs, rules: as for `jinit.Model`.
        alpha: 0 in the paper; 1/sqrt(L) of L branches keeps the signal and all gradients finite.
            May be traced.
        key, scheme: as for `fixup`.

    Raises:
        ValueError: a model without residual branches.
        RoleError: as `jinit.models.roles`.

    Source: De & Smith 2020, "Batch normalization biases residual blocks towards the identity
    function in deep networks", section 4.
    """
    checks.number("alpha", alpha)
    model = model.of(variables)
    traced, roles = model.trace, _roles_with_branches(model)
    factors, own_rules = dict[int, Any](), dict(model.rules)
    for residual in traced.residuals:
        after = (traced.uses[i] for i in residual.branch if i > max(residual.last))
        numbers = [use.leaf for use in after if use.kind == "scale" and use.part == 1]
        ends = [i for i in _weights(traced, residual.last) if roles[i].kind == "weight"]
        factors |= dict.fromkeys(numbers or ends, alpha)
        own_rules |= {traced.paths[i]: "scale" for i in numbers}  # 1, and then alpha
    fresh = reinit.traced(model.replaced(rules=own_rules), key, scheme=scheme)
    return _times_factors(model.of(fresh), factors)


def _roles_with_branches(model: TracedModel) -> tuple[Role, ...]:
    roles = model.judged()
    if not model.trace.residuals:
        raise ValueError(
            "the model has no residual branch: no sum of a signal and of what weights have made "
            "of it; use jinit.reinit or jinit.models.lsuv."
        )
    return roles


def _weights(traced: Trace, orders: frozenset[int]) -> list[int]:
    return [traced.uses[i].leaf for i in sorted(orders) if traced.uses[i].kind == "weight"]


def _times_factors(model: TracedModel, factors: Mapping[int, Any]) -> Any:
    floats = model.floats
    for i, factor in factors.items():
        floats[i] = floats[i] * jnp.asarray(factor, floats[i].dtype)
    return model.rebuilt(floats)
