"""Other processes: a pool, a Dask cluster of which one worker dies, jax.distributed."""

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from swept import BUSY, NOISY, busy, noisy

import jinit

HERE = Path(__file__).parent
PATH = os.pathsep.join([str(Path(jinit.__file__).parents[1]), str(HERE)])


@pytest.mark.cpu
@pytest.mark.script
def test_a_pool_of_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATH)
    expected = jinit.sweep(noisy, **NOISY, block=8, progress=False)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for store in (None, tmp_path / "s.zarr"):
            found = jinit.sweep(noisy, **NOISY, block=8, store=store, executor=pool, progress=False)
            assert found.identical(expected)


def broken(key, *, a):
    raise ValueError("mine")


@pytest.mark.bad_input
def test_an_error_of_the_function_comes_back_before_any_worker_starts():
    class Never:
        def submit(self, *args):
            raise AssertionError

    with pytest.raises(ValueError, match="mine"):
        jinit.sweep(broken, traced={"a": [1.0]}, executor=Never(), progress=False)


@pytest.mark.cpu
@pytest.mark.long
@pytest.mark.script
@pytest.mark.filterwarnings("ignore")  # dask's own, about a worker that is gone
@mock.patch.dict(os.environ)  # where Dask leaves settings of malloc and BLAS behind
def test_a_dask_worker_that_is_killed_loses_nothing(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", PATH)
    expected = jinit.sweep(busy, **BUSY, block=4, progress=False)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        local_directory=str(tmp_path / "dask"),
    )  # fmt: skip
    store = tmp_path / "s.zarr"
    with cluster, distributed.Client(cluster) as client:
        first = min(info["pid"] for info in _workers(client))
        killed = threading.Thread(target=_kill_midway, args=(first, store))
        killed.start()
        found = jinit.sweep(
            busy, **BUSY, block=4, store=store, executor=client.get_executor(), progress=False
        )
        killed.join()
        alive = {info["pid"] for info in _workers(client)}
    assert first not in alive
    assert found.identical(expected)


def _workers(client):
    return [{"pid": pid} for pid in client.run(os.getpid).values()]


def _kill_midway(pid, store):
    """Kill it when the third block is on disk."""
    give_up = time.monotonic() + 120
    while len(list(store.glob("done/c/*"))) < 3 and time.monotonic() < give_up:
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)


DISTRIBUTED = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import jinit
from swept import NOISY, noisy
assert jax.process_count() == 2
assert jax.device_count() == 2 * jax.local_device_count()
jinit.sweep(noisy, **NOISY, block=4, store=sys.argv[3], progress=False)
"""


@pytest.mark.long
def test_the_jobs_of_an_array_share_one_store_as_the_page_says(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "many-devices.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    program = next(block for block in blocks if "SLURM_ARRAY_TASK_ID" in block)
    assert "steps=20" in program
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    finished = []
    for job in range(3):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(job))
        exec(compile(program.replace("steps=20", "steps=2"), str(page), "exec"), {})
        part = jinit.load("trainability.zarr", partial=True)
        finished.append(int(part.accuracy.notnull().sum()))
    assert finished == [32, 48, 64]  # four blocks of 16 networks: two jobs and one each
    assert not any(jinit.load("trainability.zarr").isnull().any().to_array())


@pytest.mark.cpu
@pytest.mark.script
def test_two_processes_under_jax_distributed_start_at_the_same_moment(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    store = tmp_path / "s.zarr"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", DISTRIBUTED, address, str(i), str(store)],
            env=os.environ | {"PYTHONPATH": PATH, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    for each in both:
        output, _ = each.communicate(timeout=240)
        assert each.returncode == 0, output
    expected = jinit.sweep(noisy, **NOISY, block=4, progress=False)
    assert jinit.load(store).identical(expected)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.cpu
@pytest.mark.long
@pytest.mark.script
def test_kills_at_random_instants_change_nothing():
    """A few, while stores grow; the script does fifty when it is run on its own.

    The worst instants are met one by one in test_sweep_growth.py.
    """
    done = subprocess.run(
        [sys.executable, str(HERE / "kill_and_resume.py"), "--kills", "4", "--seed", "5"],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"kills, [1-9]\d* of them midway", done.stdout)
    assert done.stdout.rstrip().endswith("all identical.")
