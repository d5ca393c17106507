"""Parameters whose image is asked for: what is applied is made of them, and shall be a given draw.

Three ways are tried on random numbers, and the first that reaches its aim is taken: the map is a
line in every entry, which is inverted; it rises or falls in every entry, where halving finds the
argument; or it mixes entries, as a norm's division does: then the parameter is the draw itself, and
scales beside it, or its own size, bring what comes out to the size that is asked.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit.models.tracing.made import Made, Numbers, numbers_of
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.values import RoleError, View

Way = Literal["line", "monotone", "mixed"]
_ROUNDS = 8  # in which the size of what comes out settles
_HALVINGS = 50
_FAR = 60.0  # beyond it exponentials are no numbers in float32
_MOVES = {
    "concatenate", "pad", "select_n", "dynamic_update_slice", "scatter", "scatter-add", "copy",
    "stack",
}  # fmt: skip


class Image(NamedTuple):
    """What is made of some parameters, as a function of all."""

    trace: Trace
    leaf: int
    """of what is made"""

    def __call__(self, leaves: Sequence[Any]) -> jax.Array:
        """Its numbers, `[*layers, ...]`."""
        return jnp.asarray(Numbers(self.trace.made, leaves).of(self.leaf))

    @property
    def layers(self) -> int:
        """How many leading axes count layers."""
        first = len(self.trace.leaves)
        return len(self.trace.made[self.leaf - first].layers)

    def parameters(self, *ways: str) -> list[int]:
        """Those that are in it in one of these ways."""
        return [i for i, part in self.trace.parts(self.leaf).items() if part.way in ways]


def solved(
    image: Image,
    target: jax.Array,
    probe: jax.Array | None,
    leaves: Sequence[Any],
    paths: Sequence[str],
    scales: Sequence[int],
    *,
    structured: bool,
) -> list[Any]:
    """The parameters with those changed of which the image is the target, or like it.

    Args:
        image, target: what is made, and the draw that it shall be.
        probe: a draw with numbers, on which the ways are tried; None takes the target.
        leaves: all parameters; those that are not changed here are what they will be.
        paths: of the parameters.
        scales: parameters that may be changed as well, as a weight norm's lengths are.
        structured: whether the draw is more than independent entries, as an orthogonal matrix is.

    Raises:
        RoleError: no way reaches the target, or its size.
    """
    found = list(leaves)
    with jax.ensure_compile_time_eval():
        numbers = [_concrete(leaf, i) for i, leaf in enumerate(leaves)]
        aim = target if probe is None else probe
        plans = []
        for i in image.parameters("image"):
            places = _places(image.trace, image.leaf, i)
            if places is None and math.prod(leaves[i].shape) == target.size:
                places = np.arange(target.size)  # mixed in a way that is not followed
            plans.append((i, None if places is None else _Places.of(places, leaves[i].shape)))
        way = None
        if not isinstance(aim, jax.core.Tracer):
            way, tried = _first_way(image, aim, numbers, plans, scales, structured)
    if way is None:
        raise RoleError(_sentence(image, paths, structured=structured))
    if aim is target and all(n is leaf for n, leaf in zip(numbers, leaves, strict=True)):
        return tried
    return _by(way, image, target, found, plans, scales)[0]


def calibrated(
    image: Image,
    target: jax.Array,
    probe: jax.Array,
    leaves: Sequence[Any],
    paths: Sequence[str],
    factors: Sequence[int],
    *,
    structured: bool,
) -> list[Any]:
    """Several matrices that are multiplied, scaled alike, so that the product is of the target's
    size; left alone where more than products is done.

    Raises:
        RoleError: the product of fewer numbers is to be orthogonal.
    """

    def scaled(leaves: Sequence[Any], factor: Any) -> list[Any]:
        grown = list(leaves)
        for i in factors:
            grown[i] = grown[i] * jnp.asarray(factor, grown[i].dtype)
        return grown

    with jax.ensure_compile_time_eval():
        numbers = [_concrete(leaf, i) for i, leaf in enumerate(leaves)]
        one, two = image(numbers), image(scaled(numbers, 2.0))
        power = 2.0 ** len(factors)
        off = jnp.max(jnp.abs(two - power * one)) / jnp.max(jnp.abs(two))
        if not factors or not float(off) < 1e-3:
            return list(leaves)
    made = image(leaves)
    ratio = jnp.std(target) / jnp.maximum(jnp.std(made), 1e-30)
    found = scaled(leaves, ratio ** (1 / len(factors)))
    if structured and not isinstance(made, jax.core.Tracer):
        flat, other = jnp.linalg.norm(image(found), 2), jnp.linalg.norm(target, 2)
        if made.ndim == 2 and abs(float(flat / other) - 1) > 0.05:
            raise RoleError(_sentence(image, paths, structured=True))
    return found


def image_of_one(trace: Trace, parameter: int) -> Image | None:
    """The most that is made of a parameter alone before it is used; None if it is used itself."""

    def below(leaf: int) -> int | None:
        if leaf < len(trace.leaves):
            return None
        if trace.parts(leaf).keys() == {parameter}:
            return leaf
        views = trace.made[leaf - len(trace.leaves)].views
        own = (below(v.leaf) for v in views if parameter in trace.parts(v.leaf))
        return next((leaf for leaf in own if leaf is not None), None)

    uses = (use.view.leaf for use in trace.uses if parameter in use.parts)
    found = next((leaf for leaf in map(below, uses) if leaf is not None), None)
    return None if found is None else Image(trace, found)


def _first_way(
    image: Image, aim: jax.Array, numbers: list[Any], plans: list[Any], scales: Sequence[int],
    structured: bool,
) -> tuple[Way | None, list[Any]]:  # fmt: skip
    """The first way that reaches its aim on these numbers, and what it makes of them."""
    if not plans or any(places is None for _, places in plans):
        return None, []
    ways: tuple[Way, ...] = ("line", "monotone", "mixed")
    for way in ways:
        found, last = _by(way, image, aim, numbers, plans, scales)
        made = image(found)
        reached = _folded(last, image, numbers, plans) if way == "monotone" else aim
        if _is_like(made, aim, reached, way, image.layers, structured=structured):
            return way, found
    return None, []


def _is_like(
    made: jax.Array, aim: jax.Array, reached: jax.Array, way: Way, layers: int, *, structured: bool
) -> bool:
    if not bool(jnp.isfinite(made).all()):
        return False
    size = float(jnp.std(aim)) or 1.0
    near = max(1e-3, 16 * float(jnp.finfo(made.dtype).eps))
    if float(jnp.max(jnp.abs(made - aim))) <= near * max(size, float(jnp.max(jnp.abs(aim)))):
        return True
    exact = float(jnp.max(jnp.abs(made - reached))) <= 1e-2 * size
    if structured:
        return _are_alike(made, aim, layers)
    if way == "monotone" and not exact:
        return False
    axes = tuple(range(layers, made.ndim))
    if not float(jnp.std(aim)):
        return False
    ratio = jnp.std(made, axes) / jnp.maximum(jnp.std(aim, axes), 1e-30)
    return bool(jnp.all(jnp.abs(ratio - 1) < 0.03))


def _are_alike(made: jax.Array, aim: jax.Array, layers: int) -> bool:
    """Whether all products of rows (columns, if they are fewer) are those of the target."""
    if made.ndim != layers + 2:
        return False

    def products(x: jax.Array) -> jax.Array:
        turned = jnp.conj(jnp.swapaxes(x, -1, -2))
        return x @ turned if x.shape[-2] <= x.shape[-1] else turned @ x

    ours, theirs = products(made), products(aim)
    return bool(jnp.max(jnp.abs(ours - theirs)) <= 1e-2 * jnp.max(jnp.abs(theirs)))


def _by(
    way: Way, image: Image, target: jax.Array, leaves: Sequence[Any], plans: Sequence[Any],
    scales: Sequence[int],
) -> tuple[list[Any], jax.Array]:  # fmt: skip
    """The parameters, and the target that they have been brought to at last."""
    found = list(leaves)
    axes = tuple(range(image.layers, target.ndim))
    asked = jnp.std(target, axes, keepdims=True)
    next_ = aim = target
    halved = {i: jax.jit(partial(_halved, image, i=i, places=places)) for i, places in plans}
    for _ in range(3 if way == "monotone" else _ROUNDS):
        aim = next_
        for i, places in plans:
            if way == "line":
                found[i] = _on_line(image, aim, found, i, places)
            elif way == "monotone":
                found[i] = halved[i](aim, found)
            else:
                found[i] = places.read(aim, found[i])
        if way == "mixed":
            for i in scales:
                found[i] = _nearest(image, target, found, i)
        got = jnp.std(image(found), axes, keepdims=True)
        next_ = aim * jnp.where(got > 0, asked / jnp.where(got > 0, got, 1), 1).astype(aim.dtype)
    return found, aim


def _on_line(image: Image, aim: jax.Array, leaves: list[Any], i: int, places: "_Places") -> Any:
    """Of V = a w + b in every entry, the w: a may be complex."""

    def of(w: jax.Array) -> jax.Array:
        return image([w if k == i else leaf for k, leaf in enumerate(leaves)])

    still = jnp.zeros_like(leaves[i])
    b, a = jax.jvp(of, (still,), (jnp.ones_like(still),))
    wanted, size = jnp.conj(a) * (aim - b), jnp.square(jnp.abs(a))
    if not jnp.issubdtype(still.dtype, jnp.complexfloating):
        wanted = jnp.real(wanted)
    value = wanted / jnp.where(size > 0, size, 1).astype(wanted.dtype)
    return places.read(jnp.where(size > 0, value, 0), leaves[i], size > 0)


def _folded(aim: jax.Array, image: Image, leaves: Sequence[Any], plans: Sequence[Any]) -> jax.Array:
    """The target brought to where the image lies: positive, negative or bounded."""
    ends = []
    for end in (-_FAR, _FAR):
        moved = list(leaves)
        for i, _ in plans:
            moved[i] = jnp.full_like(leaves[i], end)
        ends.append(image(moved))
    low, high = jnp.minimum(*ends), jnp.maximum(*ends)
    middle = list(leaves)
    for i, _ in plans:
        middle[i] = jnp.zeros_like(leaves[i])
    low, high = jnp.minimum(low, image(middle)), jnp.maximum(high, image(middle))
    size = jnp.abs(aim)
    size = size * (jnp.std(aim) / jnp.maximum(jnp.std(size), 1e-30)).astype(aim.dtype)
    folded = jnp.where(low >= 0, size, jnp.where(high <= 0, -size, aim))
    width = 1e-6 * jnp.minimum(high - low, 1.0)
    return jnp.clip(folded, low + width, high - width)


def _halved(image: Image, aim: jax.Array, leaves: list[Any], i: int, places: "_Places") -> Any:
    """Of V that rises or falls with each entry, the entries; what lies outside is brought in."""
    leaf = leaves[i]
    wanted = _folded(aim, image, leaves, [(i, places)])

    def of(w: Any) -> jax.Array:
        return image([w if k == i else other for k, other in enumerate(leaves)])

    rises = of(jnp.full_like(leaf, 1.0)) >= of(jnp.full_like(leaf, 0.5))

    def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        short = ((of(middle) > wanted) == rises).astype(jnp.float32)
        above = places.read(short, jnp.zeros(leaf.shape))
        up = above > 0
        return jnp.where(up, low, middle), jnp.where(up, middle, high)

    start = jnp.full_like(leaf, -_FAR), jnp.full_like(leaf, _FAR)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, start)
    return (low + high) / 2


def _nearest(image: Image, target: jax.Array, leaves: list[Any], i: int) -> Any:
    """The scale with which the image is nearest to the target, by least squares."""

    def of(s: jax.Array) -> jax.Array:
        return image([s if k == i else leaf for k, leaf in enumerate(leaves)])

    one = jnp.ones_like(leaves[i])
    made, back = jax.vjp(of, one)
    (dot,), (size,) = back(target), back(made)
    usable = (size != 0) & jnp.isfinite(dot / jnp.where(size != 0, size, 1))
    factor = jnp.where(usable, dot / jnp.where(usable, size, 1), 1)
    own = image_of_one(image.trace, i)
    if own is None:
        new = factor
    else:  # it is changed itself, as by an exponential
        ones = [one if k == i else leaf for k, leaf in enumerate(leaves)]
        value = own(ones)
        if value.shape != factor.shape:
            return leaves[i]
        new = _halved(own, factor * value, ones, i, _Places(one.shape, None))
    return jnp.where(usable & jnp.isfinite(new), new, leaves[i])


# --- where every entry comes from ---------------------------------------------------------------


class _Places(NamedTuple):
    """Which entry of the image every entry of a parameter is read off."""

    shape: tuple[int, ...]
    """of the parameter"""
    own: np.ndarray | None
    """of every entry of the parameter, all places in the image that are made of it, padded with
    -1, `[entries, readers]`; None if both lie in memory alike"""

    @classmethod
    def of(cls, places: np.ndarray, shape: tuple[int, ...]) -> "_Places":
        """From the entry of the parameter that every entry of the image is made of, or -1."""
        size = math.prod(shape)
        if places.size == size and np.array_equal(places.ravel(), np.arange(size)):
            return cls(shape, None)
        flat = places.ravel()
        order = np.argsort(flat, kind="stable")
        order = order[flat[order] >= 0]
        first = np.searchsorted(flat[order], np.arange(size))
        last = np.searchsorted(flat[order], np.arange(size), side="right")
        readers = min(int((last - first).max(initial=1)), 8)
        own = np.full((size, readers), -1, np.int32)
        for k in range(readers):
            there = first + k < last
            own[there, k] = order[first[there] + k]
        return cls(shape, own)

    def read(self, image: Any, kept: Any, usable: Any = None) -> jax.Array:
        """A parameter of the image's entries, each the first that is usable; else as it was."""
        if self.own is None:
            found = image.reshape(self.shape)
            usable = None if usable is None else usable.reshape(self.shape)
            there = jnp.ones(self.shape, bool) if usable is None else usable
        else:
            flat = image.ravel()
            good = jnp.ones(flat.shape, bool) if usable is None else usable.ravel()
            found, there = jnp.zeros(len(self.own), flat.dtype), jnp.zeros(len(self.own), bool)
            for column in map(jnp.asarray, self.own.T):
                here = (column >= 0) & jnp.take(good, column, mode="clip")
                found = jnp.where(here & ~there, jnp.take(flat, column, mode="clip"), found)
                there |= here
            found, there = found.reshape(self.shape), there.reshape(self.shape)
        kept = jnp.asarray(kept)
        if jnp.issubdtype(found.dtype, jnp.complexfloating) and not jnp.issubdtype(
            kept.dtype, jnp.complexfloating
        ):
            found = jnp.real(found)
        return jnp.where(there, found.astype(kept.dtype), kept)


