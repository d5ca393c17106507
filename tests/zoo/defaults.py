"""The same models in Flax Linen, Flax NNX, Equinox and Haiku, as their documentation builds them.

Weights are the frameworks' defaults.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["DEEP", "DEPTH", "DIMS", "FEATURES", "MODELS", "OUTPUTS", "WIDTH", "Built", "Layers"]

# Of the model of thirty layers.
WIDTH, DEPTH, OUTPUTS = 256, 30, 10
DIMS = (*(WIDTH,) * (DEPTH + 1), OUTPUTS)

# Of the small ones.
IMAGE, TOKENS, FEATURES, HEADS = (8, 8, 3), 100, 64, 4


class Built(NamedTuple):
    """A model of one framework: `apply(variables, *inputs)`."""

    apply: Callable[..., Any]
    variables: Any
    inputs: tuple[Any, ...]


# --- an MLP, a CNN and a transformer ---------------------------------------------------------


def inputs() -> dict[str, Any]:
    """What each model is given, a batch of two."""
    return {
        "MLP": jnp.ones((2, FEATURES)),
        "CNN": jnp.ones((2, *IMAGE)),
        "transformer": jnp.zeros((2, 6), jnp.int32),
    }


def linen(key: jax.Array) -> dict[str, Built]:
    """Flax Linen."""
    from flax import linen as nn

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.relu(nn.Dense(128)(x))
            return nn.Dense(OUTPUTS)(x)

    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(32, (3, 3))(x))
            x = nn.relu(nn.Conv(64, (3, 3), feature_group_count=4)(x))
            return nn.Dense(OUTPUTS)(x.mean((1, 2)))

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(TOKENS, FEATURES)(tokens)
            x = x + nn.MultiHeadDotProductAttention(num_heads=HEADS)(nn.LayerNorm()(x))
            h = nn.relu(nn.Dense(4 * FEATURES)(nn.LayerNorm()(x)))
            return nn.Dense(TOKENS)(x + nn.Dense(FEATURES)(h))

    models = {"MLP": MLP(), "CNN": CNN(), "transformer": Transformer()}
    return {
        name: Built(model.apply, jax.jit(model.init)(key, x), (x,))
        for (name, model), x in zip(models.items(), inputs().values(), strict=True)
    }


def nnx(key: jax.Array) -> dict[str, Built]:
    """Flax NNX."""
    from flax import nnx as nn

    class MLP(nn.Module):
        def __init__(self, rngs):
            self.first = nn.Linear(FEATURES, 128, rngs=rngs)
            self.second = nn.Linear(128, 128, rngs=rngs)
            self.readout = nn.Linear(128, OUTPUTS, rngs=rngs)

        def __call__(self, x):
            return self.readout(nn.relu(self.second(nn.relu(self.first(x)))))

    class CNN(nn.Module):
        def __init__(self, rngs):
            self.first = nn.Conv(IMAGE[-1], 32, (3, 3), rngs=rngs)
            self.second = nn.Conv(32, 64, (3, 3), feature_group_count=4, rngs=rngs)
            self.readout = nn.Linear(64, OUTPUTS, rngs=rngs)

        def __call__(self, x):
            return self.readout(nn.relu(self.second(nn.relu(self.first(x)))).mean((1, 2)))

    class Transformer(nn.Module):
        def __init__(self, rngs):
            self.embed = nn.Embed(TOKENS, FEATURES, rngs=rngs)
            self.norms = nn.List([nn.LayerNorm(FEATURES, rngs=rngs) for _ in range(2)])
            self.attention = nn.MultiHeadAttention(HEADS, FEATURES, decode=False, rngs=rngs)
            self.up = nn.Linear(FEATURES, 4 * FEATURES, rngs=rngs)
            self.down = nn.Linear(4 * FEATURES, FEATURES, rngs=rngs)
            self.readout = nn.Linear(FEATURES, TOKENS, rngs=rngs)

        def __call__(self, tokens):
            x = self.embed(tokens)
            x = x + self.attention(self.norms[0](x))
            return self.readout(x + self.down(nn.relu(self.up(self.norms[1](x)))))

    def built(model, x) -> Built:
        graph, state = nn.split(model)
        return Built(lambda state, x: nn.merge(graph, state)(x), state, (x,))

    models = {"MLP": MLP, "CNN": CNN, "transformer": Transformer}
    return {
        name: built(model(nn.Rngs(key)), x)
        for (name, model), x in zip(models.items(), inputs().values(), strict=True)
    }


def equinox(key: jax.Array) -> dict[str, Built]:
    """Equinox; its models are of one sample."""
    import equinox as eqx
    from equinox import nn

    class MLP(eqx.Module):
        layers: list

        def __init__(self, key):
            dims = (FEATURES, 128, 128, OUTPUTS)
            keys = jax.random.split(key, 3)
            self.layers = [
                nn.Linear(m, n, key=k) for m, n, k in zip(dims[:-1], dims[1:], keys, strict=True)
            ]

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = jax.nn.relu(layer(x))
            return self.layers[-1](x)

    class CNN(eqx.Module):
        layers: list

        def __init__(self, key):
            first, second, readout = jax.random.split(key, 3)
            self.layers = [
                nn.Conv2d(IMAGE[-1], 32, 3, padding=1, key=first),
                nn.Conv2d(32, 64, 3, padding=1, groups=4, key=second),
                nn.Linear(64, OUTPUTS, key=readout),
            ]

        def __call__(self, x):
            first, second, readout = self.layers
            x = jax.nn.relu(first(x.transpose(2, 0, 1)))
            return readout(jax.nn.relu(second(x)).mean((1, 2)))

    class Transformer(eqx.Module):
        embed: nn.Embedding
        norms: list
        attention: nn.MultiheadAttention
        layers: list

        def __init__(self, key):
            keys = jax.random.split(key, 5)
            self.embed = nn.Embedding(TOKENS, FEATURES, key=keys[0])
            self.norms = [nn.LayerNorm(FEATURES) for _ in range(2)]
            self.attention = nn.MultiheadAttention(HEADS, FEATURES, key=keys[1])
            self.layers = [
                nn.Linear(FEATURES, 4 * FEATURES, key=keys[2]),
                nn.Linear(4 * FEATURES, FEATURES, key=keys[3]),
                nn.Linear(FEATURES, TOKENS, key=keys[4]),
            ]

        def __call__(self, tokens):
            up, down, readout = (jax.vmap(layer) for layer in self.layers)
            x = jax.vmap(self.embed)(tokens)
            h = jax.vmap(self.norms[0])(x)
            x = x + self.attention(h, h, h)
            return readout(x + down(jax.nn.relu(up(jax.vmap(self.norms[1])(x)))))

    def built(model, x) -> Built:
        params, static = eqx.partition(model, eqx.is_inexact_array)
        return Built(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, (x,))

    models = {"MLP": MLP, "CNN": CNN, "transformer": Transformer}
    return {
        name: built(eqx.filter_jit(model)(key), x)
        for (name, model), x in zip(models.items(), inputs().values(), strict=True)
    }


def haiku(key: jax.Array) -> dict[str, Built]:
    """Haiku."""
    import haiku as hk

    def mlp(x):
        return hk.nets.MLP([128, 128, OUTPUTS])(x)

    def cnn(x):
        x = jax.nn.relu(hk.Conv2D(32, 3)(x))
        x = jax.nn.relu(hk.Conv2D(64, 3, feature_group_count=4)(x))
        return hk.Linear(OUTPUTS)(x.mean((1, 2)))

    def transformer(tokens):
        def norm(x):
            return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)

        x, h = hk.Embed(TOKENS, FEATURES)(tokens), None
        h = norm(x)
        w_init = hk.initializers.VarianceScaling()
        x = x + hk.MultiHeadAttention(HEADS, FEATURES // HEADS, w_init=w_init)(h, h, h)
        h = jax.nn.relu(hk.Linear(4 * FEATURES)(norm(x)))
        return hk.Linear(TOKENS)(x + hk.Linear(FEATURES)(h))

    found = {}
    for name, function in (("MLP", mlp), ("CNN", cnn), ("transformer", transformer)):
        model, x = hk.without_apply_rng(hk.transform(function)), inputs()[name]
        found[name] = Built(model.apply, jax.jit(model.init)(key, x), (x,))
    return found


MODELS = {"Flax Linen": linen, "Flax NNX": nnx, "Equinox": equinox, "Haiku": haiku}


# --- thirty layers ------------------------------------------------------------------------------

Layers = list[tuple[jax.Array, jax.Array]]


def deep_linen(key: jax.Array, x: jax.Array) -> tuple[Layers, jax.Array]:
    """Weights [in, out] and biases of every layer, and the model's output."""
    from flax import linen as nn

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(DEPTH):
                x = nn.relu(nn.Dense(WIDTH)(x))
            return nn.Dense(OUTPUTS)(x)

    variables = Deep().init(key, x)
    layers = [variables["params"][f"Dense_{i}"] for i in range(DEPTH + 1)]
    return [(layer["kernel"], layer["bias"]) for layer in layers], Deep().apply(variables, x)


