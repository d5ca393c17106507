"""How fast gradients grow in deep batch-normalised networks (Yang et al. 2019).

Batch norm divides a unit's pre-activations z over the batch, B numbers of covariance lambda P at
the fixed point where no sample is special (P centres), by their own spread. What comes out,

    u = sqrt(B) P z / |P z|,

is uniform on a sphere of the B - 1 centred dimensions, for any batch size and any activation, and
at infinite width all that is asked for is an expectation over two entries of u.
"""

from collections.abc import Callable
from numbers import Integral

import numpy as np

from jinit import checks
from jinit.theory.layers.batches import BatchNormMoments, Entries, mean_over, moments_over
from jinit.theory.moments.curve import ActivationLike, Curve, curve

_CONSTANT = 1e-26  # a variance below that, relative to the mean square, is rounding
_UNSTABLE = 1e-9  # above 1; homogeneous activations have exactly 1


def batch_norm_growth(
    activation: ActivationLike, *, batch: int | None = None, allow_unstable: bool = False
) -> float:
    """Growth of the mean squared gradient per layer, backwards, under batch norm.

    For layers linear -> batch norm -> phi of infinite width, with eps = 0 and any weight variance,
    deep inside a net where the batch is at its symmetric fixed point. With d = phi'(u) at one entry
    u of a normalised batch of B, d' and u' at another, and lambda = E (phi(u) - phi(u'))^2 / 2,

        growth = [(B - 1) E d^2 - E u^2 d^2 + E d d' + E u u' d d'] / ((B - 3) lambda),

    which tends to E[phi'(z)^2] / Var[phi(z)] for large batches, and is (B - 2) / (B - 3) in linear
    nets. It is the factor of the *mean* square over nets; the mean logarithm lies lower by half its
    variance, which is of order 1 / width for batches of 6 and more. In smaller ones the inverse
    variance over the batch has no second moment, and finite networks lie lower still (6 % at
    B = 4 and a width of 600).

    Args:
        batch: its size B, at least 4; None for the limit of large batches (and still larger width).
        allow_unstable: give the formula's value also where deep nets leave the fixed point.

    Raises:
        ValueError: for a batch below 4; for an activation that is constant on the batch; and where
            the fixed point is unstable, see `batch_norm_stability`.

    Source: Yang et al. 2019, "A Mean Field Theory of Batch Normalization".
    """
    phi = curve(activation)
    if batch is not None:
        batch = _batch_of_four(batch, _NO_GROWTH)
    if not checks.flag("allow_unstable", allow_unstable):
        _check_stable(phi, batch)
    if batch is None:
        return phi.gradient_second(1.0) / _varying(phi, None, phi.variance(1.0))
    own, longer, both, aligned, spread = _over_two(
        phi, batch,
        lambda two: (
            two.custom_u**2, (two.u * two.custom_u) ** 2, two.custom_u * two.custom_v,
            two.u * two.v * two.custom_u * two.custom_v,
        ),
    )  # fmt: skip
    return ((batch - 1) * own - longer + both + aligned) / ((batch - 3) * spread)


def batch_norm_stability(activation: ActivationLike, *, batch: int | None = None) -> float:
    """By what factor a layer changes how far samples differ in length; above 1 none stay equal.

    At the symmetric fixed point all samples of a batch have the same length, q = 1 after batch
    norm. In large batches a sample of another length returns to the others at the rate

        d ln Var[phi(sqrt(q) z)] / d ln q    at q = 1

    per layer, where the variance is about the mean at q = 1 (which is the same derivative). Above
    1 it does not return: the fixed point is unstable, and what is computed at it does not describe
    deep nets. Homogeneous activations (ReLU, leaky ReLU, the identity) have exactly 1.

    In a batch of B the common normalisation pulls samples together, by (B - 1) / (B + 1) in linear
    nets. The covariance is perturbed by A = w w^T - P / B with w = P e_1, which moves the entries
    by du_i = (w_i u_1 - u_i u_1^2 / B) / 2; returned is the factor by which A comes back. So GELU
    is unstable in large batches, and stable in batches of 32. (Samples can also come to differ in
    their correlations; that factor is (E phi')^2 / Var phi <= 1 in large batches.)

    Args:
        batch: its size B, at least 4; None for the limit of large batches.

    Raises:
        ValueError: for a batch below 4, or an activation that is constant on the batch.

    Source: derived here; Yang et al. 2019 discuss the stability of the symmetric fixed point.
    """
    phi = curve(activation)
    if batch is None:
        mean, spread = phi.mean(1.0), _varying(phi, None, phi.variance(1.0))
        return phi.expect(1.0, lambda at: at.z * (at.value - mean) * at.slope) / spread
    batch = _batch_of_four(batch, _NO_DENSITY)
    share, mean = 1 / batch, moments_over(phi, batch).mean

    def integrands(two: Entries) -> tuple[np.ndarray, ...]:
        value_u, value_v = two.value_u - mean, two.value_v - mean
        # Twice du_i of the docstring, for the sample that is longer (u) and for another one (v).
        du = (1 - share) * two.u - share * two.u**3
        dv = -share * two.u - share * two.v * two.u**2
        return (value_u * two.slope_u * du, value_u * two.slope_v * dv + value_v * two.slope_u * du)

    same, others, spread = _over_two(phi, batch, integrands)
    back = (1 - 2 * share) * same - (1 - share) * others
    return back / ((1 - share) * (1 - 2 * share) * spread)


