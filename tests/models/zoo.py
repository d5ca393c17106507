"""Models as people write them in five frameworks, with what each of their parameters is for.

Every expectation is written by hand from the mathematics of the layer, and none is computed from an
array's shape. fan_in is how many numbers are summed for one output, and fan_out to how many outputs
one number contributes; for a convolution both count the receptive field, as jax's initialisers do.
A transposed convolution of stride s puts s - 1 zeros between its inputs, so that an output sums
only every s-th tap along an axis: its fan_in is that of the receptive field by the strides.

Within one model no two sizes that could be mixed up are equal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

__all__ = ["ENTRIES", "FRAMEWORKS", "Built", "Entry", "Is", "healthy"]

FRAMEWORKS = ("linen", "nnx", "equinox", "haiku", "jax")


class Built(NamedTuple):
    """A model that can be run: `apply(variables, *inputs)`."""

    apply: Callable[..., Any]
    variables: Any
    inputs: tuple[Any, ...]


class Is(NamedTuple):
    """What a parameter is for; None says nothing."""

    role: str
    fan_in: int | None = None
    fan_out: int | None = None
    receptive_field: int = 1
    groups: int = 1
    layers: int = 1
    strides: int = 1
    """of a transposed convolution, multiplied: so many kernels lie interleaved in one"""
    times: int | None = None
    activation: str | tuple[str | None, ...] | None = None
    """the one that follows, or several answers that are all right"""


@dataclass(frozen=True, eq=False)
class Entry:
    """A model of the zoo."""

    framework: str
    kind: str
    build: Callable[[Any], Built]
    """from a key"""
    expected: Mapping[str, Is]
    """of every floating-point leaf, by its path as `jax.tree_util.keystr` writes it"""

    @property
    def name(self) -> str:
        return f"{self.framework}-{self.kind}"


ENTRIES: list[Entry] = []


def entry(framework, kind, expected, **options):
    """Put a function `build(key, **options) -> Built` into the zoo."""
    path = {"linen": linen, "nnx": in_nnx, "haiku": haiku, "jax": plain}.get(framework, str)
    named = {path(name): what for name, what in expected.items()}

    def decorate(build):
        ENTRIES.append(Entry(framework, kind, partial(build, **options), named))
        return build

    return decorate


def weight(fan_in, fan_out, activation=None, **more):
    return Is("weight", fan_in, fan_out, activation=activation, **more)


BIAS, SCALE, EMBEDDING = Is("bias"), Is("scale"), Is("embedding")
STATISTIC, UNUSED = Is("statistic"), Is("unused")
NONE_ALONE = (None,)
"""Of gates in one array, some of which go through a sigmoid and some through a tanh."""


# --- paths --------------------------------------------------------------------------------------


def plain(name):
    """a/0/w -> ['a'][0]['w']"""
    parts = [part if part.isdigit() else repr(part) for part in name.split("/")]
    return "".join(f"[{part}]" for part in parts)


def linen(name):
    return plain(name if name.startswith("batch_stats/") else f"params/{name}")


def in_nnx(name):
    return plain(name) + ".value"


def haiku(name):
    """A number in front is the place among (parameters, state)."""
    first, *rest = name.split("/")
    place, rest = (f"[{first}]", rest) if first.isdigit() else ("", [first, *rest])
    return f"{place}[{'/'.join(rest[:-1])!r}][{rest[-1]!r}]"


# --- running ------------------------------------------------------------------------------------


def lenient(f):
    """Frameworks mix dtypes and ranks freely, which jax can be told to refuse."""

    def wrapped(*arguments):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return f(*arguments)

    return wrapped


def normal(key, *shape):
    return jax.random.normal(jax.random.fold_in(key, 1), shape)


def some_tokens(key):
    return jax.random.randint(jax.random.fold_in(key, 1), (BATCH, TIME), 0, VOCABULARY)


def of_linen(model, key, *inputs, run=None, drop=False):
    run = run or model.apply
    keys = {"params": key, "dropout": key} if drop else key
    given = inputs[:1] if drop else inputs
    variables = lenient(jax.jit(model.init))(keys, *given)
    return Built(lenient(run), variables, inputs)


def of_nnx(make, key, *inputs, run=None):
    run = run or (lambda model, *inputs: model(*inputs))
    graph, state = nnx.split(lenient(make)(nnx.Rngs(key)))
    return Built(lenient(lambda v, *inputs: run(nnx.merge(graph, v), *inputs)), state, inputs)


def of_equinox(model, *inputs, run=None):
    """Its modules take one example."""
    run = run or (lambda model, x: jax.vmap(model)(x))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return Built(lenient(lambda v, *inputs: run(eqx.combine(v, static), *inputs)), params, inputs)


def of_haiku(f, key, *inputs):
    f = hk.without_apply_rng(hk.transform(f))
    return Built(lenient(f.apply), lenient(jax.jit(f.init))(key, *inputs), inputs)


def drawn(key, **shapes):
    """Plain parameters: any std will do here, as long as no number is zero."""
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.normal(k, shape) / shape[0] ** 0.5
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


# --- activations written by hand ----------------------------------------------------------------


def gelu_by_hand(x):
    return 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x**3)))


def silu_by_hand(x):
    return x / (1 + jnp.exp(-x))


def silu_of_sigmoid(x):
    return x * jax.nn.sigmoid(x)


# --- MLPs: 7 -> 11 -> 13 -> 3 -------------------------------------------------------------------

ROWS = 4
NAMED = (jax.nn.relu, jnp.tanh)
OF_JAX = (jax.nn.gelu, silu_of_sigmoid)
BY_HAND = (gelu_by_hand, silu_by_hand)


def mlp_is(names, first="relu", second="tanh", norm=None):
    """Three pairs of names of kernel and bias, and perhaps a norm's."""
    (w0, b0), (w1, b1), (w2, b2) = names
    found = {
        w0: weight(7, 11, first, times=1), b0: BIAS,
        w1: weight(11, 13, second, times=1), b1: BIAS,
        w2: weight(13, 3, times=1), b2: BIAS,
    }  # fmt: skip
    if norm:
        found |= {norm[0]: SCALE, norm[1]: BIAS}
    return found


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