def deep_nnx(key: jax.Array, x: jax.Array) -> tuple[Layers, jax.Array]:
    """As above."""
    from flax import nnx as nn

    rngs = nn.Rngs(key)
    layers = [nn.Linear(m, n, rngs=rngs) for m, n in pairwise(DIMS)]
    h = x
    for layer in layers[:-1]:
        h = nn.relu(layer(h))
    return [(layer.kernel[...], layer.bias[...]) for layer in layers], layers[-1](h)


def deep_equinox(key: jax.Array, x: jax.Array) -> tuple[Layers, jax.Array]:
    """As above; it stores [out, in]."""
    import equinox as eqx

    model = eqx.nn.MLP(WIDTH, OUTPUTS, WIDTH, DEPTH, activation=jax.nn.relu, key=key)
    return [(layer.weight.T, layer.bias) for layer in model.layers], jax.vmap(model)(x)


def deep_haiku(key: jax.Array, x: jax.Array) -> tuple[Layers, jax.Array]:
    """As above."""
    import haiku as hk

    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP(DIMS[1:])(x)))
    params = model.init(key, x)
    layers = [params[f"mlp/~/linear_{i}"] for i in range(DEPTH + 1)]
    return [(layer["w"], layer["b"]) for layer in layers], model.apply(params, x)


DEEP = {
    "Flax Linen": deep_linen, "Flax NNX": deep_nnx, "Equinox": deep_equinox, "Haiku": deep_haiku,
}  # fmt: skip
