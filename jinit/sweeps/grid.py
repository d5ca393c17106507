"""What is to be run: a function, axes and seeds, as a description that knows its rows.

Rows are configurations, in one flat order: combinations of the static axes outermost (a *point*
each, with programs of its own), then the traced axes, then seeds innermost.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from jinit import checks
from jinit.sweeps.extent import Grid

_RESERVED = ("seed", "key", "run")
_MOST_SEED = 2**32 - 1


@dataclass(frozen=True, eq=False)
class Sweep:
    """A pure function over a grid of named axes and seeds.

    Args:
        fn: `fn(key, **point) -> dict[str, array]`; with `prepare`, `fn(key, start, **point)`.
        static: axes whose values change shapes or the program, name -> values; each combination
            that a function's signature names is compiled once.
        traced: axes whose values change numbers only, name -> numbers; one program serves all.
        seeds: a count (0, 1, ...) or the seeds themselves; seed s is `jax.random.key(s)`, which
            `fn` gets. With `prepare`, that gets `fold_in(key, 0)` and `fn` gets `fold_in(key, 1)`.
        prepare: `prepare(key, **point) -> start`, any pytree of arrays that `fn` begins with.
        dims: names of output dimensions, output -> names. A named one may vary with static axes
            and is padded with NaN at its end.

    Raises:
        ValueError, TypeError: for axes, seeds or functions that do not fit together.
    """

    fn: Callable[..., Any]
    static: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    traced: Mapping[str, Any] = field(default_factory=dict)
    seeds: int | Sequence[int] = 1
    prepare: Callable[..., Any] | None = None
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate everything that can be known without tracing."""
        for name in ("static", "traced", "dims"):
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, {})
            elif not isinstance(value, Mapping):
                raise TypeError(
                    f"{name} must map names to values, as in {_EXAMPLES[name]}, got "
                    f"{checks.shown(value)}."
                )
        object.__setattr__(self, "static", _static(self.static))
        object.__setattr__(self, "traced", _traced(self.traced, self.static))
        object.__setattr__(self, "seeds", _seeds(self.seeds))
        object.__setattr__(self, "dims", _dims(self.dims))
        both = [(what, self._names(what)) for what in reversed(self.functions)]
        axes = [*self.static, *self.traced]
        for axis in axes:
            if not any(names.takes(axis) for _, names in both):
                known = sorted({name for _, names in both for name in names.all})
                raise ValueError(
                    f"no function takes the axis {axis!r}{checks.suggestion(axis, known)} "
                    f"{' and '.join(what for what, _ in both)} take{'s' if len(both) == 1 else ''} "
                    f"{', '.join(map(repr, known)) or 'no arguments'}; rename the axis or add the "
                    f"argument."
                )
        for what, names in both:
            for name in names.required:
                if name not in axes:
                    raise ValueError(
                        f"the argument {name!r} of {what} has no axis"
                        f"{checks.suggestion(name, axes)} Add it to static= or traced=, or give it "
                        f"a default."
                    )

    # --- the grid ---

    @cached_property
    def points(self) -> tuple[dict[str, Any], ...]:
        """Every combination of the static axes, the last axis fastest."""
        return tuple(
            dict(zip(self.static, values, strict=True)) for values in product(*self.static.values())
        )

    @property
    def rows(self) -> int:
        """Configurations of one point."""
        return math.prod(self.grid.shape)

    @property
    def runs(self) -> int:
        """Configurations in all."""
        return self.rows * len(self.points)

    @property
    def grid(self) -> Grid:
        """The rows of a point, which are those of every point."""
        return Grid(self.description["traced"], self.description["seeds"])

    # --- the functions ---

    @property
    def functions(self) -> tuple[str, ...]:
        """What runs at a point, in that order: "fn", after "prepare" if there is one."""
        return ("fn",) if self.prepare is None else ("prepare", "fn")

    def arguments_of(self, what: str, point: Mapping[str, Any]) -> dict[str, Any]:
        """The static arguments that `fn` or `prepare` gets at a point."""
        names = self._names(what)
        return {name: value for name, value in point.items() if names.takes(name)}

    def traced_of(self, what: str) -> tuple[str, ...]:
        """The traced axes that `fn` or `prepare` takes."""
        names = self._names(what)
        return tuple(name for name in self.traced if names.takes(name))

    def _names(self, what: str) -> "_Names":
        return _takes(what, getattr(self, what), 1 + self.functions.index(what))

    def row(self, what: str, point: Mapping[str, Any]) -> Callable[..., Any]:
        """`(seed, start, traced) -> outputs` of "fn" or "prepare" at a point.

        The start is () for the first of the two.
        """
        function, static = getattr(self, what), self.arguments_of(what, point)
        place = self.functions.index(what)

        def one(seed: jax.Array, start: Any, traced: dict[str, jax.Array]) -> Any:
            # Named, because `rbg` keys, which jax may be set to make, draw alike under vmap.
            key = jax.random.key(seed, impl="threefry2x32")
            if self.prepare is not None:
                key = jax.random.fold_in(key, place)
            first = (key, start) if place else (key,)
            out = _called(what, function, first, static | traced)
            for path, leaf in jax.tree_util.tree_flatten_with_path(out)[0]:
                if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float):
                    raise TypeError(
                        f"{what} must return arrays, got {checks.shown(leaf)} at "
                        f"{what}(...){jax.tree_util.keystr(path)}."
                    )
            return out

        return one

    def label(self, axis: str, value: Any) -> Any:
        """The coordinate of a value of a static axis."""
        values = self.static[axis]
        return _labels(values)[next(i for i, v in enumerate(values) if v is value or v == value)]

    @property
    def dry_run(self) -> NoReturn:
        """Of jinit 0.1."""
        raise AttributeError("Sweep.dry_run() of jinit 0.1 is now jinit.dry_run(sweep).")

    # --- as data ---

    @cached_property
    def description(self) -> dict[str, Any]:
        """Functions, axes, seeds and dims as JSON can hold them."""
        described = {
            "function": _name(self.fn),
            **({} if self.prepare is None else {"prepare": _name(self.prepare)}),
            "static": {name: _labels(values) for name, values in self.static.items()},
            "traced": {name: values.tolist() for name, values in self.traced.items()},
            "seeds": [int(seed) for seed in self.seeds],  # type: ignore[union-attr]
            "dims": {name: list(names) for name, names in self.dims.items()},
        }
        return dict(json.loads(json.dumps(described)))


