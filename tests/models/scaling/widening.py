"""Models of any width, for tests of muP and of the coordinate check."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jinit.models.scaling.mup import mup

KEY = jax.random.key(0)


def lenient(f):
    """Frameworks mix dtypes and ranks freely, which jax can be told to refuse."""

    def wrapped(*arguments):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return f(*arguments)

    return wrapped


VOCABULARY, TIME = 11, 6
TOKENS = jax.ShapeDtypeStruct((2, TIME), jnp.int32)


class LinenTransformer(nn.Module):
    width: int
    heads: int = 2
    tied: bool = False
    shrunk: float = 1.0
    """what the logits of a tied embedding are divided by"""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, self.width)
        x = embed(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.02), (TIME, self.width))
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(h, h)
        h = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
        x = x + nn.Dense(self.width)(h)
        x = nn.LayerNorm()(x)
        if self.tied:
            return embed.attend(x) / self.shrunk
        return nn.Dense(VOCABULARY)(x)


def draw(key, n, inputs=64):
    """Of a tanh network of three layers, variance 1/fan_in."""
    shapes = {"in": (inputs, n), "hidden": (n, n), "out": (n, 10)}
    weights = {
        name: jax.random.normal(own, shape) / math.sqrt(shape[0])
        for own, (name, shape) in zip(jax.random.split(key, 3), shapes.items(), strict=True)
    }
    return weights | {"b": jnp.zeros(n)}


def apply(p, x):
    return jnp.tanh(jnp.tanh(x @ p["in"]) @ p["hidden"] + p["b"][None]) @ p["out"]


X = jax.random.normal(jax.random.key(1), (32, 64))
Y = jax.random.randint(jax.random.key(2), (32,), 0, 10)
BASE = 64


def loss(logits):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, Y))


def of_width(n):
    return mup(apply, draw(KEY, n), X, base_variables=draw(KEY, BASE))
