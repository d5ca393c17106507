"""The harness of experiments: comparison, estimates, files, options, one script or all of them."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from harness import checks as lab
from harness.checks import Estimate, average, errors_allowed, extrapolate
from harness.experiment import Experiment, staged, write_data
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]


def check(expected, measured, tolerance=0.01, source="paper"):
    return lab.Check("a group", "a number", expected, measured, tolerance, source)


# --- the comparison ---------------------------------------------------------------------------


def test_numbers_within_tolerance_pass(capsys):
    assert lab.verdict([check(1.0, 1.009), check(1.0, 0.991)]) == 0
    assert "2 of 2 numbers met: 2 of 2 printed by the source." in capsys.readouterr().out


@pytest.mark.parametrize("measured", [1.011, 0.989, math.nan, math.inf])
def test_one_missed_number_fails_and_is_named(measured, capsys):
    assert lab.verdict([check(1.0, 1.0), check(1.0, measured)]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "Missed: a group, a number: expected 1," in printed
    assert "1 of 2 numbers met: 1 of 2 printed by the source." in printed


def test_every_source_is_counted_by_itself(capsys):
    checks = [check(1.0, 1.0, source=source) for source in lab.SOURCES]
    lab.verdict([*checks, check(1.0, 2.0, source="theory")])
    printed = " ".join(capsys.readouterr().out.split())
    for source, words in lab.SOURCES.items():
        assert f"1 of {2 if source == 'theory' else 1} {words}" in printed
    with pytest.raises(ValueError, match="nowhere"):
        lab.verdict([check(1.0, 1.0, source="nowhere")])


def test_what_a_setting_cannot_check_is_said(capsys):
    lab.verdict([check(1.0, 1.0)], left_out="the accuracy after 15000 steps")
    assert "Not checked at this setting: the accuracy after 15000 steps." in (
        capsys.readouterr().out
    )


def test_a_verdict_without_checks_is_an_error():
    with pytest.raises(ValueError, match="at least one check"):
        lab.verdict([])


@pytest.mark.parametrize(
    ("printed", "expected"), [("0.213546", 5e-7), ("2.97728e-7", 5e-13), ("0.294390", 5e-7)]
)
def test_half_unit_of_the_last_digit(printed, expected):
    assert lab.half_unit(printed) == pytest.approx(expected, rel=1e-12)
    one = lab.printed("a group", "a number", printed, float(printed) + 0.9 * expected)
    assert one.ok
    assert not one._replace(measured=float(printed) + 1.1 * expected).ok


def test_what_is_printed_without_a_point_is_exact():
    assert lab.printed("a group", "c*", "1", 1 - 1e-9).ok
    assert not lab.printed("a group", "c*", "1", 1 - 1e-7).ok


def test_arrays_are_compared_entry_by_entry():
    coords = {"net": ["a", "b"], "layer": [1, 2, 3]}
    found = xr.DataArray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], coords, ("net", "layer"))
    checks = lab.compare("net {net}", "layer {layer}", [[1, 2, 3], [4, 5, 7]], found, "theory", 0.5)
    assert [(c.group, c.what) for c in checks[2:4]] == [("net a", "layer 3"), ("net b", "layer 1")]
    assert [c.measured for c in checks] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert [c.ok for c in checks] == [True] * 5 + [False]
    # The order is that of what is expected; an Estimate brings its tolerance.
    estimate = Estimate(found, 0 * found + 0.1, 10)
    turned = lab.compare("", "{net}{layer}", found.T, estimate, "theory")
    assert [c.what for c in turned] == ["a1", "b1", "a2", "b2", "a3", "b3"]
    assert turned[0].tolerance == pytest.approx(0.1 * errors_allowed(10))
    (one,) = lab.compare("g", "w", 1.0, found.max(), "claim", 0.0)
    assert one == lab.Check("g", "w", 1.0, 6.0, 0.0, "claim")


def test_a_claim_holds_or_misses():
    assert lab.claim("g", "w", np.bool_(True)) == lab.Check("g", "w", 1.0, 1.0, 0.0, "claim")
    assert lab.claim("g", "w", xr.DataArray(1.0)).ok
    for share in (0.99, False, math.nan):
        assert not lab.claim("g", "w", share).ok


def test_what_is_no_number_is_not_left_out():
    found = xr.DataArray([1.0, math.nan], dims="layer")
    checks = lab.compare("g", "w", 1.0, found, "theory", 0.5)
    assert [c.ok for c in checks] == [True, False]
    assert not any(c.ok for c in lab.compare("g", "w", math.nan, found, "theory", 0.5))


def test_arrays_of_other_places_are_refused():
    one, other = (xr.DataArray([1.0, 2.0], {"layer": at}, "layer") for at in ([1, 2], [2, 3]))
    with pytest.raises(ValueError, match="layer"):
        lab.compare("g", "w", one, other, "theory", 0.5)


# --- estimates --------------------------------------------------------------------------------


def test_few_seeds_are_allowed_more_standard_errors():
    assert errors_allowed(10) == pytest.approx(12.42, abs=0.01)
    assert errors_allowed(10**6) == pytest.approx(5, abs=1e-3)
    assert Estimate(1.0, 0.1).tolerance == pytest.approx(0.5)
    found = average(xr.DataArray([1.0, 2.0, 3.0], dims="seed"))
    assert found.mean == 2
    assert found.error == pytest.approx(1 / math.sqrt(3))
    assert found.tolerance == pytest.approx(errors_allowed(3) / math.sqrt(3))


def test_a_seed_that_is_no_number_is_not_left_out():
    assert np.isnan(average(xr.DataArray([1.0, math.nan, 3.0], dims="seed")).mean)


@pytest.mark.parametrize("ratio", [2.0, 4.0])
def test_extrapolation_leaves_out_what_goes_as_one_over_width(ratio):
    def at(width, error):
        return Estimate(np.array(7 + 30 / width), np.array(error), 50)

    found = extrapolate(at(100, 0.0), at(100 * ratio, 0.1), ratio=ratio)
    assert found.mean == pytest.approx(7, rel=1e-12)
    assert found.error == pytest.approx(0.1 * ratio / (ratio - 1))
    assert found.seeds == 50


# --- a run ------------------------------------------------------------------------------------


def experiment(**changes):
    def measure(value=1.0):
        return xr.Dataset({"x": (("net", "layer"), [[value, 2.0], [3.0, np.nan]])},
                          {"net": ["a", "b"]})  # fmt: skip

    def checks(data):
        return lab.compare("x", "{net}", 1.0, data.x[0, 0], "formula", 0.1)

    given = {
        "measure": measure, "checks": checks, "figure": lambda data: Figure(),
        "quick": {"value": 1.05}, "lacks": "much",
    }  # fmt: skip
    return Experiment("/somewhere/small.py", "What it does.\n\nMore.", **given | changes)


@pytest.fixture
def run(tmp_path, monkeypatch):
    # A run configures jax for itself, which tests share.
    monkeypatch.setattr("jinit.configure", lambda **options: None)
    monkeypatch.chdir(tmp_path)

    def run(*options, **changes):
        return experiment(**changes).main([str(option) for option in options])

    return run


def test_a_run_writes_table_data_and_figure(run, tmp_path, capsys):
    assert run() == 0
    out = tmp_path / "results" / "small"
    assert sorted(path.name for path in out.iterdir()) == [
        "data.nc", "net_layer.csv", "published_measured.csv", "small.png",
    ]  # fmt: skip
    assert (out / "net_layer.csv").read_text() == "net,layer,x\na,0,1\na,1,2\nb,0,3\n"
    assert (out / "published_measured.csv").read_text().splitlines() == [
        "group,what,expected,measured,tolerance,source,ok", "x,a,1,1,0.1,formula,yes",
    ]  # fmt: skip
    data = xr.load_dataset(out / "data.nc", engine="scipy")
    assert data.attrs["experiment"] == "small"
    assert data.attrs["setting"] == "full"
    np.testing.assert_array_equal(data.x, [[1.0, 2.0], [3.0, np.nan]])
    assert "1 of 1 numbers met" in capsys.readouterr().out


def test_the_small_setting_says_what_it_lacks(run, capsys):
    assert run("--quick", notes=lambda data: [f"it is {data.attrs['setting']}"]) == 0
    printed = capsys.readouterr().out
    assert "Not checked at this setting: much." in printed
    assert "it is quick" in printed


def test_a_missed_number_is_the_exit_status(run, tmp_path):
    assert run("--quick", quick={"value": 1.2}) == 1
    assert (tmp_path / "results" / "small" / "published_measured.csv").read_text().endswith("no\n")


def test_files_are_complete_or_not_there(run, tmp_path):
    def broken(data):
        raise RuntimeError("no picture")

    with pytest.raises(RuntimeError, match="no picture"):
        run(figure=broken)
    assert list((tmp_path / "results" / "small").iterdir()) == []

    def full():
        with staged(tmp_path) as folder:
            (folder / "half.csv").write_text("1")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        full()
    assert not list(tmp_path.glob("*.csv"))
    assert not list(tmp_path.glob(".unfinished*"))


def test_a_missing_framework_is_named(run, capsys):
    assert run(needs=("jax", "no_such_framework")) == 2
    assert "small needs no_such_framework: install" in capsys.readouterr().err


def test_variables_of_other_dimensions_have_tables_of_their_own(tmp_path):
    data = xr.Dataset(
        {"a": ("seed", [1.0, 2.0]), "b": ("seed", [0.1, 1 / 3]),
         "c": (("seed", "layer"), [[1], [2]])},
        {"kind": ("seed", ["x", "y"])},
    )  # fmt: skip
    write_data(tmp_path, data)
    assert (tmp_path / "seed.csv").read_text().splitlines()[-1] == "1,2,0.333333333,y"
    assert (tmp_path / "seed_layer.csv").exists()


# --- where results go -------------------------------------------------------------------------


def refused(run, capsys, *options):
    with pytest.raises(SystemExit) as exit_:
        run(*options)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_a_new_or_empty_directory_is_taken(run, tmp_path):
    assert run("--out", tmp_path / "a" / "b") == 0
    (tmp_path / "c").mkdir()
    assert run("--out", tmp_path / "c") == 0


def test_a_directory_with_files_needs_overwrite(run, tmp_path, capsys):
    out = tmp_path / "held"
    out.mkdir()
    (out / "old.csv").write_text("x")
    message = refused(run, capsys, "--out", out)
    assert f"got '{out}', which holds 1 file (old.csv)" in message
    assert "--overwrite" in message
    assert run("--out", out, "--overwrite") == 0
    assert (out / "old.csv").exists()


def test_an_out_that_is_no_directory_is_refused(run, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("x")
    for out in (file, file / "below"):
        message = refused(run, capsys, "--out", out)
        assert f"--out must be a directory that can be written, got '{out}'" in message
        assert message.count("\n") == 1


def test_unknown_options_are_refused(run, tmp_path, capsys):
    message = refused(run, capsys, "--out", tmp_path / "new", "--quik")
    assert message.startswith("unrecognized arguments: --quik; allowed are --out DIR, --quick")
    assert message.count("\n") == 1


# --- all of them ------------------------------------------------------------------------------


@pytest.mark.script
def test_experiments_are_run_by_name():
    def run(*options):
        return subprocess.run([sys.executable, "-m", "experiments", *options], cwd=ROOT,
                              capture_output=True, text=True, check=False)  # fmt: skip

    listed = run("--list")
    assert listed.returncode == 0
    assert len(listed.stdout.splitlines()) == len(list((ROOT / "experiments").glob("[a-z]*.py")))
    assert "cs231n_activations: The activation statistics of CS231n" in listed.stdout
    unknown = run("cs231")
    assert unknown.returncode == 2
    assert "got 'cs231'; there are audit_frameworks, cs231n_activations," in unknown.stderr
    helped = run("cs231n_activations", "--help")
    assert helped.returncode == 0
    assert "without 12 of 20 seeds" in helped.stdout


# --- a new one ------------------------------------------------------------------------------------

SCRIPT = '''"""Halves: two of them make a whole."""

import xarray as xr
from harness.checks import Check
from harness.experiment import Experiment
from harness.figures import Figure, label, panels


def measure(halves: int = 2) -> xr.Dataset:
    return xr.Dataset({"sum": ("half", [0.5] * halves)})


def checks(data: xr.Dataset) -> list[Check]:
    return [Check("halves", "sum", 1, float(data["sum"].sum()), 1e-9, "theory")]


def figure(data: xr.Dataset) -> Figure:
    fig, (axes,) = panels("Halves", "no note", (9, 6), columns=1)
    axes.plot(data["sum"])
    label(axes, "Halves", "half", "size")
    return fig


EXPERIMENT = Experiment(__file__, __doc__, measure, checks, figure, quick={}, lacks="")
EXPERIMENT.run(__name__)
'''


@pytest.mark.script
def test_an_experiment_is_one_script(tmp_path):
    """Beside the harness and nothing else: listed and run."""
    here = tmp_path / "experiments"
    shutil.copytree(ROOT / "experiments" / "harness", here / "harness")
    shutil.copy(ROOT / "experiments" / "__main__.py", here)
    (here / "halves.py").write_text(SCRIPT)

    def run(*arguments):
        command = [sys.executable, "-m", "experiments", *arguments]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    assert run("--list").stdout == "halves: Halves: two of them make a whole.\n"
    met = run("halves", "--out", "met")
    assert met.returncode == 0, met.stderr
    assert "1 of 1 numbers met" in met.stdout
    written = {path.name for path in (tmp_path / "met").iterdir()}
    assert {"halves.png", "published_measured.csv", "data.nc"} <= written
