"""How the length of a signal changes from layer to layer in an infinitely wide network.

For weights of variance weight_var / fan_in and biases of variance bias_var, the variance of the
pre-activations follows (Poole et al. 2016, eq. 3)

    q_{l+1} = weight_var E[phi(sqrt(q_l) z)^2] + bias_var,    z ~ N(0, 1).
"""

import math
from typing import NamedTuple

import numpy as np

from jinit import checks
from jinit.activations import Activation
from jinit.theory.gaussian import double, expectation, kinks

__all__ = ["Trajectory", "length_map", "trajectory"]


class Trajectory(NamedTuple):
    """Infinite-width statistics of layers 1 to depth, each `[depth]`."""

    q: np.ndarray
    """variance of the pre-activations"""
    act_mean: np.ndarray
    act_std: np.ndarray


def length_map(
    phi: str | Activation, q: float, *, weight_var: float, bias_var: float = 0.0
) -> float:
    """The next layer's pre-activation variance (Poole et al. 2016, eq. 3).

    >>> length_map("relu", 1.0, weight_var=2.0)
    1.0
    """
    _check_variances(weight_var=weight_var, bias_var=bias_var, q=q)
    f = double(phi)
    second = expectation(lambda u: f(u) ** 2, q, kinks=kinks(phi))
    return weight_var * second + bias_var


def trajectory(
    phi: str | Activation,
    *,
    depth: int,
    weight_var: float,
    bias_var: float = 0.0,
    input_second_moment: float = 1.0,
) -> Trajectory:
    """Variance of pre-activations, and mean and std of activations, layer by layer.

    Args:
        phi: the activation.
        depth: the number of layers.
        weight_var: fan_in times the variance of a weight (1 for Xavier, 2 for He).
        bias_var: variance of a bias.
        input_second_moment: mean square of the inputs' entries.
    """
    depth = checks.count("depth", depth)
    _check_variances(
        weight_var=weight_var, bias_var=bias_var, input_second_moment=input_second_moment
    )
    f, breaks = double(phi), kinks(phi)
    second = input_second_moment
    rows = []
    for _ in range(depth):
        q = weight_var * second + bias_var
        mean = expectation(f, q, kinks=breaks)
        second = expectation(lambda u: f(u) ** 2, q, kinks=breaks)
        rows.append((q, mean, math.sqrt(max(second - mean**2, 0.0))))
    return Trajectory(*np.array(rows).T)


def _check_variances(**variances: float) -> None:
    for name, value in variances.items():
        checks.number(name, value)
        if value < 0:
            raise ValueError(f"{name} is a variance and must not be negative, got {value!r}.")
