"""A store that grows: nothing is computed again, and the bits are those of one made whole."""

import math
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from swept import NOISY, noisy

import jinit
from jinit.sweeps import StoreError
from jinit.sweeps.blocks import Runner
from jinit.sweeps.compile import Output
from jinit.sweeps.extent import Extent, Grid
from jinit.sweeps.zarr_store import ZarrStore

HERE = Path(__file__).parent
BEGUN = {"static": {"size": [3, 5]}, "traced": {"gain": [1.0, 2.0], "shift": [0.0]}, "seeds": 4}
# A value in between, axes in another order, seeds among which the old ones are scattered.
GROWN = BEGUN | {"traced": {"shift": [0.0], "gain": [2.0, 0.5, 1.0]}, "seeds": [5, 0, 1, 2, 3]}


def run(store, grid, **options):
    more = {"block": 8, "dims": NOISY["dims"]} | options
    return jinit.sweep(noisy, **grid, store=store, progress=False, **more)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    store = tmp_path_factory.mktemp("stores") / "begun.zarr"
    return store, run(store, BEGUN)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("stores") / "whole.zarr", GROWN)


@pytest.fixture
def copy(begun, tmp_path):
    return Path(shutil.copytree(begun[0], tmp_path / "copy.zarr"))


@pytest.fixture
def computed(monkeypatch):
    """How many rows each call of a block computes."""
    seen = []
    real = Runner.run

    def counted(self, block, *rest):
        seen.append(block.rows)
        return real(self, block, *rest)

    monkeypatch.setattr(Runner, "run", counted)
    return seen


def test_a_grown_store_is_one_that_was_made_whole_and_computes_what_is_new(
    copy, begun, whole, computed
):
    assert run(copy, GROWN).identical(whole)
    assert sum(computed) == 2 * (3 * 5 - 2 * 4)
    assert jinit.load(copy).identical(whole)
    assert ZarrStore(copy, write=False).made_for["traced"] == {
        "gain": [2.0, 0.5, 1.0], "shift": [0.0]
    }  # fmt: skip
    del computed[:]
    assert run(copy, GROWN).identical(whole)
    assert run(copy, BEGUN).identical(begun[1])  # a selection
    assert computed == []
    group = zarr.open_group(copy, mode="r")  # any reader of zarr sees all of it
    assert {group[name].shape[0] for name in whole} == {8 * group["done"].shape[0]}
    assert np.asarray(group["done"][:]).all()
    assert {float(x) for x in whole["mean"].values.ravel()} <= {
        float(x) for x in np.asarray(group["mean"][:])
    }


def test_shards_grow_one_store_and_one_of_them_alone_leaves_the_old(copy, begun, whole, computed):
    part = run(copy, GROWN, shard=(1, 2))
    assert np.isnan(part["mean"]).any()
    assert run(copy, BEGUN).identical(begun[1])
    with pytest.raises(StoreError, match="run the same sweep again to finish it"):
        jinit.load(copy)
    assert np.isnan(jinit.load(copy, partial=True)["mean"]).any()
    assert run(copy, GROWN, shard=(0, 2)).identical(whole)
    assert sum(computed) == 2 * (3 * 5 - 2 * 4)


def test_a_store_that_grew_to_no_whole_grid_says_so(copy, computed):
    run(copy, BEGUN | {"seeds": [9]})
    run(copy, BEGUN | {"traced": {"gain": [4.0], "shift": [0.0]}})
    assert sum(computed) == 2 * (2 + 4)
    with pytest.raises(StoreError, match=r"28 of the 30 .* gain \(3\) x shift \(1\) x seed \(5\)"):
        jinit.load(copy)
    part = jinit.load(copy, partial=True)
    assert part["gain"].values.tolist() == [1.0, 2.0, 4.0]
    assert np.isnan(part["mean"].sel(gain=4.0, seed=9)).all()
    assert int(np.isnan(part["mean"]).sum()) == 2


