"""Processes that run in turn: each builds a workload, shows its results, and is timed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import Workload

__all__ = ["ROOT", "Worker", "differences", "in_turn"]

ROOT = Path(__file__).parent.parent
AGREE = 1e-3  # results of two workers, relative to their size (absolute for logarithms)
PAUSE = 0.3  # seconds: threads of the one before stop spinning


class Worker:
    """A process with one entry's networks, below `root`, whose jinit it imports."""

    def __init__(
        self, entry: str, work: Workload, networks: int, results: Path, *,
        small: bool = False, root: Path = ROOT, name: str = "",
    ) -> None:  # fmt: skip
        self.entry, self.name = entry, name or entry
        self.networks, self.results = networks, results
        arguments = [entry, work.name, str(networks), str(results), *(["--small"] * small)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip
        first = self._answer()
        self.compile_seconds, self.jinit = first["compile"], first["jinit"]
        self.seconds: list[float] = []

    def run(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.seconds.append(self._answer()["seconds"])

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended:\n{self.process.stderr.read()[-2000:]}")
        return json.loads(line)


def differences(work: Workload, workers: Sequence[Worker]) -> list[float]:
    """Of each worker's results from the first's, at most; an error if two disagree."""
    reference = np.load(workers[0].results).astype(float)
    found = []
    for worker in workers:
        results = np.load(worker.results).astype(float)
        expected = reference[: len(results)]
        size = 1.0 if work.logarithms else np.abs(expected)
        if results.shape != expected.shape or not np.isfinite(results).all():
            raise AssertionError(f"{work.name}: {worker.name} gave {results.shape} or no numbers")
        found.append(float(np.max(np.abs(results - expected) / size)))
        if found[-1] > AGREE:
            raise AssertionError(
                f"{work.name}: {worker.name} differs from {workers[0].name} by {found[-1]:.2g}"
            )
    return found


def in_turn(
    work: Workload, workers: list[Worker], rounds: int,
    order: Callable[[int, list[Worker]], list[Worker]], *, times: int = 1,
) -> None:  # fmt: skip
    """Every worker so many times in succession in every round, in that round's order."""
    for i in range(rounds):
        started = time.perf_counter()
        for worker in order(i, workers):
            time.sleep(PAUSE)
            for _ in range(times):
                worker.run()
        left = (rounds - 1 - i) * (time.perf_counter() - started)
        print(f"  {work.name}: round {i + 1} of {rounds}, {left:.0f} s left", flush=True)
