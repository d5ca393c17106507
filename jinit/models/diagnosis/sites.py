"""Where a diagnosis looks, and which passes of the loops there are which layer's."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jinit.models.tracing.names import short_name
from jinit.models.tracing.probe import Spot
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.uses import ActivationUse, Softmax, Use
from jinit.models.tracing.values import Loop, Path


class Site(NamedTuple):
    """Weights that are applied as one."""

    uses: tuple[Use, ...]
    path: Path
    """of their product"""
    place: Spot
    """after the bias, or after the sum in which their residual branch ends"""
    loops: tuple[Loop, ...]
    activation: int | None
    """which one is theirs: what the last weights of a branch read, else the next"""
    name: str | None
    """of that activation"""


class Sites(NamedTuple):
    """All of a model."""

    weights: tuple[Site, ...]
    activations: tuple[ActivationUse, ...]
    softmaxes: tuple[Softmax, ...] = ()

    @property
    def places(self) -> int:
        """Places that are looked at before those of softmaxes."""
        return len(self.weights) + 2 * len(self.activations)

    def stacked(self, loops: tuple[Loop, ...]) -> tuple[int, ...]:
        """Which of these loops go through layers, as weights in them show."""
        found = (site.uses[0].view.stacked for site in self.weights if site.loops == loops)
        return next(found, ())


def sites(traced: Trace) -> Sites:
    """Weights and activations that can be looked at without a change of the model's gradient."""
    by_path: dict[Path, list[Use]] = {}
    for path, uses in traced.by_equation("weight").items():
        seen = traced.visible(path)
        if all(len(loop.path) < len(seen) for loop in uses[0].loops):  # none is hidden inside
            by_path.setdefault(seen, []).extend(uses)
    shown = tuple(
        a for a in traced.activations
        if traced.visible(a.path) == a.path and traced.visible(a.entry[0]) == a.entry[0]
    )  # fmt: skip
    softmaxes = tuple(s for s in traced.softmaxes if traced.visible(s.path) == s.path)
    weights = tuple(_site(traced, p, tuple(u), shown) for p, u in by_path.items())
    return Sites(weights, shown, softmaxes)


def _site(traced: Trace, path: Path, uses: tuple[Use, ...], shown: Sequence[ActivationUse]) -> Site:
    loops, orders, products = uses[0].loops, {u.order for u in uses}, {u.path for u in uses}
    sums = [r.path for r in traced.residuals if r.last & orders and r.loops == loops]
    biases = [
        u.path for u in traced.uses
        if u.kind == "bias" and u.after in products and u.loops == loops and u.size == uses[0].size
    ]  # fmt: skip
    scaled = [u.rescaled for u in uses if u.rescaled and not biases]
    place = next((p for p in (*sums, *biases, *scaled) if traced.visible(p) == p), path)
    here = [(i, a) for i, a in enumerate(shown) if a.loops == loops]
    read = [(i, a.name) for i, a in here if sums and a.path in {u.after for u in uses}]
    name = next((name for u in uses if (name := traced.following(u.order))), None)
    following = [(i, name) for i, a in here if a.uses & orders]
    return Site(uses, path, Spot(place), loops, *next(iter((*read, *following)), (None, name)))


class Passes(NamedTuple):
    """One layer of one place: which of the loops' passes belong to it."""

    key: tuple[int, ...]
    """sorts layers in call order"""
    taken: tuple[Any, ...]
    """an index into records, slices where loops share the weights"""
    layer: tuple[int, ...]


def layers_of(path: Path, loops: Sequence[Loop], stacked: Sequence[int]) -> Iterator[Passes]:
    """The layers of what stands at a path."""
    for layer in np.ndindex(*(loops[i].length for i in stacked)):
        taken: list[Any] = [slice(None)] * len(loops)
        key = list(path)
        for i, n in zip(stacked, layer, strict=True):
            taken[i] = n
        for i in reversed(range(len(loops))):
            turned = i in stacked and loops[i].reverse
            n = taken[i] if i in stacked else 0
            key.insert(len(loops[i].path), loops[i].length - 1 - n if turned else n)
        yield Passes(tuple(key), tuple(taken), layer)


def named(traced: Trace, uses: Sequence[Use], layer: tuple[int, ...]) -> tuple[str, str]:
    """Paths of weights that are applied as one, and the name of what comes out."""
    paths = list(dict.fromkeys(traced.paths[_own_leaf(use, layer)] for use in uses))
    number = "".join(f"[{n}]" for n in layer)
    return " + ".join(paths), " + ".join(short_name(path) for path in paths) + number


def _own_leaf(use: Use, layer: tuple[int, ...]) -> int:
    """The parameter that a layer is made of; several may be stacked to be looped over."""
    images = [i for i, part in use.parts.items() if part.way == "image"]
    if len(images) == use.layers > 1:
        return images[int(np.ravel_multi_index(layer, use.view.layers))]
    return use.leaf