def test_two_that_grow_at_once_both_have_theirs(copy):
    one, two = ZarrStore(copy, write=True), ZarrStore(copy, write=True)
    mine, other = (
        Grid({"gain": [3.0], "shift": [0.0]}, [0]),
        Grid({"gain": [2.5], "shift": [0]}, [0]),
    )
    one.grow(mine)
    two.grow(other)  # somebody was first: this is what it has grown by
    assert two.extent.grids == one.extent.grids
    assert (two.extent.runs_of(other) == -1).all()
    two.grow(other)
    later = ZarrStore(copy, write=False)
    assert later.extent.grids[1:] == (mine, other)
    assert (later.extent.runs_of(mine) == one.extent.runs_of(mine)).all()
    assert not [p for p in copy.parent.iterdir() if p != copy]


def test_float32_decides_what_is_the_same_value(copy, begun, computed):
    near = BEGUN["traced"] | {"gain": [1.0 + 1e-12, 2.0]}
    found = run(copy, BEGUN | {"traced": near})
    assert computed == []
    np.testing.assert_array_equal(found["mean"], begun[1]["mean"])
    assert float(found["gain"][0]) == 1.0 + 1e-12


def test_axes_in_another_order_resume_a_half_finished_store(tmp_path):
    def fn(key, *, a, b):
        return {"x": 10 * a + b}

    store = {"store": tmp_path / "s", "block": 1, "progress": False}
    axes = {"a": [1.0, 2.0], "b": [3.0, 4.0, 5.0]}
    jinit.sweep(fn, traced=axes, shard=(0, 2), **store)
    ds = jinit.sweep(fn, traced=dict(reversed(axes.items())), **store)
    assert ds["x"].dims == ("b", "a", "seed")
    assert ds["x"].values[..., 0].tolist() == [[13, 23], [14, 24], [15, 25]]


values = st.lists(st.sampled_from([0.0, 0.1, 0.25, 1.0, 7.0]), min_size=1, unique=True)
seeds = st.lists(st.integers(0, 6), min_size=1, max_size=5, unique=True)
grids = st.lists(st.builds(lambda a, b, s, flip: Grid(
    {"b": b, "a": a} if flip else {"a": a, "b": b}, s), values, values, seeds, st.booleans()),
    min_size=1, max_size=4)  # fmt: skip


@pytest.mark.bad_input
def test_integers_do_not_grow_by_floats(tmp_path):
    def fn(key, *, n):
        return {"x": n}

    jinit.sweep(fn, traced={"n": [1, 2]}, store=tmp_path / "s", progress=False)
    with pytest.raises(StoreError, match=r"traced axes \{'n': 'int'\}, now \{'n': 'float'\}"):
        jinit.sweep(fn, traced={"n": [1, 2, 2.5]}, store=tmp_path / "s", progress=False)