def halved(tree):
    """In bfloat16, the parameters themselves staying as they are."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, tree)


@entry("equinox", "mixed-precision", mlp_is(EQUINOX_MLP, norm=(".norm.weight", ".norm.bias")))
def equinox_mixed(key):
    run = lambda model, x: jax.vmap(halved(model))(halved(x))  # noqa: E731
    return of_equinox(EquinoxMLP(key, norm=True), normal(key, ROWS, 7), run=run)


@entry("equinox", "dropout", mlp_is(EQUINOX_MLP))
def equinox_dropout(key):
    run = lambda model, x, key: jax.vmap(model)(x, jax.random.split(key, len(x)))  # noqa: E731
    return of_equinox(EquinoxMLP(key, rate=0.4), normal(key, ROWS, 7), key, run=run)


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


JAX_MLP = [("0/w", "0/b"), ("1/w", "1/b"), ("2/w", "2/b")]


def plain_layers(params, x, key=None, activations=NAMED, rate=0.0):
    for i, (layer, phi) in enumerate(zip(params, (*activations, lambda x: x), strict=True)):
        x = phi(x @ layer["w"] + layer["b"])
        if rate and i < 2:
            kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, x.shape)
            x = jnp.where(kept, x / (1 - rate), 0)
    return x


@entry("jax", "mlp", mlp_is(JAX_MLP))
@entry("jax", "gelu-silu", mlp_is(JAX_MLP, "gelu_tanh", "silu"), activations=OF_JAX)
@entry("jax", "by-hand", mlp_is(JAX_MLP, "gelu_tanh", "silu"), activations=BY_HAND)
@entry("jax", "dropout", mlp_is(JAX_MLP), rate=0.4)
@entry("jax", "mixed-precision", mlp_is(JAX_MLP), half=True)
def jax_mlp(key, *, half=False, rate=0.0, **options):
    keys = jax.random.split(key, 3)
    pairs = [(7, 11), (11, 13), (13, 3)]
    params = [drawn(k, w=(m, n), b=(n,)) for k, (m, n) in zip(keys, pairs, strict=True)]
    run = partial(plain_layers, rate=rate, **options)
    x = normal(key, ROWS, 7)
    if half:
        return Built(lenient(lambda v, x: run(halved(v), halved(x))), params, (x,))
    return Built(lenient(run), params, (x, key) if rate else (x,))


# --- single layers: convolutions of 3 x 5, and products over several axes -------------------------

IMAGES = (16, 6, 10)
"""batch, height, width"""
FIELD, UP = (3, 5), (4, 8)

CONVOLUTIONS = {
    "conv": weight(7 * 15, 22 * 15, receptive_field=15),
    "grouped": weight(11 * 15, 13 * 15, receptive_field=15, groups=2),  # 22 -> 26
    "depthwise": weight(15, 3 * 15, receptive_field=15, groups=26),  # 26 -> 78
    "dilated": weight(26 * 15, 17 * 15, receptive_field=15),
    "transposed": weight(17 * 32 // 4, 19 * 32, receptive_field=32, strides=4),
}
"""Each of one framework is one layer alone, and a CNN has them all."""
CHANNELS = {
    "conv": (7, 22, {}),
    "grouped": (22, 26, {"groups": 2}),
    "depthwise": (26, 78, {"groups": 26}),
    "dilated": (26, 17, {"dilation": 2}),
}


def linen_convolution(kind):
    if kind == "transposed":
        return nn.ConvTranspose(19, UP, strides=(2, 2))
    _, n, options = CHANNELS[kind]
    groups, dilation = options.get("groups", 1), options.get("dilation", 1)
    return nn.Conv(n, FIELD, feature_group_count=groups, kernel_dilation=dilation)


def nnx_convolution(rngs, kind):
    if kind == "transposed":
        return nnx.ConvTranspose(17, 19, UP, strides=(2, 2), rngs=rngs)
    m, n, options = CHANNELS[kind]
    groups, dilation = options.get("groups", 1), options.get("dilation", 1)
    return nnx.Conv(
        m, n, FIELD, feature_group_count=groups, kernel_dilation=dilation, rngs=rngs
    )  # fmt: skip


def equinox_convolution(key, kind):
    if kind == "transposed":
        return eqx.nn.ConvTranspose2d(17, 19, UP, stride=2, padding="SAME", key=key)
    m, n, options = CHANNELS[kind]
    return eqx.nn.Conv2d(m, n, FIELD, padding="SAME", key=key, **options)


def haiku_convolution(kind):
    if kind == "transposed":
        return hk.Conv2DTranspose(19, UP, stride=2)
    if kind == "depthwise":
        return hk.DepthwiseConv2D(3, FIELD)
    _, n, options = CHANNELS[kind]
    groups, rate = options.get("groups", 1), options.get("dilation", 1)
    return hk.Conv2D(n, FIELD, feature_group_count=groups, rate=rate)


def jax_convolution(layer, x, kind):
    """Kernels (height, width, in, out), written out in lax."""
    numbers = ("NHWC", "HWIO", "NHWC")
    if kind == "transposed":
        y = jax.lax.conv_transpose(x, layer["w"], (2, 2), "SAME", dimension_numbers=numbers)
    else:
        options = CHANNELS[kind][2]
        y = jax.lax.conv_general_dilated(
            x, layer["w"], (1, 1), "SAME", dimension_numbers=numbers,
            rhs_dilation=(options.get("dilation", 1),) * 2,
            feature_group_count=options.get("groups", 1),
        )  # fmt: skip
    return y + layer["b"]


def jax_kernel(key, kind):
    if kind == "transposed":
        return drawn(key, w=(*UP, 17, 19), b=(19,))
    m, n, options = CHANNELS[kind]
    return drawn(key, w=(*FIELD, m // options.get("groups", 1), n), b=(n,))


def image(key, channels, *, channels_last=True):
    n, h, w = IMAGES
    return normal(key, n, h, w, channels) if channels_last else normal(key, n, channels, h, w)


def convolution(key, *, framework, kind):
    m = 17 if kind == "transposed" else CHANNELS[kind][0]
    x = image(key, m, channels_last=framework != "equinox")
    if framework == "linen":
        return of_linen(linen_convolution(kind), key, x)
    if framework == "nnx":
        return of_nnx(partial(nnx_convolution, kind=kind), key, x)
    if framework == "equinox":
        return of_equinox(equinox_convolution(key, kind), x)
    if framework == "haiku":
        return of_haiku(lambda x: haiku_convolution(kind)(x), key, x)
    return Built(lenient(partial(jax_convolution, kind=kind)), jax_kernel(key, kind), (x,))


HAIKU_LAYERS = {"transposed": "conv2_d_transpose", "depthwise": "depthwise_conv2_d"}

for _kind, _what in CONVOLUTIONS.items():
    _module = HAIKU_LAYERS.get(_kind, "conv2_d")
    for _framework, _names in {
        "linen": ("kernel", "bias"),
        "nnx": ("kernel", "bias"),
        "equinox": (".weight", ".bias"),
        "haiku": (f"{_module}/w", f"{_module}/b"),
        "jax": ("w", "b"),
    }.items():
        _expected = {_names[0]: _what, _names[1]: BIAS}
        _build = partial(convolution, framework=_framework, kind=_kind)
        entry(_framework, _kind, _expected)(_build)


@entry("linen", "dense-general", {"kernel": weight(3 * 8, 14), "bias": BIAS})
def linen_dense_general(key):
    return of_linen(nn.DenseGeneral(14, axis=(-2, -1)), key, normal(key, ROWS, 3, 8))


@entry("linen", "einsum", {"kernel": weight(14, 3 * 8), "bias": BIAS})
def linen_einsum(key):
    return of_linen(nn.Einsum((14, 3, 8), "bd,dhk->bhk"), key, normal(key, ROWS, 14))


@entry("nnx", "linear-general", {"kernel": weight(3 * 8, 14), "bias": BIAS})
def nnx_linear_general(key):
    make = lambda rngs: nnx.LinearGeneral((3, 8), 14, axis=(-2, -1), rngs=rngs)  # noqa: E731
    return of_nnx(make, key, normal(key, ROWS, 3, 8))


@entry("nnx", "einsum", {"kernel": weight(14, 3 * 8), "bias": BIAS})
def nnx_einsum(key):
    make = lambda rngs: nnx.Einsum("bd,hdk->bhk", (3, 14, 8), (3, 8), rngs=rngs)  # noqa: E731
    return of_nnx(make, key, normal(key, ROWS, 14))


@entry("equinox", "linear", {".weight": weight(14, 8), ".bias": BIAS})
def equinox_linear(key):
    return of_equinox(eqx.nn.Linear(14, 8, key=key), normal(key, ROWS, 14))


@entry("haiku", "linear", {"linear/w": weight(14, 8), "linear/b": BIAS})
def haiku_linear(key):
    return of_haiku(lambda x: hk.Linear(8)(x), key, normal(key, ROWS, 14))


@entry("jax", "einsum", {"w": weight(3 * 8, 14), "b": BIAS})
def jax_einsum(key):
    run = lambda p, x: jnp.einsum("bhk,dkh->bd", x, p["w"]) + p["b"]  # noqa: E731
    return Built(lenient(run), drawn(key, w=(14, 8, 3), b=(14,)), (normal(key, ROWS, 3, 8),))


@entry("jax", "vector", {"w": weight(14, 1), "b": BIAS})
def jax_vector(key):
    """One output without an axis of its own."""
    run = lambda p, x: x @ p["w"] + p["b"]  # noqa: E731
    params = {"w": normal(key, 14), "b": jnp.zeros(())}
    return Built(lenient(run), params, (normal(key, ROWS, 14),))


# --- CNNs ---------------------------------------------------------------------------------------


def cnn_is(kernels, biases):
    """Names of the five convolutions and of the readout of 19 to 9."""
    found = {k: what._replace(activation="relu")
             for k, what in zip(kernels, CONVOLUTIONS.values(), strict=False)}  # fmt: skip
    # In the CNN the depthwise convolution keeps its 26 channels.
    found[kernels[2]] = weight(15, 15, "relu", receptive_field=15, groups=26)
    return found | {kernels[5]: weight(19, 9)} | dict.fromkeys(biases, BIAS)


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


JAX_CNN = [*CONVOLUTIONS, "head"]


@entry("jax", "cnn", cnn_is([f"{n}/w" for n in JAX_CNN], [f"{n}/b" for n in JAX_CNN]))
def jax_cnn(key):
    def run(params, x):
        for kind in CONVOLUTIONS:
            x = jax.nn.relu(jax_convolution(params[kind], x, kind))
        return x.mean((1, 2)) @ params["head"]["w"] + params["head"]["b"]

    keys = jax.random.split(key, 6)
    params = {k: jax_kernel(own, k) for k, own in zip(CONVOLUTIONS, keys, strict=False)}
    params["depthwise"] = drawn(keys[2], w=(*FIELD, 1, 26), b=(26,))
    params["head"] = drawn(keys[5], w=(19, 9), b=(9,))
    return Built(lenient(run), params, (image(key, 7),))


# --- pre-activation ResNets with batch norm -----------------------------------------------------
# stem 7 -> 11; a block 11 -> 13 -> 11; a block 11 -> 13 -> 17 with a shortcut of 1 x 1; 17 -> 9


def resnet_is(stem, blocks, shortcut, head, norms, statistics, unused=()):
    """Names; no convolution has a bias, and every norm comes before its activation."""
    (a, b), (c, d) = blocks
    fifteen = {"receptive_field": 15}
    return {
        stem: weight(7 * 15, 11 * 15, **fifteen),
        a: weight(11 * 15, 13 * 15, "relu", **fifteen),
        b: weight(13 * 15, 11 * 15, **fifteen),
        c: weight(11 * 15, 13 * 15, "relu", **fifteen),
        d: weight(13 * 15, 17 * 15, **fifteen),
        shortcut: weight(11, 17),
        head[0]: weight(17, 9),
        head[1]: BIAS,
        **{scale: SCALE for scale, _ in norms},
        **{bias: BIAS for _, bias in norms},
        **dict.fromkeys(statistics, STATISTIC),
        **dict.fromkeys(unused, UNUSED),
    }


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


JAX_NORMS = ["norms/0", "norms/1", "norms/2", "norms/3", "norms/4"]
JAX_RESNET = resnet_is(
    "params/stem",
    [["params/convs/0", "params/convs/1"], ["params/convs/2", "params/convs/3"]],
    "params/shortcut",
    ("params/head/w", "params/head/b"),
    [(f"params/{n}/gamma", f"params/{n}/beta") for n in JAX_NORMS],
    [f"stats/{n}/{which}" for n in JAX_NORMS for which in ("mean", "var")],
)


@entry("jax", "resnet-train", JAX_RESNET, train=True)
@entry("jax", "resnet-eval", JAX_RESNET, train=False)
def jax_resnet(key, *, train):
    def norm(x, own, stats):
        if train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            stats = {
                "mean": 0.9 * stats["mean"] + 0.1 * mean,
                "var": 0.9 * stats["var"] + 0.1 * var,
            }
        else:
            mean, var = stats["mean"], stats["var"]
        normed = (x - mean) * jax.lax.rsqrt(var + 1e-5)
        return jax.nn.relu(normed * own["gamma"] + own["beta"]), stats

    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def run(variables, x):
        params, found = variables["params"], []
        own, old, convs = params["norms"], variables["stats"]["norms"], params["convs"]
        x = conv(x, params["stem"])
        for i in (0, 2):
            h, stats = norm(x, own[i], old[i])
            found.append(stats)
            x = conv(h, params["shortcut"]) if i == 2 else x
            h, stats = norm(conv(h, convs[i]), own[i + 1], old[i + 1])
            found.append(stats)
            x = x + conv(h, convs[i + 1])
        h, stats = norm(x, own[4], old[4])
        out = h.mean((1, 2)) @ params["head"]["w"] + params["head"]["b"]
        return (out, {"norms": [*found, stats]}) if train else out

    kernels = [(11, 13), (13, 11), (11, 13), (13, 17)]
    keys = jax.random.split(key, 7)
    widths = (11, 13, 11, 13, 17)
    params = {
        "stem": drawn(keys[0], w=(*FIELD, 7, 11))["w"],
        "convs": [drawn(k, w=(*FIELD, *mn))["w"] for k, mn in zip(keys[1:5], kernels, strict=True)],
        "shortcut": drawn(keys[5], w=(1, 1, 11, 17))["w"],
        "head": drawn(keys[6], w=(17, 9), b=(9,)),
        "norms": [{"gamma": jnp.ones(n), "beta": jnp.zeros(n)} for n in widths],
    }
    stats = {"norms": [{"mean": jnp.zeros(n), "var": jnp.ones(n)} for n in widths]}
    return Built(lenient(run), {"params": params, "stats": stats}, (image(key, 7),))


# --- transformers: model width 14, three heads of 8, hidden 22 ------------------------------------

BATCH, TIME, VOCABULARY, POSITIONS = 4, 6, 29, 9


def causal(length):
    return jnp.tril(jnp.ones((length, length), bool))


def rotary(x):
    """Rotated by position: [..., time, heads, size] in halves."""
    half = x.shape[-1] // 2
    places = jnp.arange(x.shape[-3], dtype=jnp.float32)
    angles = places[:, None, None] * 100.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


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


def layer_is(prefix, attention, dense, norms, kernel, bias, scale, shift, value=24):
    """Of one pre-norm layer: query, key, value, out; up, down; two norms."""
    q, k, v, o = (prefix + n for n in attention)
    up, down = (prefix + n for n in dense)
    found = {
        q + kernel: weight(14, 24), k + kernel: weight(14, 24), v + kernel: weight(14, value),
        o + kernel: weight(value, 14),
        up + kernel: weight(14, 22, "gelu_tanh"), down + kernel: weight(22, 14),
        **{prefix + n + scale: SCALE for n in norms},
        **{prefix + n + shift: BIAS for n in norms},
    }  # fmt: skip
    return found | {n + bias: BIAS for n in (q, k, v, o, up, down)}


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


def rotated(query, key, value, **options):
    return nnx.dot_product_attention(rotary(query), rotary(key), value, **options)


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


def plain_norm(x, scale):
    return scale * x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def plain_layer(x, own):
    """Query, key and value in one array [in, 3, heads, size], rotary positions, a gated GELU."""
    h = plain_norm(x, own["norm"])
    query, key, value = jnp.einsum("btd,dnhk->nbthk", h, own["qkv"])
    scores = jnp.einsum("bthk,bshk->bhts", rotary(query), rotary(key)) / 8**0.5
    scores = jnp.where(causal(x.shape[1]), scores, -jnp.inf)
    mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), value)
    x = x + jnp.einsum("bthk,hkd->btd", mixed, own["out"])
    h = plain_norm(x, own["norm2"])
    return x + (jax.nn.gelu(h @ own["gate"]) * (h @ own["up"])) @ own["down"]


PLAIN_LAYER = {
    "qkv": weight(14, 3 * 24), "out": weight(24, 14), "gate": weight(14, 22, "gelu_tanh"),
    "up": weight(14, 22), "down": weight(22, 14), "norm": SCALE, "norm2": SCALE,
}  # fmt: skip


def plain_layer_drawn(key):
    params = drawn(
        key, qkv=(14, 3, 3, 8), out=(3, 8, 14), gate=(14, 22), up=(14, 22), down=(22, 14)
    )
    return params | {"norm": jnp.ones(14), "norm2": jnp.ones(14)}


@entry(
    "jax", "transformer",
    {
        "embed": Is("tied", 14, VOCABULARY),
        "norm": SCALE,
        **{f"layers/{i}/{name}": what for i in (0, 1) for name, what in PLAIN_LAYER.items()},
    },
)  # fmt: skip
def jax_transformer(key):
    def run(params, tokens):
        x = params["embed"][tokens]
        for own in params["layers"]:
            x = plain_layer(x, own)
        return jnp.einsum("btd,vd->btv", plain_norm(x, params["norm"]), params["embed"])

    keys = jax.random.split(key, 3)
    params = {
        "embed": normal(key, VOCABULARY, 14),
        "norm": jnp.ones(14),
        "layers": [plain_layer_drawn(keys[0]), plain_layer_drawn(keys[1])],
    }
    return Built(lenient(run), params, (some_tokens(key),))


@entry(
    "jax", "scanned-transformer",
    {
        "embed": EMBEDDING,
        **{
            f"layers/{n}": what._replace(layers=5) if what.role == "weight" else what
            for n, what in PLAIN_LAYER.items()
        },
        "head": weight(14, VOCABULARY),
    },
)  # fmt: skip
def jax_scanned_transformer(key):
    def run(params, tokens):
        step = jax.checkpoint(lambda x, own: (plain_layer(x, own), None))
        x, _ = jax.lax.scan(step, params["embed"][tokens], params["layers"])
        return x @ params["head"]

    params = {
        "embed": normal(key, VOCABULARY, 14),
        "layers": jax.vmap(plain_layer_drawn)(jax.random.split(key, 5)),
        "head": drawn(key, w=(14, VOCABULARY))["w"],
    }
    return Built(lenient(run), params, (some_tokens(key),))


# --- recurrent networks: 5 -> 7 over six steps, readout 7 -> 3 ------------------------------------
# Gates that are one array are one product: a number of it contributes to all of them.


def cell_is(into, within, biases, head, gates):
    return {
        into: weight(5, gates * 7, NONE_ALONE, times=TIME),
        within: weight(7, gates * 7, NONE_ALONE, times=TIME),
        **dict.fromkeys(biases, BIAS),
        head[0]: weight(7, 3, times=1),
        head[1]: BIAS,
    }


def sequences(key):
    return normal(key, BATCH, TIME, 5)


ALONE = {"r": "sigmoid", "z": "sigmoid", "n": "tanh"}
FUSED = {**dict.fromkeys("ifo", ("sigmoid", None)), "g": ("tanh", None)}
"""Leaves of their own that the cell puts side by side: a name may be missing, but not be wrong."""


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


@entry("jax", "lstm", cell_is("w", "u", ["b"], ("v", "c"), 4))
def jax_lstm(key):
    def run(p, x):
        def step(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(x @ p["w"] + h @ p["u"] + p["b"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((len(x), 7))
        _, out = jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))
        return out.swapaxes(0, 1) @ p["v"] + p["c"]

    params = drawn(key, w=(5, 28), u=(7, 28), b=(28,), v=(7, 3), c=(3,))
    return Built(lenient(run), params, (sequences(key),))


@entry(
    "jax", "gru",
    {  # gates along an axis of their own, (3, in, out), which the product does not sum over
        "w": weight(5, 3 * 7, NONE_ALONE, times=TIME),
        "u": weight(7, 3 * 7, NONE_ALONE, times=TIME),
        "b": BIAS,
        "v": weight(7, 3), "c": BIAS,
    },
)  # fmt: skip
def jax_gru(key):
    def run(p, x):
        def step(h, x):
            r, z, n = jnp.einsum("bi,gio->gbo", x, p["w"]) + p["b"][:, None]
            hr, hz, hn = jnp.einsum("bi,gio->gbo", h, p["u"])
            r, z = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(z + hz)
            h = (1 - z) * jnp.tanh(n + r * hn) + z * h
            return h, h

        _, out = jax.lax.scan(step, jnp.zeros((len(x), 7)), x.swapaxes(0, 1))
        return out.swapaxes(0, 1) @ p["v"] + p["c"]

    params = drawn(key, w=(3, 5, 7), u=(3, 7, 7), b=(3, 7), v=(7, 3), c=(3,))
    return Built(lenient(run), params, (sequences(key),))


# --- five layers stacked and scanned, recomputed in the backward pass: 11 -> 13 -> 11 -------------


def stack_is(norm, up, down, kernel, bias, scale, shift, head):
    return {
        norm + scale: SCALE,
        norm + shift: BIAS,
        up + kernel: weight(11, 13, "relu", layers=5, times=1),
        up + bias: BIAS,
        down + kernel: weight(13, 11, layers=5, times=1),
        down + bias: BIAS,
        head + kernel: weight(11, 3),
        head + bias: BIAS,
    }


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


PLAIN_STACK = {
    "layers/gamma": SCALE, "layers/beta": BIAS,
    "layers/up": weight(11, 13, "relu", layers=5, times=1), "layers/b": BIAS,
    "layers/down": weight(13, 11, layers=5, times=1), "layers/c": BIAS,
    "head": weight(11, 3),
}  # fmt: skip


@entry("jax", "scan", PLAIN_STACK)
@entry("jax", "indexed-stack", PLAIN_STACK, scanned=False)
def jax_stack(key, *, scanned=True):
    """The same layers by a scan, or one by one in a loop of Python."""

    def run(params, x):
        @jax.checkpoint
        def step(x, p):
            centred = x - x.mean(-1, keepdims=True)
            h = centred / jnp.sqrt(jnp.var(x, -1, keepdims=True) + 1e-5) * p["gamma"] + p["beta"]
            return x + jax.nn.relu(h @ p["up"] + p["b"]) @ p["down"] + p["c"], None

        if scanned:
            return jax.lax.scan(step, x, params["layers"])[0] @ params["head"]
        for i in range(5):
            x, _ = step(x, {name: leaf[i] for name, leaf in params["layers"].items()})
        return x @ params["head"]

    def layer(key):
        own = drawn(key, up=(11, 13), down=(13, 11), b=(13,), c=(11,))
        return own | {"gamma": jnp.ones(11), "beta": jnp.zeros(11)}

    params = {"layers": jax.vmap(layer)(jax.random.split(key, 5))}
    params["head"] = drawn(key, w=(11, 3))["w"]
    return Built(lenient(run), params, (normal(key, ROWS, 11),))


# --- six experts side by side, mapped: 7 -> 11 -> 13, then 13 -> 3 --------------------------------
# All experts see the same input, so that one number of it contributes to 6 x 11 outputs.


def experts_is(w0, b0, w1, b1, head):
    return {
        w0: weight(7, 6 * 11, "relu"), b0: BIAS,
        w1: weight(11, 13, groups=6), b1: BIAS,
        head[0]: weight(13, 3), head[1]: BIAS,
    }  # fmt: skip


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


@entry("jax", "experts", experts_is("w", "b", "u", "c", ("v", "d")) | {"gate": weight(7, 6)})
def jax_experts(key):
    """Their outputs weighted by a gate."""

    def run(p, x):
        one = lambda w, b, u, c: jax.nn.relu(x @ w + b) @ u + c  # noqa: E731
        out = jax.vmap(one)(p["w"], p["b"], p["u"], p["c"])
        gate = jax.nn.softmax(x @ p["gate"])
        return jnp.einsum("be,ebo->bo", gate, out) @ p["v"] + p["d"]

    params = drawn(
        key, w=(6, 7, 11), b=(6, 11), u=(6, 11, 13), c=(6, 13), v=(13, 3), d=(3,), gate=(7, 6)
    )
    return Built(lenient(run), params, (normal(key, ROWS, 7),))


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
