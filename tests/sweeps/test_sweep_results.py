"""What a sweep returns is what a loop over its points returns."""

import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from swept import DESCEND, NOISY, ONE_POINT, descend, draw, noisy

import jinit
from jinit.sweeps import Sweep, dry_run
from jinit.sweeps.blocks import Runner, Settings, blocks_of, group_for
from jinit.sweeps.datasets import assemble
from jinit.sweeps.store import MemoryStore


def run_with(plan, group, block):
    runner, blocks = Runner(plan), blocks_of(plan, block)
    made_for = plan.description | {"group": group, "block": block}
    kept = MemoryStore(made_for, runner.outputs, blocks)
    for i, each in enumerate(blocks):
        kept.write(i, runner.run(each, Settings(group, block)))
    return assemble(kept, plan.grid, blocks.runs_of(plan.grid))


def test_every_row_is_the_function_at_its_point():
    ds = jinit.sweep(noisy, **NOISY, progress=False)
    assert dict(ds.sizes) == {"size": 2, "gain": 3, "shift": 2, "seed": 4, "entry": 5}
    assert ds["mean"].dims == ("size", "gain", "shift", "seed")
    for size in NOISY["static"]["size"]:
        one = jax.jit(noisy, static_argnames="size")
        for gain in NOISY["traced"]["gain"]:
            for shift in NOISY["traced"]["shift"]:
                for seed in range(4):
                    row = ds.sel(size=size, gain=gain, shift=shift, seed=seed)
                    alone = one(jax.random.key(seed), size=size, gain=gain, shift=shift)
                    np.testing.assert_allclose(row["mean"], alone["mean"], rtol=1e-6)
                    assert int(row["count"]) == int(alone["count"])
                    assert bool(row["any"]) == bool(alone["any"])
                    np.testing.assert_allclose(row["values"][:size], alone["values"], rtol=1e-6)
                    assert np.isnan(row["values"][size:]).all()


def test_dtypes_and_coordinates_are_kept():
    ds = jinit.sweep(noisy, **NOISY, progress=False)
    assert ds["mean"].dtype == np.float32
    assert ds["count"].dtype == np.int32
    assert ds["any"].dtype == bool
    assert ds["gain"].values.tolist() == NOISY["traced"]["gain"]
    assert ds["size"].values.tolist() == [3, 5]


def test_prepare_and_fn_get_keys_of_their_own():
    ds = jinit.sweep(descend, **DESCEND, progress=False)
    row = ds.sel(kind="normal", steps=4, gain=2.0, lr=0.1, seed=2)
    key = jax.random.key(2)
    start = draw(jax.random.fold_in(key, 0), kind="normal", gain=jnp.float32(2.0))
    alone = descend(jax.random.fold_in(key, 1), start, steps=4, lr=jnp.float32(0.1))
    np.testing.assert_allclose(row["loss"], alone["loss"], rtol=1e-5)
    np.testing.assert_allclose(row["history"][:4], alone["history"], rtol=1e-5)
    assert ds.attrs.pop("group") in (1, 2, 4, 8, 16)  # a share of 18 rows for every device
    assert ds.attrs == {
        "function": "descend", "prepare": "draw", "static_axes": "kind, steps",
        "traced_axes": "gain, lr", "platform": jax.default_backend(), "jax": jax.__version__,
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
    }  # fmt: skip


@pytest.fixture(scope="module")
def alone():
    return run_with(Sweep(descend, **ONE_POINT), 1, 18)


@pytest.mark.parametrize(
    ("group", "block"),
    [pytest.param(1, 24, marks=pytest.mark.long), (2, 6),
     pytest.param(4, 8, marks=pytest.mark.long), (8, 24), (16, 32)],
)  # fmt: skip
def test_the_block_changes_no_bit_and_the_group_at_most_the_last(group, block, alone):
    plan = Sweep(descend, **ONE_POINT)
    found, other = run_with(plan, group, block), run_with(plan, group, 2 * block)
    assert found.identical(other)
    for name in found:
        np.testing.assert_allclose(found[name], alone[name], rtol=2e-5, atol=1e-7)


def test_seeds_and_points_share_random_numbers():
    """Row (point, seed) depends on neither the other points nor the other seeds of the sweep."""
    whole = jinit.sweep(noisy, **NOISY, progress=False)
    part = jinit.sweep(
        noisy, static={"size": [5]}, traced={"gain": [2.0], "shift": [1.0]}, seeds=[3, 1],
        progress=False,
    )  # fmt: skip
    expected = whole["mean"].sel(size=[5], gain=[2.0], shift=[1.0], seed=[3, 1])
    np.testing.assert_allclose(part["mean"], expected, rtol=1e-6)


