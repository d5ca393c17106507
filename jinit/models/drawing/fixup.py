"""Initialisation of residual models without norms: branches that start at nothing.

The trace finds the branches: sums of a signal and of what weights have made of it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from jinit import checks
from jinit.models.drawing.reinit import reinit
from jinit.models.tracing.roles import Role, judge
from jinit.models.tracing.trace import Trace, trace
from jinit.models.tracing.uses import Kind

__all__ = ["fixup", "skipinit"]


def fixup(
    key: jax.Array,
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    scheme: str = "he",
    rules: Mapping[str, Kind] | None = None,
) -> Any:
    """Fixup initialisation of any residual model.

    With L branches of m weights in a row each, weights inside a branch are scaled by
    L^(-1 / (2 m - 2)), so that one step of gradient descent changes the output by as much at any
    depth; the last weights of every branch and the model's last weights are 0. A readout that is
    tied to an embedding is not shut, or nothing would come in. The paper's scalar biases and
    multiplier are a matter of the model's code, and not added here.

    Args:
        key: one PRNG key.
        apply: `apply(variables, *inputs)`, traceable.
        variables: any pytree; see `jinit.reinit` for what becomes of biases, norms and the rest.
        *inputs: arrays or `jax.ShapeDtypeStruct`s.
        scheme: of all weights, before they are scaled.
        rules: path -> role, for parameters of which the trace says nothing certain.

    Raises:
        ValueError: a model without residual branches.
        RoleError: as `jinit.models.roles`.

    Source: Zhang, Dauphin & Ma 2019, "Fixup initialization", section 3.
    """
    traced, roles = _with_branches(apply, variables, *inputs, rules=rules)
    count = sum(math.prod(loop.length for loop in residual.loops) for residual in traced.residuals)
    factors: dict[int, float] = {}
    for residual in traced.residuals:
        for leaf in _weights(traced, residual.branch - residual.last):
            inside = count ** (-1 / (2 * residual.depth - 2)) if residual.depth > 1 else 1.0
            factors[leaf] = min(inside, factors.get(leaf, 1.0))
    for residual in traced.residuals:
        factors |= dict.fromkeys(_weights(traced, residual.last), 0.0)
    factors = {i: factor for i, factor in factors.items() if roles[i].role == "weight"}
    weights = [use for use in traced.uses if use.kind == "weight" and use.times]
    inside = frozenset().union(*(residual.branch for residual in traced.residuals))
    if weights[-1].order not in inside and roles[weights[-1].view.leaf].role == "weight":
        factors[weights[-1].view.leaf] = 0.0
    return _times_factors(
        reinit(key, apply, variables, *inputs, scheme=scheme, rules=rules), traced, factors
    )


def skipinit(
    key: jax.Array,
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    alpha: ArrayLike = 0.0,
    scheme: str = "he",
    rules: Mapping[str, Kind] | None = None,
) -> Any:
    """SkipInit of any residual model: every branch is multiplied by alpha at first.

    A branch that ends in a learnable number (a parameter with one entry that multiplies it) gets
    alpha there; in others the last weights are multiplied by it, which is the same at the start.

    Args:
        alpha: 0 in the paper; 1/sqrt(L) of L branches keeps the signal and all gradients finite.
            May be traced.
        key, apply, variables, *inputs, scheme, rules: as for `fixup`.

    Raises:
        ValueError: a model without residual branches.
        RoleError: as `jinit.models.roles`.

    Source: De & Smith 2020, "Batch normalization biases residual blocks towards the identity
    function in deep networks", section 4.
    """
    checks.number("alpha", alpha)
    traced, roles = _with_branches(apply, variables, *inputs, rules=rules)
    factors: dict[int, Any] = {}
    own_rules = dict(rules or {})
    for residual in traced.residuals:
        numbers = [
            traced.uses[i].view.leaf for i in residual.branch
            if traced.uses[i].kind == "scale" and traced.uses[i].part == 1
            and i > max(residual.last)
        ]  # fmt: skip
        ends = [i for i in _weights(traced, residual.last) if roles[i].role == "weight"]
        factors |= dict.fromkeys(numbers or ends, alpha)
        own_rules |= {traced.paths[i]: "scale" for i in numbers}  # 1, and then alpha
    return _times_factors(
        reinit(key, apply, variables, *inputs, scheme=scheme, rules=own_rules), traced, factors
    )


def _with_branches(
    apply: Callable[..., Any], variables: Any, *inputs: Any, rules: Mapping[str, Kind] | None
) -> tuple[Trace, tuple[Role, ...]]:
    traced = trace(apply, variables, *inputs)
    roles = judge(traced, rules)
    if not traced.residuals:
        raise ValueError(
            "the model has no residual branch: no sum of a signal and of what weights have made "
            "of it; use jinit.reinit or jinit.models.lsuv."
        )
    return traced, roles


def _weights(traced: Trace, orders: frozenset[int]) -> list[int]:
    return [traced.uses[i].view.leaf for i in sorted(orders) if traced.uses[i].kind == "weight"]


def _times_factors(variables: Any, traced: Trace, factors: Mapping[int, Any]) -> Any:
    leaves, structure = jax.tree.flatten(variables)
    for i, factor in factors.items():
        leaf = leaves[traced.chosen[i]]
        leaves[traced.chosen[i]] = leaf * jnp.asarray(factor, leaf.dtype)
    return jax.tree.unflatten(structure, leaves)
