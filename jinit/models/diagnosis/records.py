"""What a diagnosis measures: one record for each layer, activation, parameter and branch."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from jinit.models.tracing.roles import Role

__all__ = ["ActivationSignal", "Branch", "LayerSignal", "Measured", "ParameterSignal"]


class LayerSignal(NamedTuple):
    """What comes out of one application of weights; logarithms are to base 10."""

    path: str
    """of the weights; several that are applied as one are joined by " + " """
    layer: str
    """the same in short, with the number of the layer in a loop"""
    role: str
    fan_in: int | float
    fan_out: int
    activation: str | None
    mean: float
    std: float
    log_rms: float
    """of the pre-activations, before the bias"""
    log_grad: float
    """root mean square of the gradient by them; minus infinity where none arrives"""
    size: int
    """entries of the pre-activations"""
    dead: float
    """fraction of units of the activation whose slope is 0 on every sample; NaN without one"""
    saturated: float
    """fraction of entries whose slope is below `SATURATION` of the steepest"""
    in_time: tuple[float, ...]
    """log_grad at each step of a loop that shares the weights, first step first"""
    forward_in_time: tuple[float, ...]
    """log_rms likewise"""

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the weights, one by one."""
        return tuple(self.path.split(" + "))

    @property
    def log_grad_norm(self) -> float:
        """Of the Euclidean norm of the gradient by all pre-activations of the layer."""
        return self.log_grad + 0.5 * math.log10(self.size)


class ActivationSignal(NamedTuple):
    """What goes through one activation."""

    name: str | None
    after: str
    """the layer that it follows"""
    mean: float
    std: float
    log_rms: float
    log_grad: float
    dead: float
    saturated: float


class ParameterSignal(NamedTuple):
    """A parameter's values and gradient."""

    role: Role
    label: str
    mean: float
    std: float
    log_grad: float
    constant: bool
    """whether all outputs of a weight are copies of one"""
    orthogonal: bool
    """whether the first of its matrices is, up to a factor"""

    @property
    def gain(self) -> float:
        """std sqrt(fan_in): 1 keeps the variance of a linear layer."""
        return self.std * math.sqrt(self.role.fan_in or 1)


class Branch(NamedTuple):
    """Paths of the parameters on one residual branch."""

    inside: frozenset[str]
    last: frozenset[str]
    """of the weights that it ends with"""


@dataclass(frozen=True)
class Measured:
    """Signals through a model, before anything is said of them."""

    layers: tuple[LayerSignal, ...]
    """in call order, the layers of loops one by one"""
    activations: tuple[ActivationSignal, ...]
    parameters: tuple[ParameterSignal, ...]
    loss: float
    """its value, or the mean of output times random numbers"""
    log_output: float
    """log10 of the root mean square of the output's first array"""
    residuals: int
    """branches that end in a sum, the layers of loops one by one"""
    branches: tuple[Branch, ...]
