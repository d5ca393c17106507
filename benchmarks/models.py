"""What it costs to look at a model: audit and diagnosis of a transformer beside one gradient.

    python -m benchmarks.models [--layers 24] [--width 256]

Times are medians of interleaved rounds, of calls whose programs are compiled, except where the
table says so. A diagnosis compiles a program of its own at every call, because it is asked once of
a model; both are shown.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jinit
from jinit.models.diagnosis.measure import compiled
from jinit.models.diagnosis.sites import sites
from tests.zoo.healthy import TiedTransformer


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    key = jax.random.key(0)
    model = TiedTransformer(options.layers, options.width)
    tokens = jax.random.randint(key, (options.batch, options.tokens), 0, 1000)
    variables = jax.jit(model.init)(key, tokens)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    print(f"{options.layers} layers of width {options.width}, {count / 1e6:.1f} M parameters, ",
          f"batch {options.batch} x {options.tokens}, jax {jax.__version__}")  # fmt: skip

    def loss(variables: Any) -> Any:
        return jnp.mean(jnp.square(model.apply(variables, tokens)))

    gradient = jax.jit(jax.grad(loss))
    first = timed(lambda: gradient(variables))
    square = lambda out: jnp.mean(jnp.square(out))  # noqa: E731
    traced = jinit.Model(model.apply, variables, tokens, loss=square)
    diagnosis = compiled(traced, sites(traced.trace))
    timed(diagnosis)
    calls = {
        "one gradient": partial(gradient, variables),
        "diagnosis, compiled": diagnosis,
        "roles": lambda: jinit.models.roles(model.apply, variables, tokens) and 0,
        "audit": lambda: jinit.audit(model.apply, variables, tokens) and 0,
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            seconds[name].append(timed(call))
    whole = timed(lambda: jinit.diagnose(model.apply, variables, tokens, loss=square) and 0)
    gradients = np.array(seconds["one gradient"])
    print("| | seconds | over one gradient |\n|---|---|---|")
    for name, found in seconds.items():
        low, middle, high = np.quantile(found, [0, 0.5, 1])
        ratio = np.median(np.array(found) / gradients)
        print(f"| {name} | {middle:.3f} ({low:.3f} to {high:.3f}) | {ratio:.2f} |")
    print(f"| one gradient, first call, compiling | {first:.1f} | |")
    print(f"| diagnose, whole, compiling | {whole:.1f} | {whole / first:.2f} of the line above |")


if __name__ == "__main__":
    main()
