"""Draw the parameters of any model anew, each by what the trace says it is for."""

import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from jinit import checks, schemes, theory
from jinit.activations import ACTIVATIONS
from jinit.models.drawing.images import Image, calibrated, image_of_one, solved
from jinit.models.starts.draw import drawn
from jinit.models.tracing.model import TracedModel, face
from jinit.models.tracing.roles import Role
from jinit.models.tracing.uses import Use
from jinit.models.tracing.values import RoleError
from jinit.runtime import keys_after


@face
def reinit(
    model: TracedModel,
    key: jax.Array,
    variables: Any = None,
    *,
    scheme: str | schemes.Initializer | None = None,
    gain: ArrayLike | str = 1.0,
    start: str | None = None,
    start_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """The same variables, every parameter drawn anew by its role.

        weight               gain * scheme, with the fans of the matrix that is applied
        bias                 0
        scale of a norm      1
        embedding, tied      N(0, 1 / features): a looked-up vector has about unit squared norm
        other factors        as they were: slopes, gates, LayerScale, ReZero (1 by a rule "scale")
        statistic, other     as it was
        unused               as it was, and named in a warning

    A weight is drawn as independent kernels `[*field, in, out]`, one for every scanned layer and
    every group, and one for every part of a weight that is applied in parts, as split gates are.
    So `orthogonal` is orthogonal in the matrix that is applied; projections of an attention count
    all heads as one matrix, because one product applies them. What is added to a signal is a bias,
    a learned position too; draw it with `rules={path: "embedding"}`.

    Pure: jit it, or map it over keys and gains. Roles are read while it is traced, so that numbers
    in `variables` and `inputs` do not matter.

    Args:
        key: one PRNG key; every parameter draws from the key and its path alone, so that one layer
            more leaves the others as they are.
        apply, variables, *inputs, rules: as for `jinit.Model`.
        scheme: a name of `jinit.SCHEMES`, or any initializer `(key, shape, dtype)`; a function is
            not told how many taps the stride of a transposed convolution skips. None is "he".
        gain: multiplies the standard deviation of every weight; may be traced. "auto" takes
            `jinit.theory.gain` of the activation that follows the weight, and 1 where none is
            known; it belongs to a scheme of variance 1/fan, such as "xavier" or "orthogonal". (In
            He's reading the gain makes up for the activation before: there the first weight has
            none and the last has one. The products over a deep network differ by these ends.)
        start: a name of `jinit.STARTS`, a whole model's recipe, instead of a scheme: it draws
            leaves by where they stand, and leaves as it is what it says nothing of.
        start_options: the start's, by name; and for the name of a place the path of a leaf that
            stands there, or several.
        **options: the scheme's, such as `scale`; may be traced.

    Returns:
        Variables of the same structure, shapes and dtypes. bfloat16 and float16 are drawn in
        float32 and rounded.

    Raises:
        RoleError: as `roles`; a weight by rule that no product reads.
        ValueError, TypeError: a key, scheme, gain or option that is not allowed, or a scheme that
            has no meaning for the shape of a weight (the note says which).

    >>> import jax, jax.numpy as jnp, jinit
    >>> stored = {"w": jnp.zeros((16, 8)), "b": jnp.ones(16)}
    >>> apply = lambda p, x: jax.nn.relu(x @ p["w"].T + p["b"][None])
    >>> key, x = jax.random.key(0), jnp.ones((4, 8))
    >>> fresh = jinit.reinit(key, apply, stored, x, scheme="orthogonal")
    >>> bool(jnp.allclose(fresh["w"].T @ fresh["w"], jnp.eye(8), atol=1e-5))
    True
    """
    if start is not None or start_options is not None:
        scaled = not (isinstance(gain, float) and gain == 1.0)
        beside = [*["scheme"] * (scheme is not None), *["gain"] * scaled, *options]
        return _by_start(model, key, variables, start, start_options, beside)
    scheme = "he" if scheme is None else scheme
    key = checks.key(key)
    model = model.of(variables)
    floats = model.floats
    traced: list[Any] = [v for v in floats if isinstance(v, jax.core.Tracer) and v.size]
    draw = _Kernels(scheme, options, traced)
    if not isinstance(gain, str):
        checks.number("gain", gain, least=0)
    elif gain != "auto":
        raise ValueError(
            f"gain must be a number, a scalar array or 'auto', got {checks.shown(gain)}."
        )
    found, fresh = model.judged(), list[Any]()
    for role, leaf in zip(found, floats, strict=True):
        try:
            by_rule = role.path in model.rules
            fresh.append(_drawn(_own(key, role), role, leaf, draw, gain, by_rule=by_rule))
        except (ValueError, TypeError) as error:
            error.add_note(f"This was for {role.path}.")
            raise
    fresh = _as_applied(model, key, found, fresh, draw, gain)
    unused = [role.path for role in found if role.kind == "unused"]
    if unused:
        warnings.warn(
            f"the output does not depend on {', '.join(unused)}: left as "
            f"{'it was' if len(unused) == 1 else 'they were'}.",
            stacklevel=3,
        )
    return model.rebuilt(fresh)


def _own(key: jax.Array, role: Role) -> jax.Array:
    return jax.random.fold_in(key, np.uint32(zlib.crc32(role.path.encode())))


def _as_applied(
    model: TracedModel, key: jax.Array, found: Sequence[Role], fresh: list[Any], draw: "_Kernels",
    gain: ArrayLike | str,
) -> list[Any]:  # fmt: skip
    """The parameters of which something else is applied, such that this is what was to be drawn."""
    trace = model.trace
    for leaf in sorted({use.view.leaf for use in trace.uses if use.view.leaf >= len(found)}):
        image = Image(trace, leaf)
        uses = tuple(use for use in trace.uses if use.view.leaf == leaf)
        own = [found[i] for i in image.parameters("image")]
        kinds = {role.kind for role in own}
        if kinds <= {"weight"} and any(use.kind == "weight" for use in uses):
            factors = [i for i in image.parameters("factor") if found[i].kind == "weight"]
            lead = own[0] if own else found[factors[0]] if factors else None
            if lead is None or lead.path in model.rules:
                continue
            whole = replace(
                lead, shape=trace.shape(leaf), dtype=trace.dtype(leaf), uses=uses, number=-1
            )
            target = _kernels(_own(key, lead), whole, None, draw, gain)
            with jax.ensure_compile_time_eval():
                probe = _kernels(jax.random.key(0), whole, None, draw.plain, 1.0)
            if own:
                scales = [i for i in image.parameters("scale") if found[i].kind == "scale"]
                fresh = solved(
                    image, target, probe, fresh, trace.paths, scales, structured=draw.decomposes
                )
            else:
                fresh = calibrated(
                    image, target, probe, fresh, trace.paths, factors, structured=draw.decomposes
                )
        elif kinds == {"embedding"}:
            std = 1 / math.sqrt(own[0].features)
            at, one = trace.shape(leaf), jax.random.key(0)
            target = std * jax.random.normal(_own(key, own[0]), at, trace.dtype(leaf))
            probe = std * jax.random.normal(one, at, trace.dtype(leaf))
            fresh = solved(image, target, probe, fresh, trace.paths, (), structured=False)
    for role in found:
        map_ = image_of_one(trace, role.number)
        if role.kind == "scale" and map_ is not None and any(use.normed for use in role.uses):
            one = jnp.ones(trace.shape(map_.leaf), trace.dtype(map_.leaf))
            with suppress(RoleError):  # that can be no 1: it stays
                fresh = solved(map_, one, one, fresh, trace.paths, (), structured=False)
    return fresh


def _by_start(
    model: TracedModel, key: jax.Array, variables: Any, start: str | None,
    options: Mapping[str, Any] | None, beside: list[str],
) -> Any:  # fmt: skip
    """Drawn by a start, which says everything itself."""
    if start is None:
        raise TypeError("start_options= belong to a start; say which, as in start='gpt2'.")
    if beside:
        raise TypeError(
            f"start={start!r} says how every leaf is drawn, so that it takes no {beside[0]}=; give "
            f"a start or a scheme, and a start's numbers as start_options=."
        )
    return drawn(model, key, variables, start, options)


class _Kernels:
    """Draws batches of kernels by one scheme.

    A batch waits for the one before if the scheme decomposes matrices (`runtime.keys_after`), and
    the first for `before`: arrays that the same program may draw as orthogonal matrices.
    """

    def __init__(self, scheme: Any, options: dict[str, Any], before: list[jax.Array]) -> None:
        self.by_fans, self._waits, self._before = False, True, before
        self.decomposes, self._scheme, self._options = False, scheme, options
        if isinstance(scheme, str):
            self._draw, row = schemes.scheme(scheme, **options), schemes.SCHEMES[scheme]
            self.by_fans, self._waits = "gain" in row.options, row.decomposes
            self.decomposes = row.decomposes
        elif not callable(scheme):
            raise TypeError(
                f"scheme must be a name of jinit.SCHEMES or a function (key, shape, dtype), "
                f"got {checks.shown(scheme)}."
            )
        elif options:
            raise TypeError(
                f"a scheme given as a function takes no options, got {next(iter(options))!r}; "
                f"put it into the function."
            )
        else:
            self._draw = scheme

    @property
    def plain(self) -> "_Kernels":
        """The same, waiting for nothing, and of no option that is traced."""
        traced = any(isinstance(value, jax.core.Tracer) for value in self._options.values())
        return _Kernels(self._scheme, {} if traced else self._options, [])

    def __call__(self, keys: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Kernels `[keys, *shape]`."""
        if self._waits:
            for drawn in self._before:
                keys = keys_after(keys, drawn)
        real = jnp.finfo(dtype).dtype
        kernels = jax.vmap(lambda key: self._draw(key, shape, real))(keys)
        if real != dtype and not self.decomposes:  # half of the variance to the imaginary part
            other = jax.vmap(lambda key: self._draw(jax.random.fold_in(key, 1), shape, real))(keys)
            kernels = jax.lax.complex(kernels, other) * math.sqrt(0.5)
        if kernels.shape[1:] != shape:
            raise ValueError(
                f"an initializer must return an array of the shape it is given, {list(shape)}, "
                f"got {list(kernels.shape[1:])}."
            )
        self._before = [kernels]
        return kernels.astype(dtype)


def _drawn(
    key: jax.Array, role: Role, leaf: Any, draw: _Kernels, gain: ArrayLike | str, *, by_rule: bool
) -> Any:
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    wide = _wide(dtype)
    if role.kind == "weight" and _is_image(role):  # drawn with all that it is applied with
        return jnp.zeros(role.shape, dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
    if role.kind == "weight":
        return _kernels(key, role, leaf, draw, gain).astype(dtype)
    if role.kind in ("embedding", "tied"):
        root = math.sqrt(role.features)
        return (jax.random.normal(key, role.shape, wide) / root).astype(dtype)
    if role.kind == "bias":
        return jnp.zeros(role.shape, dtype)
    if role.kind == "scale" and (by_rule or any(use.normed for use in role.uses)):
        return jnp.ones(role.shape, dtype)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise TypeError(
            f"{role.path} ({role.kind}) stays as it is, but has a shape and no numbers; give "
            f"variables with arrays."
        )
    return leaf


# --- weights ------------------------------------------------------------------------------------


def _wide(dtype: Any) -> Any:
    """What is drawn in, and then rounded."""
    return dtype if jnp.finfo(dtype).bits >= 32 else np.dtype(np.float32)


def _is_image(role: Role) -> bool:
    """Whether products read something that is made of it."""
    return any(
        use.kind == "weight" and use.times and use.view.leaf != role.number
        and use.parts[role.number].way == "image"
        for use in role.uses
    )  # fmt: skip


def _kernels(
    key: jax.Array, role: Role, leaf: Any, draw: _Kernels, gain: ArrayLike | str
) -> jax.Array:
    """A weight's draw, in float32 or wider."""
    factor = gain
    if isinstance(gain, str):
        factor = theory.gain(role.activation) if role.activation in ACTIVATIONS else 1.0
    wide = _wide(jax.dtypes.canonicalize_dtype(role.dtype))
    blank = jnp.zeros(role.shape, wide) if leaf is None else leaf
    return _weight(key, role, blank, draw, jnp.asarray(factor, wide))


class _Part(NamedTuple):
    """Entries of a leaf that products read as kernels."""

    places: np.ndarray
    """into the flat leaf, `[*layers, groups, *field, in, out]`"""
    kernel: tuple[int, ...]
    """shape of one, `[*field, in, out]`"""
    thinned: float
    """share of its fan-in that one output meets"""

    @property
    def copies(self) -> int:
        return math.prod(self.places.shape[: -len(self.kernel)])


def _weight(key: jax.Array, role: Role, leaf: Any, draw: _Kernels, gain: jax.Array) -> jax.Array:
    """Drawn as it is applied, whatever the shape it is stored in, and put where it is read."""
    parts = _parts(role, gates=draw.decomposes)
    if draw.decomposes and any(len(np.unique(p.places)) < p.places.size for p in parts):
        raise RoleError(
            f"entries of {role.path} are read several times in one matrix, so that no draw of them "
            f'makes it orthogonal; use a scheme of independent entries, as "he" or "xavier", or '
            f"leave it as it is with rules={{{role.path!r}: 'other'}}."
        )
    keys = jax.random.split(key, sum(part.copies for part in parts))
    draws, first = [], 0
    for part in parts:
        own = keys[first : first + part.copies]
        first += part.copies
        factor = part.thinned**-0.5 if draw.by_fans else 1.0
        draws.append(gain * factor * draw(own, part.kernel, gain.dtype))
    return _in_place(draws, parts, leaf)


def _factor(role: Role, use: Use) -> _Part:
    """One of several matrices that are multiplied before a signal meets them."""
    fans = int(use.fan_in or 1), use.fan_out or 1
    flat = np.arange(math.prod(role.shape), dtype=np.int32)
    turned = role.shape[-2:] == fans[::-1] and fans[0] != fans[1]
    places = flat.reshape(-1, *fans[::-1]).swapaxes(-1, -2) if turned else flat.reshape(-1, *fans)
    return _Part(places.reshape(-1, 1, *fans), (1, *fans), 1.0)


def _parts(role: Role, *, gates: bool = False) -> list[_Part]:
    """What products read, in call order, until nothing new is read; `gates` one by one."""
    read = np.zeros(math.prod(role.shape), bool)
    parts = []
    for use in role.uses:
        if use.kind != "weight" or not use.times or read.all():
            continue
        if role.number >= 0 and use.parts[role.number].way == "factor":
            return [_factor(role, use)]
        index = role._part(use)
        if read[index].all():
            continue
        read[index] = True
        batched, summed, _ = use.axes
        if gates and use.gates is not None and use.receptive_field == 1:
            for gate in range(max(use.gates) + 1):
                own = index[..., np.asarray(use.gates) == gate]
                parts.append(_Part(own.reshape(-1, 1, *own.shape[-2:]), (1, *own.shape[-2:]), 1.0))
            continue
        beside = [use.view.shape[axis] for axis in batched]
        sizes = [use.view.shape[axis] for axis in summed]
        # A convolution sums over its field and, last, over its channels.
        inputs = sizes if use.receptive_field > 1 else [1, math.prod(sizes)]
        kernel = (*inputs, index.shape[-1])
        places = index.reshape(*use.view.layers, *beside, *kernel)
        parts.append(_Part(places, kernel, use.thinned))
    if not parts:
        raise RoleError(
            f"{role.path} is a weight by rule, but no product reads it as it is, so that it has no "
            f"fans; leave it as it is with rules={{{role.path!r}: 'other'}}."
        )
    return parts


def _in_place(draws: list[jax.Array], parts: list[_Part], leaf: Any) -> jax.Array:
    """The leaf with every draw where its entry is read; what nothing reads stays as it is."""
    size = math.prod(leaf.shape)
    if len(parts) == 1 and (order := _axes_in_memory(parts[0].places, size)) is not None:
        return draws[0].reshape(parts[0].places.shape).transpose(order).reshape(leaf.shape)
    index = np.concatenate([part.places.ravel() for part in parts])
    source = np.full(size, -1, np.int32)
    source[index[::-1]] = np.arange(index.size, dtype=np.int32)[::-1]  # an entry's first reader
    entries = jnp.concatenate([draw.ravel() for draw in draws])
    found = jnp.take(entries, jnp.asarray(source), mode="clip").reshape(leaf.shape)
    if (source >= 0).all():
        return found
    return jnp.where((source >= 0).reshape(leaf.shape), found, leaf.astype(found.dtype))


def _axes_in_memory(index: np.ndarray, size: int) -> tuple[int, ...] | None:
    """The order of axes in which the index counts 0, 1, 2, ..., if there is one.

    Then a transposition puts the draws in place, and the program need not hold the index.
    """
    steps = [
        int(index.take(1, axis).flat[0] - index.flat[0]) if n > 1 else 0
        for axis, n in enumerate(index.shape)
    ]
    order = tuple(sorted(range(index.ndim), key=lambda axis: -steps[axis]))
    counts = np.array_equal(index.transpose(order).ravel(), np.arange(size))
    return order if counts else None
