"""Tables in narrow terminals."""

import io

import pytest
from rich.console import Console
from rich.table import Column, Table

from jinit.files import UNFINISHED, whole
from jinit.terminal import Fitted

NUMBERS = ("3.9e-302", "1.000000", "0.07387")


def shown(width):
    table = Table("what it is", *(Column(f"n\n{i}", no_wrap=True) for i in range(3)), title="all")
    table.add_row("the first row of it", *NUMBERS)
    table.add_row("", *NUMBERS)
    console = Console(file=io.StringIO(), width=width)
    console.print(Fitted(table))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [10, 20, 40, 41, 60, 120])
def test_no_number_is_cut_at_any_width(width):
    text = shown(width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for number in NUMBERS:
        assert text.count(number) == 2 or width < 14  # there a number is folded, none is cut
    assert ("┃" in text) == (width >= 41)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    left = whole(file)
    staging = left.__enter__()
    staging.write_text("half")
    assert staging in UNFINISHED
    assert staging.suffix == ".txt"
    assert not left.__exit__(KeyError, KeyError(), None)
    assert file.read_text() == "before"
    with whole(file) as staging:
        staging.write_text("after")
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]
    assert not UNFINISHED
    with pytest.raises(ValueError, match=r"cannot be written \(Is a directory\)"), whole(tmp_path):
        (tmp_path.with_name(next(iter(UNFINISHED)).name)).write_text("")
