"""The programs of docs/optimizers.md run as written, and print what the page says."""

import re
from pathlib import Path

import jax
import pytest

TEXT = (Path(__file__).parents[3] / "docs" / "optimizers.md").read_text(encoding="utf-8")


def ran(text, capsys):
    """What a part of the page leaves behind, what it prints, and what it says that it prints."""
    program, names = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(program, "docs/optimizers.md", "exec"), names)
    said = re.findall(r"^print\(.*\) {2}# (.*)$", program, re.MULTILINE)
    pieces = [piece.strip() for line in said for piece in line.split("...") if piece]
    return names, capsys.readouterr().out, pieces


def test_its_trees_are_what_the_page_says(capsys):
    text, _ = TEXT.split("## How large a step")
    names, printed, pieces = ran(text, capsys)
    assert len(pieces) >= 3
    assert [piece for piece in pieces if piece not in printed] == []
    with jax.numpy_dtype_promotion("standard"):
        update = names["optimizer"].update
        updates, _ = jax.eval_shape(update, names["params"], names["state"], names["params"])
    assert jax.tree.structure(updates) == jax.tree.structure(names["params"])


@pytest.mark.long
def test_all_of_it_runs_and_the_check_holds(capsys):
    _, printed, pieces = ran(TEXT, capsys)
    assert len(pieces) >= 6
    assert [piece for piece in pieces if piece not in printed] == []
    assert "The coordinate check holds" in printed
