"""How the cost of a network changes with their number, their depth, and the processes at work.

    python -m benchmarks.scaling [--most 1000000] [--out DIR]

Every sweep runs in a process of its own (two for shards), through a store on disk, and says how
long it took without compiling and how much memory it held at its peak. Writes scaling.json,
scaling.md and scaling.png.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
SMALL = {"depth": 2, "width": 16, "batch": 64, "steps": 10}
DEEP = {"width": 64, "batch": 64, "steps": 2}
DEPTHS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
SIDE = 1000  # learning rates of the largest grid; the rest are seeds


# --- one sweep, in a process of its own ----------------------------------------------------------


def train(key: Any, *, lr: Any, depth: int, width: int, batch: int, steps: int) -> Any:
    import jax
    import optax

    import jinit

    digits = jinit.data.digits()
    net = jinit.MLP((64, *(width,) * depth, 10), activation="tanh")
    params, state = jinit.init(key, net, "xavier")
    data = (digits.x_train[:batch], digits.y_train[:batch])
    run = jinit.train(
        jax.random.fold_in(key, 1), net, params, state, data, optimizer=optax.sgd(lr), steps=steps
    )
    return {"loss": run.loss, "accuracy": run.accuracy}


def one(setting: dict[str, Any]) -> dict[str, Any]:
    """Run a sweep: its seconds per part, and peak memory."""
    import jinit
    from jinit.sweeps import run as runs
    from jinit.sweeps.blocks import Runner
    from jinit.sweeps.zarr_store import ZarrStore

    jinit.configure()
    networks = setting.pop("networks")
    side = min(SIDE, networks // 10)
    names = ("depth", "width", "batch", "steps")
    plan = jinit.Sweep(
        train,
        {name: [setting[name]] for name in names},
        {"lr": np.geomspace(1e-3, 1e-1, side)},
        networks // side,
    )
    spent = {"compute": 0.0, "write": 0.0, "first": 0.0, "blocks": 0}
    compute, write = Runner.run, ZarrStore.write

    def timed_compute(self: Any, *rest: Any) -> Any:
        began = time.perf_counter()
        result = compute(self, *rest)
        spent["compute"] += time.perf_counter() - began
        spent["blocks"] += 1
        return result

    def timed_write(self: Any, *rest: Any) -> None:
        began = time.perf_counter()
        write(self, *rest)
        spent["write"] += time.perf_counter() - began

    # Compile first: `choose` runs a group of the costliest point, and the block is then known.
    runner = Runner(plan)
    began = time.perf_counter()
    block = setting.get("block")
    chosen = runner.choose(block)
    spent["compile"] = time.perf_counter() - began
    runs.Runner = lambda plan: runner  # type: ignore[misc,assignment]
    Runner.run, ZarrStore.write = timed_compute, timed_write  # type: ignore[method-assign]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    dataset = jinit.sweep(
        plan, store=setting["store"], block=block, shard=tuple(setting.get("shard", (0, 1))),
        progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    found = dataset.loss.values
    return spent | {
        "networks": networks,
        "block": chosen.block,
        "seconds": seconds,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before MiB": before,
        "finite": float(np.isfinite(found).mean()),
        "disk MiB": sum(f.stat().st_size for f in Path(setting["store"]).rglob("*")) / 2**20,
    }


def start(setting: dict[str, Any], cores: set[int] | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scaling", "--one", json.dumps(setting)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
    )  # fmt: skip


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a sweep ended with {process.returncode}")
    return json.loads(out.splitlines()[-1])


# --- the table ----------------------------------------------------------------------------------


def by_number(most: int) -> list[dict[str, Any]]:
    found = []
    for networks in (10**p for p in range(2, 7) if 10**p <= most):
        with tempfile.TemporaryDirectory() as folder:
            found.append(result(start(SMALL | {"networks": networks, "store": f"{folder}/s"})))
        print(f"  {networks:,} networks: {found[-1]['seconds']:.1f} s", flush=True)
    return found


def by_depth(most: int) -> list[dict[str, Any]]:
    found = []
    for depth in (d for d in DEPTHS if d <= most):
        networks = max(20, min(2000, 20_000 // depth)) // 10 * 10
        setting = DEEP | {"depth": depth, "networks": networks}
        with tempfile.TemporaryDirectory() as folder:
            found.append({"depth": depth} | result(start(setting | {"store": f"{folder}/s"})))
        print(f"  depth {depth}: {found[-1]['seconds']:.1f} s", flush=True)
    return found


def by_processes(networks: int) -> dict[str, float]:
    """Seconds of one process on one core, one on all, and one for each core with a shard."""
    cores = sorted(os.sched_getaffinity(0))
    setting = SMALL | {"networks": networks, "block": 4096}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        alone = start(setting | {"store": f"{folder}/one"}, {cores[0]})
        found["1 process, 1 core"] = result(alone)["seconds"]
        found[f"1 process, {len(cores)} cores"] = result(
            start(setting | {"store": f"{folder}/all"})
        )["seconds"]
        shards = [
            start(setting | {"store": f"{folder}/shards", "shard": (i, len(cores))}, {core})
            for i, core in enumerate(cores)
        ]
        found[f"{len(cores)} processes, 1 core each"] = max(
            result(process)["seconds"] for process in shards
        )
    return found


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['machine']}, {found['date']}; {found['versions']}.",
        "",
        "Networks of 2 x 16, batch 64, drawn and trained for 10 steps, through a store; without "
        "compiling.",
        "",
        "| networks | seconds | microseconds a network | peak memory, MiB | on disk, MiB | blocks "
        "| writing, share of computing | compile, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in found["networks"]:
        lines.append(
            f"| {r['networks']:,} | {r['seconds']:.2f} | {1e6 * r['seconds'] / r['networks']:.1f} |"
            f" {r['peak MiB']:.0f} | {r['disk MiB']:.2f} | {r['blocks']} | "
            f"{r['write'] / r['compute']:.2%} | {r['compile']:.1f} |"
        )
    lines += [
        "",
        "Networks of width 64, batch 64, drawn and trained for 2 steps.",
        "",
        "| hidden layers | networks | microseconds a network and layer | peak memory, MiB "
        "| writing, share of computing | compile, s |",
        "|---|---|---|---|---|---|",
    ]
    for r in found["depths"]:
        each = 1e6 * r["seconds"] / r["networks"] / (r["depth"] + 1)
        lines.append(
            f"| {r['depth']} | {r['networks']:,} | {each:.1f} | {r['peak MiB']:.0f} | "
            f"{r['write'] / r['compute']:.2%} | {r['compile']:.1f} |"
        )
    most = max(found["processes"].values())
    lines += ["", f"{found['split']:,} networks of 2 x 16.", "", "| | seconds | speed-up |",
              "|---|---|---|"]  # fmt: skip
    lines += [f"| {n} | {s:.2f} | {most / s:.2f} |" for n, s in found["processes"].items()]
    return "\n".join(lines) + "\n"


def figure(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    n = [r["networks"] for r in found["networks"]]
    left.loglog(n, [1e6 * r["seconds"] / r["networks"] for r in found["networks"]], "o-")
    left.set(xlabel="networks", ylabel="microseconds a network", title="Time")
    middle.semilogx(n, [r["peak MiB"] for r in found["networks"]], "o-", color="#55a868")
    middle.set(xlabel="networks", ylabel="MiB", title="Peak memory")
    middle.set_ylim(0, 1.3 * max(r["peak MiB"] for r in found["networks"]))
    depth = [r["depth"] for r in found["depths"]]
    right.semilogx(
        depth,
        [1e6 * r["seconds"] / r["networks"] / (r["depth"] + 1) for r in found["depths"]],
        "o-", color="#c44e52",
    )  # fmt: skip
    right.set(xlabel="hidden layers", ylabel="microseconds a network and layer", title="Depth")
    right.set_ylim(bottom=0)
    for ax in (left, middle, right):
        ax.spines[["top", "right"]].set_visible(False)
    fig.suptitle(found["machine"], fontsize=10)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=10**6, help="networks")
    parser.add_argument("--deepest", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("speed"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(json.loads(options.one))))
        return
    from benchmarks.compare import machine, versions

    options.out.mkdir(parents=True, exist_ok=True)
    split = min(options.most, 10**5)
    found = {
        "machine": machine(), "date": str(date.today()), "versions": versions(),
        "networks": by_number(options.most), "depths": by_depth(options.deepest),
        "split": split, "processes": by_processes(split),
    }  # fmt: skip
    (options.out / "scaling.json").write_text(json.dumps(found, indent=1))
    (options.out / "scaling.md").write_text(table(found))
    figure(found, options.out / "scaling.png")
    print(table(found))


if __name__ == "__main__":
    main()
