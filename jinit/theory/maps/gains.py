"""The factor on a scheme's standard deviation that an activation asks for."""

import math
from collections.abc import Callable

from jinit import checks
from jinit.theory.moments.arguments import variance
from jinit.theory.moments.curve import ActivationLike, Curve, curve

_KEPT: dict[str, Callable[[Curve, float], float]] = {
    "second_moment": lambda phi, q: phi.second(q),
    "variance": lambda phi, q: phi.variance(q),
    "gradient": lambda phi, q: phi.gradient_second(q),
}


def gain(activation: ActivationLike, q: float = 1.0, kind: str = "second_moment") -> float:
    """The gain that makes up for what the activation takes away from the signal.

        second_moment:  1 / sqrt(E phi(sqrt(q) z)^2)     the length of the next layer is 1
        variance:       1 / std  phi(sqrt(q) z)          its spread around the mean is 1
        gradient:       1 / sqrt(E phi'(sqrt(q) z)^2)    gradients keep their size

    with z ~ N(0, 1). For ReLU the first and the last are He's sqrt(2), whatever q. Multiplied onto
    Xavier's standard deviation, `jinit.init(key, net, "xavier", gain=jinit.gain("gelu"))`, the
    first keeps pre-activations of variance q = 1 at variance 1; this need not be a point at which
    they stay for ever (`jinit.theory.critical` is).

    Args:
        q: variance of the pre-activations, positive.
        kind: what is to be kept.

    Raises:
        ValueError: unknown kind; an activation that is constant; moments that diverge.

    Source: He et al. 2015, eq. 9 and 10, for ReLU; Klambauer et al. 2017 for the variance.

    >>> round(gain("gelu"), 6)
    1.53353
    """
    phi = curve(activation)
    q = variance("q", q, positive=True)
    checks.choice("kind", kind, _KEPT)
    kept = _KEPT[kind](phi, q)
    if kept <= 0:
        raise ValueError(
            f"{phi.name} has no {kind} gain at q = {q:g}: what it should keep is 0, or too small "
            f"for float64; give an activation that is not constant, or a larger q."
        )
    return 1 / math.sqrt(kept)
