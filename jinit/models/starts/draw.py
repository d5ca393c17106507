"""Draw a whole model by a start."""

import math
import warnings
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit import checks
from jinit.models.starts.laws import AnyLaw, Fixed, Law, Paired, Quantile, entries
from jinit.models.starts.places import Layout, Place, layout, matching
from jinit.models.starts.table import NEEDS, STARTS, Start
from jinit.models.tracing.model import TracedModel
from jinit.runtime import keys_after


class Plan:
    """A start on one model: where its leaves stand, and what each is drawn from."""

    def __init__(
        self,
        model: TracedModel,
        name: str,
        options: Mapping[str, Any] | None = None,
        *,
        known: Layout | None = None,
    ) -> None:
        """Look at the model's places; `known` are those where no leaf is named.

        Raises:
            ValueError: an unknown start or option, a path that is no leaf, a model that lacks what
                the start needs; TypeError, an option that is no number.
            RoleError: as `jinit.models.roles`.
        """
        checks.choice("start", name, STARTS)
        self.name, self.row = name, STARTS[name]
        numbers, paths = _options(
            name, self.row, {} if options is None else options, model.trace.paths
        )
        self.options = {**self.row.options, **numbers}
        if known is None or any(paths.values()):
            known = layout(model, paths)
        self.layout = known
        self._check_needs()
        self.laws = tuple((place, self._law(place)) for place in self.layout.places)
        self._check_pairs()

    def _law(self, place: Place) -> AnyLaw | tuple[AnyLaw, ...] | None:
        for name in place.names:
            if name in self.row.laws:
                return self.row.laws[name](place, self.layout, self.options)
        return None

    def _check_needs(self) -> None:
        for need in self.row.needs:
            if need not in self.layout.has:
                missing, instead = NEEDS[need]
                raise ValueError(f"start {self.name!r} needs {missing}; {instead}.")

    def _check_pairs(self) -> None:
        """Queries and keys, values and outputs fit each other."""
        sizes: dict[tuple[str, str], set[int]] = {}
        for place, law in self.laws:
            if isinstance(law, Paired) and law.shared != "gates":
                inner = place.fan_in if "attention_out" in place.names else place.outputs
                sizes.setdefault((place.group, law.shared), set()).add(int(inner or 0))
        for (group, shared), found in sizes.items():
            if len(found) > 1:
                raise ValueError(
                    f"start {self.name!r} splits one matrix into two, so that both need as many "
                    f"inner units, got {' and '.join(map(str, sorted(found)))} ({shared} of "
                    f"{group}); models whose keys and values are shared between heads are not of "
                    f"that kind."
                )


def _options(
    name: str, row: Start, given: Mapping[str, Any], paths: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Options that are numbers or words, and the paths that stand at each place by name."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"start_options must map names to values, as in {{'std': 0.02}}, got "
            f"{checks.shown(given)}."
        )
    allowed = [*row.options, *row.laws]
    numbers: dict[str, Any] = {}
    named = {p: [x for x in paths if any(matching(x, end) for end in ends)]
             for p, ends in row.named.items()}  # fmt: skip
    for option, value in given.items():
        if option not in allowed:
            listed = ", ".join(repr(each) for each in row.options)
            raise ValueError(
                f"unknown option {option!r} of start {name!r}"
                f"{checks.suggestion(option, allowed)} Allowed: {listed or 'none'}; and the name "
                f"of a place with the path of a leaf, or several ({', '.join(row.laws)})."
            )
        if option in row.options:
            numbers[option] = _value(f"start_options[{option!r}]", row.options[option], value)
            continue
        named[option] = []
        for end in (value,) if isinstance(value, str) else tuple(value):
            found = [path for path in paths if matching(path, end)]
            if not found:
                raise ValueError(
                    f"start_options[{option!r}] names {end!r}, which is no leaf; paths are "
                    f"{', '.join(paths[:8])}{' ...' if len(paths) > 8 else ''}."
                )
            named[option] += found
    return numbers, named


_WORDS = {
    "attention": ("linear", "multihead"), "side": ("encoder", "decoder"),
    "first": ("uniform", "gaussian"), "by_layer": (True, False),
}  # fmt: skip


def _value(what: str, default: Any, given: Any) -> Any:
    key = what.split("'")[1]
    if key in _WORDS:
        checks.choice(what, given, _WORDS[key])
        return given
    for number in given if isinstance(default, tuple) else (given,):
        checks.number(what, number)
    return given


# --- drawing ------------------------------------------------------------------------------------


