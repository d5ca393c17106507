"""The tour at a tiny setting: what it writes, and that its pictures show what its words say."""

import io
import json
import re

import jax
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from rich.console import Console

from jinit.pages.report import Chapter
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


def taken(folder, chapters):
    """The folder of a tour, and what it printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "CHAPTERS", chapters)
        take_tour(folder / "out", TINY, console=Console(file=printed, width=120))
    return folder / "out", printed.getvalue()


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A tour of the first chapter."""
    return taken(tmp_path_factory.mktemp("tour"), run_module.CHAPTERS[:1])


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """All six, which compile for a minute: for tests that are long."""
    return taken(tmp_path_factory.mktemp("tour"), run_module.CHAPTERS)


def data(tour, slug):
    return xr.load_dataset(tour[0] / f"{slug}.nc", engine="scipy")


@pytest.mark.long
def test_writes_the_page_six_figures_and_their_data(tour):
    files = {f"{s}.{kind}" for s in SLUGS for kind in ("png", "nc")}
    assert {file.name for file in tour[0].iterdir()} == {"report.html", "tour.json"} | files
    assert not list(tour[0].parent.glob(".*")), "nothing temporary is left"
    assert (tour[0] / "report.html").read_text().count("<img") == 6
    assert re.search(r"3/6 Xavier: \d+ s gone, about \d+ s left", tour[1])


def test_the_six_chapters():
    assert run_module.names_of_chapters() == SLUGS


def test_page_is_self_contained(first):
    page = (first[0] / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{1,30})', page)
    assert sources
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    assert page.count("<img") == 1
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page


def test_prints_device_progress_and_table(first):
    assert "on cpu (" in first[1]
    assert re.search(r"1/1 Symmetry: \d+ s gone, about 0 s left", first[1])
    assert "entropy of the classes" in first[1]


def test_equal_units_stay_equal_and_act_as_one(first):
    d = data(first, "1-symmetry")
    spread = d.largest_difference_between_units
    assert float(spread.sel(start="zeros")) == 0
    assert float(spread.sel(start="equal")) < 1e-5
    assert float(spread.sel(start="xavier")) > 0.1
    # Two float32 programs of the same mathematics over 60 steps of a loss near 2.
    gap = np.abs(d.loss.sel(start="equal") - d.loss.sel(start="single unit"))
    assert float(gap.max()) < 1e-3
    assert float(d.loss.sel(start="zeros").isel(step=-1).mean()) == pytest.approx(2.3026, abs=0.05)


@pytest.mark.long
def test_gradients_fade_under_small_weights(tour):
    log_grad = data(tour, "2-random").log_grad.mean("seed")
    fading = log_grad.sel(start="0.01 randn").isel(layer=slice(0, -1))
    # Per layer 0.01 * sqrt(64) in the mean square; the scatter over two seeds is a few percent.
    assert float(fading.diff("layer").mean()) == pytest.approx(-np.log(0.08), abs=0.2)


@pytest.mark.long
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


@pytest.mark.long
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


# --- chapters that cost nothing: what is kept, and how a tour goes on -----------------------------


def cheap(slug, made, *, fails=False):
    """A chapter whose numbers come from its key; `made` lists what was run."""

    def chapter(key, setting, advance):
        made.append(slug)
        if fails:
            raise RuntimeError("planted")
        value = float(jax.random.normal(key))
        data = xr.Dataset({"value": ("place", np.asarray([value]))})
        return Chapter(
            slug, slug.title(), Figure((1, 1)), data, ["Words."], [("n", f"{value:.6f}")]
        )

    return slug, slug.title(), chapter, 0.5


@pytest.fixture
def plan(monkeypatch):
    """Set the chapters; what was run since is what it returns."""

    def chosen(**fails):
        made = []
        chapters = tuple(cheap(slug, made, fails=fail) for slug, fail in fails.items())
        monkeypatch.setattr(run_module, "CHAPTERS", chapters)
        return made

    return chosen


def take(out, **options):
    printed = io.StringIO()
    take_tour(out, TINY, console=Console(file=printed, width=60), **options)
    return printed.getvalue()


def test_a_failure_in_the_first_chapter_leaves_nothing(tmp_path, plan):
    plan(one=True)
    with pytest.raises(RuntimeError, match="planted"):
        take(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_interrupted_keeps_its_chapters_and_goes_on_to_the_same_numbers(tmp_path, plan):
    plan(one=False, two=False)
    take(tmp_path / "whole")
    out = tmp_path / "out"
    plan(one=False, two=True)
    with pytest.raises(RuntimeError, match="planted"):
        take(out)
    page = (out / "report.html").read_text()
    assert "1 of 2 chapters so far" in page
    assert page.count("<img") == 1

    made = plan(one=False, two=False)
    assert "1/2 One: kept" in take(out, resume=True)
    assert made == ["two"]
    numbers = [json.loads((tmp_path / d / "tour.json").read_text()) for d in ("whole", "out")]
    for index in numbers:
        for chapter in index["chapters"].values():
            del chapter["seconds"]
    assert numbers[0] == numbers[1]  # the fingerprints of the data and pictures included
    assert "so far" not in (out / "report.html").read_text()

    (out / "1-one.nc").write_bytes(b"cut")
    (out / "report.html").unlink()
    made = plan(one=False, two=False)
    assert "its files were changed" in take(out, resume=True)
    assert made == ["one"]
    assert (out / "report.html").exists()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": 1, "resume": True}, "which has seed 0 instead of 1; give the same options, or"),
        ({}, "add --resume to go on with the tour in it, or --overwrite"),
        ({"overwrite": True, "resume": True}, "is taken anew, overwrite=True, or gone on with"),
    ],
)
def test_another_tour_is_not_gone_on_with(options, sentence, tmp_path, plan):
    plan(one=False)
    take(tmp_path)
    with pytest.raises(OutputError, match=sentence):
        take(tmp_path, **options)


@pytest.mark.bad_input
def test_a_folder_without_a_tour_is_not_gone_on_with(tmp_path, plan):
    plan(one=False)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="holds files and no chapter of one"):
        take(tmp_path, resume=True)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]
    take(tmp_path / "new", resume=True)  # nothing is there yet: from the beginning
    assert (tmp_path / "new" / "1-one.png").exists()


def test_overwrite_keeps_other_files_and_an_earlier_tour_until_a_chapter_is_there(tmp_path, plan):
    plan(one=False, two=False)
    take(tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    before = (tmp_path / "report.html").read_text()
    plan(one=True, two=False)
    with pytest.raises(RuntimeError, match="planted"):
        take(tmp_path, overwrite=True, seed=1)
    assert (tmp_path / "report.html").read_text() == before
    plan(one=False, two=True)
    with pytest.raises(RuntimeError, match="planted"):
        take(tmp_path, overwrite=True, seed=1)
    assert not list(tmp_path.glob("2-two.*")), "of the earlier tour"
    assert "seed 1" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_map_of_the_full_and_quick_tour_has_at_least_32_seeds():
    assert min(FULL.map_seeds, QUICK.map_seeds) >= 32


def test_shares_of_the_progress_bar_add_up():
    assert sum(share for *_, share in run_module.CHAPTERS) == pytest.approx(1.0)
