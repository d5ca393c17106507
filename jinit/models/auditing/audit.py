"""An audit of a model's parameters: true fans, actual numbers, whose convention, what is odd."""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jinit import checks
from jinit.models.auditing.oddities import Sample, fits, odd, sample
from jinit.models.auditing.remarks import by_design, copies
from jinit.models.auditing.starting import StartFit, starts_of, untrained
from jinit.models.starts.conventions import CONVENTIONS, Conventions, Leaf
from jinit.models.starts.laws import FormName
from jinit.models.tracing.made import Numbers
from jinit.models.tracing.model import TracedModel, face
from jinit.models.tracing.roles import Role
from jinit.models.tracing.uses import Kind
from jinit.models.tracing.values import RoleError
from jinit.templates import render

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

WIDTH = 100  # of what is printed
PATH = 28  # of its first column


@dataclass(frozen=True)
class AuditRow:
    """One parameter."""

    path: str
    """where it lies in the variables, as `jax.tree_util.keystr` writes it"""
    shape: tuple[int, ...]
    """of the leaf"""
    role: Kind
    """as in `jinit.models.Role`"""
    fan_in: int | float | None
    """numbers summed over for one output; None if it is no weight"""
    fan_out: int | None
    """outputs that one number contributes to"""
    groups: int
    """independent products side by side"""
    layers: int
    """stacked layers that a loop goes through"""
    std: float
    """of all entries about their mean, in float64; of a weight, of what is applied"""
    mean: float
    """of all entries, in float64"""
    gain: float
    """std sqrt(fan_in), NaN if it is no weight: 1 for LeCun's, sqrt(2) for He's"""
    distribution: str
    """what the entries are like: "normal", "truncated" (normal, cut at two standard deviations),
    "truncated_3" (at three), "uniform", "orthogonal", "constant"; several joined by "/" where there
    are too few to tell, "" if none of these"""
    expected: dict[str, float | None]
    """convention -> the std it would give this leaf, None where it says nothing"""
    matches: tuple[str, ...]
    """the conventions that it can be a draw of"""
    odd: tuple[str, ...]
    """sentences on what is odd"""
    remarks: tuple[str, ...] = ()
    """sentences on what is unusual, and by design in many models"""
    order: int | None = field(default=None, repr=False)
    """place of the first use in call order"""


@dataclass(frozen=True, repr=False)
class Audit:
    """What `audit` found: `rows`, one per parameter, in the order of the variables' leaves.

    Printed, it is a table with the odd parameters marked, and a list of what is odd.
    """

    rows: tuple[AuditRow, ...]
    conventions: tuple[str, ...]
    start: tuple[StartFit, ...] = ()
    """the starts of `jinit.STARTS` that all leaves fit; if there is none, the nearest ones that all
    but a few fit, with what differs"""
    untrained: tuple[str, ...] = ()
    """paths of leaves that still look drawn, where at least half of the matrices no longer do; a
    model that was never trained names one at most once in five hundred times"""

    @property
    def odd(self) -> tuple[tuple[str, str], ...]:
        """(path, sentence) of everything that is odd."""
        return tuple((row.path, sentence) for row in self.rows for sentence in row.odd)

    @property
    def remarks(self) -> tuple[tuple[str, str], ...]:
        """(path, sentence) of what is unusual, and by design in many models."""
        return tuple((row.path, sentence) for row in self.rows for sentence in row.remarks)

    @property
    def unread(self) -> int:
        """How many parameters have no numbers: a shape alone, or no entry."""
        return sum(math.isnan(row.std) and not row.odd for row in self.rows)

    def __str__(self) -> str:
        """The table, for a terminal of 100 columns."""
        return _text(self)

    __repr__ = __str__

    def to_dataframe(self) -> "pd.DataFrame":
        """A pandas DataFrame, a row for each parameter and a column for each convention's std.

        `matches` holds the names joined by ", ", `odd` the sentences joined by " ".
        """
        import pandas as pd

        whole = all(row.fan_in is None or row.fan_in == int(row.fan_in) for row in self.rows)
        types: dict[str, Any] = {"fan_in": "Int64" if whole else "Float64", "fan_out": "Int64"}
        rows = [
            vars(row)
            | {"matches": ", ".join(row.matches), "odd": " ".join(row.odd)}
            | {"remarks": " ".join(row.remarks)}
            | row.expected
            for row in self.rows
        ]
        found = pd.DataFrame(rows).drop(columns=["expected", "order"])
        return found.astype(types | dict.fromkeys(self.conventions, float))

    def to_html(self, path: str | Path | None = None) -> str:
        """A page that loads nothing from anywhere; written to `path` if one is given."""
        page = _html(self, page=True)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def _repr_html_(self) -> str:
        return _html(self, page=False)


