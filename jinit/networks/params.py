"""Parameters and batch-norm state, stored stacked and read layer by layer.

Consecutive layers of equal shape form one *run*, whose leaves carry a leading layer axis, so that
`forward` can scan it: a net of 1000 equal layers compiles in the time of one of ten. To the reader
the containers look like plain sequences of single layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar, overload

import jax
import jax.numpy as jnp

from jinit.networks.norms import BatchStats


class Layer(NamedTuple):
    """One layer's parameters; what a layer lacks is None.

    `w` [fan_in, fan_out] weights (`x @ w`), `b` [fan_out] bias, `gamma` and `beta` scale and shift
    of the norm [fan_out] ([fan_in] in a residual layer, whose norm comes first; it is square),
    `alpha` [] the learnable scalar of a "skipinit" branch. In a run every leaf has one more axis
    in front, counting the layers.
    """

    w: Any
    b: Any = None
    gamma: Any = None
    beta: Any = None
    alpha: Any = None


class ConvLayer(NamedTuple):
    """One convolution's parameters; what it lacks is None.

    `w` [kernel, kernel, in, out], `b` [out], `gamma` and `beta` one for each channel that is normed
    ([in] in a residual layer), `alpha` [] as in `Layer`, `projection` [in, out] of the stream that
    passes a residual layer which changes channels or size.
    """

    w: Any
    b: Any = None
    gamma: Any = None
    beta: Any = None
    alpha: Any = None
    projection: Any = None


# The number of axes a leaf has in a single layer, by which layers are indexed from the right.
_LAYER = {"w": 2, "b": 1, "gamma": 1, "beta": 1, "alpha": 0}
_RANKS: dict[type, dict[str, int]] = {
    Layer: _LAYER,
    ConvLayer: _LAYER | {"w": 4, "projection": 2},
    BatchStats: {"mean": 1, "var": 1},
}

Item = TypeVar("Item", Layer, ConvLayer, BatchStats)


@dataclass(frozen=True, eq=False)
class Stacked(Generic[Item]):
    """A sequence of layers held as runs; a pytree of the runs' arrays.

    Layers are indexed from the right of each array (`w[..., i, :, :]`), so that a sequence made
    under `jax.vmap`, its gradient or an optimiser's moments read the same way: `len(params)`,
    `params[i]`, `for layer in params`.
    """

    runs: tuple[Item | None, ...]

    def __len__(self) -> int:
        """The number of single layers."""
        return len(self._places())

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """One layer, counted from either end, or a list of several."""
        if isinstance(index, slice):
            return [_take(*place) for place in self._places()[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(f"layer {index} of a net of {len(self)} layers")
        return _take(*self._places()[index])

    def __iter__(self) -> Iterator[Item]:
        """Single layers, input side first."""
        return (_take(*place) for place in self._places())

    def _places(self) -> list[tuple[Item, int]]:
        """Of every single layer: its run, and where in it."""
        return [(run, i) for run in self.runs if run is not None for i in range(_length(run))]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Params(Stacked[Any]):
    """The parameters of a network: a sequence of `Layer`, input side first.

    Convolutions are a `ConvLayer` each.
    """

    runs: tuple[Any, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class NormState(Stacked[BatchStats]):
    """Running batch statistics, one `BatchStats` per batch-normalised layer.

    Its runs stand beside those of the parameters; a run without batch norm has None.
    """


def _length(run: Any) -> int:
    # By w of a Layer, mean of BatchStats.
    return int(run[0].shape[-1 - _RANKS[type(run)][run._fields[0]]])


def _take(run: Any, i: int) -> Any:
    ranks = _RANKS[type(run)]

    def one(name: str, leaf: Any) -> Any:
        return None if leaf is None else leaf[(..., i, *(slice(None),) * ranks[name])]

    return type(run)(*map(one, run._fields, run))


def stack(layers: Sequence[Item], lengths: Sequence[int]) -> tuple[Item | None, ...]:
    """Runs of the given lengths from a plain sequence of single layers."""
    rest = iter(layers)
    runs = [list(islice(rest, length)) for length in lengths]
    join = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    return tuple(join(*run) if run else None for run in runs)
