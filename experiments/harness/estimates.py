"""Means over seeds with their standard errors, and how many of those are allowed."""

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import xarray as xr

STANDARD_ERRORS = 5


class Estimate(NamedTuple):
    """A mean over seeds with its standard error: numbers, or arrays of one shape."""

    mean: Any
    error: Any
    seeds: float = math.inf
    """from whose scatter the error is taken; infinitely many where it is known"""

    @property
    def tolerance(self) -> Any:
        """What is allowed between the mean and what is expected."""
        return errors_allowed(self.seeds) * self.error


def average(values: xr.DataArray, over: str = "seed") -> Estimate:
    """Over one dimension, the seeds; one that is no number makes the mean none."""
    seeds = values.sizes[over]
    error = values.std(over, ddof=1, skipna=False) / math.sqrt(seeds)
    return Estimate(values.mean(over, skipna=False), error, seeds)


def errors_allowed(seeds: float) -> float:
    """How many standard errors, where the error is taken from the scatter of so many seeds.

    Student's t, exceeded as rarely as STANDARD_ERRORS by a normal variable.

    >>> round(errors_allowed(10), 2), round(errors_allowed(1000), 2)
    (12.42, 5.03)
    """
    return float(scipy.stats.t.isf(scipy.stats.norm.sf(STANDARD_ERRORS), seeds - 1))


def extrapolate(narrow: Estimate, wide: Estimate, *, ratio: float = 2.0) -> Estimate:
    """To infinite width, from a width and one larger by a ratio: what goes as 1/width drops out.

    (ratio wide - narrow) / (ratio - 1); with it goes no assumption on where the limit lies.
    """
    error = np.hypot(ratio * wide.error, narrow.error) / (ratio - 1)
    mean = (ratio * wide.mean - narrow.mean) / (ratio - 1)
    return Estimate(mean, error, min(narrow.seeds, wide.seeds))
