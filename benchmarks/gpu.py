"""jinit on an accelerator beside plain JAX, PyTorch and what the card can do, in three minutes.

    python -m benchmarks.gpu [--out DIR] [--seconds 170] [--only deep wide ...] [--small]

Every row is timed in interleaved runs of one process: jinit's sweep, a hand-written list of layers
under plain `jit(vmap)`, PyTorch's batched products (where torch sees the card; training as a CUDA
graph), and, of two rows, jinit with full float32 products. How far results differ, by rounding,
stands beside. Rows that matter most come first; what does not fit into the time is left out, and
named. Writes gpu.json after every row, gpu.md and gpu.png.

Without a GPU it runs on the CPU with --small, which tries the program and says nothing of speed.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jinit
from benchmarks.peers import Built
from benchmarks.workloads import WORKLOADS, Workload

__all__ = ["NETWORKS", "ORDER", "left_out", "table"]

NETWORKS = {
    "deep": 128, "batch norm": 256, "typical": 2048, "small": 16384, "grid f32": 65536,
    "wide": 64, "gradients 100": 1024,
}  # fmt: skip
"""how many of a workload's networks fill a large card"""

EARLIER = {
    "card": "NVIDIA H100", "date": "2026-11-27", "versions": "jax 0.11.2, torch 2.11.0",
    "jinit": {"deep": 15_400, "batch norm": 20_500, "typical": 566_000, "wide": 11_100,
              "gradients 100": 4_000, "small": 7_340_000, "grid f32": 24_500_000},
    "over plain": {"deep": 0.47, "batch norm": 0.51, "typical": 0.77, "wide": 0.85,
                   "gradients 100": 0.44, "small": 1.02, "grid f32": 1.05},
}  # fmt: skip
"""network-steps a second before programs followed the platform; "sweep" rows took 10 to 11 s"""

_FIRST = ("deep", "batch norm", "typical", "sweep", "small", "grid f32", "tour", "ceilings")
ORDER = (*_FIRST, *(name for name in NETWORKS if name not in _FIRST), "frame")
_HIGHEST = ("deep", "typical")  # also timed with full float32 products
SWEEPS = (1_000, 1_000_000)
ROUNDS = 3


# --- the card ------------------------------------------------------------------------------------


def ceilings(small: bool) -> dict[str, float]:
    """Products and copies alone: TFLOP/s, the error of a product, TB/s."""
    n, keys = 512 if small else 8192, jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (n, n)) for key in keys)
    exact = np.asarray(a[:64], np.float64) @ np.asarray(b, np.float64)
    found = {}
    for name, precision in (("default", None), ("highest", "highest")):
        product = jax.jit(lambda a, b, p=precision: jnp.dot(a, b, precision=p))
        seconds = min(_seconds(lambda p=product: p(a, b).block_until_ready()))
        off = np.asarray(product(a, b)[:64], np.float64) - exact
        found[f"{n} x {n}, {name}, TFLOP/s"] = 2 * n**3 / seconds / 1e12
        found[f"{n} x {n}, {name}, relative error"] = float(
            np.linalg.norm(off) / np.linalg.norm(exact)
        )
    big = jnp.ones(2**20 if small else 2**29, jnp.float32)
    copy = jax.jit(lambda x: x * 1.0001)
    found["copy, TB/s"] = 2 * big.nbytes / min(_seconds(lambda: copy(big).block_until_ready()))
    found["copy, TB/s"] /= 1e12
    return found


def _seconds(call: Callable[[], Any], times: int = 5) -> list[float]:
    call()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


# --- a workload ----------------------------------------------------------------------------------


def work_of(name: str, small: bool) -> Workload:
    return WORKLOADS[name].small() if small else replace(WORKLOADS[name], networks=NETWORKS[name])


def _builders(work: Workload) -> dict[str, Callable[[Workload, int], Built]]:
    from benchmarks.peers import jax_peers, jinit_sweep

    found = {"jinit": jinit_sweep.sweep, "jit(vmap)": jax_peers.ENTRIES["jit(vmap)"]}

    def highest(work: Workload, networks: int) -> Built:
        with jax.default_matmul_precision("highest"):
            return jinit_sweep.sweep(work, networks)

    if work.name in _HIGHEST:
        found["jinit, highest"] = highest
    try:
        import torch
    except ModuleNotFoundError:
        return found
    if torch.cuda.is_available():
        from benchmarks.peers import torch_peers

        torch.backends.cuda.matmul.allow_tf32 = True
        found["torch graph"] = lambda work, networks: torch_peers.bmm(work, networks, "cuda")
    return found


