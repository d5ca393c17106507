"""What the README says is true: programs run, the table is the code's, links lead somewhere."""

import ast
import operator
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import jinit

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.script
def test_programs_run_as_written(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 5
    program = tmp_path / "readme.py"
    # What the programs promise: a network that trains, and one's own Flax model that does.
    promised = "assert float(result.accuracy) > 0.9\nassert mine.accuracy.max() > 0.9\n"
    promised += "assert before < 0.2 and after > 0.8, (before, after)\n"
    promised += "assert ds.sizes['gain'] == 9 and mine.loss.dims[-1] == 'step'\n"
    program.write_text("\n".join((*blocks, promised)))
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_programs_name_what_exists():
    """What always runs of the programs: they parse, and every name of jinit's is there."""
    program = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    texts = {ast.unparse(n) for n in ast.walk(ast.parse(program)) if isinstance(n, ast.Attribute)}
    named = {t for t in texts if re.fullmatch(r"(jinit|theory)(\.\w+)+", t)}
    assert len(named) >= 20
    for name in sorted(named):
        operator.attrgetter(name)(SimpleNamespace(jinit=jinit, theory=jinit.theory))


@pytest.mark.parametrize("name", list(jinit.SCHEMES))
def test_table_states_every_scheme(name):
    entry = jinit.SCHEMES[name]
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
    assert entry.formula in row
    assert entry.source in row
    for option in entry.options:
        assert option.endswith("_axis") or f"`{option}`" in row


PAGES = [ROOT / "README.md", *(p for p in ROOT.glob("*.md") if p.name != "README.md")]
PAGES += [page for folder in ("benchmarks", "docs", "experiments", ".github")
          for page in (ROOT / folder).rglob("*.md")]  # fmt: skip


def anchors(page):
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Within the repository: files, and headings of theirs. Other sites are not asked."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, heading = target.partition("#")
        found = page.parent / file if file else page
        assert found.exists(), target
        assert not heading or heading in anchors(found), target


def test_every_experiment_is_listed():
    for script in (ROOT / "experiments").glob("[!_]*.py"):
        assert f"experiments/{script.name}" in TEXT


EXAMPLES = sorted(p for p in (ROOT / "jinit").rglob("*.py") if ">>> " in p.read_text("utf-8"))
RUN_EXAMPLES = """
import doctest, importlib, sys
for name in sys.argv[1:]:
    failed, tried = doctest.testmod(importlib.import_module(name))
    print(name, "failed" if failed or not tried else "passed")
"""


@pytest.mark.script
def test_examples_in_docstrings():
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in EXAMPLES]
    assert len(names) >= 15
    done = subprocess.run(
        [sys.executable, "-c", RUN_EXAMPLES, *names],
        capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"{n} passed" for n in names], done.stdout + done.stderr
