"""Aliases and small tuples shared by every floor."""

from typing import NamedTuple

from jaxtyping import ArrayLike, Float, Num

__all__ = ["Data"]


class Data(NamedTuple):
    """A data set as plain arrays.

    `x_train` [train, features], `y_train` [train], `x_test` [test, features], `y_test` [test].
    Labels are integers from 0, or floats [samples, outputs] for regression.
    """

    x_train: Float[ArrayLike, "train features"]
    y_train: Num[ArrayLike, "train ..."]
    x_test: Float[ArrayLike, "test features"]
    y_test: Num[ArrayLike, "test ..."]
