"""JAX as a user would write it: a list of layers, `jax.grad`, optax; and a Flax model."""

import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

from benchmarks.peers import Built
from benchmarks.workloads import Workload

__all__ = ["ENTRIES"]


# --- written by hand ----------------------------------------------------------------------------


def _phi(work: Workload) -> Callable[[jax.Array], jax.Array]:
    return jnp.tanh if work.activation == "tanh" else jax.nn.relu


def _objective(work: Workload) -> Callable[[jax.Array, jax.Array], jax.Array]:
    if work.kind == "grid":
        return lambda out, y: 0.5 * jnp.mean((out - y) ** 2)
    return lambda out, y: optax.softmax_cross_entropy_with_integer_labels(out, y).mean()


def _forward(work: Workload, layers: list[Any], stats: list[Any], x: jax.Array) -> Any:
    """Outputs and new running statistics; a layer is a dict of arrays."""
    h, kept = x, []
    for i, layer in enumerate(layers):
        if work.image and i < work.layers:
            form = ("NHWC", "HWIO", "NHWC")
            z = jax.lax.conv_general_dilated(h, layer["w"], (1, 1), "SAME", dimension_numbers=form)
            h = _phi(work)(z + layer["b"])
            continue
        h = h.mean((1, 2)) if work.image else h
        h = h @ layer["w"] + layer["b"] if work.bias else h @ layer["w"]
        if i == len(layers) - 1:
            break
        if work.batch_norm:
            mean, var = h.mean(0), h.var(0)
            h = layer["gamma"] * (h - mean) / jnp.sqrt(var + 1e-5) + layer["beta"]
            running_mean, running_var = stats[i]
            unbiased = var * (work.batch / (work.batch - 1))
            kept.append((0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * unbiased))
        h = _phi(work)(h)
    return h, kept


def _start(work: Workload, weights: list[Any]) -> tuple[list[Any], list[Any]]:
    layers, stats = [], []
    for i, w in enumerate(weights):
        n, dtype = w.shape[-1], w.dtype
        layer = {"w": w}
        if work.bias:
            layer["b"] = jnp.zeros(n, dtype)
        if work.batch_norm and i < len(weights) - 1:
            layer |= {"gamma": jnp.ones(n, dtype), "beta": jnp.zeros(n, dtype)}
            stats.append((jnp.zeros(n, dtype), jnp.ones(n, dtype)))
        layers.append(layer)
    return layers, stats


def _step(work: Workload, layers: list[Any], stats: list[Any], rates: Any, x: Any, y: Any) -> Any:
    """One update by plain gradient descent, with a learning rate for each layer."""

    def loss(layers: list[Any]) -> Any:
        out, kept = _forward(work, layers, stats, x)
        return _objective(work)(out, y), kept

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(layers)
    layers = [
        jax.tree.map(lambda p, g, rate=rate: p - rate * g, layer, g)
        for layer, g, rate in zip(layers, gradient, rates, strict=True)
    ]
    return layers, stats, value


def _rates(work: Workload, numbers: jax.Array) -> list[jax.Array]:
    """Of one network, per layer."""
    layers = len(work.dims) - 1
    return [numbers[j] if work.kind == "grid" else numbers for j in range(layers)]


def _log_gradients(work: Workload, weights: list[jax.Array], gain: Any, x: Any, y: Any) -> Any:
    layers, stats = _start(work, [gain * w for w in weights])
    gradient = jax.grad(lambda p: _objective(work)(_forward(work, p, stats, x)[0], y))(layers)
    return jnp.stack([0.5 * jnp.log10(jnp.mean(layer["w"] ** 2)) for layer in gradient])


