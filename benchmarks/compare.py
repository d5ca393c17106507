"""jinit beside what a user would pick instead: network-steps per second, in one interleaved run.

    python -m benchmarks.compare [--workloads small typical ...] [--rounds 7] [--out DIR]

Every peer builds the same networks in a process of its own; their results are compared before
anything is timed; then they run in turn, in a new order every round, on the same cores, alone.
Peers that take long are timed on fewer networks, and marked. PyTorch and Flax must be installed.
Writes speed.json (every run's seconds), speed.md (the tables) and speed.png.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import ENTRIES
from benchmarks.workloads import WORKLOADS, Workload

ROOT = Path(__file__).parent.parent
AGREE = 1e-3  # results of two peers, relative to their size (absolute for logarithms)
PAUSE = 0.3  # seconds: threads of the one before stop spinning

# One network after the other: timed on a part, since the time is in proportion.
SLOW = ("NumPy loop", "PyTorch loop", "jitted step", "Flax loop")
PART = {
    "small": 32, "typical": 16, "deep": 4, "batch norm": 2, "wide": 2, "gradients 10": 64,
    "gradients 50": 8, "gradients 100": 4, "gradients 300": 2, "grid f32": 16, "grid f64": 16,
}  # fmt: skip
# Batched by hand: parts that are wide enough to be batches.
BATCHED = ("torch.func", "torch.bmm")
BATCHED_PART = {
    "deep": 16, "batch norm": 16, "wide": 8, "gradients 10": 64, "gradients 50": 64,
    "gradients 100": 16, "gradients 300": 16, "grid f32": 1024, "grid f64": 1024,
}  # fmt: skip
# jit(vmap) runs the workload whole, as jinit does, but for depths at which it goes by 16s anyway.
MAPPED_PART = {"gradients 100": 64, "gradients 300": 64}

FLOORS = {  # against jit(vmap), against a PyTorch loop
    "small": (2.0, 15.0), "typical": (2.5, 4.0), "deep": (2.0, 1.4), "batch norm": (2.0, 4.0),
    "wide": (1.4, 1.0), "gradients 10": (2.0, 4.0), "gradients 50": (2.0, 4.0),
    "gradients 100": (2.0, 4.0), "gradients 300": (2.0, 4.0), "grid f32": (2.0, 0.0),
    "grid f64": (2.0, 0.0),
}  # fmt: skip


class Worker:
    """A peer's process."""

    def __init__(self, entry: str, work: Workload, folder: Path, small: bool) -> None:
        self.entry = entry
        self.networks = _part(entry, work, small)
        self.results = folder / f"{entry.replace(' ', '_')}.npy"
        arguments = [entry, work.name, str(self.networks), str(self.results)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", *arguments, *(["--small"] * small)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=ROOT,
        )  # fmt: skip
        self.compile_seconds = self._answer()["compile"]
        self.seconds: list[float] = []

    def run(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.seconds.append(self._answer()["seconds"])

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.entry} ended:\n{self.process.stderr.read()[-2000:]}")
        return json.loads(line)


def _part(entry: str, work: Workload, small: bool) -> int:
    if small:
        return work.networks
    if entry in SLOW:
        return PART[work.name]
    if entry in BATCHED:
        return BATCHED_PART.get(work.name, work.networks)
    if entry == "jinit":
        return work.networks
    return MAPPED_PART.get(work.name, work.networks)


def measure(work: Workload, entries: list[str], rounds: int, *, small: bool = False) -> Any:
    """A workload's results as JSON holds them; raises if two peers disagree."""
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for entry in [*entries, "gemm"]:
                workers.append(Worker(entry, work, Path(folder), small))
            *peers, gemm = workers
            differences = _differences(work, peers)
            order = random.Random(0)
            for i in range(rounds):
                started = time.perf_counter()
                for worker in order.sample(workers, len(workers)):
                    time.sleep(PAUSE)
                    worker.run()
                left = (rounds - 1 - i) * (time.perf_counter() - started)
                print(f"  {work.name}: round {i + 1} of {rounds}, {left:.0f} s left", flush=True)
        finally:
            for worker in workers:
                worker.close()
    return {
        "networks": work.networks,
        "whole": work.whole or work.networks,
        "steps": work.steps,
        "flops per network-step": work.flops,
        "t_gemm": min(gemm.seconds) * work.networks,
        "peers": {
            worker.entry: {
                "networks": worker.networks,
                "compile": worker.compile_seconds,
                "seconds": worker.seconds,
                "difference": difference,
            }
            for worker, difference in zip(peers, differences, strict=True)
        },
    }


def _differences(work: Workload, peers: list[Worker]) -> list[float]:
    """Of each peer's results from the first's, at most."""
    reference = np.load(peers[0].results).astype(float)
    found = []
    for peer in peers:
        results = np.load(peer.results).astype(float)
        expected = reference[: len(results)]
        size = 1.0 if work.kind == "gradients" else np.abs(expected)
        if results.shape != expected.shape or not np.isfinite(results).all():
            raise AssertionError(f"{work.name}: {peer.entry} gave {results.shape} or no numbers")
        found.append(float(np.max(np.abs(results - expected) / size)))
        if found[-1] > AGREE:
            raise AssertionError(
                f"{work.name}: {peer.entry} differs from {peers[0].entry} by {found[-1]:.2g}"
            )
    return found


