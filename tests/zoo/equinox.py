"""Models of Equinox; its modules take one example."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from tests.zoo.base import (
    BIAS,
    BY_HAND,
    CHANNELS,
    EMBEDDING,
    FIELD,
    NAMED,
    OF_JAX,
    POSITIONS,
    ROWS,
    SCALE,
    UP,
    VOCABULARY,
    Built,
    causal,
    cell_is,
    cnn_is,
    entry,
    experts_is,
    halved,
    image,
    layer_is,
    lenient,
    mlp_is,
    normal,
    of_equinox,
    resnet_is,
    sequences,
    some_tokens,
    stack_is,
    weight,
)

# --- MLPs: 7 -> 11 -> 13 -> 3 -------------------------------------------------------------------


EQUINOX_MLP = [(f".layers[{i}].weight", f".layers[{i}].bias") for i in range(3)]


class EquinoxMLP(eqx.Module):
    layers: list
    norm: Any
    drop: eqx.nn.Dropout
    activations: tuple = eqx.field(static=True)

    def __init__(self, key, activations=NAMED, norm=False, rate=0.0):
        pairs = [(7, 11), (11, 13), (13, 3)]
        keys = jax.random.split(key, 3)
        self.layers = [eqx.nn.Linear(m, n, key=k) for (m, n), k in zip(pairs, keys, strict=True)]
        self.norm = eqx.nn.LayerNorm(13) if norm else None
        self.drop = eqx.nn.Dropout(rate, inference=not rate)
        self.activations = activations

    def __call__(self, x, key=None):
        for i, phi in enumerate(self.activations):
            own = None if key is None else jax.random.fold_in(key, i)
            x = self.drop(phi(self.layers[i](x)), key=own)
        if self.norm is not None:
            x = self.norm(x)
        return self.layers[2](x)


@entry("equinox", "mlp", mlp_is(EQUINOX_MLP))
@entry("equinox", "gelu-silu", mlp_is(EQUINOX_MLP, "gelu_tanh", "silu"), activations=OF_JAX)
@entry("equinox", "by-hand", mlp_is(EQUINOX_MLP, "gelu_tanh", "silu"), activations=BY_HAND)
def equinox_mlp(key, **options):
    return of_equinox(EquinoxMLP(key, **options), normal(key, ROWS, 7))


@entry("equinox", "mixed-precision", mlp_is(EQUINOX_MLP, norm=(".norm.weight", ".norm.bias")))
def equinox_mixed(key):
    run = lambda model, x: jax.vmap(halved(model))(halved(x))  # noqa: E731
    return of_equinox(EquinoxMLP(key, norm=True), normal(key, ROWS, 7), run=run)


@entry("equinox", "dropout", mlp_is(EQUINOX_MLP))
def equinox_dropout(key):
    run = lambda model, x, key: jax.vmap(model)(x, jax.random.split(key, len(x)))  # noqa: E731
    return of_equinox(EquinoxMLP(key, rate=0.4), normal(key, ROWS, 7), key, run=run)


# --- single layers: convolutions of 3 x 5, and products over several axes -------------------------


def equinox_convolution(key, kind):
    if kind == "transposed":
        return eqx.nn.ConvTranspose2d(17, 19, UP, stride=2, padding="SAME", key=key)
    m, n, options = CHANNELS[kind]
    return eqx.nn.Conv2d(m, n, FIELD, padding="SAME", key=key, **options)


@entry("equinox", "linear", {".weight": weight(14, 8), ".bias": BIAS})
def equinox_linear(key):
    return of_equinox(eqx.nn.Linear(14, 8, key=key), normal(key, ROWS, 14))


# --- CNNs ---------------------------------------------------------------------------------------


EQUINOX_CNN = [*(f".layers[{i}]" for i in range(5)), ".head"]


class EquinoxCNN(eqx.Module):
    layers: list
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 6)
        conv = partial(eqx.nn.Conv2d, kernel_size=FIELD, padding="SAME")
        self.layers = [
            conv(7, 22, key=keys[0]),
            conv(22, 26, groups=2, key=keys[1]),
            conv(26, 26, groups=26, key=keys[2]),
            conv(26, 17, dilation=2, key=keys[3]),
            eqx.nn.ConvTranspose2d(17, 19, UP, stride=2, padding="SAME", key=keys[4]),
        ]
        self.head = eqx.nn.Linear(19, 9, key=keys[5])

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.head(x.mean((1, 2)))


@entry(
    "equinox", "cnn",
    cnn_is([f"{n}.weight" for n in EQUINOX_CNN], [f"{n}.bias" for n in EQUINOX_CNN]),
)  # fmt: skip
def equinox_cnn(key):
    return of_equinox(EquinoxCNN(key), image(key, 7, channels_last=False))


# --- pre-activation ResNets with batch norm -----------------------------------------------------


class EquinoxBlock(eqx.Module):
    norms: list
    convs: list
    shortcut: Any

    def __init__(self, m, n, key):
        keys = jax.random.split(key, 3)
        conv = partial(eqx.nn.Conv2d, kernel_size=FIELD, padding="SAME", use_bias=False)
        norm = partial(eqx.nn.BatchNorm, axis_name="batch", mode="batch")
        self.norms = [norm(m), norm(13)]
        self.convs = [conv(m, 13, key=keys[0]), conv(13, n, key=keys[1])]
        short = m != n
        self.shortcut = eqx.nn.Conv2d(m, n, 1, use_bias=False, key=keys[2]) if short else None

    def __call__(self, x, state):
        h, state = self.norms[0](x, state)
        h = jax.nn.relu(h)
        if self.shortcut is not None:
            x = self.shortcut(h)
        h, state = self.norms[1](self.convs[0](h), state)
        return x + self.convs[1](jax.nn.relu(h)), state


class EquinoxResNet(eqx.Module):
    stem: eqx.nn.Conv2d
    blocks: list
    norm: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.stem = eqx.nn.Conv2d(7, 11, FIELD, padding="SAME", use_bias=False, key=keys[0])
        self.blocks = [EquinoxBlock(11, 11, keys[1]), EquinoxBlock(11, 17, keys[2])]
        self.norm = eqx.nn.BatchNorm(17, axis_name="batch", mode="batch")
        self.head = eqx.nn.Linear(17, 9, key=keys[3])

    def __call__(self, x, state):
        x = self.stem(x)
        for block in self.blocks:
            x, state = block(x, state)
        x, state = self.norm(x, state)
        return self.head(jax.nn.relu(x).mean((1, 2))), state


EQUINOX_NORMS = [*(f"[0].blocks[{i}].norms[{j}]" for i in (0, 1) for j in (0, 1)), "[0].norm"]


EQUINOX_RESNET = resnet_is(
    "[0].stem.weight",
    [[f"[0].blocks[{i}].convs[{j}].weight" for j in (0, 1)] for i in (0, 1)],
    "[0].blocks[1].shortcut.weight",
    ("[0].head.weight", "[0].head.bias"),
    [(f"{n}.weight", f"{n}.bias") for n in EQUINOX_NORMS],
    # Its state is a flat tuple: a counter, then mean and variance, for every norm.
    [f"[1][<flat index {2 * i + 1}>][{which}]" for i in range(5) for which in (0, 1)],
)


@entry("equinox", "resnet-train", EQUINOX_RESNET, train=True)
@entry("equinox", "resnet-eval", EQUINOX_RESNET, train=False)
def equinox_resnet(key, *, train):
    model, state = eqx.nn.make_with_state(EquinoxResNet)(key)
    params, static = eqx.partition(eqx.nn.inference_mode(model, not train), eqx.is_inexact_array)

    def run(variables, x):
        params, state = variables
        model = eqx.combine(params, static)
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        out, state = batched(x, state)
        return (out, state) if train else out

    return Built(lenient(run), (params, state), (image(key, 7, channels_last=False),))


# --- transformers: model width 14, three heads of 8, hidden 22 ------------------------------------


class EquinoxLayer(eqx.Module):
    norms: list
    attention: eqx.nn.MultiheadAttention
    rope: eqx.nn.RotaryPositionalEmbedding
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.norms = [eqx.nn.LayerNorm(14), eqx.nn.LayerNorm(14)]
        self.attention = eqx.nn.MultiheadAttention(
            3, 14, qk_size=8, vo_size=10, use_query_bias=True, use_key_bias=True,
            use_value_bias=True, use_output_bias=True, key=keys[0],
        )  # fmt: skip
        self.rope = eqx.nn.RotaryPositionalEmbedding(8)
        self.up = eqx.nn.Linear(14, 22, key=keys[1])
        self.down = eqx.nn.Linear(22, 14, key=keys[2])

    def __call__(self, x):
        def process(query, key, value):
            rope = jax.vmap(self.rope, in_axes=1, out_axes=1)
            return rope(query), rope(key), value

        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h, mask=causal(len(x)), process_heads=process)
        one = lambda h: self.down(jax.nn.gelu(self.up(h)))  # noqa: E731
        return x + jax.vmap(one)(jax.vmap(self.norms[1])(x))


class EquinoxTransformer(eqx.Module):
    """Rotary positions, learned ones too, and a readout without a bias."""

    embed: eqx.nn.Embedding
    places: jax.Array
    layers: list
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.embed = eqx.nn.Embedding(VOCABULARY, 14, key=keys[0])
        self.places = 0.02 * jax.random.normal(keys[1], (POSITIONS, 14))
        self.layers = [EquinoxLayer(keys[2]), EquinoxLayer(keys[3])]
        self.norm = eqx.nn.LayerNorm(14)
        self.head = eqx.nn.Linear(14, VOCABULARY, use_bias=False, key=keys[4])

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens) + self.places[: len(tokens)]
        for layer in self.layers:
            x = layer(x)
        return jax.vmap(lambda h: self.head(self.norm(h)))(x)


@entry(
    "equinox", "transformer",
    {
        ".embed.weight": EMBEDDING,
        ".places": BIAS,  # added, the same for every example
        ".norm.weight": SCALE,
        ".norm.bias": BIAS,
        ".head.weight": weight(14, VOCABULARY),
        **layer_is(
            ".layers[0].",
            [f"attention.{n}_proj" for n in ("query", "key", "value", "output")],
            ["up", "down"], ["norms[0]", "norms[1]"], ".weight", ".bias", ".weight", ".bias",
            value=30,
        ),
        **layer_is(
            ".layers[1].",
            [f"attention.{n}_proj" for n in ("query", "key", "value", "output")],
            ["up", "down"], ["norms[0]", "norms[1]"], ".weight", ".bias", ".weight", ".bias",
            value=30,
        ),
    },
)  # fmt: skip
def equinox_transformer(key):
    return of_equinox(EquinoxTransformer(key), some_tokens(key))


# --- recurrent networks: 5 -> 7 over six steps, readout 7 -> 3 ------------------------------------


class EquinoxRecurrent(eqx.Module):
    cell: Any
    head: eqx.nn.Linear

    def __init__(self, key, cell):
        keys = jax.random.split(key)
        self.cell = cell(5, 7, key=keys[0])
        self.head = eqx.nn.Linear(7, 3, key=keys[1])

    def __call__(self, x):
        def step(carry, x):
            carry = self.cell(x, carry)
            return carry, carry[0] if isinstance(carry, tuple) else carry

        zero = jnp.zeros(7)
        start = (zero, zero) if isinstance(self.cell, eqx.nn.LSTMCell) else zero
        return jax.vmap(self.head)(jax.lax.scan(step, start, x)[1])


EQUINOX_CELL = (".cell.weight_ih", ".cell.weight_hh")


EQUINOX_HEAD = (".head.weight", ".head.bias")


@entry(
    "equinox", "lstm", cell_is(*EQUINOX_CELL, [".cell.bias"], EQUINOX_HEAD, 4),
    cell=eqx.nn.LSTMCell,
)  # fmt: skip
@entry(
    "equinox", "gru", cell_is(*EQUINOX_CELL, [".cell.bias", ".cell.bias_n"], EQUINOX_HEAD, 3),
    cell=eqx.nn.GRUCell,
)  # fmt: skip
def equinox_recurrent(key, *, cell):
    return of_equinox(EquinoxRecurrent(key, cell), sequences(key))


# --- five layers stacked and scanned, recomputed in the backward pass: 11 -> 13 -> 11 -------------


class EquinoxResidual(eqx.Module):
    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(11)
        self.up = eqx.nn.Linear(11, 13, key=keys[0])
        self.down = eqx.nn.Linear(13, 11, key=keys[1])

    def __call__(self, x):
        return x + self.down(jax.nn.relu(self.up(self.norm(x))))


class EquinoxStack(eqx.Module):
    layers: EquinoxResidual
    head: eqx.nn.Linear

    def __init__(self, key):
        self.layers = eqx.filter_vmap(EquinoxResidual)(jax.random.split(key, 5))
        self.head = eqx.nn.Linear(11, 3, key=key)

    def __call__(self, x):
        dynamic, static = eqx.partition(self.layers, eqx.is_array)

        @jax.checkpoint
        def step(x, own):
            return eqx.combine(own, static)(x), None

        return self.head(jax.lax.scan(step, x, dynamic)[0])


@entry(
    "equinox", "scan",
    stack_is(
        ".layers.norm", ".layers.up", ".layers.down", ".weight", ".bias", ".weight", ".bias",
        ".head",
    ),
)  # fmt: skip
def equinox_stack(key):
    return of_equinox(EquinoxStack(key), normal(key, ROWS, 11))


# --- six experts side by side, mapped: 7 -> 11 -> 13, then 13 -> 3 --------------------------------


class EquinoxExperts(eqx.Module):
    experts: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        make = lambda key: eqx.nn.MLP(7, 13, 11, 1, key=key)  # noqa: E731
        self.experts = eqx.filter_vmap(make)(jax.random.split(key, 6))
        self.head = eqx.nn.Linear(13, 3, key=key)

    def __call__(self, x):
        run = eqx.filter_vmap(lambda expert, x: expert(x), in_axes=(eqx.if_array(0), None))
        return self.head(run(self.experts, x).mean(0))


@entry(
    "equinox", "experts",
    experts_is(
        ".experts.layers[0].weight", ".experts.layers[0].bias",
        ".experts.layers[1].weight", ".experts.layers[1].bias", (".head.weight", ".head.bias"),
    ),
)  # fmt: skip
def equinox_experts(key):
    return of_equinox(EquinoxExperts(key), normal(key, ROWS, 7))
