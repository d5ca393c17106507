"""The command line, as a person calls it."""

import os
import subprocess
import sys

import pytest

import jinit


def call(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "jinit", *arguments],
        capture_output=True, text=True, timeout=120, cwd=cwd,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip


def test_help_names_the_commands():
    done = call("--help")
    assert done.returncode == 0
    assert "tour" in done.stdout
    assert "schemes" in done.stdout


def test_help_does_not_load_jax():
    program = (
        "import sys; sys.argv = ['jinit', '--help']\n"
        "from jinit.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'matplotlib', 'xarray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_version():
    assert call("--version").stdout.strip() == jinit.__version__


def test_schemes_lists_every_scheme():
    done = call("schemes")
    assert done.returncode == 0
    for name in jinit.SCHEMES:
        assert name in done.stdout


@pytest.mark.bad_input
def test_tour_into_a_used_folder_is_one_sentence(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    done = call("tour", "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path) in done.stderr
    assert "--overwrite" in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.bad_input
def test_unknown_option_names_the_nearest():
    done = call("tour", "--quik")
    assert done.returncode == 2
    assert "--quick" in done.stderr


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "arguments", [("--out", "a" * 300), ("--out", "~nosuchuser/x"), ("--seed", "9" * 20)]
)
def test_impossible_options_are_one_message(arguments, tmp_path):
    done = call("tour", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.bad_input
def test_a_device_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    done = call("tour", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith(
        "jinit: jax cannot start on the device that JAX_PLATFORMS=nonsense"
    )
    assert not list(tmp_path.iterdir())
