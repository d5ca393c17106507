"""Models of Haiku."""

from functools import partial

import haiku as hk
import jax

from tests.zoo.base import (
    BIAS,
    BY_HAND,
    CHANNELS,
    FIELD,
    NAMED,
    NONE_ALONE,
    OF_JAX,
    POSITIONS,
    ROWS,
    SCALE,
    TIME,
    UP,
    VOCABULARY,
    Built,
    Is,
    causal,
    cnn_is,
    entry,
    halved,
    image,
    layer_is,
    lenient,
    mlp_is,
    normal,
    of_haiku,
    resnet_is,
    sequences,
    some_tokens,
    stack_is,
    weight,
)

# --- MLPs: 7 -> 11 -> 13 -> 3 -------------------------------------------------------------------


HAIKU_MLP = [("linear/w", "linear/b"), ("linear_1/w", "linear_1/b"), ("linear_2/w", "linear_2/b")]


def haiku_layers(x, activations=NAMED, norm=False, rate=0.0):
    for width, phi in zip((11, 13), activations, strict=True):
        x = phi(hk.Linear(width)(x))
        if rate:
            x = hk.dropout(hk.next_rng_key(), rate, x)
    if norm:
        x = hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)
    return hk.Linear(3)(x)


@entry("haiku", "mlp", mlp_is(HAIKU_MLP))
@entry("haiku", "gelu-silu", mlp_is(HAIKU_MLP, "gelu_tanh", "silu"), activations=OF_JAX)
@entry("haiku", "by-hand", mlp_is(HAIKU_MLP, "gelu_tanh", "silu"), activations=BY_HAND)
def haiku_mlp(key, **options):
    return of_haiku(partial(haiku_layers, **options), key, normal(key, ROWS, 7))


@entry(
    "haiku", "mixed-precision", mlp_is(HAIKU_MLP, norm=("layer_norm/scale", "layer_norm/offset"))
)
def haiku_mixed(key):
    built = of_haiku(partial(haiku_layers, norm=True), key, normal(key, ROWS, 7))
    return built._replace(apply=lambda v, x: built.apply(halved(v), halved(x)))


@entry("haiku", "dropout", mlp_is(HAIKU_MLP))
def haiku_dropout(key):
    f, x = hk.transform(partial(haiku_layers, rate=0.4)), normal(key, ROWS, 7)
    run = lambda v, x, key: f.apply(v, key, x)  # noqa: E731
    return Built(lenient(run), lenient(f.init)(key, x), (x, key))


# --- single layers: convolutions of 3 x 5, and products over several axes -------------------------


def haiku_convolution(kind):
    if kind == "transposed":
        return hk.Conv2DTranspose(19, UP, stride=2)
    if kind == "depthwise":
        return hk.DepthwiseConv2D(3, FIELD)
    _, n, options = CHANNELS[kind]
    groups, rate = options.get("groups", 1), options.get("dilation", 1)
    return hk.Conv2D(n, FIELD, feature_group_count=groups, rate=rate)


@entry("haiku", "linear", {"linear/w": weight(14, 8), "linear/b": BIAS})
def haiku_linear(key):
    return of_haiku(lambda x: hk.Linear(8)(x), key, normal(key, ROWS, 14))


# --- CNNs ---------------------------------------------------------------------------------------


HAIKU_CNN = [
    "conv2_d", "conv2_d_1", "depthwise_conv2_d", "conv2_d_2", "conv2_d_transpose", "linear",
]  # fmt: skip


@entry("haiku", "cnn", cnn_is([f"{n}/w" for n in HAIKU_CNN], [f"{n}/b" for n in HAIKU_CNN]))
def haiku_cnn(key):
    def model(x):
        x = jax.nn.relu(hk.Conv2D(22, FIELD)(x))
        x = jax.nn.relu(hk.Conv2D(26, FIELD, feature_group_count=2)(x))
        x = jax.nn.relu(hk.DepthwiseConv2D(1, FIELD)(x))
        x = jax.nn.relu(hk.Conv2D(17, FIELD, rate=2)(x))
        x = jax.nn.relu(hk.Conv2DTranspose(19, UP, stride=2)(x))
        return hk.Linear(9)(x.mean((1, 2)))

    return of_haiku(model, key, image(key, 7))


# --- pre-activation ResNets with batch norm -----------------------------------------------------


def haiku_resnet_layers(x, *, train):
    def norm(x):
        return hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, train)

    def block(x, features):
        h = jax.nn.relu(norm(x))
        if x.shape[-1] != features:
            x = hk.Conv2D(features, 1, with_bias=False, name="shortcut")(h)
        h = jax.nn.relu(norm(hk.Conv2D(13, FIELD, with_bias=False)(h)))
        return x + hk.Conv2D(features, FIELD, with_bias=False)(h)

    x = hk.Conv2D(11, FIELD, with_bias=False)(x)
    x = block(block(x, 11), 17)
    return hk.Linear(9)(jax.nn.relu(norm(x)).mean((1, 2)))


HAIKU_NORMS = ["batch_norm", *(f"batch_norm_{i}" for i in range(1, 5))]


def haiku_resnet_is(used, unused):
    """Its moving averages keep a hidden sum, which training goes on from, and the average that
    evaluation reads: the other one of the two is not used."""
    return resnet_is(
        "0/conv2_d/w",
        [["0/conv2_d_1/w", "0/conv2_d_2/w"], ["0/conv2_d_3/w", "0/conv2_d_4/w"]],
        "0/shortcut/w",
        ("0/linear/w", "0/linear/b"),
        [(f"0/{n}/scale", f"0/{n}/offset") for n in HAIKU_NORMS],
        [f"1/{n}/~/{which}_ema/{used}" for n in HAIKU_NORMS for which in ("mean", "var")],
        [f"1/{n}/~/{which}_ema/{unused}" for n in HAIKU_NORMS for which in ("mean", "var")],
    )