def batch_norm_moments(activation: ActivationLike, *, batch: int | None = None) -> BatchNormMoments:
    """Mean and second moment of one activation behind batch norm, E phi(u) and E phi(u)^2.

    Args:
        batch: its size, at least 2; None for the limit of large batches, a Gaussian u.

    Raises:
        ValueError: for a batch below 2.
    """
    phi = curve(activation)
    if batch is None:
        return BatchNormMoments(phi.mean(1.0), phi.second(1.0))
    return moments_over(phi, checks.count("batch", batch, least=2))


def batch_norm_spread(activation: ActivationLike, *, batch: int | None = None) -> float:
    """The variance of phi(u) over a normalised batch, with B - 1 in the denominator.

    E |P phi(u)|^2 / (B - 1) = E (phi(u) - phi(u'))^2 / 2, which times weight_var is what the next
    layer's norm divides by (squared, and up to B / (B - 1)). Entries of one batch are correlated,
    so that this is not E phi^2 - (E phi)^2 but for large batches.

    Args:
        batch: its size B, at least 4; None for the limit of large batches.

    Raises:
        ValueError: for a batch below 4, or an activation that is constant on the batch.
    """
    phi = curve(activation)
    if batch is None:
        return _varying(phi, None, phi.variance(1.0))
    (spread,) = _over_two(phi, _batch_of_four(batch, _NO_DENSITY), lambda two: ())
    return spread


def _check_stable(phi: Curve, batch: int | None) -> None:
    factor = batch_norm_stability(phi, batch=batch)
    if factor > 1 + _UNSTABLE:
        of = "large batches" if batch is None else f"batches of {batch}"
        raise ValueError(
            f"batch_norm_growth describes deep nets whose samples all stay equally long, but for "
            f"{phi.name} in {of} differences in length grow by {factor:.6g} per layer (at most 1 "
            f"is stable); measure what deep nets do instead with jinit.layer_signals, or pass "
            f"allow_unstable=True for the formula's value."
        )


def _over_two(
    phi: Curve, batch: int, integrands: Callable[[Entries], tuple[np.ndarray, ...]]
) -> tuple[float, ...]:
    """`mean_over`, where the spread is one to divide by."""
    *means, spread = mean_over(phi, batch, integrands)
    return *means, _varying(phi, batch, spread)


def _varying(phi: Curve, batch: int | None, spread: float) -> float:
    """The spread that batch norm divides by, if it is not 0."""
    if not spread > _CONSTANT * batch_norm_moments(phi, batch=batch).mean ** 2:
        on = "as it is"
        if batch is not None:
            on = f"on all values that a normalised batch of {batch} can hold"
        raise ValueError(
            f"batch norm divides by the spread of its input, which is 0 for {phi.name}, constant "
            f"{on}; give an activation that varies."
        )
    return spread


_NO_GROWTH = (
    "for a gradient growth under batch norm",
    "in smaller batches 1 / variance, and with it the squared gradient, has no finite mean",
)
_NO_DENSITY = (
    "for expectations over two entries of a normalised batch",
    "in smaller batches one entry leaves the others no more than a sign to choose",
)


def _batch_of_four(batch: int, purpose: tuple[str, str]) -> int:
    if isinstance(batch, Integral) and not isinstance(batch, bool) and 0 < batch < 4:
        what, why = purpose
        raise ValueError(f"batch must be at least 4 {what}, got {batch}: {why}.")
    return checks.count("batch", batch, least=4)
