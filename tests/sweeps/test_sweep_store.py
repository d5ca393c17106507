"""A store: resumed equals uninterrupted, damage is found, another sweep is refused."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from swept import NOISY, noisy

import jinit
from jinit.sweeps import StoreError
from jinit.sweeps.blocks import Runner
from jinit.sweeps.compile import Output
from jinit.sweeps.extent import Extent, Grid
from jinit.sweeps.store import MemoryStore
from jinit.sweeps.zarr_store import ZarrStore

HERE = Path(__file__).parent


def run(store, **changes):
    return jinit.sweep(noisy, **(NOISY | {"block": 8} | changes), store=store, progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    store = tmp_path_factory.mktemp("stores") / "whole.zarr"
    return store, run(store)


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "copy.zarr"))


@pytest.fixture
def computed(monkeypatch):
    """The blocks that are computed, as (point, first row)."""
    seen = []
    real = Runner.run

    def counted(self, block, *rest):
        seen.append((block.point, block.first))
        return real(self, block, *rest)

    monkeypatch.setattr(Runner, "run", counted)
    return seen


def chunk(store, name, block):
    found = sorted((store / name / "c" / str(block)).rglob("*"))
    files = [f for f in found if f.is_file()] or [store / name / "c" / str(block)]
    return files[0]


def test_the_store_holds_what_memory_would(finished):
    store, ds = finished
    assert ds.identical(jinit.sweep(noisy, **NOISY, block=8, progress=False))
    assert jinit.load(store).identical(ds)


def test_arrays_are_flat_and_chunked_by_block(finished):
    group = zarr.open_group(finished[0], mode="r")
    assert group["values"].shape == (48, 5)
    assert group["values"].chunks == (8, 5)
    assert group["values"].metadata.dimension_names == ("run", "entry")
    assert group["done"].chunks == (1,)
    for name in ("mean", "values", "done"):
        assert any("crc32c" in json.dumps(c.to_dict()) for c in group[name].compressors)


def test_a_finished_store_is_not_computed_again(copy, finished, computed):
    assert run(copy).identical(finished[1])
    assert computed == []


def test_blocks_that_are_not_done_are_computed(copy, finished, computed):
    group = zarr.open_group(copy)
    group["done"][2] = 0
    group["values"][16:24] = 0.0  # what a killed writer may leave behind
    assert run(copy).identical(finished[1])
    assert computed == [(0, 16)]


@pytest.mark.parametrize("how", ["flipped", "torn", "gone", "empty"])
def test_damage_is_reported_and_mended_but_never_returned(copy, finished, computed, how):
    file = chunk(copy, "values", 4)
    data = bytearray(file.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    elif how == "torn":
        file.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    with pytest.raises(StoreError, match=r"damaged in 1 of 6 blocks \(the first is 4\); run the"):
        jinit.load(copy)
    with pytest.raises(StoreError, match="damaged in 1 of 6 blocks"):
        jinit.load(copy, partial=True)
    assert run(copy).identical(finished[1])
    assert computed == [(1, 8)]


def test_a_damaged_done_entry_counts_as_not_done(copy, finished, computed):
    chunk(copy, "done", 1).write_bytes(b"x")
    with pytest.raises(StoreError, match="holds 5 of 6 blocks"):
        jinit.load(copy)
    assert run(copy).identical(finished[1])
    assert computed == [(0, 8)]


def test_an_unfinished_store_is_loaded_on_request_only(copy, finished):
    zarr.open_group(copy)["done"][0] = 0
    with pytest.raises(StoreError, match="holds 5 of 6 blocks; run the same sweep again to finish"):
        jinit.load(copy)
    part = jinit.load(copy, partial=True)
    assert np.isnan(part["count"].sel(size=3).values.ravel()[:8]).all()
    np.testing.assert_array_equal(part["mean"].sel(size=5), finished[1]["mean"].sel(size=5))


def test_all_nan_blocks_are_results(tmp_path):
    def lost(key, *, a):
        return {"x": a * jnp.nan}

    for _ in range(2):
        ds = jinit.sweep(
            lost, traced={"a": [1.0, 2.0]}, block=1, store=tmp_path / "s", progress=False
        )
        assert np.isnan(ds.x).all()
    assert jinit.load(tmp_path / "s").identical(ds)


def other(key, *, size, gain, shift=0.0):
    return noisy(key, size=size, gain=1.5 * gain, shift=shift)


CHANGES = {
    "traced": ({"traced": {"gain": [0.5, 1.0]}}, "traced axes .*shift.* now"),
    "static": ({"static": {"size": [3, 6]}}, "static axes .*; a store grows along traced axes and"),
    "order": ({"static": {"size": [5, 3]}}, "static axes"),
    "block": ({"block": 12}, "block 8, now 12"),
    "dims": ({"dims": {"values": ("place",)}}, "dims"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", CHANGES)
def test_another_sweep_is_refused_with_the_difference(copy, name):
    change, words = CHANGES[name]
    before = {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}
    with pytest.raises(StoreError, match=f"was made by another sweep: .*{words}"):
        run(copy, **change)
    assert before == {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}


@pytest.mark.bad_input
@pytest.mark.parametrize("call", [run, jinit.load])
def test_a_store_of_another_version_says_what_to_do(copy, call):
    group = zarr.open_group(copy)
    kept = json.loads(group.attrs["jinit_sweep"])
    group.attrs["jinit_sweep"] = json.dumps(kept | {"format": 1})
    with pytest.raises(StoreError, match=r"has format 1, .* run the sweep again into a new p"):
        call(copy)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_every_store_keeps_blocks_whole(tmp_path, where):
    outputs = (Output("x", np.dtype("f4"), (2,), ("entry",)),)
    grid = Grid({}, [0, 1, 2, 3])
    made_for = {"static": {}, **grid._asdict(), "group": 1, "block": 3, "numerics": {"x64": False}}
    if where == "memory":
        kept = MemoryStore(made_for, outputs, Extent([grid], points=1, block=3))
    else:
        ZarrStore.create(tmp_path / "s.zarr", made_for, outputs, 1)
        kept = ZarrStore(tmp_path / "s.zarr", write=True)
    assert kept.made_for == made_for
    assert kept.outputs == outputs
    assert kept.done().tolist() == [False, False]
    kept.write(1, {"x": np.ones((3, 2), np.float32)})
    assert (kept.is_done(0), kept.is_done(1)) == (False, True)
    np.testing.assert_array_equal(kept.read(outputs[0], [1])[0], np.ones((3, 2)))
    kept.grow(Grid({}, [4, 1]))
    assert kept.done().tolist() == [False, True, False]
    assert kept.extent.runs_of(Grid({}, [1, 4, 5])).tolist() == [[1, 6, -1]]


@pytest.mark.bad_input
def test_another_program_is_refused(copy):
    with pytest.raises(StoreError, match=r"another program or other data in fn\(size=3\) and 1"):
        jinit.sweep(other, **NOISY, block=8, store=copy, progress=False)


@pytest.mark.bad_input
def test_other_data_is_another_program(tmp_path):
    def with_data(data):
        return lambda key, *, a: {"x": a * jnp.sum(jnp.asarray(data)) + 0 * jnp.sum(data[:2])}

    data = np.arange(5000, dtype=np.float32)
    store = tmp_path / "s.zarr"
    jinit.sweep(with_data(data), traced={"a": [1.0]}, store=store, progress=False)
    jinit.sweep(with_data(data.copy()), traced={"a": [1.0]}, store=store, progress=False)
    data[4321] += 1
    with pytest.raises(StoreError, match=r"another program or other data in fn\(\)"):
        jinit.sweep(with_data(data), traced={"a": [1.0]}, store=store, progress=False)


FINGERPRINT = """
import json, sys
from swept import DESCEND, descend
from jinit.sweeps import Sweep
from jinit.sweeps.blocks import Runner
from jinit.sweeps.fingerprint import fingerprint
print(json.dumps(fingerprint(Runner(Sweep(descend, **DESCEND)))))
"""


def in_fresh_python(code, *arguments, cwd=None, **options):
    path = os.pathsep.join([str(Path(jinit.__file__).parents[1]), str(HERE)])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=cwd,
        capture_output=True, text=True, timeout=240, check=False,
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}, **options,
    )  # fmt: skip


@pytest.mark.script
def test_the_fingerprint_is_the_same_in_every_process():
    one, two = (in_fresh_python(FINGERPRINT) for _ in range(2))
    assert one.returncode == 0, one.stderr
    assert json.loads(one.stdout) == json.loads(two.stdout)
    assert len(json.loads(one.stdout)["programs"]) == 4


def test_shards_meet_in_one_store(tmp_path, finished):
    store = tmp_path / "s.zarr"
    first = run(store, shard=(0, 2))
    assert np.isnan(first["mean"]).sum() == 24
    assert run(store, shard=(1, 2)).identical(finished[1])
    assert jinit.load(store).identical(finished[1])


def test_two_writers_write_the_same(tmp_path, finished, monkeypatch):
    """While the first is at work, a second begins, does everything and ends."""
    store, seconds = tmp_path / "s.zarr", []
    real = Runner.run

    def interrupted(self, block, *rest):
        found = real(self, block, *rest)
        if (block.point, block.first) == (0, 8) and not seconds:
            seconds.append(None)
            seconds.append(run(store))
        return found

    monkeypatch.setattr(Runner, "run", interrupted)
    assert run(store).identical(finished[1])
    assert seconds[1].identical(finished[1])


@pytest.mark.parametrize(
    "begun",
    [{}, {"seeds": [3, 2, 1, 0]}, {"traced": {"shift": [0.0, 1.0], "gain": [0.5, 1.0, 2.0]}}],
)
def test_a_store_that_another_begins_while_the_first_block_is_computed(
    begun, tmp_path, finished, monkeypatch
):
    """Its first block may hold other rows, seeds and axes being in another order."""
    store, seconds = tmp_path / "s.zarr", []
    real = Runner.run

    def slow(self, block, *rest):
        if not seconds:
            seconds.append(None)
            run(store, **begun, shard=(1, 2))
        return real(self, block, *rest)

    monkeypatch.setattr(Runner, "run", slow)
    assert run(store).identical(finished[1])


SMALL_DISK = """
import resource, sys
import jinit
from swept import NOISY, noisy
sys.setrecursionlimit(10_000)
import jax, zarr, xarray  # imported while files may still be written
from jinit.sweeps.zarr_store import ZarrStore
real = ZarrStore.write
def write(self, block, values):
    if block == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
    real(self, block, values)
