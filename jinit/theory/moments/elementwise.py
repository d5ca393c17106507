"""Refusing functions that are not elementwise, before an expectation would be wrong in silence."""

from collections.abc import Callable
from typing import Any

import numpy as np


def check_elementwise(
    what: str,
    output: Callable[[], Any],
    value: Callable[[np.ndarray], np.ndarray],
    *,
    points: int,
    kinds: str = "",
    write: str = "jax.numpy",
) -> None:
    """One sentence for what is not an elementwise function of one array.

    Args:
        what: the beginning of it.
        output: what the function makes of a float64 vector of 8, or its shape and dtype.
        value: the function.
        points: at which entries are seen to be on their own.
        kinds: of dtypes that are good beside float64.
        write: with what to write it.
    """
    try:
        out = output()
    except Exception as error:
        raise TypeError(
            f"{what}, got one that raises {type(error).__name__} "
            f"({str(error).splitlines()[0] if str(error) else ''}) on a float64 vector; write it "
            f"with {write}."
        ) from error
    if getattr(out, "shape", None) != (8,):
        raise ValueError(
            f"{what}, got one that turns shape (8,) into {getattr(out, 'shape', type(out))}."
        )
    if out.dtype.kind not in kinds and out.dtype != np.float64:
        raise ValueError(
            f"{what} that keeps float64, got one that returns {out.dtype}; leave out its casts."
        )
    x = np.linspace(-3.0, 3.0, points)
    alone = value(x)
    for kept in (slice(None, points // 2), slice(points // 2, None)):  # the others change
        changed = 3 * x + 1
        changed[kept] = x[kept]
        now = value(changed)
        if not np.allclose(now[kept], alone[kept], rtol=1e-9, atol=1e-12, equal_nan=True):
            raise ValueError(
                f"{what}, got one whose value at an entry depends on the other entries (as "
                f"softmax's or cumsum's does)."
            )
