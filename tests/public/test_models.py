"""Models of public packages, drawn as their packages draw them: `nox -s models`.

Left out unless asked for (`pytest -m public`): the packages are not among jinit's own, and building
and compiling all of them takes minutes.
"""

import importlib.metadata

import pytest

from tests.public.entries import ENTRIES
from tests.public.trial import trial

pytestmark = [pytest.mark.public, pytest.mark.filterwarnings("ignore")]  # warnings are theirs
EVERY = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id, scope="module")


@pytest.fixture
def tried(entry):
    try:
        importlib.metadata.version(entry.package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{entry.package} is not installed: nox -s models")
    return trial(entry)


def test_there_are_forty_models_of_ten_packages():
    assert len({e.id for e in ENTRIES}) == len(ENTRIES) >= 40
    assert len({e.package for e in ENTRIES}) >= 10


@EVERY
def test_roles_and_fans_are_those_of_the_mathematics(entry, tried):
    rows = {row.path: row for row in tried.audit.rows}
    got = {
        path: (rows[path].role, rows[path].fan_in, rows[path].fan_out, rows[path].groups)
        for path in entry.expected
    }
    assert got == {
        path: (what.role, what.fan_in, what.fan_out, what.groups)
        for path, what in entry.expected.items()
    }


@EVERY
def test_no_leaf_is_lost_without_a_reason(entry, tried):
    lost = [row.path for row in tried.audit.rows if row.role in ("other", "unused")]
    assert bool(lost) == bool(entry.unused), lost


@EVERY
def test_what_is_said_of_the_model_as_it_is_drawn_is_true(entry, tried):
    found = {finding.kind for finding in tried.diagnosis.findings}
    assert found == set(entry.says), tried.diagnosis
    assert not entry.says or entry.why


@EVERY
def test_a_planted_fault_is_named(entry, tried):
    assert tried.named, entry.planted
