"""What happens before and around the device calls: nothing runs that is no network of the sweep."""

import logging
import math
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from swept import DESCEND, NOISY, ONE_POINT, descend, noisy

import jinit
from jinit import runtime
from jinit.sweeps import StoreError, Sweep
from jinit.sweeps.blocks import _PACE, _PACE_ELSEWHERE, Runner, Settings, TooLarge, blocks_of
from jinit.sweeps.compile import Program, Sizes, trace_point, usual_group
from jinit.sweeps.zarr_store import ZarrStore


def walk(key, *, gain):
    """A product and a draw."""
    x = gain * jax.random.normal(key, (4, 16))
    return {"end": jax.lax.fori_loop(0, 10, lambda _, x: jnp.tanh(x @ x.T @ x), x)[0, 0]}


WALK = {"traced": {"gain": np.geomspace(0.5, 2, 10, dtype=np.float32)}, "seeds": 100}


@pytest.fixture
def compiled(monkeypatch):
    """The module of every program that XLA has compiled; in whatever thread."""
    names = []

    class Kept(logging.Handler):
        def emit(self, record):
            if "Finished XLA compilation of" in record.getMessage():
                names.append(record.getMessage().split()[4])

    logger, handler = logging.getLogger("jax"), Kept()
    logger.addHandler(handler)
    before = jax.config.jax_log_compiles
    jax.config.update("jax_log_compiles", True)
    yield names
    jax.config.update("jax_log_compiles", before)
    logger.removeHandler(handler)


@pytest.fixture
def calls(monkeypatch):
    """Rows of every device call."""
    rows = []
    real = Program.__call__

    def counted(self, counts, args):
        rows.append(int(counts.sum()))
        return real(self, counts, args)

    monkeypatch.setattr(Program, "__call__", counted)
    return rows