@given(grids, st.integers(1, 3), st.integers(1, 7))
def test_every_row_of_every_grid_lies_in_one_place(grids, points, block):
    extent = Extent(grids, points=points, block=block)
    blocks = list(extent)
    assert len(blocks) == len(extent)
    at, rows = extent.sizes(np.arange(len(extent)))
    assert [*zip(at, rows, strict=True)] == [(each.point, each.rows) for each in blocks]
    assert extent.points_of(range(len(blocks))) == list(dict.fromkeys(b.point for b in blocks))
    held = {}
    for i, each in enumerate(blocks):
        assert 1 <= each.rows <= block
        for j in range(each.rows):
            row = (each.point, each.traced["a"][j], each.traced["b"][j], each.seeds[j])
            assert row not in held
            held[row] = i * block + j
    union = extent.union()
    asked = {*product(range(points), union.traced["a"], union.traced["b"], union.seeds)}
    assert held.keys() <= asked
    for grid in (*grids, union):
        runs = extent.runs_of(grid)
        assert runs.shape == (points, math.prod(grid.shape))
        if (runs >= 0).all():
            assert set(extent.numbers(grid)) == {int(run) // block for run in runs.ravel()}
        names = list(grid.axes)
        for point in range(points):
            for run, at in zip(runs[point], product(*grid.axes.values()), strict=True):
                row = dict(zip(names, at, strict=True))
                assert run == held.get((point, row["a"], row["b"], row["seed"]), -1)
    for earlier in range(len(grids)):  # what is there stays where it is
        before = Extent(grids[: earlier + 1], points=points, block=block)
        runs = before.runs_of(grids[earlier])
        np.testing.assert_array_equal(runs, extent.runs_of(grids[earlier]))


def test_the_blocks_of_a_billion_rows_are_laid_out_without_an_array_of_them():
    grid = Grid({"a": [float(n) for n in range(1000)], "b": [*range(1000)]}, [*range(1000)])
    tracemalloc.start()
    extent = Extent([grid], points=2, block=2**15)
    last = extent[len(extent) - 1]
    assert extent.holds(grid)
    assert len(extent.numbers(grid)) == len(extent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20
    assert len(extent) == 2 * -(-(10**9) // 2**15)
    assert (last.point, last.seeds[-1], last.traced["a"][-1], last.rows) == (
        1, 999, 999.0, 10**9 % 2**15,
    )  # fmt: skip
    # The same values in another order of axes are other rows.
    turned = Grid({"b": [0, 1], "a": [5.0, 6.0]}, [0])
    extent = Extent([Grid({"a": [5.0, 6.0], "b": [0, 1]}, [0])], points=1, block=4)
    assert extent.runs_of(turned).tolist() == [[0, 2, 1, 3]]


def test_the_order_of_what_is_loaded_is_the_last_whole_one_or_ascending():
    one, two = Grid({"a": [2.0, 1.0]}, [0, 1]), Grid({"a": [3.0, 1.0, 2.0]}, [1, 0])
    assert Extent([one, two, one], points=1, block=4).union() == Grid(
        {"a": [3.0, 1.0, 2.0]}, [0, 1]
    )
    last = Grid({"a": [0.5]}, [7])
    union = Extent([one, two, last], points=1, block=4).union()
    assert union == Grid({"a": [0.5, 1.0, 2.0, 3.0]}, [0, 1, 7])


KILLED = """
import json, os, signal, sys, warnings
warnings.simplefilter("ignore")
import jinit, zarr, xarray
from jinit.sweeps.blocks import Runner
from jinit.sweeps.chunks import Chunks
from jinit.sweeps.zarr_store import ZarrStore
from test_sweep_growth import GROWN, run

store = sys.argv[1]
rename, fit, write, compute = os.rename, ZarrStore._fit, Chunks.write, Runner.run


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def before_the_new_extent(patch):
    os.rename = lambda *places: killed()

def before_the_arrays_are_longer(patch):
    ZarrStore._fit = lambda self, group: killed() if len(self.extent.grids) > 1 else None

def before_a_block_is_done(patch):
    def until(self, number, values):
        if self._begin.endswith("done/c") and number > 1:
            killed()
        write(self, number, values)
    Chunks.write = until

def while_a_file_is_written(patch):
    def half(self, number, values):
        if self._begin.endswith("values/c") and number > 2:
            path = f"{self._begin}/{number}.half.partial"
            with open(path, "xb") as file:
                file.write(self.encoded(values)[:5])
            killed()
        write(self, number, values)
    Chunks.write = half

def never(patch):
    pass


computed = []
def counted(self, block, *rest):
    computed.append(block.rows)
    return compute(self, block, *rest)
Runner.run = counted

for instant in (before_the_new_extent, before_the_arrays_are_longer, before_a_block_is_done,
                while_a_file_is_written, never):
    child = os.fork()
    if not child:
        instant(None)
        run(store, GROWN)
        print(sum(computed), flush=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    grids = len([name for name in os.listdir(store) if name.startswith("grown-")])
    done = len(os.listdir(os.path.join(store, "done", "c")))
    print(instant.__name__, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, grids, done,
          flush=True)
"""


@pytest.mark.cpu
@pytest.mark.script
def test_growing_is_killed_at_its_worst_instants_and_resumed(copy, whole, begun):
    """A process that has computed nothing forks, so that only one has to import jax."""
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(copy)], capture_output=True, text=True, timeout=240,
        check=False, env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "before_the_new_extent 9 0 2",
        "before_the_arrays_are_longer 9 1 2",
        "before_a_block_is_done 9 1 2",
        "while_a_file_is_written 9 1 3",
        "7",
        "never 0 1 4",
    ]
    assert jinit.load(copy).identical(whole)
    assert run(copy, BEGUN).identical(begun[1])


def test_lazily_opened_it_is_the_same(copy, whole, computed, monkeypatch):
    pytest.importorskip("dask")
    run(copy, GROWN)
    ds = jinit.load(copy, lazy=True)
    assert all(ds[name].chunks is not None for name in ds)
    assert max(max(sizes) for sizes in ds["values"].chunks[:-1]) <= 8
    read = []
    real = ZarrStore.read
    monkeypatch.setattr(
        ZarrStore, "read", lambda self, o, blocks: read.append(len(blocks)) or real(self, o, blocks)
    )
    assert pickle.loads(pickle.dumps(ds)).compute(scheduler="synchronous").identical(whole)
    del read[:]
    one = ds["values"].sel(size=3, gain=0.5, seed=5).compute(scheduler="synchronous")
    np.testing.assert_array_equal(one, whole["values"].sel(size=3, gain=0.5, seed=5))
    assert sum(read) <= 2
    run(copy, GROWN | {"seeds": [11]}, shard=(1, 2))
    with pytest.raises(StoreError, match="run the same sweep again"):
        jinit.load(copy, lazy=True)
    part = jinit.load(copy, lazy=True, partial=True)
    assert part["count"].dtype == np.float64
    assert part.compute(scheduler="synchronous").identical(jinit.load(copy, partial=True))


def test_lazily_opened_damage_is_found_when_it_is_read(copy):
    pytest.importorskip("dask")
    ds = jinit.load(copy, lazy=True)
    next(f for f in (copy / "mean" / "c").iterdir()).write_bytes(b"torn")
    with pytest.raises(StoreError, match="damaged in 1 of 2 blocks"):
        ds["mean"].compute(scheduler="synchronous")
    ds["count"].compute(scheduler="synchronous")


@pytest.mark.bad_input
def test_what_does_not_fit_into_memory_says_how_to_open_it(begun, monkeypatch):
    def full(self, output, blocks):
        raise MemoryError

    monkeypatch.setattr(ZarrStore, "read", full)
    with pytest.raises(StoreError, match=r"does not fit into memory; load\(..., lazy=True\)"):
        jinit.load(begun[0])


@pytest.mark.bad_input
def test_without_dask_lazy_says_what_to_install(begun, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(StoreError, match=r"lazy=True needs dask.* install jinit\[dask\], or leave"):
        jinit.load(begun[0], lazy=True)
    for name in ("lazy", "partial"):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got 'yes'"):
            jinit.load(begun[0], **{name: "yes"})


def test_a_dataset_larger_than_memory_is_read_by_blocks(tmp_path):
    """A mean over 48 MB holds a few blocks of 2 MB at a time."""
    pytest.importorskip("dask")
    grid = Grid({}, list(range(8 * 24)))
    made_for = {"static": {}, **grid._asdict(), "group": 8, "block": 8, "numerics": {"x64": False}}
    output = Output("x", np.dtype("f4"), (65_536,), ("entry",))
    ZarrStore.create(tmp_path / "s.zarr", made_for, (output,), 1)
    kept = ZarrStore(tmp_path / "s.zarr", write=True)
    for i in range(24):
        kept.write(i, {"x": np.full((8, 65_536), i, np.float32)})
    ds = jinit.load(tmp_path / "s.zarr", lazy=True)
    tracemalloc.start()
    try:
        mean = float(ds["x"].mean().compute(scheduler="synchronous"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert mean == 11.5
    assert peak < ds["x"].nbytes / 4


def test_a_full_disk_while_growing_keeps_the_store_and_says_so(copy, whole, monkeypatch):
    def full(self, shape):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "resize", full)
        for _ in range(2):  # while it grows, and when it is opened again
            with pytest.raises(StoreError, match=r"cannot be written \(No space left.*is kept"):
                run(copy, GROWN)
    assert run(copy, GROWN).identical(whole)


def test_a_store_behind_a_link_grows_where_it_lies(copy, whole, tmp_path):
    link = tmp_path / "elsewhere" / "linked.zarr"
    link.parent.mkdir()
    link.symlink_to(copy)
    before = set(tmp_path.iterdir())
    assert run(link, GROWN).identical(whole)
    assert set(tmp_path.iterdir()) == before
    assert [p for p in copy.iterdir() if "jinit-new" in p.name] == []


def test_large_integers_are_told_apart():
    grid = Grid({"n": [2**53, 2**53 + 1]}, [0])
    extent = Extent([grid], points=1, block=2)
    assert extent.runs_of(grid).tolist() == [[0, 1]]
