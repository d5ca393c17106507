"""Seconds to compile, and to run, a training step against depth: stacked layers and a plain loop.

    python benchmarks/compile_depth.py [--depths 10 100 1000] [--rounds 5]

jinit scans a run of equal layers; what one would write first is a Python loop over a list of
layers. Both compute the same loss and gradient (checked before timing), in one process, in turn.
The loop is left out beyond `--loop-up-to` layers, where compiling takes minutes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jinit
from jinit.runtime import device_name

WIDTH, BATCH = 64, 128


def stacked(depth: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Loss and gradient through jinit, and their arguments."""
    net = jinit.MLP((WIDTH,) * (depth + 1) + (10,), activation="relu", norm="batch")
    params, state = jinit.init(jax.random.key(0), net, "he")

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(jinit.forward(net, params, state, x, train=True)[0]))

    return jax.value_and_grad(loss), (params, jax.random.normal(jax.random.key(1), (BATCH, WIDTH)))


def looped(depth: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The same by a Python loop over a list of layers."""
    _, (params, x) = stacked(depth)

    def loss(layers: list[jinit.Layer], x: jax.Array) -> jax.Array:
        h = x
        for layer in layers[:-1]:
            z = h @ layer.w + layer.b
            centred = z - z.mean(0)
            h = jax.nn.relu(layer.gamma * centred / jnp.sqrt(z.var(0) + 1e-5) + layer.beta)
        return jnp.mean(jnp.square(h @ layers[-1].w + layers[-1].b))

    return jax.value_and_grad(loss), (list(params), x)


def measure(build: Any, depth: int) -> tuple[float, float, float]:
    """(compile seconds, run seconds, loss)."""
    function, arguments = build(depth)
    jax.clear_caches()
    started = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compiling = time.perf_counter() - started
    value = float(jax.block_until_ready(compiled(*arguments))[0])
    started = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    return compiling, time.perf_counter() - started, value


def main() -> None:
    """Measure in turn and print medians with their range."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop-up-to", type=int, default=100)
    given = parser.parse_args()
    print(f"{device_name()}, jax {jax.__version__}; width {WIDTH}, batch {BATCH}, batch norm")
    cases = [("stacked", stacked, d) for d in given.depths]
    cases += [("loop", looped, d) for d in given.depths if d <= given.loop_up_to]
    for depth in given.depths:
        if depth <= given.loop_up_to:
            ours, theirs = measure(stacked, depth)[2], measure(looped, depth)[2]
            np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    times: dict[tuple[str, int], list[tuple[float, float]]] = {(n, d): [] for n, _, d in cases}
    for _ in range(given.rounds):
        for name, build, depth in cases:
            times[name, depth].append(measure(build, depth)[:2])
    for (name, depth), rows in times.items():
        for what, values in zip(("compile s", "run s"), zip(*rows, strict=True), strict=True):
            low, middle, high = min(values), statistics.median(values), max(values)
            print(f"{name:8} depth {depth:5}  {what:9} {middle:9.4f}  ({low:.4f} to {high:.4f})")


if __name__ == "__main__":
    main()
