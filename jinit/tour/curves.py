"""Loss curves of several starts over many seeds, trained side by side in one program."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jinit

__all__ = ["STARTS", "Curves", "train_starts"]

STARTS: dict[str, tuple[str, dict[str, float]]] = {
    "zeros": ("zeros", {}),
    "0.01 randn": ("normal", {"scale": 0.01}),
    "10 randn": ("normal", {"scale": 10.0}),
    "xavier": ("xavier", {}),
    "he": ("he", {}),
}


class Curves(NamedTuple):
    """What happened from each start and seed."""

    starts: tuple[str, ...]
    loss: np.ndarray
    """[start, seed, step]"""
    accuracy: np.ndarray
    """on the test half after training, [start, seed]"""
    params: Any
    """after training, every leaf with axes [start, seed] in front"""
    signals: Any
    """LayerSignals before training, arrays [start, seed, layer]"""
    train_keys: jax.Array
    """of the minibatches, [seed]"""


def train_starts(
    key: jax.Array,
    net: jinit.MLP,
    data: jinit.Data,
    starts: Mapping[str, tuple[str, dict[str, float]]],
    *,
    seeds: int,
    steps: int,
    learning_rate: float,
    batch_size: int = 128,
) -> Curves:
    """Train a net from every start and seed; all of them are rows of one vmapped run.

    Seed s shares its minibatches, and its draws up to their scale, over all starts.
    """
    init_key, train_key = jax.random.split(key)
    init_keys, train_keys = jax.random.split(init_key, seeds), jax.random.split(train_key, seeds)

    def draw(scheme: str, options: dict[str, float]) -> Any:
        return jax.vmap(lambda k: jinit.init(k, net, scheme, **options))(init_keys)

    @jax.jit
    def draw_all() -> Any:
        drawn = [draw(*start) for start in starts.values()]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)

    def run(key: jax.Array, params: Any, state: Any) -> Any:
        result = jinit.train(
            key, net, params, state, data,
            optimizer=optax.sgd(learning_rate), steps=steps, batch_size=batch_size,
        )  # fmt: skip
        x, y = data.x_train[:batch_size], data.y_train[:batch_size]
        signals = jinit.layer_signals(net, params, state, x, y)
        return result.history.loss, result.accuracy, result.params, signals

    over_seeds = jax.vmap(run)
    over_starts = jax.jit(jax.vmap(over_seeds, (None, 0, 0)))
    loss, accuracy, params, signals = jax.device_get(over_starts(train_keys, *draw_all()))
    return Curves(tuple(starts), loss, accuracy, params, signals, train_keys)
