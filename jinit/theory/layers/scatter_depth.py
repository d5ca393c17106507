"""How deep critical networks train: until the gradients of two draws differ by a factor of e."""

import math

from jinit.theory.layers.finite_width import finite_width
from jinit.theory.maps.wide import WideLayer

_FOLLOWED = 2048  # layers, layer by layer


def scatter_depth(layer: WideLayer, *, q: float = 1.0, width: int = 128) -> int:
    """The most layers through which two draws' gradients differ by less than a factor of e.

    What is counted is the standard deviation of ln(root mean square gradient), by `finite_width`;
    it ends the depth of critical networks (Hanin 2018). Activations that are linear on either side
    of 0, without biases, are exact. The others are followed through 2048 layers, and from there
    on by the power of the depth that the variance grows with, in all to about 2 %.

    Args:
        q: variance of the first layer's pre-activations.
        width: of every layer.
    """

    def variance_over(layers: int) -> float:
        scatter = finite_width(layer, [width] * layers, q=q)
        return float(scatter.gradient_var[0]) / 4  # of the log of a root, not of the square

    few, many = 1, 2
    less, more = 0.0, variance_over(many)
    if finite_width(layer, [width], q=q).exact:  # every layer that is passed adds the same
        return 1 + math.floor(1 / more)
    while more < 1 and many < _FOLLOWED:
        few, many = many, 2 * many
        less, more = more, variance_over(many)
    if more < 1:  # a power of the layers that are passed, one less; until it reaches 1
        power = math.log(more / less) / math.log((many - 1) / (few - 1))
        return 1 + math.floor((many - 1) * more ** (-1 / power))
    while many - few > max(1, few // 50):
        middle = (few + many) // 2
        few, many = (middle, many) if variance_over(middle) < 1 else (few, middle)
    return few
