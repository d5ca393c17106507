"""Peers compute the same: what benchmarks/ times is one task, whoever does it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.worker import PEERS
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parent.parent
OTHERS = [entry for entries in PEERS.values() for entry in entries if entry != "jinit"]


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


def test_work_is_counted_by_hand():
    """10 x 64, batch 128: three products of 2 * 128 * 64 * 64 a layer, but two in the first."""
    work = WORKLOADS["typical"]
    square, readout = 2 * 128 * 64 * 64, 2 * 128 * 64 * 10
    assert work.flops == (3 * 10 - 1) * square + 3 * readout
