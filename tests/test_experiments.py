"""Every script in experiments/ at its small setting, and the comparison they rely on."""

import ast
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jinit

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
# A leading underscore marks what the scripts share.
SCRIPTS = sorted(path for path in EXPERIMENTS.glob("*.py") if not path.name.startswith("_"))

spec = importlib.util.spec_from_file_location("_common", EXPERIMENTS / "_common.py")
assert spec is not None
assert spec.loader is not None
common = importlib.util.module_from_spec(spec)
spec.loader.exec_module(common)


def run(script, *options, cwd):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), *map(str, options)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def names(scripts):
    return [path.stem for path in scripts]


def test_the_two_published_results_are_there():
    assert {"cs231n_activations", "deeplearning_ai_initialization"} <= set(names(SCRIPTS))


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_small_setting(script, tmp_path):
    first = run(script, "--quick", cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "published numbers met" in first.stdout
    assert "jax" in first.stdout.splitlines()[0]

    out = tmp_path / "results" / script.stem
    written = sorted(path.name for path in out.iterdir())
    assert f"{script.stem}.png" in written
    assert "published_measured.csv" in written
    assert all((out / name).stat().st_size > 100 for name in written)
    table = (out / "published_measured.csv").read_text().splitlines()
    assert len(table) > 1
    assert all(line.endswith(",yes") for line in table[1:])

    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    second = run(script, "--quick", cwd=tmp_path)
    assert second.returncode == 2
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    for part in (f"results/{script.stem}", "new or empty directory", "--overwrite", "--out"):
        assert part in second.stderr
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_only_the_public_face_is_used(script):
    tree = ast.parse(script.read_text())
    imported = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    ]
    assert [name for name in imported if name.split(".")[0] == "jinit"] == ["jinit"]
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "jinit"
    }
    assert used
    assert used <= set(jinit.__all__)


# --- the comparison ---------------------------------------------------------------------------


def check(published, measured, tolerance=0.01):
    return common.Check("a group", "a number", published, measured, tolerance)


def test_numbers_within_tolerance_pass(capsys):
    assert common.verdict([check(1.0, 1.009), check(1.0, 0.991)]) == 0
    assert "2 of 2 published numbers met." in capsys.readouterr().out


@pytest.mark.parametrize("measured", [1.011, 0.989, math.nan, math.inf])
def test_one_missed_number_fails_and_is_named(measured, capsys):
    assert common.verdict([check(1.0, 1.0), check(1.0, measured)]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "Missed: a group, a number: published 1," in printed
    assert "1 of 2 published numbers met." in printed


def test_a_planted_wrong_published_number_is_missed(monkeypatch):
    # The measured numbers are theory's own; one published digit is wrong.
    monkeypatch.setitem(sys.modules, "_common", common)
    script_spec = importlib.util.spec_from_file_location(
        "cs231n_activations", EXPERIMENTS / "cs231n_activations.py"
    )
    assert script_spec is not None
    assert script_spec.loader is not None
    script = importlib.util.module_from_spec(script_spec)
    script_spec.loader.exec_module(script)
    setting = script.SETTINGS["ReLU, He"]
    predicted = script.predict(setting)
    seeds = [0.999, 1.001]
    measured = script.Measured(
        *(
            script.np.stack([scale * predicted[quantity] for scale in seeds])
            for quantity in ("mean", "std")
        ),
        histogram=None,
    )
    assert common.verdict(script.compare("ReLU, He", setting, measured)) == 0
    wrong = setting._replace(
        published=setting.published | {"std": setting.published["std"].replace("0.8", "0.7", 1)}
    )
    checks = script.compare("ReLU, He", wrong, measured)
    assert [c.what for c in checks if not c.ok] == ["layer 1", "layer 1"]
    assert common.verdict(checks) == 1


def test_what_a_setting_cannot_check_is_said(capsys):
    common.verdict([check(1.0, 1.0)], left_out=["the accuracy after 15000 steps."])
    assert "Not checked at this setting: the accuracy" in capsys.readouterr().out


def test_a_verdict_without_checks_is_an_error():
    with pytest.raises(ValueError, match="at least one check"):
        common.verdict([])


@pytest.mark.parametrize(
    ("printed", "expected"), [("0.213546", 5e-7), ("2.97728e-7", 5e-13), ("0.294390", 5e-7)]
)
def test_half_unit_of_the_last_digit(printed, expected):
    assert common.half_unit(printed) == pytest.approx(expected, rel=1e-12)


# --- where results go -------------------------------------------------------------------------


@pytest.fixture
def parse(monkeypatch):
    def parse(*options):
        monkeypatch.setattr(sys, "argv", ["name.py", *map(str, options)])
        return common.arguments("name", "What it does.", quick="less")

    return parse


def refused(parse, capsys, *options):
    with pytest.raises(SystemExit) as exit_:
        parse(*options)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_a_new_or_empty_directory_is_taken(parse, tmp_path):
    assert parse("--out", tmp_path / "a" / "b").out == tmp_path / "a" / "b"
    assert parse("--out", tmp_path / "a" / "b").out.is_dir()


def test_a_directory_with_files_needs_overwrite(parse, tmp_path, capsys):
    (tmp_path / "old.csv").write_text("x")
    message = refused(parse, capsys, "--out", tmp_path)
    assert f"got '{tmp_path}', which holds 1 file (old.csv)" in message
    assert "--overwrite" in message
    assert parse("--out", tmp_path, "--overwrite").overwrite
    assert (tmp_path / "old.csv").exists()


def test_an_out_that_is_no_directory_is_refused(parse, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("x")
    for out in (file, file / "below"):
        message = refused(parse, capsys, "--out", out)
        assert f"--out must be a directory that can be written, got '{out}'" in message
        assert message.count("\n") == 1


def test_unknown_options_are_refused(parse, tmp_path, capsys):
    message = refused(parse, capsys, "--out", tmp_path, "--quik")
    assert message.startswith("unrecognized arguments: --quik; allowed are --out DIR, --quick")
    assert message.count("\n") == 1
