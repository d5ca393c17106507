"""Which form of a program runs where: a CPU and an accelerator want different ones.

A CPU multiplies samples as columns fastest, and scanned layers keep its code small. An accelerator
waits for memory where a step slices weights out of stacked arrays, and takes batches as rows. The
platform that a program is lowered for decides, not the device that happens to be first.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import backend

PLATFORMS: frozenset[str] | None = None
"""for which platforms a program may be lowered; None are those that jax has found here"""


def platforms() -> frozenset[str]:
    """Those that a program may be lowered for."""
    return frozenset(backend.backends()) if PLATFORMS is None else PLATFORMS


def by_platform(cpu: Callable[..., Any], elsewhere: Callable[..., Any], *args: Any) -> Any:
    """`cpu(*args)` where the program is lowered for a CPU, else `elsewhere(*args)`.

    A form that no platform here takes is not traced.
    """
    found = platforms()
    if found <= {"cpu"}:
        return cpu(*args)
    if "cpu" not in found:
        return elsewhere(*args)
    return jax.lax.platform_dependent(*args, cpu=cpu, default=elsewhere)