@pytest.mark.parametrize("limit", [None, 2**34])
@pytest.mark.parametrize("stored", [False, True])
def test_a_sweep_compiles_one_program_per_function_and_runs_each_network_once(
    limit, stored, tmp_path, monkeypatch, compiled, calls
):
    monkeypatch.setattr(runtime, "memory_limit", lambda device: limit)
    ds = jinit.sweep(walk, **WALK, store=tmp_path / "s" if stored else None, progress=False)
    assert compiled == ["jit(program)"]
    assert sum(calls) == -(-1000 // ds.attrs["group"])
    assert np.isfinite(ds.end).all()


def test_compiles_are_the_combinations_that_signatures_name(compiled):
    """Two kinds x two lengths, but `draw` knows only kinds and `descend` only lengths."""
    counts = []
    for fn, axes in ((descend, DESCEND), (noisy, NOISY)):
        jinit.sweep(fn, **axes, block=2, progress=False)
        counts.append(len(compiled))
    assert counts == [4, 4 + 2]
    assert Runner(Sweep(descend, **DESCEND)).programs == 4


def test_a_limit_changes_nothing_where_all_fits_and_compiles_what_runs(monkeypatch, compiled):
    expected = jinit.sweep(descend, **ONE_POINT, block=2, progress=False)
    assert compiled == ["jit(program)"] * 2
    monkeypatch.setattr(runtime, "memory_limit", lambda device: 2**34)
    assert jinit.sweep(descend, **ONE_POINT, block=2, progress=False).identical(expected)
    assert compiled == ["jit(program)"] * 4


def own_threads():
    """Those of sweeps that live, once those had their time to end that were told to."""
    give_up = time.monotonic() + 5
    while time.monotonic() < give_up:
        names = [each.name for each in threading.enumerate() if each.name.startswith("jinit")]
        if not names:
            break
        time.sleep(0.01)
    return names


# --- what does not fit ---------------------------------------------------------------------------


def test_a_group_that_the_compiler_finds_too_large_is_halved_and_compiled_anew(
    monkeypatch, compiled
):
    """The limit is set between what groups of 16 and of 32 need."""
    runner = Runner(Sweep(walk, **WALK))
    needs = {}
    for group in (16, 32):
        runner.settings = Settings(group, group)
        monkeypatch.setattr(Runner, "_capacity", lambda self: 1)
        needs[group] = runner.program("fn", 0).bytes
    assert 1.5 < needs[32] / needs[16] < 2.5
    del compiled[:]
    monkeypatch.setattr(runtime, "memory_limit", lambda device: int(1.25 * 1.3 * needs[16]))
    ds = jinit.sweep(walk, **WALK, block=64, progress=False)
    assert ds.attrs["group"] == 16
    assert compiled == ["jit(program)"] * 2  # 64, as usual, and what fits


def test_a_network_that_does_not_fit_is_one_sentence_with_the_bytes(monkeypatch):
    monkeypatch.setattr(runtime, "memory_limit", lambda device: 100)
    with pytest.raises(RuntimeError, match="which has 100 bytes for this pro") as caught:
        jinit.sweep(walk, **WALK, progress=False)
    assert re.fullmatch(
        r"a group of 1 network does not fit into the memory of \S+, which has 100 bytes for this "
        r"process at most: it needs \d+ bytes; make it smaller, or free what other programs hold\.",
        str(caught.value),
    )


def full_beyond(monkeypatch, most):
    """A device whose memory others fill: more rows than so many in a call do not fit."""
    real = Runner._call

    def crowded(self, block, counts, rows):
        if self.settings.group > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return real(self, block, counts, rows)

    monkeypatch.setattr(Runner, "_call", crowded)


@pytest.mark.parametrize("stored", [False, True])
def test_memory_that_another_program_fills_leads_to_smaller_groups(stored, tmp_path, monkeypatch):
    expected = jinit.sweep(walk, **WALK, block=16, progress=False)
    options = {"block": 64, "store": tmp_path / "s" if stored else None, "progress": False}
    full_beyond(monkeypatch, 16)
    ds = jinit.sweep(walk, **WALK, **options)
    assert ds.attrs["group"] == expected.attrs["group"] == 16
    np.testing.assert_array_equal(ds.end, expected.end)


def test_a_store_keeps_its_group_and_says_that_it_does_not_fit(tmp_path, monkeypatch):
    options = {"block": 16, "store": tmp_path / "s", "progress": False}
    jinit.sweep(walk, **WALK, **options, shard=(0, 2))
    full_beyond(monkeypatch, 4)
    with pytest.raises(TooLarge, match="a group of 16 networks does not fit into the memory of"):
        jinit.sweep(walk, **WALK, **options)


# --- widths --------------------------------------------------------------------------------------

NETWORKS = {  # layers x width, batch: of a step
    "8x16, 64": (16_384, 321_992, 826),
    "10x64, 128": (163_840, 3_123_848, 6_748),
    "16-16-1, 272": (17_408, 211_108, 2_906),
    "50x128, 256": (3_211_264, 60_797_960, 27_787),
    "100x64, batch norm": (1_638_400, 80_768_648, 6_839),
    "6x512, 1000": (5_242_880, 111_262_720, 430_540),
    "gradients 100x128": (6_488_064, 24_326_448, 10_903),
    "a gigabyte": (2**30, 2**31, 2**28),
}


@pytest.mark.parametrize(
    ("platform", "rows", "devices", "groups"),
    [
        ("gpu", 65_536, 1, (4096, 512, 1024, 128, 512, 64, 256, 4)),
        ("tpu", 65_536, 4, (4096, 512, 1024, 128, 512, 64, 256, 4)),
        ("gpu", 1000, 1, (512, 512, 512, 128, 512, 64, 256, 4)),
        ("gpu", 1000, 8, (64, 64, 64, 64, 64, 64, 64, 4)),
        ("gpu", 1, 1, (1,) * 8),
        ("cpu", 65_536, 2, (16, 2, 32, 1, 1, 1, 1, 1)),
        ("cpu", 10, 2, (4, 2, 4, 1, 1, 1, 1, 1)),
    ],
)
def test_the_group_is_known_from_platform_bytes_and_number(platform, rows, devices, groups):
    found = [
        usual_group(platform, Sizes(largest, made, products=1.0, spread=width), rows=rows,
                    devices=devices)
        for largest, made, width in NETWORKS.values()
    ]  # fmt: skip
    assert found == list(groups)


def test_work_is_counted_by_hand_for_the_platform_that_runs():
    def fn(key, *, a):
        x = jnp.full((8, 4), a)
        y = jax.lax.platform_dependent(
            x, cpu=lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x @ x.T @ x, x), cuda=jnp.sin
        )
        return {"y": y}

    plan = Sweep(fn, traced={"a": [1.0]})
    cpu, gpu = (trace_point(plan, {}, {}, platform).sizes for platform in ("cpu", "gpu"))
    assert cpu.products == 3 * (8 * 8 * 4 + 8 * 4 * 8) / 4
    assert cpu.width == (8 * 8 + 8 * 4) / 2
    assert gpu.products == 0
    assert cpu.work - gpu.work == cpu.products + 3 * (8 * 4 + 1) - 8 * 4  # turned, counted; sines