@face
def audit(
    model: TracedModel, variables: Any = None, *, conventions: Iterable[str] | None = None
) -> Audit:
    """Every parameter's fans and numbers, beside what known conventions would give it.

    A leaf matches a convention if its mean and std lie within four standard errors of the law that
    the convention draws it from, (kurtosis - 1) / 4n being the squared relative error of a std,
    and if its entries are distributed alike, as far as there are enough to tell. Only where no
    convention matches with the true fans is a wrong fan offered as explanation, and of several the
    simplest.

    Args:
        apply, variables, *inputs, rules: as for `jinit.Model`.
        conventions: names to compare with, of "torch", "keras", "flax", "haiku", "caffe", "cs231n",
            "he" and "xavier" (Glorot & Bengio's); None is all.

    Returns:
        An `Audit`: print it, or take `.rows`, `.start` (of `jinit.STARTS`, with their default
        options), `.untrained`, `.to_dataframe()`, `.to_html()`.

    Raises:
        ValueError: an unknown convention; RoleError, a parameter whose use says nothing certain.
        TypeError: variables that are traced, or hold no floating-point array.

    >>> import jax, jinit
    >>> params = {"w": jax.random.normal(jax.random.key(0), (64, 32)) / 8}
    >>> found = jinit.audit(lambda p, x: x @ p["w"], params, jax.numpy.ones((4, 64)))
    >>> found.rows[0].matches
    ('cs231n',)
    """
    if isinstance(conventions, str):
        conventions = (conventions,)
    fix = "conventions must be names to compare with, as in ['torch', 'flax']"
    names = tuple(CONVENTIONS) if conventions is None else checks.listed(fix, conventions)
    for name in names:
        checks.choice("convention", name, CONVENTIONS)
    table = {name: CONVENTIONS[name] for name in names}
    model = model.of(variables)
    values = model.floats
    for path, value in zip(model.trace.paths, values, strict=True):
        if not checks.is_concrete(value):
            raise TypeError(
                f"audit needs real values, got a traced array at {path}; call it outside jax.jit, "
                f"jax.vmap and jax.grad."
            )
    found = model.judged()
    hidden = {
        role.fan_out: role.fan_in
        for role in found
        if role.kind == "weight" and role.fan_out in _cells(role.fan_in)
    }
    numbers = Numbers(model.trace.made, values)
    rows, samples, arrays, matrices = [], [], [], []
    for role in found:
        array, matrix = _applied(role, numbers)
        one = sample(array, matrix, eps=float(jax.numpy.finfo(role.dtype).eps))
        rows.append(_row(role, one, matrix, _leaf(role, found, hidden), table))
        samples.append(one)
        arrays.append(array)
        matrices.append(matrix)
    rows = _with_remarks(model, found, rows)
    start = starts_of(model, arrays, samples)
    whole = any(not fit.differs for fit in start)
    explained = [whole or bool(row.matches) for row in rows]
    still = untrained(found, samples, explained, lambda i: matrices[i])
    return Audit(tuple(rows), names, start, still)


# --- one row ------------------------------------------------------------------------------------


def _cells(fan_in: int | float | None) -> tuple[int | float, ...]:
    """Fan-outs of a recurrent matrix of so many units: plain, and of three or four fused gates."""
    return () if fan_in is None else (fan_in, 3 * fan_in, 4 * fan_in)


def _leaf(role: Role, found: tuple[Role, ...], hidden: Mapping[Any, int | float | None]) -> Leaf:
    if role.kind == "bias":
        size = math.prod(role.shape) // role.layers
        gated = hidden.get(size, size)  # of three or four gates, which are added to one after all
        return Leaf("bias", fan_in=_fan_in_of_bias(role, found) if gated == size else gated)
    return Leaf(
        role.kind,
        role.fan_in,
        role.fan_out,
        groups=role.groups if role.receptive_field > 1 else 1,
        features=role.features if role.kind in ("embedding", "tied") and role.shape else None,
        hidden=hidden.get(role.fan_out),
    )


