"""What a result depends on, as text that is the same in every process."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jinit.runtime import numerics
from jinit.sweeps.blocks import Runner
from jinit.sweeps.compile import identity

_WORDS = {
    "static": "static axes", "traced": "traced axes", "dims": "dims", "block": "block",
    "group": "group", "platform": "platform", "jax": "jax version", "numerics": "numerics settings",
}  # fmt: skip


def fingerprint(runner: Runner) -> dict[str, Any]:
    """`Sweep.description`, programs, and what `surroundings` says.

    A program stands for itself as the hash of its StableHLO for one row and of the constants that
    it closes over, data among them.
    """
    sweep = runner.sweep
    programs: dict[str, str] = {}
    for point, traced in zip(sweep.points, runner.traced, strict=True):
        for what in sweep.functions:
            own = sweep.arguments_of(what, point)
            name = f"{what}({', '.join(f'{k}={sweep.label(k, v)}' for k, v in own.items())})"
            if name not in programs:
                programs[name] = _hash(runner.rows[identity(sweep, what, point, traced.start)])
    return {**sweep.description, "programs": programs, **surroundings(runner)}


def surroundings(runner: Runner) -> dict[str, Any]:
    """Platform, jax version and numerics flags."""
    return {
        "platform": runner.platform, "jax": jax.__version__, "numerics": numerics(),
    }  # fmt: skip


def _hash(traced: jax.stages.Traced) -> str:
    digest = hashlib.sha256(traced.lower().as_text().encode())
    # Newer versions of jax pass constants beside the program instead of within it.
    for constant in traced.jaxpr.consts:
        array = np.asarray(constant)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One phrase for each part that differs; traced values and seeds may."""
    found = []
    for part, word in _WORDS.items():
        before, after = _identity(part, stored.get(part)), _identity(part, now.get(part))
        if before != after:
            found.append(f"{word} {_short(before)}, now {_short(after)}")
    if any(phrase.startswith(_WORDS["static"]) for phrase in found):
        found.append("a store grows along traced axes and seeds only")
    before, after = stored.get("programs", {}), now.get("programs", {})
    if set(before) == set(after):
        changed = [name for name in after if before[name] != after[name]]
        if changed:
            found.append(
                f"another program or other data in {changed[0]}"
                + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
            )
    elif not found:
        found.append(f"programs {_short(sorted(before))}, now {_short(sorted(after))}")
    return found


def _identity(part: str, value: Any) -> Any:
    """Static axes with their order, and of traced axes what kind of number each holds."""
    if part == "traced":
        return {name: type(value[name][0]).__name__ for name in sorted(value)}
    return str(value) if part == "static" else value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:45]} ... ({len(text)} characters)"