def test_networks_that_diverge_are_recorded_and_others_unharmed():
    def fn(key, *, lr):
        def step(w, _):
            return w - lr * w**3, None

        return {"w": jax.lax.scan(step, 1.0 + jax.random.uniform(key), None, 60)[0]}

    ds = jinit.sweep(fn, traced={"lr": [0.1, 5.0]}, seeds=9, progress=False)
    calm = jinit.sweep(fn, traced={"lr": [0.1]}, seeds=9, progress=False)
    assert not np.isfinite(ds.w.sel(lr=5.0)).any()
    np.testing.assert_array_equal(ds.w.sel(lr=[0.1]), calm.w)


def test_a_full_memory_leads_to_more_calls_of_the_same_groups(monkeypatch):
    plan = Sweep(descend, **ONE_POINT)
    whole = run_with(plan, 2, 18)
    calls = []
    real = Runner._call

    def crowded(self, block, counts, rows):
        calls.append(int(counts.max()))
        if counts.max() > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return real(self, block, counts, rows)

    monkeypatch.setattr(Runner, "_call", crowded)
    assert run_with(plan, 2, 18).identical(whole)
    assert min(calls) <= 2 < max(calls)


def test_a_group_that_never_fits_is_one_sentence(monkeypatch):
    def full(self, block, counts, rows):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

    monkeypatch.setattr(Runner, "_call", full)
    with pytest.raises(
        RuntimeError, match=r"a group of 2 networks at .* does not fit into .* smaller block="
    ):
        run_with(Sweep(descend, **ONE_POINT), 2, 18)


def test_a_dry_run_counts():
    plan = Sweep(noisy, **NOISY)
    found = dry_run(plan, block=8)
    per_row = 4 + 4 + 1 + 5 * 4
    assert found[:4] == (48, 6, 2, 6 * 8 * per_row)
    assert 0 < found.seconds < 60
    assert plan.runs == 48
    with pytest.raises(AttributeError, match=r"of jinit 0.1 is now jinit\.dry_run\(sweep\)"):
        plan.dry_run  # noqa: B018


@pytest.mark.parametrize("block", range(1, 40))
def test_groups_divide_blocks(block):
    group = group_for(16, block)
    assert block % group == 0
    assert math.log2(group).is_integer()


def test_a_function_of_the_key_alone():
    ds = jinit.sweep(lambda key: {"u": jax.random.uniform(key)}, progress=False)
    assert ds.u.dims == ("seed",)
    assert float(ds.u[0]) == pytest.approx(float(jax.random.uniform(jax.random.key(0))))


EIGHT_DEVICES = """
import sys
import jinit
jinit.configure(cpu_devices=8)
import jax, numpy as np
from swept import ONE_POINT, descend
from jinit.sweeps import Sweep
from jinit.sweeps.blocks import Runner, Settings, blocks_of
assert jax.local_device_count() == 8
plan = Sweep(descend, **ONE_POINT)
runner = Runner(plan)
found = [runner.run(each, Settings(2, 9)) for each in blocks_of(plan, 9)]
np.savez(sys.argv[1], **{f"{n}{i}": b[n] for i, b in enumerate(found) for n in b})
text = " ".join(p.result().compiled.as_text() for p in runner._programs.values())
words = ("all-reduce", "all-gather", "collective", "all-to-all", "reduce-scatter")
assert not any(word in text for word in words)
"""


@pytest.mark.cpu
@pytest.mark.script
def test_eight_devices_give_the_bits_of_one_and_nothing_communicates(tmp_path):
    here = Path(__file__).parent
    path = os.pathsep.join([str(Path(jinit.__file__).parents[1]), str(here)])
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES, str(tmp_path / "eight.npz")],
        capture_output=True, text=True, timeout=240, check=False,
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    eight = np.load(tmp_path / "eight.npz")
    plan = Sweep(descend, **ONE_POINT)
    runner = Runner(plan)
    for i, each in enumerate(blocks_of(plan, 9)):
        for name, values in runner.run(each, Settings(2, 9)).items():
            np.testing.assert_array_equal(values, eight[f"{name}{i}"])
