"""Peers compute the same: what benchmarks/ times is one task, whoever does it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import against, gpu
from benchmarks.worker import ENTRIES, PEERS
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parent.parent
OTHERS = [entry for entry in ENTRIES if entry != "jinit"]


def build(entry):
    module = next(m for m, entries in PEERS.items() if entry in entries)
    if module == "torch_peers":
        pytest.importorskip("torch")
    return importlib.import_module(f"benchmarks.peers.{module}").ENTRIES[entry]


@pytest.mark.parametrize("name", ["batch norm", "gradients 10", "grid f32"])
@pytest.mark.parametrize("entry", OTHERS)
def test_every_peer_agrees_with_numpy(entry, name):
    """`jinit` itself needs devices of its own; `compare` below runs it."""
    work = WORKLOADS[name].small()
    expected = build("NumPy loop")(work, work.networks).run()
    with jax.numpy_rank_promotion("allow"):  # peers are written as users write
        got = build(entry)(work, work.networks).run()
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.script
def test_compare_on_tiny_networks(tmp_path):
    """The whole way: processes, the check of results, rounds, tables, the figure."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--small", "--rounds", "2", "--workloads",
         "batch norm", "--entries", "jinit", "jit(vmap)", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "speed.json").read_text())["workloads"]["batch norm"]
    assert {len(peer["seconds"]) for peer in results["peers"].values()} == {2}
    assert 0 < results["peers"]["jit(vmap)"]["difference"] < 1e-3
    assert "| batch norm |" in (tmp_path / "speed.md").read_text()
    assert (tmp_path / "speed.png").stat().st_size > 10_000


@pytest.mark.long
@pytest.mark.script
def test_the_accelerators_script_on_tiny_networks(tmp_path):
    """A row, the card's own, what was left out, table and figure; on a CPU."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--only"]
    how = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([*command, "ceilings", "typical", "--small"], **how)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    row = results["parts"]["typical"]
    assert not row["failed"]
    assert max(row["difference"].values()) < 1e-4
    assert {len(seconds) for seconds in row["seconds"].values()} == {gpu.ROUNDS}
    assert gpu.left_out(results) == [n for n in gpu.ORDER if n not in ("ceilings", "typical")]
    text = (tmp_path / "gpu.md").read_text()
    assert "| typical (4) |" in text
    assert "these are no speeds" in text
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


@pytest.mark.script
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator")
def test_without_an_accelerator_it_says_so(tmp_path):
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path)],
                          cwd=ROOT, capture_output=True, text=True, timeout=100)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "there is no accelerator here; --small tries the program on a CPU."
    )


def test_what_fails_or_is_slower_on_an_accelerator_shows():
    row = {"networks": 2, "steps": 5, "flops": 1e9, "failed": {"torch graph": "RuntimeError: no"},
           "seconds": {"jinit": [2.0] * 3, "jit(vmap)": [1.0] * 3}, "compile": {"jinit": 1.0},
           "difference": {"jinit": 0.0, "jit(vmap)": 0.0}}  # fmt: skip
    results = {"device": "d", "jax": "j", "date": "today", "small": False,
               "parts": {"deep": row, "sweep": {"error": "out of memory"}}}  # fmt: skip
    assert "| **0.50** | RuntimeError: no |" in gpu.table(results)
    assert "deep" not in gpu.left_out(results)
    assert {"sweep", "wide"} <= set(gpu.left_out(results))


def test_work_is_counted_by_hand():
    """10 x 64, batch 128: three products of 2 * 128 * 64 * 64 a layer, but two in the first."""
    work = WORKLOADS["typical"]
    square, readout = 2 * 128 * 64 * 64, 2 * 128 * 64 * 10
    assert work.flops == (3 * 10 - 1) * square + 3 * readout


@pytest.mark.long
@pytest.mark.script
def test_jinit_against_itself_at_a_commit(tmp_path):
    """Two folders, two processes, one row of each kind; sizes are too small to ask for a ratio."""
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a clone")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--small", "--rounds", "2", "--against",
         "HEAD", "--workloads", "typical", "signals 10", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr  # 1: slower by chance
    results = json.loads((tmp_path / "against.json").read_text())["workloads"]
    assert list(results) == ["typical", "signals 10"]
    for result in results.values():
        assert {len(seconds) for seconds in result["seconds"].values()} == {2}
        assert result["difference"] < 1e-3
    assert "| signals 10 |" in (tmp_path / "against.md").read_text()


@pytest.mark.script
def test_an_unknown_commit_is_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--against", "no-such-commit",
         "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "give --against a commit of this repository" in done.stderr


def test_the_interval_of_a_median():
    """Against the binomial interval of a median of 15: its 4th and 12th values, 96.5 %."""
    middle, low, high = against.interval(np.arange(15) / 14)
    assert middle == 0.5
    assert (round(low * 14), round(high * 14)) == (3, 11)


def test_a_row_is_lost_when_its_whole_interval_lies_below_the_floor():
    seconds = {"old": [0.90] * 14 + [1.2], "new": [1.0] * 15}
    row = {"networks": 2, "steps": 5, "floor": 0.95, "seconds": seconds}
    results = {"workloads": {"a": row, "b": row | {"floor": 0.90}}}
    assert against.lost(results) == ["a"]
    facts = {"machine": "m", "date": "d", "versions": "v", "against": "abc", "rounds": 15}
    text = against.table(facts | results)
    assert "| a | 10 | 11 | 0.900 | 0.900 to 0.900 | **below 0.95** |" in text
