"""jinit beside jinit at another commit, in one interleaved run: `benchmarks.compare --against`.

Both sides are folders of their own: this working tree, and the commit's `jinit` out of git with
today's `benchmarks` over it, so that the same code draws, drives and compares both. One file is the
commit's own, `peers/jinit_sweep.py`: it hands starting weights to the sweep's programs, below the
public face. The two processes of a workload run in turn, ABBA, and each round gives a ratio.
"""

import io
import json
import math
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import ROOT, Worker, differences, in_turn
from benchmarks.workloads import Workload

__all__ = ["compare", "floor", "interval", "table"]

OWN = "peers/jinit_sweep.py"
NEW, OLD = "new", "old"
RESAMPLES = 10_000
LEAST = 0.5  # seconds of a side in a round: short workloads run several times


def floor(work: Workload) -> float:
    """No row's upper bound may lie below it: a loss that chance does not explain."""
    return 0.90 if work.kind == "signals" else 0.95


def interval(ratios: Any) -> tuple[float, float, float]:
    """The median, and the 2.5 and 97.5 % points of the medians of bootstrap resamples.

    Args:
        ratios: one a round.
    """
    ratios = np.asarray(ratios)
    draws = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def compare(
    commit: str, workloads: list[Workload], rounds: int, out: Path, *, small: bool = False
) -> dict[str, Any]:
    """Time every workload on both sides; kept in `against.json` after each.

    Raises:
        ValueError: a commit that git does not know, or without what is driven here.
        AssertionError: the two compute different things.
    """
    full = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode().strip()
    results: dict[str, Any] = {"against": full, "rounds": rounds, "workloads": {}}
    with tempfile.TemporaryDirectory(prefix="jinit-against-") as folder:
        other = Path(folder) / "checkout"
        _check_out(full, other)
        for work in workloads:
            results["workloads"][work.name] = _measure(work, rounds, other, small=small)
            (out / "against.json").write_text(json.dumps(results, indent=1))
    return results


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        why = done.stderr.decode().strip() or "unknown commit"
        raise ValueError(
            f"git {' '.join(arguments)} failed: {why}; give --against a commit of this "
            f"repository that has {OWN}."
        )
    return done.stdout


def _check_out(commit: str, folder: Path) -> None:
    archive = _git("archive", "--format=tar", commit, "jinit", f"benchmarks/{OWN}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    shutil.copytree(
        ROOT / "benchmarks", folder / "benchmarks", dirs_exist_ok=True,
        ignore=lambda _, names: [n for n in names if n == Path(OWN).name or n == "__pycache__"],
    )  # fmt: skip


def _measure(work: Workload, rounds: int, other: Path, *, small: bool) -> dict[str, Any]:
    entry = "layer_signals" if work.kind == "signals" else "jinit"
    workers: list[Worker] = []
    try:
        for name, root in ((NEW, ROOT), (OLD, other)):
            place = other.parent / f"{name}.npy"
            workers.append(
                Worker(entry, work, work.networks, place, small=small, root=root, name=name)
            )
        for worker, root in zip(workers, (ROOT, other), strict=True):
            if not Path(worker.jinit).is_relative_to(root):
                raise AssertionError(f"the {worker.name} side imported {worker.jinit}, not {root}")
        difference = differences(work, workers)[-1]
        for worker in workers:
            worker.run()
        least = 0.0 if small else LEAST
        times = math.ceil(least / min(worker.seconds.pop() for worker in workers)) or 1
        in_turn(work, workers, rounds, lambda i, both: both if i % 2 else both[::-1], times=times)
    finally:
        for worker in workers:
            worker.close()
    return {
        "networks": work.networks * times,
        "steps": work.steps,
        "floor": floor(work),
        "difference": difference,
        "seconds": {
            worker.name: np.reshape(worker.seconds, (rounds, times)).sum(axis=1).tolist()
            for worker in workers
        },
        "compile": {worker.name: worker.compile_seconds for worker in workers},
    }


def ratios(result: Any) -> np.ndarray:
    """New speed over old, round by round: above 1 is faster."""
    return np.asarray(result["seconds"][OLD]) / np.asarray(result["seconds"][NEW])


def lost(results: Any) -> list[str]:
    """Rows whose upper bound lies below their floor."""
    return [
        name
        for name, result in results["workloads"].items()
        if interval(ratios(result))[2] < result["floor"]
    ]


def table(results: Any) -> str:
    """Markdown."""
    lines = [
        f"{results['machine']}, {results['date']}; {results['versions']}. Against "
        f"{results['against'][:12]}: median of {results['rounds']} interleaved rounds, 95 % "
        f"interval of the median by bootstrap. Above 1 is faster.",
        "",
        "| workload | network-steps/s | then | ratio | 95 % interval | |",
        "|---|---|---|---|---|---|",
    ]
    below = lost(results)
    for name, result in results["workloads"].items():
        steps = result["networks"] * result["steps"]
        new, old = (f"{steps / np.median(result['seconds'][side]):,.0f}" for side in (NEW, OLD))
        middle, low, high = interval(ratios(result))
        mark = f"**below {result['floor']:g}**" if name in below else ""
        lines.append(
            f"| {name} | {new} | {old} | {middle:.3f} | {low:.3f} to {high:.3f} | {mark} |"
        )
    return "\n".join(lines) + "\n"
