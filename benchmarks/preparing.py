"""What a sweep costs beside the program that it compiles: a thousand small networks, and one.

    python -m benchmarks.preparing [--rounds 5] [--points] [--out DIR]

A thousand networks of 2 x 16 are drawn and trained for 10 steps, compiling included: under one
`jit(vmap)`, by a sweep in memory, and by a sweep with a store. Each in a process of its own, after
its imports and without a cache of compiled programs, all in turn and in a new order every round; a
ratio is taken within a round. Ends with 1 if the median of a ratio is above 1.1. With `--points`
also two depths in one sweep, whose programs are compiled one after the other and side by side.
Writes preparing.json and preparing.md.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
MOST = 1.1
PLAIN, MEMORY, STORE = "jit(vmap)", "sweep in memory", "sweep with a store"
APART, BESIDE = "2 depths, one after the other", "2 depths, side by side"


# --- one process ---------------------------------------------------------------------------------


def train(key: Any, *, gain: Any, depth: int = 2) -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    import jinit

    init_key, train_key = jax.random.split(key)
    net = jinit.MLP((64, *(16,) * depth, 10))
    params, state = jinit.init(init_key, net, "he", gain=gain)
    run = jinit.train(
        train_key, net, params, state, jinit.data.digits(), optimizer=optax.sgd(jnp.float32(0.1)),
        steps=10, batch_size=64,
    )  # fmt: skip
    return {"loss": run.loss, "accuracy": run.accuracy}


def one(entry: str) -> dict[str, Any]:
    """Seconds, of the wall and of all cores, from the call to the numbers."""
    import google_crc32c  # noqa: F401  # whose first use would be in the time
    import jax
    import jax.numpy as jnp
    import numcodecs.zstd  # noqa: F401
    import optax  # noqa: F401
    import zarr  # noqa: F401

    import jinit
    from jinit import runtime
    from jinit.sweeps import run as _  # noqa: F401

    jinit.data.digits()
    jax.block_until_ready(jnp.zeros(3) + jax.random.uniform(jax.random.key(0), (3,)))
    gains, seeds = np.geomspace(0.5, 2, 10, dtype=np.float32), 100
    static: Any = {}
    if entry in (APART, BESIDE):
        static = {"depth": [1, 2]}
        runtime.cores = lambda: 2 if entry == APART else 2 * (os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "s.zarr" if entry == STORE else None
        wall, spent = time.perf_counter(), time.process_time()
        if entry == PLAIN:
            numbers = jnp.asarray(np.repeat(gains, seeds)), jnp.tile(jnp.arange(seeds), len(gains))
            mapped = jax.jit(jax.vmap(lambda g, s: train(jax.random.key(s), gain=g)))
            loss = np.asarray(jax.device_get(mapped(*numbers))["loss"])
        else:
            found = jinit.sweep(
                train, static=static, traced={"gain": gains}, seeds=seeds, store=store,
                progress=False,
            )  # fmt: skip
            loss = found.loss.values
        wall, spent = time.perf_counter() - wall, time.process_time() - spent
    return {"seconds": wall, "cpu seconds": spent, "mean loss": float(np.nanmean(loss))}


def alone(entry: str) -> dict[str, Any]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "JAX_PERSIST"))}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.preparing", "--one", entry], cwd=ROOT,
        env=clean | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


# --- the table -----------------------------------------------------------------------------------


def measured(entries: list[str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {entry: [] for entry in entries}
    for i in range(rounds):
        for entry in random.Random(i).sample(entries, len(entries)):
            found[entry].append(alone(entry))
            print(f"  round {i + 1}, {entry}: {found[entry][-1]['seconds']:.2f} s", flush=True)
    return found


def spread(values: np.ndarray, digits: int = 2) -> str:
    return (
        f"{np.median(values):.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"
    )


def ratios(found: dict[str, list[dict[str, Any]]], entry: str, over: str, what: str) -> np.ndarray:
    return np.array([a[what] / b[what] for a, b in zip(found[entry], found[over], strict=True)])


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| | seconds | over the first | of all cores' time | mean loss |",
             "|---|---|---|---|---|"]  # fmt: skip
    for entry, runs in found.items():
        over = APART if entry in (APART, BESIDE) else PLAIN
        seconds = np.array([run["seconds"] for run in runs])
        against = [""] * 2 if entry == over else [
            spread(ratios(found, entry, over, what)) for what in ("seconds", "cpu seconds")
        ]  # fmt: skip
        loss = runs[0]["mean loss"]
        lines.append(
            f"| {entry} | {spread(seconds, 1)} | {against[0]} | {against[1]} | {loss:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", action="store_true", help="two depths too")
    parser.add_argument("--out", type=Path, default=Path("speed"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    from benchmarks.compare import machine, versions

    entries = [PLAIN, MEMORY, STORE] + ([APART, BESIDE] if options.points else [])
    found = measured(entries, options.rounds)
    text = f"{machine()}, {date.today()}; {versions()}.\n\n{table(found)}"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "preparing.json").write_text(json.dumps(found, indent=1))
    (options.out / "preparing.md").write_text(text)
    print(text)
    over = [e for e in (MEMORY, STORE) if np.median(ratios(found, e, PLAIN, "seconds")) > MOST]
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