def workload(name: str, small: bool) -> dict[str, Any]:
    """Seconds of every entry, round by round, and what one failed with."""
    work = work_of(name, small)
    found: dict[str, Any] = {"networks": work.networks, "steps": work.steps, "flops": work.flops}
    found |= {"seconds": {}, "compile": {}, "difference": {}, "failed": {}}
    builders, builts = _builders(work), {}
    reference: Any = None
    for entry, build in builders.items():
        try:
            built = build(work, work.networks)
            results = built.run()
            if work.compared() != work and entry in ("jinit", "jit(vmap)"):
                results = build(work.compared(), work.networks).run()
        except Exception as error:  # of one peer: the others are timed all the same
            found["failed"][entry] = f"{type(error).__name__}: {str(error)[:300]}"
            continue
        reference = results if reference is None else reference
        size = 1.0 if work.logarithms else np.abs(reference)
        found["difference"][entry] = float(np.max(np.abs(results - reference) / size))
        builts[entry] = built
        found["compile"][entry] = built.compile_seconds
        found["seconds"][entry] = []
    for i in range(ROUNDS):
        for entry in list(builts)[:: 1 if i % 2 else -1]:
            began = time.perf_counter()
            builts[entry].run()
            found["seconds"][entry].append(time.perf_counter() - began)
    return found


# --- what a person waits for ---------------------------------------------------------------------


def _networks(key: Any, *, gain: Any) -> dict[str, Any]:
    """One network of 2 x 16, drawn and trained for 10 steps."""
    import optax

    own, batches = jax.random.split(key)
    net = jinit.MLP((64, 16, 16, 10))
    params, state = jinit.init(own, net, "he", gain=gain)
    run = jinit.train(
        batches, net, params, state, jinit.data.digits(), optimizer=optax.sgd(0.1), steps=10,
        batch_size=64,
    )  # fmt: skip
    return {"loss": run.loss, "accuracy": run.accuracy}