def _places(trace: Trace, leaf: int, parameter: int) -> np.ndarray | None:
    """Of every entry of a leaf the entry of a parameter that it is made of, -1 if of none."""
    first = len(trace.leaves)
    if leaf < first:
        shape = trace.leaves[leaf].shape
        flat = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
        return flat if leaf == parameter else np.full(shape, -1, np.int32)
    made = trace.made[leaf - first]
    sources = [
        v for v in made.views
        if parameter in (own := trace.parts(v.leaf)) and own[parameter].way == "image"
    ]  # fmt: skip
    whole = {v.leaf: _places(trace, v.leaf, parameter) for v in sources}
    if not sources or any(p is None for p in whole.values()):
        return None
    found = []
    for layer in product(*(range(n) for n in made.layers)):
        at = dict(zip(made.stacked, layer, strict=True))
        moved = {
            id(v): np.asarray(v.of(jnp.asarray(whole[v.leaf]), [at[loop] for loop in v.stacked]))
            for v in sources
        }
        found.append(_moved(made, moved))
    if any(f is None for f in found):
        return None
    return np.stack(found).reshape(*made.layers, *made.shape)  # type: ignore[arg-type]


def _moved(made: Made, moved: dict[int, np.ndarray]) -> np.ndarray | None:
    """The places after an operation: it moves entries, or gives each where it was."""
    if made.name in _MOVES:
        operands = []
        for value in made.operands:
            if isinstance(value, View):
                own = moved.get(id(value))
                operands.append(np.zeros(value.shape, np.int32) if own is None else own + 1)
            elif value is None:
                return None
            else:
                fixed = np.asarray(numbers_of(value))
                floating = jnp.issubdtype(fixed.dtype, jnp.inexact)
                operands.append(np.zeros(fixed.shape, np.int32) if floating else fixed)
        return np.asarray(made.run(*map(jnp.asarray, operands))) - 1
    source = max(moved.values(), key=lambda places: places.size)
    if source.ndim == len(made.shape) and all(
        m in (1, n) for m, n in zip(source.shape, made.shape, strict=True)
    ):
        return np.broadcast_to(source, made.shape)
    return source.reshape(made.shape) if source.size == math.prod(made.shape) else None


# --- what is said -------------------------------------------------------------------------------


def _concrete(leaf: Any, i: int) -> jax.Array:
    """A parameter's numbers, or some like them where there are none yet."""
    if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct):
        rng = np.random.default_rng(i)
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape)).astype(leaf.dtype)
    return jnp.asarray(leaf)


def _sentence(image: Image, paths: Sequence[str], *, structured: bool) -> str:
    names = [paths[i] for i in image.parameters("image")] or [
        paths[i] for i in image.parameters("factor")
    ]
    path = names[0] if names else "a parameter"
    if structured:
        return (
            f"what is applied is made of {path} in a way that no draw of it makes orthogonal; use "
            f'a scheme of independent entries, as "he" or "xavier", or leave it as it is with '
            f"rules={{{path!r}: 'other'}}."
        )
    return (
        f"what is applied is made of {path} in a way that sets its size, so that no draw gives it "
        f"the std that is asked; leave it as it is with rules={{{path!r}: 'other'}}."
    )
