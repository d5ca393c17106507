"""The lines of code that do what a candidate did."""

from jinit.fixing.candidates import CLIP, DRAWS, Candidate, Case
from jinit.fixing.given import Names
from jinit.fixing.trials import Start


def lines_of(
    candidate: Candidate, case: Case, start: Start, names: Names, learning_rate: float | None
) -> str:
    """They take the user's names, and leave a new start and optimizer under these."""
    lines = []
    if candidate.draw is not None:
        draw = DRAWS[candidate.draw(case)]
        own = "".join(
            f', {name}="{value}"' if isinstance(value, str) else f", {name}={value}"
            for name, value in draw.options(case).items()
        )
        call = f"{draw.name}(key, {names.model}, x{own}{names.options})"
        lines += [f"x = {names.x}", f"{names.drawn} = {call}"]
    clip = f"optax.clip_by_global_norm({CLIP})"
    own = "optimizer"
    if learning_rate is not None:
        if start.scale != 1.0:
            lines += [f"learning_rate = {learning_rate * start.scale!r}"]
        own = "optimizer(learning_rate)"
    elif start.scale != 1.0:
        own = f"optimizer, optax.scale({start.scale!r})"
    if start.clip or "scale" in own:
        parts = f"{clip}, {own}" if start.clip else own
        lines += [f"optimizer = optax.chain({parts})"]
    return "\n".join(lines)
