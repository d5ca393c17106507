"""jinit beside what a user would pick instead: network-steps per second, in one interleaved run.

    python -m benchmarks.compare [--workloads small typical ...] [--rounds 7] [--out DIR]
    python -m benchmarks.compare --against COMMIT [--rounds 15] [--out DIR]

Every peer builds the same networks in a process of its own; their results are compared before
anything is timed; then they run in turn, in a new order every round, on the same cores, alone.
Peers that take long are timed on fewer networks, and marked. PyTorch and Flax must be installed.
Writes speed.json (every run's seconds), speed.md (the tables) and speed.png.

With --against, the other side is jinit itself as it was at a commit (benchmarks/against.py), and
`layer_signals` is timed too. Writes against.json and against.md, and ends with 1 if a row's 95 %
interval lies below its floor.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import against
from benchmarks.rounds import Worker, differences, in_turn
from benchmarks.worker import ENTRIES
from benchmarks.workloads import WORKLOADS, Workload

# One network after the other: timed on a part, since the time is in proportion.
SLOW = ("NumPy loop", "PyTorch loop", "jitted step", "Flax loop")
CONVOLVE = ("jinit", "jinit, jit(vmap)", "jit(vmap)", "jitted step", "PyTorch loop")
PART = {
    "conv": 4, "conv deep": 1,
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
    "conv": (2.0, 2.0), "conv deep": (2.0, 2.0), "wide": (1.4, 1.0), "gradients 10": (2.0, 4.0),
    "gradients 50": (2.0, 4.0),
    "gradients 100": (2.0, 4.0), "gradients 300": (2.0, 4.0), "grid f32": (2.0, 0.0),
    "grid f64": (2.0, 0.0),
}  # fmt: skip


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
            able = [e for e in entries if not work.image or e in CONVOLVE]
            for entry in [*able, "gemm"]:
                place = Path(folder) / f"{entry.replace(' ', '_')}.npy"
                workers.append(Worker(entry, work, _part(entry, work, small), place, small=small))
            *peers, gemm = workers
            apart = differences(work, peers)
            order = random.Random(0)
            in_turn(work, workers, rounds, lambda _, all_: order.sample(all_, len(all_)))
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
            for worker, difference in zip(peers, apart, strict=True)
        },
    }


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
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, help="all, if not given")
    parser.add_argument("--entries", nargs="+", choices=ENTRIES, default=ENTRIES)
    parser.add_argument("--rounds", type=int, help="7, or 15 with --against")
    parser.add_argument("--against", metavar="COMMIT", help="time jinit beside itself at a commit")
    parser.add_argument("--out", type=Path, default=Path("speed"))
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the program")
    parser.add_argument("--add", action="store_true", help="keep workloads that --out holds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rounds = options.rounds or (15 if options.against else 7)
    names = options.workloads or [n for n in WORKLOADS if options.against or n in FLOORS]
    works = [WORKLOADS[name].small() if options.small else WORKLOADS[name] for name in names]
    facts = {"machine": machine(), "date": str(date.today()), "versions": versions()}
    if options.against:
        sys.exit(_against(options.against, works, rounds, options.out, facts, options.small))
    if unknown := [name for name in names if name not in FLOORS]:
        parser.error(f"{unknown[0]} has no peers; it is timed with --against COMMIT.")
    path = options.out / "speed.json"
    entries = [e for e in ENTRIES if e in options.entries or e == "jinit"]
    results: Any = {"workloads": {}}
    if options.add and path.exists():
        results = json.loads(path.read_text())
    results |= facts | {"rounds": rounds}
    for work in works:
        results["workloads"][work.name] = measure(work, entries, rounds, small=options.small)
        path.write_text(json.dumps(results, indent=1))
    measured = results["workloads"]
    results["workloads"] = {name: measured[name] for name in WORKLOADS if name in measured}
    path.write_text(json.dumps(results, indent=1))
    (options.out / "speed.md").write_text(tables(results))
    figure(results, options.out / "speed.png")
    print(tables(results))


def _against(
    commit: str, works: list[Workload], rounds: int, out: Path, facts: dict[str, str], small: bool
) -> int:
    """The exit status: 1 if a row was lost."""
    try:
        results = facts | against.compare(commit, works, rounds, out, small=small)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    (out / "against.json").write_text(json.dumps(results, indent=1))
    (out / "against.md").write_text(against.table(results))
    print(against.table(results))
    return int(bool(against.lost(results)))


if __name__ == "__main__":
    main()
