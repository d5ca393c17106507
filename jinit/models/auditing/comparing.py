"""Two starts of one architecture, leaf by leaf: the bug of many ports."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinit.models.auditing.audit import WIDTH, Audit, AuditRow, audit, shorter
from jinit.models.auditing.oddities import STANDARD_ERRORS, error
from jinit.models.starts.laws import FORMS
from jinit.models.tracing.model import TracedModel

if TYPE_CHECKING:
    import pandas as pd

_SAME = 1e-6  # of constants


@dataclass(frozen=True)
class ComparedRow:
    """One leaf of both models; None where one of them has none to match."""

    a: AuditRow | None
    b: AuditRow | None
    differs: str
    """a sentence on what differs; "" if chance explains it"""

    @property
    def path(self) -> str:
        """In the first model, or else in the second."""
        row = self.a or self.b
        assert row is not None
        return row.path

    @property
    def ratio(self) -> float:
        """std of the second over that of the first; NaN if there is none."""
        if self.a is None or self.b is None or not self.a.std:
            return math.nan
        return self.b.std / self.a.std


@dataclass(frozen=True, repr=False)
class ComparedStarts:
    """What `compare_starts` found: `rows`, in the call order of the first model."""

    rows: tuple[ComparedRow, ...]
    starts: tuple[str, str]
    """whose start each is, "" if none is known"""

    @property
    def differing(self) -> tuple[ComparedRow, ...]:
        """The rows that differ."""
        return tuple(row for row in self.rows if row.differs)

    def __str__(self) -> str:
        """The table, for a terminal of 100 columns, and what differs."""
        return _text(self)

    __repr__ = __str__

    def to_dataframe(self) -> "pd.DataFrame":
        """A pandas DataFrame, a row for each leaf; columns of the models end in _a and _b."""
        import pandas as pd

        columns = ("path", "shape", "role", "fan_in", "std", "mean", "distribution")
        return pd.DataFrame([
            {f"{name}_{side}": getattr(row, name) if row else None
             for name in columns for side, row in (("a", both.a), ("b", both.b))}
            | {"ratio": both.ratio, "differs": both.differs}
            for both in self.rows
        ])  # fmt: skip


def compare_starts(a: Any, b: Any) -> ComparedStarts:
    """Two checkpoints' or two frameworks' starts of one architecture, and which leaf differs.

    Leaves are matched in the order in which the models use them: by role and shape, up to axes in
    another order and axes that are joined, as `[in, heads, size]` and `[heads * size, in]`. Two
    leaves differ if their stds or means lie further apart than four standard errors of both, or if
    no distribution explains the entries of both.

    Args:
        a, b: each a `jinit.Model` with numbers, a tuple `(apply, variables, *inputs)`, or what
            `jinit.audit` found.

    Returns:
        A `ComparedStarts`: print it, or take `.rows`, `.differing`, `.to_dataframe()`.

    Raises:
        TypeError: something else; ValueError, no leaf of one that matches the other.

    >>> import jax, jinit
    >>> x, key = jax.numpy.ones((4, 64)), jax.random.key(0)
    >>> apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    >>> w = {"a": jax.random.normal(key, (64, 64)) / 8, "b": jax.random.normal(key, (64, 32)) / 8}
    >>> other = {"a": w["a"], "b": w["b"] / 8}
    >>> [row.path for row in jinit.compare_starts((apply, w, x), (apply, other, x)).differing]
    ["['b']"]
    """
    first, second = _audited("a", a), _audited("b", b)
    matched = _matched(_ordered(first), _ordered(second))
    rows = tuple(ComparedRow(x, y, _difference(x, y)) for x, y in matched)
    if not any(row.a and row.b for row in rows):
        raise ValueError(
            f"compare_starts is for two starts of one architecture, but no leaf of one matches the "
            f"other by role and shape: {_some(first)} against {_some(second)}."
        )
    return ComparedStarts(rows, (_whose(first), _whose(second)))


def _audited(name: str, given: Any) -> Audit:
    if isinstance(given, Audit):
        return given
    if isinstance(given, TracedModel):
        return audit.traced(given)
    if isinstance(given, tuple) and len(given) >= 2 and callable(given[0]):
        return audit(*given)
    raise TypeError(
        f"{name} must be a jinit.Model, a tuple (apply, variables, *inputs) or a jinit.audit of "
        f"one, got {type(given).__name__}."
    )


def _whose(found: Audit) -> str:
    return ", ".join(fit.name for fit in found.start if not fit.differs)


def _some(found: Audit) -> str:
    shown = ", ".join(f"{shorter(row.path)} {list(row.shape)}" for row in found.rows[:3])
    return f"{shown}{', ...' if len(found.rows) > 3 else ''}"


# --- matching -----------------------------------------------------------------------------------


def _ordered(found: Audit) -> list[AuditRow]:
    """In the order of their use; what is never used comes last."""
    last = math.inf
    return sorted(found.rows, key=lambda row: last if row.order is None else row.order)


def _matched(
    first: Sequence[AuditRow], second: Sequence[AuditRow]
) -> list[tuple[AuditRow | None, AuditRow | None]]:
    """The k-th of a kind in one with the k-th of that kind in the other."""
    left = list(second)
    found: list[tuple[AuditRow | None, AuditRow | None]] = []
    for row in first:
        same = next((other for other in left if _kind(other) == _kind(row)), None)
        if same is not None:
            left.remove(same)
        found.append((row, same))
    return [*found, *((None, row) for row in left)]


def _kind(row: AuditRow) -> tuple[Any, ...]:
    """What two frameworks agree on: the role, the entries, and how they are summed."""
    size = math.prod(row.shape)
    role = "weight" if row.role == "tied" else row.role
    if row.role == "weight":
        return role, size, row.fan_in, row.fan_out, row.groups, row.layers
    return role, size, *(sorted(row.shape) if row.role in ("embedding", "tied") else ())


# --- what differs -------------------------------------------------------------------------------


def _difference(a: AuditRow | None, b: AuditRow | None) -> str:
    """A sentence, or nothing."""
    if a is None or b is None:
        row = a or b
        assert row is not None
        only = "first" if a else "second"
        return f"only the {only} model has it: {row.role} {list(row.shape)}."
    if math.isnan(a.std) or math.isnan(b.std):
        return ""
    size = math.prod(a.shape)
    if a.std == 0 or b.std == 0:
        if a.std == b.std and abs(a.mean - b.mean) <= _SAME * max(1.0, abs(a.mean)):
            return ""
        return f"{_is(a)} in the first model, {_is(b)} in the second."
    kurtosis = max([FORMS[f].kurtosis for f in _forms(a) | _forms(b) if f in FORMS], default=3.0)
    apart = abs(math.log(b.std / a.std))
    allowed = math.sqrt(2) * error(kurtosis, size)
    if apart > allowed:
        return f"{_is(a)} in the first model, {_is(b)} in the second: {b.std / a.std:.3g} times."
    spread = STANDARD_ERRORS * math.sqrt((a.std**2 + b.std**2) / size)
    if abs(a.mean - b.mean) > spread:
        return f"mean {a.mean:.3g} in the first model, {b.mean:.3g} in the second."
    if _forms(a) and _forms(b) and not _forms(a) & _forms(b):
        return f"{a.distribution} in the first model, {b.distribution} in the second."
    return ""


def _forms(row: AuditRow) -> set[str]:
    return set(row.distribution.split("/")) - {""}


def _is(row: AuditRow) -> str:
    return f"= {row.mean:.4g}" if row.std == 0 else f"std {row.std:.4g}"


# --- showing ------------------------------------------------------------------------------------


def _text(found: ComparedStarts) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    buffer = io.StringIO()
    console = Console(
        file=buffer, width=WIDTH, color_system=None, force_terminal=False, highlight=False,
        legacy_windows=False,
    )  # fmt: skip
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("  first", "second"):
        table.add_column(column, overflow="fold", max_width=34)
    for column in ("std", "std", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found.rows:
        mark = "! " if row.differs else "  "
        cells = [_path(row.a), _path(row.b), _cell(row.a), _cell(row.b)]
        ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.3g}"
        table.add_row(*map(Text, (mark + cells[0], *cells[1:], ratio)))
    console.print(table)
    for side, name in zip(("first", "second"), found.starts, strict=True):
        if name:
            console.print(Text(f"The {side} is drawn as by start {name}."))
    count = f"{len(found.rows)} leaves"
    if not found.differing:
        console.print(Text(f"No difference that chance does not explain in {count}."))
    else:
        console.print(Text(f"Different in {len(found.differing)} of {count}:"))
    for row in found.differing:
        console.print(Text(f"! {row.path}: {row.differs}"))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).strip("\n")


def _path(row: AuditRow | None) -> str:
    return "" if row is None else shorter(row.path)


def _cell(row: AuditRow | None) -> str:
    if row is None or math.isnan(row.std):
        return ""
    return f"= {row.mean:.3g}" if row.std == 0 else f"{row.std:.4g}"
