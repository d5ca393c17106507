"""One peer in a process of its own: builds, shows its results, then runs when it is told to.

    python -m benchmarks.worker ENTRY WORKLOAD NETWORKS RESULTS.npy [--small]

Every line on stdout is JSON: first {"compile": seconds, "jinit": file} after one whole run, whose
results it has saved; then, for each line on stdin, {"seconds": of one run}. `gemm` says the floor
instead.
"""

import importlib
import json
import os
import sys
import time

import numpy as np

from benchmarks.workloads import WORKLOADS

PEERS = {
    "jinit_sweep": ("jinit", "jinit, jit(vmap)"),
    "jinit_signals": ("layer_signals",),
    "jax_peers": ("jit(vmap)", "jitted step", "Flax loop"),
    "torch_peers": ("PyTorch loop", "torch.func", "torch.bmm"),
    "numpy_loop": ("NumPy loop",),
}
ENTRIES = [entry for entries in PEERS.values() for entry in entries if entry != "layer_signals"]


def main() -> None:
    entry, name, networks, results, *rest = sys.argv[1:]
    work = WORKLOADS[name]
    if rest == ["--small"]:
        work = work.small()
    if work.dtype == "float64":
        os.environ["JAX_ENABLE_X64"] = "1"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print

    def say(**what: float | str) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    import jinit

    if entry == "gemm":
        jinit.configure()
        from benchmarks import gemm

        gemm.seconds(work)
        say(compile=0.0, jinit=jinit.__file__)
        for _ in sys.stdin:
            say(seconds=gemm.seconds(work))
        return
    module = next(m for m, entries in PEERS.items() if entry in entries)
    build = importlib.import_module(f"benchmarks.peers.{module}").ENTRIES[entry]
    np.save(results, build(work.compared(), int(networks)).run())
    built = build(work, int(networks))
    built.run()
    say(compile=built.compile_seconds, jinit=jinit.__file__)
    for _ in sys.stdin:
        started = time.perf_counter()
        built.run()
        say(seconds=time.perf_counter() - started)


if __name__ == "__main__":
    main()