def drawn(
    model: TracedModel,
    key: jax.Array,
    variables: Any,
    start: str,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The same variables, drawn by a start; what it says nothing of stays as it is.

    Raises:
        ValueError, TypeError, RoleError: as `Plan`; TypeError for a leaf that stays as it is, but
            has a shape and no numbers.
    """
    key = checks.key(key)
    model = model.of(variables)
    plan = Plan(model, start, options)
    fresh = model.floats
    before: list[jax.Array] = []
    by_leaf: dict[int, list[tuple[Place, Any]]] = {}
    for place, law in plan.laws:
        by_leaf.setdefault(place.leaf, []).append((place, law))
    for leaf, parts in by_leaf.items():
        kept = fresh[leaf]
        whole = all(law is not None for _, law in parts)
        if not whole and isinstance(kept, jax.ShapeDtypeStruct):
            raise TypeError(
                f"start {start!r} leaves {parts[0][0].path} as it is, or a part of it, but it has "
                f"a shape and no numbers; give variables with arrays."
            )
        if any(law is not None for _, law in parts):
            fresh[leaf] = _leaf(key, kept, parts, before)
    unused = [place.path for place in plan.layout.places if place.role == "unused"]
    if unused:
        warnings.warn(
            f"the output does not depend on {', '.join(unused)}: left as "
            f"{'it was' if len(unused) == 1 else 'they were'}.",
            stacklevel=5,
        )
    return model.rebuilt(fresh)


def _leaf(key: jax.Array, kept: Any, parts: list[Any], before: list[jax.Array]) -> jax.Array:
    dtype = jax.dtypes.canonicalize_dtype(kept.dtype)
    wide = dtype if jnp.finfo(dtype).bits >= 32 else np.dtype(np.float32)
    laws = {law for _, law in parts if isinstance(law, Law)}
    if len(laws) == 1 and len(parts) > 1 and sum(_is_law(law) for _, law in parts) == len(parts):
        whole = parts[0][0]._replace(entries=None)  # parts that are drawn alike
        if sum(place.size for place, _ in parts) == whole.size:
            parts = [(whole, *laws)]
    flat: Any = None
    if not isinstance(kept, jax.ShapeDtypeStruct):
        flat = jnp.asarray(kept).astype(wide).ravel()
    for number, (place, law) in enumerate(parts):
        if law is None:
            continue
        own = jax.random.fold_in(_hashed(key, place.path), number)
        if isinstance(law, Quantile | Paired) and law.shared:
            own = _hashed(key, f"{place.group} {law.shared}")
        if place.entries is None or _plain(law, place):
            return _whole(own, law, place, wide).reshape(place.shape).astype(dtype)
        flat = jnp.zeros(math.prod(place.shape), wide) if flat is None else flat
        values = _part(own, law, place, wide, before)
        flat = flat.at[jnp.asarray(place.entries.ravel())].set(values.ravel())
    return flat.reshape(kept.shape).astype(dtype)  # type: ignore[no-any-return]


def _hashed(key: jax.Array, text: str) -> jax.Array:
    return jax.random.fold_in(key, np.uint32(zlib.crc32(text.encode())))


def _is_law(law: Any) -> bool:
    """Of entries that are drawn each by itself."""
    return isinstance(law, Law) and law.form != "orthogonal"


def _plain(law: Any, place: Place) -> bool:
    """Whether one law gives every entry of the leaf, each by itself."""
    return _is_law(law) and place.size == math.prod(place.shape)


def _whole(key: jax.Array, law: Any, place: Place, dtype: Any) -> jax.Array:
    if isinstance(law, tuple) and not hasattr(law, "_fields"):
        raise ValueError(
            f"the layers of {place.path} are chosen while the model runs, so that no law for each "
            f"of them can be drawn; scan over stacked layers instead of indexing them."
        )
    if isinstance(law, Fixed):
        return jnp.asarray(np.array(law.of(place.shape)), dtype)
    if isinstance(law, Quantile):
        return _by_quantile(key, law, place.shape, dtype)
    if isinstance(law, Paired) or law.form == "orthogonal":
        raise ValueError(f"{place.path} is no matrix that is fixed, which this start needs.")
    return entries(key, law, place.shape, dtype)


def _by_quantile(key: jax.Array, law: Quantile, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    least = float(jnp.finfo(dtype).tiny)
    return jnp.asarray(law.of(jax.random.uniform(key, shape, dtype, least)), dtype)


def _part(key: jax.Array, law: Any, place: Place, dtype: Any, before: list[jax.Array]) -> jax.Array:
    """Values for the entries of a place, in their shape."""
    assert place.entries is not None
    shape = place.entries.shape
    if isinstance(law, tuple) and not hasattr(law, "_fields"):
        stds = jnp.asarray([each.std for each in law], dtype)
        return entries(key, law[0]._replace(std=1.0), shape, dtype) * stds[:, None, None, None]
    if isinstance(law, Quantile):
        return _by_quantile(key, law, shape, dtype)
    if isinstance(law, Fixed):
        return jnp.asarray(np.array(law.of(shape)), dtype)
    if isinstance(law, Paired) or law.form == "orthogonal":
        *count, fan_in, fan_out = shape
        keys = jax.random.split(key, math.prod(count))
        traced = isinstance(keys, jax.core.Tracer)
        for earlier in before if traced else ():
            keys = keys_after(keys, earlier)
        if isinstance(law, Paired):
            draw = lambda key: law.of(key, fan_in, fan_out)  # noqa: E731
        else:
            scale = law.std * math.sqrt(max(fan_in, fan_out))
            orthogonal = jax.nn.initializers.orthogonal(scale)
            draw = lambda key: orthogonal(key, (fan_in, fan_out))  # noqa: E731
        # Eagerly, one after the other, jax's own programs are compiled once for all leaves.
        each = jax.lax.map(draw, keys) if traced else jnp.stack([draw(k) for k in keys])
        made = each.reshape(shape).astype(dtype)
        before[:] = [made]
        return made
    return entries(key, law, shape, dtype)
