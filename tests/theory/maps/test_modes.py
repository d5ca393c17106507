"""Plane waves over an image: closed forms, and convolutional networks that were drawn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit import theory
from jinit.networks.convolution import convolve_rows


def test_a_flat_kernel_is_a_product_of_two_sums_of_cosines():
    found = theory.mode_factors("tanh", weight_var=1.5, bias_var=0.05, image=(5, 6), kernel=3)
    high, wide = ((1 + 2 * np.cos(2 * np.pi * np.arange(n) / n)) / 3 for n in (5, 6))
    np.testing.assert_allclose(found.transform, np.abs(np.outer(high, wide)), atol=1e-14)
    np.testing.assert_allclose(found.distance[0, 0], 0.9386363, rtol=1e-6)
    scales = theory.depth_scales("tanh", weight_var=1.5, bias_var=0.05)
    np.testing.assert_allclose(-1 / np.log(found.length[0, 0]), scales.xi_q, rtol=1e-9)


def test_all_variance_at_one_entry_keeps_every_wave():
    kernel = np.zeros((3, 3))
    kernel[1, 1] = 7.0
    found = theory.mode_factors("tanh", weight_var=4.0, bias_var=0.05, image=(4, 8), kernel=kernel)
    np.testing.assert_allclose(found.transform, np.ones((4, 8)), rtol=1e-14)
    scales = theory.depth_scales("tanh", weight_var=4.0, bias_var=0.05)
    np.testing.assert_allclose(-1 / np.log(found.correlation), scales.xi_c, rtol=1e-6)


def test_a_kernel_larger_than_the_image_goes_round_it():
    found = theory.mode_factors("relu", weight_var=2.0, image=(3, 3), kernel=3)
    np.testing.assert_allclose(found.transform, np.eye(9)[0].reshape(3, 3), atol=1e-15)


SIDE, CHANNELS, SEEDS, LAYERS = 4, 64, 32, 3
POINTS = {"ordered": (1.3, 0.05), "critical": (1.42420529, 0.01), "chaotic": (4.0, 0.05)}


NET = jinit.ConvNet(
    (SIDE, SIDE, CHANNELS), channels=(CHANNELS,) * LAYERS, classes=1, padding="circular",
    activation="tanh",
)  # fmt: skip
SMALL = 1e-2


@jax.jit
@partial(jax.vmap, in_axes=(0, None, None, None))
def waves(key, q, weight_var, bias_var):
    """Of the squared distance of two images that differ in one pixel, `[layers, side, side]`."""
    draw, image, pixel = jax.random.split(key, 3)
    x = jax.random.normal(image, (SIDE, SIDE, CHANNELS))
    # At every pixel of the length that gives the first layer its fixed point.
    x *= jnp.sqrt((q - bias_var) / weight_var / jnp.mean(x * x, axis=2, keepdims=True))
    moved = jax.random.normal(pixel, (CHANNELS,))
    moved *= SMALL / jnp.sqrt(jnp.mean(moved * moved))
    h = jnp.stack([x, x.at[0, 0].add(moved)])
    gain = jnp.sqrt(weight_var)
    params, _ = jinit.init(draw, NET, "xavier", gain=gain, bias_var=bias_var)
    found = []
    for own in params[:-1]:
        z = convolve_rows(own.w, h, NET.runs[0].window) + own.b[None, None, None]
        found.append(jnp.fft.fft2(jnp.mean(jnp.square(z[1] - z[0]), axis=2)).real)
        h = jnp.tanh(z)
    return jnp.stack(found)


@pytest.mark.parametrize("point", POINTS)
def test_the_distance_of_two_images_spreads_and_grows_as_theory_says(point):
    """Every wave, layer by layer, at an ordered, a critical and a chaotic point.

    Within five standard errors over the seeds, and layers over channels for what a finite number of
    channels adds to the mean.
    """
    weight_var, bias_var = POINTS[point]
    layer = {"weight_var": weight_var, "bias_var": bias_var}
    factors = theory.mode_factors("tanh", image=(SIDE, SIDE), kernel=3, **layer)
    q = theory.depth_scales("tanh", **layer).q
    at = map(jnp.float32, (q, weight_var, bias_var))
    seen = np.asarray(waves(jax.random.split(jax.random.key(0), SEEDS), *at))
    # The kernel's centre is its middle, so that the transform is real; with its sign.
    side = (1 + 2 * np.cos(2 * np.pi * np.arange(SIDE) / SIDE)) / 3
    signed = np.outer(side, side)
    np.testing.assert_allclose(np.abs(signed), factors.transform, atol=1e-14)
    size = weight_var * SMALL**2
    for i in range(LAYERS):
        expected = signed * (signed * factors.distance[0, 0]) ** i
        got, error = seen[:, i].mean(0) / size, seen[:, i].std(0) / size / SEEDS**0.5
        apart = np.abs(got - expected)
        assert (apart <= 5 * error + (i + 1) / CHANNELS * expected[0, 0]).all(), (i, got, expected)


@pytest.mark.bad_input
@pytest.mark.parametrize("kernel", [0, [[1.0, -1.0]], [[0.0]], [1.0, 2.0]])
def test_kernels_that_cannot_be(kernel):
    with pytest.raises(ValueError, match="kernel must be"):
        theory.mode_factors("tanh", weight_var=1.0, image=(4, 4), kernel=kernel)
