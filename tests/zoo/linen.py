"""Models of Flax Linen."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tests.zoo.base import (
    ALONE,
    BIAS,
    BY_HAND,
    CHANNELS,
    EMBEDDING,
    FIELD,
    FUSED,
    NAMED,
    OF_JAX,
    POSITIONS,
    ROWS,
    SCALE,
    TIME,
    UP,
    VOCABULARY,
    Is,
    cnn_is,
    entry,
    experts_is,
    image,
    layer_is,
    mlp_is,
    normal,
    of_linen,
    resnet_is,
    sequences,
    some_tokens,
    stack_is,
    weight,
)

# --- MLPs: 7 -> 11 -> 13 -> 3 -------------------------------------------------------------------


LINEN_MLP = [(f"Dense_{i}/kernel", f"Dense_{i}/bias") for i in range(3)]


class LinenMLP(nn.Module):
    activations: tuple = NAMED
    dtype: Any = None
    norm: bool = False
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, key=None):
        for width, phi in zip((11, 13), self.activations, strict=True):
            x = phi(nn.Dense(width, dtype=self.dtype)(x))
            x = nn.Dropout(self.rate, deterministic=not self.rate)(x)
        if self.norm:
            x = nn.LayerNorm(dtype=self.dtype)(x)
        return nn.Dense(3, dtype=self.dtype)(x)


@entry("linen", "mlp", mlp_is(LINEN_MLP))
@entry("linen", "gelu-silu", mlp_is(LINEN_MLP, "gelu_tanh", "silu"), activations=OF_JAX)
@entry("linen", "by-hand", mlp_is(LINEN_MLP, "gelu_tanh", "silu"), activations=BY_HAND)
@entry(
    "linen", "mixed-precision",
    mlp_is(LINEN_MLP, norm=("LayerNorm_0/scale", "LayerNorm_0/bias")),
    dtype=jnp.bfloat16, norm=True,
)  # fmt: skip
def linen_mlp(key, **options):
    return of_linen(LinenMLP(**options), key, normal(key, ROWS, 7))


@entry("linen", "dropout", mlp_is(LINEN_MLP))
def linen_dropout(key):
    model = LinenMLP(rate=0.4)
    run = lambda v, x, key: model.apply(v, x, rngs={"dropout": key})  # noqa: E731
    return of_linen(model, key, normal(key, ROWS, 7), key, run=run, drop=True)


# --- single layers: convolutions of 3 x 5, and products over several axes -------------------------


def linen_convolution(kind):
    if kind == "transposed":
        return nn.ConvTranspose(19, UP, strides=(2, 2))
    _, n, options = CHANNELS[kind]
    groups, dilation = options.get("groups", 1), options.get("dilation", 1)
    return nn.Conv(n, FIELD, feature_group_count=groups, kernel_dilation=dilation)


@entry("linen", "dense-general", {"kernel": weight(3 * 8, 14), "bias": BIAS})
def linen_dense_general(key):
    return of_linen(nn.DenseGeneral(14, axis=(-2, -1)), key, normal(key, ROWS, 3, 8))


@entry("linen", "einsum", {"kernel": weight(14, 3 * 8), "bias": BIAS})
def linen_einsum(key):
    return of_linen(nn.Einsum((14, 3, 8), "bd,dhk->bhk"), key, normal(key, ROWS, 14))


# --- CNNs ---------------------------------------------------------------------------------------


LINEN_CNN = [*(f"Conv_{i}" for i in range(4)), "ConvTranspose_0", "Dense_0"]


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(22, FIELD)(x))
        x = nn.relu(nn.Conv(26, FIELD, feature_group_count=2)(x))
        x = nn.relu(nn.Conv(26, FIELD, feature_group_count=26)(x))
        x = nn.relu(nn.Conv(17, FIELD, kernel_dilation=2, padding="CIRCULAR")(x))
        x = nn.relu(nn.ConvTranspose(19, UP, strides=(2, 2))(x))
        return nn.Dense(9)(x.mean((1, 2)))


@entry("linen", "cnn", cnn_is([f"{n}/kernel" for n in LINEN_CNN], [f"{n}/bias" for n in LINEN_CNN]))
def linen_cnn(key):
    return of_linen(LinenCNN(), key, image(key, 7))


# --- pre-activation ResNets with batch norm -----------------------------------------------------


class LinenBlock(nn.Module):
    features: int
    train: bool

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=not self.train)
        h = nn.relu(norm()(x))
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), use_bias=False, name="shortcut")(h)
        h = nn.relu(norm()(nn.Conv(13, FIELD, use_bias=False)(h)))
        return x + nn.Conv(self.features, FIELD, use_bias=False)(h)


class LinenResNet(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(11, FIELD, use_bias=False)(x)
        x = LinenBlock(11, self.train)(x)
        x = LinenBlock(17, self.train)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not self.train)(x))
        return nn.Dense(9)(x.mean((1, 2)))


LINEN_NORMS = [*(f"LinenBlock_{i}/BatchNorm_{j}" for i in (0, 1) for j in (0, 1)), "BatchNorm_0"]


LINEN_RESNET = resnet_is(
    "Conv_0/kernel",
    [[f"LinenBlock_{i}/Conv_{j}/kernel" for j in (0, 1)] for i in (0, 1)],
    "LinenBlock_1/shortcut/kernel",
    ("Dense_0/kernel", "Dense_0/bias"),
    [(f"{n}/scale", f"{n}/bias") for n in LINEN_NORMS],
    [f"batch_stats/{n}/{which}" for n in LINEN_NORMS for which in ("mean", "var")],
)


@entry("linen", "resnet-train", LINEN_RESNET, train=True)
@entry("linen", "resnet-eval", LINEN_RESNET, train=False)
def linen_resnet(key, *, train):
    model = LinenResNet(train)
    run = partial(model.apply, mutable=["batch_stats"]) if train else model.apply
    return of_linen(model, key, image(key, 7), run=run)


# --- transformers: model width 14, three heads of 8, hidden 22 ------------------------------------


class LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(3, qkv_features=24)(h, h, mask=mask)
        h = nn.LayerNorm()(x)
        h = nn.gelu(nn.Dense(22)(h))
        return x + nn.Dense(14)(h)


class LinenTransformer(nn.Module):
    """Learned positions, and one table for reading tokens in and out."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, 14)
        x = embed(tokens) + nn.Embed(POSITIONS, 14)(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        for _ in range(2):
            x = LinenLayer()(x, mask)
        return embed.attend(nn.LayerNorm()(x))


@entry(
    "linen", "transformer",
    {
        "Embed_0/embedding": Is("tied", 14, VOCABULARY),
        "Embed_1/embedding": EMBEDDING,
        "LayerNorm_0/scale": SCALE,
        "LayerNorm_0/bias": BIAS,
        **layer_is(
            "LinenLayer_0/",
            [f"MultiHeadDotProductAttention_0/{n}" for n in ("query", "key", "value", "out")],
            ["Dense_0", "Dense_1"], ["LayerNorm_0", "LayerNorm_1"],
            "/kernel", "/bias", "/scale", "/bias",
        ),
        **layer_is(
            "LinenLayer_1/",
            [f"MultiHeadDotProductAttention_0/{n}" for n in ("query", "key", "value", "out")],
            ["Dense_0", "Dense_1"], ["LayerNorm_0", "LayerNorm_1"],
            "/kernel", "/bias", "/scale", "/bias",
        ),
    },
)  # fmt: skip
def linen_transformer(key):
    return of_linen(LinenTransformer(), key, some_tokens(key))


# --- recurrent networks: 5 -> 7 over six steps, readout 7 -> 3 ------------------------------------


class LinenRecurrent(nn.Module):
    cell: Callable[..., Any]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(self.cell(7))(x))