def sweep(small: bool) -> dict[str, float]:
    """Seconds of whole sweeps with a store, and of one `jit(vmap)` with its compilation."""
    import optax  # noqa: F401  so that nobody's time holds an import
    import zarr  # noqa: F401

    gains, found = np.geomspace(0.5, 2, 10).astype(np.float32), {}
    jinit.data.digits()
    jax.clear_caches()
    keys = jax.random.split(jax.random.key(0), SWEEPS[0])
    function = jax.jit(jax.vmap(lambda key, gain: _networks(key, gain=gain)))
    for name in ("jit(vmap) of {:,}, compiling", "jit(vmap) of {:,}, compiled"):
        began = time.perf_counter()
        jax.block_until_ready(function(keys, jnp.tile(gains, SWEEPS[0] // 10)))
        found[name.format(SWEEPS[0])] = time.perf_counter() - began
    for networks in SWEEPS[: 1 if small else None]:
        jax.clear_caches()
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            jinit.sweep(_networks, traced={"gain": gains}, seeds=networks // 10, progress=False,
                        store=f"{folder}/store.zarr")  # fmt: skip
            found[f"sweep of {networks:,}"] = time.perf_counter() - began
    return found


def frame(small: bool) -> dict[str, float]:
    """A frame of the fractal (Sohl-Dickstein 2024): a learning rate for each layer, 500 steps."""
    import optax

    side, steps = (16, 20) if small else (512, 500)
    net = jinit.MLP((16, 16, 1), activation="tanh", bias=False)
    params, state = jinit.init(jax.random.key(0), net, "xavier")
    x, y = WORKLOADS["grid f32"].data

    def function(key: Any, *, first: Any, second: Any) -> dict[str, Any]:
        def update(gradient: Any, _: Any) -> Any:
            pairs = zip(gradient.runs, (first, second), strict=True)
            return jinit.Params(tuple(jax.tree.map(lambda g, r=r: -r * g, run) for run, r in pairs))

        run = jinit.train(key, net, params, state, (jnp.asarray(x), jnp.asarray(y)),
                          optimizer=optax.stateless(update), steps=steps)  # fmt: skip
        return {"ratio": jnp.mean(run.history.loss[-20:]) / run.history.loss[0]}

    rates = np.geomspace(1e-3, 1e3, side).astype(np.float32)
    began = time.perf_counter()
    jinit.sweep(function, traced={"first": rates, "second": rates}, progress=False)
    return {f"{side} x {side}, {steps} steps, compiling": time.perf_counter() - began}


def tour(small: bool) -> dict[str, float]:
    """`jinit tour --quick`, a process of its own, without a compilation cache."""
    if small:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "jinit", "tour", "--quick", "--out", f"{folder}/tour"],
            check=True, capture_output=True, env=environment, timeout=60,
        )  # fmt: skip
        return {"tour --quick": time.perf_counter() - began}


# --- all of it -----------------------------------------------------------------------------------

_PARTS = {"ceilings": ceilings, "sweep": sweep, "frame": frame, "tour": tour}
_NEED = {"ceilings": 10, "batch norm": 45, "tour": 60}  # seconds; 20 for the others


def measure(names: list[str], seconds: float, small: bool, path: Path) -> dict[str, Any]:
    """Every part that the time is enough for, kept after each."""
    began = time.perf_counter()
    results: dict[str, Any] = {
        "device": jax.devices()[0].device_kind, "jax": jax.__version__, "date": str(date.today()),
        "small": small, "parts": {},
    }  # fmt: skip
    for name in names:
        left = seconds - (time.perf_counter() - began)
        if left < _NEED.get(name, 20):
            print(f"{name}: left out, {left:.0f} s left", flush=True)
            continue
        try:
            part = _PARTS[name](small) if name in _PARTS else workload(name, small)
        except Exception as error:  # one part that fails leaves the others
            part = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        results["parts"][name] = part
        took = time.perf_counter() - began
        print(f"[{took:4.0f} s] {name}: {json.dumps(part)}", flush=True)
        path.write_text(json.dumps(results, indent=1))
        gc.collect()
        jax.clear_caches()
    return results


def left_out(results: dict[str, Any]) -> list[str]:
    """What has no figures: for want of time, or because it failed."""
    return [n for n in ORDER if n not in results["parts"] or "error" in results["parts"][n]]


def rates(row: dict[str, Any], entry: str) -> np.ndarray:
    """Network-steps a second, round by round."""
    return row["networks"] * row["steps"] / np.asarray(row["seconds"][entry])


def _ratio(row: dict[str, Any], entry: str) -> str:
    if entry not in row["seconds"] or "jinit" not in row["seconds"]:
        return row["failed"].get(entry, "")[:40]
    middle = float(np.median(rates(row, "jinit") / rates(row, entry)))
    return f"**{middle:.2f}**" if middle < 1 else f"{middle:.2f}"


def table(results: dict[str, Any]) -> str:
    """Markdown; ratios below 1 are bold."""
    small = " Small networks, to try the program: these are no speeds." * results["small"]
    lines = [
        f"{results['device']}, {results['date']}; jax {results['jax']}. Medians of {ROUNDS} "
        f"interleaved rounds, smallest and largest in brackets.{small}",
        "",
        "| workload (networks) | jinit, network-steps/s | TFLOP/s | over jit(vmap) | over "
        f"torch | at highest | compile s, jinit / jit(vmap) | earlier, "
        f"{EARLIER['card']} | over jit(vmap) then |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    parts = results["parts"]
    for name in NETWORKS:
        row = parts.get(name, {})
        if "jinit" not in row.get("seconds", {}):
            continue
        own = rates(row, "jinit")
        highest = ""
        if "jinit, highest" in row["seconds"]:
            highest = f"{np.median(rates(row, 'jinit, highest')):,.0f}"
        compiled = [f"{row['compile'].get(e, np.nan):.1f}" for e in ("jinit", "jit(vmap)")]
        ratios = [_ratio(row, e) for e in ("jit(vmap)", "torch graph")]
        lines.append(
            f"| {name} ({row['networks']}) | {np.median(own):,.0f} ({own.min():,.0f} to "
            f"{own.max():,.0f}) | {np.median(own) * row['flops'] / 1e12:.1f} | "
            f"{' | '.join(ratios)} | {highest} | {' / '.join(compiled)} | "
            f"{EARLIER['jinit'][name]:,} | {EARLIER['over plain'][name]} |"
        )
    lines += ["", "| | |", "|---|---|"]
    for name in _PARTS:
        cells = parts.get(name, {})
        unit = "" if name == "ceilings" else " s"
        lines += [f"| {what} | {v:.3g}{unit} |" for what, v in cells.items() if what != "error"]
    if missing := left_out(results):
        lines += ["", f"Without figures: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def figure(results: dict[str, Any], path: Path) -> None:
    """Every entry's rate over plain jit(vmap)'s."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = {n: r for n, r in results["parts"].items() if "jit(vmap)" in r.get("seconds", {})}
    if not rows:
        return
    entries = ("jinit", "jinit, highest", "torch graph")
    colors = dict(zip(entries, ("#c44e52", "#dd8452", "#55a868"), strict=True))
    fig, ax = plt.subplots(figsize=(8, 0.75 * len(rows) + 1.4), layout="constrained")
    for entry in entries:
        found = [
            (i, float(np.median(rates(row, entry) / rates(row, "jit(vmap)"))))
            for i, row in enumerate(rows.values())
            if entry in row["seconds"]
        ]
        if found:
            y = [i + 0.25 * entries.index(entry) - 0.25 for i, _ in found]
            ax.barh(y, [v for _, v in found], 0.22, color=colors[entry], label=entry)
    ax.axvline(1, color="k", lw=0.8)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set(xlabel="rate over plain jit(vmap)'s", title=f"{results['device']}, {results['date']}")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("speed"))
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--only", nargs="+", choices=ORDER, default=list(ORDER))
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the program")
    options = parser.parse_args()
    # Each workload holds several peers' arrays, and PyTorch has memory of its own.
    if "XLA_CLIENT_MEM_FRACTION" not in os.environ:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    jinit.configure()
    if jax.default_backend() == "cpu" and not options.small:
        parser.error("there is no accelerator here; --small tries the program on a CPU.")
    options.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in ORDER if name in options.only]
    results = measure(names, options.seconds, options.small, options.out / "gpu.json")
    (options.out / "gpu.md").write_text(table(results))
    figure(results, options.out / "gpu.png")
    print(table(results))


if __name__ == "__main__":
    main()