def _name(function: Any) -> str:
    while hasattr(function, "func"):  # of functools.partial
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


_EXAMPLES = {
    "static": "{'depth': [2, 10]}",
    "traced": "{'lr': [1e-3, 1e-2]}",
    "dims": "{'log_grad': ('layer',)}",
}


def traced_array(values: np.ndarray) -> np.ndarray:
    """The numbers as jax will see them: float32 and int32, or 64 bits where jax is set so."""
    return values.astype(jax.dtypes.canonicalize_dtype(values.dtype))


def as_coordinate(value: Any) -> Any:
    """A static value as a coordinate: itself if plain, a function's name, else its repr."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return "None" if value is None else value
    return getattr(value, "__name__", None) or repr(value)


def _labels(values: Sequence[Any]) -> list[Any]:
    """A coordinate for each value of a static axis; functions of one name are counted."""
    names = [as_coordinate(value) for value in values]
    labels = []
    for i, (value, name) in enumerate(zip(values, names, strict=True)):
        before = [other for other, same in zip(values[:i], names[:i], strict=True) if same == name]
        counted = callable(value) and before and value not in before
        labels.append(f"{name} {len(before) + 1}" if counted else name)
    return labels


_NO_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def _called(what: str, function: Callable[..., Any], first: tuple[Any, ...], given: Any) -> Any:
    """The function's outputs; a traced value that is used as a number of Python is named."""
    try:
        return function(*first, **given)
    except (*_NO_NUMBERS, TypeError) as error:
        text = str(error)
        if not isinstance(error, _NO_NUMBERS) and "concrete values of integer type" not in text:
            raise
        axes = re.findall(r"traced\['(\w+)'\]", text)
        which = f"the traced axis {axes[0]!r}" if axes else "a traced axis"
        raise TypeError(
            f"{what} takes the value of {which} as a shape, a Python number or a NumPy array "
            f"({text.splitlines()[0]}); put that axis into static=, or compute with jax.numpy."
        ) from error


class _Names(NamedTuple):
    """What arguments a function takes beyond key (and start)."""

    all: tuple[str, ...]
    required: tuple[str, ...]
    any: bool
    """whether it has **kwargs"""

    def takes(self, name: str) -> bool:
        return self.any or name in self.all