def test_the_block_is_chosen_from_sizes_and_bounds(monkeypatch):
    """A few seconds at a slow pace, and a bound on bytes; nothing is compiled or run."""

    def long(key):
        return walk(key, gain=1.0) | {"end": jax.lax.fori_loop(0, 10**5, lambda _, x: x + 1, 0)}

    monkeypatch.setattr(Runner, "program", None)
    for fn in (long, lambda key: {"x": jnp.zeros((2**20,))}):
        runner = Runner(Sweep(fn, seeds=10**5))
        group, block = runner.choose(None)
        row = sum(4 * math.prod(output.shape) for output in runner.outputs)
        assert block % group == 0
        assert block * row <= 2**26
        pace = _PACE.get(jax.default_backend(), _PACE_ELSEWHERE) * jax.local_device_count()
        assert block * runner.traced[0].sizes.work / pace <= 3
    group, block = Runner(Sweep(walk, **WALK)).choose(None)
    assert block == -(-1000 // group) * group  # all of it


# --- in line -------------------------------------------------------------------------------------


def events_of(monkeypatch, platform):
    """What a sweep of four calls a block does, in order: b(egins) and r(eads) of first rows."""
    runner = Runner(Sweep(walk, traced={"gain": [1.0]}, seeds=64))
    runner.platform = platform
    monkeypatch.setattr(Runner, "_capacity", lambda self: 1)
    events = []
    begin = Runner._begin

    class Watched(dict):
        def __init__(self, found, name):
            super().__init__(found)
            self.name = name

        def items(self):
            events.append(f"r{self.name}")
            return super().items()

    def begun(self, block, first):
        name = block.first + first
        events.append(f"b{name}")
        call = begin(self, block, first)
        return call._replace(found=Watched(call.found, name))

    monkeypatch.setattr(Runner, "_begin", begun)
    blocks = list(blocks_of(runner.sweep, 32))
    ready = []
    monkeypatch.setattr(jax, "block_until_ready", lambda x: ready.append(len(events)) or x)
    found = [
        runner.run(blocks[0], Settings(8, 32), blocks[1]), runner.run(blocks[1], Settings(8, 32))
    ]  # fmt: skip
    return events, ready, np.concatenate([each["end"] for each in found])


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_next_call_is_begun_before_the_last_one_is_read(platform, monkeypatch):
    events, ready, end = events_of(monkeypatch, platform)
    expected = ["b0"]
    for first in range(0, 64, 8):
        expected += [f"b{first + 8}", f"r{first}"] if first < 56 else [f"r{first}"]
    assert events == expected
    assert len(ready) == (7 if platform == "cpu" else 0)  # there one call at a time
    whole = jinit.sweep(walk, traced={"gain": [1.0]}, seeds=64, block=8, progress=False)
    np.testing.assert_array_equal(end, whole.end.values.ravel())


class _Failing(dict):
    """Results that a device had no room for, which it says when they are read."""

    def items(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")


@pytest.mark.parametrize("late", [False, True])
def test_what_fails_while_it_is_begun_early_is_begun_again_alone(late, monkeypatch):
    expected = jinit.sweep(descend, **ONE_POINT, block=2, progress=False)
    real, failed = Runner._begin, []

    def once(self, block, first):
        if block.first == 4 and not failed:
            failed.append(first)
            if late:
                return real(self, block, first)._replace(found=_Failing())
            raise jax.errors.JaxRuntimeError("INTERNAL: two at once")
        return real(self, block, first)

    monkeypatch.setattr(Runner, "_begin", once)
    assert jinit.sweep(descend, **ONE_POINT, block=2, progress=False).identical(expected)
    assert failed


def test_writing_goes_beside_computing_and_what_waits_is_bounded(tmp_path, monkeypatch):
    """The writer is held: computing stops after the blocks that may wait, and goes on with it."""
    held, computed, written = threading.Event(), [], []
    real_run, real_write = Runner.run, ZarrStore.write

    def run(self, block, *rest):
        computed.append(block.point * 24 + block.first)
        return real_run(self, block, *rest)

    def write(self, block, values):
        held.wait(30)
        real_write(self, block, values)
        written.append(8 * block)

    monkeypatch.setattr(Runner, "run", run)
    monkeypatch.setattr(ZarrStore, "write", write)
    with ThreadPoolExecutor(1) as beside:
        sweep = beside.submit(
            jinit.sweep, noisy, **NOISY, block=8, store=tmp_path / "s", progress=False
        )
        give_up = time.monotonic() + 30
        while len(computed) < 3 and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(0.2)
        assert written == []
        assert computed == [0, 8, 16]  # being written, waiting, in hand
        held.set()
        ds = sweep.result(60)
    assert computed == written == [0, 8, 16, 24, 32, 40]
    assert ds.identical(jinit.sweep(noisy, **NOISY, block=8, progress=False))


@pytest.mark.parametrize("error", [StoreError("full"), KeyboardInterrupt()])
def test_an_error_while_writing_or_computing_leaves_a_store_that_goes_on(
    error, tmp_path, monkeypatch
):
    """What is computed by then is written; the same sweep computes the rest."""
    computed = []
    where = (ZarrStore, "write") if isinstance(error, StoreError) else (Runner, "run")
    real = getattr(*where)

    def broken(self, block, *rest):
        number = block if isinstance(block, int) else block.point * 3 + block.first // 8
        if number == 4:
            raise error
        return real(self, block, *rest)

    options = {"block": 8, "store": tmp_path / "s", "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(*where, broken)
        with pytest.raises(type(error)):
            jinit.sweep(noisy, **NOISY, **options)
    kept = ZarrStore(tmp_path / "s", write=False).done()
    assert kept[:4].all()
    assert not kept[4]
    assert own_threads() == []
    run = Runner.run
    monkeypatch.setattr(
        Runner, "run", lambda self, block, *rest: computed.append(block) or run(self, block, *rest)
    )
    ds = jinit.sweep(noisy, **NOISY, **options)
    assert len(computed) == 6 - kept.sum()
    assert ds.identical(jinit.sweep(noisy, **NOISY, block=8, progress=False))


# --- side by side --------------------------------------------------------------------------------


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: 8)


def test_points_compile_side_by_side_to_the_same_bits(monkeypatch, capsys):
    expected = jinit.sweep(noisy, **NOISY, block=8, progress=False)
    names, both, real = set(), threading.Barrier(2), Program.compile

    def watched(self):
        names.add(threading.current_thread().name)
        both.wait(60)
        return real(self)

    monkeypatch.setattr(Program, "compile", watched)
    monkeypatch.setattr(runtime, "cores", lambda: 8)
    found = jinit.sweep(noisy, **NOISY, block=8)
    assert found.identical(expected)
    assert len(names) == 2
    assert threading.main_thread().name not in names
    assert own_threads() == []
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "jinit.sweep: compiling 2 programs, 2 at a time"


def test_an_error_of_the_compiler_comes_out_of_its_thread(monkeypatch, many_cores):
    def refused(self):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: mine")

    monkeypatch.setattr(Program, "compile", refused)
    with pytest.raises(jax.errors.JaxRuntimeError, match="UNIMPLEMENTED: mine"):
        jinit.sweep(noisy, **NOISY, block=8, progress=False)


def test_an_interrupt_while_programs_are_compiled_begins_no_other(monkeypatch, many_cores):
    begun, held = [], threading.Event()

    def slow(self):
        begun.append(self)
        held.wait(30)

    def interrupted(self, *rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(Program, "compile", slow)
    monkeypatch.setattr(runtime, "cores", lambda: 4)
    monkeypatch.setattr(Runner, "_begun", interrupted)

    def fn(key, start, *, size):
        return {"sum": start.sum()}

    def prepare(key, *, size):
        return jax.random.normal(key, (size,))

    with pytest.raises(KeyboardInterrupt):
        jinit.sweep(fn, prepare=prepare, static={"size": [3, 4, 5, 6, 7]}, progress=False)
    held.set()
    time.sleep(0.2)
    assert len(begun) <= 2  # of four that were handed to two threads


def test_settings_of_this_thread_hold_in_what_others_compile(many_cores):
    """Precision as `with` sets it is a setting of a thread."""

    def fn(key, *, n, a):
        x = a * jax.random.normal(key, (n, n))
        return {"trace": jnp.trace(x @ x)}

    plan = Sweep(fn, {"n": [3, 4]}, {"a": [1.0]})
    with jax.default_matmul_precision("highest"):
        runner = Runner(plan)
        runner.coming = [0, 1]
        runner.run(blocks_of(plan, 1)[0], Settings(1, 1))
    programs = [each.result() for each in runner._programs.values()]
    runner.close()
    assert len(programs) == 2
    assert all("highest" in each.compiled.as_text().lower() for each in programs)


@pytest.mark.bad_input
@pytest.mark.parametrize("call", [jinit.dry_run, jinit.sweep])
def test_a_device_that_is_not_there_is_one_sentence(call, monkeypatch):
    def none():
        raise RuntimeError("Unable to initialize backend 'cuda': no such thing\nand more")

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(RuntimeError, match="jax cannot start on the device that JAX_PL") as caught:
        call(Sweep(walk, **WALK))
    assert "\n" not in str(caught.value)
