"""Models of Flax NNX."""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from tests.zoo.base import (
    BIAS,
    BY_HAND,
    CHANNELS,
    EMBEDDING,
    FIELD,
    NAMED,
    OF_JAX,
    ROWS,
    SCALE,
    UP,
    VOCABULARY,
    cell_is,
    cnn_is,
    entry,
    experts_is,
    image,
    layer_is,
    mlp_is,
    normal,
    of_nnx,
    resnet_is,
    rotated,
    sequences,
    some_tokens,
    stack_is,
    weight,
)

# --- MLPs: 7 -> 11 -> 13 -> 3 -------------------------------------------------------------------


NNX_MLP = [(f"layers/{i}/kernel", f"layers/{i}/bias") for i in range(3)]


class NnxMLP(nnx.Module):
    def __init__(self, rngs, activations=NAMED, dtype=None, norm=False, rate=0.0):
        pairs = [(7, 11), (11, 13), (13, 3)]
        self.layers = nnx.List([nnx.Linear(m, n, dtype=dtype, rngs=rngs) for m, n in pairs])
        self.norm = nnx.LayerNorm(13, dtype=dtype, rngs=rngs) if norm else None
        self.drop = nnx.Dropout(rate, deterministic=not rate)
        self.activations = activations

    def __call__(self, x, key=None):
        rngs = None if key is None else nnx.Rngs(dropout=key)
        for layer, phi in zip(self.layers, self.activations, strict=False):
            x = self.drop(phi(layer(x)), rngs=rngs)
        if self.norm is not None:
            x = self.norm(x)
        return self.layers[2](x)


@entry("nnx", "mlp", mlp_is(NNX_MLP))
@entry("nnx", "gelu-silu", mlp_is(NNX_MLP, "gelu_tanh", "silu"), activations=OF_JAX)
@entry("nnx", "by-hand", mlp_is(NNX_MLP, "gelu_tanh", "silu"), activations=BY_HAND)
@entry(
    "nnx", "mixed-precision", mlp_is(NNX_MLP, norm=("norm/scale", "norm/bias")),
    dtype=jnp.bfloat16, norm=True,
)  # fmt: skip
def nnx_mlp(key, **options):
    return of_nnx(partial(NnxMLP, **options), key, normal(key, ROWS, 7))


@entry("nnx", "dropout", mlp_is(NNX_MLP))
def nnx_dropout(key):
    return of_nnx(partial(NnxMLP, rate=0.4), key, normal(key, ROWS, 7), key)


# --- single layers: convolutions of 3 x 5, and products over several axes -------------------------


def nnx_convolution(rngs, kind):
    if kind == "transposed":
        return nnx.ConvTranspose(17, 19, UP, strides=(2, 2), rngs=rngs)
    m, n, options = CHANNELS[kind]
    groups, dilation = options.get("groups", 1), options.get("dilation", 1)
    return nnx.Conv(
        m, n, FIELD, feature_group_count=groups, kernel_dilation=dilation, rngs=rngs
    )  # fmt: skip


@entry("nnx", "linear-general", {"kernel": weight(3 * 8, 14), "bias": BIAS})
def nnx_linear_general(key):
    make = lambda rngs: nnx.LinearGeneral((3, 8), 14, axis=(-2, -1), rngs=rngs)  # noqa: E731
    return of_nnx(make, key, normal(key, ROWS, 3, 8))


@entry("nnx", "einsum", {"kernel": weight(14, 3 * 8), "bias": BIAS})
def nnx_einsum(key):
    make = lambda rngs: nnx.Einsum("bd,hdk->bhk", (3, 14, 8), (3, 8), rngs=rngs)  # noqa: E731
    return of_nnx(make, key, normal(key, ROWS, 14))


# --- CNNs ---------------------------------------------------------------------------------------


NNX_CNN = [*(f"layers/{i}" for i in range(5)), "head"]


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([
            nnx.Conv(7, 22, FIELD, rngs=rngs),
            nnx.Conv(22, 26, FIELD, feature_group_count=2, rngs=rngs),
            nnx.Conv(26, 26, FIELD, feature_group_count=26, rngs=rngs),
            nnx.Conv(26, 17, FIELD, kernel_dilation=2, rngs=rngs),
            nnx.ConvTranspose(17, 19, UP, strides=(2, 2), rngs=rngs),
        ])  # fmt: skip
        self.head = nnx.Linear(19, 9, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x.mean((1, 2)))


@entry("nnx", "cnn", cnn_is([f"{n}/kernel" for n in NNX_CNN], [f"{n}/bias" for n in NNX_CNN]))
def nnx_cnn(key):
    return of_nnx(NnxCNN, key, image(key, 7))


# --- pre-activation ResNets with batch norm -----------------------------------------------------


class NnxBlock(nnx.Module):
    def __init__(self, m, n, rngs):
        conv = partial(nnx.Conv, kernel_size=FIELD, use_bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(m, rngs=rngs), nnx.BatchNorm(13, rngs=rngs)])
        self.convs = nnx.List([conv(m, 13), conv(13, n)])
        short = m != n
        self.shortcut = nnx.Conv(m, n, (1, 1), use_bias=False, rngs=rngs) if short else None

    def __call__(self, x):
        h = nnx.relu(self.norms[0](x))
        if self.shortcut is not None:
            x = self.shortcut(h)
        h = nnx.relu(self.norms[1](self.convs[0](h)))
        return x + self.convs[1](h)


class NnxResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(7, 11, FIELD, use_bias=False, rngs=rngs)
        self.blocks = nnx.List([NnxBlock(11, 11, rngs), NnxBlock(11, 17, rngs)])
        self.norm = nnx.BatchNorm(17, rngs=rngs)
        self.head = nnx.Linear(17, 9, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(nnx.relu(self.norm(x)).mean((1, 2)))


NNX_NORMS = [*(f"blocks/{i}/norms/{j}" for i in (0, 1) for j in (0, 1)), "norm"]


NNX_RESNET = resnet_is(
    "stem/kernel",
    [[f"blocks/{i}/convs/{j}/kernel" for j in (0, 1)] for i in (0, 1)],
    "blocks/1/shortcut/kernel",
    ("head/kernel", "head/bias"),
    [(f"{n}/scale", f"{n}/bias") for n in NNX_NORMS],
    [f"{n}/{which}" for n in NNX_NORMS for which in ("mean", "var")],
)


@entry("nnx", "resnet-train", NNX_RESNET, train=True)
@entry("nnx", "resnet-eval", NNX_RESNET, train=False)
def nnx_resnet(key, *, train):
    def make(rngs):
        model = NnxResNet(rngs)
        if not train:
            model.eval()
        return model

    def run(model, x):
        out = model(x)
        return (out, nnx.state(model, nnx.BatchStat)) if train else out

    return of_nnx(make, key, image(key, 7), run=run)


# --- transformers: model width 14, three heads of 8, hidden 22 ------------------------------------


class NnxLayer(nnx.Module):
    def __init__(self, rngs):
        self.norms = nnx.List([nnx.LayerNorm(14, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            3, 14, qkv_features=24, decode=False, attention_fn=rotated, rngs=rngs
        )
        self.up = nnx.Linear(14, 22, rngs=rngs)
        self.down = nnx.Linear(22, 14, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class NnxTransformer(nnx.Module):
    """Rotary positions, and a readout of its own."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, 14, rngs=rngs)
        self.layers = nnx.List([NnxLayer(rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(14, rngs=rngs)
        self.head = nnx.Linear(14, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        x, mask = self.embed(tokens), nnx.make_causal_mask(tokens)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.norm(x))


@entry(
    "nnx", "transformer",
    {
        "embed/embedding": EMBEDDING,
        "norm/scale": SCALE,
        "norm/bias": BIAS,
        "head/kernel": weight(14, VOCABULARY),
        "head/bias": BIAS,
        **layer_is(
            "layers/0/", [f"attention/{n}" for n in ("query", "key", "value", "out")],
            ["up", "down"], ["norms/0", "norms/1"], "/kernel", "/bias", "/scale", "/bias",
        ),
        **layer_is(
            "layers/1/", [f"attention/{n}" for n in ("query", "key", "value", "out")],
            ["up", "down"], ["norms/0", "norms/1"], "/kernel", "/bias", "/scale", "/bias",
        ),
    },
)  # fmt: skip
def nnx_transformer(key):
    return of_nnx(NnxTransformer, key, some_tokens(key))


# --- recurrent networks: 5 -> 7 over six steps, readout 7 -> 3 ------------------------------------


class NnxRecurrent(nnx.Module):
    def __init__(self, rngs, cell):
        self.rnn = nnx.RNN(cell(5, 7, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x))


NNX_CELL = ("rnn/cell/dense_i/kernel", "rnn/cell/dense_h/kernel")


NNX_HEAD = ("head/kernel", "head/bias")


@entry(
    "nnx", "lstm", cell_is(*NNX_CELL, ["rnn/cell/dense_h/bias"], NNX_HEAD, 4),
    cell=nnx.OptimizedLSTMCell,
)  # fmt: skip
@entry("nnx", "gru", cell_is(*NNX_CELL, ["rnn/cell/dense_i/bias"], NNX_HEAD, 3), cell=nnx.GRUCell)
def nnx_recurrent(key, *, cell):
    return of_nnx(partial(NnxRecurrent, cell=cell), key, sequences(key))


# --- five layers stacked and scanned, recomputed in the backward pass: 11 -> 13 -> 11 -------------


class NnxResidual(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(11, rngs=rngs)
        self.up = nnx.Linear(11, 13, rngs=rngs)
        self.down = nnx.Linear(13, 11, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.relu(self.up(self.norm(x))))


class NnxStack(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=5)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return NnxResidual(rngs)

        self.layers = make(rngs)
        self.head = nnx.Linear(11, 3, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def run(layer, x):
            return layer(x)

        return self.head(run(self.layers, x))


@entry(
    "nnx", "scan",
    stack_is(
        "layers/norm", "layers/up", "layers/down", "/kernel", "/bias", "/scale", "/bias", "head"
    ),
)  # fmt: skip
def nnx_stack(key):
    return of_nnx(NnxStack, key, normal(key, ROWS, 11))


# --- six experts side by side, mapped: 7 -> 11 -> 13, then 13 -> 3 --------------------------------


class NnxExpert(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(7, 11, rngs=rngs)
        self.down = nnx.Linear(11, 13, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))


class NnxExperts(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=6)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return NnxExpert(rngs)

        self.experts = make(rngs)
        self.head = nnx.Linear(13, 3, rngs=rngs)

    def __call__(self, x):
        run = nnx.vmap(lambda expert, x: expert(x), in_axes=(0, None), out_axes=0)
        return self.head(run(self.experts, x).mean(0))


@entry(
    "nnx", "experts",
    experts_is(
        "experts/up/kernel", "experts/up/bias", "experts/down/kernel", "experts/down/bias",
        ("head/kernel", "head/bias"),
    ),
)  # fmt: skip
def nnx_experts(key):
    return of_nnx(NnxExperts, key, normal(key, ROWS, 7))
