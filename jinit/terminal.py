"""Tables in terminals of any width: no number is cut."""

from collections.abc import Callable, Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text


class Fitted:
    """A table, or where its columns do not fit, a paragraph for each row.

    Columns that may wrap give way first, down to their longest word; those with `no_wrap` never.
    """

    def __init__(self, table: Table) -> None:
        """What is to be shown."""
        self.table = table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """As rich asks for it."""
        wide = options.update(max_width=10_000)
        needed = Measurement.get(console, wide, self.table).maximum
        for column in self.table.columns:
            if not column.no_wrap:
                lines, words = (_widest(column, split) for split in (str.splitlines, str.split))
                needed -= lines - words
                column.overflow = "fold"  # where rich gives a word less than its width
        if needed <= options.max_width:
            yield self.table
            return
        if self.table.title:
            yield Text(str(self.table.title), style="italic")
        headers = [" ".join(str(column.header).split()) for column in self.table.columns]
        rows = Table.grid("", "", padding=(0, 1))
        for row in zip(*(column.cells for column in self.table.columns), strict=True):
            cells = [" ".join(str(cell).split()) for cell in row]
            said = [f"{h} {c}".strip() for h, c in zip(headers, cells, strict=True) if c]
            rows.add_row(" -", Text("; ".join(said), overflow="fold"))
        yield rows


def _widest(column: Column, split: Callable[[str], list[str]]) -> int:
    cells = [column.header, *column.cells]
    return max((cell_len(part) for cell in cells for part in split(str(cell))), default=0)
