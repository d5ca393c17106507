"""The built-in map, from Python and from the shell."""

import math
import re
import signal
import subprocess
import time

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jinit
from jinit import trainability
from tests.shell import call, call_here, command

GRID = {"schemes": ["xavier", "he"], "depths": [8], "gains": np.geomspace(0.5, 4.0, 13)}


def test_relu_hands_the_gradient_back_where_he_says():
    """At gain 1 for He and sqrt(2) for Xavier, within the scatter of 8 seeds of width 64."""
    ds = jinit.map_trainability("relu", **GRID, seeds=8, progress=False)
    found = trainability.crossings(ds)
    # ln(ratio) grows by depth * ln(gain), and scatters by sqrt(5 depth / width) / 2.
    for depth in GRID["depths"]:
        off = 4 * np.sqrt(5 * depth / 64) / 2 / (depth - 1) / np.sqrt(8)
        assert float(found.sel(scheme="he", depth=depth)) == pytest.approx(1, rel=off)
        assert float(found.sel(scheme="xavier", depth=depth)) == pytest.approx(2**0.5, rel=off)
    # The same keys stretched by sqrt(2): He is Xavier with a gain.
    assert trainability.table(ds).row_count == 2


def test_training_is_recorded_beside_the_gradient():
    ds = jinit.map_trainability(
        "relu", schemes=["he"], depths=[2], gains=[0.01, 1.0], learning_rates=[0.1], seeds=2,
        steps=60, width=32, progress=False,
    )  # fmt: skip
    assert set(ds) == {"log_gradient_ratio", "loss", "accuracy"}
    accuracy = ds.accuracy.squeeze(["scheme", "depth", "learning_rate"]).mean("seed")
    assert float(accuracy.sel(gain=1.0)) > 0.7 > 0.4 > float(accuracy.sel(gain=0.01))


def shrink(x):
    """An activation of one's own; e^-4 from the first of five layers to the last."""
    return x / jnp.e


def regression():
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    return jinit.data.from_arrays(x, x[:, :3])


@pytest.mark.parametrize("data", [*trainability.DATA, regression])
def test_the_ratio_is_a_natural_logarithm_on_any_data(data, tmp_path):
    """Orthogonal layers keep every length, so that a slope of 1/e takes one e-fold a layer."""
    made = data() if callable(data) else data
    store = tmp_path / "map.zarr"
    ds = jinit.map_trainability(
        shrink, schemes=["orthogonal"], depths=[5], gains=[1.0, math.e], seeds=2, width=16,
        batch=16, data=made, store=store, progress=False,
    )  # fmt: skip
    expected = np.broadcast_to([[-4.0], [0.0]], (1, 1, 2, 2))
    np.testing.assert_allclose(ds.log_gradient_ratio, expected, atol=1e-4)
    assert ds.log_gradient_ratio.attrs["units"].startswith("natural logarithm")
    assert jinit.load(store).equals(ds)
    trainability.export(jinit.load(store), tmp_path / "map.nc", csv=False)
    with xr.open_dataset(tmp_path / "map.nc", engine="scipy") as read:
        assert read.log_gradient_ratio.attrs == ds.log_gradient_ratio.attrs


@pytest.mark.bad_input
def test_maps_that_cannot_be_made():
    make = jinit.map_trainability
    with pytest.raises(ValueError, match="which 'zeros' does not take; choose among xavier, he"):
        make(schemes=["zeros"])
    with pytest.raises(ValueError, match=r"every depth \(of hidden layers\) must be an integer of"):
        make(depths=[1])
    with pytest.raises(ValueError, match="unknown data 'mnist'"):
        make(data="mnist")
    with pytest.raises(ValueError, match="batch must lie between 2 and 1437, got 5000"):
        make(batch=5000)
    with pytest.raises(ValueError, match="steps must be an integer of at least 0, got -1"):
        make(steps=-1)
    with pytest.raises(ValueError, match="unknown activation 'tahn'; did you mean 'tanh'"):
        make("tahn")
    with pytest.raises(TypeError, match="a Sweep holds its axes and seeds already, got traced="):
        jinit.sweep(jinit.Sweep(lambda key: {"ratio": 0.0}), traced={"gain": [1.0]})


@pytest.mark.bad_input
@pytest.mark.parametrize("wrong", [-0.1, 0.0, math.nan, math.inf, 1e-60, "0.1"])
@pytest.mark.parametrize("name", ["learning_rate", "gain"])
def test_rates_and_gains_are_positive_numbers(name, wrong):
    with pytest.raises(ValueError, match=f"every {name} must be a finite number above 0, got "):
        jinit.map_trainability(**{f"{name}s": [0.5, wrong]}, steps=2)


def test_sizes_of_the_built_in_data_are_those_of_the_data():
    for name, sizes in trainability.DATA.items():
        data = getattr(jinit.data, name)()
        assert sizes == (data.x_train.shape[1], int(data.y_train.max()) + 1, len(data.x_train))


def test_what_trained_is_told_with_its_boundary():
    """Of three seeds at four gains, 0, 2, 3 and (one diverged, one left out) 1 train."""
    accuracy = [[0.1, 0.2, 0.5], [0.9, 0.2, 0.8], [0.9, 0.9, 0.97], [0.6, np.nan, np.nan]]
    ratio = [[0.0] * 3] * 3 + [[0.0, 0.0, np.nan]]
    dims = ("scheme", "depth", "learning_rate", "gain", "seed")
    whole = {n: (dims, np.asarray(a)[None, None, None]) for n, a in (
        ("accuracy", accuracy), ("log_gradient_ratio", ratio))}  # fmt: skip
    axes = {"scheme": ["he"], "depth": [5], "learning_rate": [0.1], "gain": [0.1, 0.5, 1.0, 4.0]}
    table = trainability.training_table(xr.Dataset(whole, axes), 0.55)
    row = [next(iter(column.cells)) for column in table.columns]
    assert row == ["he", "5", "0.1", "6 of 11", "0.97", "0.5 to 4"]
    none = trainability.training_table(xr.Dataset(whole, axes), 0.99)
    assert [next(iter(column.cells)) for column in none.columns][3:] == ["0 of 11", "0.97", "none"]


