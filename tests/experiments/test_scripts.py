"""Every script in experiments/ at its small setting, and that it uses the public face alone."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import jinit

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
SCRIPTS = sorted(path for path in EXPERIMENTS.glob("*.py") if not path.name.startswith("_"))
MOST_LINES = 3110  # of all of experiments/, the harness included


def run(script, *options, cwd):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), *map(str, options)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def names(scripts):
    return [path.stem for path in scripts]


def test_every_published_result_is_there():
    assert names(SCRIPTS) == [
        "audit_frameworks",
        "cs231n_activations",
        "deeplearning_ai_initialization",
        "glorot2010_saturation",
        "hanin2018_finite_width",
        "lsuv",
        "mup_coordinate_check",
        "pennington2017_jacobian_spectra",
        "poole2016_order_to_chaos",
        "saxe2014_linear_dynamics",
        "schoenholz2017_depth_scales",
        "sussillo2014_random_walk",
        "yang2019_batchnorm_explosion",
    ]


def test_a_script_is_short():
    lines = {path: len(path.read_text().splitlines()) for path in EXPERIMENTS.rglob("*.py")}
    assert sum(lines.values()) <= MOST_LINES


# The others' checks meet planted errors in test_planted_errors.py, at the full setting's shape.
QUICK = ("deeplearning_ai_initialization",)


@pytest.mark.script
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.long)
        for path in SCRIPTS
    ],
)
def test_small_setting(script, tmp_path):
    first = run(script, "--quick", cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "numbers met: " in first.stdout
    assert "jax" in first.stdout.splitlines()[0]

    out = tmp_path / "results" / script.stem
    written = sorted(path.name for path in out.iterdir())
    assert {f"{script.stem}.png", "published_measured.csv", "data.nc"} < set(written)
    for name in written:  # a table has a header and a row
        file = out / name
        assert (
            len(file.read_text().splitlines()) > 1
            if name.endswith(".csv")
            else (file.stat().st_size > 1000)
        )
    table = (out / "published_measured.csv").read_text().splitlines()
    assert len(table) > 1
    assert all(line.endswith(",yes") for line in table[1:])


@pytest.mark.script
def test_results_are_not_written_over(tmp_path):
    script = EXPERIMENTS / "deeplearning_ai_initialization.py"
    out = tmp_path / "results" / script.stem
    out.mkdir(parents=True)
    (out / "data.nc").write_text("of an earlier run")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    second = run(script, "--quick", cwd=tmp_path)
    assert second.returncode == 2
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    for part in (f"results/{script.stem}", "new or empty directory", "--overwrite", "--out"):
        assert part in second.stderr
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def private_uses(source):
    """Names that a script takes from jinit although they are no part of its public face."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    wrong = [
        alias.name
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.split(".")[0] == "jinit" and (alias.name != "jinit" or alias.asname)
    ]
    wrong += [
        node.module or ""
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jinit"
    ]
    # Of tuples with names only; a module under another name has no other way in.
    tuples = {"_fields", "_replace", "_asdict"}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    wrong += [
        node.attr
        for node in attributes
        if node.attr.startswith("_") and not node.attr.startswith("__") and node.attr not in tuples
    ]
    of_jinit = [n for n in attributes if isinstance(n.value, ast.Name) and n.value.id == "jinit"]
    inner = {id(node.value): node.attr for node in attributes}
    for node in of_jinit:
        if node.attr not in jinit.__all__:
            wrong.append(node.attr)
            continue
        found = getattr(jinit, node.attr)
        if isinstance(found, ModuleType) and inner.get(id(node)) not in found.__all__:
            wrong.append(f"{node.attr}.{inner.get(id(node))}")
    return wrong


PYTHON = sorted(EXPERIMENTS.rglob("*.py"))


@pytest.mark.parametrize("script", PYTHON, ids=names(PYTHON))
def test_only_the_public_face_is_used(script):
    source = script.read_text()
    assert script not in SCRIPTS or "jinit." in source
    assert private_uses(source) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("jinit.theory.gain('tanh')", []),
        ("jinit.theory.curve.Curve", ["theory.curve"]),
        ("jinit.theory._private(1)", ["_private", "theory._private"]),
        ("jinit.plots.Values", ["plots.Values"]),
        ("jinit.schemes", ["schemes"]),
        ("theory = jinit.theory", ["theory.None"]),
        ("import jinit.theory as t", ["jinit.theory"]),
        ("from jinit.theory import gain", ["jinit.theory"]),
        ("found._replace(q=1)", []),
    ],
)
def test_what_is_no_public_face_is_seen(line, wrong):
    assert private_uses(f"import jinit\n{line}\n") == wrong
