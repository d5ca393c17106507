"""One question at several variances: a table of answers."""

import html
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jinit import checks
from jinit.theory.moments.arguments import real

OneOrMore = float | Sequence[float] | np.ndarray

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True)
class Answers:
    """What was answered at every combination of the variances that were given as lists.

    A field of the answer is an attribute too: `depth_scales(..., weight_var=[1.0, 1.5]).xi_c`.
    """

    coordinates: Mapping[str, np.ndarray]
    """name -> its values, in the order of the axes"""
    values: Mapping[str, np.ndarray]
    """field -> `[*coordinates]`, or with an axis more, over layers"""

    def __getattr__(self, name: str) -> np.ndarray:
        """A field by name."""
        values = self.__dict__.get("values", {})
        if name in values:
            return values[name]
        listed = ", ".join(values)
        raise AttributeError(f"there is no {name!r} in this table{checks.suggestion(name, values)} "
                             f"It has {listed}.")  # fmt: skip

    def to_xarray(self) -> "xr.Dataset":
        """A Dataset with a dimension for each list, and `layer` where there is one."""
        import xarray as xr

        dims = tuple(self.coordinates)
        data = {
            name: ((*dims, "layer") if value.ndim > len(dims) else dims, value)
            for name, value in self.values.items()
            if name not in self.coordinates
        }
        coords: dict[str, Any] = {name: list(value) for name, value in self.coordinates.items()}
        depths = {value.shape[-1] for value in self.values.values() if value.ndim > len(dims)}
        for depth in depths:
            coords["layer"] = np.arange(1, depth + 1)
        return xr.Dataset(data, coords)

    def to_dataframe(self) -> "pd.DataFrame":
        """A row for each combination, and for each layer where there are some."""
        return self.to_xarray().to_dataframe().reset_index()

    def _repr_html_(self) -> str:
        frame = self.to_dataframe()
        return frame._repr_html_() or html.escape(repr(frame))


def is_list(value: Any) -> bool:
    """Whether several numbers are given where one is usual."""
    if isinstance(value, str | bytes | Mapping):
        return False
    return getattr(value, "ndim", None) != 0 and isinstance(value, Iterable)


def answers(
    what: str, ask: Callable[..., Any], given: Mapping[str, Any], names: Iterable[str]
) -> Any:
    """What is answered, or a table of it if some of the named arguments are lists.

    Args:
        what: is asked, which names an answer that has no fields.
        ask: takes the arguments by name.
        given: the arguments.
        names: of those that may be lists.
    """
    lists = {name: _numbers(name, given[name]) for name in names if is_list(given[name])}
    if not lists:
        return ask(**given)
    rows = [
        _fields(what, ask(**{**given, **dict(zip(lists, point, strict=True))}))
        for point in itertools.product(*lists.values())
    ]
    shape = tuple(len(each) for each in lists.values())
    values = {}
    for name in rows[0]:
        cells = [np.asarray(row[name]) for row in rows]
        if len({cell.shape for cell in cells}) > 1 or cells[0].ndim > 1:
            raise ValueError(
                f"{what} answers with arrays that differ in size from one "
                f"{' and '.join(lists)} to the next, which make no table; ask for one at a time."
            )
        values[name] = np.array(cells).reshape(*shape, *cells[0].shape)
    return Answers({name: np.array(each) for name, each in lists.items()}, values)


def _numbers(name: str, value: Any) -> list[float]:
    if not checks.is_concrete(value):
        real(name, value)  # says that theory is computed outside of jit
    if isinstance(value, set | frozenset) or getattr(value, "ndim", 1) != 1:
        raise TypeError(
            f"{name} must be one number or a list of numbers, as in [1.0, 1.5, 2.0], got "
            f"{f'an array of shape {value.shape}' if hasattr(value, 'shape') else repr(value)}."
        )
    listed = list(value)
    if not listed:
        raise ValueError(f"{name} must be one number or a list of numbers, got an empty list.")
    return [real(name, each) for each in listed]


def _fields(what: str, answer: Any) -> dict[str, Any]:
    """The fields of an answer, those of answers within it too, and nothing that is None."""
    if not hasattr(answer, "_fields"):
        if isinstance(answer, tuple):
            raise ValueError(
                f"{what} with all_points answers with as many points as there are, which make no "
                f"table; ask for one combination at a time."
            )
        return {what: answer}
    found: dict[str, Any] = {}
    for name, value in answer._asdict().items():
        if hasattr(value, "_fields"):
            found |= {f"{name}_{inner}": each for inner, each in _fields(name, value).items()}
        elif value is not None:
            found[name] = value
    return found
