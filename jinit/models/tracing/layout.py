"""How an initializer has to read the shape of a weight."""

import math

from jinit.models.tracing.roles import Role
from jinit.models.tracing.values import RoleError


def reading(role: Role) -> str | None:
    """The axes to name to it, `in_axis=-1, out_axis=-2`, and what it cannot know.

    Initializers count every tap of a kernel; of a transposed convolution each output meets one
    in as many as its strides multiply to. None where inputs or outputs lie on no axis alone.
    """
    try:
        columns = role.matrix()[0]
    except RoleError:
        return None
    if min(columns.shape) < 2:
        return None
    steps = [math.prod(role.shape[axis + 1 :]) for axis in range(len(role.shape))]
    found = []
    for step in (columns[1, 0] - columns[0, 0], columns[0, 1] - columns[0, 0]):
        axes = [axis for axis, size in enumerate(role.shape) if size > 1 and steps[axis] == step]
        if len(axes) != 1:
            return None
        found.append(axes[0] - len(role.shape))
    in_axis, out_axis = found
    assert role.fan_in is not None
    skipped = math.prod(role.shape) / role.layers / role.shape[out_axis] / float(role.fan_in)
    named = f"in_axis={in_axis}, out_axis={out_axis}"
    if skipped < 1.01:
        return named
    return f"{named}, and {skipped:.3g} times the variance, as strides skip the other taps"
