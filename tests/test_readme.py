"""What the README says is true: programs run, the table is the code's, links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jinit

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("name", list(jinit.SCHEMES))
def test_table_states_every_scheme(name):
    entry = jinit.SCHEMES[name]
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
    assert entry.formula in row
    assert entry.source in row
    for option in entry.options:
        assert option.endswith("_axis") or f"`{option}`" in row


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!http|#)([^)]+)\)", TEXT)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_every_experiment_is_listed():
    for script in (ROOT / "experiments").glob("[!_]*.py"):
        assert f"experiments/{script.name}" in TEXT


@pytest.mark.script
@pytest.mark.parametrize("module", [
    "schemes", "networks", "theory.criticality", "theory.correlations", "theory.depths",
    "theory.gains", "theory.gaussian", "theory.gradients", "theory.lengths", "theory.spectrum",
    "theory.width", "models.audit", "models.mup", "models.reinit", "models.show",
])  # fmt: skip
def test_examples_in_docstrings(module):
    file = ROOT / "jinit" / (module.replace(".", os.sep) + ".py")
    done = subprocess.run(
        [sys.executable, "-m", "doctest", str(file)],
        capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
