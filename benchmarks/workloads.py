"""What is timed: networks, starting weights and data, the same arrays for everyone.

A workload is plain NumPy, so that a peer need not know jax. Weights are [fan_in, fan_out], kernels
[3, 3, in, out].
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from sklearn.datasets import load_digits

__all__ = ["WORKLOADS", "Workload"]


@dataclass(frozen=True)
class Workload:
    """One row of the table."""

    name: str
    kind: Literal["train", "gradients", "grid", "signals"]
    networks: int
    layers: int
    """hidden ones"""
    width: int
    batch: int
    steps: int
    batch_norm: bool = False
    dtype: str = "float32"
    learning_rate: float = 0.01
    whole: int = 0
    """networks of the whole workload, where fewer are timed"""
    drawn: int = 64
    """different starting weights of "gradients": they have to fit in memory, for every peer"""
    image: int = 0
    """side of images, whose hidden layers are convolutions of `width` channels, zeros around"""
    compared_layers: int = 0
    """at which results are compared, where the whole depth makes noise of float32's rounding"""

    @property
    def bases(self) -> int:
        """Different starting weights: of "gradients", whose networks are bases times gains."""
        if self.kind == "gradients":
            return self.drawn
        return self.networks if self.kind == "train" else 1

    @property
    def activation(self) -> str:
        return "tanh" if self.kind in ("grid", "signals") else "relu"

    @property
    def logarithms(self) -> bool:
        """whether results are logarithms of gradients, compared as they are"""
        return self.kind in ("gradients", "signals")

    @property
    def dims(self) -> tuple[int, ...]:
        if self.kind == "grid":  # Sohl-Dickstein 2024: two matrices, one output, no biases
            return (self.width, self.width, 1)
        return (1 if self.image else 64, *(self.width,) * self.layers, 10)

    @property
    def bias(self) -> bool:
        return self.kind != "grid"

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [batch, in] and labels, or targets [batch, 1] of the grid."""
        if self.kind == "grid":
            rng = np.random.default_rng(1)
            return (
                rng.normal(size=(self.batch, self.width)).astype(self.dtype),
                rng.normal(size=(self.batch, 1)).astype(self.dtype),
            )
        x, y = load_digits(return_X_y=True)
        x = (x[: self.batch] / 16).astype(self.dtype)
        x = x.reshape(-1, self.image, self.image, 1) if self.image else x
        return x, y[: self.batch].astype(np.int32)

    @cached_property
    def weights(self) -> list[np.ndarray]:
        """`[bases, fan_in, fan_out]` of every layer."""
        rng = np.random.default_rng(0)
        gain = 1.0 if self.kind == "grid" else 2.0
        found = []
        for i, (m, n) in enumerate(zip(self.dims, self.dims[1:], strict=False)):
            field = (3, 3) if self.image and i < self.layers else ()
            draws = rng.standard_normal((self.bases, *field, m, n), np.float32)
            fan_in = math.prod(field) * m
            found.append((draws * np.sqrt(gain / fan_in)).astype(self.dtype))
        return found

    @cached_property
    def numbers(self) -> np.ndarray:
        """What differs between networks beside their weights.

        Learning rates [networks] of training, gains [networks / bases] of gradients, learning
        rates of both layers [networks, 2] of the grid.
        """
        if self.kind == "train":
            return np.full(self.networks, self.learning_rate, self.dtype)
        if self.kind == "gradients":
            return np.geomspace(0.97, 1.03, self.networks // self.bases).astype(self.dtype)
        side = np.geomspace(1e-3, 0.1, round(self.networks**0.5)).astype(self.dtype)
        return np.stack([a.ravel() for a in np.meshgrid(side, side, indexing="ij")], axis=1)

    def products(self) -> list[tuple[int, int, int, int]]:
        """(m, k, n, times) of the matrix products `[m, k] [k, n]` of one network's step.

        A convolution is counted as one of all patches.
        """
        found = []
        for i, (m, n) in enumerate(zip(self.dims, self.dims[1:], strict=False)):
            convolved = self.image and i < self.layers
            rows, field = (self.batch * self.image**2, 9) if convolved else (self.batch, 1)
            found += [(rows, field * m, n, 1), (field * m, rows, n, 1)]  # forward; the weights'
            if i:
                found.append((rows, field * n, m, 1))  # the input's
        counts: dict[tuple[int, int, int], int] = {}
        for *shape, times in found:
            counts[tuple(shape)] = counts.get(tuple(shape), 0) + times  # type: ignore[index]
        return [(*shape, times) for shape, times in counts.items()]

    @property
    def flops(self) -> int:
        """Of the matrix products of one network's step."""
        return sum(2 * m * k * n * times for m, k, n, times in self.products())

    def compared(self) -> "Workload":
        """The setting whose results peers must agree on."""
        return replace(self, layers=self.compared_layers or self.layers)

    def small(self) -> "Workload":
        """A setting that a test can run."""
        networks = 64 if self.kind == "gradients" else 4
        return replace(
            self, networks=networks, layers=min(self.layers, 3), batch=min(self.batch, 64),
            width=min(self.width, 32), steps=min(self.steps, 3), compared_layers=0, drawn=64,
        )  # fmt: skip


def _gradients(depth: int) -> Workload:
    # At depth 300 a pre-activation within rounding of 0 is likely, and a ReLU that is on for one
    # and off for another changes all gradients below it by a thousandth.
    compared = min(depth, 50)
    return Workload(
        f"gradients {depth}", "gradients", 256, depth, 128, 64, 1, whole=4096,
        drawn=64 if depth <= 50 else 16, compared_layers=compared,
    )  # fmt: skip


WORKLOADS = {
    w.name: w
    for w in (
        Workload("small", "train", 512, 8, 16, 64, 40),
        Workload("typical", "train", 64, 10, 64, 128, 20),
        Workload("deep", "train", 64, 50, 128, 256, 3),
        # Batch norm multiplies what differs by 1.21 a layer (Yang et al. 2019), also roundings.
        Workload(
            "batch norm",
            "train",
            64,
            100,
            64,
            128,
            20,
            batch_norm=True,
            learning_rate=1e-9,
            compared_layers=20,
        ),
        Workload("conv", "train", 32, 20, 16, 64, 1, image=8, learning_rate=1e-3),
        Workload(
            "conv deep", "train", 8, 200, 16, 64, 1, image=8, learning_rate=1e-3, compared_layers=50
        ),
        Workload("wide", "train", 16, 6, 512, 1000, 5),
        *(_gradients(depth) for depth in (10, 50, 100, 300)),
        Workload("grid f32", "grid", 4096, 1, 16, 272, 100),
        Workload("grid f64", "grid", 4096, 1, 16, 272, 100, dtype="float64"),
        # `layer_signals`, beside jinit at another commit only: nobody else has it.
        Workload("signals 10", "signals", 256, 10, 128, 64, 1),
        Workload("signals 100", "signals", 48, 100, 128, 64, 1),
        Workload("signals 300", "signals", 16, 300, 128, 64, 1),
    )
}