def _fan_in_of_bias(bias: Role, found: tuple[Role, ...]) -> int | float | None:
    """Of the weight whose outputs it is added to: the last one used before, of as many outputs.

    None for a bias that follows the scale of a norm, or no weight of its size.
    """
    if bias.order is None:
        return None
    size = math.prod(bias.shape) // bias.layers
    ordered = ((r.order, r) for r in found if r.order is not None and _outputs(r) == size)
    before = [(order, role) for order, role in ordered if order < bias.order]
    _, last = max(before, key=lambda each: each[0], default=(0, None))
    return None if last is None or last.kind == "scale" else last.fan_in


def _outputs(role: Role) -> int | None:
    if role.kind == "scale":
        return math.prod(role.shape) // role.layers
    if role.kind not in ("weight", "tied") or role.fan_out is None:
        return None
    return role.fan_out // role.receptive_field * role.groups


def _applied(role: Role, numbers: Numbers) -> tuple[np.ndarray, np.ndarray | None]:
    """What is judged, and how it is applied, `[layers * groups, fan_in, fan_out]`.

    Nothing of a shape alone. A weight is judged by what products read.
    """
    value = numbers.of(role.number)
    if isinstance(value, jax.ShapeDtypeStruct):
        return np.zeros(0), None
    array, matrix = _wide(np.asarray(value)), None
    if role.kind in ("weight", "tied") and array.size:
        # Not if it is chosen while the model runs, or made with parameters that are only shapes.
        with suppress(RoleError, TypeError):
            matrix = _wide(role.applied(numbers))
            array = matrix if role.is_changed else array
    return array, matrix


def _with_remarks(
    model: TracedModel, found: Sequence[Role], rows: Sequence[AuditRow]
) -> list[AuditRow]:
    """What is by design is a remark; what holds the numbers of another leaf is odd."""
    zero = frozenset(
        role.number for role, row in zip(found, rows, strict=True)
        if row.distribution == "constant" and row.mean == 0
    )  # fmt: skip
    meant = by_design(model.trace, found, zero)
    with_numbers = not any(isinstance(v, jax.ShapeDtypeStruct) for v in model.floats)
    same = copies(found, model.floats) if with_numbers else {}
    new = []
    for i, row in enumerate(rows):
        if i in meant:
            row = replace(row, odd=(), remarks=(meant[i],))
        elif i in same:
            said = f"it holds the same numbers as {same[i]}, up to a factor: one key drew both."
            row = replace(row, odd=(*row.odd, said))
        new.append(row)
    return new


def _row(
    role: Role, found: Sample, matrix: np.ndarray | None, leaf: Leaf, table: Conventions
) -> AuditRow:
    laws = {name: convention.laws(leaf) for name, convention in table.items()}
    matches = tuple(name for name, some in laws.items() if any(fits(law, found) for law in some))
    return AuditRow(
        path=role.path,
        shape=role.shape,
        role=role.kind,
        fan_in=role.fan_in,
        fan_out=role.fan_out,
        groups=role.groups,
        layers=role.layers,
        std=found.std,
        mean=found.mean,
        gain=math.nan if role.fan_in is None else found.std * math.sqrt(role.fan_in),
        distribution="/".join(sorted(_shown(found.forms))),
        expected={name: some[0].std if some else None for name, some in laws.items()},
        matches=matches,
        odd=tuple(odd(role, leaf, found, matrix, {} if matches else table)),
        order=role.order,
    )


def _wide(array: np.ndarray) -> np.ndarray:
    """In float32 at least, as NumPy adds up bfloat16 and float16 poorly; complex numbers as their
    real and imaginary parts side by side, which a draw of half the variance each fills."""
    if np.iscomplexobj(array):
        parts = np.stack([array.real, array.imag], -1) * math.sqrt(2)
        return parts.reshape(*array.shape[:-1], -1) if array.ndim else parts
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def _shown(forms: frozenset[FormName]) -> frozenset[FormName]:
    """Cut at three standard deviations is said of what is no normal's whole, and not cut at two."""
    return forms - {"truncated_3"} if forms & {"normal", "truncated"} else forms


