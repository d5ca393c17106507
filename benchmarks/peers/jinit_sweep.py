"""jinit: the function that a user gives to `jinit.sweep`, through the sweep's own programs.

Only the drawing of the starting weights is left out, which nobody else does here either: blocks
begin with the workload's. `jinit, jit(vmap)` is the same function under plain `jit(vmap)`.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jinit
from benchmarks.peers import Built
from benchmarks.workloads import Workload
from jinit.networks.mlp import as_stacked
from jinit.sweeps.blocks import Runner, Settings, places

__all__ = ["ENTRIES"]


def _net(work: Workload) -> Any:
    if work.image:
        image = (work.image, work.image, 1)
        return jinit.ConvNet(image, channels=work.dims[1:-1], classes=10)
    return jinit.MLP(
        work.dims, activation=work.activation, bias=work.bias,
        norm="batch" if work.batch_norm else None,
    )  # fmt: skip


def _start(work: Workload, rows: slice) -> Any:
    """Stacked parameters `[networks, ...]` with the workload's weights."""
    net = _net(work)
    weights = [w[rows] for w in work.weights]

    def one(weights: Any) -> Any:
        params, state = jinit.init(jax.random.key(0), net, "zeros", dtype=work.dtype)
        layers = [p._replace(w=w) for p, w in zip(params, weights, strict=True)]
        return as_stacked(net, layers, state)

    return jax.jit(jax.vmap(one))(weights)


def _by_layer(rates: jax.Array, net: jinit.MLP) -> optax.GradientTransformation:
    """Plain gradient descent with a learning rate for each run of layers."""

    def update(gradient: jinit.Params, _: Any) -> Any:
        return jinit.Params(tuple(
            jax.tree.map(lambda g, rate=rate: -rate * g, run)
            for run, rate in zip(gradient.runs, rates, strict=True)
        ))  # fmt: skip

    return optax.stateless(update)


def function(work: Workload) -> Any:
    """`fn(key, start, ...)` for `jinit.sweep`."""
    net = _net(work)
    data = tuple(map(jnp.asarray, work.data))

    def train(key: Any, start: Any, *, lr: Any) -> Any:
        params, state = start
        optimizer = optax.sgd(lr)
        run = jinit.train(key, net, params, state, data, optimizer=optimizer, steps=work.steps)
        return {"result": run.history.loss[-1]}

    def grid(key: Any, start: Any, *, first: Any, second: Any) -> Any:
        params, state = start
        optimizer = _by_layer(jnp.stack([first, second]), net)
        run = jinit.train(key, net, params, state, data, optimizer=optimizer, steps=work.steps)
        return {"result": run.history.loss[-1]}

    def gradients(key: Any, start: Any, *, gain: Any) -> Any:
        params, state = start

        def loss(params: Any) -> Any:
            out, _ = jinit.forward(net, params, state, data[0], train=True)
            return optax.softmax_cross_entropy_with_integer_labels(out, data[1]).mean()

        gradient = jax.grad(loss)(jax.tree.map(lambda p: gain * p, params))
        squares = [jnp.mean(jnp.square(run.w), (1, 2)) for run in gradient.runs]
        return {"result": 0.5 * jnp.log10(jnp.concatenate(squares))}

    return {"train": train, "grid": grid, "gradients": gradients}[work.kind]


def _traced(work: Workload) -> dict[str, np.ndarray]:
    if work.kind == "train":
        return {"lr": work.numbers}
    if work.kind == "gradients":
        return {"gain": work.numbers}
    return {"first": work.numbers[:, 0], "second": work.numbers[:, 1]}


def sweep(work: Workload, networks: int) -> Built:
    """Blocks of the sweep's compiled program, on all devices, at the group that it chooses."""
    jinit.configure()
    per_call = work.bases if work.kind == "gradients" else networks
    one = slice(0, 1)
    start = jax.tree.map(np.asarray, _start(work, slice(per_call)))
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), start)
    traced = {name: values[one] for name, values in _traced(work).items()}

    def prepare(key: Any) -> Any:  # traced for its shapes, never run
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), abstract)

    plan = jinit.Sweep(function(work), traced=traced, seeds=per_call, prepare=prepare)
    runner = Runner(plan)
    group = runner.choose(per_call).group
    runner.settings = Settings(group, per_call)
    began = time.perf_counter()
    program = runner.program("fn", 0)
    seconds = time.perf_counter() - began
    if work.kind == "grid":
        start = jax.tree.map(lambda a: np.repeat(a, per_call, 0), start)
    # A call takes as many groups as the sweep's own do, and `prepare` would hand it these rows.
    devices = len(runner.devices)
    calls = []
    for first in range(0, per_call, devices * program.groups * group):
        own = min(devices * program.groups * group, per_call - first)
        counts, slots = places(own, group, program.groups, devices)
        rows = first + np.minimum(slots, own - 1)
        starts = jax.tree.map(lambda a, rows=rows: a[rows], start)
        placed = jax.device_put((rows.astype(np.uint32), starts), program.sharding)
        held = np.flatnonzero(slots < own)
        calls.append((counts, rows, placed, held[np.argsort(slots[held])]))

    def run_all(numbers: dict[str, np.ndarray]) -> np.ndarray:
        started = [
            program(counts, (*placed, {name: v[rows] for name, v in numbers.items()}))
            for counts, rows, placed, _ in calls
        ]
        return np.concatenate([
            np.asarray(found["result"])[kept]
            for found, (*_, kept) in zip(started, calls, strict=True)
        ])  # fmt: skip

    def run() -> np.ndarray:
        values = _traced(work)
        if work.kind != "gradients":
            return run_all({name: v[:networks] for name, v in values.items()})
        gains = values["gain"][: networks // work.bases]
        return np.concatenate([run_all({"gain": np.full(work.bases, g)}) for g in gains])

    return Built(run, seconds)


def mapped(work: Workload, networks: int) -> Built:
    """The same function under plain `jit(vmap)`."""
    per_call = work.bases if work.kind == "gradients" else networks
    start = _start(work, slice(per_call))
    axis = None if work.kind == "grid" else 0
    if axis is None:
        start = jax.tree.map(lambda a: a[0], start)
    fn = function(work)
    names = list(_traced(work))
    gains = work.kind == "gradients"
    example = [jnp.asarray(v[0] if gains else v[:networks]) for v in _traced(work).values()]
    began = time.perf_counter()
    compiled = (
        jax.jit(
            jax.vmap(
                lambda s, *v: fn(jax.random.key(0), s, **dict(zip(names, v, strict=True)))[
                    "result"
                ],
                (axis, *[None if gains else 0] * len(names)),
            )
        )
        .lower(start, *example)
        .compile()
    )
    seconds = time.perf_counter() - began

    def run() -> np.ndarray:
        if not gains:
            return np.asarray(compiled(start, *example))
        return np.concatenate(
            [compiled(start, jnp.asarray(g)) for g in work.numbers[: networks // work.bases]]
        )

    return Built(run, seconds)


ENTRIES = {"jinit": sweep, "jinit, jit(vmap)": mapped}
