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
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

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
    path = PATHS.get(framework, str)
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


def plain_path(name):
    """a/0/w -> ['a'][0]['w']"""
    parts = [part if part.isdigit() else repr(part) for part in name.split("/")]
    return "".join(f"[{part}]" for part in parts)


def linen_path(name):
    return plain_path(name if name.startswith("batch_stats/") else f"params/{name}")


def nnx_path(name):
    return plain_path(name) + ".value"


def haiku_path(name):
    """A number in front is the place among (parameters, state)."""
    first, *rest = name.split("/")
    place, rest = (f"[{first}]", rest) if first.isdigit() else ("", [first, *rest])
    return f"{place}[{'/'.join(rest[:-1])!r}][{rest[-1]!r}]"


PATHS = {"linen": linen_path, "nnx": nnx_path, "haiku": haiku_path, "jax": plain_path}


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


def halved(tree):
    """In bfloat16, the parameters themselves staying as they are."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, tree)


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


def image(key, channels, *, channels_last=True):
    n, h, w = IMAGES
    return normal(key, n, h, w, channels) if channels_last else normal(key, n, channels, h, w)


# --- CNNs ---------------------------------------------------------------------------------------


def cnn_is(kernels, biases):
    """Names of the five convolutions and of the readout of 19 to 9."""
    found = {k: what._replace(activation="relu")
             for k, what in zip(kernels, CONVOLUTIONS.values(), strict=False)}  # fmt: skip
    # In the CNN the depthwise convolution keeps its 26 channels.
    found[kernels[2]] = weight(15, 15, "relu", receptive_field=15, groups=26)
    return found | {kernels[5]: weight(19, 9)} | dict.fromkeys(biases, BIAS)


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


def rotated(query, key, value, **options):
    return nnx.dot_product_attention(rotary(query), rotary(key), value, **options)


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


# --- six experts side by side, mapped: 7 -> 11 -> 13, then 13 -> 3 --------------------------------


# All experts see the same input, so that one number of it contributes to 6 x 11 outputs.
def experts_is(w0, b0, w1, b1, head):
    return {
        w0: weight(7, 6 * 11, "relu"), b0: BIAS,
        w1: weight(11, 13, groups=6), b1: BIAS,
        head[0]: weight(13, 3), head[1]: BIAS,
    }  # fmt: skip