# --- showing ------------------------------------------------------------------------------------


def _text(found: Audit) -> str:
    from rich.console import Console
    from rich.text import Text

    buffer = io.StringIO()
    console = Console(
        file=buffer, width=WIDTH, color_system=None, force_terminal=False, highlight=False,
        legacy_windows=False,
    )  # fmt: skip
    console.print(_table(found))
    gains = _gains(found)
    lines = [f"gain = std * sqrt(fan_in): {gains}"] if gains else []
    if found.start:
        lines.append(f"Drawn as by start {', '.join(map(str, found.start))}.")
    if found.untrained:
        shown = ", ".join(found.untrained[:4])
        more = f" and {len(found.untrained) - 4} more" if len(found.untrained) > 4 else ""
        lines.append(f"Still as drawn, where others were trained: {shown}{more}.")
    count = f"{len(found.rows)} parameter{'s' * (len(found.rows) != 1)}"
    marked = sum(bool(row.odd) for row in found.rows)
    if found.unread:
        lines.append(f"{found.unread} of {count} have a shape and no numbers to audit.")
    elif not marked:
        lines.append(f"Nothing odd in {count}.")
    if marked:
        lines.append(f"Odd in {marked} of {count}:")
    lines += [f"! {path}: {sentence}" for path, sentence in found.odd]
    lines += [f"- {path}: {sentence}" for path, sentence in found.remarks]
    for line in lines:
        console.print(Text(line))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).strip("\n")


def _table(found: Audit) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("  path", no_wrap=True)
    table.add_column("shape", max_width=12)
    table.add_column("role", no_wrap=True)
    for column in ("fan_in", "fan_out", "std", "gain"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("matches", max_width=17)
    for row in found.rows:
        cells = (
            _wrapped(shorter(row.path), "! " if row.odd else "  "),
            " ".join(map(str, row.shape)) or "scalar",
            row.role,
            "" if row.fan_in is None else str(row.fan_in),
            "" if row.fan_out is None else str(row.fan_out),
            _number(row),
            "" if math.isnan(row.gain) else f"{row.gain:.3g}",
            _names(row, found.conventions),
        )
        table.add_row(*map(Text, cells))
    return table


def shorter(path: str) -> str:
    """['params']['Dense_0']['kernel'] as params/Dense_0/kernel."""
    return re.sub(r"\[['\"]?([^'\"\]]*)['\"]?\]", r"/\1", path).lstrip("/.")


def _wrapped(path: str, mark: str) -> str:
    """Broken between its parts into lines of PATH characters."""
    lines = [""]
    for part in re.findall(rf"[^/.]{{1,{PATH - 1}}}[/.]?", path):
        if lines[-1] and len(lines[-1]) + len(part) > PATH:
            lines.append("")
        lines[-1] += part
    return "\n".join((mark if i == 0 else "   ") + line for i, line in enumerate(lines))


def _number(row: AuditRow) -> str:
    """The std, or what all entries are."""
    if math.isnan(row.std):
        return ""
    return f"= {row.mean:.4g}" if row.distribution == "constant" else f"{row.std:.4g}"


def _names(row: AuditRow, conventions: tuple[str, ...]) -> str:
    """The conventions that a leaf matches, of those that say something of it."""
    saying = [name for name in conventions if row.expected[name] is not None]
    if len(row.matches) > 3 and len(row.matches) >= len(saying) - 1:
        missing = [name for name in saying if name not in row.matches]
        return f"all but {missing[0]}" if missing else "all"
    return ", ".join(row.matches)


def _gains(found: Audit) -> str:
    """Of those conventions that give every weight the same gain."""
    one = Leaf("weight", fan_in=1.0, fan_out=1.0)
    chosen = {name: CONVENTIONS[name].weight(one) for name in found.conventions}
    other = {name: CONVENTIONS[name].weight(one._replace(fan_out=2.0)) for name in chosen}
    return ", ".join(f"{n} {s[0].std:.3g}" for n, s in chosen.items() if s == other[n])


def _html(found: Audit, *, page: bool) -> str:
    table = {name: CONVENTIONS[name] for name in found.conventions}
    return render("audit.html.j2", found=found, table=table, page=page, number=_number)
