"""Who is timed: for each a function from a workload to something that runs it.

A peer module has `ENTRIES`, name -> `build(workload, networks) -> Built`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["Built"]


class Built(NamedTuple):
    """A workload, ready to run."""

    run: Callable[[], np.ndarray]
    """the results, in memory when it returns: last batch loss [networks], or log10 of the root
    mean square of every weight gradient [networks, layers]"""
    compile_seconds: float
