"""The tour at a tiny setting: what it writes, and that its pictures show what its words say."""

import io
import re

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from jinit.tour import FULL, QUICK, OutputError, Setting, take_tour
from jinit.tour import run as run_module

TINY = Setting(
    name="tiny",
    seeds=2,
    steps=30,
    hidden=4,
    histogram_seeds=2,
    histogram_inputs=100,
    map_gains=13,
    map_depths=(2, 8),
    map_seeds=4,
)
SLUGS = ["1-symmetry", "2-random", "3-xavier", "4-he", "5-batch-norm", "6-map"]


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The folder of one tour, and what it printed."""
    out = tmp_path_factory.mktemp("tour") / "out"
    printed = io.StringIO()
    take_tour(out, TINY, console=Console(file=printed, width=120))
    return out, printed.getvalue()


def data(tour, slug):
    return xr.load_dataset(tour[0] / f"{slug}.nc", engine="scipy")


def test_writes_the_page_six_figures_and_their_data(tour):
    expected = {"report.html"} | {f"{s}.{kind}" for s in SLUGS for kind in ("png", "nc")}
    assert {file.name for file in tour[0].iterdir()} == expected
    assert not list(tour[0].parent.glob(".out-*")), "the temporary folder is gone"


def test_page_is_self_contained(tour):
    page = (tour[0] / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{1,30})', page)
    assert sources
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    assert page.count("<img") == 6
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page


def test_prints_device_progress_and_table(tour):
    assert "on cpu (" in tour[1]
    assert re.search(r"3/6 Xavier: \d+ s gone, about \d+ s left", tour[1])
    assert "entropy of the classes" in tour[1]


def test_equal_units_stay_equal_and_act_as_one(tour):
    d = data(tour, "1-symmetry")
    spread = d.largest_difference_between_units
    assert float(spread.sel(start="zeros")) == 0
    assert float(spread.sel(start="equal")) < 1e-5
    assert float(spread.sel(start="xavier")) > 0.1
    # Two float32 programs of the same mathematics over 60 steps of a loss near 2.
    gap = np.abs(d.loss.sel(start="equal") - d.loss.sel(start="single unit"))
    assert float(gap.max()) < 1e-3
    assert float(d.loss.sel(start="zeros").isel(step=-1).mean()) == pytest.approx(2.3026, abs=0.05)


def test_gradients_fade_under_small_weights(tour):
    log_grad = data(tour, "2-random").log_grad.mean("seed")
    fading = log_grad.sel(start="0.01 randn").isel(layer=slice(0, -1))
    # Per layer 0.01 * sqrt(64) in the mean square; the scatter over two seeds is a few percent.
    assert float(fading.diff("layer").mean()) == pytest.approx(-np.log(0.08), abs=0.2)


def test_relu_line_of_the_map_is_he(tour):
    ratio = data(tour, "6-map").log_gradient_ratio.median("seed")
    relu = ratio.sel(activation="relu").isel(depth=-1)
    gain = np.log(ratio.gain.values)
    crossing = np.exp(np.interp(0.0, relu.values, gain))
    assert crossing == pytest.approx(np.sqrt(2), rel=0.1)
    predicted = data(tour, "6-map").gain_of_ratio_one_infinite_width
    np.testing.assert_allclose(predicted.sel(activation="relu"), np.sqrt(2), rtol=1e-3)
    assert np.all(predicted.sel(activation="tanh") > 1)
    far = 5 * np.log(10)
    assert float(relu.isel(gain=0)) < -far < far < float(relu.isel(gain=-1))
    assert np.isfinite(ratio.values).all()


def test_batch_norm_mends_the_signal(tour):
    std = data(tour, "5-batch-norm").act_std.isel(hidden_layer=-1)
    assert float(std.sel(norm="none")) < 1e-7
    assert float(std.sel(norm="batch")) == pytest.approx(np.sqrt(0.5 - 0.5 / np.pi), rel=0.05)


def test_refuses_a_folder_in_use_and_leaves_it(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match=r"new or empty folder, got .*; choose another, or add"):
        take_tour(tmp_path, TINY, console=Console(file=io.StringIO()))
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_refuses_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(OutputError, match=r"must be a folder, got the file"):
        take_tour(file, TINY, console=Console(file=io.StringIO()))
    assert file.read_text() == "kept"


def test_refuses_an_impossible_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"can be written, got .*; choose another"):
        take_tour(tmp_path / "file" / "out", TINY, console=Console(file=io.StringIO()))


def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    def broken(key, setting, advance):
        raise RuntimeError("planted")

    monkeypatch.setattr(run_module, "CHAPTERS", (("Broken", broken, 1.0),))
    with pytest.raises(RuntimeError, match="planted"):
        take_tour(tmp_path / "out", TINY, console=Console(file=io.StringIO()))
    assert not list(tmp_path.iterdir())


def test_overwrite_keeps_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "CHAPTERS", ())
    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / "report.html").write_text("old")
    take_tour(tmp_path, TINY, overwrite=True, console=Console(file=io.StringIO()))
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert "old" not in (tmp_path / "report.html").read_text()


def test_map_of_the_full_and_quick_tour_has_at_least_32_seeds():
    assert min(FULL.map_seeds, QUICK.map_seeds) >= 32


def test_shares_of_the_progress_bar_add_up():
    assert sum(share for *_, share in run_module.CHAPTERS) == pytest.approx(1.0)