ZarrStore.write = write
try:
    jinit.sweep(noisy, **NOISY, block=8, store=sys.argv[1], progress=False)
except ValueError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(error)
"""


@pytest.mark.cpu
@pytest.mark.script
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(tmp_path, finished, computed):
    """A real refusal of the operating system to write on."""
    store = tmp_path / "s.zarr"
    done = in_fresh_python(SMALL_DISK, store)
    assert done.returncode == 0, done.stderr
    assert "cannot be written (File too large); what it holds is kept: make room" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not list(store.rglob("*.partial"))
    assert run(store).identical(finished[1])
    assert computed == [(0, 16), (1, 0), (1, 8), (1, 16)]


@pytest.mark.bad_input
def test_places_that_hold_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"lies in the folder .*, which does not exist; make it"):
        run(tmp_path / "missing" / "s.zarr")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file; give the name of a folder"):
        run(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    for each in (run, jinit.load):
        with pytest.raises(StoreError, match="is not a sweep that jinit has stored"):
            each(tmp_path / "folder")
    with pytest.raises(StoreError, match="does not exist; give the folder that a sweep has made"):
        jinit.load(tmp_path / "nothing")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.bad_input
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="lies in a folder that cannot be written"):
        run(tmp_path / "s.zarr")


@pytest.mark.bad_input
def test_without_zarr_a_store_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(StoreError, match=r"needs zarr, which is not installed; install jinit\[sto"):
        run(tmp_path / "s.zarr")
    assert jinit.sweep(noisy, **NOISY, progress=False)["mean"].shape == (2, 3, 2, 4)


def test_progress_in_plain_lines(tmp_path, capsys):
    store = tmp_path / "s.zarr"
    run(store, shard=(0, 2))
    jinit.sweep(noisy, **NOISY, block=8, store=store)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "jinit.sweep: 24 of 48 networks are in the store already"
    assert lines[-1].startswith("jinit.sweep: 48 of 48 networks (24 resumed), ")
    assert "per second" in lines[-1]
    assert "\x1b" not in "".join(lines)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_what_a_kill_while_the_store_was_made_leaves_behind_is_removed_later(tmp_path):
    """A folder of an hour ago; one that another process is making now stays."""
    old, new, other = (
        tmp_path / name for name in (".s.zarr.jinit-new-a1", ".s.zarr.jinit-new-b2", ".s.zarr-mine")
    )
    for folder in (old, new, other):
        folder.mkdir()
        (folder / "zarr.json").write_text("{}")
    for folder in (old, other):
        os.utime(folder, (0, 0))
    run(tmp_path / "s.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, new.name, "s.zarr"]
