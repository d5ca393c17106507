"""How the tests themselves run: what is checked, and what a minute of them is."""

import importlib
import re
import tomllib
from pathlib import Path

import jaxtyping
import pytest

import jinit
from jinit.networks.layer import RESIDUALS
from jinit.networks.norms import NORMS
from tests.selection import ALWAYS, COLLECTED, CORE, LONG, OPTIMISED

ROOT = Path(__file__).parent.parent
CHECKER = "jinit,beartype.beartype"


@pytest.fixture
def checked(pytestconfig):
    if pytestconfig.getoption("jaxtyping_packages", None) != CHECKER:
        pytest.skip("the options of pyproject.toml were replaced")


def test_the_checker_is_among_the_options_that_everybody_runs_with():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert f"--jaxtyping-packages={CHECKER}" in options["addopts"]


def test_annotations_are_checked_while_tests_run(checked):
    with pytest.raises(jaxtyping.TypeCheckError, match="gain"):
        jinit.gain("gelu", kind=3)


@pytest.mark.bad_input
def test_bad_input_meets_the_sentence_and_not_the_checker(checked):
    with pytest.raises(ValueError, match="unknown kind 3"):
        jinit.gain("gelu", kind=3)


@pytest.mark.parametrize("table", [CORE, OPTIMISED, tuple(ALWAYS)])
def test_every_test_that_is_chosen_by_name_exists(table):
    for entry in table:
        path, _, test = entry.partition("::")
        assert (ROOT / "tests" / path).exists(), path
        assert not test or f"\ndef {test}(" in (ROOT / "tests" / path).read_text(), entry


def test_every_setting_that_is_chosen_by_name_exists(request):
    """Of the files that this run collects, which are all of them in `.ci/run`."""
    found = request.config.stash[COLLECTED]
    files = {test.partition("::")[0] for test in found}
    chosen = [f"{entry}[{setting}]" for entry, some in ALWAYS.items() for setting in some]
    names = {test.partition("[")[0] for test in found}
    for test in (*chosen, *LONG):
        if test.partition("::")[0] in files:
            assert test in found or test in names, test


@pytest.mark.parametrize("test", [
    "networks/test_correlations.py::test_they_are_what_the_definition_says",
    "networks/test_layer.py::test_every_layer_back_is_the_derivative_of_every_layer_forward",
    "networks/test_signals.py::test_signals_are_those_of_plain_autodiff",
])  # fmt: skip
def test_what_always_runs_of_the_layers_has_every_norm_and_residual_kind(test):
    settings = [setting.split("-")[:3] for setting in ALWAYS[test]]
    norms, residuals, _ = map(set, zip(*settings, strict=True))
    assert (norms, residuals) == (set(map(str, NORMS)), set(map(str, RESIDUALS)))
    assert {train for norm, _, train in settings if norm == "batch"} == {"True", "False"}


def test_the_version_is_one():
    version = jinit.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == version


@pytest.mark.parametrize("module", ["", ".models", ".theory", ".plots", ".sweeps", ".tour"])
def test_every_renamed_name_stands_in_the_changelog(module):
    text = (ROOT / "CHANGELOG.md").read_text()
    package = importlib.import_module(f"jinit{module}")
    for old in getattr(package, "_RENAMED", ()):
        assert f"| `jinit{module}.{old}` |" in text


def test_the_license_is_the_one_that_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )
    assert "license: Apache-2.0" in (ROOT / "CITATION.cff").read_text()


def test_every_protocol_can_be_asked_at_run_time():
    """The checker cannot import jinit otherwise."""
    for path in (ROOT / "jinit").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^class (\w+)\(Protocol", text, re.MULTILINE):
            assert f"@runtime_checkable\nclass {name}(" in text, path
