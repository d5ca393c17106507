"""Deep models of Flax Linen that nothing is wrong with."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.zoo.base import Built, normal, of_linen

# --- healthy models -----------------------------------------------------------------------------


class _DeepMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        he = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        for _ in range(11):
            x = nn.relu(nn.Dense(128, kernel_init=he)(x))
        return nn.Dense(10)(x)


class _DeepResNet(nn.Module):
    """Nine pre-activation blocks, each of which starts from a norm."""

    @nn.compact
    def __call__(self, x):
        he = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        conv = partial(nn.Conv, kernel_size=(3, 3), use_bias=False, kernel_init=he)
        norm = partial(nn.BatchNorm, use_running_average=False)
        x = conv(32)(x)
        for _ in range(9):
            h = conv(32)(nn.relu(norm()(x)))
            x = x + conv(32)(nn.relu(norm()(h)))
        return nn.Dense(10)(nn.relu(norm()(x)).mean((1, 2)))


class _DeepTransformer(nn.Module):
    """Six pre-norm layers; what ends a branch is divided by the square root of their number."""

    @nn.compact
    def __call__(self, tokens):
        end = nn.initializers.variance_scaling(1 / 12, "fan_in", "normal")
        x = nn.Embed(64, 48)(tokens) + nn.Embed(32, 48)(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        for _ in range(6):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4, out_kernel_init=end)(h, h, mask=mask)
            h = nn.gelu(nn.Dense(192)(nn.LayerNorm()(x)))
            x = x + nn.Dense(48, kernel_init=end)(h)
        return nn.Dense(64)(nn.LayerNorm()(x))


class _LongLSTM(nn.Module):
    """Orthogonal recurrent weights, as Flax draws them, and forget gates that start out open
    (Jozefowicz, Zaremba & Sutskever 2015); twenty steps, two layers."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.RNN(nn.OptimizedLSTMCell(64))(x)
        return nn.Dense(10)(x[:, -1])


class PreNormBlock(nn.Module):
    """Pre-LN: attention, then an MLP four times as wide."""

    heads: int

    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(h, h)
        h = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(h)


class TiedTransformer(nn.Module):
    """Token logits, by the embedding; the model of `benchmarks/models.py`."""

    layers: int
    width: int

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(1000, self.width)
        x = embed(tokens)
        for _ in range(self.layers):
            x = PreNormBlock(self.width // 64)(x)
        return embed.attend(nn.LayerNorm()(x))


def healthy() -> dict[str, Callable[[Any], Built]]:
    """Models that nothing is wrong with: name -> build(key); each returns its output alone."""

    def mlp(key):
        return of_linen(_DeepMLP(), key, normal(key, 64, 32))

    def resnet(key):
        model = _DeepResNet()
        run = lambda v, x: model.apply(v, x, mutable=["batch_stats"])[0]  # noqa: E731
        return of_linen(model, key, normal(key, 16, 8, 8, 3), run=run)

    def transformer(key):
        tokens = jax.random.randint(jax.random.fold_in(key, 1), (8, 16), 0, 64)
        return of_linen(_DeepTransformer(), key, tokens)

    def lstm(key):
        built = of_linen(_LongLSTM(), key, normal(key, 32, 20, 24))
        for cell in ("OptimizedLSTMCell_0", "OptimizedLSTMCell_1"):
            built.variables["params"][cell]["hf"]["bias"] = jnp.ones(64)
        return built

    return {"mlp": mlp, "resnet": resnet, "transformer": transformer, "lstm": lstm}
