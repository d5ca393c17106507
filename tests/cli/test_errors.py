"""What goes wrong, in the words of the command line: options, the model's place, the traceback."""

import pytest

from jinit.cli.errors import spoken
from tests.shell import call, call_here

OPTIONS = {"depth": "--depth", "bias_var": "--bias-var", "seeds": "--seeds", "batch": "--batch",
           "learning_rate": "--learning-rate", "norm": "--norm", "store": "--store"}  # fmt: skip


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("depth must be at least 1, got 0.", "--depth must be at least 1, got 0."),
        ("every depth (of layers) must be 2.", "every --depth (of layers) must be 2."),
        ("a learning_rate of 0", "a --learning-rate of 0"),
        ("the traced axis 'learning_rate' holds 1 twice.", "--learning-rate holds 1 twice."),
        ("no point with bias_var=0.1; give store=.", "no point with --bias-var 0.1; give --store."),
        ("unknown norm 'x' Allowed: None, 'batch'.", "unknown --norm 'x' Allowed: 'batch'."),
        # Words of English and lines of Python stay.
        ("use batch norm, at any depth.", "use batch norm, at any depth."),
        ("call jinit.init(key, bias_var=0.1).", "call jinit.init(key, bias_var=0.1)."),
        ("seeds_of and my.depth= are others.", "seeds_of and my.depth= are others."),
    ],
)
def test_sentences_name_options(python, shell):
    assert spoken(python, OPTIONS) == shell


MODEL = """
import sys
import jax.numpy as jnp

def apply(w, x):
    y = x @ w
    return jnp.concatenate([y, x[:, 0]])

def make():
    return apply, jnp.ones((3, 3)), jnp.ones((2, 3))

def missing():
    return {}["k"]

def leaves():
    sys.exit("no data")

def interrupted():
    raise KeyboardInterrupt
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "syntax.py").write_text("x = 1\ndef make(:\n")
    (tmp_path / "needs.py").write_text("x = 1\nimport no_such_package\n")
    (tmp_path / "old.py").write_text("import jax\njax.no_such_name\n")
    return tmp_path


@pytest.mark.bad_input
@pytest.mark.parametrize("command", ["diagnose", "fix"])
@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ("mine:missing", "jinit: mine.py:13, in missing: KeyError: 'k' (--debug shows"),
        ("mine:leaves", "jinit: mine.py:16, in leaves: SystemExit: no data (--debug shows"),
        ("syntax:make", "jinit: syntax.py:2: SyntaxError: "),
        ("needs:make", "jinit: needs.py:2: ModuleNotFoundError: No module named 'no_such_package'"),
        ("old:make", "jinit: old.py:2: AttributeError: module 'jax' has no attribute 'no_such"),
    ],
)
def test_a_models_own_error_is_shown_with_its_place(command, made, sentence, folder):
    done = call_here(command, made, cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


@pytest.mark.bad_input
@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback_before_and_after_the_command(before, folder):
    arguments = ["diagnose", "mine:make"]
    arguments.insert(0 if before else 2, "--debug")
    done = call_here(*arguments, cwd=folder)
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert "return jnp.concatenate([y, x[:, 0]])" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("jinit: mine.py:7, in apply: TypeError: Cannot concatenate arrays")


def test_an_interrupt_is_one_line(folder):
    done = call_here("diagnose", "mine:interrupted", cwd=folder)
    assert done.returncode == 130
    assert done.stderr.startswith("jinit: interrupted; nothing of this run is kept. To begin again")
    assert done.stderr.count("\n") == 1


@pytest.mark.bad_input
def test_a_mistake_of_jinits_own_is_one_sentence_too(monkeypatch):
    monkeypatch.setattr("jinit.cli.theory_report.forecast", None)
    done = call_here("theory", "tanh")
    assert done.returncode == 2
    assert "an error that jinit did not expect, at " in done.stderr
    assert "TypeError: 'NoneType' object is not callable" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.script
@pytest.mark.bad_input
@pytest.mark.parametrize("command", ["theory tanh", pytest.param("map", marks=pytest.mark.long)])
def test_a_device_that_is_not_there_is_answered_as_the_tour_does(command, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,nonsense")
    done = call(*command.split())
    assert done.returncode == 2
    assert done.stderr.startswith("jinit: jax cannot start on the device that JAX_PLATFORMS=cuda,n")
    assert "use JAX_PLATFORMS=cpu" in done.stderr
    assert done.stdout == ""
