"""Refusing functions that are not elementwise, before an answer would be wrong in silence."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jinit import checks


def check_elementwise(
    what: str,
    output: Callable[[], Any],
    value: Callable[[np.ndarray], np.ndarray],
    *,
    points: int,
    dtype: Any = np.float64,
    kinds: str = "",
    write: str = "jax.numpy",
) -> None:
    """One sentence for what is not an elementwise function of one array.

    Args:
        what: the beginning of it.
        output: what the function makes of a vector of 8 of that dtype, or its shape and dtype.
        value: the function; what it gives is not looked at where it is traced.
        points: at which entries are seen to be on their own.
        dtype: of its argument.
        kinds: of dtypes that are good beside that.
        write: with what to write it.
    """
    try:
        out = output()
    except Exception as error:
        raise TypeError(
            f"{what}, got one that raises {type(error).__name__} "
            f"({str(error).splitlines()[0] if str(error) else ''}) on a {np.dtype(dtype)} vector; "
            f"write it with {write}."
        ) from error
    if getattr(out, "shape", None) != (8,):
        raise ValueError(
            f"{what}, got one that turns shape (8,) into {getattr(out, 'shape', type(out))}."
        )
    if out.dtype.kind not in kinds and out.dtype != dtype:
        raise ValueError(
            f"{what} that keeps {np.dtype(dtype)}, got one that returns {out.dtype}; leave out its "
            f"casts."
        )
    x = np.linspace(-3.0, 3.0, points, dtype=dtype)
    alone = value(x)
    if not checks.is_concrete(alone):
        return
    rtol = 1e-9 if dtype == np.float64 else 1e-5
    for kept in (slice(None, points // 2), slice(points // 2, None)):  # the others change
        changed = 3 * x + 1
        changed[kept] = x[kept]
        now = value(changed)
        if not np.allclose(now[kept], alone[kept], rtol=rtol, atol=1e-3 * rtol, equal_nan=True):
            raise ValueError(
                f"{what}, got one whose value at an entry depends on the other entries (as "
                f"softmax's or cumsum's does)."
            )
