"""How fast a pattern over the pixels of an image dies out (Xiao et al. 2018, section 2).

With many channels and circular padding, covariances between pixels p and p' follow

    S'(p, p') = sum_b v_b F[S(p + b, p' + b)],

F the map of a dense layer and v_b the share that entry b of the kernel has in the variance of a
weight, sum v = 1. Near a fixed point a deviation that goes with a plane wave of frequency f over
the pixels is therefore multiplied by the factor of a dense layer and by

    transform(f) = |sum_b v_b exp(-2 pi i f.b)|:

with all of the variance at one entry (delta-orthogonal) every wave lives as long as the mean over
the image does, else the mean alone.
"""

from typing import Any, NamedTuple

import numpy as np

from jinit import checks
from jinit.theory.maps.depth_scales import DepthScales, depth_scales
from jinit.theory.maps.wide import WideLayer
from jinit.theory.moments.arguments import is_settled
from jinit.theory.moments.pairs import pair


class ModeFactors(NamedTuple):
    """Factors per layer, each `[height, width]`, over frequencies in the order of `numpy.fft`."""

    transform: np.ndarray
    """what the kernel alone does: 1 at frequency 0"""
    length: np.ndarray
    """of a deviation of lengths: times dV/dq at q"""
    correlation: np.ndarray
    """of a deviation of correlations from c, of pixels or of inputs: times the slope of the map"""
    distance: np.ndarray
    """of the squared distance of two nearby inputs: times chi"""
    gradient: np.ndarray
    """of the squared gradient, on its way back: times chi"""


def mode_factors(layer: WideLayer, *, image: tuple[int, int], kernel: int | Any = 3) -> ModeFactors:
    """What a convolution multiplies a deviation by, for every plane wave over the image.

    Args:
        image: height and width, which circular padding makes a torus.
        kernel: the side of a kernel whose entries have one variance, or the variances `[k, k]` of
            its entries, of which only the shares matter.

    Returns:
        `ModeFactors`. A depth scale is -1 / log of a factor; where lengths settle at no finite size
        only `transform` means more than it does for `depth_scales`.

    Raises:
        ValueError: an image of no size; variances that are negative, all 0 or no matrix.

    Source: Xiao et al. 2018, eq. 2.8 to 2.14.

    >>> from jinit.theory import mode_factors
    >>> mode_factors("tanh", weight_var=1.5, image=(1, 4), kernel=3).transform.round(4)
    array([[1.    , 0.3333, 0.3333, 0.3333]])
    """
    sizes = checks.listed("image must list height and width, as in (8, 8)", image)
    if len(sizes) != 2:
        raise ValueError(
            f"image must list height and width, as in (8, 8), got {len(sizes)} entries."
        )
    high, wide = (checks.count("every entry of image", n) for n in sizes)
    shares = _shares(kernel)
    torus = np.zeros((high, wide))
    rows, columns = np.indices(shares.shape)
    np.add.at(torus, (rows % high, columns % wide), shares)
    transform = np.abs(np.fft.fft2(torus))
    found = depth_scales(layer)
    slope = _factor(layer, found)
    return ModeFactors(
        transform,
        transform * found.chi_parallel,
        transform * slope,
        transform * found.distance,
        transform * found.chi,
    )


def _factor(layer: WideLayer, found: DepthScales) -> float:
    """Of a deviation of the correlation in a dense layer."""
    if not is_settled(found.q) or found.c == 1:
        return float(found.distance)
    return float(layer.weight_var * pair(layer.phi, found.q, 1 - found.c).slope_product)


def _shares(kernel: Any) -> np.ndarray:
    if kernel is None or isinstance(kernel, int | np.integer):
        side = checks.count("kernel", kernel)
        return np.full((side, side), 1 / side**2)
    checks.numeric("kernel", kernel)
    checks.finite("kernel", kernel)
    variances = np.asarray(kernel, float)
    if variances.ndim != 2 or variances.min(initial=0) < 0 or not variances.sum() > 0:
        raise ValueError(
            f"kernel must be a side, or a matrix of variances that are not negative nor all 0, got "
            f"{checks.shown(kernel)}."
        )
    return variances / variances.sum()
