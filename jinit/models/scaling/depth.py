"""CompleteP: what keeps the learning rate of a shallow residual model while it grows deeper.

    x <- x + m_L^(-alpha) f(x),         m_L = blocks over those of the base

Every block adds its share of a sum that stays of order one, and each learns as much as in the base.
"""

from typing import NamedTuple

from jinit.models.tracing.roles import Role
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.uses import ResidualSum


class Multipliers(NamedTuple):
    """On the start of a leaf and on what an optimizer does with it."""

    init: float = 1.0
    sgd: float = 1.0
    adam: float = 1.0
    muon: float = 1.0
    eps: float = 1.0
    """of Adam"""
    decay: float = 1.0
    """coefficient of decoupled weight decay, which the learning rate multiplies"""


def within_branches(depth: float, alpha: float) -> Multipliers:
    """Of what lies in a residual branch that is multiplied by depth^(-alpha).

    Its gradient shrinks like the branch, and depth of them add up: eta depth^(1 - alpha) is to be
    constant for updates of constant size, eta depth^(1 - 2 alpha) for those like the gradient.
    """
    return Multipliers(
        sgd=depth ** (2 * alpha - 1), adam=depth ** (alpha - 1), muon=depth ** (alpha - 1),
        eps=depth**-alpha,
    )  # fmt: skip


def absorbing(factor: float) -> Multipliers:
    """Of a leaf that takes up a factor which stood behind it: the training stays what it was."""
    return Multipliers(factor, factor**2, factor, factor, 1 / factor, 1 / factor)


def multipliers(
    traced: Trace, roles: tuple[Role, ...], *, depth: float, alpha: float, in_weights: bool
) -> list[Multipliers]:
    """For every floating leaf, as table 1 of the paper has it.

    Raises:
        ValueError: a model without residual branches; a leaf that would have to take up a branch's
            factor and is used elsewhere too.

    Source: Dey et al. 2025, "Don't be lazy: CompleteP enables compute-efficient deep transformers",
    table 1; of SGD, the derivation above, as in Bordelon et al. 2024 at alpha = 1/2.
    """
    if depth == 1:
        return [Multipliers()] * len(roles)
    if not traced.residuals:
        raise ValueError(
            "depth= scales residual branches, and the model has none: no sum of a signal and of "
            "what weights have made of it."
        )
    inside = frozenset[int]().union(*(r.branch for r in traced.residuals))
    ends = frozenset[int]().union(*(_ends(traced, r) for r in traced.residuals))
    found = []
    for role in roles:
        own, used = Multipliers(), {use.order for use in role.uses}
        if used & inside:
            own = within_branches(depth, alpha)
        if in_weights and used & ends:
            if used - ends:
                raise ValueError(
                    f"{role.path} ends a residual branch and is used elsewhere too, so that it "
                    f"cannot take up the branch's factor {depth**-alpha:.4g}; multiply branches by "
                    f"it in apply, and say so with branches='apply'."
                )
            own = Multipliers(*(a * b for a, b in zip(own, absorbing(depth**-alpha), strict=True)))
        found.append(own)
    return found


def _ends(traced: Trace, residual: ResidualSum) -> frozenset[int]:
    """Uses of what a branch is linear in: its last weights, or a factor after them, and biases."""
    after = [traced.uses[i] for i in sorted(residual.branch) if i > max(residual.last)]
    factors = [use.order for use in after if use.kind == "scale"]
    linear = {factors[-1]} if factors else residual.last
    biases = (u.order for u in after if u.kind == "bias" and u.order > max(linear))
    return frozenset({*linear, *biases})