@entry("haiku", "resnet-train", haiku_resnet_is("hidden", "average"), train=True)
@entry("haiku", "resnet-eval", haiku_resnet_is("average", "hidden"), train=False)
def haiku_resnet(key, *, train):
    made = hk.transform_with_state(partial(haiku_resnet_layers, train=True))
    f = hk.without_apply_rng(hk.transform_with_state(partial(haiku_resnet_layers, train=train)))
    x = image(key, 7)

    def run(variables, x):
        out, state = f.apply(*variables, x)
        return (out, state) if train else out

    return Built(lenient(run), lenient(jax.jit(made.init))(key, x), (x,))


# --- transformers: model width 14, three heads of 8, hidden 22 ------------------------------------


def haiku_transformer_layers(tokens):
    """Learned positions that are added, and a readout by the transposed table."""
    embed = hk.Embed(VOCABULARY, 14)
    places = hk.get_parameter("places", (POSITIONS, 14), init=hk.initializers.TruncatedNormal(0.02))
    x = embed(tokens) + places[: tokens.shape[1]]
    mask = causal(tokens.shape[1])[None, None]

    def norm(x):
        return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)

    for _ in range(2):
        h = norm(x)
        attention = hk.MultiHeadAttention(
            3, 8, w_init=hk.initializers.VarianceScaling(), model_size=14
        )
        x = x + attention(h, h, h, mask=mask)
        h = jax.nn.gelu(hk.Linear(22)(norm(x)))
        x = x + hk.Linear(14)(h)
    return norm(x) @ embed.embeddings.T


@entry(
    "haiku", "transformer",
    {
        "embed/embeddings": Is("tied", 14, VOCABULARY),
        "~/places": BIAS,
        "layer_norm_4/scale": SCALE,
        "layer_norm_4/offset": BIAS,
        **layer_is(
            "", [f"multi_head_attention/{n}" for n in ("query", "key", "value", "linear")],
            ["linear", "linear_1"], ["layer_norm", "layer_norm_1"], "/w", "/b", "/scale", "/offset",
        ),
        **layer_is(
            "", [f"multi_head_attention_1/{n}" for n in ("query", "key", "value", "linear")],
            ["linear_2", "linear_3"], ["layer_norm_2", "layer_norm_3"],
            "/w", "/b", "/scale", "/offset",
        ),
    },
)  # fmt: skip
def haiku_transformer(key):
    return of_haiku(haiku_transformer_layers, key, some_tokens(key))


# --- recurrent networks: 5 -> 7 over six steps, readout 7 -> 3 ------------------------------------


def haiku_recurrent_layers(x, core):
    core = core(7)
    out, _ = hk.dynamic_unroll(core, x, core.initial_state(len(x)), time_major=False)
    return hk.BatchApply(hk.Linear(3))(out)


@entry(
    "haiku", "lstm",
    {  # input and state side by side go into one product
        "lstm/linear/w": weight(5 + 7, 4 * 7, NONE_ALONE, times=TIME), "lstm/linear/b": BIAS,
        "linear/w": weight(7, 3), "linear/b": BIAS,
    },
    core=hk.LSTM,
)  # fmt: skip
@entry(
    "haiku", "gru",
    {
        "gru/w_i": weight(5, 3 * 7, NONE_ALONE, times=TIME),
        "gru/w_h": weight(7, 3 * 7, NONE_ALONE, times=TIME),  # two products, of 14 and of 7 units
        "gru/b": BIAS,
        "linear/w": weight(7, 3), "linear/b": BIAS,
    },
    core=hk.GRU,
)  # fmt: skip
def haiku_recurrent(key, *, core):
    return of_haiku(partial(haiku_recurrent_layers, core=core), key, sequences(key))


# --- five layers stacked and scanned, recomputed in the backward pass: 11 -> 13 -> 11 -------------


HAIKU_STACK = "__layer_stack_no_per_layer"


@entry(
    "haiku", "scan",
    stack_is(
        f"{HAIKU_STACK}/layer_norm", f"{HAIKU_STACK}/linear", f"{HAIKU_STACK}/linear_1",
        "/w", "/b", "/scale", "/offset", "linear",
    ),
)  # fmt: skip
def haiku_stack(key):
    def layer(x):
        h = hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)
        h = jax.nn.relu(hk.Linear(13)(h))
        return x + hk.Linear(11)(h)

    def model(x):
        x = hk.experimental.layer_stack(5)(hk.remat(layer))(x)
        return hk.Linear(3)(x)

    return of_haiku(model, key, normal(key, ROWS, 11))


# --- six experts side by side, mapped: 7 -> 11 -> 13, then 13 -> 3 --------------------------------


@entry(
    "haiku", "ensemble",
    {
        "linear/w": weight(7, 6 * 11, "relu"), "linear/b": BIAS,
        "linear_1/w": weight(11, 13, groups=6), "linear_1/b": BIAS,
    },
)  # fmt: skip
def haiku_ensemble(key):
    """The whole network mapped over six sets of parameters."""

    def model(x):
        x = jax.nn.relu(hk.Linear(11)(x))
        return hk.Linear(13)(x)

    f, x = hk.without_apply_rng(hk.transform(model)), normal(key, ROWS, 7)
    variables = jax.vmap(f.init, (0, None))(jax.random.split(key, 6), x)
    return Built(lenient(jax.vmap(f.apply, (0, None))), variables, (x,))
