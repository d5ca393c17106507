"""What is by design in many models where it would be odd in others: leaves that start at 0.

And which leaves hold the numbers of others, as one key for all of them gives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jinit.models.tracing.names import short_name
from jinit.models.tracing.roles import Role
from jinit.models.tracing.trace import Trace

_FEWEST = 16  # entries that do not agree by chance
_LOOKED_AT = 2**16


def by_design(trace: Trace, roles: Sequence[Role], zero: frozenset[int]) -> Mapping[int, str]:
    """Parameter -> why it may start at 0, of those in `zero` that may."""
    found = {}
    weights = [r for r in roles if r.kind in ("weight", "tied") and r.order is not None]
    last = max(weights, key=lambda r: r.order or 0, default=None)
    for i in zero:
        role = roles[i]
        if role.kind == "embedding" and not any(use.axes[0] for use in role.uses):
            found[i] = "it starts at 0, as class tokens and positions often do."
        elif role.kind == "weight" and _is_scored(trace, role, zero):
            found[i] = (
                "it starts at 0, as queries do in some models: attention looks at all keys alike "
                "until the first step."
            )
        elif role.kind == "weight" and _has_another_way(trace, role, zero):
            found[i] = (
                "it starts at 0, and what it gives meets another signal, which passes: usual at "
                "the end of a residual branch, of LoRA's B and of modulations."
            )
    others = {r.number for r in weights if r is not last and r.number in zero}
    if last is not None and len(weights) > 1 and last.number in zero and others <= set(found):
        found.setdefault(last.number, (
            "it starts at 0, as some readouts do: nothing before it gets a gradient in the first "
            "step, and everything does from the second on."
        ))  # fmt: skip
    return found


def _is_scored(trace: Trace, role: Role, zero: frozenset[int]) -> bool:
    """Whether its product meets one that is not 0 in the logits of a softmax."""
    own = {use.order for use in role.uses if use.kind == "weight"}
    return any(
        own & softmax.uses and any(trace.uses[i].leaf not in zero for i in softmax.uses - own)
        for softmax in trace.softmaxes
    )


def _has_another_way(trace: Trace, role: Role, zero: frozenset[int]) -> bool:
    """Whether what its products give is added to, or multiplies, a signal that is not 0 with it."""
    own = {use.order for use in role.uses if use.kind == "weight"}
    for mine, theirs in trace.meetings:
        leaves = {trace.uses[i].leaf for i in theirs}
        if own & mine and not own & theirs and not (leaves and leaves <= zero):
            return True
    return False


def copies(roles: Sequence[Role], leaves: Sequence[Any], *, within: bool = False) -> dict[int, str]:
    """Parameter -> an earlier one of which it holds the same numbers, up to a factor.

    `within`: or what is stacked in it, as layers and experts are, holds the same numbers as each
    other, which an audit sees as an oddity of the parameter by itself.
    """
    known: dict[Any, tuple[str, np.ndarray]] = {}
    found = {}
    for i, (role, leaf) in enumerate(zip(roles, leaves, strict=True)):
        values = np.asarray(leaf)
        if role.kind not in ("weight", "tied", "embedding") or values.size < _FEWEST:
            continue
        flat = values.ravel()[:_LOOKED_AT].astype(np.complex64)
        largest = float(np.abs(flat).max())
        if not 0 < largest < np.inf or len(np.unique(flat[:_FEWEST])) < _FEWEST // 2:
            continue
        stacked = within and values.ndim > 2 and len(values) > 1 and role.receptive_field == 1
        if stacked and values[0].size >= _FEWEST and bool((values == values[:1]).all()):
            found[i] = f"each other, {len(values)} times"
            continue
        unit = flat / largest
        path, other = known.setdefault(
            (values.shape, np.round(unit[:4], 3).tobytes()), (role.path, unit)
        )
        if path != role.path and np.allclose(other, unit, atol=1e-5):
            found[i] = short_name(path)
    return found
