"""Kill a sweep again and again, at random instants, and compare what is left in the end.

Each round is a store of its own: one of several block sizes, begun with a part of the grid and
grown to all of it, whole or one shard of two. A process that sweeps into it is started, killed with
SIGKILL after a random part of the time that it needs, and started again until it has finished. The
dataset must then be identical, bit for bit, to that of a process nobody killed and that has grown
nothing. Prints the count, and how many blocks the kills found done.

    python tests/sweeps/kill_and_resume.py --kills 50
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BLOCKS = (3, 4, 9)
CHILD = """
import sys
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[4])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
import jinit
from swept import BUSY, busy
store, block, shard, part = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3]), sys.argv[5] == "part"
axes = BUSY | ({"traced": {"gain": [1.3, 0.5]}, "seeds": [7, 0, 3, 4, 8]} if part else {})
print("begun", flush=True)
jinit.sweep(busy, **axes, store=store, block=block, shard=shard, progress=False)
"""


def start(
    store: Path, block: int, shard: tuple[int, int], cache: Path, stage: str = "whole"
) -> subprocess.Popen:
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(store), str(block), str(shard), str(cache), stage],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE,
    )  # fmt: skip


def timed(store: Path, block: int, shard: tuple[int, int], cache: Path) -> float:
    """Seconds of a run that nobody kills, after its imports."""
    child = start(store, block, shard, cache)
    child.stdout.readline()
    began = time.monotonic()
    assert child.wait() == 0, f"exit status {child.returncode}"
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parents[1]))
    import jinit

    rng = random.Random(options.seed)
    kills = rounds = midway = 0
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        whole, seconds = {}, {}
        while kills < options.kills or not midway:  # a kill before the first block proves little
            block = BLOCKS[rounds % len(BLOCKS)]
            if block not in whole:
                store = Path(folder) / f"whole-{block}.zarr"
                timed(store, block, (0, 1), cache)  # fills the cache of compiled programs
                whole[block] = jinit.load(store)
                seconds[block] = timed(Path(folder) / f"timed-{block}.zarr", block, (0, 1), cache)
            shards = [(0, 1)] if rounds % 2 else [(0, 2), (1, 2)]
            stages = [("part", (0, 1)), *(("whole", shard) for shard in shards)]
            store = Path(folder) / f"killed-{rounds}.zarr"
            for stage, shard in stages:
                while True:
                    child = start(store, block, shard, cache, stage)
                    child.stdout.readline()
                    if kills < options.kills or not midway:
                        time.sleep(rng.uniform(0.0, 0.9 * seconds[block]))
                        if child.poll() is None:
                            child.send_signal(signal.SIGKILL)
                    status = child.wait()
                    if status == 0:
                        break
                    assert status == -signal.SIGKILL, f"exit status {status}"
                    kills += 1
                    done = len(list(store.glob("done/c/*")))
                    whole_store = Path(folder) / f"whole-{block}.zarr"
                    midway += 0 < done < len(list(whole_store.glob("done/c/*")))
                    print(f"kill {kills} ({stage}): {done} blocks of {block} were done", flush=True)
            rounds += 1
            if not jinit.load(store).identical(whole[block]):
                print(f"round {rounds}: the dataset differs from the uninterrupted one")
                return 1
            left = [p.name for p in Path(folder).iterdir() if p.name.startswith(f".{store.name}")]
            print(f"round {rounds}: identical ({len(left)} abandoned beginnings)", flush=True)
    print(f"{kills} kills, {midway} of them midway, {rounds} stores: all identical.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