# --- tables -------------------------------------------------------------------------------------


def rates(result: Any, entry: str) -> np.ndarray:
    """Network-steps per second of every round."""
    peer = result["peers"][entry]
    return peer["networks"] * result["steps"] / np.asarray(peer["seconds"])


def ratio(result: Any, entry: str) -> np.ndarray:
    """jinit's rate over the peer's, round by round."""
    return rates(result, "jinit") / rates(result, entry)


def floor_share(result: Any) -> float:
    """t_gemm / t: the share of jinit's median time that its matrix products need."""
    return result["t_gemm"] / statistics.median(result["peers"]["jinit"]["seconds"])


def tables(results: Any) -> str:
    """Markdown: a summary, then each workload's peers."""
    lines = [
        f"{results['machine']}, {results['date']}; {results['versions']}. Median of "
        f"{results['rounds']} interleaved rounds, with the smallest and largest in brackets.",
        "",
        "| workload | jinit, network-steps/s | against jit(vmap) | against a PyTorch loop "
        "| t_gemm / t |",
        "|---|---|---|---|---|",
    ]
    for name, result in results["workloads"].items():
        vmap, torch = FLOORS[name]
        cells = [_spread(rates(result, "jinit"))]
        for entry, floor in (("jit(vmap)", vmap), ("PyTorch loop", torch)):
            if entry not in result["peers"]:
                cells.append("")
                continue
            values = ratio(result, entry)
            middle = np.median(values)
            missed = "" if middle >= floor else f", **below {floor:g}**"
            cells.append(f"{middle:.2f} ({values.min():.2f} to {values.max():.2f}){missed}")
        lines.append(f"| {name} | {' | '.join(cells)} | {floor_share(result):.2f} |")
    for name, result in results["workloads"].items():
        work = WORKLOADS[name]
        lines += [
            "",
            f"### {name}",
            "",
            f"{result['networks']} networks of {work.layers} x {work.width}, batch {work.batch}, "
            f"{work.steps} step{'s' if work.steps > 1 else ''}, {work.dtype}"
            + (f" (of {result['whole']})" if result["whole"] > result["networks"] else "")
            + ".",
            "",
            "| | network-steps/s | jinit is faster by | compile, s | networks timed |"
            " largest difference |",
            "|---|---|---|---|---|---|",
        ]
        for entry, peer in result["peers"].items():
            faster = f"{np.median(ratio(result, entry)):.2f}" if entry != "jinit" else ""
            part = peer["networks"]
            lines.append(
                f"| {entry} | {_spread(rates(result, entry))} | {faster} | {peer['compile']:.1f} | "
                f"{part if part == result['networks'] else f'**{part}**'} | "
                f"{peer['difference']:.0e} |"
            )
    return "\n".join(lines) + "\n"


def _spread(values: np.ndarray) -> str:
    middle, low, high = (f"{v:,.0f}" for v in (np.median(values), values.min(), values.max()))
    return f"{middle} ({low} to {high})"


def figure(results: Any, path: Path) -> None:
    """Rates of all peers, one panel per workload, as multiples of plain jit(vmap)'s."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(results["workloads"])
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.6 * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for name, ax in zip(names, axes.flat, strict=False):
        result = results["workloads"][name]
        entries = [e for e in ENTRIES if e in result["peers"] and e != "jinit, jit(vmap)"]
        values = [np.median(rates(result, e)) for e in entries]
        colors = ["#c44e52" if e == "jinit" else "#8c9bb0" for e in entries]
        bars = ax.barh(entries, values, color=colors)
        ax.bar_label(bars, [f"{v:,.0f}" for v in values], padding=3, fontsize=7)
        ax.set(xlim=(0, 1.28 * max(values)), title=name)
        ax.set_xticks([])
        ax.invert_yaxis()
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.tick_params(axis="y", length=0, labelsize=8)
    fig.suptitle(f"Network-steps per second, {results['machine']}", fontsize=11)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((li.split(":")[1].strip() for li in lines if "model name" in li), model)
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def versions() -> str:
    """Of the packages that are timed, and installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("jax", "torch", "numpy", "flax"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # its peers were left out
            continue
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--entries", nargs="+", choices=ENTRIES, default=ENTRIES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("speed"))
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the program")
    parser.add_argument("--add", action="store_true", help="keep workloads that --out holds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "speed.json"
    entries = [e for e in ENTRIES if e in options.entries or e == "jinit"]
    results: Any = {"workloads": {}}
    if options.add and path.exists():
        results = json.loads(path.read_text())
    results |= {
        "machine": machine(), "date": str(date.today()), "versions": versions(),
        "rounds": options.rounds,
    }  # fmt: skip
    for name in options.workloads:
        work = WORKLOADS[name].small() if options.small else WORKLOADS[name]
        results["workloads"][name] = measure(work, entries, options.rounds, small=options.small)
        path.write_text(json.dumps(results, indent=1))
    measured = results["workloads"]
    results["workloads"] = {name: measured[name] for name in WORKLOADS if name in measured}
    path.write_text(json.dumps(results, indent=1))
    (options.out / "speed.md").write_text(tables(results))
    figure(results, options.out / "speed.png")
    print(tables(results))


if __name__ == "__main__":
    main()
