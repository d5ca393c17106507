"""The convolutional network: a frozen description of it, and its forward pass."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial
from itertools import groupby
from numbers import Integral
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp

from jinit import checks
from jinit.activations import Activation, activation, check_activation
from jinit.networks.convolution import (
    Padding,
    Window,
    convolve,
    convolve_images,
    project,
    project_rows,
)
from jinit.networks.description import Description
from jinit.networks.image_norms import IMAGE_NORMS, image_norm
from jinit.networks.layer import LAYERS, RESIDUALS, Kind, Parts, Run, Steps, plain_steps
from jinit.networks.norms import BatchStats

# By whether samples come first: what of an image is not the channels', and how it is multiplied.
_SPACE = {False: (1, 2, 3), True: (0, 1, 2)}
_PRODUCTS: dict[bool, tuple[Any, Any]] = {
    False: (convolve, project),
    True: (convolve_images, project_rows),
}


@dataclass(frozen=True)
class ConvNet(Description):
    """A convolutional network, as a description that can be hashed and compared.

    Convolutions, a mean over what is left of the image, and a linear readout. Images are
    `[batch, h, w, channels]`, kernels `[kernel, kernel, in, out]`.

    Args:
        image: (height, width, channels) of the inputs.
        channels: of every convolution, as in (32,) * 30.
        classes: outputs of the readout.
        kernel: side of the kernels: one, or one for each layer.
        strides: one, or one for each layer.
        padding: "same" (zeros), "circular" (the image goes on at its other side: what theory speaks
            of) or "valid" (none). The first two centre kernels on the pixels 0, stride, ...
        activation: as in `jinit.MLP`.
        norm: None, "batch" (over batch and space), "layer" (over space and channels) or "group".
        groups: of group norm; they divide the channels.
        residual: None, "plain", "scaled" or "skipinit", as in `jinit.MLP`. Where channels or size
            change, the stream goes through a 1 x 1 convolution, `projection`, of the same stride;
            a first layer that changes the channels is no branch.
        pool: "mean" over the pixels, or None: the readout reads every pixel.
        bias, momentum, eps: as in `jinit.MLP`.

    Raises:
        ValueError, TypeError: for a size, name or number that is not allowed, or sizes that do not
            fit each other.
    """

    image: Sequence[int]
    _: KW_ONLY
    channels: Sequence[int]
    classes: int
    kernel: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: Padding = "same"
    activation: str | Activation = "relu"
    norm: str | None = None
    groups: int = 8
    residual: str | None = None
    pool: Literal["mean"] | None = "mean"
    bias: bool = True
    momentum: float = 0.9
    eps: float = 1e-5

    chunk: ClassVar[int] = 4

    def __post_init__(self) -> None:
        """Validate, and make every list a tuple."""
        fill = partial(object.__setattr__, self)
        for name, form in (
            ("image", "(height, width, channels), as in (8, 8, 1)"),
            ("channels", "the channels of every convolution, as in (32, 32)"),
        ):
            given = checks.listed(f"{name} must list {form}", getattr(self, name))
            if not given or (name == "image" and len(given) != 3):
                raise ValueError(f"{name} must list {form}, got {checks.shown(given)}.")
            fill(name, tuple(checks.count(f"every entry of {name}", n) for n in given))
        for name in ("kernel", "strides"):
            fill(name, self._per_layer(name, getattr(self, name)))
        for name in ("classes", "groups"):
            fill(name, checks.count(name, getattr(self, name)))
        check_activation(self.activation)
        checks.choice("padding", self.padding, get_args(Padding))
        checks.choice("norm", self.norm, IMAGE_NORMS)
        checks.choice("residual", self.residual, RESIDUALS)
        checks.choice("pool", self.pool, [None, "mean"])
        self.check_rest()
        self._check_sizes()

    def _per_layer(self, name: str, value: Any) -> tuple[int, ...]:
        if isinstance(value, Integral):
            return (checks.count(name, value),) * len(self.channels)
        given = checks.listed(f"{name} must be an integer, or list one for each layer", value)
        if len(given) != len(self.channels):
            raise ValueError(
                f"{name} must list one for each of the {len(self.channels)} convolutions, got "
                f"{len(given)}."
            )
        return tuple(checks.count(f"every entry of {name}", n) for n in given)

    def _check_sizes(self) -> None:
        size = f"{self.image[0]} x {self.image[1]}"
        for i, layer in enumerate(self._layers):
            window = layer.window
            here = f"layer {i}, whose images are {window.size[0]} x {window.size[1]}"
            if window.padding == "valid" and window.kernel > min(window.size):
                raise ValueError(
                    f"a kernel must lie within the image where padding is 'valid', got a kernel of "
                    f"{window.kernel} at {here} (the input is {size}); use fewer layers, or "
                    f"padding='same'."
                )
            if window.stride > min(window.size):
                raise ValueError(
                    f"strides must leave something of the image, got a stride of {window.stride} "
                    f"at {here} (the input is {size}); use fewer strides."
                )
            if LAYERS[layer.kind].skip and window.padding == "valid" and window.kernel > 1:
                raise ValueError(
                    f"a residual layer adds its input to its output, which padding='valid' makes "
                    f"smaller, from {list(window.size)} to {list(window.out)} at layer {i}; use "
                    f"padding='same' or 'circular'."
                )
            normed = layer.shape[0] if LAYERS[layer.kind].skip else layer.shape[1]
            if self.norm == "group" and normed % self.groups:
                raise ValueError(
                    f"groups must divide the channels that group norm sees, got {self.groups} "
                    f"groups and {normed} channels at layer {i}; choose groups or channels anew."
                )

    @cached_property
    def _layers(self) -> tuple["_Conv", ...]:
        """Of every convolution: its kind, channels and window."""
        found: list[_Conv] = []
        size, before = (self.image[0], self.image[1]), self.image[2]
        steps = zip(self.channels, self.kernel, self.strides, strict=True)  # type: ignore[arg-type]
        for i, (after, kernel, stride) in enumerate(steps):
            window = Window(size, kernel, stride, self.padding)
            kind: Kind = "plain"
            if self.residual is not None and (i > 0 or before == after):
                kind = "block" if before == after and stride == 1 else "stage"
            found.append(_Conv(kind, (before, after), window))
            size, before = window.out, after
        return tuple(found)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Maximal groups of consecutive equal convolutions, and the readout on its own."""
        runs: list[Run] = []
        start = 0
        for (kind, channels, window), equal in groupby(self._layers):
            length, shape = len(list(equal)), (window.kernel, window.kernel, *channels)
            runs.append(Run(start, length, shape, kind, window))
            start += length
        high, wide = self._layers[-1].window.out
        read = self.channels[-1] * (1 if self.pool == "mean" else high * wide)
        return (*runs, Run(start, 1, (read, self.classes), "pooled"))

    @cached_property
    def branch_scale(self) -> float:
        """The fixed factor of every residual branch."""
        branches = sum(run.length for run in self.runs if LAYERS[run.kind].skip)
        return RESIDUALS[self.residual].factor(branches)

    @property
    def parts(self) -> Parts:
        """What all its layers have in common."""
        norm = image_norm(self.norm, self.groups)
        return Parts(
            activation(self.activation), norm, self.momentum, self.eps, self.branch_scale, self.pool
        )

    @property
    def words(self) -> str:
        """What it is."""
        return f"channels {list(self.channels)} on images {list(self.image)}"

    def shapes(self, run: Run) -> dict[str, tuple[int, ...] | None]:
        """The shapes of a run's layers and of its statistics, None for what it lacks."""
        steps, norm = LAYERS[run.kind].steps, self.parts.norm
        channels = run.shape[-2:]
        normed = None
        if norm.standardise is not None and "norm" in steps:
            normed = (run.length, channels[0] if LAYERS[run.kind].skip else channels[1])
        learned = RESIDUALS[self.residual].learned and "branch" in steps
        found = {
            "w": (run.length, *run.shape),
            "b": (run.length, channels[1]) if self.bias else None,
            "gamma": normed,
            "beta": normed,
            "alpha": (run.length,) if learned else None,
            "stats": normed if norm.over_batch else None,
        }
        if run.window is not None:
            found["projection"] = (run.length, *channels) if run.kind == "stage" else None
        return found

    def entries(self, samples: int) -> int:
        """Of how many numbers a batch statistic is at least made: samples times pixels."""
        sizes = [layer.window.size if LAYERS[layer.kind].skip else layer.window.out
                 for layer in self._layers]  # fmt: skip
        return samples * min(high * wide for high, wide in sizes)

    def check_input(self, name: str, x: jax.Array) -> None:
        """Refuse images of another shape."""
        if x.ndim != 4 or x.shape[1:] != self.image:
            high, wide, channels = self.image
            fix = f"reshape {name}"
            if x.ndim == 2 and x.shape[1] == high * wide * channels:
                fix = f"use {name}.reshape(-1, {high}, {wide}, {channels})"
            elif x.ndim == 3 and channels == 1:
                fix = f"use {name}[..., None]"
            raise ValueError(
                f"{name} must be images of shape [batch, {high}, {wide}, {channels}] for this "
                f"network, got {list(x.shape)}; {fix}, or change image."
            )

    def columns(self, x: jax.Array) -> jax.Array:
        """[channels, h, w, batch]. See `convolution` for why."""
        return x.transpose(3, 1, 2, 0)

    def steps(
        self, run: Run, train: bool, layer: Any, stats: BatchStats | None, *, rows: bool
    ) -> Steps[jax.Array]:
        """Those of a layer in the forward pass, on images [batch, h, w, channels] or columns."""
        return image_steps(run, self.parts, train, layer, stats, rows=rows)


class _Conv(NamedTuple):
    kind: Kind
    shape: tuple[int, int]
    window: Window


def image_steps(
    run: Run, parts: Parts, train: bool, layer: Any, stats: BatchStats | None, *, rows: bool = False
) -> Steps[jax.Array]:
    """The steps on images [channels, h, w, batch], or [batch, h, w, channels] if `rows`."""
    plain = partial(plain_steps, run.kind, parts, train, layer, stats)
    if run.window is None:

        def pool(h: jax.Array) -> tuple[jax.Array, None]:
            if parts.pool == "mean":
                return jnp.mean(h, (1, 2)), None
            if rows:
                return h.reshape(len(h), -1), None
            return h.transpose(1, 2, 0, 3).reshape(-1, h.shape[-1]), None

        return cast("Steps[jax.Array]", {**plain(batch_axis=0 if rows else 1), "pool": pool})
    window, (product, around) = run.window, _PRODUCTS[rows]
    return {
        **plain(batch_axis=_SPACE[rows], product=lambda w, h: product(w, h, window)),
        **cast("Any", {"project": lambda h: (around(layer.projection, h, window.stride), None)}),
    }