@entry(
    "linen", "lstm",
    {
        **{f"OptimizedLSTMCell_0/i{g}/kernel": weight(5, 7, FUSED[g], times=TIME) for g in "ifgo"},
        **{f"OptimizedLSTMCell_0/h{g}/kernel": weight(7, 7, FUSED[g], times=TIME) for g in "ifgo"},
        **{f"OptimizedLSTMCell_0/h{g}/bias": BIAS for g in "ifgo"},
        "Dense_0/kernel": weight(7, 3),
        "Dense_0/bias": BIAS,
    },
    cell=nn.OptimizedLSTMCell,
)  # fmt: skip
@entry(
    "linen", "gru",
    {
        **{f"GRUCell_0/i{g}/kernel": weight(5, 7, ALONE[g], times=TIME) for g in "rzn"},
        **{f"GRUCell_0/h{g}/kernel": weight(7, 7, ALONE[g], times=TIME) for g in "rzn"},
        **{f"GRUCell_0/{g}/bias": BIAS for g in ("ir", "iz", "in", "hn")},
        "Dense_0/kernel": weight(7, 3),
        "Dense_0/bias": BIAS,
    },
    cell=nn.GRUCell,
)  # fmt: skip
def linen_recurrent(key, *, cell):
    return of_linen(LinenRecurrent(cell), key, sequences(key))


# --- five layers stacked and scanned, recomputed in the backward pass: 11 -> 13 -> 11 -------------


class LinenResidual(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        h = nn.relu(nn.Dense(13)(nn.LayerNorm()(x)))
        return x + nn.Dense(11)(h), None


class LinenStack(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(LinenResidual, prevent_cse=False),
            variable_axes={"params": 0}, split_rngs={"params": True}, length=5,
        )  # fmt: skip
        return nn.Dense(3)(layers(name="layers")(x, None)[0])


@entry(
    "linen", "scan",
    stack_is(
        "layers/LayerNorm_0", "layers/Dense_0", "layers/Dense_1",
        "/kernel", "/bias", "/scale", "/bias", "Dense_0",
    ),
)  # fmt: skip
def linen_stack(key):
    return of_linen(LinenStack(), key, normal(key, ROWS, 11))


# --- six experts side by side, mapped: 7 -> 11 -> 13, then 13 -> 3 --------------------------------


class LinenExpert(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(11)(x))
        return nn.Dense(13)(x)


class LinenExperts(nn.Module):
    @nn.compact
    def __call__(self, x):
        experts = nn.vmap(
            LinenExpert, in_axes=None, axis_size=6,
            variable_axes={"params": 0}, split_rngs={"params": True},
        )  # fmt: skip
        return nn.Dense(3)(experts(name="experts")(x).mean(0))


@entry(
    "linen", "experts",
    experts_is(
        "experts/Dense_0/kernel", "experts/Dense_0/bias",
        "experts/Dense_1/kernel", "experts/Dense_1/bias", ("Dense_0/kernel", "Dense_0/bias"),
    ),
)  # fmt: skip
def linen_experts(key):
    return of_linen(LinenExperts(), key, normal(key, ROWS, 7))