def _takes(what: str, function: Any, leading: int) -> _Names:
    form = "(key, start, *, ...)" if leading == 2 else "(key, *, ...)"
    if not callable(function):
        raise TypeError(f"{what} must be a function {form}, got {checks.shown(function)}.")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise TypeError(
            f"{what} must be a function {form} whose arguments can be read, got "
            f"{checks.shown(function)}; wrap it in a def."
        ) from None
    kinds = inspect.Parameter
    first = parameters[:leading]
    if len(first) < leading or any(
        p.kind not in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD) for p in first
    ):
        raise TypeError(
            f"{what} must take {' and '.join(('key', 'start')[:leading])} first, as in {form}, got "
            f"{inspect.signature(function)}."
        )
    rest = [p for p in parameters[leading:] if p.kind is not kinds.VAR_POSITIONAL]
    named = [p for p in rest if p.kind is not kinds.VAR_KEYWORD]
    return _Names(
        tuple(p.name for p in named),
        tuple(p.name for p in named if p.default is kinds.empty),
        len(named) < len(rest),
    )


def _axis_name(name: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(f"an axis needs a name that can be an argument, got {checks.shown(name)}.")
    if name in _RESERVED:
        raise ValueError(
            f"an axis cannot be called {name!r}, which the sweep uses itself; choose another name."
        )


def _static(axes: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    checked = {}
    for name, values in axes.items():
        _axis_name(name)
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray | range):
            raise TypeError(
                f"the static axis {name!r} must list its values, as in [2, 10], got "
                f"{checks.shown(values)}."
            )
        found = tuple(v.item() if isinstance(v, np.generic) else v for v in values)
        for value in found:
            try:
                hash(value)
            except TypeError:
                raise TypeError(
                    f"values of the static axis {name!r} must be hashable, got "
                    f"{checks.shown(value)}; use a tuple, or move numbers to traced=."
                ) from None
        if not found:
            raise ValueError(f"the static axis {name!r} is empty; list at least one value.")
        shown = _labels(found)
        repeated = [value for value in shown if shown.count(value) > 1]
        if repeated:
            raise ValueError(
                f"the static axis {name!r} holds {repeated[0]!r} more than once; list each value "
                f"once."
            )
        checked[name] = found
    return checked


def _traced(axes: Mapping[str, Any], static: Mapping[str, Any]) -> dict[str, np.ndarray]:
    checked = {}
    for name, values in axes.items():
        _axis_name(name)
        if name in static:
            raise ValueError(f"the axis {name!r} is both static and traced; choose one.")
        fix = f"the traced axis {name!r} must be a list of real numbers"
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise TypeError(f"{fix}, got {checks.shown(values)}.")
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(
                f"{fix}, got {checks.shown(values)}; values that are no numbers are static axes."
            )
        if array.ndim != 1:
            raise ValueError(f"{fix}, got an array of shape {array.shape}; give one dimension.")
        if not len(array):
            raise ValueError(f"the traced axis {name!r} is empty; list at least one number.")
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ValueError(f"{fix}, got NaN.")
        unique, counts = np.unique(array, return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"the traced axis {name!r} holds {unique[counts > 1][0].item()!r} more than once; "
                f"list each number once."
            )
        checked[name] = array
    return checked


def _seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        return tuple(range(checks.count("seeds", seeds)))
    if isinstance(seeds, str | bool) or not isinstance(seeds, Sequence | np.ndarray | range):
        raise TypeError(f"seeds must be a count or a list of integers, got {checks.shown(seeds)}.")
    found = tuple(checks.count("every seed", s, least=0, most=_MOST_SEED) for s in seeds)
    if not found:
        raise ValueError("seeds must list at least one seed, got none.")
    if len(set(found)) < len(found):
        repeated = next(s for s in found if found.count(s) > 1)
        raise ValueError(f"seeds must differ, got {repeated} more than once.")
    return found


def _dims(dims: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    checked = {}
    for output, names in dims.items():
        listed = isinstance(names, Sequence) and not isinstance(names, str)
        if not listed or not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"dims[{output!r}] must be a tuple of names, as in ('layer',), got "
                f"{checks.shown(names)}."
            )
        checked[output] = tuple(names)
    return checked
