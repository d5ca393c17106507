"""What a diagnosis measures: one record for each layer, activation, parameter and branch.

Logarithms are natural, as those of `jinit.layer_signals`; people are shown `decades`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from jinit.models.tracing.roles import Role
from jinit.networks.signals import LayerSignals


class DiagnosedLayer(NamedTuple):
    """One application of weights, with its record of `jinit.LayerSignals`, field by field.

    The pre-activation is what comes out of the weights and their bias, before any norm; of the
    weights that a residual branch ends with it is the stream after the sum, and their activation
    what they read. Of weights without an activation it is what they give.
    """

    path: str
    """of the weights; several that are applied as one are joined by " + " """
    layer: str
    """the same in short, with the number of the layer in a loop"""
    kind: str
    """of the weights, "weight" or "tied" """
    fan_in: int | float
    fan_out: int
    activation: str | None
    size: int
    """entries of the pre-activations"""
    pre_mean: float
    pre_std: float
    act_mean: float
    act_std: float
    log_pre: float
    log_act: float
    dead: float
    """NaN of an activation of several entries, as softmax is"""
    saturated: float
    log_grad: float
    """minus infinity where no gradient arrives"""
    log_weight_grad: float
    """of the array that holds the weights, or of its layer in a stack of them"""
    in_time: tuple[float, ...]
    """log_grad at each step of a loop that shares the weights, first step first"""
    forward_in_time: tuple[float, ...]
    """log_pre likewise"""

    @property
    def log_rms(self) -> float:
        """Of the pre-activation: another name of `log_pre`."""
        return self.log_pre

    @property
    def signals(self) -> LayerSignals:
        """The record alone, of numbers."""
        found: Any = {name: getattr(self, name, None) for name in LayerSignals._fields}
        return LayerSignals(**found)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the weights, one by one."""
        return tuple(self.path.split(" + "))

    @property
    def log_grad_norm(self) -> float:
        """Of the Euclidean norm of the gradient by all pre-activations of the layer."""
        return self.log_grad + 0.5 * math.log(self.size)


class ActivationSignal(NamedTuple):
    """What goes through one activation."""

    name: str | None
    after: str
    """the layer that it follows"""
    mean: float
    std: float
    log_act: float
    log_grad: float
    """of the gradient by what comes out of it"""
    dead: float
    saturated: float


class AttentionSignal(NamedTuple):
    """The logits of one softmax of products of two signals, over all passes of loops around it."""

    after: str
    """the weights that the products read last"""
    std: float
    """of the logits about the mean of their row, masked ones left out"""
    entropy: float
    """of the softmax over that of equal weights: 1 attends to all alike, 0 to one alone"""
    keys: int
    """of a row, masked ones counted"""


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
    by_design: str | None = None
    """why it may start at 0, if it does"""
    same_as: str | None = None
    """an earlier parameter of which it holds the same numbers, up to a factor"""

    @property
    def gain(self) -> float:
        """std sqrt(fan_in): 1 keeps the variance of a linear layer."""
        return self.std * math.sqrt(self.role.fan_in or 1)


class Branch(NamedTuple):
    """Paths of the parameters on one residual branch."""

    inside: frozenset[str]
    last: frozenset[str]
    """of the weights that it ends with"""


class Finding(NamedTuple):
    """Something that is wrong with a model."""

    kind: str
    """a key of `jinit.models.FAULTS`"""
    layers: tuple[str, ...]
    """which, in short"""
    sentence: str
    """what, where, how much, and a cure"""


def decades(log: Any) -> Any:
    """A natural logarithm in powers of ten, as people read them; arrays as well."""
    return log / math.log(10)


def pooled(logs: ArrayLike | list[Any], sizes: list[int] | None = None) -> float:
    """Of the root mean square of several parts, from those of the parts and their sizes."""
    flat = np.ravel(np.asarray(logs, np.float64))
    largest = np.max(flat)
    if not np.isfinite(largest):
        return float(largest)
    return float(largest + 0.5 * np.log(np.average(np.exp(2 * (flat - largest)), weights=sizes)))
