"""The convolution on samples as columns, as one product: images are `[channels, h, w, batch]`.

A kernel of k x k is neither k^2 shifted products nor one of k^2 stacked copies: the k shifts along
a row are stacked in front of the product, and what it gives for the k rows of the kernel is shifted
and added behind it. So memory is passed over 2 k times, and the product is one, `[k in, k out]`
against `[k in, h w batch]`, in the form that CPUs multiply fastest (`networks.linear`). What was
tried is in docs/decisions/convolutions.md.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jinit.networks.linear import linear

Padding = Literal["same", "circular", "valid"]


class Window(NamedTuple):
    """How a kernel goes over images of a size; its centre is entry `(kernel - 1) // 2`.

    "same" (zeros) and "circular" centre it on the positions 0, stride, 2 stride, ... of the image;
    "valid" puts its first entry there, as far as it fits.
    """

    size: tuple[int, int]
    kernel: int
    stride: int
    padding: Padding

    @property
    def out(self) -> tuple[int, int]:
        """The size of what comes out."""
        lost = self.kernel - 1 if self.padding == "valid" else 0
        height, width = ((n - lost - 1) // self.stride + 1 for n in self.size)
        return height, width

    def pad(self, x: jax.Array, axis: int) -> jax.Array:
        """A row or column of pixels, with what the kernel sees beyond its ends."""
        if self.padding == "valid" or self.kernel == 1:
            return x
        low = (self.kernel - 1) // 2
        ends = [(0, 0)] * x.ndim
        ends[axis] = (low, self.kernel - 1 - low)
        return jnp.pad(x, ends, mode="wrap" if self.padding == "circular" else "constant")

    def shifts(self, x: jax.Array, axis: int, out: int) -> list[jax.Array]:
        """Of something padded, what each entry of the kernel meets, `out` of them."""
        last = (out - 1) * self.stride + 1
        take = partial(jax.lax.slice_in_dim, x, stride=self.stride, axis=axis)
        return [take(i, i + last) for i in range(self.kernel)]


def convolve(
    w: Float[Array, "kernel kernel in out"], h: Float[Array, "in height width batch"],
    window: Window,
) -> Float[Array, "out high wide batch"]:  # fmt: skip
    """`z[o, y, x] = sum_ijc w[i, j, c, o] h[c, s y + i - r, s x + j - r]`, r its centre."""
    return _convolve(window, w, h)


# What the backward pass needs is made again from h: kept, it would be k times as large.
@partial(jax.checkpoint, static_argnums=0, prevent_cse=False)
def _convolve(window: Window, w: jax.Array, h: jax.Array) -> jax.Array:
    k, (high, wide) = window.kernel, window.out
    channels, rows, _, batch = h.shape
    columns = jnp.stack(window.shifts(window.pad(h, 2), 2, wide))
    turned = w.transpose(1, 2, 0, 3).reshape(k * channels, -1)  # [(j, in), (i, out)]
    z = linear(turned, columns.reshape(k * channels, -1)).reshape(k, -1, rows, wide, batch)
    last = (high - 1) * window.stride + 1
    padded = window.pad(z, 2)
    return sum(jax.lax.slice_in_dim(padded[i], i, i + last, window.stride, 1) for i in range(k))  # type: ignore[return-value]


def convolve_rows(
    w: Float[Array, "kernel kernel in out"], h: Float[Array, "batch height width in"],
    window: Window,
) -> Float[Array, "batch high wide out"]:  # fmt: skip
    """The same of images `[batch, h, w, channels]`, as measurements have them."""
    high, wide = window.out
    rows = window.shifts(window.pad(window.pad(h, 1), 2), 1, high)
    patches = [at for row in rows for at in window.shifts(row, 2, wide)]
    return jnp.concatenate(patches, axis=3) @ w.reshape(-1, w.shape[-1])


def convolve_images(
    w: Float[Array, "kernel kernel in out"], h: Float[Array, "batch height width in"],
    window: Window,
) -> Float[Array, "batch high wide out"]:  # fmt: skip
    """The same by the chip's own convolution, which is an accelerator's form."""
    return jax.lax.conv_general_dilated(
        window.pad(window.pad(h, 1), 2), w, (window.stride,) * 2, "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def project(
    w: Float[Array, "in out"], h: Float[Array, "in height width batch"], stride: int
) -> Float[Array, "out high wide batch"]:
    """A 1 x 1 convolution of every stride-th pixel."""
    at = h[:, ::stride, ::stride]
    return linear(w, at.reshape(len(at), -1)).reshape(-1, *at.shape[1:])


def project_rows(w: Any, h: jax.Array, stride: int) -> jax.Array:
    """The same of images `[batch, h, w, channels]`."""
    return h[:, ::stride, ::stride] @ w
