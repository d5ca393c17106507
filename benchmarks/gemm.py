"""What a workload's own matrix products take, alone, at the best rate the machine shows for them.

Each shape is multiplied batched, on every core at once, operands stored as they are multiplied
fastest (`A B` or `A B^T`) and in cache: a floor that no training step reaches, since its operands
come from elsewhere and change.
"""

import time
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.workloads import Workload

__all__ = ["seconds"]

_FLOPS = 2e9  # of one timing
_BATCHES = (1, 4, 16)
_CACHE = 2**22  # bytes: larger batches are not tried


def seconds(work: Workload) -> float:
    """Of all steps of one network, on all cores together."""
    per_step = sum(
        2 * m * k * n * times / rate(m, k, n, work.dtype) for m, k, n, times in work.products()
    )
    return work.steps * per_step


def rate(m: int, k: int, n: int, dtype: str, forms: tuple[str, ...] = ("AB", "AB^T")) -> float:
    """The best flops per second of `[m, k] [k, n]` in three tries of every form and batch."""
    best = 0.0
    size = (m * k + k * n + m * n) * np.dtype(dtype).itemsize
    for batch in _BATCHES:
        if batch > 1 and batch * size > _CACHE:
            continue
        for form in forms:
            function, arguments, flops = _product(m, k, n, dtype, batch, form)
            for _ in range(3):
                started = time.perf_counter()
                jax.block_until_ready(function(*arguments))
                best = max(best, flops / (time.perf_counter() - started))
    return best


@cache
def _product(m: int, k: int, n: int, dtype: str, batch: int, form: str) -> tuple[Any, Any, int]:
    devices = jax.local_devices()
    mesh, split = Mesh(np.array(devices), ("cores",)), PartitionSpec("cores")
    rng = np.random.default_rng(0)
    left, right = (k, m) if form == "A^TB" else (m, k), (n, k) if form == "AB^T" else (k, n)
    contract = ((1,) if form == "A^TB" else (2,), (2,) if form == "AB^T" else (1,))
    a = rng.standard_normal((len(devices) * batch, *left)).astype(dtype)
    b = rng.standard_normal((len(devices) * batch, *right)).astype(dtype)
    times = max(1, round(_FLOPS / (2 * m * k * n * batch)))

    def program(a: jax.Array, b: jax.Array) -> jax.Array:
        def body(_: Any, out: jax.Array) -> jax.Array:
            # Every product waits for the one before, or all but one would be left out.
            now = b.at[0, 0, 0].set(out[0, 0, 0])
            return jax.lax.dot_general(a, now, (contract, ((0,), (0,))))

        return jax.lax.fori_loop(0, times, body, jnp.zeros((batch, m, n), a.dtype))

    mapped = jax.shard_map(
        program, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False
    )
    arguments = jax.device_put((a, b), NamedSharding(mesh, split))
    function = jax.jit(mapped)
    jax.block_until_ready(function(*arguments))
    return function, arguments, 2 * m * k * n * batch * times * len(devices)


def main() -> None:
    """Print the rate of every form of product, in GF/s on all cores."""
    import jinit

    jinit.configure()
    print("| batch x width | forward AB | input's AB^T | weights' A^TB | the same, turned first |")
    for batch, width in ((64, 16), (128, 64), (256, 128), (1000, 512), (272, 16)):
        across, down = (batch, width, width, "float32"), (width, batch, width, "float32")
        found = [rate(*across, ("AB",)), rate(*across, ("AB^T",)), rate(*down, ("A^TB",))]
        cells = " | ".join(f"{each / 1e9:.0f}" for each in [*found, rate(*down, ("AB",))])
        print(f"| {batch} x {width} | {cells} |")


if __name__ == "__main__":
    main()