def _compiled(function: Callable[..., Any], *example: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    compiled = jax.jit(function).lower(*example).compile()
    return compiled, time.perf_counter() - started


def _device(arrays: Any) -> Any:
    return jax.tree.map(jnp.asarray, arrays)


def mapped(work: Workload, networks: int) -> Built:
    """`jit(vmap(train))`, the training run a scan."""
    x, y = _device(work.data)
    weights = _device([w[:networks] for w in work.weights])
    if work.kind == "gradients":
        gains = _device(work.numbers)
        function, seconds = _compiled(
            jax.vmap(lambda w, gain: _log_gradients(work, w, gain, x, y), (0, None)),
            weights, gains[0],
        )  # fmt: skip
        count = networks // work.bases
        return Built(
            lambda: np.concatenate([function(weights, gains[j]) for j in range(count)]), seconds
        )

    def train(weights: list[jax.Array], numbers: jax.Array) -> jax.Array:
        rates = _rates(work, numbers)

        def body(carry: Any, _: Any) -> Any:
            layers, stats, value = _step(work, *carry, rates, x, y)
            return (layers, stats), value

        return jax.lax.scan(body, _start(work, weights), None, length=work.steps)[1][-1]

    axis = None if work.kind == "grid" else 0
    if work.kind == "grid":
        weights = [w[0] for w in weights]
    numbers = _device(work.numbers[:networks])
    function, seconds = _compiled(jax.vmap(train, (axis, 0)), weights, numbers)
    return Built(lambda: np.asarray(function(weights, numbers)), seconds)


def stepped(work: Workload, networks: int) -> Built:
    """One configuration after the other, each step a call of a jitted function."""
    x, y = _device(work.data)
    starts = [
        _device([w[i % len(w)] for w in work.weights])
        for i in range(min(networks, len(work.weights[0])))
    ]
    if work.kind == "gradients":
        function, seconds = _compiled(
            lambda w, gain: _log_gradients(work, w, gain, x, y), starts[0], _device(work.numbers[0])
        )
        gains = _device(work.numbers)
        return Built(
            lambda: np.stack(
                [function(starts[i % work.bases], gains[i // work.bases]) for i in range(networks)]
            ),
            seconds,
        )
    rates = [_rates(work, r) for r in _device(work.numbers[:networks])]
    layers, stats = _start(work, starts[0])
    step, seconds = _compiled(
        lambda layers, stats, rates: _step(work, layers, stats, rates, x, y),
        layers, stats, rates[0],
    )  # fmt: skip

    def train(i: int) -> Any:
        layers, stats = _start(work, starts[i % len(starts)])
        for _ in range(work.steps):
            layers, stats, value = step(layers, stats, rates[i])
        return value

    return Built(lambda: np.stack([train(i) for i in range(networks)]), seconds)


# --- Flax ---------------------------------------------------------------------------------------


class _Model(nn.Module):
    work: Workload

    @nn.compact
    def __call__(self, x: Any) -> Any:
        work = self.work
        for n in work.dims[1:-1]:
            x = nn.Dense(n, use_bias=work.bias)(x)
            if work.batch_norm:
                x = nn.BatchNorm(use_running_average=False, momentum=0.9)(x)
            x = _phi(work)(x)
        return nn.Dense(work.dims[-1], use_bias=work.bias)(x)


def flax_loop(work: Workload, networks: int) -> Built:
    """A `TrainState` for each network, and a jitted step; the learning rate a state's number."""
    x, y = _device(work.data)
    model = _Model(work)
    variables = model.init(jax.random.key(0), x)
    stats = variables.get("batch_stats", {})

    def start(i: int) -> Any:
        params = dict(variables["params"])
        for j, w in enumerate(work.weights):
            name = f"Dense_{j}"
            params[name] = params[name] | {"kernel": jnp.asarray(w[i % len(w)])}
        return params

    def optimizer(i: int) -> Any:
        rates = np.broadcast_to(work.numbers[i], len(work.weights))

        def sgd(j: int) -> Any:
            return optax.inject_hyperparams(optax.sgd)(learning_rate=jnp.asarray(rates[j]))

        if work.kind == "grid":
            return optax.multi_transform({f"Dense_{j}": sgd(j) for j in range(2)}, {
                f"Dense_{j}": f"Dense_{j}" for j in range(2)
            })  # fmt: skip
        return sgd(0)

    def loss(params: Any, stats: Any) -> Any:
        out, updates = model.apply(
            {"params": params, "batch_stats": stats}, x, mutable=["batch_stats"]
        )
        return _objective(work)(out, y), updates.get("batch_stats", {})

    if work.kind == "gradients":

        def measure(params: Any, gain: Any) -> Any:
            params = {n: {k: gain * v for k, v in p.items()} for n, p in params.items()}
            gradient = jax.grad(loss, has_aux=True)(params, stats)[0]
            order = [gradient[f"Dense_{j}"]["kernel"] for j in range(len(work.weights))]
            return jnp.stack([0.5 * jnp.log10(jnp.mean(g**2)) for g in order])

        starts = [start(i) for i in range(min(networks, work.bases))]
        gains = _device(work.numbers)
        function, seconds = _compiled(measure, starts[0], gains[0])
        return Built(
            lambda: np.stack(
                [function(starts[i % work.bases], gains[i // work.bases]) for i in range(networks)]
            ),
            seconds,
        )

    # One transformation for all: what differs between networks lies in its state.
    tx = optimizer(0)
    starts = [start(i) for i in range(min(networks, len(work.weights[0])))]
    states = [
        TrainState.create(apply_fn=model.apply, params=starts[i % len(starts)], tx=tx).replace(
            opt_state=optimizer(i).init(starts[i % len(starts)])
        )
        for i in range(networks)
    ]

    def step(state: Any, stats: Any) -> Any:
        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, stats)
        return state.apply_gradients(grads=gradient), stats, value

    compiled, seconds = _compiled(step, states[0], stats)

    def train(i: int) -> Any:
        state, now = states[i], stats
        for _ in range(work.steps):
            state, now, value = compiled(state, now)
        return value

    return Built(lambda: np.stack([train(i) for i in range(networks)]), seconds)


ENTRIES = {"jit(vmap)": mapped, "jitted step": stepped, "Flax loop": flax_loop}