def test_an_accuracy_half_way_from_chance_has_trained():
    setting = trainability.Setting("tanh", 8, None, 0.0, "moons", 8, 1)
    assert trainability.passing(setting) == pytest.approx(0.75, abs=0.01)  # two classes alike


def test_what_a_map_costs_is_counted():
    setting = trainability.Setting("tanh", 64, None, 0.0, "digits", 64, 10)
    grid = (["xavier", "he"], [2, 5, 9], [0.5, 1.0], [0.1], 8)
    cost = trainability.cost(trainability.plan(setting, *grid), setting)
    assert cost[:4] == (12, 96, 9, 96 * 3 * 4)  # 6 drawn, 3 trained; three float32 each
    more = setting._replace(steps=100_000)
    longer = trainability.cost(trainability.plan(more, *grid), more, shards=2)
    assert longer.networks == 48
    assert longer.seconds > 20 * cost.seconds


# --- from the shell -----------------------------------------------------------------------------

SMALL = (
    "--scheme",
    "he",
    "--depth",
    "2",
    "--depth",
    "3",
    "--gain",
    "0.5",
    "2",
    "5",
    "--seeds",
    "2",
)


@pytest.fixture
def started(monkeypatch):
    """`map` asks for a device per core, for which it is too late in this process."""
    monkeypatch.setattr(jinit, "configure", lambda: None)


@pytest.mark.long
@pytest.mark.script
def test_a_map_that_is_killed_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # its numbers are not asked
    grid = (*SMALL, "--depth", "4")  # the second of three programs compiles when the kill comes
    begun = subprocess.Popen(
        command("map", *grid, "--store", "map.zarr"), cwd=tmp_path, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    give_up = time.monotonic() + 400  # a busy machine is no failure
    while not list(tmp_path.glob("map.zarr/done/c/0")) and time.monotonic() < give_up:
        time.sleep(0.02)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    unfinished = call_here("status", "map.zarr", cwd=tmp_path)
    assert unfinished.returncode == 0, unfinished.stderr
    # A block is a multiple of the devices: 10 networks, or 12 on two, or 16 on sixteen.
    assert re.search(r"1 of 3 blocks of 1\d networks are done\.", unfinished.stdout)
    assert "Run the same sweep again to go on." in unfinished.stdout
    refused = call_here("export", "map.zarr", "--csv", "map.csv", cwd=tmp_path)
    assert refused.returncode == 2
    assert "holds 1 of 3 blocks" in refused.stderr

    done = call("map", *grid, "--store", "map.zarr", "--plot", "map.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 of 30 networks (10 resumed)" in done.stderr
    assert "2 layers" in done.stdout
    assert (tmp_path / "map.png").stat().st_size > 5_000
    status = call_here("status", "map.zarr", cwd=tmp_path)
    assert "3 of 3 blocks" in status.stdout
    assert "scheme (1) x depth (3) x gain (5) x seed (2)" in status.stdout


def test_shards_of_a_map_share_a_store_that_is_read_in_every_form(tmp_path, started):
    one, two = (
        call_here("map", *SMALL, "--store", "map.zarr", "--shard", f"{i}/2", cwd=tmp_path)
        for i in range(2)
    )
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    ds = jinit.load(tmp_path / "map.zarr")
    assert np.isfinite(ds.log_gradient_ratio).all()
    status = call_here("status", "map.zarr", cwd=tmp_path)
    assert "scheme (1) x depth (2) x gain (5) x seed (2)" in status.stdout

    for option, file in (("--csv", "map.csv"), ("--nc", "map.nc")):
        assert call_here("export", "map.zarr", option, file, cwd=tmp_path).returncode == 0
    assert len((tmp_path / "map.csv").read_text().splitlines()) == 21
    with xr.open_dataset(tmp_path / "map.nc", engine="scipy") as read:
        np.testing.assert_array_equal(read.log_gradient_ratio, ds.log_gradient_ratio)
    assert call_here("plot", "map.zarr", "again.svg", cwd=tmp_path).returncode == 0
    assert "<svg" in (tmp_path / "again.svg").read_text()[:1000]
    again = call_here("plot", "map.zarr", "again.svg", cwd=tmp_path)
    assert again.returncode == 2
    assert "add --overwrite" in again.stderr


def test_a_dry_run_makes_nothing(tmp_path, started):
    done = call_here("map", *SMALL, "--store", "map.zarr", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10 points, 20 networks, 4 programs to compile" in done.stdout
    assert re.search(r": about \d+ s on this machine\.", done.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.bad_input
@pytest.mark.parametrize(("arguments", "words"), [
    (("map", "--shard", "3"), "--shard must be i/n, such as 0/4, the i-th of n parts"),
    (("map", "--gain", "2", "1", "5"), "--gain must be a lowest above 0"),
    (("map", "--activation", "tahn"), "did you mean 'tanh'"),
    (("status", "nothing.zarr"), "does not exist"),
    (("plot", "nothing.zarr", "x.txt"), "the picture must end in .png, .svg or .pdf"),
    (("export", "nothing.zarr"), "export needs one of --csv FILE and --nc FILE"),
])  # fmt: skip
def test_mistakes_are_one_sentence(tmp_path, started, arguments, words):
    done = call_here(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
