"""What a norm between the linear map and the activation changes: one row for each.

The keys are those of `jinit.networks`' table of norms; neither knows the other.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jinit.theory.layers.batch_norm import batch_norm_growth, batch_norm_moments, batch_norm_spread
from jinit.theory.maps.criticality import chi_at
from jinit.theory.maps.lengths import limit_length
from jinit.theory.maps.orbit import orbit
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.curve import Curve
from jinit.theory.moments.table import Table


class Rows(NamedTuple):
    """What the layers report, each `[depth]`."""

    q: np.ndarray
    mean: np.ndarray
    """of the activations"""
    var: np.ndarray
    second: np.ndarray
    factor: np.ndarray
    """by which the squared gradient changes on its way through a layer"""


def table_of(phi: Curve) -> Table:
    """E phi^2, E phi, Var phi and E phi'^2 (as gradients see it) at many lengths."""
    return Table(
        lambda q: np.array([phi.second(q), phi.mean(q), phi.variance(q), phi.gradient_second(q)]),
        sizes=lambda rows: np.stack([rows[0], np.sqrt(rows[0]), rows[0], rows[3]]),
    )


class Batch(NamedTuple):
    """What is said of a batch, for norms over it."""

    size: int | None = None
    """None is the limit of many samples"""
    allow_unstable: bool = False


class Norm(NamedTuple):
    """One norm."""

    growth: Callable[[WideLayer, float | None, Batch], float]
    """of the mean squared gradient per layer, deep inside a network without skips; the q is that
    of a plain one, None where its lengths settle"""
    sees: Callable[[float], float]
    """variance of what enters the activation, where that of the pre-activations is q"""
    divides: Callable[[float, float], float]
    """by what it divides squared gradients: pre-activations, or a stream, of that mean square and
    of that variance over the batch"""
    batches: Callable[[WideLayer, float, int, Batch], Rows] | None = None
    """`layers`, if the norm makes samples depend on each other"""

    def layers(self, layer: WideLayer, second: float, depth: int, batch: Batch) -> Rows:
        """Layer by layer, from the mean square of the inputs; without skips."""
        if self.batches is not None:
            return self.batches(layer, second, depth, batch)
        table = table_of(layer.phi)
        q = orbit(
            lambda q, second: layer.fed(second(self.sees(q))),
            layer.fed(second), depth, layer.phi.second, table,
        )  # fmt: skip
        act_second, mean, var, steep = table.all(np.vectorize(self.sees, otypes=[float])(q))
        divided = np.vectorize(self.divides, otypes=[float])(q, q)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(divided > 0, layer.weight_var * steep / divided, math.inf)
        return Rows(q, mean, var, act_second, factor)

    def blocks(self, layer: WideLayer, second: float, depth: int, scale: float) -> Rows:
        """The same of residual blocks; q is the stream's."""
        table = table_of(layer.phi)

        def block(stream: float, second: Callable[[float], float]) -> float:
            return layer.fed(second(self.sees(stream)), stream=stream, scale=scale)

        streams = orbit(block, second, depth + 1, layer.phi.second, table)
        sees = np.vectorize(self.sees, otypes=[float])
        act_second, mean, var, steep = table.all(sees(streams))
        # A bias adds the same to all samples, and so does the mean of phi.
        added = scale * scale * layer.weight_var
        spreads = second + added * np.cumsum(var[:-1])
        divided = np.vectorize(self.divides, otypes=[float])(streams[1:], spreads)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(divided > 0, 1 + added * steep[1:] / divided, math.inf)
        return Rows(streams[1:], mean[:-1], var[:-1], act_second[:-1], factor)

    def log_branch(self, layer: WideLayer, scale: float, stream: float, spread: float) -> float:
        """ln of the factor of a residual block, at a stream of that mean square and variance."""
        if (divided := self.divides(stream, spread)) == 0:
            return math.inf
        slope_second = layer.phi.gradient_second(self.sees(stream))
        return math.log1p(scale * scale * layer.weight_var * slope_second / divided)


def layer_norm_growth(layer: WideLayer) -> float:
    """Growth of the mean squared gradient per layer, backwards, under layer norm.

    For layers linear -> layer norm over the units -> phi of infinite width with eps = 0,

        growth = weight_var E[phi'(z)^2] / (weight_var E[phi(z)^2] + bias_var),    z ~ N(0, 1):

    the weights multiply the gradient, the norm divides it by the variance that they and the biases
    give. The norm also takes out the gradient's components along 1 and along z, two of as many
    as there are units.

    Raises:
        ValueError: where every pre-activation is 0.
    """
    q = layer.length(1.0)
    if q == 0:
        raise ValueError(
            f"layer norm divides by the spread of the pre-activations, which is 0 for "
            f"{layer.phi.name} with weight_var {layer.weight_var:g} and bias_var 0; make one of "
            f"the variances positive."
        )
    return layer.weight_var * layer.phi.gradient_second(1.0) / q


# --- the table ----------------------------------------------------------------------------------


def _batch_layers(layer: WideLayer, second: float, depth: int, batch: Batch) -> Rows:
    size = batch.size
    growth = batch_norm_growth(layer.phi, batch=size, allow_unstable=batch.allow_unstable)
    mean, act_second = batch_norm_moments(layer.phi, batch=size)
    spread = batch_norm_spread(layer.phi, batch=size)
    # What the norm divides by varies with the spread over the batch, in the first layer the data's.
    first = growth * spread / second if second else math.inf
    factors = [first, *[growth] * (depth - 1)]
    lengths = [layer.fed(second), *[layer.fed(act_second)] * (depth - 1)]
    of_act = (np.full(depth, each) for each in (mean, act_second - mean**2, act_second))
    return Rows._make([np.array(lengths), *of_act, np.array(factors)])


NORMS: dict[str | None, Norm] = {
    None: Norm(
        lambda layer, q, batch: (
            chi_at(layer, limit_length(layer) if q is None else q).perpendicular
        ),
        sees=lambda q: q,
        divides=lambda q, spread: 1.0,
    ),
    "batch": Norm(
        lambda layer, q, batch: batch_norm_growth(
            layer.phi, batch=batch.size, allow_unstable=batch.allow_unstable
        ),
        sees=lambda q: 1.0,
        divides=lambda q, spread: spread,
        batches=_batch_layers,
    ),
    "layer": Norm(
        lambda layer, q, batch: layer_norm_growth(layer),
        sees=lambda q: 1.0,
        divides=lambda q, spread: q,
    ),
}

OVER_BATCHES = " or ".join(f"norm={name!r}" for name, norm in NORMS.items() if norm.batches)
"""for messages: the norms that take a batch"""
