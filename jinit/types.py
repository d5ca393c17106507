"""Aliases and small tuples shared by every floor."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Num

__all__ = ["AnyArray", "Data"]

AnyArray = jax.Array | np.ndarray


class Data(NamedTuple):
    """A data set as plain arrays.

    `x_train` [train, features], `y_train` [train], `x_test` [test, features], `y_test` [test].
    Labels are integers from 0, or floats [samples, outputs] for regression.
    """

    x_train: Float[AnyArray, "train features"]
    y_train: Num[AnyArray, "train ..."]
    x_test: Float[AnyArray, "test features"]
    y_test: Num[AnyArray, "test ..."]
